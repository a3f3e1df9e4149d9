"""What `Ledger` and `AsyncLedger` ask and how they read the answers: their common half.

Rules: pure. A request is an `Ask`, a `Read` or a `Run` that either driver carries out; nothing here blocks or awaits.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import json
import logging
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from spanledger.config import Config
from spanledger.core.approvals import Approval
from spanledger.core.asking import Ask, Asking, Steps
from spanledger.core.budgets import Balance
from spanledger.core.call import Begun, Call, Outcome, ToolCall, Verdict
from spanledger.core.grants import Authorization, Grant, asked_item, authorized
from spanledger.core.ids import new_id
from spanledger.core.money import Amount, Calls, Money, Tokens, amount_of
from spanledger.core.outcomes import is_ambiguous, storable
from spanledger.core.payload import opened
from spanledger.core.settling import cost_of, found_text, kept_text
from spanledger.core.steps import RESOLUTIONS
from spanledger.core.values import NotJsonError, decode, encode
from spanledger.errors import ConfigError, NotAuthorized, Undescribable
from spanledger.ledger._functions import ROWS_MAX, Prefix, Read, Run, Since
from spanledger.ledger._spool import Erased

logger = logging.getLogger("spanledger.ledger")


class PlainCodec:
    """Keeps values as JSON; what JSON lacks is tagged."""

    def encode(self, result: Any) -> Any:
        """Turn a result into a JSON tree that gives it back equal."""
        tree = encode(result, exact=True)
        back = decode(tree)
        if type(back) is not type(result) or back != result:
            raise TypeError(f"a {type(result).__qualname__} would not come back equal")
        return tree

    def decode(self, tree: Any, call: Call) -> Any:  # noqa: ARG002 - the call matters to other codecs
        """Turn a kept tree into the result."""
        return decode(tree)


def asking(config: Config, call: ToolCall) -> Asking:
    described = Call(
        name=call.tool,
        arguments=call.arguments,
        workflow_id=call.workflow_id,
        tenant=call.tenant,
        call_id=call.call_id,
        key=call.key,
        fields=call.fields,
        resource=call.resource,
        agent=call.agent,
        actor=call.actor,
        cost=call.cost,
        delegation=call.delegation,
        opted_in=True,
    )
    made = config.asking(described, attempt_id=new_id())
    if made.identity.source == "occurrence":
        raise Undescribable(
            f"{call.tool!r} is identified by which of the equal calls of a run it is, and a ledger by hand knows no "
            "runs: guard it by @tool or tool_call() in a workflow(), or give it a key"
        )
    return made


def settle(config: Config, begun: Begun, result: Any, cost: Amount | None) -> Ask:
    text, call = None, Call(begun.tool, opted_in=True)
    if config.terms(call).keep_result and begun.key_source != "none":
        kept = config.kept(begun.tool, begun.tenant, begun.key)
        text = kept_text(kept, result, PlainCodec(), config.content(call))
    item = ended(begun, cost) | {"result": text, "result_kept": text is not None}
    item["cost"] = cost_of(begun, item["cost"])
    if begun.verdict not in (Verdict.RUN, Verdict.REPLAY):
        item["admitted"] = False  # who settles it says that it ran all the same
    return Ask("settle", begun.tenant, item, shielded=True)


def fail(config: Config, begun: Begun, said: BaseException | str, outcome_unknown: bool | None) -> Ask:
    call = Call(begun.tool, opted_in=True)
    error = said if isinstance(said, BaseException) else RuntimeError(str(said))
    if outcome_unknown is None:
        outcome_unknown = is_ambiguous(error, config.terms(call))
    told = config.content(call).error(error)
    item = ended(begun, None) | {"error": told, "outcome_unknown": outcome_unknown}
    return Ask("fail", begun.tenant, item, shielded=True)


def ended(begun: Begun, cost: Amount | None) -> dict[str, Any]:
    if cost is not None and not isinstance(cost, Money | Tokens | Calls):
        # The side effect has happened: a mistyped price must not leave its outcome untold.
        logger.error("%s was settled at %r, which is no amount; it costs what was reserved", begun.tool, cost)
        cost = None
    return {
        "key": begun.key,
        "attempt_id": begun.attempt_id,
        "cost": {} if cost is None else {cost.unit: cost.steps},
    }


def resolve(config: Config, key: str, by: str, found: tuple[str, Any, str | None], tool: str = "") -> Ask:
    outcome, result, reason = found
    if outcome not in RESOLUTIONS:
        raise ConfigError(f"an outcome is one of {', '.join(RESOLUTIONS)}, not {outcome!r}")
    item: dict[str, Any] = {"key": _checked_key(key), "by": _decider(by), "outcome": outcome}
    if reason is not None:
        item |= {"reason": storable(reason)}
    if outcome == "succeeded":
        content = config.content(Call(tool, opted_in=True))
        try:
            text = found_text(config.kept(tool, config.tenant, key), result, content)
        except NotJsonError as error:
            raise ConfigError(f"the result cannot be kept for replay: {error}") from error
        item |= {"result": text, "result_kept": text is not None}
    return Ask("resolve", config.tenant, item)


def to_erase(config: Config, tenant: str | None, **which: str | None) -> tuple[str, dict[str, str]]:
    wanted = {name: value for name, value in which.items() if value is not None}
    if tenant is None and not wanted:
        raise ConfigError("say what to erase: a workflow, an actor, a key, or a whole tenant by its name")
    if not all(isinstance(value, str) and value for value in wanted.values()):
        raise ConfigError(f"what to erase is said by texts that are not empty, not {wanted!r}")
    if "key" in wanted:
        _checked_key(wanted["key"])
    return tenant or config.tenant, wanted


def _checked_key(key: object) -> str:
    if not isinstance(key, str) or re.fullmatch("(?:[0-9a-f]{2})*", key) is None:
        raise ConfigError(f"{key!r} is no key; `spanledger calls` lists them")
    return key


def _decider(by: object) -> str:
    if not isinstance(by, str) or not by.strip():
        raise ConfigError(f"by is who decides, for example 'ops@example.com', not {by!r}")
    return storable(by)


def erase(tenant: str, wanted: dict[str, str], by: str, after: str) -> Run:
    if not isinstance(by, str) or not by.strip():
        raise ConfigError(f"by is who erases, for example 'ops@example.com', not {by!r}")
    return Run("erase", (tenant, wanted, storable(by), after))


def erased(tenant: str, wanted: Mapping[str, str], keys: Iterable[str]) -> Erased:
    """Tell which outcomes on disk are of erased calls: by key, or by what begins a call the ledger has not heard of."""
    known = frozenset(keys)

    def is_erased(content: Mapping[str, Any]) -> bool:
        item, begin = content.get("item") or {}, content.get("begin")
        if content.get("tenant") != tenant:
            return False
        if item.get("key") in known:
            return True
        told = None if begin is None else {**begin, "workflow": begin.get("workflow") or begin.get("workflow_id")}
        return told is not None and all(told.get(name) == value for name, value in wanted.items())

    return is_erased


def redacts(config: Config, outcome: str) -> bool:
    """Tell whether it matters for a resolution which tool it is about."""
    return outcome == "succeeded" and any(rule.redact for rule in config.rules)


def cancel(config: Config, key: str, by: str, reason: str | None) -> Ask:
    item: dict[str, Any] = {"key": _checked_key(key), "by": _decider(by)}
    if reason is not None:
        item |= {"reason": storable(reason)}
    return Ask("cancel", config.tenant, item)


def decision(config: Config, function: str, approval_id: str, by: str, note: str | None) -> Ask:
    try:
        uuid.UUID(approval_id)
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(f"{approval_id!r} is not an approval's id; `spanledger approvals` lists them") from None
    item: dict[str, Any] = {"id": approval_id, "by": _decider(by)}
    if note is not None:
        item |= {"note": storable(note)}
    return Ask(function, config.tenant, item)


def decided(answer: dict[str, Any], by: str) -> bool:
    if answer.get("self"):
        raise NotAuthorized(
            f"{by} asked for this call and may not approve it; another person has to",
            reason="self-approval",
        )
    return bool(answer["done"])


def approvals(config: Config, where: Mapping[str, Any], limit: int) -> Read:
    wanted = {"tenant": where["tenant"] or config.tenant, "state": where["state"], "key": where["key"]}
    if where["approval_id"]:
        wanted["id::text"] = Prefix(where["approval_id"].lower())
    return Read("approvals", wanted, "requested_at, id", limit)


def approvals_of(rows: Iterable[dict[str, Any]]) -> list[Approval]:
    def moment(text: str) -> dt.datetime:
        return dt.datetime.fromisoformat(text)

    return [
        Approval(
            id=row["id"],
            key=row["key"],
            tool=row["tool"],
            arguments=None if row["arguments"] is None else json.loads(row["arguments"]),
            requested_at=moment(row["requested_at"]),
            expires_at=moment(row["expires_at"]),
            state=row["state"],
            workflow_id=row["workflow_id"],
            agent=row["agent"],
            actor=row["actor"],
            rule=row["rule"],
            by=row["by_name"],
            note=row["note"],
            tenant=row["tenant"],
        )
        for row in rows
    ]


def call(config: Config, key: str) -> Read:
    # None would be no condition, and the answer whichever call comes first.
    return Read("calls", {"tenant": config.tenant, "key": key or ""}, "key", 1)


def calls(config: Config, where: Mapping[str, Any], limit: int) -> Read:
    wanted = dict(where) | {"tenant": where["tenant"] or config.tenant}
    key, since = wanted.pop("key"), wanted.pop("since")
    wanted["key"] = Prefix(key) if key else None
    wanted["created_at"] = None if since is None else Since(since.isoformat())
    return Read("calls", wanted, "created_at desc, key", limit)


def controls(config: Config, tenant: str | None) -> Read:
    return Read("controls", {"tenant": tenant or config.tenant}, "kind, match, applied_at")


def history(config: Config, key: str) -> Read:
    return Read("history", {"tenant": config.tenant, "key": key}, "id")


def passed_over(config: Config, since: dt.datetime | None) -> Read:
    wanted = {"tenant": config.tenant, "at": None if since is None else Since(since.isoformat())}
    return Read("passed_over", wanted, "id")


def timeline(
    config: Config,
    workflow_id: str | None,
    *,
    tool: str | None = None,
    since: dt.datetime | None = None,
    rows_max: int = ROWS_MAX,
    newest: bool = False,
) -> Read:
    """What happened in a workflow, of a tool, or since a moment: the first of it in order, or the last backwards."""
    wanted: dict[str, Any] = {"tenant": config.tenant, "workflow_id": workflow_id, "tool": tool}
    # What an entry is made of was touched when it happened, or later: that is what can be looked for.
    wanted["at"] = wanted["touched_at"] = None if since is None else Since(since.isoformat())
    return Read("timeline", wanted, "at desc, seq desc" if newest else "at, seq", rows_max)


def budgets(config: Config, name: str | None, tenant: str | None) -> Read:
    return Read("budgets", {"tenant": tenant or config.tenant, "name": name}, "name")


def balances(rows: Iterable[dict[str, Any]]) -> list[Balance]:
    return [
        Balance(
            name=row["name"],
            limit=amount_of(row["unit"], row["limit_steps"]),
            spent=amount_of(row["unit"], row["spent_steps"]),
            held=amount_of(row["unit"], row["held_steps"]),
            remaining=amount_of(row["unit"], row["remaining_steps"]),
            scope=json.loads(row["scope"]) if row["scope"] else {},
            window_start=dt.datetime.fromisoformat(row["window_start"]) if row["window_start"] else None,
            **_terms_of(row),
        )
        for row in rows
    ]


def only(rows: list[dict[str, Any]], name: str, scope: Mapping[str, str | None] | None) -> Balance:
    if not rows:
        raise ConfigError(f"the ledger has no budget {name!r}; apply a configuration that names it")
    found = balances(rows)
    if scope is not None:
        found = [balance for balance in found if balance.scope == scope] or [_untouched(rows[0], scope)]
    if len(found) > 1:
        raise ConfigError(
            f"budget {name!r} is kept apart by {', '.join(rows[0]['per'])}; say whose it shall be, "
            f"for example scope={dict(found[0].scope)}"
        )
    return found[0]


def _untouched(row: dict[str, Any], scope: Mapping[str, str | None]) -> Balance:
    """How a budget stands for somebody who has not used it in this window."""
    limit, nothing = amount_of(row["unit"], row["base_steps"]), amount_of(row["unit"], 0)
    return Balance(row["name"], limit, nothing, nothing, limit, dict(scope), **_terms_of(row))


def _terms_of(row: dict[str, Any]) -> dict[str, Any]:
    soft = row["soft_steps"]
    return {
        "match": row["match"],
        "operations": None if row["operations"] is None else tuple(row["operations"]),
        "per": tuple(row["per"]),
        "window": row["window_s"] if row["window_kind"] == "rolling" else row["window_kind"],
        "timezone": row["timezone"],
        "soft": None if soft is None else amount_of(row["unit"], soft),
    }


def grants(config: Config, tenant: str | None) -> Read:
    return Read("grants", {"tenant": tenant or config.tenant}, "permission, agent nulls first, actor nulls first")


def grant(config: Config, given: Grant, by: str) -> Run:
    if not isinstance(given, Grant):
        raise ConfigError(f"what is granted is a Grant, not {given!r}")
    return Run("apply", (config.tenant, {"grants": [given.control()]}, by))


def revoke(config: Config, given: Grant, by: str) -> Run:
    return Run("apply", (config.tenant, {"grants": [given.control() | {"revoked": True}]}, by))


def is_in_force(rows: list[dict[str, Any]], given: Grant) -> bool:
    wanted = (given.permission, given.agent, given.actor)
    return any((r["permission"], r["agent"], r["actor"]) == wanted and r["state"] != "revoked" for r in rows)


def authorize(config: Config, permission: str, amount: Amount | None, where: Mapping[str, Any]) -> Steps[Authorization]:
    return authorized(config.tenant, asked_item(new_id(), permission, amount, where))


def top_up(config: Config, name: str, amount: Amount, by: str, scope: Mapping[str, str | None] | None) -> Run:
    if amount.steps <= 0:
        raise ConfigError(f"budget {name!r} is topped up by more than nothing, not by {amount}")
    given = (config.tenant, name, amount.unit, amount.steps, by, dict(scope or {}))
    return Run("top_up", (*given, new_id()))


def check_topped(done: bool, name: str, amount: Amount) -> None:
    if not done:
        raise ConfigError(f"the ledger has no budget {name!r} in {amount.unit}")


def shown_begun(config: Config, begun: Begun) -> Begun:
    if begun.verdict is Verdict.REPLAY and begun.result_kept:
        codec = config.payload_codec
        tree = opened(begun.result, codec, tenant=begun.tenant, key=begun.key, name=begun.tool)
        return dataclasses.replace(begun, result=decode(tree))
    return begun


def result_of(outcome: Outcome) -> Any:
    if outcome.ended.error is not None:
        raise outcome.ended.error
    return outcome.ended.value
