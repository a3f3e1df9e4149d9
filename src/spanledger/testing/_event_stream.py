"""Amazon's event stream: the framing in which Bedrock sends what others send as server-sent events.

Rules: a message is its two lengths and their checksum, its headers, its payload, and the checksum of all that. The
payload of a chunk is JSON that holds an event's JSON in base64.
"""

from __future__ import annotations

import base64
import struct
import zlib
from collections.abc import Mapping
from typing import Any, Final

from spanledger.testing._said import to_json

CONTENT_TYPE: Final = "application/vnd.amazon.eventstream"

_TEXT: Final = 7


def chunk(event: Mapping[str, Any]) -> bytes:
    """Frame an event of a model's stream."""
    payload = to_json({"bytes": base64.b64encode(to_json(event).encode()).decode()})
    return _message({":message-type": "event", ":event-type": "chunk"}, payload)


def failure(kind: str, message: str) -> bytes:
    """Frame an exception that ends a stream, for example a ``"throttlingException"``."""
    return _message({":message-type": "exception", ":exception-type": kind}, to_json({"message": message}))


def _message(named: Mapping[str, str], payload: str) -> bytes:
    headers = b"".join(_header(name, text) for name, text in {**named, ":content-type": "application/json"}.items())
    body = payload.encode()
    # Two lengths and two checksums, of four bytes each.
    prelude = struct.pack(">II", 16 + len(headers) + len(body), len(headers))
    whole = prelude + struct.pack(">I", zlib.crc32(prelude)) + headers + body
    return whole + struct.pack(">I", zlib.crc32(whole))


def _header(name: str, text: str) -> bytes:
    return struct.pack(">B", len(name)) + name.encode() + struct.pack(">BH", _TEXT, len(text)) + text.encode()
