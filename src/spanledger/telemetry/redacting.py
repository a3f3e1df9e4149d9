"""Spans of other people's making, without what a rule redacts.

Rules: what is written on the span of a call whose rule redacts goes through here: attributes, events, exceptions, the
words of the status. What is declared in `semconv` and is no content says which call it is, and is left as it is.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import wrapt
from opentelemetry.semconv.attributes.exception_attributes import (
    EXCEPTION_ESCAPED,
    EXCEPTION_MESSAGE,
    EXCEPTION_STACKTRACE,
    EXCEPTION_TYPE,
)
from opentelemetry.trace import Span, Status

from spanledger.core.redaction import MASK, Redactor
from spanledger.telemetry import semconv
from spanledger.telemetry._declared import ATTRIBUTES
from spanledger.telemetry.quiet import quietly

# Text in them is JSON, or nobody's business.
_DOCUMENTS: Final = frozenset(
    {
        *(semconv.TOOL_CALL_ARGUMENTS, semconv.TOOL_CALL_RESULT, EXCEPTION_MESSAGE, EXCEPTION_STACKTRACE),
        *(semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES, semconv.SYSTEM_INSTRUCTIONS, semconv.TOOL_DEFINITIONS),
    }
)
_DOCUMENT_ENDS: Final = (".messages", ".system_instructions", ".prompt", ".completion")
_IDENTITY: Final = ({*ATTRIBUTES} - _DOCUMENTS) | {EXCEPTION_TYPE, EXCEPTION_ESCAPED}

if TYPE_CHECKING:
    _SpanProxy = wrapt.ObjectProxy[Span]
else:  # only its stubs are generic
    _SpanProxy = wrapt.ObjectProxy


def redacted(redactor: Redactor, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what may be seen of attributes."""
    given = attributes or {}
    named = {name: value for name, value in given.items() if name in _IDENTITY}
    rest = {name: value for name, value in given.items() if name not in _IDENTITY}
    documents = frozenset(name for name in rest if name in _DOCUMENTS or name.endswith(_DOCUMENT_ENDS))
    return named | redactor.attributes(rest, documents)


@quietly
def hide(span: Span, redactor: Redactor) -> None:
    """Write over what stands on a span already and is not to be seen."""
    written = dict(getattr(span, "attributes", None) or {})
    seen = redacted(redactor, written)
    span.set_attributes({name: seen.get(name, MASK) for name in written})


class RedactingSpan(_SpanProxy):
    """A span on which nothing is written that its rule redacts."""

    def __init__(self, span: Span, redactor: Redactor) -> None:
        super().__init__(span)
        self._self_redactor = redactor

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute as it may be seen."""
        self.__wrapped__.set_attributes(redacted(self._self_redactor, {key: value}))

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes as they may be seen."""
        self.__wrapped__.set_attributes(redacted(self._self_redactor, attributes))

    def add_event(self, name: str, attributes: Mapping[str, Any] | None = None, timestamp: int | None = None) -> None:
        """Add an event, its attributes as they may be seen."""
        self.__wrapped__.add_event(name, redacted(self._self_redactor, attributes), timestamp)

    def record_exception(
        self, exception: BaseException, attributes: Mapping[str, Any] | None = None, *args: Any, **kwargs: Any
    ) -> None:
        """Record an exception: its type, where it was raised, and of its words what may be seen."""
        shown = redacted(self._self_redactor, attributes)
        words = {
            EXCEPTION_MESSAGE: self._self_redactor.text(str(exception)),
            EXCEPTION_STACKTRACE: "".join(traceback.format_tb(exception.__traceback__)),
        }
        self.__wrapped__.record_exception(exception, {**shown, **words}, *args, **kwargs)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Set the status, its description as far as it may be seen."""
        words = self._self_redactor.text
        if isinstance(status, Status):
            said = status.description
            status = Status(status.status_code, None if said is None else words(said))
        self.__wrapped__.set_status(status, None if description is None else words(description))
