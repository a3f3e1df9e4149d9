"""The functions of schema spanledger_v1 as a program in any language may call them."""

from __future__ import annotations

import hashlib
import json
import uuid
from typing import Any

import psycopg
import pytest

PROBE = {"on_unknown": "probe"}
RETRY = {"on_unknown": "retry"}
ASK = {"approval": True}
CHAT = {"operation": "chat", "tool": "gpt"}


def eur(amount: int) -> dict[str, Any]:
    return {"reserve": {"calls": 1, "EUR": amount}}


def key_of(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()


def new_attempt() -> str:
    return str(uuid.uuid4())


def item(name: str, **fields: Any) -> dict[str, Any]:
    """An item of `begin`; whatever is not given is what a careful tool would use."""
    return {
        "key": key_of(name),
        "fingerprint": key_of(f"arguments of {name}"),
        "key_source": "arguments",
        "attempt_id": new_attempt(),
        "tool": "refund",
        "operation": "execute_tool",
        "workflow_id": "w",
        "reserve": {"calls": 1},
        "lease_s": 60,
        "replay_for_s": None,
        "on_mismatch": "replay",
        "on_unknown": "ask",
        "on_failure": "retry",
        "attempts_max": None,
        "probe_lease_s": 30,
    } | fields


class Protocol:
    """One tenant's ledger."""

    def __init__(self, connection: psycopg.Connection, tenant: str = "acme") -> None:
        self.sql = connection
        self.tenant = tenant

    def ask(self, function: str, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        statement = f"select spanledger_v1.{function}(%s, %s::jsonb)"
        (answers,) = self.sql.execute(statement, (self.tenant, json.dumps(items))).fetchone()
        return answers

    def begin(self, name: str, **fields: Any) -> dict[str, Any]:
        """Answer of `begin`, with the attempt's id in it."""
        asked = item(name, **fields)
        return self.ask("begin", [asked])[0] | {"attempt_id": asked["attempt_id"]}

    def settle(self, name: str, begun: dict[str, Any], **fields: Any) -> bool:
        given = {"key": key_of(name), "attempt_id": begun["attempt_id"], "result": '"done"', "result_kept": True}
        return self.ask("settle", [given | fields])[0]["owned"]

    def fail(self, name: str, begun: dict[str, Any], **fields: Any) -> bool:
        given = {"key": key_of(name), "attempt_id": begun["attempt_id"]}
        return self.ask("fail", [given | {"error": {"type": "E", "message": "no"}} | fields])[0]["owned"]

    def resolve(self, name: str, outcome: str, **fields: Any) -> dict[str, Any]:
        return self.ask("resolve", [{"key": key_of(name), "outcome": outcome, "by": "ops"} | fields])[0]

    def cancel(self, name: str, **fields: Any) -> dict[str, Any]:
        return self.ask("cancel", [{"key": key_of(name), "by": "ops"} | fields])[0]

    def renew(self, *items: dict[str, Any]) -> None:
        """Signs of life of attempts."""
        self.sql.execute("select spanledger_v1.renew(%s, %s::jsonb)", (self.tenant, json.dumps({"items": items})))

    def approve(self, asked: dict[str, Any], by: str = "boss", **fields: Any) -> dict[str, Any]:
        """Say yes to what an answer of `begin` asked for."""
        return self.ask("approve", [{"id": asked["approval_id"], "by": by} | fields])[0]

    def deny(self, asked: dict[str, Any], by: str = "boss", **fields: Any) -> dict[str, Any]:
        return self.ask("deny", [{"id": asked["approval_id"], "by": by} | fields])[0]

    def peek(self, name: str) -> dict[str, Any]:
        return self.ask("peek", [{"key": key_of(name)}])[0]

    def apply(self, **controls: Any) -> None:
        """Write controls into the ledger: budgets, approvals, switches, rates."""
        self.sql.execute("select spanledger_v1.apply(%s, %s::jsonb, 'ops')", (self.tenant, json.dumps(controls)))

    def budget(self, name: str, limit: int, unit: str = "EUR", **fields: Any) -> None:
        control = {"name": name, "unit": unit, "limit": limit, "match": "*", "operations": None}
        self.apply(budgets=[control | fields])

    def rate(self, source: str, target: str, rate: str, valid_from: str = "2020-01-01T00:00:00Z") -> None:
        self.apply(rates=[{"from_unit": source, "to_unit": target, "rate": rate, "valid_from": valid_from}])

    def top_up(self, budget: str, unit: str, steps: int, scope: dict[str, Any] | None = None) -> bool:
        statement = "select spanledger_v1.top_up(%s, %s, %s, %s, 'ops', %s::jsonb)"
        arguments = (self.tenant, budget, unit, steps, json.dumps(scope or {}))
        return self.sql.execute(statement, arguments).fetchone()[0]

    def balance(self, name: str, **scope: Any) -> tuple[int, int]:
        """Spent and held steps, of a budget that is kept apart those of one scope."""
        query = "select spent_steps, held_steps from spanledger_v1.budgets where tenant = %s and name = %s"
        if not scope:
            return self.sql.execute(query, (self.tenant, name)).fetchone()
        query += " and scope = (%s::jsonb)::text"
        return self.sql.execute(query, (self.tenant, name, json.dumps(scope))).fetchone() or (0, 0)

    def approvals(self, name: str) -> list[dict[str, Any]]:
        """Every request for consent to a call, the oldest first."""
        query = (
            "select to_jsonb(a) from spanledger_v1.approvals a where tenant = %s and key = %s order by requested_at, id"
        )
        return [row for (row,) in self.sql.execute(query, (self.tenant, key_of(name)))]

    def call(self, name: str) -> dict[str, Any]:
        query = "select to_jsonb(c) from spanledger_v1.calls c where tenant = %s and key = %s"
        (row,) = self.sql.execute(query, (self.tenant, key_of(name))).fetchone()
        return row

    def events(self, name: str) -> list[str]:
        query = "select event from spanledger_v1.history where tenant = %s and key = %s order by id"
        return [event for (event,) in self.sql.execute(query, (self.tenant, key_of(name)))]

    def last_event(self, name: str) -> dict[str, Any]:
        query = (
            "select to_jsonb(h) from spanledger_v1.history h where tenant = %s and key = %s order by id desc limit 1"
        )
        return self.sql.execute(query, (self.tenant, key_of(name))).fetchone()[0]

    def prune(self) -> int:
        """Let a hundred days pass for what is over, and remove it; how many calls went with their keys."""
        self.sql.execute(
            # A refusal has no end, and whatever has keeps its start, by which it is converted.
            "update spanledger.call set started_at = case when ended_at is null then started_at - interval '100 days' "
            "else started_at end, ended_at = ended_at - interval '100 days', "
            "pruned_at = pruned_at - interval '100 days' "
            "where tenant = %s and key in (select key from spanledger.over_calls where tenant = %s)",
            (self.tenant, self.tenant),
        )
        self.sql.execute(
            "update spanledger.history set at = at - interval '100 days' where tenant = %s and pruned_at is null",
            (self.tenant,),
        )
        asked = "select spanledger.{}(%s, clock_timestamp() - interval '90 days', {}100) -> 'keys'"
        (keys,) = self.sql.execute(asked.format("prune_calls", "false, "), (self.tenant,)).fetchone()
        self.sql.execute(asked.format("prune_beside_calls", ""), (self.tenant,))
        return keys

    def lease_over(self, name: str) -> None:
        """Let the time pass that a running call is believed alive, or that a probe may take."""
        self.sql.execute(
            "update spanledger.call set lease_until = clock_timestamp(), probe_until = clock_timestamp() "
            "where tenant = %s and key = decode(%s, 'hex')",
            (self.tenant, key_of(name)),
        )

    def windows_ago(self, budget: str, seconds: float) -> None:
        """Let time pass for what was reserved from a budget so far."""
        for shift in (-1e9 - seconds, 1e9):  # far away first: no window may meet another on its way
            self.sql.execute(
                "update spanledger.account set window_start = window_start + make_interval(secs => %s) "
                "where tenant = %s and budget = %s and window_start <> '-infinity'",
                (shift, self.tenant, budget),
            )

    def history(self, event: str) -> list[dict[str, Any]]:
        """The details of everything of this kind that happened."""
        query = "select detail from spanledger_v1.history where tenant = %s and event = %s order by id"
        return [detail for (detail,) in self.sql.execute(query, (self.tenant, event))]

    def answer_due(self, name: str) -> None:
        """Let the time pass in which a person can answer."""
        self.sql.execute(
            "with due as (update spanledger.approval set expires_at = clock_timestamp() "
            "where tenant = %(tenant)s and key = decode(%(key)s, 'hex') and state = 'pending') "
            "update spanledger.call set approval_until = clock_timestamp() "
            "where tenant = %(tenant)s and key = decode(%(key)s, 'hex')",
            {"tenant": self.tenant, "key": key_of(name)},
        )

    def ended_ago(self, name: str, seconds: float) -> None:
        self.sql.execute(
            "update spanledger.call set ended_at = clock_timestamp() - make_interval(secs => %s) "
            "where tenant = %s and key = decode(%s, 'hex')",
            (seconds, self.tenant, key_of(name)),
        )


# the pasts that a call can have


def running(acme: Protocol, **fields: Any) -> dict[str, Any]:
    begun = acme.begin("a", **fields)
    assert begun["verdict"] == "run"
    return begun


def unknown(acme: Protocol, **fields: Any) -> dict[str, Any]:
    begun = running(acme, **fields)
    acme.lease_over("a")
    return begun


def failed(acme: Protocol, **fields: Any) -> dict[str, Any]:
    begun = running(acme, **fields)
    assert acme.fail("a", begun)
    return begun


def succeeded(acme: Protocol, **fields: Any) -> dict[str, Any]:
    begun = running(acme, **fields)
    assert acme.settle("a", begun)
    return begun


def pending(acme: Protocol, **fields: Any) -> dict[str, Any]:
    asked = acme.begin("a", **(ASK | fields))
    assert asked["verdict"] == "awaiting_approval"
    return asked


def approved(acme: Protocol, **fields: Any) -> dict[str, Any]:
    asked = pending(acme, **fields)
    assert acme.approve(asked)["done"]
    return asked


def denied(acme: Protocol, **fields: Any) -> dict[str, Any]:
    asked = pending(acme, **fields)
    assert acme.deny(asked, note="too much")["done"]
    return asked


def expired(acme: Protocol, **fields: Any) -> dict[str, Any]:
    asked = pending(acme, **fields)
    acme.answer_due("a")
    return asked


def cancelled(acme: Protocol, **fields: Any) -> dict[str, Any]:
    asked = pending(acme, **fields)
    assert acme.cancel("a", reason="not today")["done"]
    return asked


def consumed(acme: Protocol, **fields: Any) -> dict[str, Any]:
    """A call that a person allowed, and that runs now."""
    approved(acme, **fields)
    return running(acme, **(ASK | fields))


def until_blocked(sql: psycopg.Connection, pid: int) -> None:
    """Return as soon as a session waits for another."""
    for _ in range(10_000):
        if sql.execute("select cardinality(pg_blocking_pids(%s))", (pid,)).fetchone() != (0,):
            return
    pytest.fail("nobody waited")
