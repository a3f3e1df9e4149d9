"""Retention as `Ledger` and `AsyncLedger` offer it: what they ask, and the methods of both.

Rules: the ledger's own function does the work, in batches that each are a short transaction: whoever stops in between
has lost nothing, and whoever asks again goes on. Each method stands here twice, one under the other, alike but for
`await`.
"""

# ruff: noqa: D417  the first parameter is the ledger whose method it is
from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from spanledger.config import Config
from spanledger.core.outcomes import storable
from spanledger.core.retention import Pruned, Retention
from spanledger.errors import ConfigError
from spanledger.ledger._drivers import AwaitingDriver, BlockingDriver
from spanledger.ledger._functions import Read, Run


class _Blocking(Protocol):
    config: Config
    _driver: BlockingDriver


class _Awaiting(Protocol):
    config: Config
    _driver: AwaitingDriver


def prune(
    self: _Blocking,
    *,
    by: str,
    older_than_s: float | None = None,
    forget_keys: bool = False,
    dry_run: bool = False,
    tenant: str | None = None,
) -> Pruned:
    """Remove what is over and old: payloads of calls with their history, the decision trace, evaluations.

    What runs, waits for a person, has an unknown outcome or holds an amount is never touched, and neither is what
    budgets count; nor what says whether an attempt was booked, so that an outcome that waited on a disk meanwhile is
    booked once. The keys of calls stay, so that none runs a second time; whoever makes one again whose result is gone
    is told `ResultNotKept`. Several may prune at once, beside whatever else uses the ledger.

    Args:
        by: Who says so.
        older_than_s: What ended so many seconds ago, at least 3600, on the ledger's clock. None: as long as the
            configuration's `retention` says of each part.
        forget_keys: Remove the keys too: **a call with a key that was forgotten runs again**, and what is told late of
            one is not booked, or booked again where it had run while the ledger was down.
        dry_run: Count what would go, and remove nothing.
        tenant: Whose; the configured tenant if None.

    Raises:
        ConfigError: Nothing says how old, or this database role is not an operator's.
    """
    what = {"forget_keys": forget_keys, "dry_run": dry_run}
    run, pruned, more = _pruning(self.config, tenant, by, older_than_s, what), Pruned({}, {}, dry_run), True
    while more:
        answer = self._driver.query(run)
        pruned, more = pruned.with_more(answer), answer["more"]
    return pruned


async def prune_awaiting(
    self: _Awaiting,
    *,
    by: str,
    older_than_s: float | None = None,
    forget_keys: bool = False,
    dry_run: bool = False,
    tenant: str | None = None,
) -> Pruned:
    """As `Ledger.prune`."""
    what = {"forget_keys": forget_keys, "dry_run": dry_run}
    run, pruned, more = _pruning(self.config, tenant, by, older_than_s, what), Pruned({}, {}, dry_run), True
    while more:
        answer = await self._driver.query(run)
        pruned, more = pruned.with_more(answer), answer["more"]
    return pruned


def prunings(self: _Blocking, tenant: str | None = None) -> list[dict[str, Any]]:
    """Return of what, and until when, what was over has been pruned, a row each for calls, trail and evaluations."""
    return list(self._driver.query(_prunings(self.config, tenant)))


async def prunings_awaiting(self: _Awaiting, tenant: str | None = None) -> list[dict[str, Any]]:
    """As `Ledger.prunings`."""
    return list(await self._driver.query(_prunings(self.config, tenant)))


def _pruning(config: Config, tenant: str | None, by: str, older_than_s: float | None, what: Mapping[str, bool]) -> Run:
    ages_s = (config.retention if older_than_s is None else Retention.all_of(older_than_s)).ages_s
    if not ages_s:
        raise ConfigError(
            'say how old what goes is, or give the configuration a retention: calls = "90d", trail = "30d"'
        )
    if what["forget_keys"] and "calls" not in ages_s:
        raise ConfigError("keys are forgotten with their calls, and nothing says how long these are kept")
    return Run("prune", (tenant or config.tenant, {**ages_s, **what}, storable(by)))


def _prunings(config: Config, tenant: str | None) -> Read:
    return Read("prunings", {"tenant": tenant or config.tenant}, "part")
