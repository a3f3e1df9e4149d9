"""The command that removes what is over and older than it need be kept.

Rules: it says what went, by kind. How long is said here or in the file, never guessed. Keys, without which calls run
again, go only where that was confirmed.
"""

from __future__ import annotations

import argparse
import dataclasses

from spanledger.cli.common import Commands, answer, decider, name_decider, opened
from spanledger.core.retention import COUNTED_MAX, KINDS, age_s
from spanledger.errors import ConfigError


def add_to(commands: Commands) -> None:
    """Add the command."""
    prune = commands.add(
        "prune",
        _prune,
        "Remove what is over and old; what is under way, unknown or counted stays, and so do keys.",
        "spanledger prune --older-than 90d --dry-run",
    )
    prune.add_argument(
        "--older-than", type=_age, metavar="AGE", help="what ended so long ago: 90d, 12h, 4w ([retention] of the file)"
    )
    prune.add_argument("--dry-run", action="store_true", help="count what would go, and remove nothing")
    prune.add_argument("--forget-keys", action="store_true", help="keys too: calls of these keys WOULD RUN AGAIN")
    prune.add_argument("--yes", action="store_true", help="confirm --forget-keys")
    name_decider(prune)


def _age(text: str) -> float:
    try:
        return age_s(text, "what is pruned")
    except ConfigError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _prune(arguments: argparse.Namespace) -> int:
    by = decider(arguments)
    if arguments.forget_keys and not (arguments.yes or arguments.dry_run):
        raise ConfigError(
            "without their keys, calls that were made run again when they are made again: confirm it by --yes"
        )
    with opened(arguments) as ledger:
        pruned = ledger.prune(
            by=by,
            older_than_s=arguments.older_than,
            forget_keys=arguments.forget_keys,
            dry_run=arguments.dry_run,
        )
    says = "would go" if pruned.dry_run else "removed"
    lines = [f"{part} that ended before {at.astimezone():%Y-%m-%d %H:%M}" for part, at in pruned.before.items()]
    lines += [f"{_figure(count, pruned.dry_run):>10}  {KINDS[kind]}" for kind, count in pruned.counts.items() if count]
    if not any(pruned.counts.values()):
        lines.append("nothing is that old")
    answer(arguments, dataclasses.asdict(pruned), [f"{says}: {lines[0]}", *(f"         {line}" for line in lines[1:])])
    return 0


def _figure(count: int, dry_run: bool) -> str:
    return f"{count}+" if dry_run and count >= COUNTED_MAX else str(count)
