"""What the commands share: how they are declared, which ledger they open, how they answer.

Rules: heavy imports wait until a command needs them. A ledger that is opened here is never written to but by what the
command says. Whoever decides something is named; without `--by` it is the user of this machine.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import datetime as dt
import getpass
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from spanledger.errors import ConfigError, SpanledgerError

EXIT_NOT_DONE, EXIT_USAGE, EXIT_UNAVAILABLE, EXIT_INTERRUPTED = 1, 2, 3, 130

Run = Callable[[argparse.Namespace], int]


class Commands:
    """The commands of a parser, each with `--json`, an example and, where it makes sense, `--tenant`."""

    def __init__(self, parser: argparse.ArgumentParser, *, required: bool = True, metavar: str = "COMMAND") -> None:
        """Let `parser` have commands.

        Args:
            parser: The program, or a command that has commands of its own.
            required: One has to be given.
            metavar: What help calls them.
        """
        self._nested = not required
        self._commands = parser.add_subparsers(required=required, metavar=metavar)

    def add(self, name: str, run: Run, text: str, example: str, *, tenant: bool = True) -> argparse.ArgumentParser:
        """Add a command.

        Args:
            name: What is typed.
            run: What it does; returns the exit code.
            text: What it is for.
            example: Shown by its help.
            tenant: It is about one tenant.
        """
        command = self._commands.add_parser(
            name,
            help=text,
            description=text,
            epilog=f"example:\n  {example}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.set_defaults(command=run)
        # What stands before a nested command must not be forgotten by it.
        command.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS if self._nested else False, help="print JSON"
        )
        if tenant:
            command.add_argument(
                "--tenant",
                type=words,
                default=argparse.SUPPRESS if self._nested else None,
                help="whose (SPANLEDGER_TENANT, else the file's)",
            )
        return command


@contextlib.contextmanager
def opened(arguments: argparse.Namespace) -> Iterator[Any]:
    """Open the ledger for the tenant that is meant; the file's controls are not written into it."""
    from spanledger.config import Config
    from spanledger.ledger._ledger import Ledger
    from spanledger.ledger._opening import open_database

    file = getattr(arguments, "config_file", None)
    config = Config.from_env({**os.environ, "SPANLEDGER_CONFIG": file} if file else None)
    if getattr(arguments, "tenant", None):
        config = dataclasses.replace(config, tenant=arguments.tenant)
    with Ledger(config=config, database=open_database(config, apply=False)) as ledger:
        yield ledger


def name_decider(command: argparse.ArgumentParser) -> None:
    """Let a command be told who decides."""
    command.add_argument("--by", type=words, help="who says so (your user name)")


def decider(arguments: argparse.Namespace) -> str:
    """Say who decides.

    Raises:
        ConfigError: Nobody is named, and this machine does not know its user.
    """
    if getattr(arguments, "by", None):
        return str(arguments.by)
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):
        raise ConfigError("this machine does not know who you are: say so by --by") from None


def words(text: str) -> str:
    """Read a text that names something: an empty one is a variable that nobody set, and never whatever there is.

    Raises:
        argparse.ArgumentTypeError: It is empty.
    """
    if not text.strip():
        raise argparse.ArgumentTypeError(f"it is empty: {text!r}")
    return text


def count(text: str) -> int:
    """Read how many.

    Raises:
        argparse.ArgumentTypeError: It is not a whole number, at least 1.
    """
    if not (text.isascii() and text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number, at least 1")
    return int(text)


def share(text: str) -> float:
    """Read a share of a whole.

    Raises:
        argparse.ArgumentTypeError: It is not a number between 0 and 1.
    """
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def found_call(ledger: Any, key: str) -> dict[str, Any]:
    """Find one call by its key or the beginning of it, as `spanledger calls` shows it."""
    calls = ledger.calls(key=key.lower(), limit=2)
    if len(calls) != 1:
        pruned = "" if calls else note_pruned(ledger, "calls", before="; ")
        raise SpanledgerError(
            f"{'more than one call has' if calls else 'the ledger has no call with'} key {key}…{pruned}"
        )
    return dict(calls[0])


def note_pruned(ledger: Any, part: str, since: dt.datetime | None = None, *, before: str = "") -> str:
    """Say what was pruned and can therefore not be shown; an empty text where nothing is missing.

    Args:
        ledger: The ledger.
        part: What was looked at: ``"calls"`` or ``"trail"``.
        since: Nothing older was asked for.
        before: What stands before it.
    """
    from spanledger.core.retention import left_out

    said = left_out(ledger.prunings(), part, since)
    return f"{before}{shown(said)}" if said else ""


def shown(value: object) -> str:
    """Make a text fit for a terminal: what models and callers write must not steer it."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def answer(arguments: argparse.Namespace, data: Any, lines: Iterable[str]) -> None:
    """Print JSON where that was asked for, else lines."""
    print(json.dumps(data, indent=2, default=_plain) if arguments.json else "\n".join(lines))


def _plain(value: object) -> str:
    if not isinstance(value, dt.datetime):
        return str(value)
    # As Postgres writes the times of its JSON, so that one moment is one text: a fraction ends in no zeros.
    return re.sub(r"(\.\d*?)0+(?=[+-])", r"\1", value.isoformat())
