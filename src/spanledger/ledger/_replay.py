"""What another configuration would have made of the calls that the ledger recorded.

Rules: the ledger's own functions decide, in a copy of their tables (`_sandbox`), about the recorded attempts in their
order, each at the moment when it began; what ran ends when it ended and costs what it cost. What would have been
refused does not end. Whatever people said is said again: of requests, of delegations, of how much a budget may spend.
What ran before is asked nothing and counts as it was, also where the configuration takes two of them for the same call.
What grants redact, whoever asks is taken to keep from everybody. The past (`_past`) is read first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import hashlib
import heapq
import itertools
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from spanledger.config import Config
from spanledger.core.asking import Asking
from spanledger.core.call import Call, Verdict
from spanledger.core.money import amount_of
from spanledger.core.occurrences import Occurrence, Occurrences
from spanledger.core.replaying import UNDELEGATED, Carried, Judged, Recorded, Remade, remade
from spanledger.core.rules import Rule
from spanledger.ledger import _sandbox
from spanledger.ledger._database import Database
from spanledger.ledger._past import Past

CALLS_MAX = 10_000
BEGINNING = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_NEVER = dt.datetime.max.replace(tzinfo=dt.UTC)
# At one moment: what ends makes room for what begins.
_END, _SAID, _AGAIN = range(3)

Happens = Callable[[dt.datetime], Iterable[Judged] | None]


def replayed(
    database: Database,
    config: Config,
    since: dt.datetime | None = None,
    *,
    calls_max: int = CALLS_MAX,
    alone: bool = False,
    tell: Callable[[Carried], object] = repr,
) -> Iterator[Judged]:
    """Say what a configuration would have made of recorded attempts, in their order.

    Args:
        database: The ledger.
        config: The configuration; its mode does not matter.
        since: Only attempts that began at this moment or later. What ran before it is not judged, and counts: budgets
            hold what they would hold by then if they had been there all along and had refused nothing.
        calls_max: At most so many.
        alone: Only what the configuration says counts. Else it is written over the controls that the ledger holds now,
            as `apply` would.
        tell: Called once, with what ran before.

    Raises:
        ConfigError: The role may not read or may not use temporary tables, or the configuration cannot be applied.
        LedgerUnavailable: The ledger does not answer, or not in time.
    """
    database.prepare()
    since = since or BEGINNING
    with contextlib.ExitStack() as working:
        with database.connect() as reading, _sandbox.bounded(reading):
            _sandbox.freeze(reading)
            past = Past(reading, config.tenant)
            attempts = list(past.attempts(since, calls_max))
            if not attempts:
                return
            connection = working.enter_context(database.connect())
            sandbox = working.enter_context(_sandbox.opened(connection, config.tenant))
            replay = _Replay(sandbox, config, since)
            if not alone:
                sandbox.copy(_sandbox.controls_held(reading, config.tenant), since)
            replay.delegate(past.delegations({one.delegation for one in attempts if one.delegation is not None}))
            sandbox.apply(config.controls(), BEGINNING)
            _sandbox.freeze(connection)
            replay.top_up(past.top_ups())
            tell(replay.carry(past, attempts))
            replay.decide(past.decisions(since, replay.waiting))
        for recorded in attempts:
            yield from replay.begin(recorded)
        yield from replay.finish()


class _Replay:
    """What has happened so far in the copy."""

    def __init__(self, sandbox: _sandbox.Sandbox, config: Config, since: dt.datetime) -> None:
        self._sandbox = sandbox
        # Whose a call was has been said when it was made.
        self._config = dataclasses.replace(config, workflow_id=None, agent=None)
        self._bare = dataclasses.replace(self._config, rules=())
        self._secret = None if config.secret is None else config.secret.encode()
        self._counts = Occurrences()
        self._since = since
        self._ahead: list[tuple[dt.datetime, int, int, Happens]] = []
        self._count = itertools.count()
        # Recorded key → the request that is open in the copy; key in the copy → when its attempt ends.
        self._asked: dict[str, str] = {}
        self._ends: dict[str, dt.datetime] = {}
        self._delegations: set[str] = set()
        # Recorded keys of calls about which a person had been asked before.
        self.waiting: set[str] = set()

    # --- what was there before

    def delegate(self, rows: list[dict[str, Any]]) -> None:
        """Let delegations be there, each until it was revoked."""
        self._sandbox.copy_delegations(rows, self._since)
        self._delegations = {row["id"] for row in rows}
        for row in rows:
            if row["revoked_at"] is not None and (at := dt.datetime.fromisoformat(row["revoked_at"])) > self._since:
                self._expect(at, _SAID, functools.partial(self._sandbox.revoke, row))

    def top_up(self, top_ups: list[tuple[dt.datetime, dict[str, Any]]]) -> None:
        """Let budgets be topped up when they were."""
        for at, topped_up in top_ups:
            if at < self._since:
                self._sandbox.top_up(topped_up, at)
            else:
                self._expect(at, _SAID, functools.partial(self._sandbox.top_up, topped_up))

    def decide(self, decisions: list[tuple[Any, ...]]) -> None:
        """Let people say what they said."""
        for key, decided_at, state, by in decisions:
            function = "deny" if state == "denied" else "approve"
            self._expect(decided_at, _SAID, functools.partial(self._say, key, function, by))

    def carry(self, past: Past, attempts: Collection[Recorded]) -> Carried:
        """Book what ran before; what had not ended by then ends when it did."""
        if self._since <= BEGINNING:
            return Carried()
        reach = self._sandbox.reach(self._since)
        keys = {self._remade(one).asking.identity.key for one in attempts}
        count = unpriced = 0
        for page in past.before(self._since, reach, self._delegations, keys | {one.key for one in attempts}):
            rows = [self._carried(recorded, keys, latest=latest) for recorded, latest in page]
            counted = self._sandbox.carry([row for row in rows if row is not None], self._since)
            count, unpriced = count + counted[0], unpriced + counted[1]
        return Carried(None if reach <= BEGINNING else reach, count, unpriced)

    def _carried(self, recorded: Recorded, keys: Collection[str], *, latest: bool) -> dict[str, Any] | None:
        if not recorded.ran and not latest:
            return None
        made = self._remade(recorded)
        row = made.carried(self._since)
        row["unpriced"] = row["unpriced"] and callable(self._config.terms(made.asking.call, None).reserve)
        row["kept"] = latest and row["known"] and not row["asks"] and row["key"] in keys
        if row["asks"] and row["key"] in keys:
            self.waiting.add(recorded.key)
            self._expect(recorded.started_at, _AGAIN, functools.partial(self._ask_before, made))
        if row["holds"]:
            if row["key"] in self._ends:
                # Twice the same, as the configuration sees it; and both run.
                row["key"] = _own_key(recorded)
            self._ends[row["key"]] = _NEVER
            if row["state"] == "in_flight":
                self._end_as_recorded(recorded, row["key"], self._since)
        return row

    def _ask_before(self, made: Remade, at: dt.datetime) -> None:
        if self._answer(made, at)["verdict"] == Verdict.RUN:
            # It did not, and is not judged.
            unran = {"key": made.item["key"], "attempt_id": made.item["attempt_id"], "not_invoked": True}
            self._sandbox.ask("fail", unran, at)

    # --- what happens from then on

    def begin(self, recorded: Recorded) -> Iterator[Judged]:
        """Let what happened before happen, and then ask about an attempt."""
        yield from self._until(recorded.started_at)
        made = self._remade(recorded)
        if recorded.ran and recorded.delegation is not None and recorded.delegation not in self._delegations:
            row = made.carried(recorded.started_at) | {"key": _own_key(recorded), "kept": False}
            self._sandbox.carry([row], recorded.started_at)
            if row["holds"]:
                self._end_as_recorded(recorded, row["key"], recorded.started_at)
            yield Judged(recorded, None, UNDELEGATED, made.amounts)
            return
        if made.refused is not None:
            yield Judged(recorded, "undescribable", made.refused, made.amounts)
            return
        yield from self._ask(made, recorded.started_at)

    def finish(self) -> Iterator[Judged]:
        """Let happen what is still ahead."""
        yield from self._until(_NEVER)

    def _numbered(self, asking: Asking, recorded: Recorded) -> Asking:
        """Calls that the ledger took for one have one number; equal ones are numbered in their order."""
        if asking.identity.source != "occurrence":
            return asking
        number = self._counts.take(asking.identity.key, recorded.key).number
        return asking.numbered(Occurrence(number), self._secret)

    def _remade(self, recorded: Recorded) -> Remade:
        # What was said at the tool itself is not recorded; of this the key tells.
        own = Rule(recorded.tool, identity="occurrence") if recorded.key_source == "occurrence" else None

        def ask(call: Call) -> Asking:
            return self._numbered(self._config.asking(call, attempt_id=recorded.attempt_id, own=own), recorded)

        def bare(call: Call) -> Asking:
            return self._bare.asking(call, attempt_id=recorded.attempt_id)

        return remade(recorded, ask, bare, self._secret)

    def _expect(self, at: dt.datetime, kind: int, happens: Happens) -> None:
        heapq.heappush(self._ahead, (at, kind, next(self._count), happens))

    def _until(self, moment: dt.datetime) -> Iterator[Judged]:
        while self._ahead and self._ahead[0][0] <= moment:
            at, _, _, happens = heapq.heappop(self._ahead)
            yield from happens(at) or ()

    def _say(self, key: str, function: str, by: str, at: dt.datetime) -> None:
        request = self._asked.pop(key, None)
        if request is not None:
            self._sandbox.ask(function, {"id": request, "by": by}, at)

    def _ask(self, made: Remade, at: dt.datetime) -> Iterator[Judged]:
        recorded = made.recorded
        answer = self._answer(made, at)
        verdict = Verdict(answer["verdict"])
        if verdict is Verdict.RUN:
            self._end(made, at)
        elif verdict is Verdict.IN_PROGRESS:
            # Whoever makes it waits for the other to end, and asks again.
            ends_at = self._ends.get(made.item["key"])
            given_up_at = recorded.started_at + dt.timedelta(seconds=made.asking.terms.wait_timeout_s)
            if ends_at is not None and at < ends_at <= given_up_at:
                self._expect(ends_at, _AGAIN, functools.partial(self._ask, made))
                return
        if made.why_not is not None:
            yield Judged(recorded, None, made.why_not, made.amounts)
        else:
            yield Judged(recorded, verdict.value, _reason(answer), made.amounts)

    def _answer(self, made: Remade, at: dt.datetime) -> dict[str, Any]:
        item = made.item
        answer = self._sandbox.ask("begin", item | {"redacts": []}, at)
        if "obliges" in answer:
            answer = self._sandbox.ask("begin", item | {"redacts": answer["obliges"]}, at)
        if answer["verdict"] == Verdict.AWAITING_APPROVAL:
            self._asked[made.recorded.key] = answer["approval_id"]
        return answer

    def _end(self, made: Remade, at: dt.datetime) -> None:
        recorded, item = made.recorded, made.item
        if recorded.ran:
            self._end_as_recorded(recorded, item["key"], at)
        else:
            # It would have run, and nobody knows how that would have ended: it costs what it reserves.
            told = {"key": item["key"], "attempt_id": item["attempt_id"], "cost": dict(recorded.cost)}
            self._sandbox.ask("settle", told, at)

    def _end_as_recorded(self, recorded: Recorded, key: str, at: dt.datetime) -> None:
        if recorded.ended_at is None:
            return
        told = {"key": key, "attempt_id": recorded.attempt_id, "cost": dict(recorded.cost)}
        failed = told | {"error": {"type": "", "message": ""}, "outcome_unknown": recorded.state == "unknown"}
        self._ends[key] = max(recorded.ended_at, at)

        def end(at: dt.datetime) -> None:
            if recorded.state == "succeeded":
                self._sandbox.ask("settle", told, at)
            else:
                self._sandbox.ask("fail", failed, at)
            self._ends.pop(key, None)

        self._expect(self._ends[key], _END, end)


def _own_key(recorded: Recorded) -> str:
    return hashlib.sha256(recorded.attempt_id.encode()).hexdigest()


def _reason(answer: Mapping[str, Any]) -> str | None:
    if "budget" in answer:
        left, limit = (amount_of(answer["unit"], answer[name]) for name in ("remaining", "limit"))
        return f"budget {answer['budget']} has {left} left of {limit}"
    for name in ("switch", "grant", "permission"):
        if answer.get(name):
            return f"{name} {answer[name]}: {answer.get('reason') or 'stopped'}"
    return answer.get("reason")
