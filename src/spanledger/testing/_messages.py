"""Anthropic's messages, as this package's model speaks them.

Rules: input tokens are told without those from or for a cache, as this provider does. A stream tells the input with its
first event and the output, cumulative, near its end.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from spanledger.testing import _event_stream
from spanledger.testing._chat import pieces
from spanledger.testing._http import BadRequestError, Reply, json_reply
from spanledger.testing._said import Answer, Asked, Counted, Wish, to_json

_MODEL_DATE = "20251001"
_ERRORS = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    529: "overloaded_error",
}


def checked(body: Mapping[str, Any]) -> None:
    """Refuse a request that the provider would refuse.

    Raises:
        BadRequestError: It is one.
    """
    if not isinstance(body.get("model"), str):
        raise BadRequestError("model: Field required")
    if type(body.get("max_tokens")) is not int:
        raise BadRequestError("max_tokens: Field required")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("messages: at least one message is required")
    if not all(isinstance(message, dict) and message.get("role") in ("user", "assistant") for message in messages):
        raise BadRequestError("messages: a role is user or assistant")


def conversation(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the conversation in the form that scripts read."""
    system = body.get("system")
    messages = [{"role": "system", "content": system}] if system else []
    return messages + [part for message in body["messages"] for part in _parts(message)]


def wish(body: Mapping[str, Any]) -> Wish:
    """Read what the request asks for."""
    return Wish(
        model=body["model"],
        prompt=to_json([body.get("system"), body["messages"], body.get("tools")]),
        output_tokens_max=body["max_tokens"],
    )


def reply(body: Mapping[str, Any], answer: Answer) -> Reply:
    """Write an answer, whole or as a stream."""
    if not body.get("stream"):
        usage = {} if answer.used is None else {"usage": _usage(answer.used)}
        ended = {"content": _blocks(answer), "stop_reason": _stop_reason(answer)}
        return json_reply(200, _envelope(answer) | ended | usage)
    return Reply(200, _events(_stream(answer)), "text/event-stream; charset=utf-8")


def framed_reply(_body: Mapping[str, Any], answer: Answer) -> Reply:
    """Write an answer as Bedrock streams it."""
    return Reply(200, map(_event_stream.chunk, _stream(answer)), _event_stream.CONTENT_TYPE)


def error(status: int, message: str) -> Reply:
    """Write an error."""
    return json_reply(
        status, {"type": "error", "error": {"type": _ERRORS.get(status, "api_error"), "message": message}}
    )


def _parts(message: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One message as those of a chat: tool results are messages of their own there."""
    content = message["content"]
    blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
    for block in blocks:
        if block["type"] == "tool_result":
            yield {"role": "tool", "tool_call_id": block["tool_use_id"], "content": block.get("content")}
    rest = [block for block in blocks if block["type"] == "text"]
    asked = [_chat_call(block) for block in blocks if block["type"] == "tool_use"]
    if rest or asked:
        text = "".join(block["text"] for block in rest)
        yield {"role": message["role"], "content": text} | ({"tool_calls": asked} if asked else {})


def _chat_call(block: Mapping[str, Any]) -> dict[str, Any]:
    function = {"name": block["name"], "arguments": to_json(block["input"])}
    return {"id": block["id"], "type": "function", "function": function}


def _envelope(answer: Answer) -> dict[str, Any]:
    return {
        "id": f"msg_{answer.id}",
        "type": "message",
        "role": "assistant",
        "model": answer.dated(_MODEL_DATE),
        "content": [],
        "stop_reason": None,
        "stop_sequence": None,
    }


def _blocks(answer: Answer) -> list[dict[str, Any]]:
    if answer.text is not None:
        return [{"type": "text", "text": answer.text}]
    return [_tool_use(call, _input(call)) for call in answer.asked]


def _tool_use(call: Asked, value: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": call.id_as("toolu_"), "name": call.name, "input": value}


def _input(call: Asked) -> Any:
    try:
        return json.loads(call.arguments)
    except ValueError:
        return {"__invalid__": call.arguments}


def _stop_reason(answer: Answer) -> str:
    return "tool_use" if answer.asked else "max_tokens" if answer.cut else "end_turn"


def _usage(used: Counted) -> dict[str, Any]:
    fresh = used.input_tokens - used.cached_tokens - used.cache_written_tokens
    thought = {"output_tokens_details": {"thinking_tokens": used.reasoning_tokens}} if used.reasoning_tokens else {}
    return {
        "input_tokens": fresh,
        "cache_read_input_tokens": used.cached_tokens,
        "cache_creation_input_tokens": used.cache_written_tokens,
        "output_tokens": used.output_tokens,
        "service_tier": "standard",
    } | thought


def _stream(answer: Answer) -> Iterator[dict[str, Any]]:
    # At its beginning an answer has used its input and next to nothing else.
    begun = {"usage": _usage(answer.used) | {"output_tokens": 1}} if answer.used else {}
    yield {"type": "message_start", "message": _envelope(answer) | begun}
    yield {"type": "ping"}
    for index, block in enumerate(_blocks(answer)):
        where = {"index": index}
        if block["type"] == "text":
            yield where | {"type": "content_block_start", "content_block": {"type": "text", "text": ""}}
            deltas = [{"type": "text_delta", "text": word} for word in answer.words]
        else:
            call = answer.asked[index]
            yield where | {"type": "content_block_start", "content_block": _tool_use(call, {})}
            deltas = [{"type": "input_json_delta", "partial_json": piece} for piece in pieces(call.arguments)]
        for delta in deltas:
            yield where | {"type": "content_block_delta", "delta": delta}
        yield where | {"type": "content_block_stop"}
    usage = {"usage": _usage(answer.used)} if answer.used else {}
    ended = {"stop_reason": _stop_reason(answer), "stop_sequence": None}
    yield {"type": "message_delta", "delta": ended} | usage
    yield {"type": "message_stop"}


def _events(stream: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for event in stream:
        yield f"event: {event['type']}\ndata: {to_json(event)}\n\n".encode()
