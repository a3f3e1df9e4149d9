"""The Anthropic client: messages and beta messages; sync, async, streamed, parsed, with raw response.

Rules: this provider counts input without what came from its cache or went into it, we with. A stream tells its input
with its first event and its output, cumulative, near its end. The helper for streams does not go through `create`: it
prepares a request and makes it when its block is entered. Bedrock, Vertex and others use the same functions; some
hold them in classes of their own, which took them before we came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spanledger.core.call import Call, Usage
from spanledger.core.frozen import changed
from spanledger.core.prices import Bound
from spanledger.instrument import _bounds, _raw
from spanledger.instrument.libraries import _anthropic_sessions as sessions
from spanledger.instrument.libraries import _anthropic_tools as tools
from spanledger.instrument.libraries._anthropic_messages import MESSAGES
from spanledger.instrument.libraries._asked import call_of, provider_named, sent
from spanledger.instrument.libraries._figures import count, most
from spanledger.instrument.library import Library, Wrap

# By what the names of clients hold; others ask the provider itself, on whatever platform.
_PROVIDERS = {"Bedrock": "aws.bedrock", "Vertex": "gcp.vertex_ai"}


def describe(instance: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `Messages.create`."""
    kwargs = sent(kwargs)
    return call_of(_provider_of, instance, kwargs, "chat", kwargs.get("max_tokens"))


def describe_stream(instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call | None:
    """Read the call that a stream's helper makes; None where somebody made the helper by hand."""
    return describe(instance, args, {**kwargs, "stream": True}) if "model" in kwargs else None


def _provider_of(client: Any) -> str:
    return provider_named(type(client), _PROVIDERS) or "anthropic"


def bound(kwargs: Mapping[str, Any]) -> Bound:
    """Say the most that a request can use."""
    kwargs = sent(kwargs)
    # Only what a request marks is put into the cache, which costs more than reading.
    marked = "cache_control" in repr(kwargs)
    return Bound(_bounds.input_tokens(kwargs), most(kwargs.get("max_tokens")), writes_cache=marked)


def measure(message: Any) -> Usage:
    """Read what a message used."""
    reason = message.stop_reason
    names = tuple([block.name for block in message.content or () if block.type == "tool_use"])
    usage = Usage(message.model, message.id, (reason,) if reason else (), tool_calls=names)
    return _with_usage(usage, message.usage)


def fold(usage: Usage, event: Any) -> Usage:
    """Add an event of a stream."""
    kind = event.type
    if kind == "message_start":
        return measure(event.message)
    if kind == "content_block_start" and event.content_block.type == "tool_use":
        return changed(usage, tool_calls=(*usage.tool_calls, event.content_block.name))
    if kind == "message_delta":
        reason = event.delta.stop_reason
        return _with_usage(changed(usage, finish_reasons=(reason,) if reason else ()), event.usage)
    return usage


def said(event: Any) -> str:
    """Return what an event holds of the answer."""
    delta = getattr(event, "delta", None)
    texts = (getattr(delta, name, None) for name in ("text", "partial_json", "thinking"))
    return "".join(text for text in texts if isinstance(text, str))


def _with_usage(usage: Usage, reported: Any) -> Usage:
    """Take what is reported; later reports may leave out what does not change."""
    told = [reported, *_compactions(reported)]
    cached, written = _sum(told, "cache_read_input_tokens"), _sum(told, "cache_creation_input_tokens")
    fresh = _sum(told, "input_tokens")
    output = _sum(told, "output_tokens")
    kept = count(getattr(reported, "cache_creation", None), "ephemeral_1h_input_tokens")
    thought = count(getattr(reported, "output_tokens_details", None), "thinking_tokens")
    return changed(
        usage,
        input_tokens=usage.input_tokens if fresh is None else fresh + (cached or 0) + (written or 0),
        output_tokens=usage.output_tokens if output is None else output,
        cached_tokens=usage.cached_tokens if cached is None else cached,
        cache_written_tokens=usage.cache_written_tokens if written is None else written,
        cache_written_1h_tokens=usage.cache_written_1h_tokens if kept is None else kept,
        reasoning_tokens=usage.reasoning_tokens if thought is None else thought,
    )


def _compactions(reported: Any) -> list[Any]:
    """What was used to sum up a conversation that had become too long; the other figures are without it."""
    iterations = getattr(reported, "iterations", None)
    return [one for one in iterations if one.type == "compaction"] if isinstance(iterations, list) else []


def _sum(told: list[Any], name: str) -> int | None:
    """Add figures up, where the first of them is reported."""
    first = count(told[0], name)
    return first if first is None or len(told) == 1 else sum(count(one, name) or 0 for one in told)


def _wrap(target: str) -> Wrap:
    seen = describe_stream if target.endswith("enter__") else describe
    reads = Wrap(target, seen, "chat", parsed=_raw.parsed, measure=measure, fold=fold, said=said, messages=MESSAGES)
    return replace(reads, direct=True, bound=bound)


_MODULES = (
    "anthropic.resources.messages.messages",
    "anthropic.resources.beta.messages.messages",
    "anthropic.lib.bedrock._beta_messages",
    "anthropic.lib.vertex._beta_messages",
)
_CLASSES = tuple(f"{module}:{cls}" for module in _MODULES for cls in ("Messages", "AsyncMessages"))
_HELPERS = (
    "anthropic.lib.streaming._messages:MessageStreamManager.__enter__",
    "anthropic.lib.streaming._messages:AsyncMessageStreamManager.__aenter__",
    "anthropic.lib.streaming._beta_messages:BetaMessageStreamManager.__enter__",
    "anthropic.lib.streaming._beta_messages:BetaAsyncMessageStreamManager.__aenter__",
)

LIBRARY = Library(
    name="anthropic",
    requires="anthropic>=1,<3",
    wraps=(
        *map(_wrap, (*(f"{cls}.{method}" for cls in _CLASSES for method in ("create", "parse")), *_HELPERS)),
        *tools.WRAPS,
        *sessions.WRAPS,
    ),
    hides=tools.HIDES,
    tells=sessions.TELLS,
    own_spans=tools.OWN_SPANS,
    defers=tuple(f"{cls}.stream" for cls in _CLASSES),
)
