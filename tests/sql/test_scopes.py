"""Budgets that are kept apart by actor, agent, workflow, tool or model: one sentence each."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest
from protocol import CHAT, Protocol, eur, item, key_of

WHO = {"actor": "u_42", "agent": "support", "workflow": "order-1", "workflow_id": "order-1/turn-3"}


@pytest.mark.parametrize(
    ("per", "scope", "same", "another"),
    [
        (["actor"], {"actor": "u_42"}, {"agent": "other"}, {"actor": "u_43"}),
        (["agent"], {"agent": "support"}, {"actor": "u_43"}, {"agent": "other"}),
        (["workflow"], {"workflow": "order-1"}, {"workflow_id": "order-1/turn-4"}, {"workflow": "order-2"}),
        (["tool"], {"tool": "refund"}, {"actor": "u_43"}, {"tool": "mail"}),
        (["actor", "tool"], {"tool": "refund", "actor": "u_42"}, {"agent": "x"}, {"tool": "mail"}),
        (["actor"], {"actor": "u_42"}, CHAT, {"actor": None}),
        (["actor"], {"actor": "u_42"}, {}, {"actor": ""}),
        (["model"], {"model": None}, {"tool": "mail"}, CHAT),
        (["tool"], {"tool": "refund"}, {}, CHAT),
    ],
)
def test_each_scope_has_the_whole_limit(acme: Protocol, per, scope, same, another) -> None:
    acme.budget("eur", 100, per=per)
    assert acme.begin("a", **WHO, **eur(60))["verdict"] == "run"
    refused = acme.begin("b", **(WHO | eur(41) | same))
    assert (refused["verdict"], refused["held"]) == ("budget_exceeded", 60)
    assert acme.begin("c", **(WHO | eur(100) | another))["verdict"] == "run"
    assert acme.balance("eur", **scope) == (0, 60)


@pytest.mark.parametrize("missing", [{}, {"actor": None}])
def test_calls_of_nobody_in_particular_share_an_account(acme: Protocol, missing) -> None:
    acme.budget("eur", 100, per=["actor"])
    acme.begin("a", **eur(60), actor=None)
    assert acme.begin("b", **eur(41), **missing)["verdict"] == "budget_exceeded"
    assert acme.balance("eur", actor=None) == (0, 60)


def test_a_call_without_a_workflow_of_its_own_belongs_to_its_scope(acme: Protocol) -> None:
    acme.budget("eur", 100, per=["workflow"])
    acme.begin("a", **eur(60), workflow_id="w")
    assert acme.balance("eur", workflow="w") == (0, 60)


@pytest.mark.parametrize("nowhere", [{}, {"workflow": None}, {"workflow": ""}])
def test_calls_of_no_workflow_share_an_account_however_that_is_said(acme: Protocol, nowhere) -> None:
    acme.budget("eur", 100, per=["workflow"])
    assert acme.begin("a", **eur(60), workflow=None, workflow_id="")["verdict"] == "run"
    assert acme.begin("b", **eur(41), workflow_id="", **nowhere)["verdict"] == "budget_exceeded"
    assert acme.balance("eur", workflow=None) == (0, 60)


def test_answers_say_whose_budget_it_is(acme: Protocol) -> None:
    acme.budget("eur", 100, per=["tool", "actor"])
    begun = acme.begin("a", **eur(60), actor="u")
    refused = acme.begin("b", **eur(60), actor="u")
    assert begun["budgets"][0]["scope"] == refused["scope"] == '{"tool": "refund", "actor": "u"}'


def test_a_top_up_is_for_one_scope(acme: Protocol) -> None:
    acme.budget("eur", 100, per=["tool", "actor"])
    assert acme.top_up("eur", "EUR", 50, {"actor": "u", "tool": "refund"})
    assert acme.begin("a", **eur(150), actor="u")["verdict"] == "run"
    assert acme.begin("b", **eur(101), actor="v")["verdict"] == "budget_exceeded"


@pytest.mark.parametrize("scope", [{}, {"actor": "u"}, {"actor": "u", "tool": "refund", "agent": "x"}])
def test_a_top_up_of_a_budget_that_is_kept_apart_has_to_say_whose(acme: Protocol, scope) -> None:
    acme.budget("eur", 100, per=["actor", "tool"])
    with pytest.raises(psycopg.Error, match="kept apart by actor, tool") as caught:
        acme.top_up("eur", "EUR", 50, scope)
    assert caught.value.sqlstate == "SL001"


def test_an_overrun_says_whose_it_was(acme: Protocol) -> None:
    acme.budget("eur", 100, per=["actor"])
    acme.settle("a", acme.begin("a", **eur(60), actor="u"), cost={"EUR": 101})
    (overrun,) = acme.history("overrun")
    assert (overrun["scope"], overrun["spent"]) == ('{"actor": "u"}', 101)


def test_several_budgets_admit_a_call_together_and_the_first_by_name_refuses_it(acme: Protocol) -> None:
    acme.budget("c-total", 100)
    acme.budget("b-actor", 50, per=["actor"], window="day")
    acme.budget("a-rolling", 80, window="rolling", window_s=60)
    refused = acme.begin("a", **eur(101), actor="u")
    assert refused["budget"] == "a-rolling"
    refused = acme.begin("b", **eur(60), actor="u")
    assert refused["budget"] == "b-actor"
    assert acme.balance("c-total") == acme.balance("a-rolling") == acme.balance("b-actor", actor="u") == (0, 0)
    begun = acme.begin("c", **eur(50), actor="u")
    assert [budget["name"] for budget in begun["budgets"]] == ["a-rolling", "b-actor", "c-total"]
    assert acme.balance("c-total") == acme.balance("a-rolling") == acme.balance("b-actor", actor="u") == (0, 50)


def test_one_batch_opens_the_accounts_of_many(acme: Protocol) -> None:
    acme.budget("eur", 100, per=["actor"])
    answers = acme.ask("begin", [item(f"call {n}", **eur(60), actor=f"u_{n % 3}") for n in range(5)])
    verdicts = [answer["verdict"] for answer in answers]
    assert verdicts == ["run", "run", "run", "budget_exceeded", "budget_exceeded"]


def test_accounts_that_many_open_at_once_are_opened_once_and_nobody_waits_in_a_circle(shared_dsn, acme) -> None:
    for name in ("one", "two", "three"):
        acme.budget(name, 10**9, per=["actor"], window="rolling", window_s=1)
    together = threading.Barrier(4)

    def worker(number: int) -> list[str]:
        actors = [f"u_{n}" for n in range(6)]
        verdicts = []
        with psycopg.connect(shared_dsn, autocommit=True) as connection:
            connection.execute("set deadlock_timeout = '20ms'")
            protocol = Protocol(connection, acme.tenant)
            for turn in range(10):
                together.wait(30)
                order = actors[number:] + actors[:number]
                names = [f"{turn} {number} {actor}" for actor in order]
                asked = [item(name, **eur(1), actor=actor) for name, actor in zip(names, order, strict=True)]
                verdicts += [answer["verdict"] for answer in protocol.ask("begin", asked)]
        return verdicts

    with ThreadPoolExecutor(4) as pool:
        verdicts = [verdict for answers in pool.map(worker, range(4)) for verdict in answers]
    assert verdicts == ["run"] * 240


def test_of_a_thousand_calls_at_once_exactly_those_run_that_the_budget_pays_for(shared_dsn, acme) -> None:
    acme.budget("eur", 5_000_000)

    def worker(number: int) -> int:
        with psycopg.connect(shared_dsn, autocommit=True) as connection:
            protocol = Protocol(connection, acme.tenant)
            ran = 0
            for batch in range(10):
                asked = [item(f"{number} {batch} {n}", **eur(100_000)) for n in range(25)]
                answers = protocol.ask("begin", asked)
                mine = [a["attempt_id"] for a, b in zip(asked, answers, strict=True) if b["verdict"] == "run"]
                settled = [
                    {"key": a["key"], "attempt_id": a["attempt_id"], "cost": {"EUR": 100_000}}
                    for a in asked
                    if a["attempt_id"] in mine
                ]
                protocol.ask("settle", settled)
                ran += len(mine)
            return ran

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(worker, range(4))) == 50
    assert acme.balance("eur") == (5_000_000, 0)
    count = "select count(*) from spanledger.call where tenant = %s and state = 'refused'"
    assert acme.sql.execute(count, (acme.tenant,)).fetchone() == (950,)


def test_a_key_is_decided_whole_whoever_asks(acme: Protocol) -> None:
    # The scope is no part of a call's identity: who begins the same call is told of the same one.
    acme.budget("eur", 100, per=["actor"])
    acme.settle("a", acme.begin("a", **eur(60), actor="u"))
    assert acme.begin("a", **eur(60), actor="v")["verdict"] == "replay"
    assert acme.call("a")["key"] == key_of("a")
