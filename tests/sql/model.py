"""A small model of the ledger: what the SQL functions have to do, in plain Python."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

BUDGETS: dict[str, tuple[str, int, str, list[str]]] = {
    # name: unit, limit, match, per; by name, because that is the order in which they are asked
    "apiece": ("EUR", 80, "*", ["actor"]),
    "count": ("calls", 8, "*", []),
    "eur": ("EUR", 130, "*", []),
    "mail": ("tokens", 50, "mail*", []),
}
# What a switch may stop.
STOPPABLE = "mail*"
# Whoever holds an account: the budget's name, and the actor where it is kept apart.
Holder = tuple[str, str]


@dataclass
class Account:
    unit: str
    limit: int
    spent: int = 0
    held: int = 0


@dataclass
class Attempt:
    """One run of a call, for ever."""

    key: str
    reserved: dict[Holder, int]
    rate: float
    spent: bool = False
    # Its worker has said how it ended; of unknown outcome, and what it has cost until then; its failure is spent.
    over: bool = False
    told: Mapping[str, int] | None = None
    failed: bool = False
    # It was pruned with its key: nobody knows any more what it would be booked on.
    forgotten: bool = False


@dataclass
class Request:
    """For a person's consent."""

    key: str
    fingerprint: str
    actor: str
    self_approval: bool
    state: str = "pending"
    due: bool = False
    by: str | None = None
    consumed_by: str | None = None
    id: str | None = None


@dataclass
class Asked:
    """What the row of a call says of its attempt."""

    item: Mapping[str, Any]
    reserve: Mapping[str, int]
    rate: float


@dataclass
class Call:
    state: str
    attempt: int
    attempts: int
    attempt_id: str
    fingerprint: str
    chat: bool = False
    result: str | None = None
    holds: dict[Holder, int] = field(default_factory=dict)
    lease_over: bool = False
    prober: str | None = None
    request: Request | None = None
    # What its attempt would be booked on if it ran although it may not.
    asked: Asked | None = None
    # Attempts that this row has been about since one ran last, and their arguments; and that it was given back.
    past: dict[str, str] = field(default_factory=dict)
    given_back: bool = False


class Model:
    """One tenant."""

    def __init__(self, rate: float) -> None:
        self.calls: dict[str, Call] = {}
        self.attempts: dict[str, Attempt] = {}
        self.accounts: dict[Holder, Account] = {}
        self.requests: list[Request] = []
        # Attempts that are over and whose row another has now, by key and id; whether that is known after pruning.
        self.over: dict[tuple[str, str], bool] = {}
        self.limits = {name: limit for name, (_, limit, _, _) in BUDGETS.items()}
        self.rate = rate
        self.stopped = False

    # begin

    def begin(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any] | None] = [None] * len(items)
        locked: set[Holder] = set()
        for i in sorted(range(len(items)), key=lambda i: (items[i]["key"], i)):
            call = self.calls.get(items[i]["key"])
            before = call and call.state
            answer = answers[i] = None if call is None else self._judge(call, items[i])
            if answer is None and (items[i]["key"], items[i]["attempt_id"]) in self.over:
                answer = answers[i] = {"verdict": "failed"}
            if call and (answer is None or call.state != before or "probe" in answer):
                locked |= set(call.holds)
        locked |= {a for item, answer in zip(items, answers, strict=True) if not answer for a in self._wanted(item)}
        decided = set()
        for i, item in enumerate(items):
            if answers[i] is None and item["key"] in decided:
                answers[i] = {"verdict": "in_progress"}
            elif answers[i] is None:
                decided.add(item["key"])
                answers[i] = self._decide(item, self.calls.get(item["key"]), locked)
        return answers  # type: ignore[return-value]

    def _judge(self, call: Call, item: Mapping[str, Any]) -> dict[str, Any] | None:
        if call.attempt_id == item["attempt_id"] and self._is_over(call):
            return self._judge_over(call)
        return self._judge_current(call, item)

    def _judge_current(self, call: Call, item: Mapping[str, Any]) -> dict[str, Any] | None:
        if call.state in ("refused", "released"):
            return None
        if call.state == "in_flight" and call.attempt_id == item["attempt_id"]:
            return {"verdict": "run", "attempt": call.attempt}
        if call.fingerprint != item["fingerprint"] and item["on_mismatch"] == "refuse":
            return {"verdict": "key_reused"}
        if call.state in ("reopened", "pending", "approved"):
            return None
        if call.state in ("denied", "expired", "cancelled"):
            return {"verdict": call.state}
        if call.state == "in_flight":
            if not call.lease_over:
                return {"verdict": "in_progress"}
            call.state = "unknown"
        if call.state == "succeeded":
            return None if item["replay_for_s"] == 0 else {"verdict": "replay", "result": call.result}
        if call.state == "failed":
            worn = item["attempts_max"] is not None and call.attempts >= item["attempts_max"]
            return {"verdict": "failed"} if worn or item["on_failure"] == "replay" else None
        return None if item["on_unknown"] == "retry" else self._judge_unknown(call, item)

    def _is_over(self, call: Call) -> bool:
        """Its attempt has ended, and its worker has said so."""
        told = call.state == "unknown" and self.attempts[call.attempt_id].told is not None
        given_back = call.state == "approved" and call.given_back
        return call.state in ("succeeded", "failed", "released") or told or given_back

    def _judge_over(self, call: Call) -> dict[str, Any]:
        if call.state == "succeeded":
            return {"verdict": "replay", "result": call.result}
        return {"verdict": "outcome_unknown" if call.state == "unknown" else "failed"}

    def _judge_unknown(self, call: Call, item: Mapping[str, Any]) -> dict[str, Any]:
        if item["on_unknown"] == "ask":
            return {"verdict": "outcome_unknown"}
        if call.prober not in (None, item["attempt_id"]):
            return {"verdict": "in_progress"}
        call.prober = item["attempt_id"]
        return {"verdict": "outcome_unknown", "probe": True}

    def _decide(self, item: Mapping[str, Any], call: Call | None, locked: set[Holder]) -> dict[str, Any]:
        answer = self._consent(item, call)
        if answer is None:
            refusal = self._short(item, call)
            if refusal and self._sweep(locked):
                refusal = self._short(item, call)
            if refusal is None:
                return self._claim(item, call)
            answer = refusal
        if answer["verdict"] in ("budget_exceeded", "unauthorized") and (call is None or call.state == "refused"):
            refused = Call("refused", 0, 0, item["attempt_id"], item["fingerprint"])
            refused.asked = Asked(item, answer.get("requested", {}), self.rate)
            refused.past = self._superseded(item["key"], call)
            self.calls[item["key"]] = refused
        return {name: value for name, value in answer.items() if name != "requested" or isinstance(value, bool)}

    def _consent(self, item: Mapping[str, Any], call: Call | None) -> dict[str, Any] | None:
        """None: nobody minds, or a person has said yes to exactly this."""
        if self.stopped and _fits(STOPPABLE, item["tool"]):
            return {"verdict": "unauthorized", "switch": STOPPABLE}
        state, request = (call.state, call.request) if call else (None, None)
        same = request is not None and request.fingerprint == item["fingerprint"]
        if call and state == "pending" and same:
            if self._due(call):
                return {"verdict": "expired"}
            return {"verdict": "awaiting_approval", "requested": call.attempt_id == item["attempt_id"]}
        if (state == "approved" and same) or (state not in ("pending", "approved") and not self._needs_consent(item)):
            return None
        consumed = request is not None and request.state == "consumed"
        if item["approval_covers_retries"] and state != "succeeded" and same and consumed:
            return None
        return {"verdict": "outcome_unknown"} if state == "unknown" else self._ask(item, call)

    def _needs_consent(self, item: Mapping[str, Any]) -> bool:
        if isinstance(item["approval"], bool):
            return item["approval"]
        amount = _amount_in("EUR", item["reserve"], self.rate)
        return amount is None or amount > item["approval"]["steps"]

    def _ask(self, item: Mapping[str, Any], call: Call | None) -> dict[str, Any]:
        request = Request(item["key"], item["fingerprint"], item["actor"], item["self_approval"])
        asking = Call("pending", 0, 0, item["attempt_id"], item["fingerprint"], item["operation"] == "chat")
        if call:
            if call.request and call.request.state in ("pending", "approved"):
                call.request.state = "superseded"
            self._release(call)
            asking.attempt = call.attempt
            asking.attempts = 0 if call.state == "succeeded" else call.attempts
            asking.past = self._superseded(item["key"], call)
        asking.request, asking.asked = request, Asked(item, item["reserve"], self.rate)
        self.requests.append(request)
        self.calls[item["key"]] = asking
        return {"verdict": "awaiting_approval", "requested": True}

    def _superseded(self, key: str, call: Call | None) -> dict[str, str]:
        """What is remembered of a row that another attempt gets: attempts that may yet turn out to have run."""
        if call is None:
            return {}
        if call.state in ("succeeded", "failed", "released", "unknown", "cancelled"):
            ran = call.attempt_id in self.attempts
            self.over[key, call.attempt_id] = ran and call.state != "succeeded"
        doubtful = call.state not in ("succeeded", "denied", "expired")
        past = {id_: print_of for id_, print_of in call.past.items() if id_ != call.attempt_id}
        return past | ({call.attempt_id: call.fingerprint} if doubtful else {})

    def _wanted(self, item: Mapping[str, Any], rate: float | None = None) -> dict[Holder, int | None]:
        """What it reserves from each account; None where it says nothing in that unit."""
        wanted = {}
        for name, (unit, _, match, per) in BUDGETS.items():
            if _fits(match, item["tool"]):
                holder = (name, item["actor"] if per else "")
                self.accounts.setdefault(holder, Account(unit, self.limits[name]))
                wanted[holder] = _amount_in(unit, item["reserve"], rate or self.rate)
        return wanted

    def _short(self, item: Mapping[str, Any], call: Call | None) -> dict[str, Any] | None:
        """The refusal by the first budget that has too little left."""
        for holder, amount in self._wanted(item).items():
            account = self.accounts[holder]
            left = account.limit - account.spent - account.held + (self._taken_over(call, holder) if call else 0)
            foreign = account.unit == "EUR" and amount is None and "USD" in item["reserve"]
            if foreign or (amount or 0) > left or (left <= 0 and amount is None):
                requested = {account.unit: amount or 0}
                return {"verdict": "budget_exceeded", "budget": holder[0], "remaining": left, "requested": requested}
        return None

    def _taken_over(self, call: Call, holder: Holder) -> int:
        """What it holds, but for what its attempt has told that it cost, which is spent when the next one runs."""
        told = self.attempts[call.attempt_id].told if call.state == "unknown" else None
        unit, rate = self.accounts[holder].unit, self.rate if told is None else self.attempts[call.attempt_id].rate
        spent = 0 if told is None or unit == "calls" or holder not in call.holds else _amount_in(unit, told, rate)
        return call.holds.get(holder, 0) - (spent or 0)

    def _sweep(self, locked: set[Holder]) -> bool:
        """The dead who hold from these accounts: a tool's outcome is unknown, a model's call is lost."""
        return self._lose(
            call
            for call in self.calls.values()
            if call.holds.keys() & locked and (not call.chat or call.holds.keys() <= locked)
        )

    def _lose(self, calls: Iterable[Call]) -> bool:
        lost = False
        for call in [call for call in calls if call.state == "in_flight" and call.lease_over]:
            call.state = "unknown"
            if call.chat:
                self._release(call)
                call.state, lost = "failed", True
        return lost

    def _claim(self, item: Mapping[str, Any], call: Call | None) -> dict[str, Any]:
        attempt, attempts, request = (call.attempt, call.attempts, call.request) if call else (0, 0, None)
        if call:
            self._release(call)
            if call.state == "unknown":
                self._rule_out(call)
            self._superseded(item["key"], call)
            if call.state == "succeeded":
                attempts, request = 0, None
            elif call.state == "approved" and request:
                request.state, request.consumed_by = "consumed", item["attempt_id"]
        holds = {holder: amount or 0 for holder, amount in self._wanted(item).items()}
        for holder, amount in holds.items():
            self.accounts[holder].held += amount
        self.calls[item["key"]] = Call(
            "in_flight",
            attempt + 1,
            attempts + 1,
            item["attempt_id"],
            item["fingerprint"],
            item["operation"] == "chat",
            holds=holds,
            request=request,
            asked=Asked(item, item["reserve"], self.rate),
        )
        self.attempts[item["attempt_id"]] = Attempt(item["key"], holds, self.rate)
        return {"verdict": "run", "attempt": attempt + 1, "attempts": attempts + 1}

    # what a person says

    def approve(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return self._answer(item, "approved")

    def deny(self, item: Mapping[str, Any]) -> dict[str, Any]:
        return self._answer(item, "denied")

    def _answer(self, item: Mapping[str, Any], answer: str) -> dict[str, Any]:
        request = next(request for request in self.requests if request.id == item["id"])
        call = self.calls.get(request.key)
        if call and request.state == "pending":
            self._due(call)
        if request.state != "pending":
            done = {"consumed": "approved"}.get(request.state, request.state) == answer
            return {"done": done, "state": request.state, "by": request.by}
        if answer == "approved" and item["by"] == request.actor and not request.self_approval:
            return {"done": False, "state": "pending", "self": True}
        assert call
        request.state = call.state = answer
        request.by = item["by"]
        return {"done": True, "state": answer, "by": item["by"]}

    def _due(self, call: Call) -> bool:
        if call.state == "pending" and call.request and call.request.due:
            call.state = call.request.state = "expired"
        return call.state == "expired"

    # how it ended

    def settle(self, item: Mapping[str, Any]) -> dict[str, Any]:
        call, attempt_id = self.calls.get(item["key"]), item["attempt_id"]
        if call is None:
            return {"owned": False, "known": False}
        asked_since = call.attempt_id != attempt_id and call.past.get(attempt_id) == call.fingerprint
        if call.attempt_id == attempt_id and call.state == "succeeded":
            return {"owned": True}
        if item.get("admitted") is False and attempt_id not in self.attempts:
            self.attempts[attempt_id] = self._never_admitted(call, attempt_id)
        owned = asked_since or (call.attempt_id == attempt_id and call.state not in ("denied", "expired"))
        if owned:
            if call.request and call.request.state in ("pending", "approved"):
                # It was given back and used after all, or asked for in vain.
                used = call.request.state == "approved" and not asked_since
                call.request.state = "consumed" if used else "cancelled"
            self._release(call)
            call.state, call.result, call.attempt_id, call.prober = "succeeded", item["result"], attempt_id, None
        self._spend(attempt_id, item["cost"])
        return {"owned": owned}

    def fail(self, item: Mapping[str, Any]) -> dict[str, Any]:
        call, told_of = self.calls.get(item["key"]), (item["key"], item["attempt_id"])
        known = call is not None and (call.attempt_id == item["attempt_id"] or told_of in self.over)
        if item["not_invoked"] and not known:
            return self._forestall(item, call)
        if call is None:
            return {"owned": False, "known": False}
        mine, attempt = call.attempt_id == item["attempt_id"], self.attempts[item["attempt_id"]]
        current = mine and call.state in ("in_flight", "unknown")
        if not current and not item["not_invoked"]:
            self._spend_failed(attempt, item["cost"])
        if not mine or call.state not in ("in_flight", "unknown", "failed", "released", "approved"):
            return {"owned": False}
        if item["outcome_unknown"] and current:
            call.state = "unknown"
            attempt.told = item["cost"] if attempt.told is None else attempt.told
        elif current:
            self._spend_failed(attempt, item["cost"])
            attempt.over = True
            self._release(call)
            call.state = "released" if item["not_invoked"] and call.attempts == 1 else "failed"
            call.attempts -= item["not_invoked"]
            if item["not_invoked"] and call.request and call.request.consumed_by == call.attempt_id:
                call.state = call.request.state = "approved"
                call.request.consumed_by, call.given_back = None, True
        return {"owned": True}

    def _forestall(self, item: Mapping[str, Any], call: Call | None) -> dict[str, Any]:
        """Its begin has not come, and starts nothing when it does."""
        if call is None and "operation" in item:
            chat = item["operation"] == "chat"
            given_back = Call("released", 0, 0, item["attempt_id"], item["fingerprint"], chat)
            given_back.asked = Asked(item, {}, self.rate)
            self.calls[item["key"]] = given_back
        else:
            self.over[item["key"], item["attempt_id"]] = False
        return {"owned": False}

    def renew(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            call = self.calls.get(item["key"])
            if call and call.state == "in_flight" and call.attempt_id == item["attempt_id"]:
                call.lease_over = False
        self._lose(call for call in self.calls.values() if call.chat)

    def resolve(self, item: Mapping[str, Any]) -> dict[str, Any]:
        call, outcome = self.calls.get(item["key"]), item["outcome"]
        if call is None:
            return {"done": False, "state": None}
        if call.state == "in_flight" and call.lease_over:
            call.state = "unknown"
        self._due(call)
        reopens = call.state in ("failed", "cancelled", "denied", "expired") and outcome == "retry"
        if item["attempt"] not in (None, call.attempt) or not (call.state == "unknown" or reopens):
            return {"done": False, "state": call.state}
        call.prober = None
        if outcome != "unknown":
            call.state = "reopened" if outcome == "retry" else outcome
            call.result = item["result"] if outcome == "succeeded" else None
        if outcome in ("succeeded", "failed"):
            self._release(call)
        if outcome == "succeeded":
            self._spend(call.attempt_id, self.attempts[call.attempt_id].told or {})
        elif outcome != "unknown" and not reopens:
            self._rule_out(call)
        return {"done": True, "state": call.state}

    def cancel(self, item: Mapping[str, Any]) -> dict[str, Any]:
        call = self.calls.get(item["key"])
        if call is None:
            return {"done": False, "state": None}
        if call.state == "in_flight" and call.lease_over:
            call.state = "unknown"
        if call.state in ("in_flight", "succeeded"):
            return {"done": False, "state": call.state}
        self._release(call)
        if call.state == "unknown":
            self._rule_out(call)
        if call.request and call.request.state in ("pending", "approved"):
            call.request.state = "cancelled"
        call.state, call.prober = "cancelled", None
        return {"done": True, "state": "cancelled"}

    def prune(self) -> int:
        """What never ran is forgotten; of the rest it is only forgotten what came of it and who allowed it."""
        gone = [key for key, call in self.calls.items() if call.state in ("refused", "released")]
        for key in gone:
            del self.calls[key]
        for attempt in self.attempts.values():
            if attempt.key in gone:
                attempt.forgotten = True
        open_ = {
            k for k, c in self.calls.items() if c.state in ("in_flight", "unknown", "pending", "approved", "reopened")
        }
        self.over = {
            (key, id_): stays
            for (key, id_), stays in self.over.items()
            if key in open_ or (stays and key in self.calls)
        }
        for call in self.calls.values():
            if call.state in ("succeeded", "failed", "denied", "expired", "cancelled"):
                call.result = call.request = None
                assert call.asked
                call.asked = replace(call.asked, item={**call.asked.item, "actor": ""})
        return len(gone)

    def _never_admitted(self, call: Call, attempt_id: str) -> Attempt:
        """What is booked for it is what it would have reserved, where the row of its call says what that was."""
        assert call.asked
        own = call.attempt_id == attempt_id
        reserve = call.asked.reserve if own and (call.request or call.state == "refused") else {}
        rate = call.asked.rate if own else self.rate
        wanted = self._wanted(dict(call.asked.item) | {"reserve": {"calls": 1, **reserve}}, rate)
        holds = {holder: amount or 0 for holder, amount in wanted.items()}
        return Attempt(call.asked.item["key"], holds, rate)

    def _release(self, call: Call) -> None:
        for holder, amount in call.holds.items():
            self.accounts[holder].held -= amount
        call.holds = {}

    def _spend(self, attempt_id: str, cost: Mapping[str, int]) -> None:
        """Money that left is money that left, and it leaves once."""
        attempt = self.attempts.get(attempt_id)
        if attempt is None or attempt.spent or attempt.forgotten:
            return
        attempt.spent = attempt.over = True
        for holder, amount in attempt.reserved.items():
            account = self.accounts[holder]
            costs = None if account.unit == "calls" else _amount_in(account.unit, cost, attempt.rate)
            account.spent += amount if costs is None else costs

    def _rule_out(self, call: Call) -> None:
        """Of an attempt of unknown outcome nobody will say that it succeeded: what it has told is spent."""
        attempt = self.attempts[call.attempt_id]
        if attempt.told is not None:
            self._spend_failed(attempt, attempt.told)

    def _spend_failed(self, attempt: Attempt, cost: Mapping[str, int]) -> None:
        """What a failure has cost, and it leaves once; nothing where its worker has said how it ended."""
        if attempt.over or attempt.failed or attempt.forgotten:
            return
        attempt.failed = True
        for holder in attempt.reserved:
            account = self.accounts[holder]
            if account.unit != "calls":
                account.spent += _amount_in(account.unit, cost, attempt.rate) or 0


def _amount_in(unit: str, amounts: Mapping[str, int], rate: float) -> int | None:
    if unit in amounts:
        return amounts[unit]
    return math.ceil(amounts["GBP"] * rate) if unit == "EUR" and "GBP" in amounts else None


def _fits(pattern: str, tool: str) -> bool:
    return re.fullmatch(pattern.replace("*", ".*"), tool) is not None
