"""Commands about authority that agents have passed on: list it, show where it comes from and what came of it, end it.

Rules: what is revoked counts from the next call on, in programs that run as well, and takes everything below along.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from typing import Any

from spanledger.cli.common import Commands, answer, count, decider, name_decider, opened, shown, words
from spanledger.core.money import amount_of
from spanledger.errors import SpanledgerError


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    listed = commands.add(
        "delegations",
        _delegations,
        "Show what agents have passed on to others, or end it.",
        "spanledger delegations revoke 6d1c9c9e --reason 'the token was in a log'",
    )
    listed.add_argument("--all", action="store_true", help="also those that have expired or were revoked")
    commands = Commands(listed, required=False, metavar="[show | revoke]")
    show = commands.add(
        "show",
        _show,
        "Show one: where it comes from, what came of it, and what was done under it.",
        "spanledger delegations show 6d1c9c9e",
    )
    show.add_argument("--limit", type=count, default=20, help="at most so many calls (20)")
    revoke = commands.add(
        "revoke", _revoke, "End one with everything that came of it.", "spanledger delegations revoke 6d1c9c9e"
    )
    for command in (show, revoke):
        command.add_argument("id", type=words, help="the delegation's id, or its beginning")
    revoke.add_argument("--reason", type=words, help="told to whoever acts under it")
    name_decider(revoke)


def _delegations(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        rows = ledger.delegations.all(None if arguments.all else "active")
    answer(arguments, rows, [delegation_text(row) for row in rows] or ["nothing is delegated"])
    return 0


def _show(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        row = _found(ledger, arguments.id)
        others = ledger.delegations.all()
        calls = ledger.delegations.calls(row["id"], limit=arguments.limit)
    above = [other for other in others if other["id"] in row["chain"][:-1]]
    below = [other for other in others if row["id"] in other["chain"][:-1]]
    lines = [delegation_text(row), *_part("comes from", map(delegation_text, above))]
    lines += _part("passed on as", map(delegation_text, below))
    lines += _part("calls", (f"{call['key'][:12]}  {call['state']}  {shown(call['tool'])}" for call in calls))
    answer(arguments, row | {"above": above, "below": below, "calls": calls}, lines)
    return 0


def _part(title: str, lines: Iterable[str]) -> list[str]:
    found = [f"  {line}" for line in lines]
    return ["", title, *found] if found else []


def _revoke(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        row = _found(ledger, arguments.id)
        ended = ledger.delegations.revoke(row["id"], by=decider(arguments), reason=arguments.reason)
        row = _found(ledger, row["id"])
    below = f", and {len(ended) - 1} that came of it" if len(ended) > 1 else ""
    answer(arguments, row | {"ended": ended}, [f"{delegation_text(row)}{below}"])
    return 0


def _found(ledger: Any, beginning: str) -> dict[str, Any]:
    rows = ledger.delegations.all(delegation_id=beginning)
    if len(rows) != 1:
        many = "more than one delegation has" if rows else "the ledger has no delegation with"
        raise SpanledgerError(f"{many} id {beginning}\N{HORIZONTAL ELLIPSIS}; see `spanledger delegations --all`")
    return dict(rows[0])


def chain_text(row: Mapping[str, Any]) -> str:
    """Say who passed it on to whom."""
    return " \N{RIGHTWARDS ARROW} ".join(shown(name) if name else "(no name)" for name in row["agents"])


def delegation_text(row: Mapping[str, Any]) -> str:
    """Say in a line what was passed on to whom, and how it stands."""
    said = f"{row['id'][:8]}  {row['state']}  {chain_text(row)}"
    said += f" for {shown(row['actor'])}" if row["actor"] else ""
    said += f": {shown(', '.join(row['permissions']))}"
    if row["unit"]:
        limit, spent, held = (amount_of(row["unit"], row[f"{name}_steps"]) for name in ("limit", "spent", "held"))
        said += f", at most {limit} ({spent} spent, {held} held)"
    said += f", until {row['expires_at']}"
    said += f" ({shown(row['reason'])})" if row["reason"] else ""
    if row["revoked_at"]:
        said += f"; revoked by {shown(row['revoked_by'])}"
        said += f": {shown(row['revoked_reason'])}" if row["revoked_reason"] else ""
    return said
