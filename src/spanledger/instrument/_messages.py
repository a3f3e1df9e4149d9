"""What is said in a model call, read where somebody wants it recorded.

Rules: nothing is read unless it is asked for. The request is read before it is sent, since its lists belong to the
caller, and shown only at the end: what a rule redacts of the answer is masked in the request as well. Whatever cannot
be read is left out and is of no concern to the caller; why is told by the kind of the error alone.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Final

from spanledger.config import Config
from spanledger.core import parts
from spanledger.core.call import Call
from spanledger.core.messages import Asked
from spanledger.core.redaction import Redact, Redactor
from spanledger.core.rules import Rule
from spanledger.core.said import Said
from spanledger.instrument.library import Messages

logger = logging.getLogger("spanledger.instrument")

OWN_RULES_MAX: Final = 4_096
"""Tools with rules of their own whose redaction is remembered."""

# What developers redact at their tools themselves: models ask for these tools by name.
_own: dict[str, tuple[Redact | str, ...]] = {}


def redacts(own: Rule) -> None:
    """Remember what a tool's own rule redacts."""
    if own.redact and (own.match in _own or len(_own) < OWN_RULES_MAX):
        _own[own.match] = tuple(dict.fromkeys((*_own.get(own.match, ()), *own.redact)))


class Heard:
    """What is said in one model call, as it comes."""

    def __init__(self, messages: Messages, request: dict[str, Any]) -> None:
        self._messages = messages
        self._gathered: dict[str, Any] = {}
        self._answer: Any = None
        self._asked = Asked()
        try:
            self._asked = messages.asked(request)
        except Exception as error:  # noqa: BLE001 - logged
            _unreadable("a request", error)

    def gather(self, chunk: Any) -> None:
        """Hear a chunk of an answer."""
        try:
            self._messages.gather(self._gathered, chunk)
        except Exception as error:  # noqa: BLE001 - logged
            _unreadable("a chunk", error)

    def answer(self, answer: Any) -> None:
        """Hear an answer."""
        self._answer = answer

    def said(self, call: Call, config: Config) -> Said:
        """Return what was said, as it may be seen."""
        try:
            output = self._messages.answered(self._gathered if self._answer is None else self._answer)
        except Exception as error:  # noqa: BLE001 - logged
            _unreadable("an answer", error)
            output = []
        return Said(self._asked, output).seen(config.content(call).redactor, _redactors(call, config))


def told(prompt: str | None, response: str | None, call: Call, config: Config) -> Said | None:
    """Return what a program says that a model was asked and answered, as it may be seen; None where nobody wants it."""
    if (prompt is None and response is None) or not (
        config.content_capture.on_spans or config.content_capture.on_events
    ):
        return None
    asked = [] if prompt is None else [parts.message("user", [parts.text(prompt)])]
    answered = [] if response is None else [parts.message("assistant", [parts.text(response)])]
    return Said(Asked(asked), answered).seen(config.content(call).redactor, _redactors(call, config))


def _redactors(call: Call, config: Config) -> functools.partial[Redactor]:
    return functools.partial(_redactor, config, config.terms(call).redact)


def _redactor(config: Config, of_model: tuple[Redact, ...], tool: str) -> Redactor:
    of_tool = config.terms(Call(tool)).redact if tool else (one for rule in config.rules for one in rule.redact)
    own = _own.get(tool, ()) if tool else (one for places in _own.values() for one in places)
    return config.redactor(tuple(dict.fromkeys((*of_tool, *own, *of_model))))


def _unreadable(what: str, error: Exception) -> None:
    # Its words may repeat what nobody is to see.
    logger.warning("%s of a model call cannot be recorded: %s", what, type(error).__name__)
