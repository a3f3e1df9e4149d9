"""Anthropic's runner of a managed agent's tools: `client.beta.sessions.events.tool_runner(…)`.

Rules: a call whose result could not be sent is made again, by this runner or by the next one; its event has an id,
which is that of the call, and the session is the scope. The function that runs tools is told neither, so both are noted
where the event comes in; calls run one after another. What a tool raises, or takes too long for, becomes a text only
after the call.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextvars import ContextVar
from typing import Any

from spanledger.core.call import Call
from spanledger.instrument.libraries import _anthropic_tools as tools
from spanledger.instrument.library import Arguments, Given, Wrap, no_call

_RUNNER = "anthropic.lib.tools._beta_session_runner"

# The session, and the event that asks for the call which is under way in this task.
_under_way: ContextVar[tuple[str, Any] | None] = ContextVar("spanledger_session_event", default=None)


def note(runner: Any, args: Arguments, kwargs: dict[str, Any], _guarded: Callable[[Any], Any]) -> Given:
    """Note which event is dealt with."""
    _under_way.set((runner.session_id, args[0] if args else kwargs["ev"]))
    return args, kwargs


def describe(_instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `run_runnable_tool`."""
    given = {**dict(zip(("tool", "input"), args, strict=False)), **kwargs}
    session, event = _under_way.get() or (None, None)
    call_id = getattr(event, "id", None)
    return Call(
        name=given["tool"].name,
        arguments=given["input"],
        call_id=call_id,
        workflow_id=session,
        turn=call_id,
    )


WRAPS = (
    Wrap(f"{_RUNNER}:SessionToolRunner._execute", no_call, gives=note),
    Wrap(f"{_RUNNER}:run_runnable_tool", describe, codec=tools.PlainCodec(), tell=tools.tell_text),
)
TELLS = (f"{_RUNNER}:tool_error_content",)
