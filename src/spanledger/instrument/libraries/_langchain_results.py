"""What LangChain's tools give: plain values, documents, tool messages, commands to a graph, and lists of these.

Rules: these types come back, and those that the tool's function is annotated with; a row of the ledger names none. A
message carries the id of the call that asks now, and what was given to a call without an id becomes a message where it
is asked for with one. A command is kept if all messages in it answer one call: those of others would bring back ids
that the model does not know any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.core.values import decode, encode
from spanledger.instrument._results import TypedCodec, returned_by

# A key with one dollar sign cannot come from a tool: `encode` doubles those.
_MESSAGE, _COMMAND, _LIST, _UPDATE = "$tool_message", "$command", "$results", "$update"
_DOCUMENT = "$document"
_MESSAGE_FIELDS = ("content", "status", "additional_kwargs", "response_metadata")
_DOCUMENT_FIELDS = ("page_content", "metadata", "id")


def messages_in(result: Any) -> Iterator[Any]:
    """Find the messages in what a tool gave."""
    if _is_command(result):
        result = result.update
    if isinstance(result, Mapping):
        result = result.get("messages")
    for item in result if isinstance(result, list | tuple) else (result,):
        if _is_command(item):
            yield from messages_in(item)
        elif hasattr(item, "tool_calls") or hasattr(item, "tool_call_id"):
            yield item


class ResultCodec:
    """Keeps tool messages, commands, documents and values as the tool's function is annotated."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self._function = function

    def encode(self, result: Any) -> Any:
        """Turn what a tool returned into a JSON tree."""
        if len({getattr(message, "tool_call_id", None) for message in messages_in(result)}) > 1:
            raise TypeError("its messages answer several calls")
        if _is_ours(result) or (isinstance(result, list) and any(map(_is_ours, result))):
            return _kept(result)
        return self._typed().encode(result)

    def decode(self, tree: Any, call: Call) -> Any:
        """Turn a tree, or what a probe found out, into what `BaseTool.run` would return now."""
        from langchain_core.tools.base import _format_output

        ours = isinstance(tree, dict) and tree.keys() & {_MESSAGE, _COMMAND, _LIST, _DOCUMENT}
        result = _given_back(tree, call) if ours else self._typed().decode(tree, call)
        # It leaves messages and commands as they are, and makes no message where nobody's id is known.
        return _format_output(result, None, call.call_id, call.name, "success")

    def _typed(self) -> TypedCodec:
        # Looked at where it is needed: what answers a call of a model is a message, whatever the function returns.
        return TypedCodec(returned_by(self._function))


def _kept(value: Any) -> Any:
    from langchain_core.documents import Document
    from langchain_core.messages import ToolMessage

    if type(value) is ToolMessage:
        fields = {name: _plain(getattr(value, name)) for name in _MESSAGE_FIELDS}
        return {_MESSAGE: {**fields, "artifact": _kept(value.artifact)}}
    if type(value) is Document:
        return {_DOCUMENT: {name: _plain(getattr(value, name)) for name in _DOCUMENT_FIELDS}}
    if _is_command(value):
        if value.resume is not None:
            raise TypeError("a command that resumes a run is not kept")
        update = {_UPDATE: {name: _kept(item) for name, item in value.update.items()}} if value.update else None
        return {_COMMAND: {"update": update, "goto": _plain(value.goto), "graph": _plain(value.graph)}}
    if isinstance(value, list) and any(map(_is_ours, value)):
        return {_LIST: [_kept(item) for item in value]}
    return _plain(value)


def _given_back(tree: Any, call: Call) -> Any:
    tagged = isinstance(tree, dict) and len(tree) == 1
    kind, body = next(iter(tree.items())) if tagged else ("", tree)
    if kind == _MESSAGE:
        return _message({name: _given_back(item, call) for name, item in body.items()}, call)
    if kind == _DOCUMENT:
        from langchain_core.documents import Document

        return Document(**{name: decode(item) for name, item in body.items()})
    if kind == _LIST:
        return [_given_back(item, call) for item in body]
    if kind == _UPDATE:
        return {name: _given_back(item, call) for name, item in body.items()}
    if kind == _COMMAND:
        from langgraph.types import Command

        update = body["update"] and _given_back(body["update"], call)
        return Command(update=update, goto=decode(body["goto"]), graph=decode(body["graph"]))
    return decode(tree)


def _message(fields: Mapping[str, Any], call: Call) -> Any:
    from langchain_core.messages import ToolMessage

    if call.call_id is None:
        return fields["content"]
    return ToolMessage(**fields, tool_call_id=call.call_id, name=call.name)


def _plain(value: Any) -> Any:
    tree = encode(value, exact=True)
    if decode(tree) != value:
        raise TypeError(f"a {type(value).__qualname__} would not come back equal")
    return tree


def _is_ours(value: Any) -> bool:
    return _is_command(value) or hasattr(value, "tool_call_id") or hasattr(value, "page_content")


def _is_command(value: Any) -> bool:
    return (type(value).__module__, type(value).__qualname__) == ("langgraph.types", "Command")
