"""Which calls are the same call: fingerprint, scope, key.

Rules: a hash is over parts with their lengths, never joined by a separator, so that ("a|b", "c") and
("a", "b|c") differ. Everything starts with the tenant. With a secret the hashes are keyed (HMAC), so that a
stolen ledger cannot be searched for guessed arguments. Arguments are fingerprinted as they are, before any
redaction. A provider's call id is never trusted alone: whoever writes the model's answer chooses it.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
import re
from collections.abc import Mapping
from typing import Any, Final

from spanledger.core.call import Call, Identity, ScopeSource
from spanledger.core.rules import Terms, usable_call_id
from spanledger.core.values import NotJsonError, canonical, canonical_of
from spanledger.errors import Undescribable

_DERIVED = (ScopeSource.FRAMEWORK, ScopeSource.CONVERSATION)
# What Postgres can look up by; ids and names are shorter by far.
TEXT_CHARS_MAX: Final = 1000
_TEXTS = ("tenant", "name", "workflow_id", "turn", "call_id", "agent", "actor", "key")
_NOT_LOOKED_UP = frozenset({"call_id", "key", "resource.namespace", "resource.type"})
_UNSPOKEN = re.compile("[^0-9A-Za-z]")
_TEXT_OR_NONE = frozenset({str, type(None)})
# NUL and halves of surrogate pairs, which a model's JSON can hold and Postgres cannot.
_UNSTORABLE = re.compile("[\0\ud800-\udfff]")


def identify(call: Call, terms: Terms, *, tenant: str, nonce: str, secret: bytes | None = None) -> Identity:
    """Say which call this is.

    Args:
        call: The call, with its workflow id.
        terms: What applies to it.
        tenant: Whose ledger it is.
        nonce: Makes the key of a call without identity unique.
        secret: Keys the hashes, where one is configured.

    Raises:
        Undescribable: The identity the terms ask for cannot be made from this call.
    """
    _check_texts(call, tenant)
    shown = _canonical_arguments(call)
    arguments = None if isinstance(shown, Undescribable) else shown
    fingerprint = None if arguments is None else _hashed(_stem(call.name) + _sized(arguments), secret)
    source, part = _identity_part(call, terms, shown, nonce)
    scope = scope_of(call, terms)
    varying = _sized(part[0]) if len(part) == 1 else _joined(part)
    key = _hashed(_stem(tenant, scope, call.name, source) + varying, secret)
    return Identity(key, source, fingerprint, scope, arguments)


def scope_of(call: Call, terms: Terms) -> str:
    """Return the workflow id; a derived one is narrowed to the turn and the actor unless the terms widen it."""
    scope = call.workflow_id or ""
    if call.workflow_source not in _DERIVED or terms.scope == "workflow":
        return scope
    if not (call.turn or call.actor):
        return scope
    return canonical([scope, call.turn or None, call.actor or None]).decode()


def passes_on(name: str, fingerprint: str | None, inner: Call, identity: Identity, secret: bytes | None = None) -> bool:
    """Tell whether a running call passes itself on to a server, where it has a shorter name.

    Frameworks put a prefix before the names that servers give their tools, and spell what models may not see of them
    with an underscore. So the one name ends with the other, and the arguments are the same ones, if they are shown.

    Args:
        name: Name of the running call.
        fingerprint: Of its arguments.
        inner: A call that is made inside it.
        identity: Which call that is.
        secret: Keys the hashes, where one is configured.
    """
    suffix = _UNSPOKEN.sub("_", inner.name).strip("_")
    longer = _UNSPOKEN.sub("_", name).strip("_")
    if not inner.sent or not suffix or not longer.endswith(f"_{suffix}"):
        return False
    if inner.arguments is None:
        return True
    shown = identity.arguments
    return shown is not None and fingerprint == digest((name.encode(), shown), secret)


def report_of(tenant: str, record_id: str, secret: bytes | None = None) -> str:
    """Return what a call that is recorded after it was made is told by; what is recorded under one id is one call."""
    return digest((tenant.encode("utf-8", "replace"), record_id.encode("utf-8", "replace")), secret)


def recorded_key(report: str) -> str:
    """Return the key that the ledger makes of it: no key of a call that is asked about, whoever reports what."""
    return hashlib.sha256(b"recorded" + bytes.fromhex(report)).hexdigest()


def _check_texts(call: Call, tenant: str) -> None:
    given = (tenant, call.name, call.workflow_id, call.turn, call.call_id, call.agent, call.actor, call.key)
    # One look at all of them: nearly always there is nothing to find.
    if call.resource is None and _TEXT_OR_NONE.issuperset(map(type, given)):
        joined = "".join(filter(None, given))
        storable = "\0" not in joined if joined.isascii() else not _UNSTORABLE.search(joined)
        if storable and len(joined) <= TEXT_CHARS_MAX:
            return
    texts = dict(zip(_TEXTS, given, strict=True))
    if call.resource is not None:
        texts |= {"resource.namespace": call.resource.namespace, "resource.type": call.resource.type}
    for name, text in texts.items():
        if text is not None and (not isinstance(text, str) or _UNSTORABLE.search(text)):
            raise Undescribable(f"{name} of {call.name!r} is {text!r}, which is no text that the ledger can hold")
        if text is not None and len(text) > TEXT_CHARS_MAX and name not in _NOT_LOOKED_UP:
            shown = call.name[:TEXT_CHARS_MAX]
            raise Undescribable(f"{name} of {shown!r} has {len(text)} characters, and may have {TEXT_CHARS_MAX}")


def _identity_part(
    call: Call, terms: Terms, arguments: bytes | Undescribable, nonce: str
) -> tuple[str, tuple[bytes, ...]]:
    if call.key is not None:
        return "explicit", (call.key.encode(),)
    if call.resource is not None:
        resource = call.resource
        return "resource", (
            resource.namespace.encode(),
            resource.type.encode(),
            _canonical(resource.id, call),
        )
    identity, fields = terms.identity, call.fields or terms.fields
    if identity == "none":
        return "none", (nonce.encode(),)
    if fields and (call.fields or identity == "fields"):
        return "fields", (_canonical(_picked(call, fields), call),)
    if identity == "resource":
        raise Undescribable(f"the rule for {call.name!r} identifies it by resource; give it one: ToolCall(resource=…)")
    if isinstance(arguments, Undescribable):
        raise arguments
    if identity == "call_id":
        if not usable_call_id(call.call_id):
            raise Undescribable(f"the rule for {call.name!r} needs a call id, and this call has none")
        return "call_id", (str(call.call_id).encode(), arguments)
    if identity == "occurrence":
        return "occurrence", (str(call.occurrence.number).encode(), call.occurrence.within.encode(), arguments)
    return "arguments", (arguments,)


def _picked(call: Call, fields: tuple[str, ...]) -> dict[str, Any]:
    arguments = call.arguments
    missing = [f for f in fields if not isinstance(arguments, Mapping) or f not in arguments]
    if missing or not isinstance(arguments, Mapping):
        raise Undescribable(f"{call.name!r} is identified by {', '.join(missing)}, and this call has no such argument")
    return {f: arguments[f] for f in fields}


def _canonical_arguments(call: Call) -> bytes | Undescribable:
    """Return the arguments in canonical form, or why there is none; only some identities need them."""
    if call.arguments is None:
        return Undescribable(f"{call.name!r} is identified by its arguments, and this call does not show them")
    try:
        return _canonical(call.arguments, call)
    except Undescribable as error:
        return error


def _canonical(value: Any, call: Call) -> bytes:
    try:
        return canonical_of(value)
    except NotJsonError as error:
        raise Undescribable(
            f"the arguments of {call.name!r} cannot be compared: {error}; "
            "pass JSON values, name identifying fields, or give a key"
        ) from error


def digest(parts: tuple[bytes, ...], secret: bytes | None) -> str:
    """Hash parts with their lengths, as hexadecimal text; keyed where there is a secret."""
    return _hashed(_joined(parts), secret)


@functools.lru_cache(maxsize=1024)
def _stem(*texts: str) -> bytes:
    """Write the first parts, which are the same for many calls."""
    return _joined(tuple([text.encode() for text in texts]))


def _joined(parts: tuple[bytes, ...]) -> bytes:
    return b"".join(map(_sized, parts))


def _sized(part: bytes) -> bytes:
    return len(part).to_bytes(8, "big") + part


def _hashed(message: bytes, secret: bytes | None) -> str:
    if secret is None:
        return hashlib.sha256(message).hexdigest()
    return hmac.new(secret, message, hashlib.sha256).hexdigest()
