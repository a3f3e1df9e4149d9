"""What becomes of calls that a program makes by hand: what they run, and for the decision trace of the ledger.

Rules: what `begin` writes down itself is not told again. The rest, replays and the other refusals, is told in the
background, as it is of tools: it costs the caller an append to a queue, and where it is lost that is counted. While a
handler runs, its call is the current one, as that of a tool is.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from spanledger.config import Config
from spanledger.core.asking import Asking, Steps
from spanledger.core.call import Begun, Ended, Outcome, ToolCall, Verdict
from spanledger.core.outcomes import no_coroutine
from spanledger.core.refusals import WRITTEN_BY_BEGIN, refusal, verdict_of
from spanledger.core.steps import begun_once, guarded
from spanledger.core.trail import Entry
from spanledger.errors import SpanledgerError
from spanledger.ledger import _requests as requests
from spanledger.ledger._database import Database
from spanledger.ledger._trail import Trail

T = TypeVar("T", Begun, Outcome)
# How a call ended, of what its handler returned or raised.
Ends = Callable[[Any, BaseException | None], Ended]
Around = Callable[[Asking, Begun], AbstractContextManager[Ends]]


class Run:
    """One function that is to run as a call.

    Args:
        handler: The function.

    Attributes:
        steps: Ask, run it, and tell the ledger how it ended; raise a `SpanledgerError` where it may not run.
    """

    steps: Steps[Outcome]

    def __init__(self, handler: Callable[[], Any]) -> None:
        self._handler = handler
        self._asking: Asking | None = None

    def guarded(self, asking: Asking) -> Steps[Outcome]:
        """Say what the call is, which has been described now."""
        self._asking = asking
        return guarded(asking, requests.PlainCodec())

    def invoke(self, begun: Begun) -> Ended:
        """Call the function."""
        with self._running(begun) as ended:
            try:
                return ended(no_coroutine(begun.tool, self._handler()), None)
            except BaseException as error:  # noqa: BLE001 - raised again when it is told
                return ended(None, error)

    async def invoke_awaiting(self, begun: Begun) -> Ended:
        """Call the function, which may be a coroutine function."""
        with self._running(begun) as ended:
            try:
                value = self._handler()
                return ended(await value if inspect.isawaitable(value) else value, None)
            except BaseException as error:  # noqa: BLE001 - raised again when it is told
                return ended(None, error)

    def _running(self, begun: Begun) -> AbstractContextManager[Ends]:
        assert self._asking is not None  # noqa: S101 - it has been answered
        return _around(self._asking, begun)


def run_in(around: Around) -> None:
    """Say what makes a call the current one while its handler runs."""
    global _around  # noqa: PLW0603 - one per process
    _around = around


@contextmanager
def _nothing(_asking: Asking, _begun: Begun) -> Iterator[Ends]:
    yield lambda value, error: Ended(value, error=error)


_around: Around = _nothing


class ByHand:
    """The calls of one `Ledger` or `AsyncLedger`.

    Args:
        database: Where they are asked about, and told of.
        config: Rules, budgets and limits.
    """

    def __init__(self, database: Database, config: Config) -> None:
        self._config = config
        self.trail = database.trail or Trail(database, config)

    def run(self, call: ToolCall, handler: Callable[[], Any]) -> Run:
        """Prepare to ask, run one function, and tell the ledger how it ended."""
        run = Run(handler)
        run.steps = self._told(call, run.guarded)
        return run

    def begin(self, call: ToolCall) -> Steps[Begun]:
        """Ask once, whatever the verdict.

        Raises:
            SpanledgerError: The call cannot be described, or the ledger does not answer.
        """
        return self._told(call, begun_once)

    def _told(self, call: ToolCall, steps: Callable[[Asking], Steps[T]]) -> Steps[T]:
        try:
            asking = requests.asking(self._config, call)
            answer = yield from steps(asking)
        except SpanledgerError as error:
            self._refused(call, error)
            raise
        begun = answer.begun if isinstance(answer, Outcome) else answer
        if begun.verdict is Verdict.REPLAY:
            detail = {"attempt": begun.attempt, "original": begun.details.get("original")}
            self._tell("replay", call, begun.key, detail)
        elif begun.verdict is not Verdict.RUN:
            self._refused(call, refusal(begun, asking.call))
        return answer

    def _refused(self, call: ToolCall, error: SpanledgerError) -> None:
        if not isinstance(error, WRITTEN_BY_BEGIN) or error.key is None:
            detail = {"verdict": verdict_of(error), "reason": str(error), "error": type(error).__name__}
            self._tell("refused", call, error.key, detail)

    def _tell(self, event: str, call: ToolCall, key: str | None, detail: dict[str, Any]) -> None:
        entry = Entry(event, call.workflow_id, None, call.tenant, call.agent, call.actor, key, detail=detail)
        self.trail.tell(entry)
