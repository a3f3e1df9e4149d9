"""Commands about evaluations: the runs of suites, one of them, and what changed from one to another.

Rules: nothing is run and nothing changed. `compare` exits with 1 where it got worse, so that a pipeline can stop there.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime as dt
from collections.abc import Iterator, Mapping
from typing import Any

from spanledger.cli.common import EXIT_NOT_DONE, Commands, answer, count, opened, shown, words
from spanledger.core.evaluations import PASSED, Comparison, Result, Results, compare


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    evals = commands.add(
        "evals", _list, "List runs of evaluations, the newest first.", "spanledger evals compare nightly-6 nightly-7"
    )
    evals.add_argument("--suite", type=words, help="only runs of this suite")
    evals.add_argument("--limit", type=count, default=100, help="at most so many (100)")
    nested = Commands(evals, required=False, metavar="[show | compare]")
    show = nested.add("show", _show, "Show how the cases of a run were judged.", "spanledger evals show nightly-7")
    show.add_argument("run", type=words, help="the run's id, or its beginning")
    show.add_argument(
        "--wait", type=_seconds, default=0.0, metavar="SECONDS", help="until it has ended, at most so long"
    )
    compared = nested.add(
        "compare",
        _compare,
        "Say what changed from one run to another; exits with 1 where it got worse.",
        "spanledger evals compare nightly-6 nightly-7 --worse-by 0.05",
    )
    compared.add_argument("base", type=words, help="the run that is compared with")
    compared.add_argument("new", type=words, help="the run that is compared")
    compared.add_argument(
        "--worse-by", type=_share, default=0.0, help="so far the pass rate may fall, between 0 and 1 (0)"
    )


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 86_400:  # noqa: PLR2004 - a day; also no number at all
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds, at most a day")
    return value


def _share(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number between 0 and 1")
    return value


def _list(arguments: argparse.Namespace) -> int:
    with _store(arguments) as store:
        runs = store.runs(arguments.suite, arguments.limit)
    answer(arguments, runs, [_of_run(run) for run in runs] or ["no suite was run"])
    return 0


def _of_run(run: Mapping[str, Any]) -> str:
    at = dt.datetime.fromisoformat(run["started_at"]).astimezone()
    rate = "   -" if run["pass_rate"] is None else f"{run['pass_rate']:>4.0%}"
    judged = f"{run['passed']} of {run['passed'] + run['failed']} passed"
    more = f", {run['errors']} not judged" if run["errors"] else ""
    state = "" if run["state"] == "completed" else f"  {run['state']}"
    return f"{at:%Y-%m-%d %H:%M}  {rate}  {shown(run['suite'])}  {shown(run['id'])}  {judged}{more}{state}"


def _show(arguments: argparse.Namespace) -> int:
    with _store(arguments) as store:
        try:
            results = store.wait(store.load(arguments.run).run_id, arguments.wait)
        except TimeoutError:
            results = store.load(arguments.run)
    answer(arguments, _json(results), _of_results(results))
    return EXIT_NOT_DONE if arguments.wait and results.state != "completed" else 0


def _json(results: Results) -> dict[str, Any]:
    return {
        "run_id": results.run_id,
        "suite": results.suite,
        "suite_version": results.suite_version,
        "state": results.state,
        "cases": results.cases,
        "passed": results.passed,
        "failed": results.failed,
        "errors": results.errors,
        "pass_rate": results.pass_rate,
        "means": results.means(),
        "results": [dataclasses.asdict(one) for one in results.results],
    }


def _of_results(results: Results) -> Iterator[str]:
    rate = "none judged" if results.pass_rate is None else f"{results.pass_rate:.1%} passed"
    yield f"{shown(results.suite)}  run {shown(results.run_id)}  {results.state}  {rate}"
    told = f"{results.passed} passed, {results.failed} failed, {results.errors} not judged"
    yield f"{len(results.by_case)} of {results.cases} cases: {told}"
    for one in sorted(results.results, key=lambda one: (one.outcome == PASSED, one.case_id)):
        yield _of_result(one)
    for name, mean in results.means().items():
        yield f"mean of {shown(name)}: {mean:.3f}"


def _of_result(one: Result) -> str:
    said = f"  {one.outcome:<6}  {shown(one.case_id)}  {shown(one.evaluator or 'target')}"
    said += "" if one.score is None else f" {one.score:g}"
    said += f" {shown(one.label)}" if one.label not in (None, "pass", "fail") else ""
    why = one.explanation or (f"{one.error['type']}: {one.error['message']}" if one.error else "")
    said += f": {shown(why)}" if why else ""
    return said + (f"  trace {one.trace_id[:8]} span {one.span_id}" if one.trace_id and one.outcome != PASSED else "")


def _compare(arguments: argparse.Namespace) -> int:
    with _store(arguments) as store:
        comparison = compare(store.load(arguments.base), store.load(arguments.new))
    worse = comparison.worse(arguments.worse_by)
    names = ("broken", "fixed", "lost", "added")
    data = {
        "base": comparison.base.run_id,
        "new": comparison.new.run_id,
        "same_suite": comparison.same_suite,
        "pass_rate": [comparison.base.pass_rate, comparison.new.pass_rate],
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
    if not comparison.same_suite:
        yield "the suite has changed between them"
    for name, said in (("broken", "fails now"), ("lost", "not judged now"), ("fixed", "passes now"), ("added", "new")):
        yield from (f"  {name}  {shown(case)}: {said}" for case in getattr(comparison, name))
    means = {name: (base.means().get(name), mean) for name, mean in new.means().items()}
    yield from (f"  mean of {shown(name)}: {a:.3f} to {b:.3f}" for name, (a, b) in means.items() if a not in (None, b))


def _store(arguments: argparse.Namespace) -> Any:
    import contextlib

    from spanledger.ledger._evaluations import EvaluationStore

    @contextlib.contextmanager
    def store() -> Iterator[EvaluationStore]:
        with opened(arguments) as ledger:
            yield EvaluationStore(ledger)

    return store()
