"""`Keys`: tokens of delegations, signed and read.

Rules: JSON web tokens by the PyJWT package. How a token is signed is what its key is for, never what the token says. A
key that is not here, a signature that does not fit, a token that is too long or of another kind: that is no authority,
and is told why. Nothing of a key or of a token is repeated in an error. The first key signs and all of them verify: to
rotate, put a new one in front and keep the old ones until what they signed has expired.
"""

from __future__ import annotations

import base64
import binascii
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Self

from spanledger.core.authority import Authority, authority
from spanledger.errors import ConfigError, NotAuthorized

TOKEN_CHARS_MAX: Final = 7_168  # with its name, it fits into what servers take as one header
KEY_BYTES_MIN: Final = 32
KNOWN_MAX: Final = 256
# The ledger decides by its own clock; here what is long over is only told early.
CLOCKS_DIFFER_S: Final = 60.0

_KIND: Final = "spanledger-delegation+jwt"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_HOW: Final = "make one with `openssl rand -base64 32` and write it as 'id:…' into SPANLEDGER_DELEGATION_KEYS"


@dataclass(frozen=True, slots=True)
class _Key:
    algorithm: str
    verifies: Any
    signs: Any = None


@dataclass(frozen=True)
class Keys:
    """Signs and reads tokens.

    Attributes:
        texts: The keys, the newest first: ``"id:base64 of 32 bytes or more"`` (HS256); with the `cryptography` package
            also ``"id:ed25519:base64 of 32 bytes"``, and ``"id:ed25519-public:…"``, which only verifies.
    """

    texts: tuple[str, ...] = field(default=(), repr=False)
    _keys: dict[str, _Key] = field(init=False, repr=False, compare=False)
    _known: dict[str, Authority] = field(init=False, repr=False, compare=False, default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_keys", _parsed(self.texts))

    @classmethod
    def of(cls, given: Self | Sequence[str] | str) -> Keys:
        """Make keys of what a configuration says.

        Raises:
            ConfigError: A key cannot work.
        """
        if isinstance(given, Keys):
            return given
        texts = re.split(r"[,\s]+", given.strip()) if isinstance(given, str) else given
        if not isinstance(texts, list | tuple):
            raise ConfigError("delegation_keys is a list of texts, 'id:base64 of 32 bytes'")
        return cls(tuple(text for text in texts if text))

    def sign(self, claims: Mapping[str, Any]) -> str:
        """Make a token.

        Raises:
            ConfigError: There is no key to sign with, or PyJWT is missing.
        """
        key_id = self.ready()
        key = self._keys[key_id]
        return str(_jwt().encode(dict(claims), key.signs, key.algorithm, {"kid": key_id, "typ": _KIND}))

    def ready(self) -> str:
        """Return the id of the key that signs.

        Raises:
            ConfigError: There is none, or PyJWT is missing.
        """
        _jwt()
        if not self._keys:
            raise ConfigError(f"there is no key to sign a delegation with: {_HOW}")
        key_id = next(iter(self._keys))
        if self._keys[key_id].signs is None:
            raise ConfigError(f"delegation key {key_id!r} is public and only verifies; put one that signs in front")
        return key_id

    def read(self, token: str, tenant: str | None = None) -> Authority:
        """Read a token, for one tenant or any.

        Raises:
            NotAuthorized: It is none, was changed, is signed by a key that is not here, is for another tenant, or over.
        """
        known = self._known.get(token) if isinstance(token, str) else None
        if known is None:
            known = self._read(token)
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            self._known[token] = known
        if known.expires_at_s + CLOCKS_DIFFER_S < time.time():
            raise _no(f"the token for agent {known.agent} has expired", known.id)
        if tenant not in (None, known.tenant):
            raise _no(f"the token is for tenant {known.tenant!r} and not for {tenant!r}", known.id)
        return known

    def _read(self, token: object) -> Authority:
        if not isinstance(token, str) or not 0 < len(token) <= TOKEN_CHARS_MAX or not token.isascii():
            raise _no(f"the token is no text of at most {TOKEN_CHARS_MAX} plain characters")
        try:
            jwt = _jwt()
        except ConfigError as error:
            raise _no(str(error)) from None
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.InvalidTokenError, ValueError, RecursionError):
            raise _no("the token cannot be read") from None
        key_id = header.get("kid")
        key = self._keys.get(key_id) if isinstance(key_id, str) else None
        if key is None:
            raise _no("the token is signed by a key that is not among the delegation keys here")
        if header.get("alg") != key.algorithm or header.get("typ") != _KIND:
            raise _no(f"the token is not signed as delegation key {key_id!r} signs")
        try:
            # What it has to say is looked at below; when it ends, at every use.
            options = {"verify_aud": False, "verify_exp": False, "verify_iat": False, "verify_nbf": False}
            claims = jwt.decode(token, key.verifies, algorithms=[key.algorithm], options=options)
            return authority(claims, token)
        except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
            raise _no("the token was changed, or is not what this key has signed") from None


def _no(reason: str, delegation: str | None = None) -> NotAuthorized:
    return NotAuthorized(f"not permitted: {reason}", reason=reason, delegation=delegation)


def _parsed(texts: tuple[str, ...]) -> dict[str, _Key]:
    keys: dict[str, _Key] = {}
    for number, text in enumerate(texts, 1):
        key_id, kind, encoded = ("", "", "")
        if isinstance(text, str):
            key_id, _, rest = text.partition(":")
            kind, _, encoded = rest.rpartition(":")
        try:
            secret = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            secret = b""
        key = _key(kind, secret)
        if key is None or not _KEY_ID.fullmatch(key_id) or key_id in keys:
            raise ConfigError(
                f"delegation key {number} is not 'id:base64 of {KEY_BYTES_MIN} bytes' with an id of its own; {_HOW}"
            )
        keys[key_id] = key
    return keys


def _key(kind: str, secret: bytes) -> _Key | None:
    if len(secret) < KEY_BYTES_MIN or kind not in ("", "ed25519", "ed25519-public"):
        return None
    if kind == "":
        return _Key("HS256", secret, secret)
    if len(secret) != KEY_BYTES_MIN:
        return None
    try:
        from cryptography.hazmat.primitives.asymmetric import ed25519
    except ImportError:
        raise ConfigError("Ed25519 keys need the cryptography package: pip install 'spanledger[encryption]'") from None
    if kind == "ed25519-public":
        return _Key("EdDSA", ed25519.Ed25519PublicKey.from_public_bytes(secret))
    private = ed25519.Ed25519PrivateKey.from_private_bytes(secret)
    return _Key("EdDSA", private.public_key(), private)


def _jwt() -> Any:
    try:
        import jwt
    except ImportError:
        raise ConfigError("delegation needs the PyJWT package: pip install 'spanledger[delegation]'") from None
    return jwt
