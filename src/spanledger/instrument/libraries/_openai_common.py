"""What all parts of the OpenAI client have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from spanledger.core.call import Call
from spanledger.instrument.libraries import _asked

_PROVIDERS: Final = {"Azure": "azure.ai.openai", "Bedrock": "aws.bedrock"}


def provider_of(cls: type) -> str:
    """Say whose server a client of a class asks."""
    return _asked.provider_named(cls, _PROVIDERS) or "openai"


call_of: Final[Callable[..., Call]] = functools.partial(_asked.call_of, provider_of)
"""Describe a call that a resource of the client makes: (instance, kwargs, operation, most tokens of the answer)."""
