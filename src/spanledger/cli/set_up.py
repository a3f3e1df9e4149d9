"""Commands that set up: try it, prepare a ledger, let roles use it, look whether a program would be guarded.

Rules: all but `demo` act on the ledger that is configured here. `role` changes rights and makes no roles: that is the
database administrator's.
"""

from __future__ import annotations

import argparse
import sys

from spanledger.cli.common import EXIT_NOT_DONE, Commands, answer, decider, name_decider, opened, words
from spanledger.errors import SpanledgerError

_KINDS = {
    "agent": "begin, settle, fail",
    "operator": "resolve, cancel, apply, top up",
    "approver": "approve, deny",
    "evaluator": "run suites of evaluations",
}


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    commands.add(
        "demo",
        _demo,
        "See it work: an agent is killed, and the customer is refunded once.",
        "spanledger demo",
        tenant=False,
    )
    migrate = commands.add(
        "migrate",
        _migrate,
        "Bring the ledger's schema up to date.",
        "SPANLEDGER_DSN=postgresql://… spanledger migrate",
        tenant=False,
    )
    migrate.add_argument("--sql", action="store_true", help="only print it, for somebody else to run; asks no database")
    migrate.add_argument(
        "--since",
        type=int,
        default=0,
        metavar="VERSION",
        help="with --sql: the version there is; an empty database if not given",
    )
    commands.add("doctor", _doctor, "Look whether a program here would be guarded, and by what.", "spanledger doctor")
    role = commands.add(
        "role",
        _role,
        "Let a database role use the ledger for one tenant, or stop that.",
        "spanledger role acme_agents --kind agent --tenant acme",
        tenant=False,
    )
    role.add_argument("role", type=words, help="name of the database role")
    choice = role.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "--kind", choices=tuple(_KINDS), help="; ".join(f"{kind}: {may}" for kind, may in _KINDS.items())
    )
    choice.add_argument("--remove", action="store_true", help="take all its rights on the tenant back")
    role.add_argument("--tenant", type=words, required=True, help="the tenant, or '*' for all")
    name_decider(role)


def _demo(arguments: argparse.Namespace) -> int:
    import contextlib
    import io

    from spanledger.demo.main import main as demo
    from spanledger.demo.scenes import DemoFailed

    try:
        if not arguments.json:
            return demo()
        told = io.StringIO()
        with contextlib.redirect_stdout(told):
            demo()
    except DemoFailed as error:
        print(f"spanledger: {error}", file=sys.stderr)
        return EXIT_NOT_DONE
    answer(arguments, {"told": told.getvalue().splitlines()}, ())
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    if arguments.sql:
        from spanledger.ledger._migrate import script

        text = script(arguments.since)
        answer(arguments, {"sql": text}, [text.rstrip()])
        return 0
    with opened(arguments) as ledger:
        applied = ledger.migrate()
    answer(arguments, applied, [f"applied {name}" for name in applied] or ["nothing to do: the schema is up to date"])
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    import dataclasses

    from spanledger.doctor import examine
    from spanledger.doctor.finding import BAD, WARN
    from spanledger.terminal import paint

    colours = {WARN: "yellow", BAD: "red"}
    findings = examine(tenant=arguments.tenant)
    lines = []
    for found in findings:
        says = " ".join(found.says.split())
        lines.append(f"{paint(f'{found.state:<5}', colours.get(found.state, 'green'))}{found.about:<14} {says}")
        lines += [f"{'':<20}-> {found.do}"] if found.do else []
    answer(arguments, [dataclasses.asdict(found) for found in findings], lines)
    return EXIT_NOT_DONE if any(found.state == BAD for found in findings) else 0


def _role(arguments: argparse.Namespace) -> int:
    role, tenant = arguments.role, arguments.tenant
    with opened(arguments) as ledger:
        if arguments.remove and not ledger.unbind_role(role, tenant=tenant):
            raise SpanledgerError(f"role {role} has no rights on tenant {tenant}")
        if not arguments.remove:
            ledger.bind_role(role, kind=arguments.kind, tenant=tenant, by=decider(arguments))
    can = "has no rights any more" if arguments.remove else f"may act as {arguments.kind}"
    done = f"{role} {can} for tenant {tenant}"
    answer(arguments, {"role": role, "kind": arguments.kind, "tenant": tenant}, [done])
    return 0
