"""What another configuration would have made of the calls that the ledger recorded.

Rules: the ledger's own functions decide, in a copy of their tables (`_sandbox`), about the recorded attempts in their
order, each at the moment when it began; what ran ends when it ended and costs what it cost. What would have been
refused does not end. Whatever people said of a request is said again. What grants redact, whoever asks is taken to keep
from everybody. The past is read first, in a short transaction.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import heapq
import itertools
from collections.abc import Iterator, Mapping
from typing import Any

import psycopg

from spanledger.config import Config
from spanledger.core.call import Verdict
from spanledger.core.money import amount_of
from spanledger.core.replaying import Judged, Recorded, Remade, remade
from spanledger.ledger import _sandbox
from spanledger.ledger._database import Database

CALLS_MAX = 10_000
_BATCH = 500

_ATTEMPTS = """
declare spanledger_replay no scroll cursor for
select to_jsonb(r) from spanledger_v1.recorded r
where r.tenant = $1 and r.started_at >= $2 and r.state <> 'released'
order by r.started_at, r.attempt, r.key limit $3
"""
_DECISIONS = """
select a.key, a.decided_at, a.state, a.by_name from spanledger_v1.approvals a
where a.tenant = $1 and a.decided_at >= $2 order by a.decided_at
"""
# At one moment: what ends makes room for what begins.
_END, _SAID, _AGAIN = range(3)


def replayed(
    database: Database,
    config: Config,
    since: dt.datetime | None = None,
    *,
    calls_max: int = CALLS_MAX,
    alone: bool = False,
) -> Iterator[Judged]:
    """Say what a configuration would have made of recorded attempts, in their order.

    Args:
        database: The ledger.
        config: The configuration; its mode does not matter.
        since: Only attempts that began at this moment or later; budgets begin empty there.
        calls_max: At most so many.
        alone: Only what the configuration says counts. Else it is written over the controls that the ledger holds now,
            as `apply` would.

    Raises:
        ConfigError: The role may not read or may not use temporary tables, or the configuration cannot be applied.
        LedgerUnavailable: The ledger does not answer, or not in time.
    """
    database.prepare()
    with database.connect() as connection:
        past = _read(connection, config.tenant, since or dt.datetime(1970, 1, 1, tzinfo=dt.UTC), calls_max)
        if not past.attempts:
            return
        began_at = past.attempts[0].started_at
        with _sandbox.opened(connection, config.tenant) as sandbox:
            if not alone:
                sandbox.copy(past.controls, began_at)
            sandbox.apply(config.controls(), began_at)
            _sandbox.freeze(connection)
            replay = _Replay(sandbox, config)
            for key, decided_at, state, by in past.decisions:
                replay.expect(decided_at, _SAID, (key, "deny" if state == "denied" else "approve", by))
            for recorded in past.attempts:
                yield from replay.begin(recorded)
            yield from replay.finish()


@dataclasses.dataclass(frozen=True, slots=True)
class _Past:
    attempts: list[Recorded]
    decisions: list[tuple[Any, ...]]
    controls: dict[str, Any]


def _read(connection: psycopg.Connection[Any], tenant: str, since: dt.datetime, calls_max: int) -> _Past:
    """Read the past as it is at one moment; deciding takes longer, and holds no lock of the ledger's any more."""
    with _sandbox.bounded(connection):
        _sandbox.freeze(connection)
        reading = psycopg.RawCursor(connection)
        reading.execute(_ATTEMPTS, (tenant, since, calls_max))
        attempts: list[Recorded] = []
        while rows := reading.execute(f"fetch {_BATCH} from spanledger_replay").fetchall():
            attempts += [_recorded(one) for (one,) in rows]
        decisions = reading.execute(_DECISIONS, (tenant, since)).fetchall()
        return _Past(attempts, decisions, _sandbox.controls_held(connection, tenant))


class _Replay:
    """What has happened so far in the copy."""

    def __init__(self, sandbox: _sandbox.Sandbox, config: Config) -> None:
        self._sandbox = sandbox
        self._config = config
        self._bare = dataclasses.replace(config, rules=())
        self._ahead: list[tuple[dt.datetime, int, int, Any]] = []
        self._count = itertools.count()
        # Recorded key → the request that is open in the copy; key in the copy → when its attempt ends.
        self._asked: dict[str, str] = {}
        self._ends: dict[str, dt.datetime] = {}

    def expect(self, at: dt.datetime, kind: int, what: Any) -> None:
        """Let something happen at a moment."""
        heapq.heappush(self._ahead, (at, kind, next(self._count), what))

    def begin(self, recorded: Recorded) -> Iterator[Judged]:
        """Let what happened before happen, and then ask about an attempt."""
        yield from self._until(recorded.started_at)
        secret = None if self._config.secret is None else self._config.secret.encode()

        def ask(config: Config) -> Any:
            return lambda call: config.asking(call, attempt_id=recorded.attempt_id)

        made = remade(recorded, ask(self._config), ask(self._bare), secret)
        if made.refused is not None:
            yield Judged(recorded, "undescribable", made.refused, made.amounts)
            return
        yield from self._ask(made, recorded.started_at)

    def finish(self) -> Iterator[Judged]:
        """Let happen what is still ahead."""
        yield from self._until(dt.datetime.max.replace(tzinfo=dt.UTC))

    def _until(self, moment: dt.datetime) -> Iterator[Judged]:
        while self._ahead and self._ahead[0][0] <= moment:
            at, kind, _, what = heapq.heappop(self._ahead)
            if kind == _END:
                function, item = what
                self._sandbox.ask(function, item, at)
                self._ends.pop(item["key"], None)
            elif kind == _SAID:
                self._say(at, *what)
            else:
                yield from self._ask(what, at)

    def _say(self, at: dt.datetime, key: str, function: str, by: str) -> None:
        request = self._asked.pop(key, None)
        if request is not None:
            self._sandbox.ask(function, {"id": request, "by": by}, at)

    def _ask(self, made: Remade, at: dt.datetime) -> Iterator[Judged]:
        recorded, item = made.recorded, made.item
        answer = self._sandbox.ask("begin", item | {"redacts": []}, at)
        if "obliges" in answer:
            answer = self._sandbox.ask("begin", item | {"redacts": answer["obliges"]}, at)
        verdict = Verdict(answer["verdict"])
        if verdict is Verdict.RUN:
            self._end(made, at)
        elif verdict is Verdict.AWAITING_APPROVAL:
            self._asked[recorded.key] = answer["approval_id"]
        elif verdict is Verdict.IN_PROGRESS:
            # Whoever makes it waits for the other to end, and asks again.
            ends_at = self._ends.get(item["key"])
            given_up_at = recorded.started_at + dt.timedelta(seconds=made.asking.terms.wait_timeout_s)
            if ends_at is not None and at < ends_at <= given_up_at:
                self.expect(ends_at, _AGAIN, made)
                return
        if made.why_not is not None:
            yield Judged(recorded, None, made.why_not, made.amounts)
        else:
            yield Judged(recorded, verdict.value, _reason(answer), made.amounts)

    def _end(self, made: Remade, at: dt.datetime) -> None:
        recorded, item = made.recorded, made.item
        told = {"key": item["key"], "attempt_id": item["attempt_id"], "cost": dict(recorded.cost)}
        if not recorded.ran:
            # It would have run, and nobody knows how that would have ended: it costs what it reserves.
            self._sandbox.ask("settle", told, at)
        elif recorded.ended_at is not None:
            ends_at = max(recorded.ended_at, at)
            self._ends[item["key"]] = ends_at
            failed = told | {"error": {"type": "", "message": ""}, "outcome_unknown": recorded.state == "unknown"}
            self.expect(ends_at, _END, ("settle", told) if recorded.state == "succeeded" else ("fail", failed))


def _recorded(row: Mapping[str, Any]) -> Recorded:
    values = {one.name: row[one.name] for one in dataclasses.fields(Recorded)}
    for name in ("started_at", "ended_at", "lease_until"):
        values[name] = None if row[name] is None else dt.datetime.fromisoformat(row[name])
    # A budget in a unit that the call says nothing about has taken none of it.
    reserved = {unit: steps for unit, steps in (row["reserved"] or {}).items() if steps}
    return Recorded(**values | {"cost": row["cost"] or {}, "reserved": reserved})


def _reason(answer: Mapping[str, Any]) -> str | None:
    if "budget" in answer:
        left, limit = (amount_of(answer["unit"], answer[name]) for name in ("remaining", "limit"))
        return f"budget {answer['budget']} has {left} left of {limit}"
    for name in ("switch", "grant", "permission"):
        if answer.get(name):
            return f"{name} {answer[name]}: {answer.get('reason') or 'stopped'}"
    return answer.get("reason")
