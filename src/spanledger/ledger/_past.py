"""What the ledger recorded, read as it was at one moment, for whoever tries another configuration out on it.

Rules: nothing is written. All is read in one transaction, which is over before anything is decided: deciding takes
longer, and holds no lock of the ledger's. Calls that are judged are kept in memory, so many at most; of what ran before
them only a page is.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import psycopg

from spanledger.core.replaying import Recorded

_BATCH = 500

_ATTEMPTS = """
declare spanledger_replay no scroll cursor for
select to_jsonb(r) from spanledger_v1.recorded r
where r.tenant = $1 and r.started_at >= $2 and r.state <> 'released'
order by r.started_at, r.attempt, r.key limit $3
"""
# What ran before, as far back as budgets reach; under the delegations that calls act under, and with the keys that they
# have, whenever it was. An attempt of unknown outcome holds nothing any more once the next one has begun, unless it has
# told since how it ended; a failure that it told has cost what it said. Whatever has no payload any more was pruned.
_BEFORE = """
declare spanledger_before no scroll cursor for
select to_jsonb(r) || coalesce(l.late, '{}')
        || case when l.late is not null and not r.latest and r.state in ('unknown', 'reopened')
            then jsonb_build_object('state', coalesce(l.late ->> 'state', 'failed')) else '{}' end, r.latest
from (
    select r.*, lead(r.attempt_id) over (partition by r.key order by r.started_at, r.attempt) is null as latest,
        bool_or(r.state = 'succeeded') over (partition by r.key, r.attempt_id) as succeeded
    from spanledger_v1.recorded r
    where r.tenant = $1 and r.started_at < $2 and r.state not in ('released', 'replayed')
        and (r.started_at >= $3 or r.delegation = any ($4) or r.key = any ($5))
) r
left join (
    select distinct on (h.key, h.attempt_id) h.key, h.attempt_id,
        jsonb_build_object('cost', h.detail -> 'cost', 'ended_at', h.at)
            || case h.event when 'late_success' then '{"state": "succeeded"}'::jsonb else '{}' end as late
    from spanledger_v1.history h
    where h.tenant = $1 and h.at < $2 and (h.event = 'late_success'
        or (h.event in ('late_failure', 'failure_spent') and h.detail -> 'cost' <> '{}'))
    order by h.key, h.attempt_id, h.event <> 'late_success', h.id
) l on l.key = r.key and l.attempt_id = r.attempt_id and not r.succeeded
where r.latest or l.late is not null or r.state not in ('unknown', 'reopened')
order by r.state <> 'succeeded'
"""
_DECISIONS = """
select a.key, a.decided_at, a.state, a.by_name from spanledger_v1.approvals a
where a.tenant = $1 and (a.decided_at >= $2 or a.key = any ($3)) and a.decided_at is not null order by a.decided_at
"""
_TOP_UPS = """
select h.at, h.detail from spanledger_v1.history h where h.tenant = $1 and h.event = 'topped_up' order by h.at
"""
_DELEGATIONS = """
select coalesce(jsonb_agg(to_jsonb(d) order by cardinality(d.chain)), '[]') from spanledger_v1.delegations d
where d.tenant = $1 and d.id in (
    select unnest(o.chain) from spanledger_v1.delegations o where o.tenant = $1 and o.id = any ($2))
"""


class Past:
    """The past of one tenant, until a transaction ends that others hold open."""

    def __init__(self, connection: psycopg.Connection[Any], tenant: str) -> None:
        self._reading = psycopg.RawCursor(connection)
        self._tenant = tenant

    def attempts(self, since: dt.datetime, calls_max: int) -> Iterator[Recorded]:
        """Read attempts that began at a moment or later, in their order, at most so many."""
        for (row,) in self._all(_ATTEMPTS, "spanledger_replay", (since, calls_max)):
            yield _recorded(row)

    def before(
        self, since: dt.datetime, reach: dt.datetime, delegations: Collection[str], keys: Collection[str]
    ) -> Iterator[list[tuple[Recorded, bool]]]:
        """Read attempts that began before a moment, page by page, those that succeeded first.

        Args:
            since: The moment.
            reach: How far back.
            delegations: What ran under one of these is read, whenever it was.
            keys: Likewise with one of these.

        Returns:
            Attempts, and of each whether it is the last one of its call.
        """
        page: list[tuple[Recorded, bool]] = []
        for row, latest in self._all(_BEFORE, "spanledger_before", (since, reach, list(delegations), list(keys))):
            page.append((_recorded(row), latest))
            if len(page) == _BATCH:
                yield page
                page = []
        if page:
            yield page

    def decisions(self, since: dt.datetime, keys: Collection[str]) -> list[tuple[Any, ...]]:
        """Read what people said of requests, from a moment on, and of these calls whenever: key, when, what, who."""
        return self._reading.execute(_DECISIONS, (self._tenant, since, list(keys))).fetchall()

    def top_ups(self) -> list[tuple[dt.datetime, dict[str, Any]]]:
        """Read by how much budgets were topped up, and when."""
        return self._reading.execute(_TOP_UPS, (self._tenant,)).fetchall()

    def delegations(self, ids: Collection[str]) -> list[dict[str, Any]]:
        """Read these delegations and all that they come from, those first."""
        row = self._reading.execute(_DELEGATIONS, (self._tenant, list(ids))).fetchone()
        return row[0] if row else []

    def _all(self, declared: str, cursor: str, values: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
        self._reading.execute(declared, (self._tenant, *values))
        while rows := self._reading.execute(f"fetch {_BATCH} from {cursor}").fetchall():
            yield from rows
        self._reading.execute(f"close {cursor}")


def _recorded(row: Mapping[str, Any]) -> Recorded:
    # A ledger whose functions are older does not say how many of them ran.
    row = {"attempts": row["attempt"], **row}
    values = {one.name: row[one.name] for one in dataclasses.fields(Recorded)}
    for name in ("started_at", "ended_at", "lease_until"):
        values[name] = None if row[name] is None else dt.datetime.fromisoformat(row[name])
    # A budget in a unit that the call says nothing about has taken none of it.
    reserved = {unit: steps for unit, steps in (row["reserved"] or {}).items() if steps}
    return Recorded(**values | {"cost": row["cost"] or {}, "reserved": reserved})
