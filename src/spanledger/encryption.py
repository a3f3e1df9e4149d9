"""`EncryptingCodec`: results in the ledger that only whoever has the key can read.

Rules: AES-256-GCM by the `cryptography` package, a fresh nonce for every result. A key is never used as it is: each
tenant's is derived from it (HKDF), so that one tenant's results tell nothing of another's. The tenant, the call's key
and the key's id are authenticated with the result: moved elsewhere, it does not open. A key that cannot work is an
error when the codec is made.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Self

from spanledger.errors import ConfigError

KEY_BYTES: Final = 32
ANY_TENANT: Final = "*"

_NONCE_BYTES: Final = 12
_FORMAT: Final = "aesgcm1"
_KEY_ID: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")


class EncryptingCodec:
    """Seals results with a key per tenant; for `Config(payload_codec=…)`.

    A tenant's first key seals, and all of them open: to rotate, put a new one in front and keep the old ones as long as
    results that they sealed shall be replayed. To forget all of a tenant, destroy keys that only this tenant has.

    Attributes:
        reads_plain: Results that were kept as plain JSON, before there was a codec, are given back, too. Whoever can
            write into the ledger can then put a plain one there.
    """

    def __init__(self, keys: Mapping[str, Sequence[str]], *, reads_plain: bool = False) -> None:
        """Take the keys.

        Args:
            keys: Tenant → keys, each ``"id:base64 of 32 bytes"``, the newest first; ``"*"`` stands for tenants that
                have none of their own.
            reads_plain: Give back what is plain JSON in the ledger.

        Raises:
            ConfigError: A key cannot work, or the `cryptography` package is missing.
        """
        self.reads_plain = reads_plain
        self._keys = {tenant: _parsed(tenant, texts) for tenant, texts in keys.items()}
        if not self._keys:
            raise ConfigError("an EncryptingCodec needs a key; make one with `openssl rand -base64 32`")
        self._ciphers: dict[tuple[str, str], Any] = {}
        _cipher(bytes(KEY_BYTES), "")

    @classmethod
    def from_file(cls, path: str | Path) -> Self:
        """Read keys from a TOML file, for example ``acme = ["k2:…", "k1:…"]``; ``reads_plain`` may stand there, too.

        Raises:
            ConfigError: The file cannot be read, or a key cannot work.
        """
        try:
            data = tomllib.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise ConfigError(f"cannot read the payload keys: {path}: {error.strerror}") from None
        except ValueError:
            # What the parser says may repeat a key.
            raise ConfigError(f"the payload keys are not TOML: {path}") from None
        reads_plain = data.pop("reads_plain", False)
        if not isinstance(reads_plain, bool):
            raise ConfigError(f"{path}: reads_plain is true or false")
        return cls(data, reads_plain=reads_plain)

    def seal(self, plain: bytes, *, tenant: str, key: str) -> str:
        """Seal a result, bound to tenant and call.

        Raises:
            ConfigError: The tenant has no key.
        """
        key_id = next(iter(self._of(tenant)), None)
        if key_id is None:
            raise ConfigError(f"tenant {tenant!r} has no payload key, and there is none for {ANY_TENANT!r}")
        nonce = os.urandom(_NONCE_BYTES)
        sealed = self._cipher(tenant, key_id).encrypt(nonce, plain, _bound(tenant, key, key_id))
        return ".".join((_FORMAT, key_id, base64.b64encode(nonce + sealed).decode()))

    def open(self, sealed: str, *, tenant: str, key: str) -> bytes:
        """Open a result.

        Raises:
            ValueError: It was sealed with a key that is not here, for another tenant or call, or was changed.
        """
        from cryptography.exceptions import InvalidTag

        kind, _, rest = sealed.partition(".") if isinstance(sealed, str) else ("", "", "")
        key_id, _, text = rest.partition(".")
        if kind != _FORMAT:
            raise ValueError("it is sealed in a way that is not known here")
        if key_id not in self._of(tenant):
            raise ValueError(f"key {key_id!r} of tenant {tenant!r} is not among the payload keys")
        try:
            data = base64.b64decode(text, validate=True)
            plain: bytes = self._cipher(tenant, key_id).decrypt(
                data[:_NONCE_BYTES], data[_NONCE_BYTES:], _bound(tenant, key, key_id)
            )
        except (InvalidTag, binascii.Error, ValueError):
            raise ValueError(
                f"it does not open with key {key_id!r}: another key has that id, or it was changed"
            ) from None
        return plain

    def _of(self, tenant: str) -> dict[str, bytes]:
        return self._keys.get(tenant) or self._keys.get(ANY_TENANT) or {}

    def _cipher(self, tenant: str, key_id: str) -> Any:
        known = self._ciphers.get((tenant, key_id))
        if known is None:
            known = self._ciphers[tenant, key_id] = _cipher(self._of(tenant)[key_id], tenant)
        return known


def _parsed(tenant: str, texts: Sequence[str]) -> dict[str, bytes]:
    """Read the keys of a tenant; nothing of a key is repeated in an error."""
    if isinstance(texts, str) or not isinstance(texts, Sequence) or not texts:
        raise ConfigError(f"the payload keys of {tenant!r} are a list of texts, 'id:base64 of {KEY_BYTES} bytes'")
    keys: dict[str, bytes] = {}
    for number, text in enumerate(texts, 1):
        key_id, _, encoded = text.partition(":") if isinstance(text, str) else ("", "", "")
        try:
            key = base64.b64decode(encoded, validate=True)
        except (binascii.Error, ValueError):
            key = b""
        if not _KEY_ID.fullmatch(key_id) or len(key) != KEY_BYTES or key_id in keys:
            raise ConfigError(
                f"payload key {number} of {tenant!r} is not 'id:base64 of {KEY_BYTES} bytes' with an id of its own; "
                "make one with `openssl rand -base64 32`"
            )
        keys[key_id] = key
    return keys


def _cipher(key: bytes, tenant: str) -> Any:
    try:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF
    except ImportError:
        raise ConfigError(
            "encrypted results need the cryptography package: pip install 'spanledger[encryption]'"
        ) from None
    derived = HKDF(SHA256(), KEY_BYTES, salt=None, info=b"spanledger payload\0" + tenant.encode()).derive(key)
    return AESGCM(derived)


def _bound(*parts: str) -> bytes:
    """Return what is authenticated beside the result: parts with their lengths, so that none can pass for another."""
    return b"".join(len(part.encode()).to_bytes(4, "big") + part.encode() for part in (_FORMAT, *parts))
