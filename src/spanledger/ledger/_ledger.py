"""`Ledger` and `AsyncLedger`: the ledger by hand, for programs that want more than a decorator.

Rules: the two classes are alike but for `await`. Everything they do is a few steps for a driver. They act on a
configuration and a database that others may share.
"""

from __future__ import annotations

import dataclasses
import inspect
import os
import uuid
from collections.abc import Awaitable, Callable, Iterable
from types import TracebackType
from typing import Any, Self

from spanledger.config import Config, Dsn, dsn_of
from spanledger.core.budgets import Balance
from spanledger.core.call import Begun, Call, Ended, Outcome, ToolCall, Verdict
from spanledger.core.money import Amount, amount_of
from spanledger.core.outcomes import describe_error, is_ambiguous, storable
from spanledger.core.rules import terms_for
from spanledger.core.steps import RESOLUTIONS, Ask, Asking, claimed, guarded, keep_plain, kept_text
from spanledger.core.values import decode, encode
from spanledger.errors import ConfigError
from spanledger.ledger._database import Database, embedded_server
from spanledger.ledger._drivers import AwaitingDriver, BlockingDriver
from spanledger.ledger._embedded import EmbeddedPostgres
from spanledger.ledger._functions import Prefix, Read, Run, applying


class PlainCodec:
    """Keeps values as JSON; what JSON lacks is tagged."""

    def encode(self, result: Any) -> Any:
        """Turn a result into a JSON tree that gives it back equal."""
        tree = encode(result, exact=True)
        back = decode(tree)
        if type(back) is not type(result) or back != result:
            raise TypeError(f"a {type(result).__qualname__} would not come back equal")
        return tree

    def decode(self, tree: Any, call: Call) -> Any:  # noqa: ARG002 - the call matters to other codecs
        """Turn a kept tree into the result."""
        return decode(tree)


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
                return Ended(handler())
            except BaseException as error:  # noqa: BLE001 - raised again below
                return Ended(error=error)

        outcome = self._driver.drive(guarded(_asking(self.config, call), PlainCodec()), invoke)
        return _result_of(outcome)

    def begin(self, call: ToolCall) -> Begun:
        """Ask once whether a call may run, and claim it if so; refusals are verdicts here, not exceptions."""
        return _shown_begun(self._driver.drive(claimed(_asking(self.config, call))))

    def settle(self, begun: Begun, result: Any, cost: Amount | None = None) -> bool:
        """Record that a call succeeded.

        Args:
            begun: What `begin` answered.
            result: What to give back to later calls of this key.
            cost: What it cost; None: what was reserved.

        Returns:
            True; False where a newer attempt owns the call, and this outcome was recorded as late.
        """
        return bool(self._driver.query(_settle(self.config, begun, result, cost))["owned"])

    def fail(self, begun: Begun, error: BaseException, outcome_unknown: bool | None = None) -> bool:
        """Record that a call failed.

        Args:
            begun: What `begin` answered.
            error: What was raised.
            outcome_unknown: Whether it may have taken effect all the same; None: by the kind of error.

        Returns:
            True; False where a newer attempt owns the call.
        """
        return bool(self._driver.query(_fail(self.config, begun, error, outcome_unknown))["owned"])

    def key(self, call: ToolCall) -> str:
        """Return the key of a call, without asking the ledger."""
        return _asking(self.config, call).identity.key

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the row of a call, or None."""
        return next(iter(self._driver.query(_calls(self.config, {"key": key}, 1))), None)

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
        return list(self._driver.query(_calls(self.config, where, limit)))

    def history(self, key: str) -> list[dict[str, Any]]:
        """Return what happened to a call beyond what its row shows now, in order."""
        return list(self._driver.query(_history(self.config, key)))

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
        return bool(self._driver.query(_resolve(self.config, key, by, (outcome, result, reason)))["done"])

    def budgets(self, tenant: str | None = None) -> list[Balance]:
        """Return how the budgets stand."""
        return _balances(self._driver.query(_budgets(self.config, None, tenant)))

    def budget(self, name: str, tenant: str | None = None) -> Balance:
        """Return how one budget stands.

        Raises:
            ConfigError: There is no such budget.
        """
        return _only(_balances(self._driver.query(_budgets(self.config, name, tenant))), name)

    def top_up(self, name: str, amount: Amount, *, by: str) -> None:
        """Raise what a budget may spend.

        Raises:
            ConfigError: There is no such budget in that unit.
        """
        _check_topped(self._driver.query(_top_up(self.config, name, amount, by)), name, amount)


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

        outcome = await self._driver.drive(guarded(_asking(self.config, call), PlainCodec()), invoke)
        return _result_of(outcome)

    async def begin(self, call: ToolCall) -> Begun:
        """As `Ledger.begin`."""
        return _shown_begun(await self._driver.drive(claimed(_asking(self.config, call))))

    async def settle(self, begun: Begun, result: Any, cost: Amount | None = None) -> bool:
        """As `Ledger.settle`."""
        return bool((await self._driver.query(_settle(self.config, begun, result, cost)))["owned"])

    async def fail(self, begun: Begun, error: BaseException, outcome_unknown: bool | None = None) -> bool:
        """As `Ledger.fail`."""
        return bool((await self._driver.query(_fail(self.config, begun, error, outcome_unknown)))["owned"])

    def key(self, call: ToolCall) -> str:
        """As `Ledger.key`."""
        return _asking(self.config, call).identity.key

    async def get(self, key: str) -> dict[str, Any] | None:
        """As `Ledger.get`."""
        return next(iter(await self._driver.query(_calls(self.config, {"key": key}, 1))), None)

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
        return list(await self._driver.query(_calls(self.config, where, limit)))

    async def history(self, key: str) -> list[dict[str, Any]]:
        """As `Ledger.history`."""
        return list(await self._driver.query(_history(self.config, key)))

    async def resolve(self, key: str, *, by: str, outcome: str, result: Any = None, reason: str | None = None) -> bool:
        """As `Ledger.resolve`."""
        return bool((await self._driver.query(_resolve(self.config, key, by, (outcome, result, reason))))["done"])

    async def budgets(self, tenant: str | None = None) -> list[Balance]:
        """As `Ledger.budgets`."""
        return _balances(await self._driver.query(_budgets(self.config, None, tenant)))

    async def budget(self, name: str, tenant: str | None = None) -> Balance:
        """As `Ledger.budget`."""
        return _only(_balances(await self._driver.query(_budgets(self.config, name, tenant))), name)

    async def top_up(self, name: str, amount: Amount, *, by: str) -> None:
        """As `Ledger.top_up`."""
        _check_topped(await self._driver.query(_top_up(self.config, name, amount, by)), name, amount)


def _asking(config: Config, call: ToolCall) -> Asking:
    values = {f.name: getattr(call, f.name) for f in dataclasses.fields(call) if f.name != "tool"}
    return config.asking(Call(name=call.tool, opted_in=True, **values), attempt_id=str(uuid.uuid4()))


def _settle(config: Config, begun: Begun, result: Any, cost: Amount | None) -> Ask:
    text = None
    if terms_for(Call(begun.tool, opted_in=True), config.rules).keep_result and begun.key_source != "none":
        text = kept_text(begun.tool, result, PlainCodec(), config.result_bytes_max)
    item = _ended(begun, cost) | {"result": text, "result_kept": text is not None}
    return Ask("settle", begun.tenant, item, shielded=True)


def _fail(config: Config, begun: Begun, error: BaseException, outcome_unknown: bool | None) -> Ask:
    if outcome_unknown is None:
        outcome_unknown = is_ambiguous(error, terms_for(Call(begun.tool, opted_in=True), config.rules))
    item = _ended(begun, None) | {"error": describe_error(error), "outcome_unknown": outcome_unknown}
    return Ask("fail", begun.tenant, item, shielded=True)


def _ended(begun: Begun, cost: Amount | None) -> dict[str, Any]:
    return {
        "key": begun.key,
        "attempt_id": begun.attempt_id,
        "cost": {} if cost is None else {cost.unit: cost.steps},
    }


def _resolve(config: Config, key: str, by: str, found: tuple[str, Any, str | None]) -> Ask:
    outcome, result, reason = found
    if outcome not in RESOLUTIONS:
        raise ConfigError(f"an outcome is one of {', '.join(RESOLUTIONS)}, not {outcome!r}")
    item: dict[str, Any] = {"key": key, "by": storable(by), "outcome": outcome}
    if reason is not None:
        item |= {"reason": storable(reason)}
    if outcome == "succeeded":
        item |= {"result": keep_plain(result), "result_kept": True}
    return Ask("resolve", config.tenant, item)


def _calls(config: Config, where: dict[str, Any], limit: int) -> Read:
    return Read("calls", {"tenant": config.tenant} | where, "created_at desc, key", limit)


def _history(config: Config, key: str) -> Read:
    return Read("history", {"tenant": config.tenant, "key": key}, "id")


def _budgets(config: Config, name: str | None, tenant: str | None) -> Read:
    return Read("budgets", {"tenant": tenant or config.tenant, "name": name}, "name")


def _balances(rows: Iterable[dict[str, Any]]) -> list[Balance]:
    figures = ("limit", "spent", "held", "remaining")
    return [Balance(row["name"], *(amount_of(row["unit"], row[f"{f}_steps"]) for f in figures)) for row in rows]


def _only(balances: list[Balance], name: str) -> Balance:
    if not balances:
        raise ConfigError(f"the ledger has no budget {name!r}; apply a configuration that names it")
    return balances[0]


def _top_up(config: Config, name: str, amount: Amount, by: str) -> Run:
    return Run("top_up", (config.tenant, name, amount.unit, amount.steps, by))


def _check_topped(done: bool, name: str, amount: Amount) -> None:
    if not done:
        raise ConfigError(f"the ledger has no budget {name!r} in {amount.unit}")


def _shown_begun(begun: Begun) -> Begun:
    if begun.verdict is Verdict.REPLAY and begun.result_kept:
        return dataclasses.replace(begun, result=decode(begun.result))
    return begun


def _result_of(outcome: Outcome) -> Any:
    if outcome.ended.error is not None:
        raise outcome.ended.error
    return outcome.ended.value
