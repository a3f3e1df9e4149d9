"""Run a suite: ask, judge, keep.

Rules: so many cases at once and no more; each is kept as soon as it is judged. What a target or an evaluator raises is
a result. What ends the run itself, an interrupt or a ledger that keeps nothing, leaves it interrupted, and it goes on
under the same id with the cases that were not judged. Plain functions run in threads, with what is around the code.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import inspect
import itertools
import logging
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Final

from opentelemetry import trace

from spanledger.core.evaluations import (
    ERROR,
    FAILED,
    Case,
    Result,
    Results,
    Suite,
    error_of,
    judged,
    output_text,
    words,
)
from spanledger.core.figures import check_run_id
from spanledger.errors import ConfigError, LedgerUnavailable
from spanledger.evals import _ending
from spanledger.evals._looking import AnyLedger, opened
from spanledger.ledger._evaluations import LEASE_S, POLL_S, EvaluationStore
from spanledger.telemetry import evaluations, record
from spanledger.telemetry.decision import workflow

logger = logging.getLogger("spanledger.evals")

CONCURRENCY: Final = 4
CONCURRENCY_MAX: Final = 256


def run(
    suite: Suite,
    target: Callable[[Any], Any],
    *,
    run_id: str | None = None,
    ledger: AnyLedger | None = None,
    concurrency: int = CONCURRENCY,
    case_timeout_s: float | None = None,
) -> Results:
    """Ask a target all cases of a suite, have the answers judged, and keep that in the ledger.

    Args:
        suite: The cases, and who judges.
        target: Called with the input of a case; a plain function or a coroutine function.
        run_id: What the run is called, for example after the commit that is judged. A run of that id which was
            interrupted goes on; one that is completed is returned as it is. None: a new one.
        ledger: Where it is kept; None: the environment's.
        concurrency: So many cases at once.
        case_timeout_s: A target that takes longer has failed; a plain function cannot be stopped and goes on.

    Raises:
        ConfigError: Another suite was run under that id, it has more than 500 bytes, or this is called where an event
            loop runs.
        CallInProgress: Another process runs it.
        LedgerUnavailable: The ledger does not answer; what it had taken is kept.
    """
    with contextlib.suppress(RuntimeError):
        asyncio.get_running_loop()
        raise ConfigError("an event loop is running here: await run_async(…) instead of run(…)")
    return asyncio.run(
        run_async(suite, target, run_id=run_id, ledger=ledger, concurrency=concurrency, case_timeout_s=case_timeout_s)
    )


async def run_async(
    suite: Suite,
    target: Callable[[Any], Any],
    *,
    run_id: str | None = None,
    ledger: AnyLedger | None = None,
    concurrency: int = CONCURRENCY,
    case_timeout_s: float | None = None,
) -> Results:
    """As `run`, in the running event loop."""
    if not 1 <= concurrency <= CONCURRENCY_MAX:
        raise ConfigError(f"concurrency is between 1 and {CONCURRENCY_MAX}, not {concurrency!r}")
    run_id = run_id or str(uuid.uuid4())
    check_run_id(run_id, "a run")
    with opened(ledger) as store:
        done = await asyncio.to_thread(store.begin, run_id, suite)
        if done is not None:
            asked = _Asked(suite, target, run_id, case_timeout_s)
            await _run(asked, store, [case for case in suite.cases if case.id not in done], concurrency)
        results = await asyncio.to_thread(store.load, run_id)
        if done is not None:
            await asyncio.to_thread(_ending.tell, suite, results)
        return results


@dataclass(slots=True)
class _Asked:
    """What is run, and where plain functions run."""

    suite: Suite
    target: Callable[[Any], Any]
    run_id: str
    case_timeout_s: float | None
    threads: ThreadPoolExecutor | None = None

    async def call(self, function: Callable[..., Any], *given: Any, timeout_s: float | None = None) -> Any:
        """Call a function of the user's, which may be a coroutine function."""
        async with asyncio.timeout(timeout_s):
            if not inspect.iscoroutinefunction(function):
                context = contextvars.copy_context()
                loop = asyncio.get_running_loop()
                value = await loop.run_in_executor(self.threads, lambda: context.run(function, *given))
            else:
                value = function(*given)
            return await value if inspect.isawaitable(value) else value


class _Keeping:
    """Keeps results; while the ledger is away they wait, as long as the run is believed alive."""

    def __init__(self, store: EvaluationStore, run_id: str) -> None:
        self._store = store
        self._run_id = run_id
        self._waiting: list[Result] = []
        self._kept_at_s = time.monotonic()

    async def keep(self, results: list[Result], state: str | None = None) -> bool:
        """Keep results and those that wait; False where they wait on.

        Raises:
            LedgerUnavailable: The ledger has been away for too long.
        """
        self._waiting += results
        try:
            await asyncio.to_thread(self._store.keep, self._run_id, self._waiting, state)
        except LedgerUnavailable as error:
            if time.monotonic() - self._kept_at_s > LEASE_S:
                raise
            logger.warning("%d results of run %s wait for the ledger: %s", len(self._waiting), self._run_id, error)
            return False
        self._waiting, self._kept_at_s = [], time.monotonic()
        return True

    async def complete(self) -> None:
        """Keep what waits, and that this was all.

        Raises:
            LedgerUnavailable: The ledger has been away for too long.
        """
        while True:
            if await self.keep([], "completed"):
                return
            await asyncio.sleep(POLL_S)


async def _run(asked: _Asked, store: EvaluationStore, cases: list[Case], concurrency: int) -> None:
    # A thread that hangs takes nobody's place.
    asked.threads = ThreadPoolExecutor(concurrency + len(cases), thread_name_prefix="spanledger-evals")
    waiting, running = iter(cases), set[asyncio.Task[list[Result]]]()
    keeping = _Keeping(store, asked.run_id)
    try:
        while True:
            next_ones = itertools.islice(waiting, concurrency - len(running))
            running |= {asyncio.create_task(_case(asked, case)) for case in next_ones}
            if not running:
                break
            # A case that takes long must not look like a process that is gone.
            over, running = await asyncio.wait(running, timeout=LEASE_S / 3, return_when=asyncio.FIRST_COMPLETED)
            await keeping.keep([one for task in over for one in task.result()])
        await keeping.complete()
    except BaseException:
        for task in running:
            task.cancel()
        with contextlib.suppress(Exception):
            store.keep(asked.run_id, state="interrupted")
        raise
    finally:
        asked.threads.shutdown(wait=False, cancel_futures=True)


async def _case(asked: _Asked, case: Case) -> list[Result]:
    """Ask one case and have it judged; nothing is raised but what ends the run."""
    error: BaseException | None = None
    output: Any = None
    begun_s = time.monotonic()
    with workflow(f"eval:{asked.run_id}:{case.id}", agent=asked.suite.agent, goal=f"case {case.id}"):
        span = trace.get_current_span()
        traced = record.trace_of(span)
        try:
            output = await asked.call(asked.target, case.input, timeout_s=asked.case_timeout_s)
        except BaseException as raised:
            if _ends_the_run(raised):
                raise
            error = raised
            record.failed(span, raised)
    blank = Result(
        case.id,
        None,
        FAILED,
        trace_id=None if traced is None else traced.trace_id,
        span_id=None if traced is None else traced.span_id,
        duration_s=time.monotonic() - begun_s,
        weight=case.weight,
        tags=case.tags,
    )
    if error is not None:
        result = replace(blank, label="fail", error=error_of(error))
        evaluations.emit(asked.suite.name, asked.run_id, result)
        return [result]
    blank = replace(blank, output=output_text(output))
    return [await _judged(asked, case, output, replace(blank, evaluator=name)) for name in asked.suite.judges]


async def _judged(asked: _Asked, case: Case, output: Any, blank: Result) -> Result:
    response_id = None
    try:
        said = await asked.call(asked.suite.judges[blank.evaluator or ""], output, case)
        outcome, score = judged(asked.suite, said)
        response_id = score.response_id
        result = replace(blank, outcome=outcome, score=score.value, label=words(score.label),
                         explanation=words(score.explanation))  # fmt: skip
    except BaseException as raised:
        if _ends_the_run(raised):
            raise
        logger.warning("%s could not judge case %s: %s", blank.evaluator, case.id, type(raised).__name__)
        result = replace(blank, outcome=ERROR, error=error_of(raised))
    evaluations.emit(asked.suite.name, asked.run_id, result, response_id)
    return result


def _ends_the_run(error: BaseException) -> bool:
    """Tell whether somebody wants the run to end; what a target does to itself, exits included, is a result of it."""
    if isinstance(error, asyncio.CancelledError):
        task = asyncio.current_task()
        return task is not None and task.cancelling() > 0
    return isinstance(error, KeyboardInterrupt | GeneratorExit)
