"""A copy of the ledger's rules in temporary tables, with a clock that is set by hand: what would it have answered?

Rules: the functions that decide are the ledger's own, text for text, but for three things: they live in `pg_temp`,
their clock is `pg_temp.moment()`, and they take no advisory lock, because nobody else is there and the real ones
belong to programs that work. What ran before the copy is asked anything is booked without their being asked. Once the
copy is made, the transaction is read only: the server itself sees to it that no table of the ledger is written. It is
never committed.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import psycopg

from spanledger.core.replaying import PROOF
from spanledger.ledger import _migrate
from spanledger.ledger._functions import translated

STATEMENT_TIMEOUT_S = 60
LOCK_TIMEOUT_S = 2
IDLE_TIMEOUT_S = 60
# What is asked of it; what these need comes along.
ROOTS = ("apply", "begin", "settle", "fail", "approve", "deny", "top_up", "open_pool", "end_delegation")

_BOUNDS = (
    "set transaction isolation level repeatable read",
    f"set local statement_timeout = '{STATEMENT_TIMEOUT_S}s'",
    f"set local idle_in_transaction_session_timeout = '{IDLE_TIMEOUT_S}s'",
    f"set local lock_timeout = '{LOCK_TIMEOUT_S}s'",
    # Functions name others that are not there yet.
    "set local check_function_bodies = off",
    # Each migration says what it drops where it is there; here nothing is.
    "set local client_min_messages = warning",
)
_OWN = """
create function pg_temp.moment() returns timestamptz language sql volatile as
    $$ select current_setting('spanledger_sandbox.moment')::timestamptz $$;
create function pg_temp.unlocked(bigint) returns boolean language sql immutable as $$ select true $$;
create function pg_temp.require(text, text) returns void language sql immutable as $$ select $$;
create function pg_temp.ask(p_at text, p_function text, p_tenant text, p_items jsonb) returns jsonb
language plpgsql volatile as $$
declare
    v_answer jsonb;
begin
    perform set_config('spanledger_sandbox.moment', p_at, true);
    execute format('select pg_temp.%I($1, $2)', p_function) into v_answer using p_tenant, p_items;
    return v_answer;
end
$$;
"""
# Kind of control → how those that the ledger holds are read, and how they are written into the copy.
_CONTROLS = {
    "budget": (
        """
        select distinct b.tenant, b.name, b.unit, b.base_steps as limit_steps, b.match, b.operations, b.per,
            b.window_kind, b.window_s, b.timezone, b.soft_steps, b.version
        from spanledger_v1.budgets b where b.tenant = $1
        """,
        """
        insert into pg_temp.budget (
            tenant, name, unit, limit_steps, match, match_like, operations, per, window_kind, window_s, timezone,
            soft_steps, version, applied_at, applied_by)
        select r.tenant, r.name, r.unit, r.limit_steps, r.match, pg_temp.like_of(r.match), r.operations, r.per,
            r.window_kind, r.window_s, r.timezone, r.soft_steps, r.version, pg_temp.moment(), ''
        from jsonb_populate_recordset(null::pg_temp.budget, $1::jsonb) r
        """,
    ),
    "control": (
        """
        select c.tenant, c.kind, c.match, c.except_like, c.spec, c.version, c.applied_at, c.applied_by
        from spanledger_v1.controls c where c.tenant = $1 and c.kind <> 'rate'
        """,
        """
        insert into pg_temp.control (
            tenant, kind, match, match_like, except_like, spec, active, version, applied_at, applied_by)
        select r.tenant, r.kind, r.match, pg_temp.like_of(r.match), r.except_like, r.spec,
            pg_temp.is_active(r.kind, r.spec), r.version, r.applied_at, r.applied_by
        from jsonb_populate_recordset(null::pg_temp.control, $1::jsonb) r
        """,
    ),
    "rate": (
        """
        select c.tenant, split_part(c.match, ' ', 1) as from_unit, split_part(c.match, ' ', 2) as to_unit,
            c.spec ->> 'valid_from' as valid_from, c.spec ->> 'rate' as rate, c.applied_at, c.applied_by
        from spanledger_v1.controls c where c.tenant = $1 and c.kind = 'rate'
        """,
        "insert into pg_temp.rate select * from jsonb_populate_recordset(null::pg_temp.rate, $1::jsonb)",
    ),
    "grants": (
        """
        select g.tenant, g.permission, coalesce(g.agent, '') as agent, coalesce(g.actor, '') as actor, g.spec,
            g.expires_at, g.revoked_at, g.version, g.applied_at, g.applied_by
        from spanledger_v1.grants g where g.tenant = $1
        """,
        "insert into pg_temp.grants select * from jsonb_populate_recordset(null::pg_temp.grants, $1::jsonb)",
    ),
}
_FORGET_RATES = """
delete from pg_temp.rate r using jsonb_to_recordset($2::jsonb -> 'rates')
    n (from_unit text, to_unit text, valid_from timestamptz)
where r.tenant = $1 and r.from_unit = n.from_unit and r.to_unit = n.to_unit and r.valid_from = n.valid_from
"""
_DELEGATION = """
insert into pg_temp.delegation (tenant, id, chain, proof, by_agent, to_agent, actor, permissions, unit, max_steps,
    account, created_at, expires_at, revoked_at, revoked_by, revoked_reason)
select $1, d.id, d.chain, sha256(convert_to($3, 'UTF8')), coalesce(d.by_agent, ''), d.to_agent, d.actor, d.permissions,
    d.unit, d.max_steps, case when d.unit is not null then pg_temp.open_pool($1, d.id, d.unit, d.max_steps) end,
    d.created_at, d.expires_at, d.revoked_at, d.revoked_by, d.revoked_reason
from jsonb_populate_record(null::pg_temp.delegation, $2::jsonb) d
"""
_TOP_UP = """
select pg_temp.top_up($1, b.name, b.unit, $4, '', $5::jsonb) from pg_temp.budget b
where b.tenant = $1 and b.name = $2 and b.unit = $3
    and b.per @> array(select jsonb_object_keys($5::jsonb)) and b.per <@ array(select jsonb_object_keys($5::jsonb))
"""
# How far back the budgets reach: as far as an account still counts at that moment.
_REACH = """
select case when count(*) = 0 then $2::timestamptz else greatest('1970-01-01 00:00Z',
    min(pg_temp.live_since(b.window_kind, b.window_s, b.timezone, $2::timestamptz))) end
from pg_temp.budget b where b.tenant = $1 and b.per <> '{delegation}'
"""
# What ran is booked on the accounts that `wanted` and `pools` would have named then, as `settle` and `fail` would have
# done. What still holds something is a call of the copy, because it will end there.
_CARRY = """
with r as materialized (
    select r.*, decode(r.key, 'hex') as k, r.item ->> 'tool' as tool, r.item ->> 'operation' as operation
    from jsonb_to_recordset($2::jsonb) r (
        key text, attempt_id uuid, attempt integer, attempts integer, workflow_id text, key_source text,
        fingerprint text, started_at timestamptz, ended_at timestamptz, lease_until timestamptz, item jsonb, cost jsonb,
        state text, holds boolean, unpriced boolean, kept boolean)
), b as materialized (
    select b.*, pg_temp.live_since(b.window_kind, b.window_s, b.timezone, $3::timestamptz) as live_since
    from pg_temp.budget b where b.tenant = $1
), wanted as materialized (
    select r.k, r.attempt_id, r.holds, w.budget, w.scope, w.window_start, w.unit, w.amount,
        case when r.holds or (r.cost = '{}' and r.state <> 'succeeded') then 0
            when r.cost = '{}' then coalesce(w.amount, 0)
            else pg_temp.spent_of($1, jsonb_build_object('cost', r.cost, 'at', r.started_at, 'spend',
                r.state = 'succeeded'), w.unit, coalesce(w.amount, 0)) end as spent,
        w.unit not in ('calls', 'tokens') and (r.unpriced or w.amount is null and not r.cost ? w.unit
            and pg_temp.currency_of(r.item -> 'reserve' || r.cost) is not null
            and pg_temp.amount_in($1, r.item -> 'reserve' || r.cost, w.unit, r.started_at) is null) as unpriced
    from r cross join lateral (
        select v.*, pg_temp.amount_in($1, r.item -> 'reserve', v.unit, r.started_at) as amount
        from (
            select s.* from (
                select b.name as budget, b.unit, b.live_since, case when b.per = '{}' then '' else
                    pg_temp.scope_of(b.per, r.item) end as scope,
                    case when b.window_kind is null then '-infinity' else pg_temp.window_start(
                        b.window_kind, b.window_s, b.timezone, r.started_at) end as window_start
                from b where r.tool like b.match_like and (b.operations is null or r.operation = any (b.operations))
                offset 0) s
            where s.window_start >= s.live_since
            union all
            select a.budget, d.unit, null, a.scope, a.window_start
            from pg_temp.chain_of($1, r.item) d join pg_temp.account a on a.id = d.account
            where r.item ? 'delegation'
        ) v offset 0
    ) w
    where r.holds or r.state in ('succeeded', 'failed') or r.cost <> '{}'
), booked as (
    insert into pg_temp.account as a (tenant, budget, scope, window_start, spent, held)
    select $1, w.budget, w.scope, w.window_start, sum(w.spent),
        coalesce(sum(w.amount) filter (where w.holds), 0)
    from wanted w group by w.budget, w.scope, w.window_start
    on conflict (tenant, budget, scope, window_start) do update
        set spent = a.spent + excluded.spent, held = a.held + excluded.held
    returning a.id, a.budget, a.scope, a.window_start
), kept as (
    insert into pg_temp.call (
        tenant, key, state, attempt, attempts, attempt_id, tool, operation, workflow_id, key_source, fingerprint,
        call_id, agent, actor, accounts, reserved, held, units, lease_until, created_at, started_at, ended_at)
    select $1, r.k, r.state, r.attempt, r.attempts, r.attempt_id, r.tool, r.operation, r.workflow_id, r.key_source,
        decode(r.fingerprint, 'hex'), r.item ->> 'call_id', r.item ->> 'agent', r.item ->> 'actor',
        coalesce(o.ids, '{}'), coalesce(o.amounts, '{}'), coalesce(o.amounts, '{}'), coalesce(o.units, '{}'),
        r.lease_until, r.started_at, r.started_at, case when r.state <> 'in_flight' then r.ended_at end
    from r left join lateral (
        select array_agg(b.id) as ids, array_agg(coalesce(w.amount, 0)) as amounts, array_agg(w.unit) as units
        from wanted w join booked b on b.budget = w.budget and b.scope = w.scope and b.window_start = w.window_start
        where w.k = r.k and w.attempt_id = r.attempt_id and r.holds) o on true
    where r.holds or r.kept
    on conflict do nothing
)
select count(distinct w.attempt_id), count(distinct w.attempt_id) filter (where w.unpriced) from wanted w
where w.spent > 0 or w.holds or w.unpriced
"""
_NAME = re.compile(r"\bspanledger(?:_v1)?\.(\w+)")


class Sandbox:
    """The copy, for one tenant."""

    def __init__(self, connection: psycopg.Connection[Any], tenant: str) -> None:
        self._asks = psycopg.RawCursor(connection)
        self._tenant = tenant

    def copy(self, held: Mapping[str, Any], at: dt.datetime) -> None:
        """Take over controls that `controls_held` has read; budgets are empty."""
        self._set(at)
        for kind, rows in held.items():
            self._asks.execute(_CONTROLS[kind][1], (json.dumps(rows),))

    def copy_delegations(self, rows: Iterable[Mapping[str, Any]], since: dt.datetime) -> None:
        """Take over delegations, those that others come from first; their pools begin full.

        One that was revoked later than the moment is not revoked yet.
        """
        for row in rows:
            later = row["revoked_at"] is not None and dt.datetime.fromisoformat(row["revoked_at"]) > since
            unrevoked = dict.fromkeys(("revoked_at", "revoked_by", "revoked_reason")) if later else {}
            self._set(dt.datetime.fromisoformat(row["created_at"]))
            self._asks.execute(_DELEGATION, (self._tenant, json.dumps({**row, **unrevoked}), PROOF))

    def apply(self, controls: Mapping[str, Any], at: dt.datetime) -> None:
        """Write controls into the copy, as `apply` would into the ledger; its rates are known from that moment on."""
        self._set(at)
        self._asks.execute(_FORGET_RATES, (self._tenant, json.dumps(controls)))
        self._asks.execute("select pg_temp.apply($1, $2::jsonb, '')", (self._tenant, json.dumps(controls)))

    def reach(self, since: dt.datetime) -> dt.datetime:
        """Say how far back budgets reach at a moment: what began earlier does not count."""
        row = self._asks.execute(_REACH, (self._tenant, since)).fetchone()
        return row[0] if row else since

    def carry(self, rows: Iterable[Mapping[str, Any]], since: dt.datetime) -> tuple[int, int]:
        """Book what ran before a moment, as `Remade.carried` says it; `kept` where its key is to be known.

        Returns:
            How many attempts were booked, and of how many nobody knows what they cost.
        """
        self._set(since)
        row = self._asks.execute(_CARRY, (self._tenant, json.dumps(list(rows), default=str), since)).fetchone()
        return (row[0], row[1]) if row else (0, 0)

    def top_up(self, topped_up: Mapping[str, Any], at: dt.datetime) -> None:
        """Raise what a budget may spend, as somebody did at that moment; nothing where there is no such budget."""
        self._set(at)
        values = (*(topped_up[name] for name in ("budget", "unit", "steps")), topped_up["scope"] or "{}")
        self._asks.execute(_TOP_UP, (self._tenant, *values))

    def revoke(self, row: Mapping[str, Any], at: dt.datetime) -> None:
        """Take a delegation back, as somebody did at that moment."""
        self._set(at)
        said = tuple(row[name] for name in ("id", "revoked_by", "revoked_reason"))
        self._asks.execute("select pg_temp.end_delegation($1, $2, $3, $4)", (self._tenant, *said))

    def ask(self, function: str, item: Mapping[str, Any], at: dt.datetime) -> dict[str, Any]:
        """Ask the copy about one item, at that moment."""
        self._asks.execute(
            "select pg_temp.ask($1, $2, $3, $4::jsonb)", (at.isoformat(), function, self._tenant, json.dumps([item]))
        )
        row = self._asks.fetchone()
        answer: dict[str, Any] = row[0][0] if row else {}
        return answer

    def _set(self, at: dt.datetime) -> None:
        self._asks.execute("select set_config('spanledger_sandbox.moment', $1, true)", (at.isoformat(),))


def controls_held(connection: psycopg.Connection[Any], tenant: str) -> dict[str, Any]:
    """Read the controls that the ledger holds now."""
    reading = psycopg.RawCursor(connection)
    found = {}
    for kind, (select, _) in _CONTROLS.items():
        row = reading.execute(f"select coalesce(jsonb_agg(v), '[]') from ({select}) v", (tenant,)).fetchone()  # noqa: S608
        found[kind] = row[0] if row else []
    return found


@contextlib.contextmanager
def bounded(connection: psycopg.Connection[Any]) -> Iterator[None]:
    """Open a transaction that is rolled back, and in which nothing takes or waits for long.

    Raises:
        ConfigError: The role may not do what is done in it, or the database cannot take it.
        LedgerUnavailable: The ledger does not answer, or not in time.
    """
    try:
        with connection.transaction(force_rollback=True):
            for statement in _BOUNDS:
                connection.execute(statement)
            yield
    except psycopg.Error as error:
        raise translated(error) from error


@contextlib.contextmanager
def opened(connection: psycopg.Connection[Any], tenant: str) -> Iterator[Sandbox]:
    """Make the copy, in a transaction that is rolled back in any case.

    Args:
        connection: One of its own, of a role that may use temporary tables.
        tenant: Whose calls are asked about.

    Raises:
        ConfigError: The role may not, or the database cannot take a question.
        LedgerUnavailable: It does not answer, or not in time.
    """
    with bounded(connection):
        for statement in (_OWN, *_scripts()):
            connection.execute(statement)
        yield Sandbox(connection, tenant)


def freeze(connection: psycopg.Connection[Any]) -> None:
    """From here on, the server refuses to write any table but temporary ones."""
    connection.execute("set transaction read only")


def _scripts() -> Iterator[str]:
    for script in _migrate.migrations():
        kept = (one for one in script.text.split(";\n") if not _is_dropped(one))
        yield _moved(";\n".join(kept))
    functions = {
        script.name: script.text for script in _migrate.modules() if "create or replace function" in script.text
    }
    wanted, found = list(ROOTS), dict.fromkeys(ROOTS)
    for name in wanted:
        for named in _NAME.findall(functions[name]):
            if named in functions and named not in found and named != "require":
                found[named] = None
                wanted.append(named)
    # As migrations do it: a function of language sql is looked into when it is made.
    for name in sorted(found, key=lambda name: "language sql" not in functions[name]):
        yield _moved(functions[name])


def _is_dropped(statement: str) -> bool:
    bare = re.sub(r"^\s*(--[^\n]*\n\s*)*", "", statement)
    return bool(re.match(r"(create schema|drop (function|view))\b", bare))


def _moved(text: str) -> str:
    moved = _NAME.sub(r"pg_temp.\1", text).replace("clock_timestamp()", "pg_temp.moment()")
    return re.sub(r"\bpg_(?:try_)?advisory_xact_lock\(", "pg_temp.unlocked(", moved)
