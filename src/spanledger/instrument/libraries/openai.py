"""The OpenAI client: chat completions, sync, async, streamed, parsed, with raw response.

Rules: a streamed answer reports its usage only on request, so we ask for it and hide the extra chunk from a caller
who did not. `with_raw_response` gives an object whose `parse` is cached; the caller's own call of it gives the
object we have looked at. `with_streaming_response` leaves reading to the caller, so neither what is asked for nor
what comes is touched. Azure uses the same classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from spanledger.core.call import Call, Usage
from spanledger.instrument.library import HiddenChunk, Library, Wrap
from spanledger.telemetry import semconv

# By this header the client tells its own methods apart; "stream" is `with_streaming_response`.
_RAW_RESPONSE_HEADER = "X-Stainless-Raw-Response"


def describe(instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:  # noqa: ARG001 - one shape
    """Read a call of `Completions.create`."""
    url = instance._client.base_url  # noqa: SLF001 - no public way from a resource to its client
    azure = "Azure" in type(instance._client).__name__  # noqa: SLF001 - likewise
    return Call(
        name=str(kwargs.get("model") or "unknown"),
        operation="chat",
        attributes={
            semconv.PROVIDER_NAME: "azure.ai.openai" if azure else "openai",
            semconv.SERVER_ADDRESS: url.host,
            semconv.SERVER_PORT: url.port,
            semconv.REQUEST_STREAM: True if kwargs.get("stream") is True else None,
            semconv.REQUEST_MAX_TOKENS: _number(kwargs, "max_completion_tokens") or _number(kwargs, "max_tokens"),
            semconv.REQUEST_TEMPERATURE: _number(kwargs, "temperature"),
            semconv.REQUEST_TOP_P: _number(kwargs, "top_p"),
        },
    )


def prepare(kwargs: dict[str, Any]) -> tuple[dict[str, Any], HiddenChunk | None]:
    """Ask a stream for its usage."""
    options = kwargs.get("stream_options")
    unread = (kwargs.get("extra_headers") or {}).get(_RAW_RESPONSE_HEADER) == "stream"
    if unread or kwargs.get("stream") is not True or (isinstance(options, Mapping) and "include_usage" in options):
        return kwargs, None
    kwargs["stream_options"] = {**(options if isinstance(options, Mapping) else {}), "include_usage": True}
    return kwargs, lambda chunk: not chunk.choices and chunk.usage is not None


def parsed(result: Any) -> Any:
    """Return the completion or stream inside a raw response; None where reading it would disturb the caller."""
    if not hasattr(result, "http_response"):
        return result
    return result.parse() if type(result).__name__ == "LegacyAPIResponse" else None


def measure(completion: Any) -> Usage:
    """Read what a completion used."""
    choices = completion.choices or []
    return _with_usage(
        Usage(
            model=completion.model,
            response_id=completion.id,
            finish_reasons=tuple(c.finish_reason for c in choices if c.finish_reason),
            tool_calls=tuple(
                t.function.name for c in choices for t in (c.message.tool_calls or ()) if t.type == "function"
            ),
        ),
        completion.usage,
    )


def fold(usage: Usage, chunk: Any) -> Usage:
    """Add a chunk of a stream."""
    reasons = tuple(c.finish_reason for c in chunk.choices or () if c.finish_reason)
    names = tuple(
        t.function.name
        for c in chunk.choices or ()
        for t in (getattr(c.delta, "tool_calls", None) or ())
        if t.function and t.function.name
    )
    usage = replace(
        usage,
        model=chunk.model or usage.model,
        response_id=chunk.id or usage.response_id,
        finish_reasons=usage.finish_reasons + reasons,
        tool_calls=usage.tool_calls + names,
    )
    return _with_usage(usage, chunk.usage)


def _with_usage(usage: Usage, reported: Any) -> Usage:
    if reported is None:
        return usage
    return replace(
        usage,
        input_tokens=_count(reported, "prompt_tokens"),
        output_tokens=_count(reported, "completion_tokens"),
        cached_tokens=_count(getattr(reported, "prompt_tokens_details", None), "cached_tokens"),
        reasoning_tokens=_count(getattr(reported, "completion_tokens_details", None), "reasoning_tokens"),
    )


def _count(reported: Any, name: str) -> int | None:
    # The client does not check what servers report.
    value = getattr(reported, name, None)
    return value if isinstance(value, int) else None


def _number(kwargs: Mapping[str, Any], name: str) -> float | None:
    value = kwargs.get(name)
    return value if isinstance(value, int | float) else None


LIBRARY = Library(
    name="openai",
    requires="openai>=2,<4",
    wraps=tuple(
        Wrap(
            target=f"openai.resources.chat.completions.completions:{cls}.{method}",
            operation="chat",
            describe=describe,
            prepare=prepare,
            parsed=parsed,
            measure=measure,
            fold=fold,
        )
        for cls in ("Completions", "AsyncCompletions")
        for method in ("create", "parse")
    ),
)
