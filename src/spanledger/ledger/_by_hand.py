"""What becomes of calls that a program makes by hand, for the decision trace of the ledger.

Rules: what `begin` writes down itself is not told again. The rest, replays and the other refusals, is told in the
background, as it is of tools: it costs the caller an append to a queue, and where it is lost that is counted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from spanledger.config import Config
from spanledger.core.asking import Asking, Steps
from spanledger.core.call import Begun, Outcome, ToolCall, Verdict
from spanledger.core.refusals import WRITTEN_BY_BEGIN, refusal, verdict_of
from spanledger.core.steps import begun_once, guarded
from spanledger.core.trail import Entry
from spanledger.errors import SpanledgerError
from spanledger.ledger import _requests as requests
from spanledger.ledger._database import Database
from spanledger.ledger._trail import Trail

T = TypeVar("T", Begun, Outcome)


class ByHand:
    """The calls of one `Ledger` or `AsyncLedger`.

    Args:
        database: Where they are asked about, and told of.
        config: Rules, budgets and limits.
    """

    def __init__(self, database: Database, config: Config) -> None:
        self._config = config
        self.trail = database.trail or Trail(database, config)

    def run(self, call: ToolCall) -> Steps[Outcome]:
        """Ask, run one function, and tell the ledger how it ended.

        Raises:
            SpanledgerError: The call may not run, or cannot be described.
        """
        return self._told(call, lambda asking: guarded(asking, requests.PlainCodec()))

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
