"""The chat completions of the OpenAI client.

Rules: a streamed chat reports its usage only on request, so we ask for it and hide the extra chunk from a caller who
did not.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from spanledger.core.call import Call, Usage
from spanledger.core.frozen import changed
from spanledger.core.prices import Bound
from spanledger.instrument import _bounds, _raw
from spanledger.instrument.libraries._asked import sent
from spanledger.instrument.libraries._figures import figures, most
from spanledger.instrument.libraries._openai_common import call_of
from spanledger.instrument.libraries._openai_messages import MESSAGES
from spanledger.instrument.library import HiddenChunk, Wrap


def describe(instance: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `Completions.create`."""
    if "extra_body" in kwargs:
        kwargs = sent(kwargs)
    if "max_completion_tokens" in kwargs or "max_tokens" in kwargs:
        return call_of(instance, kwargs, "chat", _most_written(kwargs))
    return call_of(instance, kwargs, "chat")


def bound(kwargs: Mapping[str, Any]) -> Bound:
    """Say the most that a request can use."""
    kwargs = sent(kwargs)
    written, choices = _most_written(kwargs), most(kwargs.get("n")) or 1
    return Bound(_bounds.input_tokens(kwargs), None if written is None else written * choices, choices)


def _most_written(kwargs: Mapping[str, Any]) -> int | None:
    return most(kwargs.get("max_completion_tokens"), kwargs.get("max_tokens"))


def prepare(kwargs: dict[str, Any]) -> tuple[dict[str, Any], HiddenChunk | None]:
    """Ask a stream for its usage."""
    if kwargs.get("stream") is not True:
        return kwargs, None
    options = kwargs.get("stream_options")
    asked = isinstance(options, Mapping) and "include_usage" in options
    if asked or "stream_options" in (kwargs.get("extra_body") or ()) or _raw.is_left_unread(kwargs):
        return kwargs, None
    added = {**(options if isinstance(options, Mapping) else {}), "include_usage": True}
    return kwargs | {"stream_options": added}, lambda chunk: not chunk.choices and chunk.usage is not None


def measure(completion: Any) -> Usage:
    """Read what a completion used."""
    reasons: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    for choice in completion.choices or ():
        if choice.finish_reason:
            reasons += (choice.finish_reason,)
        # Some servers leave out even what the client's types promise.
        for call in getattr(choice.message, "tool_calls", None) or ():
            if call.type == "function":
                names += (call.function.name,)
    read, written, cached, thought, kept = counts(completion.usage)
    return Usage(completion.model, completion.id, reasons, read, written, cached, thought, names, kept)


def fold(usage: Usage, chunk: Any) -> Usage:
    """Add a chunk of a stream."""
    reasons: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    for choice in chunk.choices or ():
        if choice.finish_reason:
            reasons += (choice.finish_reason,)
        for call in getattr(choice.delta, "tool_calls", None) or ():
            if call.function and call.function.name:
                names += (call.function.name,)
    if usage.response_id is not None and not (reasons or names or chunk.usage):
        return usage
    reported = zip(KINDS, counts(chunk.usage), strict=True)
    return changed(
        usage,
        model=chunk.model or usage.model,
        response_id=chunk.id or usage.response_id,
        finish_reasons=usage.finish_reasons + reasons,
        tool_calls=usage.tool_calls + names,
        **{kind: tokens for kind, tokens in reported if tokens is not None},
    )


def said(chunk: Any) -> str:
    """Return what a chunk holds of the answer."""
    parts: list[str] = []
    for choice in chunk.choices or ():
        delta = choice.delta
        parts += (delta.content or "", delta.refusal or "")
        parts += (call.function.arguments or "" for call in delta.tool_calls or () if call.function)
    return "".join(parts)


def held(error: BaseException) -> Any:
    """Return the completion that was cut off before it could be parsed."""
    return getattr(error, "completion", None)


# In the order of their fields.
KINDS: Final = ("input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens", "cache_written_tokens")
_NONE_REPORTED: Final = (None,) * len(KINDS)


def counts(reported: Any) -> tuple[int | None, ...]:
    """Read the tokens of each of `KINDS`."""
    if reported is None:
        return _NONE_REPORTED
    read = getattr(reported, "prompt_tokens_details", None)
    written = getattr(reported, "completion_tokens_details", None)
    return figures(
        (
            getattr(reported, "prompt_tokens", None),
            getattr(reported, "completion_tokens", None),
            getattr(read, "cached_tokens", None),
            getattr(written, "reasoning_tokens", None),
            getattr(read, "cache_write_tokens", None),
        )
    )


WRAP = Wrap(
    *("", describe, "chat"),
    direct=True,
    prepare=prepare,
    measure=measure,
    held=held,
    fold=fold,
    said=said,
    bound=bound,
    messages=MESSAGES,
)
