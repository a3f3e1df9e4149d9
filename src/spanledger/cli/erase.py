"""The command that forgets what calls were made with and what came of them.

Rules: it is done only where that was confirmed, and says of how many calls. What is forgotten cannot be had back; that
the calls happened stays.
"""

from __future__ import annotations

import argparse

from spanledger.cli.common import Commands, answer, decider, found_call, name_decider, opened, shown, words
from spanledger.errors import ConfigError

_NAMES = ("workflow", "actor", "key")


def add_to(commands: Commands) -> None:
    """Add the command."""
    erase = commands.add(
        "erase",
        _erase,
        "Forget what calls were made with and what came of them; that they happened, and their keys, stay.",
        "spanledger erase --actor u_42 --yes",
    )
    erase.add_argument("--workflow", type=words, help="only calls of this workflow")
    erase.add_argument("--actor", type=words, help="only calls on behalf of this actor")
    erase.add_argument("--key", type=words, help="only the call of this key, or of its beginning")
    erase.add_argument("--yes", action="store_true", help="do it: it cannot be undone")
    name_decider(erase)


def _erase(arguments: argparse.Namespace) -> int:
    by = decider(arguments)
    which = {name: getattr(arguments, name) for name in (*_NAMES, "tenant") if getattr(arguments, name)}
    if not which:
        raise ConfigError("say what to erase: --workflow, --actor, --key, or --tenant alone for all of its calls")
    said = ", ".join(f"{name} {shown(value)}" for name, value in which.items())
    with opened(arguments) as ledger:
        key = found_call(ledger, arguments.key)["key"] if arguments.key else None
        if not arguments.yes:
            raise ConfigError(f"this forgets all that is kept of the calls of {said}, for good: confirm it by --yes")
        erased = ledger.erase(
            by=by, workflow_id=arguments.workflow, actor=arguments.actor, key=key, tenant=ledger.config.tenant
        )
    calls = "1 call" if erased == 1 else f"{erased} calls"
    answer(arguments, {"erased": erased, **which}, [f"erased what was kept of {calls} of {said}"])
    return 0
