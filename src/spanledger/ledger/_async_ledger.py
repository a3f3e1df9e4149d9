"""`AsyncLedger`: the ledger by hand, for callers in an event loop.

Rules: it is `Ledger` but for `await`, method by method; whatever the two share is in `_requests`.
"""

from __future__ import annotations

import asyncio
import datetime as dt
from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

from spanledger.config import Config, Dsn, checked
from spanledger.core.approvals import Approval
from spanledger.core.budgets import Balance
from spanledger.core.call import Begun, ToolCall
from spanledger.core.grants import Authorization, Grant
from spanledger.core.money import Amount
from spanledger.core.settling import told_by_hand
from spanledger.ledger import _requests as requests
from spanledger.ledger import _retention as r
from spanledger.ledger import _sessions as s
from spanledger.ledger._by_hand import ByHand
from spanledger.ledger._database import Database
from spanledger.ledger._delegations import AsyncDelegations
from spanledger.ledger._drivers import AwaitingDriver
from spanledger.ledger._functions import Run, applying
from spanledger.ledger._opening import open_database
from spanledger.ledger._turns import turn


class AsyncLedger:
    """The ledger, for callers in an event loop; `Ledger` has the meaning of each method."""

    def __init__(
        self, dsn: Dsn | None = None, config: Config | None = None, *, database: Database | None = None
    ) -> None:
        """Connect lazily; the arguments are those of `Ledger`."""
        self.config = Config.from_env() if config is None else checked(config)
        self._database = database or open_database(self.config, dsn)
        self._driver = AwaitingDriver(self._database)
        self._by_hand = ByHand(self._database, self.config)
        self.delegations = AsyncDelegations(self.config, self._driver)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of this loop and process."""
        if self._database.trail is not None:
            await asyncio.to_thread(self._database.trail.close)
        await self._database.close_loop()
        self._database.close()

    async def migrate(self) -> list[str]:
        """As `Ledger.migrate`."""
        return await asyncio.to_thread(self._database.migrate)

    async def apply(self, config: Config, *, by: str = "apply", tenant: str | None = None) -> None:
        """As `Ledger.apply`."""
        await self._driver.query(applying(config, by, tenant))

    async def run(self, call: ToolCall, handler: Callable[[], Awaitable[Any] | Any]) -> Any:
        """As `Ledger.run`; the handler may be a coroutine function."""
        await _set_out()
        run = self._by_hand.run(call, handler)
        return requests.result_of(await self._driver.drive(run.steps, run.invoke_awaiting))

    async def begin(self, call: ToolCall) -> Begun:
        """As `Ledger.begin`."""
        await _set_out()
        return requests.shown_begun(self.config, await self._driver.drive(self._by_hand.begin(call)))

    async def settle(self, begun: Begun, result: Any, cost: Amount | None = None) -> bool:
        """As `Ledger.settle`."""
        return await self._driver.drive(told_by_hand(begun, requests.settle(self.config, begun, result, cost)))

    async def fail(self, begun: Begun, error: BaseException | str, outcome_unknown: bool | None = None) -> bool:
        """As `Ledger.fail`."""
        return await self._driver.drive(told_by_hand(begun, requests.fail(self.config, begun, error, outcome_unknown)))

    def key(self, call: ToolCall) -> str:
        """As `Ledger.key`."""
        return requests.asking(self.config, call).identity.key

    async def get(self, key: str) -> dict[str, Any] | None:
        """As `Ledger.get`."""
        return next(iter(await self._driver.query(requests.call(self.config, key))), None)

    async def calls(  # noqa: PLR0917 - filters, given by name
        self,
        workflow_id: str | None = None,
        state: str | None = None,
        tool: str | None = None,
        tenant: str | None = None,
        limit: int = 100,
        key: str | None = None,
        agent: str | None = None,
        actor: str | None = None,
        since: dt.datetime | None = None,
    ) -> list[dict[str, Any]]:
        """As `Ledger.calls`."""
        where: dict[str, Any] = {"workflow_id": workflow_id, "state": state, "tool": tool, "tenant": tenant, "key": key}
        where |= {"agent": agent, "actor": actor, "since": since}
        return list(await self._driver.query(requests.calls(self.config, where, limit)))

    async def history(self, key: str) -> list[dict[str, Any]]:
        """As `Ledger.history`."""
        return list(await self._driver.query(requests.history(self.config, key)))

    async def passed_over(self, since: dt.datetime | None = None) -> list[dict[str, Any]]:
        """As `Ledger.passed_over`."""
        return list(await self._driver.query(requests.passed_over(self.config, since)))

    sessions = s.sessions_awaiting
    session = s.session_awaiting
    turns = s.turns_awaiting
    end_session = s.end_session_awaiting
    agents = s.agents_awaiting
    agent = s.agent_awaiting
    get_or_create_agent = s.get_or_create_agent_awaiting
    spending = s.spending_awaiting
    prune = r.prune_awaiting
    prunings = r.prunings_awaiting

    async def timeline(self, workflow_id: str | None = None, **which: Any) -> list[dict[str, Any]]:
        """As `Ledger.timeline`."""
        return list(await self._driver.query(requests.timeline(self.config, workflow_id, **which)))

    async def resolve(self, key: str, *, by: str, outcome: str, result: Any = None, reason: str | None = None) -> bool:
        """As `Ledger.resolve`."""
        call = await self.get(key) if requests.redacts(self.config, outcome) else None
        ask = requests.resolve(self.config, key, by, (outcome, result, reason), call["tool"] if call else "")
        return bool((await self._driver.query(ask))["done"])

    async def approvals(
        self,
        tenant: str | None = None,
        state: str | None = "pending",
        limit: int = 100,
        key: str | None = None,
        approval_id: str | None = None,
    ) -> list[Approval]:
        """As `Ledger.approvals`."""
        where = {"tenant": tenant, "state": state, "key": key, "approval_id": approval_id}
        return requests.approvals_of(await self._driver.query(requests.approvals(self.config, where, limit)))

    async def approve(self, approval_id: str, *, by: str, note: str | None = None) -> bool:
        """As `Ledger.approve`."""
        answer = await self._driver.query(requests.decision(self.config, "approve", approval_id, by, note))
        return requests.decided(answer, by)

    async def deny(self, approval_id: str, *, by: str, reason: str | None = None) -> bool:
        """As `Ledger.deny`."""
        answer = await self._driver.query(requests.decision(self.config, "deny", approval_id, by, reason))
        return requests.decided(answer, by)

    async def cancel(self, key: str, *, by: str, reason: str | None = None) -> bool:
        """As `Ledger.cancel`."""
        return bool((await self._driver.query(requests.cancel(self.config, key, by, reason)))["done"])

    async def erase(
        self,
        *,
        by: str,
        workflow_id: str | None = None,
        actor: str | None = None,
        key: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """As `Ledger.erase`."""
        whose, wanted = requests.to_erase(self.config, tenant, workflow=workflow_id, actor=actor, key=key)
        after: str | None = ""
        count = 0
        while after is not None:
            answer = await self._driver.query(requests.erase(whose, wanted, by, after))
            after, count = answer["after"], count + len(answer["keys"])
            if self._database.spool is not None:
                erased = requests.erased(whose, wanted, answer["keys"])
                await asyncio.to_thread(self._database.spool.erase, erased)
        return count

    async def budgets(self, tenant: str | None = None) -> list[Balance]:
        """As `Ledger.budgets`."""
        return requests.balances(await self._driver.query(requests.budgets(self.config, None, tenant)))

    async def budget(
        self, name: str, tenant: str | None = None, scope: Mapping[str, str | None] | None = None
    ) -> Balance:
        """As `Ledger.budget`."""
        return requests.only(await self._driver.query(requests.budgets(self.config, name, tenant)), name, scope)

    async def top_up(
        self, name: str, amount: Amount, *, by: str, scope: Mapping[str, str | None] | None = None
    ) -> None:
        """As `Ledger.top_up`."""
        done = await self._driver.query(requests.top_up(self.config, name, amount, by, scope))
        requests.check_topped(done, name, amount)

    async def controls(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """As `Ledger.controls`."""
        return list(await self._driver.query(requests.controls(self.config, tenant)))

    async def grants(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """As `Ledger.grants`."""
        return list(await self._driver.query(requests.grants(self.config, tenant)))

    async def grant(self, grant: Grant, *, by: str) -> None:
        """As `Ledger.grant`."""
        await self._driver.query(requests.grant(self.config, grant, by))

    async def revoke(self, permission: str, *, by: str, agent: str | None = None, actor: str | None = None) -> bool:
        """As `Ledger.revoke`."""
        given = Grant(permission, agent=agent, actor=actor)
        if not requests.is_in_force(await self.grants(), given):
            return False
        await self._driver.query(requests.revoke(self.config, given, by))
        return True

    async def authorize(
        self,
        permission: str,
        amount: Amount | None = None,
        *,
        agent: str | None = None,
        actor: str | None = None,
        workflow_id: str | None = None,
    ) -> Authorization:
        """As `Ledger.authorize`."""
        whose = {"agent": agent or self.config.agent, "actor": actor, "workflow_id": workflow_id}
        return await self._driver.drive(requests.authorize(self.config, permission, amount, whose))

    async def bind_role(self, role: str, *, kind: str, tenant: str, by: str) -> None:
        """As `Ledger.bind_role`."""
        await self._driver.query(Run("bind_role", (role, kind, tenant, by)))

    async def unbind_role(self, role: str, *, tenant: str) -> bool:
        """As `Ledger.unbind_role`."""
        return bool(await self._driver.query(Run("unbind_role", (role, tenant))))


async def _set_out() -> None:
    """Begin in one's turn; never with an outcome, which has to be told even if its caller is cancelled here."""
    if (mine := turn()) is not None:
        await mine
