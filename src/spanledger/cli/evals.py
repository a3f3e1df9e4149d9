"""Commands about evaluations: the runs of suites, one of them, and what changed from one to another.

Rules: nothing is run, and nothing changed but by `submit` (`handing_in`). `compare` exits with 1 where it got worse,
and `show --fail-under` where too few cases passed, so that a pipeline can stop there.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from spanledger.cli import handing_in
from spanledger.cli.common import EXIT_NOT_DONE, Commands, answer, count, share, shown, words
from spanledger.cli.handing_in import evaluations, json_of, of_results
from spanledger.core.comparing import Comparison, compare
from spanledger.core.evaluations import Results
from spanledger.errors import ConfigError, LedgerUnavailable, SpanledgerError


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    evals = commands.add(
        "evals", _list, "List runs of evaluations, the newest first.", "spanledger evals compare nightly-6 nightly-7"
    )
    evals.add_argument("--suite", type=words, help="only runs of this suite")
    evals.add_argument("--limit", type=count, default=100, help="at most so many (100)")
    nested = Commands(evals, required=False, metavar="[show | compare | submit]")
    show = nested.add("show", _show, "Show how the cases of a run were judged.", "spanledger evals show nightly-7")
    show.add_argument(
        "run", type=words, help="the run's id, its beginning, or SUITE@VERSION: the newest by a version of the agent"
    )
    show.add_argument("--fail-under", type=share, help="exit with 1 where a smaller share of the cases passed, 0 to 1")
    show.add_argument(
        "--wait", type=_seconds, default=0.0, metavar="SECONDS", help="until it has ended, at most so long"
    )
    compared = nested.add(
        "compare",
        _compare,
        "Say what changed from one run to another; exits with 1 where it got worse.",
        "spanledger evals compare nightly-6 nightly-7 --worse-by 0.05; spanledger evals compare refunds@1 refunds@2",
    )
    compared.add_argument("base", type=words, help="the run that is compared with, named as for show")
    compared.add_argument("new", type=words, help="the run that is compared")
    compared.add_argument(
        "--worse-by", type=share, default=0.0, help="so far the pass rate may fall, between 0 and 1 (0)"
    )
    handing_in.add_to(nested)


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:  # noqa: PLR2004 - a day; also no number at all
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, at most a day")
    return value


def _list(arguments: argparse.Namespace) -> int:
    with evaluations(arguments) as store:
        runs = store.runs(arguments.suite, arguments.limit)
    answer(arguments, runs, [_of_run(run) for run in runs] or ["no suite was run"])
    return 0


def _of_run(run: Mapping[str, Any]) -> str:
    at = dt.datetime.fromisoformat(run["started_at"]).astimezone()
    rate = "   -" if run["pass_rate"] is None else f"{run['pass_rate']:>4.0%}"
    judged = f"{run['passed']} of {run['passed'] + run['failed']} passed"
    more = f", {run['errors']} not judged" if run["errors"] else ""
    more += f", version {shown(run['agent_version'])}" if run["agent_version"] else ""
    state = "" if run["state"] == "completed" else f"  {run['state']}"
    return f"{at:%Y-%m-%d %H:%M}  {rate}  {shown(run['suite'])}  {shown(run['id'])}  {judged}{more}{state}"


def _show(arguments: argparse.Namespace) -> int:
    with evaluations(arguments) as store:
        results = _found(store, arguments.run)
        try:
            results = store.wait(results.run_id, arguments.wait)
        except TimeoutError:
            results = store.load(results.run_id)
    answer(arguments, json_of(results), of_results(results))
    under = arguments.fail_under is not None and results.failed_under(arguments.fail_under)
    return EXIT_NOT_DONE if under or (arguments.wait and results.state != "completed") else 0


def _found(store: Any, named: str) -> Results:
    """Find a run by its id, its beginning, or as the newest of a suite by a version of the agent."""
    suite, at, version = named.rpartition("@")
    try:
        found: Results = store.load(named)
    except SpanledgerError as error:
        if not (at and suite and version) or isinstance(error, LedgerUnavailable | ConfigError):
            raise
        found = store.latest(suite, version)
    return found


def _compare(arguments: argparse.Namespace) -> int:
    with evaluations(arguments) as store:
        comparison = compare(_found(store, arguments.base), _found(store, arguments.new))
    worse = comparison.worse(arguments.worse_by)
    names = ("broken", "fixed", "lost", "added")
    data = {
        "base": comparison.base.run_id,
        "new": comparison.new.run_id,
        "same_suite": comparison.same_suite,
        "agent_version": [comparison.base.agent_version, comparison.new.agent_version],
        "environment": [comparison.base.environment, comparison.new.environment],
        "pass_rate": [comparison.base.pass_rate, comparison.new.pass_rate],
        "weighted_pass_rate": [comparison.base.weighted_pass_rate, comparison.new.weighted_pass_rate],
        "change": comparison.change,
        "means": [comparison.base.means(), comparison.new.means()],
        "worse": worse,
    } | {name: list(getattr(comparison, name)) for name in names}
    answer(arguments, data, _of_comparison(comparison, worse=worse))
    return EXIT_NOT_DONE if worse else 0


def _of_comparison(comparison: Comparison, *, worse: bool) -> Iterator[str]:
    base, new = comparison.base, comparison.new
    rates = " to ".join("none judged" if one.pass_rate is None else f"{one.pass_rate:.1%}" for one in (base, new))
    yield f"{'worse' if worse else 'not worse'}: {rates} passed"
    if base.agent_version != new.agent_version:
        yield f"agent version {shown(base.agent_version or 'unknown')} to {shown(new.agent_version or 'unknown')}"
    if not comparison.same_suite:
        yield "the suite has changed between them"
    for name, said in (("broken", "fails now"), ("lost", "not judged now"), ("fixed", "passes now"), ("added", "new")):
        yield from (f"  {name}  {shown(case)}: {said}" for case in getattr(comparison, name))
    means = {name: (base.means().get(name), mean) for name, mean in new.means().items()}
    yield from (f"  mean of {shown(name)}: {a:.3f} to {b:.3f}" for name, (a, b) in means.items() if a not in (None, b))
