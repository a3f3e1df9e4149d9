"""A model that says what a script tells it to, behind the protocols of OpenAI and Anthropic.

Rules: what a client can see is as from a real provider: ids are new each time (tool-call ids above all: a
program that trusts them to be stable is wrong), the model's name comes back with a date, an answer stops at the
request's limit. One script serves all protocols: what it reads is the request with its conversation under
``messages``, as chat completions have it. It runs in the connection's thread and may block.
"""

from __future__ import annotations

import re
import secrets
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from spanledger.testing import _chat, _embeddings, _messages, _responses
from spanledger.testing._http import BadRequestError, LoopbackServer, Reply, Request, json_reply
from spanledger.testing._said import Answer, CallTool, Counted, Fail, Raw, Say, Script, Wish, answered

__all__ = ["CallTool", "Counted", "Fail", "ModelServer", "Raw", "Say", "Script", "call_tool_once"]


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


@dataclass(frozen=True, slots=True)
class _Protocol:
    """How one API of a provider is spoken.

    Attributes:
        checked: Refuse what the provider would refuse.
        conversation: A body → its messages, as scripts read them.
        wish: A body → what it asks for.
        reply: A body and an answer → the answer, written.
        error: A status and a message → the error, written.
        request_id: The header in which every answer has its id.
    """

    checked: Callable[[Mapping[str, Any]], None]
    conversation: Callable[[Mapping[str, Any]], list[dict[str, Any]]]
    wish: Callable[[Mapping[str, Any]], Wish]
    reply: Callable[[Mapping[str, Any], Answer], Reply]
    error: Callable[[int, str], Reply]
    request_id: str = "x-request-id"


def _openai_error(status: int, message: str, code: str | None = None) -> Reply:
    kind = "server_error" if status >= 500 else "invalid_request_error"  # noqa: PLR2004 - HTTP's own border
    return json_reply(status, {"error": {"message": message, "type": kind, "param": None, "code": code}})


_CHAT = _Protocol(_chat.checked, _chat.conversation, _chat.wish, _chat.reply, _openai_error)
_RESPONSES = _Protocol(_responses.checked, _responses.conversation, _responses.wish, _responses.reply, _openai_error)
_MESSAGES = _Protocol(
    _messages.checked, _messages.conversation, _messages.wish, _messages.reply, _messages.error, "request-id"
)
_FRAMED_MESSAGES = replace(_MESSAGES, reply=_messages.framed_reply)
# Azure names the deployment in the path, Vertex and Bedrock the model.
_PATHS: tuple[tuple[re.Pattern[str], _Protocol], ...] = (
    (re.compile(r"(/v1|/openai(/v1)?(/deployments/[^/]+)?)/chat/completions"), _CHAT),
    (re.compile(r"(/v1|/openai(/v1)?)/responses"), _RESPONSES),
    (re.compile(r"/v1/messages"), _MESSAGES),
    (re.compile(r"/model/(?P<model>[^/]+)/invoke"), _MESSAGES),
    (re.compile(r"/model/(?P<model>[^/]+)/invoke-with-response-stream"), _FRAMED_MESSAGES),
    (re.compile(r"(?:/v1)?/projects/.*/models/(?P<model>[^/:]+):(stream)?[rR]awPredict"), _MESSAGES),
)
_EMBEDDINGS = re.compile(r"(/v1|/openai(/v1)?(/deployments/[^/]+)?)/embeddings")


class ModelServer(LoopbackServer):
    """Chat completions, responses, embeddings and Anthropic's messages, whole and streamed, answered by a script.

    Give OpenAI's clients ``base_url=server.url``, Anthropic's ``base_url=server.anthropic_url``, and any API key;
    without one they get 401, as elsewhere.

    Args:
        script: Called with each request; returns `Say`, `CallTool`, a list of `CallTool`, `Fail` or `Raw`.
            What it raises becomes an answer of 500. Embeddings need no script.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self._lock = threading.Lock()
        self._requests: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        """The base URL for OpenAI's clients (`OPENAI_BASE_URL`); ends in ``/v1``."""
        return f"{super().url}/v1"

    @property
    def anthropic_url(self) -> str:
        """The base URL for Anthropic's clients (`ANTHROPIC_BASE_URL`); has no path."""
        return super().url

    @property
    def requests(self) -> list[dict[str, Any]]:
        """The bodies of all requests that were answered or reached the script so far, oldest first."""
        with self._lock:
            return list(self._requests)

    def answer(self, request: Request) -> Reply:
        """Answer one request; every answer has an id of its own, errors too."""
        protocol, named = _protocol(request.path)
        reply = self._route(request, protocol, named)
        header = protocol.request_id if protocol else _CHAT.request_id
        return replace(reply, headers={header: f"req_{secrets.token_hex(16)}"})

    def _route(self, request: Request, protocol: _Protocol | None, named: dict[str, Any]) -> Reply:
        embedding = _EMBEDDINGS.fullmatch(request.path) is not None
        if request.method != "POST" or not (protocol or embedding):
            return _openai_error(404, f"Invalid URL ({request.method} {request.path})")
        error = protocol.error if protocol else _openai_error
        if not _key(request):
            missing = "You didn't provide an API key."
            return (
                error(401, missing)
                if protocol in (_MESSAGES, _FRAMED_MESSAGES)
                else _openai_error(401, missing, "invalid_api_key")
            )
        try:
            body = request.json_object() | named
            if protocol is None:
                reply = _embeddings.reply(body)
                self._keep(body)
                return reply
            protocol.checked(body)
        except BadRequestError as problem:
            return error(400, str(problem))
        self._keep(body)
        try:
            return self._complete(protocol, body)
        except Exception as problem:  # noqa: BLE001 - a script may raise anything; its client must be answered
            return error(500, f"{type(problem).__name__}: {problem}")

    def _keep(self, body: dict[str, Any]) -> None:
        with self._lock:
            self._requests.append(body)

    def _complete(self, protocol: _Protocol, body: dict[str, Any]) -> Reply:
        said = self._script(body | {"messages": protocol.conversation(body)})
        if isinstance(said, Fail):
            return protocol.error(said.status, said.message)
        if isinstance(said, Raw):
            return Reply(200, said.body, said.content_type)
        return protocol.reply(body, answered(protocol.wish(body), said))


def _protocol(path: str) -> tuple[_Protocol | None, dict[str, Any]]:
    """Find the protocol of a path, and what the path says that other bodies say."""
    for pattern, protocol in _PATHS:
        found = pattern.fullmatch(path)
        if found:
            return protocol, found.groupdict()
    return None, {}


def _key(request: Request) -> str:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ").strip()
    return bearer or request.headers.get("x-api-key", "") or request.headers.get("api-key", "")


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
