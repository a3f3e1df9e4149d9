"""Spans of other people's making, without what a rule redacts.

Rules: what is written on the span of a call whose rule redacts goes through here: attributes, events, exceptions, the
words of the status. What says which call it is (`gen_ai.*` and `spanledger.*`, but for content) is left as it is.
"""

from __future__ import annotations

import traceback
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import wrapt
from opentelemetry.trace import Span, Status

from spanledger.core.redaction import Redactor
from spanledger.telemetry import semconv

DOCUMENTS: Final = frozenset(
    {
        semconv.TOOL_CALL_ARGUMENTS,
        semconv.TOOL_CALL_RESULT,
        "gen_ai.input.messages",
        "gen_ai.output.messages",
        "gen_ai.system_instructions",
        "gen_ai.prompt",
        "gen_ai.completion",
        "exception.message",
        "exception.stacktrace",
    }
)
_IDENTITY: Final = ("gen_ai.", "spanledger.", "error.type", "exception.type", "exception.escaped")

if TYPE_CHECKING:
    _SpanProxy = wrapt.ObjectProxy[Span]
else:  # only its stubs are generic
    _SpanProxy = wrapt.ObjectProxy


def redacted(redactor: Redactor, attributes: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return what may be seen of attributes."""
    given = attributes or {}
    named = {name: value for name, value in given.items() if name.startswith(_IDENTITY) and name not in DOCUMENTS}
    rest = {name: value for name, value in given.items() if name not in named}
    return named | redactor.attributes(rest, DOCUMENTS)


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
            "exception.message": self._self_redactor.text(str(exception)),
            "exception.stacktrace": "".join(traceback.format_tb(exception.__traceback__)),
        }
        self.__wrapped__.record_exception(exception, {**shown, **words}, *args, **kwargs)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Set the status, its description as far as it may be seen."""
        words = self._self_redactor.text
        if isinstance(status, Status):
            said = status.description
            status = Status(status.status_code, None if said is None else words(said))
        self.__wrapped__.set_status(status, None if description is None else words(description))
