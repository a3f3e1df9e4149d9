"""The command line: try it, prepare a ledger, look into it, decide what nobody else can.

Rules: every command takes `--json` where it shows something, and says with its exit code how it went: 0 done, 1 not
done (refused, or nothing to do it to), 2 wrong use or configuration, 3 the ledger does not answer. Heavy imports
wait until a command needs them.
"""

from __future__ import annotations

import argparse
import getpass
import json
import logging
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from spanledger.errors import ConfigError, LedgerUnavailable, SpanledgerError

EXIT_NOT_DONE, EXIT_USAGE, EXIT_UNAVAILABLE = 1, 2, 3


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    # What matters to whoever typed this is printed; the log is for programs.
    logging.getLogger("spanledger").setLevel(logging.ERROR)
    try:
        code: int = arguments.command(arguments)
    except ConfigError as error:
        print(f"spanledger: {error}", file=sys.stderr)
        return EXIT_USAGE
    except LedgerUnavailable as error:
        print(f"spanledger: {error}", file=sys.stderr)
        return EXIT_UNAVAILABLE
    except SpanledgerError as error:
        print(f"spanledger: {error}", file=sys.stderr)
        return EXIT_NOT_DONE
    except BrokenPipeError:
        # `spanledger calls | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spanledger", description="AI agents retry. Their side effects shouldn't.")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, run: Callable[[argparse.Namespace], int], text: str, example: str) -> argparse.ArgumentParser:
        command = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=run)
        command.add_argument("--json", action="store_true", help="print JSON")
        return command

    add("demo", _demo, "See it work: an agent is killed, and the customer is refunded once.", "spanledger demo")
    add(
        "migrate", _migrate, "Bring the ledger's schema up to date.", "SPANLEDGER_DSN=postgresql://… spanledger migrate"
    )
    add("apply", _apply, "Write the budgets of spanledger.toml into the ledger.", "spanledger apply")
    calls = add("calls", _calls, "List calls, the newest first.", "spanledger calls --state unknown")
    calls.add_argument("--workflow", help="only calls of this workflow")
    calls.add_argument("--state", help="only calls in this state: succeeded, failed, unknown, in_flight, refused")
    calls.add_argument("--tool", help="only calls of this tool")
    calls.add_argument("--limit", type=int, default=100, help="at most so many (100)")
    show = add("show", _show, "Show one call and its history.", "spanledger show 1cc4d506…")
    show.add_argument("key", help="the call's key, or its beginning")
    add("doctor", _doctor, "Look whether a program here would be guarded, and by what.", "spanledger doctor")
    add("budgets", _budgets, "Show how the budgets stand.", "spanledger budgets --json")
    _add_decisions(add)
    return parser


def _add_decisions(add: Callable[..., argparse.ArgumentParser]) -> None:
    """Add what a person decides."""
    resolve = add(
        "resolve",
        _resolve,
        "Say what became of a call of unknown outcome.",
        'spanledger resolve 1cc4d506… --outcome succeeded --result \'{"id": "re_1"}\' --reason "seen at the provider"',
    )
    resolve.add_argument("--outcome", required=True, choices=("succeeded", "failed", "retry"))
    resolve.add_argument("--result", help="JSON: what later calls of this key are given")
    cancel = add(
        "cancel",
        _cancel,
        "Say that a call shall not run (any more).",
        'spanledger cancel 1cc4d506… --reason "the customer changed their mind"',
    )
    for command in (resolve, cancel):
        command.add_argument("key", help="the call's key, or its beginning")
        command.add_argument("--reason", help="kept in the ledger")
        command.add_argument("--by", default=None, help="who says so (your user name)")
    role = add(
        "role",
        _role,
        "Let a database role use the ledger for one tenant, or stop that.",
        "spanledger role acme_agents --kind agent --tenant acme",
    )
    role.add_argument("role", help="name of the database role")
    choice = role.add_mutually_exclusive_group(required=True)
    choice.add_argument(
        "--kind", choices=("agent", "operator"), help="agent: begin, settle, fail; operator: resolve, cancel, apply"
    )
    choice.add_argument("--remove", action="store_true", help="take all its rights on the tenant back")
    role.add_argument("--tenant", required=True, help="the tenant, or '*' for all")


def _demo(_: argparse.Namespace) -> int:
    from spanledger.demo.main import main as demo
    from spanledger.demo.scenes import DemoFailed

    try:
        return demo()
    except DemoFailed as error:
        print(f"spanledger: {error}", file=sys.stderr)
        return EXIT_NOT_DONE


def _migrate(arguments: argparse.Namespace) -> int:
    with _ledger() as ledger:
        applied = ledger.migrate()
    _show_as(arguments, applied, [f"applied {name}" for name in applied] or ["nothing to do: the schema is up to date"])
    return 0


def _apply(arguments: argparse.Namespace) -> int:
    with _ledger() as ledger:
        ledger.apply(ledger.config, by=getpass.getuser())
        names = [budget.name for budget in ledger.config.budgets]
    _show_as(arguments, names, [f"applied budget {name}" for name in names] or ["no budgets in the configuration"])
    return 0


def _calls(arguments: argparse.Namespace) -> int:
    from spanledger.terminal import rows

    with _ledger() as ledger:
        calls = ledger.calls(arguments.workflow, arguments.state, arguments.tool, limit=arguments.limit)
    _show_as(arguments, calls, rows(calls))
    return 0


def _show(arguments: argparse.Namespace) -> int:
    with _ledger() as ledger:
        call = _found(ledger, arguments.key)
        history = ledger.history(call["key"])
    lines = [f"{name:<14}{value}" for name, value in call.items() if value is not None]
    lines += [f"{entry['at']}  {entry['event']}  attempt {entry['attempt']}  {entry['detail']}" for entry in history]
    _show_as(arguments, call | {"history": history}, lines)
    return 0


def _budgets(arguments: argparse.Namespace) -> int:
    with _ledger() as ledger:
        balances = ledger.budgets()
    figures = ("limit", "spent", "held", "remaining")
    shown = [{"name": b.name} | {figure: str(getattr(b, figure)) for figure in figures} for b in balances]
    lines = [f"{b['name']}: {b['spent']} spent, {b['held']} held, {b['remaining']} left of {b['limit']}" for b in shown]
    _show_as(arguments, shown, lines or ["no budgets"])
    return 0


def _resolve(arguments: argparse.Namespace) -> int:
    result = _parsed(arguments.result)
    by = arguments.by or getpass.getuser()
    with _ledger() as ledger:
        key = _found(ledger, arguments.key)["key"]
        done = ledger.resolve(key, by=by, outcome=arguments.outcome, result=result, reason=arguments.reason)
    if not done:
        raise SpanledgerError(f"call {key} is not of unknown outcome; see `spanledger show {arguments.key}`")
    _show_as(arguments, {"key": key, "outcome": arguments.outcome}, [f"resolved as {arguments.outcome}"])
    return 0


def _cancel(arguments: argparse.Namespace) -> int:
    by = arguments.by or getpass.getuser()
    with _ledger() as ledger:
        key = _found(ledger, arguments.key)["key"]
        if not ledger.cancel(key, by=by, reason=arguments.reason):
            raise SpanledgerError(f"call {key} is running or has succeeded; see `spanledger show {arguments.key}`")
    _show_as(arguments, {"key": key, "state": "cancelled"}, ["cancelled"])
    return 0


def _role(arguments: argparse.Namespace) -> int:
    role, tenant = arguments.role, arguments.tenant
    with _ledger() as ledger:
        if arguments.remove and not ledger.unbind_role(role, tenant=tenant):
            raise SpanledgerError(f"role {role} has no rights on tenant {tenant}")
        if not arguments.remove:
            ledger.bind_role(role, kind=arguments.kind, tenant=tenant, by=getpass.getuser())
    can = "has no rights any more" if arguments.remove else f"may act as {arguments.kind}"
    done = f"{role} {can} for tenant {tenant}"
    _show_as(arguments, {"role": role, "kind": arguments.kind, "tenant": tenant}, [done])
    return 0


def _doctor(arguments: argparse.Namespace) -> int:
    import dataclasses

    from spanledger.doctor import BAD, WARN, examine
    from spanledger.terminal import paint

    colours = {WARN: "yellow", BAD: "red"}
    findings = examine()
    lines = []
    for found in findings:
        says = " ".join(found.says.split())
        lines.append(f"{paint(f'{found.state:<5}', colours.get(found.state, 'green'))}{found.about:<14} {says}")
        lines += [f"{'':<20}-> {found.do}"] if found.do else []
    _show_as(arguments, [dataclasses.asdict(found) for found in findings], lines)
    return EXIT_NOT_DONE if any(found.state == BAD for found in findings) else 0


def _ledger() -> Any:
    from spanledger.ledger._ledger import Ledger

    return Ledger()


def _found(ledger: Any, key: str) -> Any:
    """Find one call by its key or the beginning of it, as `spanledger calls` shows it."""
    calls = ledger.calls(key=key, limit=2)
    if len(calls) != 1:
        raise SpanledgerError(f"{'more than one call has' if calls else 'the ledger has no call with'} key {key}…")
    return calls[0]


def _parsed(text: str | None) -> Any:
    try:
        return None if text is None else json.loads(text)
    except ValueError as error:
        raise ConfigError(f"--result is not JSON: {error}") from None


def _show_as(arguments: argparse.Namespace, data: Any, lines: Any) -> None:
    print(json.dumps(data, indent=2, default=str) if arguments.json else "\n".join(lines))
