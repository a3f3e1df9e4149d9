"""The command that hands in results of an evaluation that was run elsewhere, and how a run is shown.

Rules: a file is JSON or JSON lines, of whatever program. A line that cannot be read is said and costs no other; the
exit code is 1 where something was rejected, or too few cases passed.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import json
import sys
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from spanledger.cli.common import EXIT_NOT_DONE, Commands, answer, opened, share, shown, words
from spanledger.core.evaluations import PASSED, Result, Results
from spanledger.errors import SpanledgerError


def add_to(commands: Commands) -> None:
    """Add the command."""
    submit = commands.add(
        "submit",
        _submit,
        "Hand in results of an evaluation that was run elsewhere: a file of JSON or JSON lines.",
        "spanledger evals submit results.jsonl --suite refunds --run nightly-7 --passes-at 0.7",
    )
    submit.add_argument("file", type=words, help="results, each with case_id and passed, score or error; - reads stdin")
    submit.add_argument("--suite", type=words, help="the suite's name (the file's, or that of the run that is open)")
    submit.add_argument("--run", type=words, help="what the run is called (the file's; else a new one)")
    submit.add_argument("--agent", type=words, help="name of the agent that was judged")
    submit.add_argument("--agent-version", type=words, help="its version (SPANLEDGER_AGENT_VERSION)")
    submit.add_argument("--environment", type=words, help="where it ran (SPANLEDGER_ENVIRONMENT)")
    submit.add_argument("--passes-at", type=_figure, metavar="SCORE", help="the least score that passes")
    submit.add_argument("--open", action="store_true", help="more results follow; else these are the last")
    submit.add_argument("--fail-under", type=share, metavar="RATE", help="exit with 1 where a smaller share passed")
    submit.add_argument("--webhook", type=words, metavar="URL", help="with --fail-under: who is told then")


def _figure(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not abs(value) < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return value


def _submit(arguments: argparse.Namespace) -> int:
    from spanledger import webhooks
    from spanledger.evals import Submission, submit

    about, results = _read(arguments.file)
    if arguments.webhook and arguments.fail_under is None:
        raise SpanledgerError("say by --fail-under when the webhook is told")
    said = {"suite": arguments.suite or about.get("suite"), "agent": arguments.agent or about.get("agent"),
            "run_id": arguments.run or about.get("run_id") or about.get("id") or str(uuid.uuid4()),
            "agent_version": arguments.agent_version or about.get("agent_version"),
            "environment": arguments.environment or about.get("environment"), "passes_at": arguments.passes_at,
            "fail_under": arguments.fail_under,
            "on_failed": webhooks.webhook(arguments.webhook) if arguments.webhook else None}  # fmt: skip
    with opened(arguments) as ledger:
        done = submit(Submission(**said), results, complete=not arguments.open, ledger=ledger)
    told = {
        "created": done.created,
        "known": done.known,
        "rejected": [dataclasses.asdict(one) for one in done.rejected],
    }
    lines = [f"{done.created} new, {done.known} known before, {len(done.rejected)} rejected"]
    lines += [f"  result {one.n + 1}: {shown(one.why)}" for one in done.rejected]
    answer(arguments, told | json_of(done.results), [*lines, *of_results(done.results)])
    under = arguments.fail_under is not None and done.results.failed_under(arguments.fail_under)
    return EXIT_NOT_DONE if done.rejected or (under and not arguments.open) else 0


def _read(file: str) -> tuple[Mapping[str, Any], list[Any]]:
    """Read what the file says of the run, and the results in it."""
    try:
        text = sys.stdin.read() if file == "-" else Path(file).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SpanledgerError(f"cannot read {file}: {error}") from error
    text = text.removeprefix("\ufeff")
    with contextlib.suppress(ValueError, RecursionError):
        data = json.loads(text)
        if isinstance(data, list):
            return {}, data
        if isinstance(data, dict) and isinstance(data.get("results"), list):
            return data, data["results"]
    return {}, [_line(line) for line in text.split("\n") if line.strip()]


def _line(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError) as error:
        return ValueError(f"it is not JSON: {error}")


@contextlib.contextmanager
def evaluations(arguments: argparse.Namespace) -> Iterator[Any]:
    """Open the evaluations of the ledger that is meant."""
    from spanledger.ledger._evaluations import EvaluationStore

    with opened(arguments) as ledger:
        yield EvaluationStore(ledger)


def json_of(results: Results) -> dict[str, Any]:
    """Show a run as JSON."""
    names = (
        *("run_id", "suite", "suite_version", "agent", "agent_version", "environment", "elsewhere", "state", "cases"),
        *("passed", "failed", "errors", "pass_rate", "weighted_pass_rate", "mean_score", "weighted_mean_score"),
    )
    return {name: getattr(results, name) for name in names} | {
        "means": results.means(),
        "results": [dataclasses.asdict(one) for one in results.results],
    }


def of_results(results: Results) -> Iterator[str]:
    """Show a run in lines."""
    rate = "none judged" if results.pass_rate is None else f"{results.pass_rate:.1%} passed"
    yield f"{shown(results.suite)}  run {shown(results.run_id)}  {results.state}  {rate}"
    if results.weighted_pass_rate not in (None, results.pass_rate):
        yield f"by the weight of the cases, {results.weighted_pass_rate:.1%} passed"
    ran_as = [f"{what} {shown(said)}" for what, said in (("agent", results.agent), ("version", results.agent_version),
                                                        ("in", results.environment)) if said]  # fmt: skip
    if ran_as or results.elsewhere:
        yield ", ".join(["run elsewhere"] * results.elsewhere + ran_as)
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
