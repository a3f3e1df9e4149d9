"""Runs of evaluations in the ledger.

Rules: a run belongs to the process that runs it, as long as that gives signs of life; one that was made elsewhere to
whoever hands in its results. What was kept of a case stays, so telling it again does no harm. It blocks; on an event
loop, `asyncio.to_thread` takes it.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
import uuid
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from spanledger.core.evaluations import Result, Results, Suite
from spanledger.errors import CallInProgress, ConfigError, SpanledgerError
from spanledger.ledger._async_ledger import AsyncLedger
from spanledger.ledger._drivers import BlockingDriver
from spanledger.ledger._functions import Prefix, Read, Run
from spanledger.ledger._ledger import Ledger

LEASE_S: Final = 60.0
POLL_S: Final = 1.0
# How long a run stays open of which nothing more is handed in.
OPEN_S: Final = 86_400.0
# So many results the ledger's functions take at once.
SUBMITTED_MAX: Final = 500
# All rows of a run are read, because some of them would tell a pass rate that is none.
RESULTS_MAX: Final = 1_000_000


class EvaluationStore:
    """The evaluations of one tenant, as one process runs them."""

    def __init__(self, ledger: Ledger | AsyncLedger) -> None:
        self._driver = BlockingDriver(ledger._database)  # noqa: SLF001 - our own class
        self._tenant = ledger.config.tenant
        self._ran_as = {"agent_version": ledger.config.agent_version, "environment": ledger.config.environment}
        self._runner = str(uuid.uuid4())

    def begin(self, run_id: str, suite: Suite) -> set[str] | None:
        """Begin a run, or go on with one; returns the cases that have been judged, None where it is completed.

        Raises:
            ConfigError: A run of that id was asked something else, or another database role began it.
            CallInProgress: Another process runs it.
        """
        item = {
            "id": run_id,
            "suite": suite.name,
            "suite_version": suite.version,
            "cases": len(suite.cases),
            "agent": suite.agent,
            "runner": self._runner,
            "lease_s": LEASE_S,
        } | self._ran_as
        answer: Mapping[str, Any] = self._driver.query(Run("eval_begin", (self._tenant, item)))
        if answer["state"] == "changed":
            raise ConfigError(
                f"the run {run_id!r} is of suite {answer['suite']!r}, version {answer['suite_version']}, and this one "
                f"is {suite.name!r}, version {suite.version}: begin a run of another id"
            )
        if answer["state"] == "running":
            raise CallInProgress(
                f"another process runs {run_id!r}; without a sign of life of it, it can be taken over in "
                f"{answer['left_s']:.0f} s"
            )
        return None if answer["state"] == "completed" else set(answer["done"])

    def keep(self, run_id: str, results: Iterable[Result] = (), state: str | None = None) -> None:
        """Keep results and say that the run is alive, or how it ended.

        Raises:
            ConfigError: Another process has taken the run over.
            LedgerUnavailable: They could not be kept.
        """
        waiting, item = [dataclasses.asdict(result) for result in results], {"id": run_id, "runner": self._runner}
        while True:
            batch, waiting = waiting[:SUBMITTED_MAX], waiting[SUBMITTED_MAX:]
            ends = {} if state is None or waiting else {"state": state}
            told = {**item, "lease_s": LEASE_S, "results": batch, **ends}
            if not self._driver.query(Run("eval_record", (self._tenant, told)))["owned"]:
                raise ConfigError(f"another process has taken over the run {run_id!r}, or ended it")
            if not waiting:
                return

    def submit(
        self, run: Mapping[str, Any], items: Iterable[Mapping[str, Any]], *, complete: bool
    ) -> Iterator[tuple[list[Mapping[str, Any]], Mapping[str, Any]]]:
        """Hand in results of a run that was made elsewhere, so many at a time; gives each batch and its answer.

        Raises:
            ConfigError: The run is another one, or is not this role's.
            LedgerUnavailable: They could not be handed in; what was, stays.
        """
        waiting = iter(items)
        batch = list(itertools.islice(waiting, SUBMITTED_MAX))
        while True:
            following = list(itertools.islice(waiting, SUBMITTED_MAX))
            ran_as = {name: value for name, value in self._ran_as.items() if value is not None and "suite" in run}
            item = {**ran_as, **run, "results": batch, "open_s": OPEN_S, "complete": complete and not following}
            answer: Mapping[str, Any] = self._driver.query(Run("eval_submit", (self._tenant, item)))
            if answer["state"] == "changed":
                raise ConfigError(_changed(run, answer))
            yield batch, answer
            if not following:
                return
            batch = following

    def latest(self, suite: str, agent_version: str | None = None, environment: str | None = None) -> Results:
        """Read the newest run of a suite that is completed.

        Raises:
            SpanledgerError: There is none.
        """
        where: dict[str, Any] = {"tenant": self._tenant, "suite": suite, "state": "completed"}
        where |= {"agent_version": agent_version, "environment": environment}
        found = self._driver.query(Read("eval_runs", where, "started_at desc, id", 1))
        if not found:
            of = f" by agent version {agent_version}" if agent_version else ""
            raise SpanledgerError(f"no run of suite {suite!r}{of} is completed")
        return self.load(found[0]["id"])

    def load(self, run_id: str) -> Results:
        """Read a run by its id, or by the beginning of it.

        Raises:
            SpanledgerError: There is none, or more than one.
        """
        exact = self._driver.query(Read("eval_runs", {"tenant": self._tenant, "id": run_id}, "id", 1))
        found = exact or self._driver.query(Read("eval_runs", {"tenant": self._tenant, "id": Prefix(run_id)}, "id", 2))
        if len(found) != 1:
            raise SpanledgerError(f"{'more than one run' if found else 'no run of evaluations'} has the id {run_id}…")
        (run,) = found
        where = {"tenant": self._tenant, "run_id": run["id"]}
        rows = self._driver.query(Read("eval_results", where, "case_id, evaluator nulls first", RESULTS_MAX))
        names = [one.name for one in dataclasses.fields(Result)]
        results = tuple(Result(**{name: row[name] for name in names}) for row in rows)
        told = [one.name for one in dataclasses.fields(Results) if one.name not in ("run_id", "results")]
        return Results(run_id=run["id"], results=results, **{name: run[name] for name in told})

    def runs(self, suite: str | None = None, limit: int = 100) -> list[dict[str, Any]]:
        """List runs, the newest first."""
        where = {"tenant": self._tenant, "suite": suite}
        return list(self._driver.query(Read("eval_runs", where, "started_at desc, id", limit)))

    def wait(self, run_id: str, timeout_s: float) -> Results:
        """Wait until a run has ended, in whatever way.

        Raises:
            TimeoutError: It has not after so long.
        """
        until_s = time.monotonic() + timeout_s
        while (results := self.load(run_id)).state == "running":
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                raise TimeoutError(f"the run {run_id!r} has not ended after {timeout_s:g} s: "
                                   f"{len(results.by_case)} of {results.cases} cases are judged")  # fmt: skip
            time.sleep(min(POLL_S, left_s))
        return results


def _changed(run: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    if not answer["elsewhere"]:
        return f"the run {run['id']!r} was made here, and takes no results from elsewhere: hand in under another id"
    names = ("suite", "suite_version", "agent", "agent_version", "environment")
    is_of = ", ".join(f"{name} {answer[name]!r}" for name in names if answer[name])
    return f"the run {run['id']!r} is of {is_of}, and this one is not: hand in under another id"
