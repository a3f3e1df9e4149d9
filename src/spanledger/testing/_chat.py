"""OpenAI's chat completions, as this package's model speaks them.

Rules: a stream carries usage only if asked; then every chunk has the field and the last one, without choices, fills
it. A streamed tool call has its id and name once, first; the pieces after that have its index alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from typing import Any

from spanledger.testing._http import BadRequestError, Reply, json_reply
from spanledger.testing._said import Answer, Asked, Counted, Wish, to_json

# Providers answer with the dated version of a model asked for by its plain name.
MODEL_DATE = "2025-08-07"
# Short, so that even small arguments arrive in several pieces.
ARGUMENTS_PIECE_CHARS = 8


def checked(body: Mapping[str, Any]) -> None:
    """Refuse a request that the provider would refuse.

    Raises:
        BadRequestError: It is one.
    """
    if not isinstance(body.get("model"), str):
        raise BadRequestError("you must provide a model parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("'messages' must be an array with at least one message")
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        raise BadRequestError("each of 'messages' must be an object with a role")


def conversation(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the conversation in the form that scripts read, which is this protocol's own."""
    return list(body["messages"])


def wish(body: Mapping[str, Any]) -> Wish:
    """Read what the request asks for."""
    return Wish(
        model=body["model"],
        prompt=to_json([body["messages"], body.get("tools")]),
        output_tokens_max=body.get("max_completion_tokens") or body.get("max_tokens"),
        choices=body.get("n") or 1,
    )


def reply(body: Mapping[str, Any], answer: Answer) -> Reply:
    """Write an answer, whole or as a stream."""
    if not body.get("stream"):
        return json_reply(200, _whole(answer))
    usage_asked = (body.get("stream_options") or {}).get("include_usage") is True and answer.used is not None
    return Reply(200, _events(_chunks(answer, usage_asked)), "text/event-stream; charset=utf-8")


def _whole(answer: Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": answer.text, "refusal": None}
    if answer.asked:
        message["tool_calls"] = [_tool_call(call) for call in answer.asked]
    choices = [
        {"index": index, "message": message, "logprobs": None, "finish_reason": _finish_reason(answer)}
        for index in range(answer.choices)
    ]
    usage = {} if answer.used is None else {"usage": _usage(answer.used)}
    return _envelope(answer, "chat.completion") | {"choices": choices} | usage


def _chunks(answer: Answer, usage_asked: bool) -> Iterator[dict[str, Any]]:
    envelope = _envelope(answer, "chat.completion.chunk")
    unfilled = {"usage": None} if usage_asked else {}
    for index in range(answer.choices):
        for delta, reason in _deltas(answer):
            choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            yield envelope | {"choices": [choice]} | unfilled
    if usage_asked and answer.used is not None:
        yield envelope | {"choices": [], "usage": _usage(answer.used)}


def _deltas(answer: Answer) -> Iterator[tuple[dict[str, Any], str | None]]:
    yield {"role": "assistant", "content": None if answer.text is None else "", "refusal": None}, None
    for word in answer.words:
        yield {"content": word}, None
    for index, call in enumerate(answer.asked):
        opening = _tool_call(call) | {"index": index, "function": {"name": call.name, "arguments": ""}}
        yield {"tool_calls": [opening]}, None
        for piece in pieces(call.arguments):
            yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}, None
    yield {}, _finish_reason(answer)


def pieces(text: str) -> Iterator[str]:
    """Cut a text into the pieces it is streamed in."""
    for start in range(0, len(text), ARGUMENTS_PIECE_CHARS):
        yield text[start : start + ARGUMENTS_PIECE_CHARS]


def _tool_call(call: Asked) -> dict[str, Any]:
    function = {"name": call.name, "arguments": call.arguments}
    return {"id": call.id_as("call_"), "type": "function", "function": function}


def _finish_reason(answer: Answer) -> str:
    return "tool_calls" if answer.asked else "length" if answer.cut else "stop"


def _usage(used: Counted) -> dict[str, Any]:
    return {
        "prompt_tokens": used.input_tokens,
        "completion_tokens": used.output_tokens,
        "total_tokens": used.input_tokens + used.output_tokens,
        "prompt_tokens_details": {
            "cached_tokens": used.cached_tokens,
            "cache_write_tokens": used.cache_written_tokens,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {"reasoning_tokens": used.reasoning_tokens, "audio_tokens": 0},
    }


def _envelope(answer: Answer, kind: str) -> dict[str, Any]:
    model = answer.dated(MODEL_DATE)
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": kind,
        "created": answer.created,
        "model": model,
        "service_tier": "default",
        "system_fingerprint": f"fp_{hashlib.sha256(model.encode()).hexdigest()[:10]}",
    }


def _events(chunks: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for chunk in chunks:
        yield b"data: " + to_json(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"
