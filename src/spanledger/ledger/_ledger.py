"""`Ledger`: the ledger by hand, for programs that want more than a decorator.

Rules: everything it does is a few steps for a driver; `_requests` makes them and reads the answers. It acts on a
configuration and a database that others may share. `AsyncLedger` is alike but for `await`. Others are borrowed.
"""

from __future__ import annotations

import datetime as dt
import inspect
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Self

from spanledger.config import Config, Dsn, checked
from spanledger.core.approvals import Approval
from spanledger.core.budgets import Balance
from spanledger.core.call import Begun, ToolCall
from spanledger.core.grants import Authorization, Grant
from spanledger.core.money import Amount
from spanledger.core.settling import told_by_hand
from spanledger.errors import ConfigError
from spanledger.ledger import _requests as requests
from spanledger.ledger import _retention as r
from spanledger.ledger import _sessions as s
from spanledger.ledger._by_hand import ByHand
from spanledger.ledger._database import Database
from spanledger.ledger._delegations import Delegations
from spanledger.ledger._drivers import BlockingDriver
from spanledger.ledger._functions import Run, applying
from spanledger.ledger._opening import open_database


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
        self.config = Config.from_env() if config is None else checked(config)
        self._database = database or open_database(self.config, dsn)
        self._driver = BlockingDriver(self._database)
        self._by_hand = ByHand(self._database, self.config)
        self.delegations = Delegations(self.config, self._driver)

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

    def apply(self, config: Config, *, by: str = "apply", tenant: str | None = None) -> None:
        """Write the controls of a configuration into the ledger: budgets, approvals, switches and rates.

        They count from the next call on, in programs that run as well. Controls are added and changed, never removed.

        Args:
            config: The configuration.
            by: Who says so.
            tenant: Whose; the tenant of `config` if None.
        """
        self._driver.query(applying(config, by, tenant))

    def run(self, call: ToolCall, handler: Callable[[], Any]) -> Any:
        """Run `handler` at most once for this call and return its result, recorded or fresh.

        While it runs, `current_call()` has the call's key, to pass downstream, and takes what it costs.

        Raises:
            SpanledgerError: The call may not run; errors of the handler pass through.
        """
        if inspect.iscoroutinefunction(handler):
            raise ConfigError("Ledger.run takes a plain function; a coroutine function goes to AsyncLedger.run")

        run = self._by_hand.run(call, handler)
        return requests.result_of(self._driver.drive(run.steps, run.invoke))

    def begin(self, call: ToolCall) -> Begun:
        """Ask once whether a call may run, and claim it if so; refusals are verdicts here, not exceptions."""
        return requests.shown_begun(self.config, self._driver.drive(self._by_hand.begin(call)))

    def settle(self, begun: Begun, result: Any, cost: Amount | None = None) -> bool:
        """Record that a call succeeded; if the ledger does not answer, it is kept on disk and recorded later.

        Args:
            begun: What `begin` answered.
            result: What to give back to later calls of this key.
            cost: What it cost; None: what was reserved.

        Returns:
            True; False where a newer attempt owns the call, and this outcome was recorded as late, or where the ledger
            has no such call, because it was restored, and this outcome is set aside on disk.
        """
        return self._driver.drive(told_by_hand(begun, requests.settle(self.config, begun, result, cost)))

    def fail(self, begun: Begun, error: BaseException | str, outcome_unknown: bool | None = None) -> bool:
        """Record that a call failed; if the ledger does not answer, it is kept on disk and recorded later.

        Args:
            begun: What `begin` answered.
            error: What was raised, or what is known in words.
            outcome_unknown: Whether it may have taken effect all the same; None: by the kind of error.

        Returns:
            True; False where a newer attempt owns the call, or the ledger has no such call, as `settle` says.
        """
        return self._driver.drive(told_by_hand(begun, requests.fail(self.config, begun, error, outcome_unknown)))

    def key(self, call: ToolCall) -> str:
        """Return the key of a call, without asking the ledger."""
        return requests.asking(self.config, call).identity.key

    def get(self, key: str) -> dict[str, Any] | None:
        """Return the row of a call, or None."""
        return next(iter(self._driver.query(requests.call(self.config, key))), None)

    def calls(  # noqa: PLR0917 - filters, given by name
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
        """Return rows of calls, the newest first.

        Args:
            workflow_id: Only calls of this scope; likewise the others that say only what they are.
            state: Only calls that are in this state now.
            tool: The tool's or model's name.
            tenant: Whose; the configured tenant if None.
            limit: At most so many.
            key: A key, or the beginning of one.
            agent: The agent's name.
            actor: On whose behalf.
            since: Only calls that were first made at this moment or later.
        """
        where: dict[str, Any] = {"workflow_id": workflow_id, "state": state, "tool": tool, "tenant": tenant, "key": key}
        where |= {"agent": agent, "actor": actor, "since": since}
        return list(self._driver.query(requests.calls(self.config, where, limit)))

    def history(self, key: str) -> list[dict[str, Any]]:
        """Return what happened to a call beyond what its row shows now, in order."""
        return list(self._driver.query(requests.history(self.config, key)))

    def passed_over(self, since: dt.datetime | None = None) -> list[dict[str, Any]]:
        """Return what programs in mode shadow let pass that would not have run, in order, the verdict, and why."""
        return list(self._driver.query(requests.passed_over(self.config, since)))

    sessions, session, turns, end_session = s.sessions, s.session, s.turns, s.end_session
    agents, agent, get_or_create_agent, spending = s.agents, s.agent, s.get_or_create_agent, s.spending
    prune, prunings = r.prune, r.prunings

    def timeline(self, workflow_id: str | None = None, **which: Any) -> list[dict[str, Any]]:
        """Return what happened, in order; `which` is as `_requests.timeline` takes it. Agents do not see all of it."""
        return list(self._driver.query(requests.timeline(self.config, workflow_id, **which)))

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
        call = self.get(key) if requests.redacts(self.config, outcome) else None
        ask = requests.resolve(self.config, key, by, (outcome, result, reason), call["tool"] if call else "")
        return bool(self._driver.query(ask)["done"])

    def approvals(
        self,
        tenant: str | None = None,
        state: str | None = "pending",
        limit: int = 100,
        key: str | None = None,
        approval_id: str | None = None,
    ) -> list[Approval]:
        """Return requests for a person's consent, the oldest first.

        Args:
            tenant: Whose; the configured tenant if None.
            state: Only requests in this state; None for all.
            limit: At most so many.
            key: Only requests of the call of this key.
            approval_id: An id, or the beginning of one.
        """
        where = {"tenant": tenant, "state": state, "key": key, "approval_id": approval_id}
        return requests.approvals_of(self._driver.query(requests.approvals(self.config, where, limit)))

    def approve(self, approval_id: str, *, by: str, note: str | None = None) -> bool:
        """Allow a call to run, once, with exactly the arguments that were asked about.

        Args:
            approval_id: The request's id.
            by: Who says so.
            note: Kept in the ledger.

        Returns:
            True, also where it was approved before; False where it was denied, has expired or is not known.

        Raises:
            NotAuthorized: `by` is who asked, and the rule does not allow that.
        """
        answer = self._driver.query(requests.decision(self.config, "approve", approval_id, by, note))
        return requests.decided(answer, by)

    def deny(self, approval_id: str, *, by: str, reason: str | None = None) -> bool:
        """Do not allow a call to run: final under its key, until somebody resolves it as ``"retry"``.

        Args:
            approval_id: The request's id.
            by: Who says so.
            reason: Told to the caller and kept in the ledger.

        Returns:
            True, also where it was denied before; False where it was approved, has expired or is not known.
        """
        answer = self._driver.query(requests.decision(self.config, "deny", approval_id, by, reason))
        return requests.decided(answer, by)

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

    def erase(
        self,
        *,
        by: str,
        workflow_id: str | None = None,
        actor: str | None = None,
        key: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Forget what calls were made with and what came of them, also in outcomes that wait on this machine's disk.

        That they happened, when, for whom and what they cost is kept, and so is their key: they are not run again, and
        whoever makes one again is told `ResultNotKept`. A call that runs meanwhile is forgotten when it ends.

        Args:
            by: Who says so.
            workflow_id: Only calls of this workflow; several conditions have to hold together.
            actor: Only calls on behalf of this actor.
            key: Only the call of this key.
            tenant: Whose; the configured tenant if None. Alone it means all its calls.

        Returns:
            How many calls that is.

        Raises:
            ConfigError: Nothing says which calls, or this database role is not an operator's.
        """
        whose, wanted = requests.to_erase(self.config, tenant, workflow=workflow_id, actor=actor, key=key)
        after: str | None = ""
        count = 0
        while after is not None:
            answer = self._driver.query(requests.erase(whose, wanted, by, after))
            after, count = answer["after"], count + len(answer["keys"])
            if self._database.spool is not None:
                self._database.spool.erase(requests.erased(whose, wanted, answer["keys"]))
        return count

    def budgets(self, tenant: str | None = None) -> list[Balance]:
        """Return how the budgets stand."""
        return requests.balances(self._driver.query(requests.budgets(self.config, None, tenant)))

    def budget(self, name: str, tenant: str | None = None, scope: Mapping[str, str | None] | None = None) -> Balance:
        """Return how one budget stands in its present window.

        Args:
            name: Its name.
            tenant: Whose; the configured tenant if None.
            scope: Of a budget that is kept apart: whose, for example ``{"actor": "u_42"}``.

        Raises:
            ConfigError: There is no such budget, or it is kept apart and has more than one scope.
        """
        return requests.only(self._driver.query(requests.budgets(self.config, name, tenant)), name, scope)

    def top_up(self, name: str, amount: Amount, *, by: str, scope: Mapping[str, str | None] | None = None) -> None:
        """Raise what a budget may spend in its present window.

        Args:
            name: Its name.
            amount: By how much.
            by: Who says so.
            scope: Of a budget that is kept apart: whose, for example ``{"actor": "u_42"}``.

        Raises:
            ConfigError: There is no such budget in that unit, or it is kept apart and no scope is given.
        """
        requests.check_topped(self._driver.query(requests.top_up(self.config, name, amount, by, scope)), name, amount)

    def controls(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return rows of the approvals, switches and rates that the ledger holds, also those not in force."""
        return list(self._driver.query(requests.controls(self.config, tenant)))

    def grants(self, tenant: str | None = None) -> list[dict[str, Any]]:
        """Return rows of the grants, also of those that have expired or were revoked."""
        return list(self._driver.query(requests.grants(self.config, tenant)))

    def grant(self, grant: Grant, *, by: str) -> None:
        """Let an agent or an actor do something, or deny it; one for the same permission and the same two is replaced.

        Args:
            grant: What is granted, and to whom.
            by: Who says so.
        """
        self._driver.query(requests.grant(self.config, grant, by))

    def revoke(self, permission: str, *, by: str, agent: str | None = None, actor: str | None = None) -> bool:
        """Take a grant back; it counts from the next call on.

        Returns:
            True; False where there is none for exactly this permission, agent and actor.
        """
        given = Grant(permission, agent=agent, actor=actor)
        if not requests.is_in_force(self.grants(), given):
            return False
        self._driver.query(requests.revoke(self.config, given, by))
        return True

    def authorize(
        self,
        permission: str,
        amount: Amount | None = None,
        *,
        agent: str | None = None,
        actor: str | None = None,
        workflow_id: str | None = None,
    ) -> Authorization:
        """Ask whether something is granted; the answer is kept in the ledger's history.

        Args:
            permission: For example ``"payments:refund"``.
            amount: What it would cost.
            agent: Which agent would do it; the configured one if None.
            actor: For whom.
            workflow_id: In which workflow it is asked.
        """
        whose = {"agent": agent or self.config.agent, "actor": actor, "workflow_id": workflow_id}
        return self._driver.drive(requests.authorize(self.config, permission, amount, whose))

    def bind_role(self, role: str, *, kind: str, tenant: str, by: str) -> None:
        """Let a database role use the ledger for one tenant; only the ledger's owner may say so.

        Args:
            role: Its name; it exists already.
            kind: ``"agent"``: begin, settle and fail; or ``"operator"``: resolve, cancel, apply, top up; or
                ``"approver"``: approve and deny; or ``"evaluator"``: run suites. All read.
            tenant: The tenant, or ``"*"`` for all.
            by: Who says so.

        Raises:
            ConfigError: There is no such role or kind, or this program's role is not the owner.
        """
        self._driver.query(Run("bind_role", (role, kind, tenant, by)))

    def unbind_role(self, role: str, *, tenant: str) -> bool:
        """Take a role's rights on a tenant back; False where it had none."""
        return bool(self._driver.query(Run("unbind_role", (role, tenant))))
