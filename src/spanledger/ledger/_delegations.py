"""Delegations by hand: `Ledger.delegations` and `AsyncLedger.delegations`.

Rules: the two are alike but for `await`; what they share is made by the functions below, which are pure. The ledger
decides what may be passed on.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from typing import Any

from spanledger.config import Config
from spanledger.core.asking import Steps
from spanledger.core.delegations import Delegation, delegated
from spanledger.core.outcomes import storable
from spanledger.errors import ConfigError
from spanledger.ledger._drivers import AwaitingDriver, BlockingDriver
from spanledger.ledger._functions import Prefix, Read, Run


class Delegations:
    """What agents have passed on, for blocking callers."""

    def __init__(self, config: Config, driver: BlockingDriver) -> None:
        self._config = config
        self._driver = driver

    def give(
        self,
        delegation: Delegation,
        *,
        agent: str | None = None,
        actor: str | None = None,
        workflow_id: str | None = None,
        under: str | None = None,
    ) -> str:
        """Pass authority on.

        Args:
            delegation: What, and to whom.
            agent: Which agent passes it on; None: the one that `under` is for, else the configured one.
            actor: For whom it acts.
            workflow_id: In which workflow that is.
            under: The token of the delegation that is passed on; None: what is granted to the agent.

        Returns:
            A token: whoever has it can act under the delegation.

        Raises:
            NotAuthorized: It would not be narrower than what it comes from, or that is not in force any more.
        """
        whose = {"agent": agent, "actor": actor, "workflow_id": workflow_id}
        return self._driver.drive(given(self._config, delegation, whose, under))

    def all(self, state: str | None = None, delegation_id: str | None = None) -> list[dict[str, Any]]:
        """Return rows of delegations, the oldest first.

        Args:
            state: Only those that are ``"active"``, ``"expired"`` or ``"revoked"``.
            delegation_id: An id, or the beginning of one.
        """
        return list(self._driver.query(found(self._config, state, delegation_id)))

    def calls(self, delegation_id: str, *, limit: int = 100) -> list[dict[str, Any]]:
        """Return rows of the calls that ran under a delegation, or were refused under it, the newest first."""
        return list(self._driver.query(calls(self._config, delegation_id, limit)))

    def revoke(self, delegation_id: str, *, by: str, reason: str | None = None) -> list[str]:
        """Take a delegation back with everything that came of it; it counts from the next call on.

        Returns:
            The ids of all that were in force until now; none where it was over already.

        Raises:
            ConfigError: There is no such delegation, or this database role is not an operator's.
        """
        return ended(delegation_id, self._driver.query(revoking(self._config, delegation_id, by, reason)))

    def withdraw(self, token: str, *, by: str | None = None, reason: str | None = None) -> list[str]:
        """End a delegation by its token, as whoever passed it on may, and whoever it is for.

        Args:
            token: What `give` returned.
            by: Who does so; the configured agent if None.
            reason: Kept in the ledger, and told to whoever acts under it.

        Returns:
            As `revoke`.

        Raises:
            NotAuthorized: The token cannot be read.
        """
        return ended("of this token", self._driver.query(withdrawing(self._config, token, by, reason)))


class AsyncDelegations:
    """What agents have passed on, for callers in an event loop; `Delegations` has the meaning of each method."""

    def __init__(self, config: Config, driver: AwaitingDriver) -> None:
        self._config = config
        self._driver = driver

    async def give(
        self,
        delegation: Delegation,
        *,
        agent: str | None = None,
        actor: str | None = None,
        workflow_id: str | None = None,
        under: str | None = None,
    ) -> str:
        """As `Delegations.give`."""
        whose = {"agent": agent, "actor": actor, "workflow_id": workflow_id}
        return await self._driver.drive(given(self._config, delegation, whose, under))

    async def all(self, state: str | None = None, delegation_id: str | None = None) -> list[dict[str, Any]]:
        """As `Delegations.all`."""
        return list(await self._driver.query(found(self._config, state, delegation_id)))

    async def calls(self, delegation_id: str, *, limit: int = 100) -> list[dict[str, Any]]:
        """As `Delegations.calls`."""
        return list(await self._driver.query(calls(self._config, delegation_id, limit)))

    async def revoke(self, delegation_id: str, *, by: str, reason: str | None = None) -> list[str]:
        """As `Delegations.revoke`."""
        return ended(delegation_id, await self._driver.query(revoking(self._config, delegation_id, by, reason)))

    async def withdraw(self, token: str, *, by: str | None = None, reason: str | None = None) -> list[str]:
        """As `Delegations.withdraw`."""
        return ended("of this token", await self._driver.query(withdrawing(self._config, token, by, reason)))


def given(config: Config, delegation: Delegation, whose: Mapping[str, Any], under: str | None) -> Steps[str]:
    """The steps by which authority is passed on."""
    if not isinstance(delegation, Delegation):
        raise ConfigError(f"what is passed on is a Delegation, not {delegation!r:.200}")
    keys = config.delegation_keys
    keys.ready()
    above = None if under is None else keys.read(under, config.tenant)
    mine = config.agent if above is None else above.agent
    actor = whose["actor"] or (above.actor if above else None)
    return delegated(
        config.tenant, delegation, {**whose, "agent": whose["agent"] or mine, "actor": actor}, above, keys.sign
    )


def found(config: Config, state: str | None, delegation_id: str | None) -> Read:
    """Which rows are meant."""
    wanted = {"tenant": config.tenant, "state": state}
    if delegation_id:
        wanted["id::text"] = Prefix(delegation_id.lower())
    return Read("delegations", wanted, "created_at, id")


def calls(config: Config, delegation_id: str, limit: int) -> Read:
    """Which calls are meant."""
    where = {"tenant": config.tenant, "delegation": checked_id(delegation_id)}
    return Read("calls", where, "created_at desc, key", limit)


def revoking(config: Config, delegation_id: str, by: str, reason: str | None) -> Run:
    """What takes a delegation back."""
    if not isinstance(by, str) or not by.strip():
        raise ConfigError(f"by is who revokes, for example 'ops@example.com', not {by!r}")
    said = None if reason is None else storable(reason)
    return Run("revoke_delegation", (config.tenant, checked_id(delegation_id), storable(by), said))


def withdrawing(config: Config, token: str, by: str | None, reason: str | None) -> Run:
    """What ends a delegation by its token."""
    held = config.delegation_keys.read(token, config.tenant)
    said = None if reason is None else storable(reason)
    who = storable(by or config.agent or "whoever has its token")
    return Run("withdraw_delegation", (config.tenant, held.id, held.proof, who, said))


def checked_id(delegation_id: str) -> str:
    """Return an id that is one."""
    try:
        return str(uuid.UUID(delegation_id))
    except (ValueError, AttributeError, TypeError):
        raise ConfigError(
            f"{delegation_id!r:.200} is not a delegation's id; `spanledger delegations` lists them"
        ) from None


def ended(delegation_id: str, answer: list[str] | None) -> list[str]:
    """Read the answer."""
    if answer is None:
        raise ConfigError(f"the ledger has no delegation {delegation_id}; `spanledger delegations` lists them")
    return answer
