"""Passing authority on to another agent, and acting under what was passed on.

Rules: who passes it on, for whom and in which workflow is what is around the code, and so is what it comes from: the
delegation around it, else what is granted to its agent. `delegated` looks at the token itself; whether it is still in
force the ledger says to every call. In mode "shadow" nothing is refused: what would be is logged, nothing is passed on,
and who would act under it acts as before; what no run of the program can do, to name no permission or to have no key to
sign with, is raised as ever. In mode "off" nothing is asked and nothing looked at.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Final

from opentelemetry import trace

from spanledger import acting
from spanledger._guard import Guard, ambient
from spanledger.core.authority import Authority
from spanledger.core.delegations import Delegation
from spanledger.core.delegations import delegated as made
from spanledger.core.money import Amount
from spanledger.errors import LedgerUnavailable, NotAuthorized
from spanledger.instrument import _runtime
from spanledger.telemetry import record

logger = logging.getLogger("spanledger.instrument")

# Instead of a token, where none was made: whoever enforces takes it for what it is.
NO_TOKEN: Final = "none"  # noqa: S105 - none


def delegate(
    to_agent: str,
    permissions: str | Iterable[str],
    max_amount: Amount | None = None,
    expires_in_s: float | None = None,
    reason: str | None = None,
) -> str:
    """Pass some of the authority around this code on to another agent.

    It blocks; on an event loop, `asyncio.to_thread` takes what is around the code along, and `AsyncLedger.delegations`
    is awaited.

    Args:
        to_agent: Name of the agent that may act under it.
        permissions: What it may do, for example ``["payments:refund"]``.
        max_amount: The most that all that is done under it may cost, and under what is passed on from it, together.
        expires_in_s: Seconds after which it ends, never later than what it comes from. None: a day.
        reason: What for, kept in the ledger.

    Returns:
        A token. Whoever has it can act under the delegation: keep it out of logs and prompts. ``"none"`` in mode "off",
        and in mode "shadow" where it would have been refused.

    Raises:
        NotAuthorized: It would not be narrower than what is around this code, or that is not in force any more.
        LedgerUnavailable: Nobody can say. Neither of the two in mode "shadow".
        ConfigError: That makes no sense, or there is no key to sign with; in mode "shadow" as well.
    """
    wanted = Delegation(to_agent, permissions, max_amount, expires_in_s, reason)
    engine = _runtime.engine()
    if engine is None:
        return NO_TOKEN
    keys = engine.guard.config.delegation_keys
    keys.ready()
    try:
        tenant, whose, above = whose_authority(engine.guard)
        return engine.guard.blocking.drive(made(tenant, wanted, whose | _where(), above, keys.sign))
    except (NotAuthorized, LedgerUnavailable) as error:
        _refuse(engine.guard, f"nothing is delegated to {wanted.to_agent!r}, and the program", error)
        return NO_TOKEN


class delegated:  # noqa: N801 - used as a block, as `tool_call` is
    """Act under a delegation inside a block; use it with `with` or `async with`.

    Calls in there are those of the agent that it is for, unless a workflow, a framework or the configuration names
    another: then they are refused. Threads, executors and tasks take it along.
    """

    def __init__(self, token: str) -> None:
        """Look at the token.

        Args:
            token: What `delegate` returned.

        Raises:
            NotAuthorized: It cannot be read: it was changed, is signed by a key that is not known here, or is over. In
                mode "shadow" that is logged, and the block is as if it were not there.
        """
        self._token = token
        self._block: AbstractContextManager[None] = contextlib.nullcontext()
        engine = _runtime.engine()
        self.authority: Authority | None = None
        if engine is None:
            return
        try:
            self.authority = engine.guard.config.delegation_keys.read(token)
        except NotAuthorized as error:
            _refuse(engine.guard, "what would act under a delegation", error)

    def __enter__(self) -> Authority | None:
        if self.authority is not None:
            self._block = acting.acting(self._token)
        self._block.__enter__()
        return self.authority

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._block.__exit__(kind, error, tb)

    async def __aenter__(self) -> Authority | None:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, tb)


def _refuse(guard: Guard, what: str, error: NotAuthorized | LedgerUnavailable) -> None:
    if guard.config.mode != "shadow":
        raise error
    logger.warning("shadow: %s goes on; enforced, it would be refused: %s", what, error)


def whose_authority(guard: Guard) -> tuple[str, dict[str, str | None], Authority | None]:
    """Say in whose tenant, by which agent, for whom, and under what this code acts.

    Raises:
        NotAuthorized: The token around it cannot be read, or is for another tenant.
    """
    around, token, config = ambient(), acting.token(), guard.config
    tenant = (around.tenant if around else None) or config.tenant
    authority = None if token is None else config.delegation_keys.read(token, tenant)
    agent = (around.agent if around else None) or config.agent or (authority.agent if authority else None)
    actor = (around.actor if around else None) or (authority.actor if authority else None)
    return tenant, {"agent": agent, "actor": actor}, authority


def _where() -> dict[str, str | None]:
    around, traced = ambient(), record.trace_of(trace.get_current_span())
    return {
        "workflow_id": around.workflow_id if around else None,
        "trace_id": traced.trace_id if traced else None,
        "span_id": traced.span_id if traced else None,
    }
