"""Runs as the ledger has them: one of them, the newest of a suite, and one that has to end first.

Rules: nothing is run and nothing changed. It blocks; on an event loop, `asyncio.to_thread` takes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final

from spanledger.core.evaluations import Results
from spanledger.ledger._async_ledger import AsyncLedger
from spanledger.ledger._evaluations import EvaluationStore
from spanledger.ledger._ledger import Ledger

TIMEOUT_S: Final = 300.0

AnyLedger = Ledger | AsyncLedger


def load(run_id: str, *, ledger: AnyLedger | None = None) -> Results:
    """Read a run from the ledger, by its id or the beginning of it.

    Raises:
        SpanledgerError: There is none, or more than one.
    """
    with opened(ledger) as store:
        return store.load(run_id)


def latest(
    suite: str,
    *,
    agent_version: str | None = None,
    environment: str | None = None,
    ledger: AnyLedger | None = None,
) -> Results:
    """Read the newest run of a suite that is completed, for example to compare with.

    Args:
        suite: The suite's name.
        agent_version: Only runs of this version of the agent.
        environment: Only runs in this environment.
        ledger: Where it is kept; None: the environment's.

    Raises:
        SpanledgerError: There is none.
    """
    with opened(ledger) as store:
        return store.latest(suite, agent_version, environment)


def wait(run_id: str, *, timeout_s: float = TIMEOUT_S, ledger: AnyLedger | None = None) -> Results:
    """Wait until a run that another process runs, or of which others hand in the results, is completed or interrupted.

    Raises:
        TimeoutError: It runs still.
        SpanledgerError: There is no such run.
    """
    with opened(ledger) as store:
        return store.wait(run_id, timeout_s)


@contextlib.contextmanager
def opened(ledger: AnyLedger | None) -> Iterator[EvaluationStore]:
    """Open the evaluations of a ledger; without one, of the environment's."""
    if ledger is not None:
        yield EvaluationStore(ledger)
        return
    with Ledger() as own:
        yield EvaluationStore(own)
