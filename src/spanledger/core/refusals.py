"""A verdict that is neither run nor replay, as the error its caller sees, and the verdict that an error stands for.

Rules: an error says what to do and carries the ledger's figures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Begun, Call, Verdict
from spanledger.core.money import Amount, amount_of
from spanledger.errors import (
    ApprovalDenied,
    ApprovalPending,
    BudgetExceeded,
    CallCancelled,
    CallFailed,
    CallInProgress,
    KeyReused,
    LedgerUnavailable,
    NotAuthorized,
    OutcomeUnknown,
    SpanledgerError,
)

_VERDICTS: dict[type[SpanledgerError], str] = {
    BudgetExceeded: Verdict.BUDGET_EXCEEDED,
    CallCancelled: Verdict.CANCELLED,
    KeyReused: Verdict.KEY_REUSED,
    OutcomeUnknown: Verdict.OUTCOME_UNKNOWN,
    CallFailed: Verdict.FAILED,
    CallInProgress: Verdict.IN_PROGRESS,
    ApprovalPending: Verdict.AWAITING_APPROVAL,
    ApprovalDenied: Verdict.DENIED,
    NotAuthorized: Verdict.UNAUTHORIZED,
    LedgerUnavailable: "ledger_unavailable",
}

# Refusals that `begin` has written down itself.
WRITTEN_BY_BEGIN = (BudgetExceeded, NotAuthorized, ApprovalPending)


def verdict_of(error: SpanledgerError) -> str:
    """Name the verdict that an error stands for."""
    if isinstance(error, ApprovalDenied) and error.approver is None:
        return str(Verdict.EXPIRED)
    return str(next((verdict for kind, verdict in _VERDICTS.items() if isinstance(error, kind)), "refused"))


def refusal(begun: Begun, call: Call) -> SpanledgerError:
    """Turn a verdict that is neither run nor replay into its error."""
    name, details = call.name, begun.details
    why = f": {begun.reason}" if begun.reason else ""
    match begun.verdict:
        case Verdict.BUDGET_EXCEEDED:
            figures = {f: details.get(f) for f in BudgetExceeded._data}  # noqa: SLF001
            figures["projected"] = _projected(details)
            return BudgetExceeded(f"{name!r} was not run{why}", key=begun.key, **figures)
        case Verdict.KEY_REUSED:
            return KeyReused(
                f"{name!r} was not run: its key was used before with other arguments; use another key, "
                "or allow it with on_mismatch='replay'",
                key=begun.key,
            )
        case Verdict.AWAITING_APPROVAL | Verdict.DENIED | Verdict.EXPIRED:
            return _unapproved(begun, name, why)
        case Verdict.UNAUTHORIZED:
            return _unauthorized(begun, name, why)
        case Verdict.CANCELLED:
            return CallCancelled(
                f"{name!r} was not run: {details.get('by')} cancelled it{why}; "
                f"`spanledger resolve {begun.key} --outcome retry` lets it run",
                key=begun.key,
                by=details.get("by"),
                reason=begun.reason,
            )
        case Verdict.OUTCOME_UNKNOWN:
            return OutcomeUnknown(
                f"{name!r} was started before and nobody knows whether it took effect{why}; find out, then "
                f"`spanledger resolve {begun.key} --outcome succeeded|failed|retry`",
                key=begun.key,
                attempts=begun.attempts,
            )
        case Verdict.FAILED:
            error = details.get("error") or {}
            message = f"{name!r} failed before and is not run again: {error.get('message', 'no message')}"
            return CallFailed(message, key=begun.key, error=error, attempts=begun.attempts)
        case _:
            return CallInProgress(f"{name!r} is being run by another worker; ask again later", key=begun.key)


def _projected(details: Mapping[str, Any]) -> Amount | None:
    """Say where a budget would stand with the call; None where it is not known where it stands."""
    figures: list[Any] = [details.get(name) for name in ("spent", "held", "requested")]
    return None if None in figures else amount_of(details["unit"], sum(one.steps for one in figures))


def _unauthorized(begun: Begun, name: str, why: str) -> SpanledgerError:
    details = begun.details
    match, by, permission = details.get("switch"), details.get("by"), details.get("permission")
    said = f": {match!r} is stopped{f' by {by}' if by else ''}" if match else ""
    if permission:
        grant, limit = details.get("grant"), details.get("limit")
        most = f" of at most {amount_of(limit['unit'], limit['steps'])}" if limit else ""
        said = f": it needs {permission!r}{f', and the grant {grant!r}{most} decides' if grant else ''}"
    return NotAuthorized(
        f"{name!r} was not run{said}{why}",
        key=begun.key,
        reason=begun.reason,
        permission=permission,
        grant=details.get("grant"),
        delegation=details.get("delegation"),
    )


def _unapproved(begun: Begun, name: str, why: str) -> SpanledgerError:
    if begun.verdict is Verdict.AWAITING_APPROVAL:
        return ApprovalPending(
            f"{name!r} was not run: a person has to say yes; `spanledger approve {begun.approval_id}`, then ask again",
            key=begun.key,
            approval_id=begun.approval_id,
        )
    reopen = f"`spanledger resolve {begun.key} --outcome retry` lets it be asked for again"
    if begun.verdict is Verdict.EXPIRED:
        reason = "nobody answered in time"
        return ApprovalDenied(f"{name!r} was not run: {reason}; {reopen}", key=begun.key, reason=reason)
    by = begun.details.get("by")
    return ApprovalDenied(
        f"{name!r} was not run: {by} denied it{why}; {reopen}", key=begun.key, approver=by, reason=begun.reason
    )
