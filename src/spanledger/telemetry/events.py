"""Events as log records: what somebody should hear of, whether its trace is sampled or not.

Rules: nothing is made until the program has a logger provider. An event names the span it belongs to, so that a backend
shows it there. None carries content but `spanledger.call.content`, which is made only where somebody asks for that.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import _logs as logs
from opentelemetry import trace
from opentelemetry._logs import SeverityNumber, _internal
from opentelemetry.context import Context
from opentelemetry.environment_variables import _OTEL_PYTHON_LOGGER_PROVIDER
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

from spanledger.core.asking import Traced

SCOPE: Final = "spanledger"
# What the API gives out where nobody has set a provider.
_NOBODY: Final = "opentelemetry._logs"
_NAMED: Final = _OTEL_PYTHON_LOGGER_PROVIDER in os.environ


def recorded() -> bool:
    """Tell whether anybody takes events."""
    # As in `metrics`: otherwise the API looks into the environment every time.
    if not _NAMED and getattr(_internal, "_LOGGER_PROVIDER", logs) is None:
        return False
    return not type(logs.get_logger_provider()).__module__.startswith(_NOBODY)


def warn(name: str, attributes: Mapping[str, Any], said: str, span: Traced | None) -> None:
    """Emit an event that somebody should look at.

    Args:
        name: As declared.
        attributes: As declared; those that are None are left out.
        said: The event in words.
        span: Where the call is in the trace; None: whatever span is current.
    """
    _emit(name, attributes, said, span, SeverityNumber.WARN)


def inform(name: str, attributes: Mapping[str, Any], span: Traced | None) -> None:
    """Emit an event that nobody needs to look at; the arguments are those of `warn`."""
    _emit(name, attributes, None, span, SeverityNumber.INFO)


def _emit(
    name: str, attributes: Mapping[str, Any], said: str | None, span: Traced | None, severity: SeverityNumber
) -> None:
    if recorded():
        logs.get_logger(SCOPE).emit(
            event_name=name,
            severity_number=severity,
            severity_text=severity.name,
            body=said,
            attributes={key: value for key, value in attributes.items() if value is not None},
            context=_inside(span),
        )


def _inside(span: Traced | None) -> Context | None:
    if span is None:
        return None
    context = SpanContext(int(span.trace_id, 16), int(span.span_id, 16), is_remote=False, trace_flags=TraceFlags(0))
    return trace.set_span_in_context(NonRecordingSpan(context))
