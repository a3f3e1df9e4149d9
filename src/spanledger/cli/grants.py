"""Commands that say who may do what: list the grants, give one, take one back.

Rules: they count from the next call on, in programs that run as well. A grant is told from others by its permission,
its agent and its actor; giving it again replaces it. What was revoked stays in the list that `--all` shows.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from spanledger.cli.common import Commands, answer, decider, name_decider, opened, shown, words
from spanledger.cli.control import parsed_amount
from spanledger.core.approvals import over
from spanledger.core.grants import Grant
from spanledger.core.money import amount_of
from spanledger.errors import SpanledgerError


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    grants = commands.add(
        "grants",
        _grants,
        "Show who may do what, let somebody, or stop that.",
        "spanledger grants add payments:refund --agent support --limit '280.00 EUR'",
    )
    grants.add_argument("--all", action="store_true", help="also those that have expired or were revoked")
    commands = Commands(grants, required=False, metavar="[add | revoke]")
    add = commands.add(
        "add",
        _add,
        "Let an agent or an actor do something; what is given again replaces what was there.",
        "spanledger grants add 'payments:*' --agent support --limit '280.00 EUR' --approval-over '100.00 EUR'",
    )
    revoke = commands.add(
        "revoke", _revoke, "Take a grant back.", "spanledger grants revoke 'payments:*' --agent support"
    )
    for command in (add, revoke):
        command.add_argument("permission", type=words, help="such as payments:refund, payments:* or *")
        command.add_argument("--agent", type=words, help="to which agent; without it, any")
        command.add_argument("--actor", type=words, help="for whom; without it, anybody")
        name_decider(command)
    add.add_argument("--limit", type=words, help="the most that one call may cost, for example '280.00 EUR'")
    asked = add.add_mutually_exclusive_group()
    asked.add_argument("--approval", action="store_true", help="a person has to say yes to each call")
    asked.add_argument("--approval-over", type=words, help="only to calls that cost more, for example '100.00 EUR'")
    hidden = "a key's name or a JSONPath that neither people nor the tool are to have; may be repeated"
    add.add_argument("--redact", action="append", type=words, default=[], metavar="PLACE", help=hidden)
    add.add_argument("--expires-at", type=words, help="until when, for example 2026-12-31T18:00:00+01:00")
    add.add_argument("--hours", type=words, help="in which hours of the day, in UTC, for example 09:00-17:00")
    add.add_argument("--deny", action="store_true", help="the opposite: they may not, whatever broader grants say")
    add.add_argument("--reason", type=words, help="told to whoever is denied")


def _grants(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        rows = [row for row in ledger.grants() if arguments.all or row["state"] in ("granted", "denied")]
    answer(arguments, rows, [grant_text(row) for row in rows] or ["nothing is granted"])
    return 0


def grant_text(row: Mapping[str, Any]) -> str:
    """Say what a row of the grants lets whom do."""
    spec = row["spec"]
    said = f"{row['state']}  {shown(row['permission'])}"
    said += f"  to agent {shown(row['agent'])}" if row["agent"] else "  to any agent"
    said += f" for {shown(row['actor'])}" if row["actor"] else ""
    if spec.get("limit"):
        said += f", at most {_amount(spec['limit'])} a call"
    if spec.get("approval"):
        over_ = f" over {_amount(spec['approval'])}" if isinstance(spec["approval"], dict) else ""
        said += f", with a person's approval{over_}"
    said += f", without {', '.join(shown(one['path']) for one in spec['redact'])}" if spec.get("redact") else ""
    said += f", at {shown(spec['hours'])} UTC" if spec.get("hours") else ""
    said += f", until {row['expires_at']}" if row["expires_at"] else ""
    said += f": {shown(spec['reason'])}" if spec.get("reason") else ""
    return f"{said}  (version {row['version']}, by {shown(row['applied_by'])})"


def _amount(said: Mapping[str, Any]) -> str:
    return str(amount_of(said["unit"], said["steps"]))


def _add(arguments: argparse.Namespace) -> int:
    asked = over(parsed_amount(arguments.approval_over)) if arguments.approval_over else arguments.approval
    grant = Grant(
        arguments.permission,
        agent=arguments.agent,
        actor=arguments.actor,
        allowed=not arguments.deny,
        limit=parsed_amount(arguments.limit) if arguments.limit else None,
        approval=asked,
        redact=arguments.redact,
        expires_at=arguments.expires_at,
        hours=arguments.hours,
        reason=arguments.reason,
    )
    with opened(arguments) as ledger:
        ledger.grant(grant, by=decider(arguments))
        row = _found(ledger, arguments)
    answer(arguments, row, [grant_text(row)])
    return 0


def _revoke(arguments: argparse.Namespace) -> int:
    named = {"agent": arguments.agent, "actor": arguments.actor}
    with opened(arguments) as ledger:
        if not ledger.revoke(arguments.permission, by=decider(arguments), **named):
            raise SpanledgerError(
                f"there is no grant of {arguments.permission!r} to exactly these; see `spanledger grants`"
            )
        row = _found(ledger, arguments)
    answer(arguments, row, [grant_text(row)])
    return 0


def _found(ledger: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    wanted = (arguments.permission, arguments.agent, arguments.actor)
    found: dict[str, Any] = next(
        row for row in ledger.grants() if (row["permission"], row["agent"], row["actor"]) == wanted
    )
    return found
