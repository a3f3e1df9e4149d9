"""What the span of a call says, as attributes: of what was asked, of the answer, of the end.

Rules: pure. What there is nothing to say of is left out, or None, which `record` leaves out. All that is known at one
moment is put together here and set at once: a span takes a lock, and checks every value, each time something is set.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.asking import Asking
from spanledger.core.call import Begun, Outcome, Verdict
from spanledger.core.money import amount_of
from spanledger.core.values import NOT_SHOWN
from spanledger.errors import ApprovalDenied, ApprovalPending, BudgetExceeded, NotAuthorized, SpanledgerError
from spanledger.telemetry import delegating, outgoing, semconv

Attributes = dict[str, Any]


def of_asking(asking: Asking) -> Attributes:
    """Say how a call was identified."""
    call, identity = asking.call, asking.identity
    said: Attributes = {
        semconv.CALL_KEY: identity.key,
        semconv.KEY_SOURCE: identity.source,
        semconv.WORKFLOW_SOURCE: str(call.workflow_source),
    }
    if identity.source == "occurrence":
        said[semconv.OCCURRENCE] = call.occurrence.number
    if identity.scope:
        said[semconv.WORKFLOW_ID] = identity.scope
    if asking.terms.rule is not None:
        said[semconv.RULE] = asking.terms.rule
    if call.agent is not None:
        said[semconv.AGENT_NAME] = call.agent
    if call.actor is not None:
        said[semconv.ACTOR] = call.actor
    return said if asking.authority is None else said | delegating.said(asking.authority)


def of_answer(answer: Begun) -> Attributes:
    """Say what the ledger has said."""
    said: Attributes = {semconv.VERDICT: str(answer.verdict)}
    if answer.attempt:
        said[semconv.ATTEMPT] = answer.attempt
    if answer.verdict is Verdict.RUN and answer.reserved:
        said |= _of_reserved(answer.reserved)
    if answer.budgets:
        said |= _of_budgets(answer.budgets)
    if answer.details:
        said |= _of_details(answer.details)
    if answer.approval_id is not None:
        said[semconv.APPROVAL_ID] = answer.approval_id
    if answer.arguments_differ:
        said[semconv.ARGUMENTS_DIFFER] = True
    if answer.unguarded:
        said[semconv.UNGUARDED] = True
    if answer.would_have is not None:
        said |= {semconv.WOULD_HAVE: answer.would_have, semconv.REASON: answer.reason}
    return said


def of_outcome(outcome: Outcome) -> Attributes:
    """Say how a call ended, as the ledger has it; nothing of what it returned or raised."""
    ended = outcome.ended
    said: Attributes = {semconv.OUTCOME: outcome.recorded}
    if outcome.queued:
        said[semconv.QUEUED] = True
    elif outcome.recorded == "succeeded":
        said[semconv.RESULT_KEPT] = outcome.result_kept and ended.value is not NOT_SHOWN
    if outcome.late:
        said[semconv.LATE] = True
    if ended.cost:
        said[semconv.COST] = [str(amount_of(unit, steps)) for unit, steps in ended.cost.items()]
    error = ended.error or ended.hidden
    return said if error is None else said | outgoing.ended_by(error)


def of_refusal(error: SpanledgerError) -> Attributes:
    """Say what a refusal carries besides verdict and reason."""
    if isinstance(error, ApprovalPending):
        return {semconv.APPROVAL_ID: error.approval_id}
    if isinstance(error, ApprovalDenied):
        return {semconv.APPROVER: error.approver}
    if isinstance(error, NotAuthorized):
        return {semconv.PERMISSIONS: None if error.permission is None else [error.permission]}
    if isinstance(error, BudgetExceeded):
        return {
            semconv.BUDGETS: [error.budget],
            semconv.BUDGETS_REMAINING: [str(error.remaining)],
            semconv.BUDGET_LIMIT: str(error.limit),
            semconv.BUDGET_REQUESTED: str(error.requested),
            semconv.BUDGET_PROJECTED: str(error.projected),
        }
    return {}


def grant_named(grant: str, version: int, **_: Any) -> str:
    """Name a grant with the version of it that decided."""
    return f"{grant} (version {version})"


def _of_reserved(reserved: Mapping[str, int]) -> Attributes:
    amounts = [str(amount_of(unit, steps)) for unit, steps in reserved.items() if unit != "calls"]
    return {semconv.RESERVED: amounts or None}


def _of_budgets(budgets: tuple[Mapping[str, Any], ...]) -> Attributes:
    return {
        semconv.BUDGETS: [b["name"] for b in budgets],
        semconv.BUDGETS_BEFORE: [str(amount_of(b["unit"], b["remaining"] + b["reserved"])) for b in budgets],
        semconv.BUDGETS_REMAINING: [str(amount_of(b["unit"], b["remaining"])) for b in budgets],
    }


def _of_details(details: Mapping[str, Any]) -> Attributes:
    grants = details.get("grants") or ()
    return {
        semconv.PROBED: details["probed"].outcome if "probed" in details else None,
        semconv.PERMISSIONS: [grant["permission"] for grant in grants] or None,
        semconv.GRANTS: [grant_named(**grant) for grant in grants] or None,
        semconv.APPROVER: details.get("approved_by"),
    }
