"""Evaluations: suites of cases, run against an agent, judged by plain functions, kept in the ledger and compared.

    from spanledger.evals import Case, Suite, run

Rules: a case is a run of the agent, with a workflow of its own: its span is what is judged, and its side effects happen
once, also where the run of the suite is interrupted and goes on. One bad case never loses its neighbours.
"""

from spanledger.core.evaluations import Case, Comparison, Result, Results, Score, Suite, compare
from spanledger.evals._running import load, run, run_async, wait

__all__ = [
    "Case",
    "Comparison",
    "Result",
    "Results",
    "Score",
    "Suite",
    "compare",
    "load",
    "run",
    "run_async",
    "wait",
]
