"""The embeddings of the OpenAI client."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call, Usage
from spanledger.core.prices import Bound
from spanledger.instrument import _bounds
from spanledger.instrument.libraries._asked import sent
from spanledger.instrument.libraries._figures import count
from spanledger.instrument.libraries._openai_common import call_of
from spanledger.instrument.library import Wrap


def describe(instance: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `Embeddings.create`."""
    return call_of(instance, sent(kwargs), "embeddings")


def bound(kwargs: Mapping[str, Any]) -> Bound:
    """Say the most that a request can use: it writes nothing."""
    return Bound(_bounds.input_tokens(sent(kwargs)), 0, writes_cache=False)


def measure(answer: Any) -> Usage:
    """Read what embeddings used."""
    return Usage(model=answer.model, input_tokens=count(answer.usage, "prompt_tokens"))


WRAP = Wrap("", describe, "embeddings", measure=measure, bound=bound, direct=True)
