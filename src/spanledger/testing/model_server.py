"""A model that says what a script tells it to, behind the OpenAI chat completions API.

Rules: what a client can see is as from a real provider: ids are new each time (tool-call ids above all: a
program that trusts them to be stable is wrong), the model's name comes back with a date, a stream carries
usage only if asked. Token figures are computed from the text alone, so a repeated run costs the same.
The script runs in the connection's thread and may block.
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
import string
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from spanledger.testing._http import BadRequestError, LoopbackServer, Reply, Request, json_reply

# Providers answer with the dated version of a model asked for by its plain name.
_MODEL_DATE = "2025-08-07"
_CHARS_PER_TOKEN = 4
# The provider's own rule for prompt caching: whole blocks, from a minimum on.
_CACHED_TOKENS_MIN = 1024
_CACHED_TOKENS_BLOCK = 128
# Short, so that even small arguments arrive in several pieces.
_ARGUMENTS_PIECE_CHARS = 8


@dataclass(frozen=True, slots=True)
class Say:
    """The model answers with text."""

    text: str


@dataclass(frozen=True, slots=True)
class CallTool:
    """The model asks for a tool; a list of these asks for several at once."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Fail:
    """The provider answers with an error.

    Attributes:
        status: The HTTP status, for example 429. Clients repeat some of them by themselves.
        message: What the client's exception will say.
    """

    status: int
    message: str


Script = Callable[[dict[str, Any]], Say | CallTool | Sequence[CallTool] | Fail]


def call_tool_once(name: str, arguments_of: Callable[[str], Mapping[str, Any] | None]) -> Script:
    """Make a script of the shortest agent there is: a user asks, a tool runs, the model reports.

    Args:
        name: The tool to ask for whenever the last message is the user's.
        arguments_of: From the user's text to the tool's arguments; None if they are not in it, and the
            model asks back instead.
    """

    def script(request: dict[str, Any]) -> Say | CallTool:
        messages = request["messages"]
        if messages[-1]["role"] == "tool":
            return Say(f"Done. {name} answered: {_trailing_tool_results(messages)}")
        arguments = arguments_of(_text(messages[-1])) if messages[-1]["role"] == "user" else None
        if arguments is None:
            return Say(f"I need to know more before I can use {name}.")
        return CallTool(name, arguments)

    return script


class ModelServer(LoopbackServer):
    """`POST /v1/chat/completions`, whole and streamed, answered by a script.

    Give clients ``base_url=server.url`` and any API key; without one they get 401, as elsewhere.

    Args:
        script: Called with each request body; returns `Say`, `CallTool`, a list of `CallTool`, or `Fail`.
            What it raises becomes an answer of 500.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._lock = threading.Lock()
        self._requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """The base URL for clients (`OPENAI_BASE_URL`); ends in ``/v1``."""
        return f"{super().url}/v1"

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The bodies of all requests that reached the script so far, oldest first."""
        with self._lock:
            return list(self._requests)

    def answer(self, request: Request) -> Reply:
        """Answer one request; every answer has an id of its own, errors too."""
        return replace(self._route(request), headers={"x-request-id": f"req_{secrets.token_hex(16)}"})

    def _route(self, request: Request) -> Reply:
        if (request.method, request.path) != ("POST", "/v1/chat/completions"):
            return _error(404, f"Invalid URL ({request.method} {request.path})")
        if not request.headers.get("authorization", "").removeprefix("Bearer ").strip():
            return _error(401, "You didn't provide an API key.", code="invalid_api_key")
        try:
            body = _checked(request.json_object())
        except BadRequestError as error:
            return _error(400, str(error))
        with self._lock:
            self._requests.append(body)
        try:
            return self._complete(body)
        except Exception as error:  # noqa: BLE001 - a script may raise anything; its client must be answered
            return _error(500, f"{type(error).__name__}: {error}")

    def _complete(self, body: dict[str, Any]) -> Reply:
        said = self._script(body)
        if isinstance(said, Fail):
            return _error(said.status, said.message)
        completion = _completion(body, said)
        if not body.get("stream"):
            return json_reply(200, completion.whole())
        usage_asked = (body.get("stream_options") or {}).get("include_usage") is True
        return Reply(200, _events(completion.chunks(usage_asked)), "text/event-stream; charset=utf-8")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Completion:
    """One answer of the model, before it is written whole or in chunks."""

    model: str
    text: str | None
    tool_calls: tuple[Mapping[str, Any], ...]
    usage: Mapping[str, Any]
    id: str = field(default_factory=lambda: f"chatcmpl-{_random_id(29)}")
    created: int = field(default_factory=lambda: int(time.time()))

    def whole(self) -> dict[str, Any]:
        message: dict[str, Any] = {"role": "assistant", "content": self.text, "refusal": None}
        if self.tool_calls:
            message["tool_calls"] = self.tool_calls
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish_reason}
        return self._envelope("chat.completion") | {"choices": [choice], "usage": self.usage}

    def chunks(self, usage_asked: bool) -> Iterator[dict[str, Any]]:
        envelope = self._envelope("chat.completion.chunk")
        # Where usage was asked for, every chunk has the field; only the last one fills it.
        unfilled = {"usage": None} if usage_asked else {}
        for delta in self._deltas():
            choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
            yield envelope | {"choices": [choice]} | unfilled
        last = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._finish_reason}
        yield envelope | {"choices": [last]} | unfilled
        if usage_asked:
            yield envelope | {"choices": [], "usage": self.usage}

    def _deltas(self) -> Iterator[dict[str, Any]]:
        yield {"role": "assistant", "content": None if self.text is None else "", "refusal": None}
        for word in re.findall(r"\s*\S+|\s+", self.text or ""):
            yield {"content": word}
        for index, call in enumerate(self.tool_calls):
            name, arguments = call["function"]["name"], call["function"]["arguments"]
            # The id and the name come once, first; the pieces after that have the index alone.
            opening = {**call, "index": index, "function": {"name": name, "arguments": ""}}
            yield {"tool_calls": [opening]}
            for start in range(0, len(arguments), _ARGUMENTS_PIECE_CHARS):
                piece = arguments[start : start + _ARGUMENTS_PIECE_CHARS]
                yield {"tool_calls": [{"index": index, "function": {"arguments": piece}}]}

    @property
    def _finish_reason(self) -> str:
        return "tool_calls" if self.tool_calls else "stop"

    def _envelope(self, kind: str) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": kind,
            "created": self.created,
            "model": self.model,
            "service_tier": "default",
            "system_fingerprint": f"fp_{hashlib.sha256(self.model.encode()).hexdigest()[:10]}",
        }


def _completion(body: dict[str, Any], said: Say | CallTool | Sequence[CallTool]) -> _Completion:
    text = said.text if isinstance(said, Say) else None
    calls = _tool_calls(said)
    model = body["model"]
    return _Completion(
        model=model if re.search(r"-\d{4}-\d\d-\d\d$", model) else f"{model}-{_MODEL_DATE}",
        text=text,
        tool_calls=calls,
        usage=_usage(
            prompt=json.dumps([body["messages"], body.get("tools")]),
            answer=text or "".join(json.dumps(call["function"]) for call in calls),
        ),
    )


def _tool_calls(said: Say | CallTool | Sequence[CallTool]) -> tuple[Mapping[str, Any], ...]:
    if isinstance(said, Say):
        return ()
    asked = (said,) if isinstance(said, CallTool) else tuple(said)
    if not asked or not all(isinstance(call, CallTool) for call in asked):
        raise TypeError(f"a script returns Say, CallTool, a list of CallTool or Fail, not {said!r}")
    return tuple(
        {
            "id": f"call_{_random_id(24)}",
            "type": "function",
            "function": {"name": call.name, "arguments": _json(dict(call.arguments))},
        }
        for call in asked
    )


def _usage(prompt: str, answer: str) -> dict[str, Any]:
    prompt_tokens, completion_tokens = _tokens(prompt), _tokens(answer)
    cached = prompt_tokens - prompt_tokens % _CACHED_TOKENS_BLOCK
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
        "prompt_tokens_details": {
            "cached_tokens": cached if prompt_tokens >= _CACHED_TOKENS_MIN else 0,
            "audio_tokens": 0,
        },
        "completion_tokens_details": {"reasoning_tokens": 0, "audio_tokens": 0},
    }


def _tokens(text: str) -> int:
    return max(1, -(-len(text) // _CHARS_PER_TOKEN))


def _events(chunks: Iterator[dict[str, Any]]) -> Iterator[bytes]:
    for chunk in chunks:
        yield b"data: " + _json(chunk).encode() + b"\n\n"
    yield b"data: [DONE]\n\n"


def _checked(body: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(body.get("model"), str):
        raise BadRequestError("you must provide a model parameter")
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise BadRequestError("'messages' must be an array with at least one message")
    if not all(isinstance(message, dict) and "role" in message for message in messages):
        raise BadRequestError("each of 'messages' must be an object with a role")
    return body


def _error(status: int, message: str, code: str | None = None) -> Reply:
    kind = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004 - HTTP's own border
    return json_reply(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})


def _trailing_tool_results(messages: Sequence[Mapping[str, Any]]) -> str:
    results: list[str] = []
    for message in reversed(messages):
        if message["role"] != "tool":
            break
        results.insert(0, _text(message))
    return "; ".join(results)


def _text(message: Mapping[str, Any]) -> str:
    content = message.get("content")
    if isinstance(content, list):
        return "".join(part.get("text", "") for part in content)
    return content or ""


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _random_id(length_chars: int) -> str:
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length_chars))
