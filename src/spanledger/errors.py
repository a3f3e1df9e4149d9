"""Every error spanledger raises, by what the caller can do about it.

    SpanledgerError            .key of the call, where there is one
    |__ CallRefused            did not run: tell the agent no
    |   |__ BudgetExceeded     .budget .unit .limit .spent .held .remaining .requested .projected
    |   |__ ApprovalDenied     a person said no, or nobody answered in time: .approver .reason
    |   |__ NotAuthorized      stopped, or not permitted: .permission .reason
    |   |__ EgressRefused      a request was kept from leaving: .rule .method .host .path .reason
    |   |__ CallCancelled      a person said that it shall not run: .by .reason
    |   |__ KeyReused          same key, other arguments
    |   |__ Undescribable      a guarded tool was called in a way we cannot describe
    |__ CallPending            not yet
    |   |__ CallInProgress     another worker holds the call
    |   |__ ApprovalPending    a person is asked: .approval_id
    |__ CallFailed             failed before, for good: .error .attempts
    |__ ResultNotKept          succeeded before, its result was not kept
    |__ CallReplayed           .result: raised only where a span has no other way to hand it over
    |__ OutcomeUnknown         may have taken effect: .attempts; ask a person or a probe
    |__ LedgerUnavailable      no answer; the call did not run: retry later
    |__ ConfigError            at start, or a value that can never be right (also a ValueError)
        |__ WrapMissing        a guarded function is not where this version of spanledger expects it

    CallStopped                a BaseException around one of the above, for callers that swallow every Exception: .error

Rules: data is on attributes, never only in the text; every error survives pickling; the text says what
to do next. Errors of the wrapped function are never wrapped: they reach the caller as they are.
"""

from __future__ import annotations

from typing import Any, ClassVar


class SpanledgerError(Exception):
    """Base of all errors of spanledger.

    Attributes:
        key: The idempotency key of the call, as hexadecimal text; None where no call is concerned.
    """

    _data: ClassVar[tuple[str, ...]] = ()
    # What the rule of a call wants to become of it: "raise" or "tell". A framework must not make something else of it.
    _on_refusal: str | None = None
    # What grants redact of the call; None where the ledger has not said, so that nobody knows.
    _redact: tuple[Any, ...] | None = None
    key: str | None

    def __init__(self, message: str, *, key: str | None = None, **data: Any) -> None:
        super().__init__(message)
        self.key = key
        unknown = data.keys() - set(self._data)
        if unknown:
            raise TypeError(f"{type(self).__name__} has no {', '.join(sorted(unknown))}")
        for name in self._data:
            setattr(self, name, data.get(name))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), str(self), {n: getattr(self, n) for n in ("key", *self._data)})


def _rebuild(cls: type[SpanledgerError], message: str, data: dict[str, Any]) -> SpanledgerError:
    return cls(message, **data)


class CallRefused(SpanledgerError):
    """The call did not run and, as things stand, must not."""


class BudgetExceeded(CallRefused):
    """A budget has too little left for this call.

    Attributes:
        budget: The budget's name.
        unit: A currency code, ``"tokens"`` or ``"calls"``.
        limit: The limit including top-ups, as an amount of that unit; so are the next five.
        spent: What settled calls have cost.
        held: What running calls and calls of unknown outcome hold.
        remaining: limit - spent - held.
        requested: What this call asked to reserve.
        projected: spent + held + requested: where the budget would stand if the call ran.
    """

    _data = ("budget", "unit", "limit", "spent", "held", "remaining", "requested", "projected")
    budget: str
    unit: str
    limit: Any
    spent: Any
    held: Any
    remaining: Any
    requested: Any
    projected: Any


class ApprovalDenied(CallRefused):
    """A person did not allow this call, or nobody answered in time.

    Attributes:
        approver: Who said no; None where nobody answered.
        reason: Why, if that was given.
    """

    _data = ("approver", "reason")
    approver: str | None
    reason: str | None


class NotAuthorized(CallRefused):
    """An operator has stopped calls like this one, or nothing permits it.

    Attributes:
        permission: What would be needed; None where a switch stopped it.
        reason: Why not.
        grant: Which grant decided, for example ``"payments:* to agent support"``; None where none did.
        delegation: The id of the delegation that was acted under; None where there was none, or it could not be read.
    """

    _data = ("permission", "reason", "grant", "delegation")
    permission: str | None
    reason: str | None
    grant: str | None
    delegation: str | None


class EgressRefused(CallRefused):
    """An HTTP request from inside a guarded tool was kept from leaving; so ends the call that wanted to send it.

    Attributes:
        rule: The name of the egress rule.
        method: Of the request.
        host: Whom it was for.
        path: The pattern of the rule, which says no more of the request than the rule does.
        reason: Why, where the rule gives a reason or something of the request could not be read.
    """

    _data = ("rule", "method", "host", "path", "reason")
    rule: str
    method: str
    host: str
    path: str
    reason: str | None


class CallCancelled(CallRefused):
    """A person said that this call shall not run.

    Attributes:
        by: Who said so.
        reason: Why, if that was given.
    """

    _data = ("by", "reason")
    by: str | None
    reason: str | None


class KeyReused(CallRefused):
    """The same key was used before with other arguments."""


class Undescribable(CallRefused):
    """A tool that a rule names was called in a way that cannot be identified or priced."""


class CallPending(SpanledgerError):
    """The call did not run yet; ask again later."""


class CallInProgress(CallPending):
    """Another worker runs this very call and did not finish within ``wait_timeout_s``."""


class ApprovalPending(CallPending):
    """A person has to allow this call and has not answered within ``wait_timeout_s``; the request lives on.

    Attributes:
        approval_id: What to approve or deny.
    """

    _data = ("approval_id",)
    approval_id: str


class CallFailed(SpanledgerError):
    """The call failed before, definitely, and the rule does not allow another attempt.

    Attributes:
        error: The recorded error: a mapping with ``type`` and ``message``.
        attempts: How many attempts were made.
    """

    _data = ("error", "attempts")
    error: dict[str, Any] | None
    attempts: int


class ResultNotKept(SpanledgerError):
    """The call succeeded before and must not run again, but its result was not kept."""


class CallReplayed(SpanledgerError):
    """Raised out of a span instead of running its body: the call succeeded before.

    Attributes:
        result: The recorded result.
    """

    _data = ("result",)
    result: Any


class OutcomeUnknown(SpanledgerError):
    """The call was started before and nobody knows whether it took effect.

    Attributes:
        attempts: How many attempts were made.
    """

    _data = ("attempts",)
    attempts: int


class LedgerUnavailable(SpanledgerError):
    """The ledger did not answer, so the call did not run.

    Attributes:
        asked: The question may have reached the ledger all the same.
    """

    _data = ("asked",)
    asked: bool | None


class ConfigError(SpanledgerError, ValueError):
    """A configuration, an amount or the state of the ledger's schema that can never work."""


class WrapMissing(ConfigError):
    """A function that has to be guarded was not found in the installed version of its library."""


class CallStopped(BaseException):
    """A call did not run, and whoever opened its span would swallow any `Exception` and run it all the same.

    Raised only for spans of such instrumentations; the fitting error is its `error` and its cause.

    Attributes:
        error: Why it did not run.
    """

    def __init__(self, error: SpanledgerError) -> None:
        super().__init__(str(error))
        self.error = error

    def __reduce__(self) -> tuple[Any, ...]:
        return CallStopped, (self.error,)
