"""The command that tries a configuration out on the past.

Rules: the ledger is read and not written. What nobody can say is told as such, call by call. Amounts are what the calls
cost, by unit; they are not converted. What ran before is told as far as budgets count it.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from spanledger.cli.common import EXIT_NOT_DONE, Commands, answer, count, note_pruned, opened, shown
from spanledger.cli.look import moment
from spanledger.core.money import CALLS, amount_of
from spanledger.core.replaying import Carried, Judged
from spanledger.errors import ConfigError

_SAID = {
    "same": "as it was",
    "refused": "ran, and would have been refused",
    "replayed": "ran, and would have been given a recorded result",
    "held": "ran, and would have waited for a person",
    "allowed": "did not run, and would have",
    "unjudged": "cannot be judged",
}


def add_to(commands: Commands) -> None:
    """Add the command of this group."""
    command = commands.add(
        "replay",
        _replay,
        "Say what another configuration would have made of recorded calls.",
        "spanledger replay --config new.toml --since 7d",
    )
    command.add_argument("--config", type=Path, required=True, help="the file to try out")
    command.add_argument(
        "--since",
        type=moment,
        help="calls that began since then: 30m, 2h, 7d, or 2026-11-24; budgets count what was spent before",
    )
    command.add_argument("--limit", type=count, default=10_000, help="at most so many attempts, the first (10000)")
    command.add_argument("--alone", action="store_true", help="leave out the controls that the ledger holds now")
    command.add_argument(
        "--exit-code",
        action="store_true",
        help="exit with 1 where anything would have been otherwise, or nobody can say",
    )


def _replay(arguments: argparse.Namespace) -> int:
    from spanledger.config import Config
    from spanledger.ledger._replay import replayed

    if not arguments.config.is_file():
        raise ConfigError(f"there is no file {arguments.config}")
    with opened(arguments) as ledger:
        tenant = ledger.config.tenant
        config = Config.from_env({**os.environ, "SPANLEDGER_CONFIG": str(arguments.config)})
        config = dataclasses.replace(config, tenant=tenant)
        database = ledger._database  # noqa: SLF001 - our own class
        before: list[Carried] = []
        wanted: dict[str, Any] = {"calls_max": arguments.limit, "alone": arguments.alone, "tell": before.append}
        judged = list(replayed(database, config, arguments.since, **wanted))
        pruned = note_pruned(ledger, "calls", arguments.since)
        uncounted = note_pruned(ledger, "calls", before[0].since) if before and not pruned else ""
    told = {name: [one for one in judged if one.outcome == name] for name in _SAID}
    cut = len(judged) >= arguments.limit
    said = [*_lines(told, cut=cut), *_before(before, uncounted), *([f"not looked at: {pruned}"] if pruned else [])]
    data = _json(told, tenant, cut=cut) | {"before": _counted(before, uncounted), "pruned": pruned or None}
    answer(arguments, data, said)
    return EXIT_NOT_DONE if arguments.exit_code and len(told["same"]) < len(judged) else 0


def _json(told: Mapping[str, list[Judged]], tenant: str, *, cut: bool) -> dict[str, Any]:
    return {
        "tenant": tenant,
        "attempts": sum(map(len, told.values())),
        "cut_short": cut,
        "outcomes": {name: {"attempts": len(found), "amounts": _sums(found)} for name, found in told.items()},
        "saved": _sums([*told["refused"], *told["replayed"]]),
        "attempts_changed": [_of(one) for name, found in told.items() if name != "same" for one in found],
    }


def _counted(before: list[Carried], uncounted: str) -> dict[str, Any] | None:
    return dataclasses.asdict(before[0]) | {"pruned": uncounted or None} if before else None


def _before(before: list[Carried], uncounted: str) -> Iterator[str]:
    for carried in before:
        if carried.attempts:
            reach = f", back to {carried.since.astimezone():%Y-%m-%d %H:%M}" if carried.since else ""
            yield f"budgets count {_calls(carried.attempts)} from before{reach}"
        if carried.unpriced:
            yield f"of {_calls(carried.unpriced)} from before nobody knows the price: in money they count nothing"
    if uncounted:
        yield f"not counted: {uncounted}"


def _calls(number: int) -> str:
    return f"{number} call{'' if number == 1 else 's'}"


def _of(judged: Judged) -> dict[str, Any]:
    recorded = judged.recorded
    names = ("key", "attempt_id", "tool", "workflow_id", "agent", "actor", "state", "started_at", "trace_id", "span_id")
    return {name: getattr(recorded, name) for name in names} | {
        "outcome": judged.outcome,
        "verdict": judged.verdict,
        "reason": judged.reason,
        "amounts": dict(judged.amounts),
    }


def _sums(found: Iterable[Judged]) -> dict[str, int]:
    sums: dict[str, int] = {}
    for judged in found:
        for unit, steps in judged.amounts.items():
            sums[unit] = sums.get(unit, 0) + steps
    return dict(sorted(sums.items()))


def _lines(told: Mapping[str, list[Judged]], *, cut: bool) -> Iterator[str]:
    attempts = sum(map(len, told.values()))
    if not attempts:
        yield "no call is recorded there"
        return
    for name, found in told.items():
        if found:
            yield f"{len(found):>7}  {_SAID[name]}{_amounts(found) if name != 'same' else ''}"
    groups: dict[tuple[str, str, str, str], list[Judged]] = {}
    for name in told.keys() - {"same"}:
        for one in told[name]:
            groups.setdefault((name, one.recorded.tool, one.verdict or "", _why(one)), []).append(one)
    yield from ("",) if groups else ()
    for (name, tool, verdict, why), found in sorted(groups.items()):
        said = f"{name}{f' ({verdict})' if verdict not in ('', name, 'run', 'replay') else ''}"
        yield f"{said}  {len(found)} x {shown(tool)}{_amounts(found)}{f': {shown(why)}' if why else ''}"
    saved = _sums([*told["refused"], *told["replayed"]])
    yield from ("", f"saved: {_text(saved)}") if saved else ()
    if cut:
        yield f"these are the first {attempts} attempts; --limit takes more"


def _why(judged: Judged) -> str:
    # Figures of a budget differ from call to call; its name does not.
    return (judged.reason or "").partition(" has ")[0]


def _amounts(found: Iterable[Judged]) -> str:
    text = _text({unit: steps for unit, steps in _sums(found).items() if unit != CALLS})
    return f", {text}" if text else ""


def _text(sums: Mapping[str, int]) -> str:
    return ", ".join(str(amount_of(unit, steps)) for unit, steps in sums.items())
