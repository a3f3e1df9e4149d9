"""The responses of the OpenAI client, beta ones as well, and what is answered alike: compactions and decisions.

Rules: the first and the last event of a stream hold the response as it stands; usage comes with the last. What is kept
at the provider, an earlier response or a conversation, is read as well and is not in the request.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call, Usage
from spanledger.core.frozen import changed
from spanledger.core.prices import Bound
from spanledger.instrument import _bounds
from spanledger.instrument.libraries._asked import sent
from spanledger.instrument.libraries._figures import count, most
from spanledger.instrument.libraries._openai_common import call_of
from spanledger.instrument.libraries._openai_response_messages import MESSAGES
from spanledger.instrument.library import Wrap

# The last event of a stream holds the whole response.
_ENDS = frozenset({"response.completed", "response.incomplete", "response.failed"})


def describe(instance: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `Responses.create`."""
    kwargs = sent(kwargs)
    return call_of(instance, kwargs, "chat", kwargs.get("max_output_tokens"))


def bound(kwargs: Mapping[str, Any]) -> Bound:
    """Say the most that a request can use."""
    kwargs = sent(kwargs)
    return Bound(_bounds.input_tokens(kwargs), most(kwargs.get("max_output_tokens")))


def measure(response: Any) -> Usage:
    """Read what a response used."""
    # A compaction or a decision has few of these.
    known = functools.partial(getattr, response)
    reason = getattr(known("incomplete_details", None), "reason", None) or known("status", None)
    reported = response.usage
    read = getattr(reported, "input_tokens_details", None)
    return Usage(
        model=known("model", None),
        response_id=known("id", None),
        finish_reasons=(reason,) if reason else (),
        tool_calls=tuple([item.name for item in known("output", None) or () if item.type == "function_call"]),
        input_tokens=count(reported, "input_tokens"),
        output_tokens=count(reported, "output_tokens"),
        cached_tokens=count(read, "cached_tokens"),
        cache_written_tokens=count(read, "cache_write_tokens"),
        reasoning_tokens=count(getattr(reported, "output_tokens_details", None), "reasoning_tokens"),
    )


def fold(usage: Usage, event: Any) -> Usage:
    """Add an event of a stream."""
    if event.type in _ENDS:
        return measure(event.response)
    if usage.response_id is None and event.type == "response.created":
        return changed(usage, model=event.response.model, response_id=event.response.id)
    return usage


def said(event: Any) -> str:
    """Return what an event holds of the answer."""
    delta = getattr(event, "delta", None)
    return delta if isinstance(delta, str) else ""


WRAP = Wrap(*("", describe, "chat"), direct=True, measure=measure, fold=fold, said=said, bound=bound, messages=MESSAGES)
