"""OpenAI's responses, as this package's model speaks them.

Rules: every event of a stream has a number; the answer so far comes with the first and the last, and usage with the
last alone. The server keeps no conversation: a request has to bring all of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from typing import Any

from spanledger.testing._chat import MODEL_DATE, pieces
from spanledger.testing._http import BadRequestError, Reply, json_reply
from spanledger.testing._said import Answer, Asked, Counted, Wish, random_id, to_json


def checked(body: Mapping[str, Any]) -> None:
    """Refuse a request that the provider would refuse.

    Raises:
        BadRequestError: It is one.
    """
    if not isinstance(body.get("model"), str):
        raise BadRequestError("Missing required parameter: 'model'.")
    if not isinstance(body.get("input"), str | list) or not body["input"]:
        raise BadRequestError("'input' must be a text or an array of items")
    if body.get("previous_response_id") or body.get("conversation"):
        raise BadRequestError("this server keeps no conversations; send all of it as 'input'")


def conversation(body: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the conversation in the form that scripts read."""
    instructions = body.get("instructions")
    messages = [{"role": "system", "content": instructions}] if instructions else []
    asked = body["input"]
    items = [{"role": "user", "content": asked}] if isinstance(asked, str) else asked
    return messages + [message for item in items if (message := _message(item)) is not None]


def wish(body: Mapping[str, Any]) -> Wish:
    """Read what the request asks for."""
    return Wish(
        model=body["model"],
        prompt=to_json([conversation(body), body.get("tools")]),
        output_tokens_max=body.get("max_output_tokens"),
    )


def reply(body: Mapping[str, Any], answer: Answer) -> Reply:
    """Write an answer, whole or as a stream."""
    if not body.get("stream"):
        return json_reply(200, _response(body, answer, _items(answer)))
    return Reply(200, _events(_stream(body, answer)), "text/event-stream; charset=utf-8")


def _message(item: Mapping[str, Any]) -> dict[str, Any] | None:
    kind = item.get("type", "message")
    if kind == "message":
        return {"role": item["role"], "content": item.get("content")}
    if kind == "function_call":
        function = {"name": item["name"], "arguments": item["arguments"]}
        call = {"id": item["call_id"], "type": "function", "function": function}
        return {"role": "assistant", "content": None, "tool_calls": [call]}
    if kind == "function_call_output":
        return {"role": "tool", "tool_call_id": item["call_id"], "content": item["output"]}
    return None


def _items(answer: Answer) -> list[dict[str, Any]]:
    if answer.text is not None:
        return [_text_item(f"msg_{random_id(40)}", answer.text)]
    return [_call_item(call) for call in answer.asked]


def _text_item(item_id: str, text: str | None) -> dict[str, Any]:
    begun = {"id": item_id, "type": "message", "role": "assistant", "status": "in_progress", "content": []}
    return begun if text is None else begun | {"status": "completed", "content": [_text_part(text)]}


def _text_part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def _call_item(call: Asked) -> dict[str, Any]:
    return {
        "id": f"fc_{call.id}",
        "type": "function_call",
        "status": "completed",
        "call_id": call.id_as("call_"),
        "name": call.name,
        "arguments": call.arguments,
    }


def _response(body: Mapping[str, Any], answer: Answer, items: list[dict[str, Any]] | None) -> dict[str, Any]:
    """The response, as it stands before (None) or after its items."""
    status = "in_progress" if items is None else "incomplete" if answer.cut else "completed"
    cut = {"reason": "max_output_tokens"} if status == "incomplete" else None
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "error": None,
        "incomplete_details": cut,
        "instructions": body.get("instructions"),
        "metadata": {},
        "model": answer.dated(MODEL_DATE),
        "output": items or [],
        "parallel_tool_calls": True,
        "temperature": 1.0,
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": body.get("tools") or [],
        "top_p": 1.0,
        "usage": None if items is None or answer.used is None else _usage(answer.used),
    }


def _usage(used: Counted) -> dict[str, Any]:
    return {
        "input_tokens": used.input_tokens,
        "input_tokens_details": {
            "cached_tokens": used.cached_tokens,
            "cache_write_tokens": used.cache_written_tokens,
        },
        "output_tokens": used.output_tokens,
        "output_tokens_details": {"reasoning_tokens": used.reasoning_tokens},
        "total_tokens": used.input_tokens + used.output_tokens,
    }


def _stream(body: Mapping[str, Any], answer: Answer) -> Iterator[dict[str, Any]]:
    items = _items(answer)
    yield {"type": "response.created", "response": _response(body, answer, None)}
    yield {"type": "response.in_progress", "response": _response(body, answer, None)}
    for index, item in enumerate(items):
        where = {"output_index": index}
        yield from _text_events(answer, item, where) if item["type"] == "message" else _call_events(item, where)
        yield where | {"type": "response.output_item.done", "item": item}
    yield {
        "type": "response.incomplete" if answer.cut else "response.completed",
        "response": _response(body, answer, items),
    }


def _text_events(answer: Answer, item: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    text, part = answer.text or "", {**where, "item_id": item["id"], "content_index": 0}
    yield {**where, "type": "response.output_item.added", "item": _text_item(item["id"], None)}
    yield part | {"type": "response.content_part.added", "part": _text_part("")}
    for word in answer.words:
        yield part | {"type": "response.output_text.delta", "delta": word, "logprobs": []}
    yield part | {"type": "response.output_text.done", "text": text, "logprobs": []}
    yield part | {"type": "response.content_part.done", "part": _text_part(text)}


def _call_events(item: Mapping[str, Any], where: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    begun = {**item, "status": "in_progress", "arguments": ""}
    yield {**where, "type": "response.output_item.added", "item": begun}
    of_item = {**where, "item_id": item["id"]}
    for piece in pieces(item["arguments"]):
        yield of_item | {"type": "response.function_call_arguments.delta", "delta": piece}
    done = {"arguments": item["arguments"], "name": item["name"]}
    yield of_item | done | {"type": "response.function_call_arguments.done"}


def _events(stream: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for number, event in zip(itertools.count(), stream, strict=False):
        kind = event["type"]
        yield f"event: {kind}\ndata: {to_json(event | {'sequence_number': number})}\n\n".encode()
