"""Sessions: many turns of one conversation, grouped by its id.

Rules: a turn is a workflow: the scope of idempotency, and a trace of its own whose spans carry the session's id as
`gen_ai.conversation.id`. A session is no span, because it may be open for days and in many processes, one after the
other. It is open as long as somebody has it open, ends once each time, and goes on under the same id when it is opened
again. That a process died with it open is told by the ledger, which no longer hears of it.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import Final, Literal
from urllib.parse import quote

from opentelemetry.trace import INVALID_SPAN, Span

from spanledger._guard import ambient
from spanledger.core.ids import ID_CHARS_MAX, is_id
from spanledger.placing import Ambient
from spanledger.telemetry import trail
from spanledger.telemetry.decision import Workflow

# Neither the separator nor what escapes it: no two pairs of ids make one workflow id.
_PLAIN: Final = ":@"


class Session(Workflow):
    """A conversation; use it with `with` or `async with`, and open a turn in it for each run of the agent.

    Attributes:
        session_id: What groups its turns, also those in other processes.
        workflow_id: The scope of what is called outside of any turn: this time that the session is open.
        agent: Name of the agent.
    """

    _kind = "session"
    _spans = False

    def __init__(self, session_id: str, around: Ambient) -> None:
        super().__init__(around, None)
        self.session_id = session_id

    def turn(self, turn_id: str | None = None, *, goal: str | None = None) -> Workflow:
        """Open a turn: one run of the agent in this conversation.

        Args:
            turn_id: What a retry of the turn shares, for example the id of the message that it answers: the side
                effects of a turn that is run again are not repeated. None: a turn of its own each time.
            goal: What the turn is for, in words.

        Raises:
            RuntimeError: The session is not open.
        """
        if not self._open:
            raise RuntimeError("open the session first, `with session(…) as chat:`, and not after it was ended")
        run_id = str(uuid.uuid4())
        scope = _joined(self.session_id, run_id if turn_id is None else checked("a turn id", turn_id))
        around = replace(self._around, workflow_id=scope, run_id=run_id, turn_id=run_id)
        return Workflow(around, goal)

    def end(self, status: Literal["done", "failed", "interrupted"] = "done", *, error: str | None = None) -> None:
        """End the session before its block is left, which then says nothing more; once is enough.

        Args:
            status: How it ended.
            error: What went wrong, in words; kept in the ledger.
        """
        if status not in ("done", "failed", "interrupted"):
            raise ValueError(f"a session ends as 'done', 'failed' or 'interrupted', not {status!r}")
        if self._open:
            self._open = False
            self._tell_end(status, error)

    def _opened(self) -> Span:
        trail.need()
        return INVALID_SPAN


def session(
    session_id: str | None = None,
    *,
    agent: str | None = None,
    tenant: str | None = None,
    actor: str | None = None,
    agent_version: str | None = None,
    environment: str | None = None,
) -> Session:
    """Open a session, or go on with one.

    Args:
        session_id: The id of the conversation, for example ``"chat-9"``; a new one if None.
        agent: Name of the agent.
        tenant: Whose ledger it is; the configured tenant if None.
        actor: On whose behalf the agent acts.
        agent_version: Its version, where it is not the configured one.
        environment: Where it runs, likewise; for example ``"staging"``.

    Raises:
        ValueError: The id, version or environment is no printable text of 1 to 512 characters.
    """
    named = str(uuid.uuid4()) if session_id is None else checked("a session id", session_id)
    outer = ambient()
    run_id = str(uuid.uuid4())
    around = Ambient(
        _joined(named, run_id),
        agent=agent,
        actor=actor or (outer.actor if outer else None),
        tenant=tenant or (outer.tenant if outer else None),
        run_id=run_id,
        session_id=named,
        agent_version=None if agent_version is None else checked("agent_version", agent_version),
        environment=None if environment is None else checked("environment", environment),
    )
    return Session(named, around)


def checked(what: str, text: object) -> str:
    """Return a text that can be an id.

    Raises:
        ValueError: It cannot.
    """
    if not is_id(text):
        raise ValueError(f"{what} is printable text of 1 to {ID_CHARS_MAX} characters, not {text!r:.80}")
    return str(text)


def _joined(session_id: str, within: str) -> str:
    return f"{quote(session_id, safe=_PLAIN)}/{quote(within, safe=_PLAIN)}"
