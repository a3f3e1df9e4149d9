"""A small model of the ledger: what the SQL functions have to do, in plain Python."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

BUDGETS = {
    # name: unit, limit, match; by name, because that is the order in which they are asked
    "count": ("calls", 6, "*"),
    "eur": ("EUR", 100, "*"),
    "mail": ("tokens", 50, "mail*"),
}


@dataclass
class Account:
    name: str
    unit: str
    limit: int
    match: str
    spent: int = 0
    held: int = 0


@dataclass
class Attempt:
    """One run of a call, for ever."""

    reserved: dict[str, int]
    spent: bool = False


@dataclass
class Call:
    state: str
    attempt: int
    attempts: int
    attempt_id: str
    fingerprint: str
    result: str | None = None
    holds: dict[str, int] = field(default_factory=dict)
    lease_over: bool = False
    prober: str | None = None


class Model:
    """One tenant."""

    def __init__(self) -> None:
        self.calls: dict[str, Call] = {}
        self.attempts: dict[str, Attempt] = {}
        self.accounts = {name: Account(name, *rest) for name, rest in BUDGETS.items()}

    # begin

    def begin(self, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        answers: list[dict[str, Any] | None] = [None] * len(items)
        for i in sorted(range(len(items)), key=lambda i: (items[i]["key"], i)):
            call = self.calls.get(items[i]["key"])
            answers[i] = None if call is None else self._judge(call, items[i])
        claimed = set()
        for i, item in enumerate(items):
            if answers[i] is None:
                again = item["key"] in claimed
                claimed.add(item["key"])
                answers[i] = {"verdict": "in_progress"} if again else self._claim(item)
        return answers  # type: ignore[return-value]

    def _judge(self, call: Call, item: Mapping[str, Any]) -> dict[str, Any] | None:
        if call.state in ("refused", "released"):
            return None
        if call.state == "in_flight" and call.attempt_id == item["attempt_id"]:
            return {"verdict": "run", "attempt": call.attempt}
        if call.fingerprint != item["fingerprint"] and item["on_mismatch"] == "refuse":
            return {"verdict": "key_reused"}
        if call.state == "reopened":
            return None
        if call.state == "cancelled":
            return {"verdict": "cancelled", "by": "ops"}
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

    def _judge_unknown(self, call: Call, item: Mapping[str, Any]) -> dict[str, Any]:
        if item["on_unknown"] == "probe":
            if call.prober not in (None, item["attempt_id"]):
                return {"verdict": "in_progress"}
            call.prober = item["attempt_id"]
        return {"verdict": "outcome_unknown"}

    def _claim(self, item: Mapping[str, Any]) -> dict[str, Any]:
        call = self.calls.get(item["key"])
        old = call.holds if call else {}
        reserve = item["reserve"]
        wanted = {a.name: reserve.get(a.unit, 0) for a in self.accounts.values() if _fits(a.match, item["tool"])}
        for name, amount in wanted.items():
            account = self.accounts[name]
            left = account.limit - account.spent - account.held + old.get(name, 0)
            foreign = account.unit == "EUR" and "USD" in reserve
            if foreign or amount > left or (left <= 0 and account.unit not in reserve):
                if call is None or call.state == "refused":
                    self.calls[item["key"]] = Call("refused", 0, 0, item["attempt_id"], item["fingerprint"])
                return {"verdict": "budget_exceeded", "budget": name, "remaining": left}
        for name in old | wanted:
            self.accounts[name].held += wanted.get(name, 0) - old.get(name, 0)
        attempt, attempts = (call.attempt, call.attempts) if call else (0, 0)
        attempts = 0 if call and call.state == "succeeded" else attempts
        self.calls[item["key"]] = Call(
            "in_flight", attempt + 1, attempts + 1, item["attempt_id"], item["fingerprint"], holds=wanted
        )
        self.attempts[item["attempt_id"]] = Attempt(wanted)
        return {"verdict": "run", "attempt": attempt + 1, "attempts": attempts + 1}

    # how it ended

    def settle(self, item: Mapping[str, Any]) -> dict[str, Any]:
        call = self.calls[item["key"]]
        if call.attempt_id == item["attempt_id"] and call.state != "succeeded":
            self._release(call)
            call.state, call.result, call.prober = "succeeded", item["result"], None
            self._spend(item["attempt_id"], item["cost"])
        elif call.attempt_id != item["attempt_id"] or call.state != "succeeded":
            self._spend(item["attempt_id"], item["cost"])
            return {"owned": False}
        return {"owned": True}

    def fail(self, item: Mapping[str, Any]) -> dict[str, Any]:
        call = self.calls[item["key"]]
        if call.attempt_id != item["attempt_id"] or call.state in ("refused", "reopened", "succeeded", "cancelled"):
            return {"owned": False}
        if item["outcome_unknown"]:
            call.state = "unknown" if call.state == "in_flight" else call.state
        elif call.state not in ("failed", "released"):
            self._release(call)
            call.state = "released" if item["not_invoked"] and call.attempts == 1 else "failed"
            call.attempts -= item["not_invoked"]
        return {"owned": True}

    def resolve(self, item: Mapping[str, Any]) -> dict[str, Any]:
        call, outcome = self.calls.get(item["key"]), item["outcome"]
        if call is None:
            return {"done": False, "state": None}
        if call.state == "in_flight" and call.lease_over:
            call.state = "unknown"
        reopens = call.state in ("failed", "cancelled") and outcome == "retry"
        if item["attempt"] not in (None, call.attempt) or not (call.state == "unknown" or reopens):
            return {"done": False, "state": call.state}
        call.prober = None
        if outcome != "unknown":
            call.state = "reopened" if outcome == "retry" else outcome
            call.result = item["result"] if outcome == "succeeded" else None
        if outcome in ("succeeded", "failed"):
            self._release(call)
        if outcome == "succeeded":
            self._spend(call.attempt_id, {})
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
        call.state, call.prober = "cancelled", None
        return {"done": True, "state": "cancelled"}

    def _release(self, call: Call) -> None:
        for name, amount in call.holds.items():
            self.accounts[name].held -= amount
        call.holds = {}

    def _spend(self, attempt_id: str, cost: Mapping[str, int]) -> None:
        """Money that left is money that left, and it leaves once."""
        attempt = self.attempts.get(attempt_id)
        if attempt is None or attempt.spent:
            return
        attempt.spent = True
        for name, amount in attempt.reserved.items():
            account = self.accounts[name]
            account.spent += cost.get(account.unit, amount) if account.unit != "calls" else amount


def _fits(pattern: str, tool: str) -> bool:
    return re.fullmatch(pattern.replace("*", ".*"), tool) is not None
