"""A connection that waits for an answer so long and no longer; the one that listens is of this kind.

Rules: a server that has frozen, or a peer that vanished behind a Unix socket, answers nothing, and libpq would wait for
ever. The wait is bounded here, in the client; the connection is closed with it, because its answer may still come.
"""

from __future__ import annotations

import contextlib
import time
from typing import Any, TypeVar

import psycopg
from psycopg.abc import PQGen

from spanledger.ledger._functions import no_answer

T = TypeVar("T")
CANCEL_TIMEOUT_S = 1.0


class BoundedConnection(psycopg.Connection[Any]):
    """A blocking connection whose statements have a deadline.

    Attributes:
        answer_timeout_s: How long a statement may take; None for ever.
    """

    answer_timeout_s: float | None = None

    def wait(self, gen: PQGen[T], *args: Any, **kwargs: Any) -> T:
        """Wait for the server.

        Raises:
            LedgerUnavailable: No answer came in time. The connection is closed.
        """
        timeout_s = self.answer_timeout_s
        return super().wait(gen if timeout_s is None else self._until(gen, timeout_s), *args, **kwargs)

    def _until(self, gen: PQGen[T], timeout_s: float) -> PQGen[T]:
        deadline_s = time.monotonic() + timeout_s
        try:
            wanted = next(gen)
            while True:
                # psycopg looks in here at every event, and ten times a second without one.
                ready = yield wanted
                if time.monotonic() > deadline_s:
                    self._give_up()
                    raise no_answer(timeout_s)
                wanted = gen.send(ready)
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]

    def _give_up(self) -> None:
        # So that nothing is claimed behind the back of a caller who has gone.
        with contextlib.suppress(psycopg.Error):
            self.cancel_safe(timeout=CANCEL_TIMEOUT_S)
        self.close()
