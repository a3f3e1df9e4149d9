"""What `Ledger` and `AsyncLedger` ask and how they read the answers: their common half.

Rules: pure. A request is an `Ask`, a `Read` or a `Run` that either driver carries out; nothing here blocks or awaits.
"""

from __future__ import annotations

import dataclasses
import uuid
from collections.abc import Iterable
from typing import Any

from spanledger.config import Config
from spanledger.core.budgets import Balance
from spanledger.core.call import Begun, Call, Outcome, ToolCall, Verdict
from spanledger.core.money import Amount, amount_of
from spanledger.core.outcomes import describe_error, is_ambiguous, storable
from spanledger.core.rules import terms_for
from spanledger.core.steps import RESOLUTIONS, Ask, Asking, keep_plain, kept_text
from spanledger.core.values import decode, encode
from spanledger.errors import ConfigError
from spanledger.ledger._functions import Read, Run


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
        opted_in=True,
    )
    return config.asking(described, attempt_id=str(uuid.uuid4()))


def settle(config: Config, begun: Begun, result: Any, cost: Amount | None) -> Ask:
    text = None
    if terms_for(Call(begun.tool, opted_in=True), config.rules).keep_result and begun.key_source != "none":
        text = kept_text(begun.tool, result, PlainCodec(), config.result_bytes_max)
    item = ended(begun, cost) | {"result": text, "result_kept": text is not None}
    return Ask("settle", begun.tenant, item, shielded=True)


def fail(config: Config, begun: Begun, error: BaseException, outcome_unknown: bool | None) -> Ask:
    if outcome_unknown is None:
        outcome_unknown = is_ambiguous(error, terms_for(Call(begun.tool, opted_in=True), config.rules))
    item = ended(begun, None) | {"error": describe_error(error), "outcome_unknown": outcome_unknown}
    return Ask("fail", begun.tenant, item, shielded=True)


def ended(begun: Begun, cost: Amount | None) -> dict[str, Any]:
    return {
        "key": begun.key,
        "attempt_id": begun.attempt_id,
        "cost": {} if cost is None else {cost.unit: cost.steps},
    }


def resolve(config: Config, key: str, by: str, found: tuple[str, Any, str | None]) -> Ask:
    outcome, result, reason = found
    if outcome not in RESOLUTIONS:
        raise ConfigError(f"an outcome is one of {', '.join(RESOLUTIONS)}, not {outcome!r}")
    item: dict[str, Any] = {"key": key, "by": storable(by), "outcome": outcome}
    if reason is not None:
        item |= {"reason": storable(reason)}
    if outcome == "succeeded":
        item |= {"result": keep_plain(result), "result_kept": True}
    return Ask("resolve", config.tenant, item)


def cancel(config: Config, key: str, by: str, reason: str | None) -> Ask:
    item: dict[str, Any] = {"key": key, "by": storable(by)}
    if reason is not None:
        item |= {"reason": storable(reason)}
    return Ask("cancel", config.tenant, item)


def calls(config: Config, where: dict[str, Any], limit: int) -> Read:
    return Read("calls", {"tenant": config.tenant} | where, "created_at desc, key", limit)


def history(config: Config, key: str) -> Read:
    return Read("history", {"tenant": config.tenant, "key": key}, "id")


def budgets(config: Config, name: str | None, tenant: str | None) -> Read:
    return Read("budgets", {"tenant": tenant or config.tenant, "name": name}, "name")


def balances(rows: Iterable[dict[str, Any]]) -> list[Balance]:
    figures = ("limit", "spent", "held", "remaining")
    return [Balance(row["name"], *(amount_of(row["unit"], row[f"{f}_steps"]) for f in figures)) for row in rows]


def only(balances: list[Balance], name: str) -> Balance:
    if not balances:
        raise ConfigError(f"the ledger has no budget {name!r}; apply a configuration that names it")
    return balances[0]


def top_up(config: Config, name: str, amount: Amount, by: str) -> Run:
    return Run("top_up", (config.tenant, name, amount.unit, amount.steps, by))


def check_topped(done: bool, name: str, amount: Amount) -> None:
    if not done:
        raise ConfigError(f"the ledger has no budget {name!r} in {amount.unit}")


def shown_begun(begun: Begun) -> Begun:
    if begun.verdict is Verdict.REPLAY and begun.result_kept:
        return dataclasses.replace(begun, result=decode(begun.result))
    return begun


def result_of(outcome: Outcome) -> Any:
    if outcome.ended.error is not None:
        raise outcome.ended.error
    return outcome.ended.value
