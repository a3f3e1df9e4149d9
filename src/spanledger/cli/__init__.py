"""The command line: try it, prepare a ledger, look into it, decide what nobody else can.

Rules: every command takes `--json`, and says with its exit code how it went: 0 done, 1 not done (refused, or nothing to
do it to), 2 wrong use or configuration, 3 the ledger does not answer. Commands are grouped by what people do: `look`,
`decide`, `control`, `grants`, `delegations`, `sessions`, `set_up`, `follow`, `replay`, `prune`. No command but `apply`
writes the controls of a file into the ledger.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
from collections.abc import Sequence

from spanledger.cli import (
    control,
    decide,
    delegations,
    erase,
    evals,
    follow,
    grants,
    look,
    prune,
    replay,
    sessions,
    set_up,
)
from spanledger.cli.common import EXIT_INTERRUPTED, EXIT_NOT_DONE, EXIT_UNAVAILABLE, EXIT_USAGE, Commands
from spanledger.errors import ConfigError, LedgerUnavailable, SpanledgerError


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
    except KeyboardInterrupt:
        print("spanledger: interrupted; look whether it was done before you do it again", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # `spanledger calls | head`: the reader has seen enough.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    return code


class _Version(argparse.Action):
    """Looks the version up only where it is asked for."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        from importlib.metadata import version

        print(f"spanledger {version('spanledger')}")
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="spanledger", description="AI agents retry. Their side effects shouldn't.")
    parser.add_argument("--version", action=_Version, nargs=0, help="print the version of spanledger")
    commands = Commands(parser)
    for group in (set_up, look, follow, replay, decide, control, grants, delegations, sessions, evals, erase, prune):
        group.add_to(commands)
    return parser
