"""`Ledger` and `AsyncLedger`: the ledger by hand, for programs that want more than a decorator.

Rules: the two classes are alike but for `await`. Everything they do is a few steps for a driver; `_requests` makes
them and reads the answers. They act on a configuration and a database that others may share.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Self

from spanledger.config import Config, Dsn, dsn_of
from spanledger.core.budgets import Balance
from spanledger.core.call import Begun, Ended, ToolCall
from spanledger.core.money import Amount
from spanledger.core.outcomes import no_coroutine
from spanledger.core.steps import claimed, guarded
from spanledger.errors import ConfigError
from spanledger.ledger import _requests as requests
from spanledger.ledger._database import Database, embedded_server
from spanledger.ledger._drivers import AwaitingDriver, BlockingDriver
from spanledger.ledger._embedded import EmbeddedPostgres
from spanledger.ledger._functions import Prefix, Run, applying


def open_database(config: Config, dsn: Dsn | None = None) -> Database:
    """Say where the ledger of a configuration is; nothing is opened yet.

    Raises:
        ConfigError: No DSN is given and no private server can be used here.
    """
    where: Dsn | EmbeddedPostgres = dsn or config.dsn or dsn_of(os.environ) or embedded_server(config.embedded)
    controls = applying(config, "process") if config.budgets else None
    return Database(where, controls=controls, timeout_s=config.ledger_timeout_s)


class Ledger:
    """The ledger, for blocking callers. Safe to share between threads."""

    def __init__(
        self, dsn: Dsn | None = None, config: Config | None = None, *, database: Database | None = None
    ) -> None:
        """Connect lazily.

        Args:
            dsn: A Postgres connection string or a callable that returns one. None: the configuration's, then
                SPANLEDGER_DSN, then a private server of this machine.
            config: Rules, budgets and limits. None: `Config.from_env()`.
            database: Instead of `dsn`: connections shared with others.
        """
        self.config = Config.from_env() if config is None else config
        self._database = database or open_database(self.config, dsn)
        self._driver = BlockingDriver(self._database)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections of this process."""
        self._database.close()

    def migrate(self) -> list[str]:
        """Bring the schema up to date and return what was applied; safe at any number of places at once."""
        return self._database.migrate()

    def apply(self, config: Config, *, by: str = "apply") -> None:
        """Write the budgets of a configuration into the ledger."""
        self._driver.query(applying(config, by))

    def run(self, call: ToolCall, handler: Callable[[], Any]) -> Any:
        """Run `handler` at most once for this call and return its result, recorded or fresh.

        Raises:
            SpanledgerError: The call may not run; errors of the handler pass through.
        """
        if inspect.iscoroutinefunction(handler):
            raise ConfigError("Ledger.run takes a plain function; a coroutine function goes to AsyncLedger.run")

        def invoke(begun: Begun) -> Ended:  # noqa: ARG001 - the handler needs nothing of it
            try:
                return Ended(no_coroutine(call.tool, handler()))
            except BaseException as error:  # noqa: BLE001 - raised again below
                return Ended(error=error)

        outcome = self._driver.drive(guarded(requests.asking(self.config, call), requests.PlainCodec()), invoke)
        return requests.result_of(outcome)

    def begin(self, call: ToolCall) -> Begun:
        """Ask once whether a call may run, and claim it if so; refusals are verdicts here, not exceptions."""
        return requests.shown_begun(self._driver.drive(claimed(requests.asking(self.config, call))))

    def settle(self, begun: Begun, result: Any, cost: Amount | None = None) -> bool:
        """Record that a call succeeded.

        Args:
            begun: What `begin` answered.
            result: What to give back to later calls of this key.
            cost: What it cost; None: what was reserved.

        Returns:
            True; False where a newer attempt owns the call, and this outcome was recorded as late.
        """
        return bool(self._driver.query(requests.settle(self.config, begun, result, cost))["owned"])

    def fail(self, begun: Begun, error: BaseException, outcome_unknown: bool | None = None) -> bool:
        """Record that a call failed.

        Args:
            begun: What `begin` answered.
            error: What was raised.
            outcome_unknown: Whether it may have taken effect all the same; None: by the kind of error.

        Returns:
            True; False where a newer attempt owns the call.
        """
        return bool(self._driver.query(requests.fail(self.config, begun, error, outcome_unknown))["owned"])

    def key(self, call: ToolCall) -> str:
        """Return the key of a call, without asking the ledger."""
        return requests.asking(self.config, call).identity.key

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the row of a call, or None."""
        return next(iter(self._driver.query(requests.calls(self.config, {"key": key}, 1))), None)

    def calls(  # noqa: PLR0917 - filters, given by name
        self,
        workflow_id: str | None = None,
        state: str | None = None,
        tool: str | None = None,
        tenant: str | None = None,
        limit: int = 100,
        key: str | None = None,
    ) -> list[dict[str, Any]]:
        """Return rows of calls, the newest first; `key` is a key or the beginning of one."""
        where = {"workflow_id": workflow_id, "state": state, "tool": tool, "tenant": tenant or self.config.tenant}
        where |= {"key": Prefix(key)} if key else {}
        return list(self._driver.query(requests.calls(self.config, where, limit)))

    def history(self, key: str) -> list[dict[str, Any]]:
        """Return what happened to a call beyond what its row shows now, in order."""
        return list(self._driver.query(requests.history(self.config, key)))

    def resolve(self, key: str, *, by: str, outcome: str, result: Any = None, reason: str | None = None) -> bool:
        """Say what became of a call of unknown outcome.

        Args:
            key: Its key.
            by: Who says so.
            outcome: ``"succeeded"``, ``"failed"`` or ``"retry"``.
            result: Where it succeeded: what later calls of this key are given.
            reason: Kept in the ledger.

        Returns:
            True; False where the call is not of unknown outcome (any more).
        """
        return bool(self._driver.query(requests.resolve(self.config, key, by, (outcome, result, reason)))["done"])

    def cancel(self, key: str, *, by: str, reason: str | None = None) -> bool:
        """Say that a call shall not run (any more); what it holds is released.

        It is final under this key, until somebody resolves it as ``"retry"``. If it succeeds all the same, because a
        worker that was thought dead comes back, that is what counts.

        Args:
            key: Its key.
            by: Who says so.
            reason: Kept in the ledger.

        Returns:
            True; False where it is running, has succeeded, or is not known.
        """
        return bool(self._driver.query(requests.cancel(self.config, key, by, reason))["done"])

    def budgets(self, tenant: str | None = None) -> list[Balance]:
        """Return how the budgets stand."""
        return requests.balances(self._driver.query(requests.budgets(self.config, None, tenant)))

    def budget(self, name: str, tenant: str | None = None) -> Balance:
        """Return how one budget stands.

        Raises:
            ConfigError: There is no such budget.
        """
        return requests.only(requests.balances(self._driver.query(requests.budgets(self.config, name, tenant))), name)

    def top_up(self, name: str, amount: Amount, *, by: str) -> None:
        """Raise what a budget may spend.

        Raises:
            ConfigError: There is no such budget in that unit.
        """
        requests.check_topped(self._driver.query(requests.top_up(self.config, name, amount, by)), name, amount)

    def bind_role(self, role: str, *, kind: str, tenant: str, by: str) -> None:
        """Let a database role use the ledger for one tenant; only the ledger's owner may say so.

        Args:
            role: Its name; it exists already.
            kind: ``"agent"``: begin, settle and fail; or ``"operator"``: resolve, cancel, apply, top up. Both read.
            tenant: The tenant, or ``"*"`` for all.
            by: Who says so.

        Raises:
            ConfigError: There is no such role or kind, or this program's role is not the owner.
        """
        self._driver.query(Run("bind_role", (role, kind, tenant, by)))

    def unbind_role(self, role: str, *, tenant: str) -> bool:
        """Take a role's rights on a tenant back; False where it had none."""
        return bool(self._driver.query(Run("unbind_role", (role, tenant))))


class AsyncLedger:
    """The ledger, for callers in an event loop; `Ledger` has the meaning of each method."""

    def __init__(
        self, dsn: Dsn | None = None, config: Config | None = None, *, database: Database | None = None
    ) -> None:
        """Connect lazily; the arguments are those of `Ledger`."""
        self.config = Config.from_env() if config is None else config
        self._database = database or open_database(self.config, dsn)
        self._driver = AwaitingDriver(self._database)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections of this loop and process."""
        await self._database.close_loop()
        self._database.close()

    async def migrate(self) -> list[str]:
        """As `Ledger.migrate`."""
        import asyncio

        return await asyncio.to_thread(self._database.migrate)

    async def apply(self, config: Config, *, by: str = "apply") -> None:
        """As `Ledger.apply`."""
        await self._driver.query(applying(config, by))

    async def run(self, call: ToolCall, handler: Callable[[], Awaitable[Any] | Any]) -> Any:
        """As `Ledger.run`; the handler may be a coroutine function."""

        async def invoke(begun: Begun) -> Ended:  # noqa: ARG001 - the handler needs nothing of it
            try:
                value = handler()
                return Ended(await value if inspect.isawaitable(value) else value)
            except BaseException as error:  # noqa: BLE001 - raised again below
                return Ended(error=error)

        outcome = await self._driver.drive(guarded(requests.asking(self.config, call), requests.PlainCodec()), invoke)
        return requests.result_of(outcome)

    async def begin(self, call: ToolCall) -> Begun:
        """As `Ledger.begin`."""
        return requests.shown_begun(await self._driver.drive(claimed(requests.asking(self.config, call))))

    async def settle(self, begun: Begun, result: Any, cost: Amount | None = None) -> bool:
        """As `Ledger.settle`."""
        return bool((await self._driver.query(requests.settle(self.config, begun, result, cost)))["owned"])

    async def fail(self, begun: Begun, error: BaseException, outcome_unknown: bool | None = None) -> bool:
        """As `Ledger.fail`."""
        return bool((await self._driver.query(requests.fail(self.config, begun, error, outcome_unknown)))["owned"])

    def key(self, call: ToolCall) -> str:
        """As `Ledger.key`."""
        return requests.asking(self.config, call).identity.key

    async def get(self, key: str) -> dict[str, Any] | None:
        """As `Ledger.get`."""
        return next(iter(await self._driver.query(requests.calls(self.config, {"key": key}, 1))), None)

    async def calls(  # noqa: PLR0917 - filters, given by name
        self,
        workflow_id: str | None = None,
        state: str | None = None,
        tool: str | None = None,
        tenant: str | None = None,
        limit: int = 100,
        key: str | None = None,
    ) -> list[dict[str, Any]]:
        """As `Ledger.calls`."""
        where = {"workflow_id": workflow_id, "state": state, "tool": tool, "tenant": tenant or self.config.tenant}
        where |= {"key": Prefix(key)} if key else {}
        return list(await self._driver.query(requests.calls(self.config, where, limit)))

    async def history(self, key: str) -> list[dict[str, Any]]:
        """As `Ledger.history`."""
        return list(await self._driver.query(requests.history(self.config, key)))

    async def resolve(self, key: str, *, by: str, outcome: str, result: Any = None, reason: str | None = None) -> bool:
        """As `Ledger.resolve`."""
        return bool(
            (await self._driver.query(requests.resolve(self.config, key, by, (outcome, result, reason))))["done"]
        )

    async def cancel(self, key: str, *, by: str, reason: str | None = None) -> bool:
        """As `Ledger.cancel`."""
        return bool((await self._driver.query(requests.cancel(self.config, key, by, reason)))["done"])

    async def budgets(self, tenant: str | None = None) -> list[Balance]:
        """As `Ledger.budgets`."""
        return requests.balances(await self._driver.query(requests.budgets(self.config, None, tenant)))

    async def budget(self, name: str, tenant: str | None = None) -> Balance:
        """As `Ledger.budget`."""
        return requests.only(
            requests.balances(await self._driver.query(requests.budgets(self.config, name, tenant))), name
        )

    async def top_up(self, name: str, amount: Amount, *, by: str) -> None:
        """As `Ledger.top_up`."""
        requests.check_topped(await self._driver.query(requests.top_up(self.config, name, amount, by)), name, amount)

    async def bind_role(self, role: str, *, kind: str, tenant: str, by: str) -> None:
        """As `Ledger.bind_role`."""
        await self._driver.query(Run("bind_role", (role, kind, tenant, by)))

    async def unbind_role(self, role: str, *, tenant: str) -> bool:
        """As `Ledger.unbind_role`."""
        return bool(await self._driver.query(Run("unbind_role", (role, tenant))))
