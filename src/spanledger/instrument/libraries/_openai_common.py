"""What all parts of the OpenAI client have in common."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

from spanledger.core.call import Call
from spanledger.instrument.libraries import _asked

# By what the names of clients hold, and by the name of the provider that a client was given.
_CLASSES: Final = {"Azure": "azure.ai.openai", "Bedrock": "aws.bedrock"}
_GIVEN: Final = {"bedrock": "aws.bedrock", "vertex": "gcp.vertex_ai"}


def provider_of(client: Any) -> str:
    """Say whose server a client asks."""
    given = getattr(getattr(client, "_provider_runtime", None), "name", None)
    return _GIVEN.get(given or "") or _asked.provider_named(type(client), _CLASSES) or "openai"


call_of: Final[Callable[..., Call]] = functools.partial(_asked.call_of, provider_of)
"""Describe a call that a resource of the client makes: (instance, kwargs, operation, most tokens of the answer)."""
