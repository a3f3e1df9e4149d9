"""Permission: what an agent or an actor may do, and how a grant says so.

Rules: grants live in the ledger and are decided there, with everything else; a program's own file can add grants that
the ledger has never heard of, and give back none that an operator took away. The narrowest grant decides: by its
permission first, then by how many of agent and actor it names; of two that are as narrow, the one that refuses.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from spanledger.core import hours
from spanledger.core.approvals import Over
from spanledger.core.asking import Ask, Steps
from spanledger.core.moments import moment
from spanledger.core.money import Amount, Calls, Money, Tokens, amount_of
from spanledger.core.redaction import Redact, redacted_by
from spanledger.core.rules import Rule, is_permission
from spanledger.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Grant:
    """Lets agents or actors do something, up to a limit and until a moment; or denies it.

    Attributes:
        permission: ``"payments:refund"``; ``"payments:*"`` for all that begins so; ``"*"`` for everything.
        agent: To which agent; None to any.
        actor: For whom it may act; None for anybody.
        allowed: False denies it.
        limit: The most that one call may reserve under it; in another currency by the ledger's rates. A call that does
            not say what it costs in that unit is refused.
        approval: A person has to say yes: True, or `over` an amount that is reserved.
        redact: What of a call's arguments neither telemetry, people nor the tool itself are to have, and of its result
            and errors neither telemetry nor people: `Redact`, or a JSONPath or a key's name to mask. `guard` passes
            calls on without it; other calls that have it in their arguments are refused.
        expires_at: Until when it holds, on the database's clock.
        hours: In which hours of the day, in UTC and on that clock: ``"09:00-17:00"``, ``"22:00-06:00"``. At other times
            what it lets do is refused, whatever broader grants say; and what it denies is as if it were not there.
        reason: Told to whoever is denied.
    """

    permission: str
    agent: str | None = field(default=None, kw_only=True)
    actor: str | None = field(default=None, kw_only=True)
    allowed: bool = field(default=True, kw_only=True)
    limit: Amount | None = field(default=None, kw_only=True)
    approval: bool | Over = field(default=False, kw_only=True)
    redact: tuple[Redact | str, ...] = field(default=(), kw_only=True)
    expires_at: dt.datetime | None = field(default=None, kw_only=True)
    hours: str | None = field(default=None, kw_only=True)
    reason: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        where = f"grant {self.permission!r}"
        if self.permission != "*" and not is_permission(str(self.permission).removesuffix(":*")):
            raise ConfigError(f"{where}: a permission is a name such as 'payments:refund', 'payments:*' or '*'")
        for name in ("agent", "actor", "reason"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, str) or not value.strip()):
                raise ConfigError(f"{where}: {name} is a text that is not empty, not {value!r}")
        if not isinstance(self.allowed, bool):
            raise ConfigError(f"{where}: allowed is true or false, not {self.allowed!r}")
        if self.limit is not None and not isinstance(self.limit, Money | Tokens | Calls):
            raise ConfigError(f"{where}: the limit is Money (never a float), Tokens or Calls, not {self.limit!r}")
        if not isinstance(self.approval, bool | Over):
            raise ConfigError(f"{where}: approval is true, false or over(amount), not {self.approval!r}")
        if not isinstance(self.redact, tuple | list) or not all(isinstance(one, str | Redact) for one in self.redact):
            raise ConfigError(f"{where}: redact is a list of JSONPaths, names of keys, or Redact, not {self.redact!r}")
        object.__setattr__(self, "redact", tuple(Redact(one) if isinstance(one, str) else one for one in self.redact))
        if self.hours is not None:
            hours.checked(self.hours, where)
        # What is written in a file or typed may be a text.
        if self.expires_at is not None:
            object.__setattr__(self, "expires_at", moment(self.expires_at, f"{where}: expires_at"))

    def control(self) -> dict[str, Any]:
        """The grant as the ledger's `apply` takes it."""
        return {
            "permission": self.permission,
            "agent": self.agent,
            "actor": self.actor,
            "expires_at": None if self.expires_at is None else self.expires_at.isoformat(),
            "spec": {
                "allowed": self.allowed,
                "limit": None if self.limit is None else _amount(self.limit),
                "approval": _amount(self.approval.amount) if isinstance(self.approval, Over) else self.approval or None,
                "reason": self.reason,
                # Without what grants could not say before, as it was then: applied again, it is no other grant.
                **({"redact": [one.said for one in self.redact if isinstance(one, Redact)]} if self.redact else {}),
                **({} if self.hours is None else {"hours": self.hours}),
            },
        }


@dataclass(frozen=True, slots=True)
class Authorization:
    """What the grants say about one permission.

    Attributes:
        permission: What was asked for.
        allowed: It is granted.
        reason: Why not; None where it is.
        grant: Which grant decided, for example ``"payments:* to agent support"``; None where none did.
        version: Of that grant.
        limit: The most that one call may cost, where it is refused for that.
        hours: The hours of the day in which it is granted, in UTC, where it is refused for that.
        approval: It is granted on condition that a person says yes to each call.
        delegation: The id of the delegation that was acted under.
        redact: It is granted on condition that this is kept from telemetry, from people and from whom is called.
    """

    permission: str
    allowed: bool
    reason: str | None = None
    grant: str | None = None
    version: int | None = None
    limit: Amount | None = None
    hours: str | None = None
    approval: bool = False
    delegation: str | None = None
    redact: tuple[Redact, ...] = ()

    def __bool__(self) -> bool:
        return self.allowed


def authorization(said: Mapping[str, Any]) -> Authorization:
    """Read what the ledger says."""
    limit = said.get("limit")
    return Authorization(
        permission=said["permission"],
        allowed="reason" not in said,
        reason=said.get("reason"),
        grant=said.get("grant"),
        version=said.get("version"),
        limit=None if limit is None else amount_of(limit["unit"], limit["steps"]),
        hours=said.get("hours"),
        approval=bool(said.get("approval")),
        delegation=said.get("delegation"),
        redact=redacted_by(said.get("redact", ())),
    )


def asked_item(asked_id: str, permission: str, amount: Amount | None, where: Mapping[str, Any]) -> dict[str, Any]:
    """Make the item of a question for a permission.

    Args:
        asked_id: A new UUID.
        permission: What is asked for.
        amount: What it would cost.
        where: agent, actor, workflow_id, trace_id and span_id.

    Raises:
        ConfigError: That is no permission or no amount.
    """
    if not is_permission(permission):
        raise ConfigError(f"a permission is a name such as 'payments:refund', not {permission!r}")
    if amount is not None and not isinstance(amount, Money | Tokens | Calls):
        raise ConfigError(f"the amount is Money (never a float), Tokens or Calls, not {amount!r}")
    reserve = {} if amount is None else {amount.unit: amount.steps}
    return {"id": asked_id, "permission": permission, "reserve": reserve, **where}


def authorized(tenant: str, item: Mapping[str, Any]) -> Steps[Authorization]:
    """Ask the ledger whether something is granted; it keeps the answer."""
    return authorization((yield Ask("authorize", tenant, item)))


def permitted_to(tenant: str, whose: Mapping[str, Any]) -> Steps[list[dict[str, Any]]]:
    """Ask the ledger which grants are in force for an agent and an actor."""
    found: list[dict[str, Any]] = yield Ask("permissions", tenant, whose)
    return found


def permitted(grants: Iterable[Mapping[str, Any]], permission: str, passed_s: float = 0.0) -> bool:
    """Tell whether grants permit something, whatever it costs; the ledger decides in the same way.

    Args:
        grants: What `permitted_to` found.
        permission: What is asked for.
        passed_s: How long ago that was.
    """
    found = _narrowest(grants, permission, passed_s)
    return bool(found) and all(grant["allowed"] and _open(grant, passed_s) for grant in found)


def denied(grants: Iterable[Mapping[str, Any]], permission: str, passed_s: float = 0.0) -> bool:
    """Tell whether grants deny something, which is more than not permitting it; the arguments are as above."""
    return not all(grant["allowed"] for grant in _narrowest(grants, permission, passed_s))


def _narrowest(grants: Iterable[Mapping[str, Any]], permission: str, passed_s: float) -> list[Mapping[str, Any]]:
    """Return the narrowest of the grants that have a permission."""
    fitting = [
        grant
        for grant in grants
        if permits(grant["permission"], permission)
        and (grant["left_s"] is None or grant["left_s"] > passed_s)
        and (grant["allowed"] or _open(grant, passed_s))
    ]
    narrowest = max((_narrowness(grant, permission) for grant in fitting), default=None)
    return [grant for grant in fitting if _narrowness(grant, permission) == narrowest]


def _open(grant: Mapping[str, Any], passed_s: float) -> bool:
    return grant.get("hours") is None or hours.within(grant["hours"], grant["at_s"] + passed_s)


def permits(granted: str, permission: str) -> bool:
    """Tell whether a grant's permission has another one."""
    return granted in ("*", permission) or (granted.endswith(":*") and permission.startswith(granted[:-1]))


def _narrowness(grant: Mapping[str, Any], permission: str) -> tuple[bool, int, int]:
    named = (grant["agent"] is not None) + (grant["actor"] is not None)
    return grant["permission"] == permission, len(grant["permission"]), named


def permission_controls(rules: Iterable[Rule]) -> list[dict[str, Any]]:
    """The permissions that rules ask for, as the ledger's `apply` takes them; the first rule that matches counts."""
    controls: list[dict[str, Any]] = []
    before: list[str] = []
    for rule in rules:
        if rule.match not in before:
            controls.append({"match": rule.match, "except": list(before), "permission": rule.permission})
        before.append(rule.match)
    return controls


def _amount(amount: Amount) -> dict[str, Any]:
    return {"unit": amount.unit, "steps": amount.steps}
