"""Evaluations: suites of cases, run against an agent, judged by plain functions, kept in the ledger and compared.

    from spanledger.evals import Case, Suite, run

What was run elsewhere is handed in by `submit`.

Rules: a case is a run of the agent, with a workflow of its own: its span is what is judged, and its side effects happen
once, also where the run of the suite is interrupted and goes on. One bad case never loses its neighbours.
"""

from spanledger.core.comparing import Comparison, compare
from spanledger.core.evaluations import Case, Result, Results, Score, Suite
from spanledger.core.scoring import contains_keywords, exact_match, keywords, llm_judge
from spanledger.core.submitting import Rejected, Submission, Submitted
from spanledger.evals._looking import latest, load, wait
from spanledger.evals._running import run, run_async
from spanledger.evals._submitting import submit

__all__ = [
    "Case",
    "Comparison",
    "Rejected",
    "Result",
    "Results",
    "Score",
    "Submission",
    "Submitted",
    "Suite",
    "compare",
    "contains_keywords",
    "exact_match",
    "keywords",
    "latest",
    "llm_judge",
    "load",
    "run",
    "run_async",
    "submit",
    "wait",
]
