"""What all parts of the OpenAI client have in common."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.instrument.libraries._figures import number
from spanledger.telemetry import semconv


def call_of(instance: Any, kwargs: Mapping[str, Any], operation: str, more: Mapping[str, Any]) -> Call:
    """Describe a call that a resource of the client makes."""
    client = instance._client  # noqa: SLF001 - no public way from a resource to its client
    # Its public property imports a module at every look.
    azure, url = "Azure" in type(client).__name__, getattr(client, "_base_url", None) or client.base_url
    return Call(
        name=str(kwargs.get("model") or "unknown"),
        operation=operation,
        attributes={
            semconv.PROVIDER_NAME: "azure.ai.openai" if azure else "openai",
            semconv.SERVER_ADDRESS: url.host,
            semconv.SERVER_PORT: url.port,
            semconv.REQUEST_STREAM: True if kwargs.get("stream") is True else None,
            semconv.REQUEST_TEMPERATURE: number(kwargs, "temperature") if "temperature" in kwargs else None,
            semconv.REQUEST_TOP_P: number(kwargs, "top_p") if "top_p" in kwargs else None,
            **more,
        },
    )
