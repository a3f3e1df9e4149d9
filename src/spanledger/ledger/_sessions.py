"""Sessions and agents as `Ledger` and `AsyncLedger` show them: what they ask, and the methods of both.

Rules: rows are those of the documented views. Each method stands here twice, one under the other, alike but for
`await`. Tokens, cost and latency are sums over calls in the ledger, guarded and recorded ones, each counted once.
"""

# ruff: noqa: D417  the first parameter is the ledger whose method it is
from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, Protocol

from spanledger.config import Config
from spanledger.core.outcomes import storable
from spanledger.errors import ConfigError
from spanledger.ledger._drivers import AwaitingDriver, BlockingDriver
from spanledger.ledger._functions import ROWS_MAX, Read, Run

STATUSES: Final = ("open", "done", "failed", "interrupted", "lost")


class _Blocking(Protocol):
    config: Config
    _driver: BlockingDriver


class _Awaiting(Protocol):
    config: Config
    _driver: AwaitingDriver


def sessions(self: _Blocking, limit: int = 100, tenant: str | None = None, **which: str | None) -> list[dict[str, Any]]:
    """Return sessions, the newest first, each with its status and what it comes to.

    Args:
        limit: At most so many.
        tenant: Whose; the configured tenant if None.
        **which: Only those of this `agent`, `actor` or `status`.
    """
    return list(self._driver.query(_sessions(self.config, tenant, limit, which)))


async def sessions_awaiting(
    self: _Awaiting, limit: int = 100, tenant: str | None = None, **which: str | None
) -> list[dict[str, Any]]:
    """As `Ledger.sessions`."""
    return list(await self._driver.query(_sessions(self.config, tenant, limit, which)))


def session(self: _Blocking, session_id: str) -> dict[str, Any] | None:
    """Return one session, or None."""
    return _first(self._driver.query(_sessions(self.config, None, 1, {"session_id": session_id})))


async def session_awaiting(self: _Awaiting, session_id: str) -> dict[str, Any] | None:
    """As `Ledger.session`."""
    return _first(await self._driver.query(_sessions(self.config, None, 1, {"session_id": session_id})))


def turns(self: _Blocking, session_id: str) -> list[dict[str, Any]]:
    """Return the turns of a session in order, one row each time one was run, with its status and what it comes to."""
    return list(self._driver.query(_turns(self.config, session_id)))


async def turns_awaiting(self: _Awaiting, session_id: str) -> list[dict[str, Any]]:
    """As `Ledger.turns`."""
    return list(await self._driver.query(_turns(self.config, session_id)))


def end_session(self: _Blocking, session_id: str, *, by: str, status: str = "done", error: str | None = None) -> bool:
    """End a session from elsewhere than where it is open; what has ended stays as it is.

    Args:
        session_id: Its id.
        by: Who says so.
        status: ``"done"``, ``"failed"`` or ``"interrupted"``.
        error: What went wrong, in words.

    Returns:
        True; False where nothing of it is open.
    """
    return bool(self._driver.query(_end(self.config, session_id, by, status, error)))


async def end_session_awaiting(
    self: _Awaiting, session_id: str, *, by: str, status: str = "done", error: str | None = None
) -> bool:
    """As `Ledger.end_session`."""
    return bool(await self._driver.query(_end(self.config, session_id, by, status, error)))


def agents(self: _Blocking, tenant: str | None = None) -> list[dict[str, Any]]:
    """Return the agents that the ledger has heard of, by name: since when, how many sessions, what is granted."""
    return list(self._driver.query(_agents(self.config, tenant, None)))


async def agents_awaiting(self: _Awaiting, tenant: str | None = None) -> list[dict[str, Any]]:
    """As `Ledger.agents`."""
    return list(await self._driver.query(_agents(self.config, tenant, None)))


def agent(self: _Blocking, name: str) -> dict[str, Any] | None:
    """Return one agent with what it has spent, under ``"spent"``; None where the ledger has not heard of it."""
    row = _first(self._driver.query(_agents(self.config, None, name)))
    return None if row is None else row | {"spent": _first(self._driver.query(_spending(self.config, name)))}


async def agent_awaiting(self: _Awaiting, name: str) -> dict[str, Any] | None:
    """As `Ledger.agent`."""
    row = _first(await self._driver.query(_agents(self.config, None, name)))
    return None if row is None else row | {"spent": _first(await self._driver.query(_spending(self.config, name)))}


def get_or_create_agent(self: _Blocking, name: str, *, description: str | None = None) -> dict[str, Any]:
    """Return the agent of a name, which the ledger knows from now on, however many ask at once.

    Args:
        name: Its name.
        description: What it is for; replaces what was said before.
    """
    self._driver.query(_register(self.config, name, description))
    return _first(self._driver.query(_agents(self.config, None, name))) or {}


async def get_or_create_agent_awaiting(self: _Awaiting, name: str, *, description: str | None = None) -> dict[str, Any]:
    """As `Ledger.get_or_create_agent`."""
    await self._driver.query(_register(self.config, name, description))
    return _first(await self._driver.query(_agents(self.config, None, name))) or {}


def spending(self: _Blocking, tenant: str | None = None) -> list[dict[str, Any]]:
    """Return what each agent has spent in all, by name; reads every call of the tenant."""
    return list(self._driver.query(_spending(self.config, None, tenant)))


async def spending_awaiting(self: _Awaiting, tenant: str | None = None) -> list[dict[str, Any]]:
    """As `Ledger.spending`."""
    return list(await self._driver.query(_spending(self.config, None, tenant)))


def _sessions(config: Config, tenant: str | None, limit: int, which: Mapping[str, str | None]) -> Read:
    unknown = which.keys() - {"agent", "actor", "status", "session_id"}
    if unknown or which.get("status") not in (None, *STATUSES):
        raise ConfigError(
            f"sessions are chosen by agent, actor and status ({', '.join(STATUSES)}), not by {dict(which)!r}"
        )
    return Read("sessions", {"tenant": tenant or config.tenant, **which}, "started_at desc, session_id", limit)


def _turns(config: Config, session_id: str) -> Read:
    return Read("turns", {"tenant": config.tenant, "session_id": session_id}, "started_at, turn_id", ROWS_MAX)


def _end(config: Config, session_id: str, by: str, status: str, error: str | None) -> Run:
    if status not in ("done", "failed", "interrupted"):
        raise ConfigError(f"a session ends as 'done', 'failed' or 'interrupted', not {status!r}")
    said = None if error is None else storable(error)
    return Run("end_session", (config.tenant, storable(session_id), storable(by), status, said))


def _agents(config: Config, tenant: str | None, name: str | None) -> Read:
    return Read("agents", {"tenant": tenant or config.tenant, "name": name}, "name")


def _register(config: Config, name: str, description: str | None) -> Run:
    if not isinstance(name, str) or not name or name != storable(name):
        raise ConfigError(f"an agent's name is a text that is not empty, not {name!r:.80}")
    return Run("register_agent", (config.tenant, name, None if description is None else storable(description)))


def _spending(config: Config, agent: str | None, tenant: str | None = None) -> Read:
    return Read("spending", {"tenant": tenant or config.tenant, "agent": agent}, "agent nulls last")


def _first(rows: Iterable[dict[str, Any]]) -> dict[str, Any] | None:
    return next(iter(rows), None)
