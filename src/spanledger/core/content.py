"""Content: what a call is made with and what comes of it, and who may see how much of that where.

Rules: nothing is recorded unless somebody asks for it, in the configuration or by
OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT, and then without what a rule redacts. What people are shown of a
call, the copy of its arguments in the ledger and the words of its error, is redacted likewise, whatever is captured.
"""

from __future__ import annotations

import enum
import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import field
from typing import Any, Final, TypeVar

from spanledger.core.call import Call
from spanledger.core.frozen import value
from spanledger.core.outcomes import describe_error, storable
from spanledger.core.redaction import Redactor
from spanledger.errors import Undescribable

T = TypeVar("T")

logger = logging.getLogger("spanledger")

CAPTURE_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT"
EVENTS_VARIABLE: Final = "OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT"


class Capture(enum.StrEnum):
    """Where the content of calls is recorded; the values are those of OpenTelemetry's GenAI instrumentations."""

    NO_CONTENT = "no_content"
    SPAN_ONLY = "span_only"
    EVENT_ONLY = "event_only"
    SPAN_AND_EVENT = "span_and_event"

    @property
    def on_spans(self) -> bool:
        """Whether content is recorded as attributes of spans."""
        return self in (Capture.SPAN_ONLY, Capture.SPAN_AND_EVENT)

    @property
    def on_events(self) -> bool:
        """Whether content is recorded in events."""
        return self in (Capture.EVENT_ONLY, Capture.SPAN_AND_EVENT)

    @property
    def but_events(self) -> Capture:
        """The same without events."""
        return Capture.SPAN_ONLY if self.on_spans else Capture.NO_CONTENT


_WORDS: Final = {"": Capture.NO_CONTENT, "false": Capture.NO_CONTENT, "true": Capture.SPAN_ONLY}


def capture_said(text: str) -> Capture:
    """Read the environment's word on content: a name of `Capture`, true (on spans) or false; another captures none."""
    word = text.strip().lower()
    try:
        return _WORDS[word] if word in _WORDS else Capture(word)
    except ValueError:
        known = ", ".join(one.name for one in Capture)
        logger.warning("%s is %r and not one of %s, true, false; no content is captured", CAPTURE_VARIABLE, text, known)
        return Capture.NO_CONTENT


def captured(said: bool | str | None, environ: Mapping[str, str]) -> Capture:
    """Say where content is recorded; where nobody has said so, as the environment says."""
    if said is None:
        return capture_said(environ.get(CAPTURE_VARIABLE, ""))
    return _WORDS[str(said).lower()] if isinstance(said, bool) else Capture(said)


def events_said(environ: Mapping[str, str]) -> bool | None:
    """Read the environment's word on events of model calls: true, false, or None where it says nothing."""
    text = environ.get(EVENTS_VARIABLE, "")
    word = text.strip().lower()
    if word not in ("", "true", "false"):
        logger.warning("%s is %r and neither true nor false; events are told where content is", EVENTS_VARIABLE, text)
    return {"true": True, "false": False}.get(word)


@value
class Content:
    """What may be seen of one call, and where it is recorded.

    Attributes:
        redactor: Leaves out what a rule redacts.
        capture: Where content is recorded.
        documents: Its result is read from text that stands for JSON, as on a span.
    """

    redactor: Redactor = field(default_factory=Redactor)
    capture: Capture = Capture.NO_CONTENT
    documents: bool = False

    def hides(self, result: Any) -> bool:
        """Tell whether something of a result is not to be seen."""
        if not self.redactor.redact:
            return False
        if self.documents and isinstance(result, str):
            return self.redactor.text(result) != result
        return self.redactor.hides(result)

    def for_span(self, value: Any, *, document: bool = False) -> str | None:
        """Return the text to put on a span for arguments, a result or messages; None where nothing is to be put.

        Args:
            value: The arguments, the result or the messages.
            document: A text stands for a JSON document, and one that is none is masked.
        """
        return self._text(value, document=document) if self.capture.on_spans else None

    def for_event(self, value: Any, *, document: bool = False) -> str | None:
        """Return the text to put into an event, as `for_span` does; None where nothing is to be put."""
        return self._text(value, document=document) if self.capture.on_events else None

    def _text(self, value: Any, *, document: bool) -> str:
        seen = self.seen(value, document=document)
        return seen if isinstance(seen, str) else json.dumps(seen, ensure_ascii=False)

    def seen(self, value: Any, *, document: bool = False) -> Any:
        """Return what may be seen of a value as a JSON tree, wherever it goes."""
        if document and isinstance(value, str):
            return self.redactor.text(value)
        try:
            return self.redactor.tree(value)
        except ValueError:
            return repr(type(value))

    def words(self, text: str) -> str:
        """Return what may be seen of words about a call that the tool or its error made: all, or what is JSON of it."""
        return self.redactor.text(text)

    def error(self, error: BaseException) -> dict[str, str]:
        """Put an error into words for the ledger, as `describe_error` does."""
        told = describe_error(error)
        return told | {"message": self.words(told["message"])}

    def described(self, call: Call, describe: Callable[[], T]) -> T:
        """Describe a call. Where something is redacted, why that cannot be done is not told: it may repeat a value.

        Raises:
            Undescribable: It cannot be described.
        """
        try:
            return describe()
        except Undescribable:
            if not self.redactor.redact:
                raise
        # Raised here, so that the first one does not hang on it.
        raise Undescribable(
            f"{call.name!r} cannot be identified or priced by its arguments; why is not shown, as they are redacted"
        )

    def failure(self, text: str) -> dict[str, str]:
        """Put into words for the ledger that a tool said it failed."""
        return {"type": "failure", "message": storable(self.words(text))}

    def arguments(self, canonical: bytes | None, bytes_max: int) -> str | None:
        """Return the copy of the arguments that people read; None where they are unknown or too long.

        Args:
            canonical: The arguments in canonical form.
            bytes_max: Longer ones are not copied.
        """
        if canonical is None or len(canonical) > bytes_max:
            return None
        text = canonical.decode()
        if not self.redactor.redact:
            return text
        seen = self.seen(json.loads(text), document=True)
        return json.dumps(seen, ensure_ascii=False, separators=(",", ":"))


NOTHING: Final = Content()
