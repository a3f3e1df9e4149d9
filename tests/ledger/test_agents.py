"""Agents: known when they are first heard of, at any number of places at once, and at no cost to the calls."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from spanledger import AsyncLedger, Config, Grant, Ledger, Money, ToolCall, errors
from spanledger.ledger import _sightings


def call(n: int, **fields: object) -> ToolCall:
    return ToolCall("pay", {"n": n}, workflow_id="w", cost=Money(1, "EUR"), **fields)  # type: ignore[arg-type]


def names(ledger: Ledger) -> list[str]:
    return [row["name"] for row in ledger.agents()]


def test_an_agent_is_known_after_its_first_call_and_told_once(ledger, ledger_with, sql):
    with ledger_with() as first:
        for n in range(3):
            first.run(call(n, agent="support"), lambda: "paid")
    with ledger_with() as second:
        second.run(call(7, agent="support"), lambda: "paid")
        assert second._database.trail._rounds == {}  # there was nothing to tell

    assert names(ledger) == ["support"]


def test_the_agent_of_the_configuration_is_known_as_well_and_that_of_async_calls(dsn, ledger):
    with Ledger(config=Config(dsn=dsn, agent="clerk")) as one:
        one.run(call(1), lambda: "paid")

    async def run() -> None:
        async with AsyncLedger(config=Config(dsn=dsn)) as other:
            for n in range(2):
                await other.run(call(n, agent="sales"), lambda: "paid")
            assert (await other.agent("clerk") or {})["spent"]["cost"] == {"EUR": 1_000_000}

    asyncio.run(run())
    assert names(ledger) == ["clerk", "sales"]


def test_tenants_have_agents_of_their_own(ledger, ledger_with):
    with ledger_with(tenant="acme") as acme:
        acme.run(call(1, agent="support"), lambda: "paid")

    assert names(ledger) == []
    assert [row["name"] for row in ledger.agents(tenant="acme")] == ["support"]


def test_of_many_that_register_one_agent_at_once_it_is_there_once(ledger_with, ledger, sql):
    ledgers = [ledger_with() for _ in range(8)]
    start, found = threading.Barrier(8), []

    def register(one: Ledger) -> None:
        start.wait()
        found.append(one.get_or_create_agent("support"))

    threads = [threading.Thread(target=register, args=(one,)) for one in ledgers]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 8
    assert all(row == found[0] for row in found)
    assert names(ledger) == ["support"]


def test_what_an_agent_is_for_is_said_and_changed_and_not_lost(ledger):
    assert ledger.get_or_create_agent("support", description="answers mail")["description"] == "answers mail"
    assert ledger.get_or_create_agent("support")["description"] == "answers mail"
    assert ledger.get_or_create_agent("support", description="answers calls")["description"] == "answers calls"


@pytest.mark.parametrize("name", ["", None, 7, "a\0b"], ids=repr)
def test_a_name_that_is_none_is_refused(ledger, name):
    with pytest.raises(errors.ConfigError, match="an agent's name"):
        ledger.get_or_create_agent(name)


def test_an_agent_shows_what_it_spent_and_may(ledger, ledger_with):
    ledger.apply(Config(grants=[Grant("payments:*", agent="support"), Grant("mail", agent="sales")]))
    with ledger_with() as one:
        for n in range(3):
            begun = one.begin(call(n, agent="support"))
            one.settle(begun, "paid", cost=Money(2, "EUR"))
        one.fail(one.begin(call(4, agent="support")), ValueError("no"))
        one.run(call(5), lambda: "by nobody")

    agent = ledger.agent("support")
    assert (agent["granted"], agent["sessions"]) == (["payments:*"], 0)
    assert (agent["spent"]["calls"], agent["spent"]["failed_calls"], agent["spent"]["cost"]) == (
        4,
        1,
        {"EUR": 6_000_000},
    )
    assert ledger.agent("sales") is None  # a grant alone is no sight of it
    assert [(row["agent"], row["calls"]) for row in ledger.spending()] == [("support", 4), (None, 1)]


def test_an_agent_that_a_ledger_cannot_be_told_of_costs_its_call_nothing(ledger_with, sql, ledger):
    sql.execute("alter table spanledger.agent rename to agent_gone")
    with ledger_with() as one:
        assert one.run(call(1, agent="support"), lambda: "paid") == "paid"
    sql.execute("alter table spanledger.agent_gone rename to agent")
    assert names(ledger) == []


def test_many_agents_do_not_fill_the_memory_of_a_process(monkeypatch, ledger_with: Callable[..., Ledger], ledger):
    monkeypatch.setattr(_sightings, "SEEN_MAX", 3)
    with ledger_with() as one:
        for n in range(8):
            one.run(call(n, agent=f"agent-{n}"), lambda: "paid")
        assert len(_sightings._seen) <= 3

    assert len(names(ledger)) == 8
