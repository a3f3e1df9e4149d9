"""OpenAI's embeddings, as this package's model speaks them: the same vector for the same text."""

from __future__ import annotations

import base64
import hashlib
import struct
from collections.abc import Mapping
from typing import Any

from spanledger.testing._http import BadRequestError, Reply, json_reply
from spanledger.testing._said import to_json, tokens

_DIMENSIONS = 8


def reply(body: Mapping[str, Any]) -> Reply:
    """Embed what the request asks for.

    Raises:
        BadRequestError: The provider would refuse it.
    """
    if not isinstance(body.get("model"), str):
        raise BadRequestError("you must provide a model parameter")
    asked = body.get("input")
    if not isinstance(asked, str | list) or not asked:
        raise BadRequestError("'input' must be a text, or an array of texts or of tokens")
    inputs = asked if isinstance(asked, list) and isinstance(asked[0], str | list) else [asked]
    as_text = body.get("encoding_format") == "base64"
    used = sum(len(one) if isinstance(one, list) else tokens(one) for one in inputs)
    return json_reply(
        200,
        {
            "object": "list",
            "data": [
                {"object": "embedding", "index": index, "embedding": _vector(to_json(one), as_text)}
                for index, one in enumerate(inputs)
            ],
            "model": body["model"],
            "usage": {"prompt_tokens": used, "total_tokens": used},
        },
    )


def _vector(text: str, as_text: bool) -> list[float] | str:
    numbers = [byte / 256 for byte in hashlib.sha256(text.encode()).digest()[:_DIMENSIONS]]
    return base64.b64encode(struct.pack(f"<{_DIMENSIONS}f", *numbers)).decode() if as_text else numbers
