"""What is kept of results: plain JSON, or sealed by a codec that nobody without its key can read.

Rules: a kept result is given back exactly or not at all. What was sealed and cannot be opened, because the key is
another or something was changed, is no result; neither is a plain one where results have to be sealed, because whoever
can write into the ledger could have put it there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, Final, Protocol

from spanledger.core.frozen import value
from spanledger.core.values import serialize
from spanledger.errors import ResultNotKept

# No value can be taken for it: `encode` doubles the dollar sign of a key.
SEALED: Final = "$sealed"
_PAYLOAD: Final = frozenset({"arguments", "result", "result_kept", "reason", "note"})


class PayloadCodec(Protocol):
    """How results are written into the ledger; `spanledger.EncryptingCodec` is one.

    Attributes:
        reads_plain: Results that are in the ledger as plain JSON are given back, too.
    """

    reads_plain: bool

    def seal(self, plain: bytes, *, tenant: str, key: str) -> str:
        """Seal a result, bound to the tenant and to the key of its call."""
        ...

    def open(self, sealed: str, *, tenant: str, key: str) -> bytes:
        """Open what was sealed for the same tenant and key; raise where it is not what was sealed."""
        ...


def without_payload(item: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is left of an item for the ledger when what it says of a call's content is forgotten."""
    left = {name: value for name, value in item.items() if name not in _PAYLOAD}
    if isinstance(left.get("error"), Mapping):
        left["error"] = {name: value for name, value in left["error"].items() if name != "message"}
    return left


@value
class Kept:
    """Where a result belongs, and how it is kept.

    Attributes:
        name: The tool's name.
        tenant: Whose ledger it is.
        key: The call's key.
        codec: How it is written; None: as JSON.
        bytes_max: Larger ones are not kept.
    """

    name: str
    tenant: str
    key: str
    codec: PayloadCodec | None
    bytes_max: int


def sealed(text: str, kept: Kept) -> str:
    """Write the JSON text of a result as it is kept."""
    if kept.codec is None:
        return text
    return serialize({SEALED: kept.codec.seal(text.encode(), tenant=kept.tenant, key=kept.key)}).decode()


def opened(tree: Any, codec: PayloadCodec | None, *, tenant: str, key: str, name: str) -> Any:
    """Return the JSON tree of a result, of what was kept.

    Args:
        tree: What the ledger has, as JSON.
        codec: How results are written; None: as JSON.
        tenant: Whose ledger it is.
        key: The call's key.
        name: The tool's name.

    Raises:
        ResultNotKept: It is sealed and cannot be opened, or is not sealed and has to be.
    """

    def not_kept(why: str) -> ResultNotKept:
        return ResultNotKept(
            f"{name!r} succeeded before and its result cannot be given back: {why}; it is not run again", key=key
        )

    text = tree.get(SEALED) if isinstance(tree, dict) and tree.keys() == {SEALED} else None
    if text is None:
        if codec is None or codec.reads_plain:
            return tree
        raise not_kept(
            "it is not encrypted, and payload_codec asks for it (EncryptingCodec(reads_plain=True) does not)"
        )
    if codec is None:
        raise not_kept("it is encrypted, and this program has no payload_codec (SPANLEDGER_PAYLOAD_KEYS_FILE)")
    try:
        return json.loads(codec.open(text, tenant=tenant, key=key))
    except Exception as error:
        raise not_kept(str(error) or type(error).__name__) from error
