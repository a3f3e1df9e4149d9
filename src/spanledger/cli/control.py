"""Commands that say what calls may do: apply a file, stop and resume tools, budgets.

Rules: they count from the next call on, in programs that run as well, and every change is kept in the ledger's history.
What is not said about a budget stays as it is. A program whose role owns the ledger applies its own file when it
starts: what shall last belongs into that file.
"""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from spanledger.cli.common import Commands, answer, decider, name_decider, opened, shown, words
from spanledger.cli.look import control_text
from spanledger.config import Config
from spanledger.core.approvals import Over
from spanledger.core.budgets import Balance, Budget
from spanledger.core.controls import Switch, covers, stopping_row
from spanledger.core.money import Calls, Money, Tokens
from spanledger.errors import ConfigError, SpanledgerError

_NONE = "none"


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    apply = commands.add(
        "apply",
        _apply,
        "Write the budgets, approvals, permissions, grants, switches and rates of spanledger.toml into the ledger.",
        "spanledger apply spanledger.toml",
    )
    apply.add_argument(
        "config_file",
        metavar="file",
        nargs="?",
        type=words,
        help="the file (SPANLEDGER_CONFIG, else spanledger.toml here)",
    )
    stop = commands.add(
        "stop",
        _stop,
        "Stop all calls of some tools: what runs ends as it would, nothing new begins.",
        "spanledger stop 'stripe.*' --reason \"the bank is down\"",
    )
    stop.add_argument("--reason", help="told to whoever is refused")
    resume = commands.add("resume", _resume, "Let stopped tools go on.", "spanledger resume 'stripe.*'")
    for command in (stop, resume):
        command.add_argument("match", help="name of the tool or model; * stands for any text")
    for command in (apply, stop, resume):
        name_decider(command)
    budgets = commands.add(
        "budgets",
        _budgets,
        "Show how the budgets stand, change one, or raise it for its present window.",
        "spanledger budgets set mails '20 calls' --match 'mail.*' --window day",
    )
    _add_budget_commands(Commands(budgets, required=False, metavar="[set | top-up]"))


def _add_budget_commands(commands: Commands) -> None:
    change = commands.add(
        "set",
        _set_budget,
        "Add or change a budget; what is not said stays as it is.",
        "spanledger budgets set refunds '500.00 EUR' --match refund --per actor --window day --soft 0.8",
    )
    top_up = commands.add(
        "top-up",
        _top_up,
        "Raise what a budget may spend in its present window.",
        "spanledger budgets top-up refunds '50.00 EUR' --scope actor=u_42",
    )
    for command, figure, text in (
        (change, "limit", "for example '500.00 EUR', '4000 tokens' or '20 calls'"),
        (top_up, "amount", "by how much, in the budget's unit"),
    ):
        command.add_argument("name", help="the budget's name")
        command.add_argument(figure, help=text)
        name_decider(command)
    change.add_argument("--match", type=words, help="name of the tools or models it covers; * stands for any text")
    change.add_argument("--per", help="what it is kept apart by, for example actor,tool; or none")
    change.add_argument("--window", help="hour, day, month, a number of seconds (rolling), or none")
    change.add_argument("--timezone", type=words, help="where the calendar is, for example Europe/Berlin")
    change.add_argument("--soft", help="warn beyond this: an amount, a share such as 0.8, or none")
    top_up.add_argument(
        "--scope",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="whose, where it is kept apart; 'actor=' for calls of no actor",
    )


def _apply(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        config: Config = ledger.config
        before = {(row["kind"], row["match"]) for row in ledger.controls() if _asks(row)}
        ledger.apply(config, by=decider(arguments))
    controls = config.controls()
    lines = [f"applied budget {b.name}: {b.limit}" for b in config.budgets]
    applied: dict[str, Any] = {"budgets": [budget.name for budget in config.budgets]}
    for kind, name in (("approval", "approvals"), ("permission", "permissions"), ("switch", "switches")):
        told = [
            item for item in controls[name] if _asks({"kind": kind, "spec": item}) or (kind, item["match"]) in before
        ]
        lines += [f"applied {control_text(kind, item['match'], item)}" for item in told]
        applied[name] = [item["match"] for item in told]
    rates = [(f"{item['from_unit']} {item['to_unit']}", item) for item in controls["rates"]]
    lines += [f"applied {control_text('rate', match, item)}" for match, item in rates]
    applied["rates"] = [match for match, _ in rates]
    lines += [f"applied grant {grant.permission}" for grant in config.grants]
    applied["grants"] = [grant.permission for grant in config.grants]
    for rule in config.rules:
        if callable(rule.approval) and not isinstance(rule.approval, Over):
            lines.append(
                f"not applied: whether {rule.match} needs an approval is said by a function of the program's own"
            )
    answer(arguments, applied, lines or ["no controls in the configuration"])
    return 0


def _asks(row: dict[str, Any]) -> bool:
    asks = {"approval": False, "permission": None}
    return stopping_row(row) or (row["kind"] in asks and row["spec"].get(row["kind"]) is not asks[row["kind"]])


def _stop(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        _switch(ledger, Switch(arguments.match, allowed=False, reason=arguments.reason), decider(arguments))
    answer(arguments, {"match": arguments.match, "allowed": False}, [f"stopped {arguments.match}"])
    return 0


def _resume(arguments: argparse.Namespace) -> int:
    match = arguments.match
    with opened(arguments) as ledger:
        on = [row["match"] for row in ledger.controls() if stopping_row(row)]
        if match not in on:
            others = f"; stopped are {', '.join(on)}" if on else ""
            raise SpanledgerError(f"nothing is stopped under the name {match}{others}")
        _switch(ledger, Switch(match, allowed=True), decider(arguments))
    still = [other for other in on if other != match and covers(other, match)]
    said = f"resumed {match}" + (f"; it is still stopped by {', '.join(still)}" if still else "")
    answer(arguments, {"match": match, "allowed": True, "still_stopped_by": still}, [said])
    return 0


def _switch(ledger: Any, switch: Switch, by: str) -> None:
    ledger.apply(Config(switches=(switch,)), by=by, tenant=ledger.config.tenant)


def _budgets(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        balances = ledger.budgets()
    lines = [_of_balance(balance) for balance in balances]
    answer(arguments, [_balance_as_json(balance) for balance in balances], lines or ["no budgets"])
    return 0


def _balance_as_json(balance: Balance) -> dict[str, Any]:
    values = {field.name: getattr(balance, field.name) for field in dataclasses.fields(balance)}
    return {name: str(value) if isinstance(value, Money | Tokens | Calls) else value for name, value in values.items()}


def _of_balance(balance: Balance) -> str:
    whose = ", ".join(f"{name} {'-' if value is None else shown(value)}" for name, value in balance.scope.items())
    name = f"{shown(balance.name)} of {whose}" if whose else shown(balance.name)
    words = [f"{name}: {balance.spent} spent", f"{balance.held} held", f"{balance.remaining} left of {balance.limit}"]
    if isinstance(balance.window, str):
        words.append(f"every {balance.window} ({balance.timezone})")
    elif balance.window is not None:
        words.append(f"within {balance.window:g} s")
    if balance.per and not whose:
        words.append(f"for each {' and '.join(balance.per)}")
    if balance.soft is not None:
        words.append(f"{'past its' if balance.past_soft else ''} soft limit {balance.soft}".strip())
    return ", ".join(words)


def _set_budget(arguments: argparse.Namespace) -> int:
    limit = parsed_amount(arguments.limit)
    with opened(arguments) as ledger:
        held = next((balance for balance in ledger.budgets() if balance.name == arguments.name), None)
        terms = {} if held is None else {name: getattr(held, name) for name in _TERMS}
        budget = Budget(arguments.name, limit, **(terms | _said(arguments)))
        ledger.apply(Config(budgets=(budget,)), by=decider(arguments), tenant=ledger.config.tenant)
        balance = next(balance for balance in ledger.budgets() if balance.name == budget.name)
    answer(arguments, _balance_as_json(balance), [_of_balance(balance)])
    return 0


_TERMS = ("match", "operations", "per", "window", "timezone", "soft")


def _said(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a command line says of a budget, but for its limit."""
    said: dict[str, Any] = {
        name: getattr(arguments, name) for name in ("match", "timezone") if getattr(arguments, name)
    }
    if arguments.per is not None:
        said["per"] = () if arguments.per == _NONE else tuple(arguments.per.split(","))
    if arguments.window is not None:
        said["window"] = None if arguments.window == _NONE else _number(arguments.window) or arguments.window
    if arguments.soft is not None:
        said["soft"] = None if arguments.soft == _NONE else _number(arguments.soft) or parsed_amount(arguments.soft)
    return said


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _top_up(arguments: argparse.Namespace) -> int:
    amount = parsed_amount(arguments.amount)
    scope = dict(_scope_part(part) for part in arguments.scope)
    with opened(arguments) as ledger:
        if arguments.name not in {balance.name for balance in ledger.budgets()}:
            raise SpanledgerError(f"the ledger has no budget {arguments.name!r}; see `spanledger budgets`")
        ledger.top_up(arguments.name, amount, by=decider(arguments), scope=scope)
        balance = ledger.budget(arguments.name, scope=scope or None)
    answer(arguments, _balance_as_json(balance), [_of_balance(balance)])
    return 0


def _scope_part(text: str) -> tuple[str, str | None]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ConfigError(f"--scope is NAME=VALUE, for example actor=u_42, not {text!r}")
    return name, value or None


def parsed_amount(text: str) -> Any:
    """Read an amount as it is typed.

    Raises:
        ConfigError: It is none.
    """
    from spanledger.core.money import parse_amount

    try:
        return parse_amount(text)
    except ConfigError as error:
        raise ConfigError(f"{error}; write for example '500.00 EUR', '4000 tokens' or '20 calls'") from None
