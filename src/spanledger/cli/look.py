"""Commands that look: calls, one call, requests for a person's consent, and the controls in force.

Rules: nothing is changed. What models and callers wrote is shown as text that cannot steer a terminal; JSON has it as
it is.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
import re
from collections.abc import Iterable, Iterator
from typing import Any

from spanledger.cli.common import Commands, answer, count, found_call, note_pruned, opened, shown, words
from spanledger.cli.delegations import delegation_text
from spanledger.core.approvals import Approval
from spanledger.core.controls import stopping_row
from spanledger.core.money import amount_of

CALL_STATES = ("in_flight", "succeeded", "failed", "unknown", "refused", "released", "reopened", "cancelled",
               "pending", "approved", "denied", "expired")  # fmt: skip
APPROVAL_STATES = ("pending", "approved", "consumed", "denied", "expired", "cancelled", "superseded")
_UNITS_S = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    calls = commands.add(
        "calls", _calls, "List calls, the newest first.", "spanledger calls --state unknown --since 2h"
    )
    calls.add_argument("--state", choices=CALL_STATES, help="only calls in this state now")
    for name in ("workflow", "tool", "agent", "actor"):
        calls.add_argument(f"--{name}", help=f"only calls of this {name}")
    calls.add_argument("--since", type=moment, help="only calls first made since then: 30m, 2h, 7d, or 2026-11-24")
    calls.add_argument("--limit", type=count, default=100, help="at most so many (100)")
    show = commands.add(
        "show", _show, "Show one call, who was asked about it, and its history.", "spanledger show 1cc4d506"
    )
    show.add_argument("key", type=words, help="the call's key, or its beginning")
    shadow = commands.add(
        "shadow",
        _shadow,
        "Count what programs in mode shadow let pass that would not have run.",
        "spanledger shadow --since 7d",
    )
    shadow.add_argument("--since", type=moment, help="only since then: 30m, 2h, 7d, or 2026-11-24")
    approvals = commands.add(
        "approvals", _approvals, "List what waits for a person's consent, the oldest first.", "spanledger approvals"
    )
    which = approvals.add_mutually_exclusive_group()
    which.add_argument("--state", choices=APPROVAL_STATES, default="pending", help="in this state instead of pending")
    which.add_argument("--all", action="store_true", help="in every state")
    approvals.add_argument("--limit", type=count, default=100, help="at most so many (100)")
    controls = commands.add(
        "controls", _controls, "List switches, approvals and rates that are in force.", "spanledger controls"
    )
    controls.add_argument("--all", action="store_true", help="also those that ask for nothing, and other rates")


def moment(text: str) -> dt.datetime:
    """Read how long ago, ``"30m"``, ``"2h"`` or ``"7d"``, or a date or time; without an offset it is local.

    Raises:
        argparse.ArgumentTypeError: It is none of them.
    """
    ago = re.fullmatch(r"(\d{1,9})([smhd])", text)
    try:
        if ago:
            return dt.datetime.now(dt.UTC) - dt.timedelta(seconds=int(ago[1]) * _UNITS_S[ago[2]])
        return dt.datetime.fromisoformat(text).astimezone()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no time; write 30m, 2h, 7d or 2026-11-24") from None


def _calls(arguments: argparse.Namespace) -> int:
    from spanledger.terminal import rows

    given = {name: getattr(arguments, name) for name in ("state", "tool", "agent", "actor", "since", "limit")}
    with opened(arguments) as ledger:
        calls = ledger.calls(workflow_id=arguments.workflow, **given)
        note = note_pruned(ledger, "calls", arguments.since) if len(calls) < arguments.limit else ""
    texts = ("workflow_id", "tool")
    lines = rows(call | {name: shown(call[name]) for name in texts} for call in calls)
    answer(arguments, calls, [*lines, note] if note else lines)
    return 0


def _show(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        call = found_call(ledger, arguments.key)
        history = ledger.history(call["key"])
        approvals = ledger.approvals(state=None, key=call["key"])
        acts = ledger.delegations.all(delegation_id=call["delegation"]) if call["delegation"] else []
    data = call | {"approvals": [dataclasses.asdict(approval) for approval in approvals], "history": history}
    lines = [
        *_of_call(call, approvals, history),
        *(line for row in acts for line in ("", "acts under", f"  {delegation_text(row)}")),
    ]
    answer(arguments, data | {"acts_under": acts}, lines)
    return 0


def _of_call(call: dict[str, Any], approvals: Iterable[Approval], history: Iterable[dict[str, Any]]) -> Iterator[str]:
    yield from (f"{name:<14}{shown(value)}" for name, value in call.items() if value is not None and name != "holds")
    for held in call["holds"] or ():
        yield f"{'holds':<14}{amount_of(held['unit'], held['held'])} of budget {shown(held['budget'])}"
    for number, approval in enumerate(approvals):
        yield from () if number else ("", "approvals")
        yield f"  {_at(approval.requested_at)}  {approval.id}  {_verdict_of(approval)}"
    for number, entry in enumerate(history):
        yield from () if number else ("", "history")
        by = f" by {shown(entry['by_name'])}" if entry["by_name"] else ""
        said = ", ".join(f"{name} {shown(value)}" for name, value in (entry["detail"] or {}).items())
        at = _at(dt.datetime.fromisoformat(entry["at"]))
        yield f"  {at}  {entry['event']}{by}, attempt {entry['attempt']}{f': {said}' if said else ''}"


def _shadow(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        passed = ledger.passed_over(arguments.since)
    counted: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for row in passed:
        counted.setdefault((row["verdict"], row["tool"]), []).append(row)
    lines = [_of_passed(verdict, tool, rows) for (verdict, tool), rows in sorted(counted.items())]
    answer(arguments, passed, lines or ["nothing was passed over"])
    return 0


def _of_passed(verdict: str, tool: str, rows: list[dict[str, Any]]) -> str:
    sums: dict[str, int] = {}
    for row in rows:
        for unit, steps in (row["reserve"] or {}).items():
            sums[unit] = sums.get(unit, 0) + steps
    amounts = ", ".join(str(amount_of(unit, steps)) for unit, steps in sorted(sums.items()))
    last = rows[-1]
    why = f": {shown(last['reason'])}" if last["reason"] else ""
    return f"{verdict}  {shown(tool)}  {amounts}, last {_at(dt.datetime.fromisoformat(last['at']))}{why}"


def _approvals(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        state = None if arguments.all else arguments.state
        approvals = ledger.approvals(state=state, limit=arguments.limit)
    lines = [line for approval in approvals for line in _of_approval(approval)]
    nothing = "nothing waits for a person" if state == "pending" else "none"
    answer(arguments, [dataclasses.asdict(approval) for approval in approvals], lines or [nothing])
    return 0


def _of_approval(approval: Approval) -> Iterator[str]:
    whose = " for ".join(shown(name) for name in (approval.agent, approval.actor) if name)
    yield (
        f"{approval.id[:8]}  {shown(approval.tool)}  workflow {shown(approval.workflow_id)}"
        f"{f'  by {whose}' if whose else ''}  asked {_at(approval.requested_at)}  {_verdict_of(approval)}"
    )
    # All of it: nobody shall say yes to what they were not shown.
    yield f"{'':<10}{shown(approval.arguments)}" if approval.arguments is not None else f"{'':<10}(arguments not kept)"


def _verdict_of(approval: Approval) -> str:
    if approval.state == "pending":
        return f"pending until {_at(approval.expires_at)}"
    by = f" by {shown(approval.by)}" if approval.by else ""
    return f"{approval.state}{by}{f': {shown(approval.note)}' if approval.note else ''}"


def _controls(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        controls = ledger.controls()
    if not arguments.all:
        controls = in_force(controls)
    answer(
        arguments,
        controls,
        [_of_control(row) for row in controls] or ["no switch, approval, permission or rate is in force"],
    )
    return 0


def in_force(controls: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Choose the controls that ask for something now, and of every pair of currencies the rate that holds."""
    rates: dict[str, tuple[dt.datetime, dt.datetime]] = {}
    rows = list(controls)
    now = dt.datetime.now(dt.UTC)
    for row in rows:
        if row["kind"] == "rate" and _dates(row)[0] <= now:
            rates[row["match"]] = max(rates.get(row["match"], _dates(row)), _dates(row))
    return [
        row
        for row in rows
        if stopping_row(row)
        or (row["kind"] == "approval" and row["spec"].get("approval") not in (False, None))
        or (row["kind"] == "permission" and row["spec"].get("permission") is not None)
        or (row["kind"] == "rate" and rates.get(row["match"]) == _dates(row))
    ]


def _dates(row: dict[str, Any]) -> tuple[dt.datetime, dt.datetime]:
    valid_from = dt.datetime.fromisoformat(row["spec"]["valid_from"])
    return valid_from, dt.datetime.fromisoformat(row["applied_at"])


def _of_control(row: dict[str, Any]) -> str:
    by = f"by {shown(row['applied_by'])} {_at(dt.datetime.fromisoformat(row['applied_at']))}"
    said = control_text(row["kind"], row["match"], row["spec"])
    return f"{said}  ({by})" if row["kind"] == "rate" else f"{said}  (version {row['version']}, {by})"


def control_text(kind: str, match: str, spec: dict[str, Any]) -> str:
    """Say what a control asks for."""
    if kind == "rate":
        source, target = match.split()
        return f"rate  1 {source} = {spec['rate']} {target} from {spec['valid_from'][:10]}"
    if kind == "switch":
        reason = f": {shown(spec['reason'])}" if spec.get("reason") else ""
        return f"switch  {shown(match)}  {'goes on' if spec.get('allowed', True) else 'stopped'}{reason}"
    if kind == "permission":
        needed = spec.get("permission")
        return f"permission  {shown(match)}  needs {shown(needed) if needed else 'none'}"
    asked = spec.get("approval")
    if isinstance(asked, dict):
        return f"approval  {shown(match)}  over {amount_of(asked['unit'], asked['steps'])}"
    return f"approval  {shown(match)}  {'always' if asked else 'not needed'}"


def _at(moment: dt.datetime) -> str:
    return f"{moment.astimezone():%Y-%m-%d %H:%M:%S}"
