"""The fixture `evaluate`, for programs whose evaluations are tests.

Put `pytest_plugins = ["spanledger.pytest_plugin"]` into a conftest.py.

Rules: it is no entry point, so that no other run of pytest in the same environment is slowed by it. Nothing is run and
no ledger opened before a test asks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from spanledger.core.evaluations import Results, Suite

_LINES = pytest.StashKey[list[str]]()


@pytest.fixture
def evaluate(request: pytest.FixtureRequest) -> Callable[..., Results]:
    """Run a suite, as `spanledger.evals.run`, and fail the test where too few of its cases pass.

    `evaluate(suite, target, pass_rate=1.0, **as run)` returns the results. A case that nobody could judge fails the
    test as well.
    """
    lines = request.config.stash.setdefault(_LINES, [])

    def evaluate(suite: Suite, target: Callable[[Any], Any], *, pass_rate: float = 1.0, **more: Any) -> Results:
        __tracebackhide__ = True
        from spanledger.evals import run

        results = run(suite, target, **more)
        judged = results.passed + results.failed
        lines.append(
            f"{suite.name}: {results.passed} of {judged} passed, {results.errors} not judged, run {results.run_id}"
        )
        if results.errors or results.pass_rate is None or results.pass_rate < pass_rate:
            pytest.fail("\n".join([lines[-1], *_why(results)]), pytrace=False)
        return results

    return evaluate


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how the suites went."""
    lines = config.stash.get(_LINES, [])
    if lines:
        terminalreporter.section("spanledger evals")
        for line in lines:
            terminalreporter.line(line)


def _why(results: Results) -> list[str]:
    said = []
    for one in results.results:
        if one.outcome != "passed":
            why = one.explanation or (one.error and f"{one.error['type']}: {one.error['message']}") or one.output or ""
            said.append(f"  {one.case_id}: {one.evaluator or 'target'} {one.outcome}: {why}"[:500])
    return said
