"""What is said in a model call or in the run of an agent, read where somebody wants it recorded.

Rules: nothing is read unless it is asked for. The request is read before it is sent, since its lists belong to the
caller, and shown only at the end: what a rule redacts of the answer is masked in the request as well. So it fails
closed: where a tool's rule redacts anything and not all that was said could be read, nothing of it is shown. What
cannot be read is of no concern to the caller; why is told by the kind of the error alone.
"""

from __future__ import annotations

import functools
import logging
from typing import Any, Final

from spanledger.config import Config
from spanledger.core import parts
from spanledger.core.call import Call
from spanledger.core.messages import Asked, Message
from spanledger.core.redaction import Redact, Redactor
from spanledger.core.rules import Rule
from spanledger.core.said import Said
from spanledger.instrument.library import Conversation, Messages

logger = logging.getLogger("spanledger.instrument")

OWN_RULES_MAX: Final = 4_096
"""Tools with rules of their own whose redaction is remembered."""

_RUN: Final = "a run of an agent"

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
        self._whole = True
        try:
            self._asked = messages.asked(request)
        except Exception as error:  # noqa: BLE001 - logged
            self._whole = _unreadable("a request", error)

    def gather(self, chunk: Any) -> None:
        """Hear a chunk of an answer."""
        try:
            self._messages.gather(self._gathered, chunk)
        except Exception as error:  # noqa: BLE001 - logged
            self._whole = _unreadable("a chunk", error)

    def answer(self, answer: Any) -> None:
        """Hear an answer."""
        self._answer = answer

    def said(self, call: Call, config: Config) -> Said:
        """Return what was said, as it may be seen."""
        try:
            output = self._messages.answered(self._gathered if self._answer is None else self._answer)
        except Exception as error:  # noqa: BLE001 - logged
            self._whole, output = _unreadable("an answer", error), []
        return _seen(Said(self._asked, output), call, config, whole=self._whole)


class Overheard:
    """What is said in one run of an agent.

    Args:
        conversation: How to read it.
        given: Instance, arguments and keyword arguments of the function that runs the agent.
    """

    def __init__(self, conversation: Conversation, given: tuple[Any, Any, Any]) -> None:
        self._conversation = conversation
        self._given = given
        self._gathered: dict[str, Any] = {}
        self._result: Any = None
        self._asked = Asked()
        self._whole = True
        try:
            self._asked = conversation.asked(*given)
        except Exception as error:  # noqa: BLE001 - logged
            self._whole = _unreadable("a question", error, _RUN)

    def gather(self, item: Any) -> None:
        """Hear what the run has yielded."""
        if self._conversation.gather is None:
            return
        try:
            self._conversation.gather(self._gathered, item)
        except Exception as error:  # noqa: BLE001 - logged
            self._whole = _unreadable("a piece", error, _RUN)

    def result(self, result: Any) -> None:
        """Hear what came of the run; it is looked at when that is over."""
        self._result = result

    def said(self, call: Call, config: Config, *, ended: bool) -> Said:
        """Return what the agent was asked and has answered, as it may be seen.

        All that was said in between counts for what is masked, and is told by the calls in the run.

        Args:
            call: The run.
            config: What may be seen of it.
            ended: It came to its end; what was said last in one that did not is seen by nobody.
        """
        came = self._gathered if self._result is None else self._result
        told: list[Message] | None = None
        try:
            told = self._conversation.followed(*self._given, came)
        except Exception as error:  # noqa: BLE001 - logged
            _unreadable("an answer", error, _RUN)
        whole, followed = ended and self._whole and told is not None, told or []
        system: list[Message] = []
        for part in (part for one in followed if one["role"] == "system" for part in one["parts"]):
            # It is said to the model again with every request.
            system += [] if part in system else [part]
        asked = Asked(self._asked.input, self._asked.system or system, self._asked.tools)
        said = _seen(Said(asked, followed), call, config, whole=whole)
        answers = said.output[-1:] if followed and followed[-1]["role"] == "assistant" else []
        return Said(
            said.asked, [{**answer, "finish_reason": answer.get("finish_reason", "stop")} for answer in answers]
        )


def told(prompt: str | None, response: str | None, call: Call, config: Config) -> Said | None:
    """Return what a program says that a model was asked and answered, as it may be seen; None where nobody wants it."""
    if (prompt is None and response is None) or not (
        config.message_capture.on_spans or config.message_capture.on_events
    ):
        return None
    asked = [] if prompt is None else [parts.message("user", [parts.text(prompt)])]
    answered = [] if response is None else [parts.message("assistant", [parts.text(response)])]
    return _seen(Said(Asked(asked), answered), call, config, whole=True)


def _seen(said: Said, call: Call, config: Config, *, whole: bool) -> Said:
    of_tool = _redactors(call, config)
    if not whole and of_tool("").redact:
        return Said(Asked(), [])
    return said.seen(config.content(call).redactor, of_tool)


def _redactors(call: Call, config: Config) -> functools.partial[Redactor]:
    return functools.partial(_redactor, config, config.terms(call).redact)


def _redactor(config: Config, of_model: tuple[Redact, ...], tool: str) -> Redactor:
    of_tool = config.terms(Call(tool)).redact if tool else (one for rule in config.rules for one in rule.redact)
    own = _own.get(tool, ()) if tool else (one for places in _own.values() for one in places)
    return config.redactor(tuple(dict.fromkeys((*of_tool, *own, *of_model))))


def _unreadable(what: str, error: Exception, of: str = "a model call") -> bool:
    # Its words may repeat what nobody is to see.
    logger.warning("%s of %s cannot be recorded: %s", what, of, type(error).__name__)
    return False
