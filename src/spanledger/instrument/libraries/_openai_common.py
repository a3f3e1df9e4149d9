"""What all parts of the OpenAI client have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Final

from spanledger.core.call import Call
from spanledger.instrument.libraries import _asked


def provider_of(cls: type) -> str:
    """Say whose server a client of a class asks."""
    return "azure.ai.openai" if "Azure" in cls.__name__ else "openai"


call_of: Final[Callable[..., Call]] = functools.partial(_asked.call_of, provider_of)
"""Describe a call that a resource of the client makes: (instance, kwargs, operation, most tokens of the answer)."""
