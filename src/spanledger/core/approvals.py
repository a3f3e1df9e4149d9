"""When a person has to say yes, and what they are asked.

Rules: a request is bound to exactly the arguments that will run. Whether one is needed is said by the rule (decided
here) or by the ledger's own controls (decided there); the stricter counts. What cannot be decided is not run.
"""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from spanledger.core.call import EXECUTE_TOOL, Call
from spanledger.core.money import Amount, Calls, Money, Tokens
from spanledger.errors import ConfigError, Undescribable


@dataclass(frozen=True, slots=True)
class Over:
    """An approval is needed where a call reserves more than this; `over` makes one.

    Attributes:
        amount: The most that needs none.
    """

    amount: Amount

    def __post_init__(self) -> None:
        if not isinstance(self.amount, Money | Tokens | Calls):
            raise ConfigError(f"over takes Money, Tokens or Calls, not {self.amount!r}")


def over(amount: Amount) -> Over:
    """Say that calls which reserve more than an amount need an approval: ``Rule("refund", approval=over(limit))``.

    A call that reserves nothing in a currency needs one, too, and so does one in a currency that the ledger has no rate
    for: nobody can tell how much it costs.
    """
    return Over(amount)


ApprovalRule = bool | Over | Callable[[Mapping[str, Any]], bool]


def is_approval_rule(value: Any) -> bool:
    """Tell whether a value can be a rule's `approval`."""
    return isinstance(value, bool | Over) or (callable(value) and not inspect.iscoroutinefunction(value))


@dataclass(frozen=True, slots=True)
class Approval:
    """A request for a person's consent, as the ledger has it.

    Attributes:
        id: What `Ledger.approve` and `Ledger.deny` take.
        key: The call's idempotency key.
        tool: The tool's name.
        arguments: What it would be called with, as far as people may see it; None where it was too long to keep.
        requested_at: When it was asked for, on the database's clock.
        expires_at: Until when it can be answered.
        state: ``"pending"``, ``"approved"``, ``"consumed"`` (approved, and an attempt has it), ``"denied"``,
            ``"expired"``, ``"cancelled"`` or ``"superseded"`` (by a request for other arguments).
        workflow_id: The scope of the call.
        agent: Name of the agent.
        actor: On whose behalf it acts.
        rule: The `match` of the rule that asked; None where only the ledger's own control did.
        by: Who decided.
        note: What they said.
        tenant: Whose call it is.
    """

    id: str
    key: str
    tool: str
    arguments: Any
    requested_at: dt.datetime
    expires_at: dt.datetime
    state: str = "pending"
    workflow_id: str = ""
    agent: str | None = None
    actor: str | None = None
    rule: str | None = None
    by: str | None = None
    note: str | None = None
    tenant: str = ""


def asked_for(call: Call, approval: ApprovalRule) -> bool | dict[str, Any]:
    """Say what the rule asks for, as the ledger takes it: no, yes, or an amount that must not be exceeded.

    Raises:
        Undescribable: The rule's callable gave no yes or no.
    """
    if call.operation != EXECUTE_TOOL:
        return False
    if isinstance(approval, Over):
        return {"unit": approval.amount.unit, "steps": approval.amount.steps}
    if isinstance(approval, bool):
        return approval
    arguments = call.arguments if isinstance(call.arguments, Mapping) else {}
    try:
        needed = approval(arguments)
    except Exception as error:
        raise Undescribable(
            f"whether {call.name!r} needs an approval cannot be said: {type(error).__name__}: {error}"
        ) from error
    if not isinstance(needed, bool):
        if inspect.iscoroutine(needed):
            needed.close()
        raise Undescribable(f"approval of {call.name!r} gave {needed!r}; it has to be True or False")
    return needed
