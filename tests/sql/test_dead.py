"""Calls whose worker is gone: one sentence each."""

from __future__ import annotations

import psycopg
import pytest
from protocol import CHAT, Protocol, eur, item, key_of


def begun(acme: Protocol, name: str, **fields) -> dict:
    answer = acme.begin(name, **fields)
    assert answer["verdict"] == "run"
    return answer


def dead(acme: Protocol, name: str, **fields) -> dict:
    answer = begun(acme, name, **fields)
    acme.lease_over(name)
    return answer


def renew(acme: Protocol, *items: dict) -> None:
    acme.sql.execute(
        "select spanledger_v1.renew(%s, %s::jsonb)", (acme.tenant, psycopg.types.json.Json({"items": items}))
    )


def state(acme: Protocol, name: str) -> str:
    """As it is written, not as it shows."""
    query = "select state from spanledger.call where tenant = %s and key = decode(%s, 'hex')"
    return acme.sql.execute(query, (acme.tenant, key_of(name))).fetchone()[0]


def test_a_dead_model_call_gives_way_to_who_needs_what_it_holds(acme: Protocol) -> None:
    acme.budget("eur", 100)
    dead(acme, "a", **CHAT, **eur(60))
    assert begun(acme, "b", **eur(100))["budgets"][0]["remaining"] == 0
    assert (acme.call("a")["state"], acme.call("a")["error"]["type"]) == ("failed", "lost")
    assert (acme.events("a"), acme.balance("eur")) == (["lease_over"], (0, 100))


def test_a_dead_tool_keeps_what_it_holds_and_its_outcome_is_unknown(acme: Protocol) -> None:
    acme.budget("eur", 100)
    dead(acme, "a", **eur(60))
    assert acme.begin("b", **eur(41))["verdict"] == "budget_exceeded"
    assert (state(acme, "a"), acme.events("a"), acme.balance("eur")) == ("unknown", ["lease_over"], (0, 60))


def test_nobody_looks_for_the_dead_while_there_is_enough(acme: Protocol) -> None:
    acme.budget("eur", 100)
    dead(acme, "a", **CHAT, **eur(60))
    begun(acme, "b", **eur(40))
    assert (state(acme, "a"), acme.balance("eur")) == ("in_flight", (0, 100))


def test_the_living_keep_what_they_hold(acme: Protocol) -> None:
    acme.budget("eur", 100)
    begun(acme, "a", **CHAT, **eur(60))
    assert acme.begin("b", **eur(41))["verdict"] == "budget_exceeded"
    assert (state(acme, "a"), acme.balance("eur")) == ("in_flight", (0, 60))


def test_a_dead_call_that_holds_from_other_budgets_too_is_left_to_who_can_take_those(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.budget("gpt", 100, match="gpt")
    dead(acme, "a", **CHAT, **eur(60))
    assert acme.begin("b", **eur(41))["verdict"] == "budget_exceeded"
    assert state(acme, "a") == "in_flight"
    assert acme.begin("b", **(CHAT | eur(41)))["verdict"] == "run"
    assert (acme.balance("eur"), acme.balance("gpt")) == ((0, 41), (0, 41))


def test_the_dead_of_other_scopes_and_tenants_are_left_alone(acme: Protocol, other: Protocol) -> None:
    for tenant in (acme, other):
        tenant.budget("eur", 100, per=["actor"])
    dead(acme, "a", **CHAT, **eur(60), actor="u")
    dead(other, "a", **CHAT, **eur(60), actor="v")
    assert acme.begin("b", **eur(101), actor="v")["verdict"] == "budget_exceeded"
    assert (state(acme, "a"), state(other, "a")) == ("in_flight", "in_flight")


def test_the_dead_of_older_slices_of_a_rolling_window_give_way_too(acme: Protocol) -> None:
    acme.budget("eur", 100, window="rolling", window_s=60)
    dead(acme, "a", **CHAT, **eur(60))
    acme.windows_ago("eur", 30.5)
    begun(acme, "b", **eur(100))
    assert (state(acme, "a"), acme.balance("eur")) == ("failed", (0, 100))


def test_what_somebody_has_locked_is_not_waited_for(shared_dsn: str, acme: Protocol) -> None:
    acme.budget("eur", 100, window="rolling", window_s=60)
    for name in ("a", "b"):
        dead(acme, name, **CHAT, **eur(50))
        acme.windows_ago("eur", 10.5)
    acme.sql.execute("set statement_timeout = '5s'")
    with psycopg.connect(shared_dsn) as busy:
        busy.execute("select from spanledger.call where key = decode(%s, 'hex') for update", (key_of("a"),))
        renew(acme)
        assert (state(acme, "a"), state(acme, "b")) == ("in_flight", "failed")
        assert begun(acme, "c", **eur(50))
    with psycopg.connect(shared_dsn) as busy:
        busy.execute(
            "select from spanledger.account where tenant = %s and held = 50 order by id limit 1 for update",
            (acme.tenant,),
        )
        assert acme.begin("d", **eur(50))["verdict"] == "budget_exceeded"
    assert begun(acme, "d", **eur(50))
    assert acme.balance("eur") == (0, 100)


def test_in_a_batch_each_sees_what_the_dead_gave_back_for_the_others(acme: Protocol) -> None:
    acme.budget("eur", 100)
    dead(acme, "a", **CHAT, **eur(60))
    dead(acme, "b", **eur(10))
    answers = acme.ask(
        "begin", [item(name, **eur(amount)) for name, amount in (("c", 20), ("d", 50), ("e", 30), ("f", 20))]
    )
    assert [answer["verdict"] for answer in answers] == ["run", "run", "budget_exceeded", "run"]
    assert acme.balance("eur") == (0, 100)


def test_a_bounded_number_of_the_dead_is_taken_at_a_time(acme: Protocol) -> None:
    acme.budget("eur", 100)
    for n in range(25):
        dead(acme, f"call {n}", **CHAT, **eur(4))
    assert acme.begin("b", **eur(81))["verdict"] == "budget_exceeded"
    assert acme.balance("eur") == (0, 20)
    assert begun(acme, "b", **eur(100))


def test_who_lives_looks_for_dead_model_calls(acme: Protocol, other: Protocol) -> None:
    for tenant in (acme, other):
        tenant.budget("eur", 100)
        dead(tenant, "a", **CHAT, **eur(60))
        dead(tenant, "b", **eur(30))
    renew(acme)
    assert (state(acme, "a"), state(acme, "b"), acme.balance("eur")) == ("failed", "in_flight", (0, 30))
    assert state(other, "a") == "in_flight"


def test_a_sign_of_life_keeps_a_call_alive_even_after_its_lease(acme: Protocol) -> None:
    acme.budget("eur", 100)
    answer = dead(acme, "a", **CHAT, **eur(60))
    renew(acme, {"key": key_of("a"), "attempt_id": answer["attempt_id"], "lease_s": 60})
    assert acme.begin("b", **eur(41))["verdict"] == "budget_exceeded"
    assert (state(acme, "a"), acme.begin("a")["verdict"]) == ("in_flight", "in_progress")


def test_a_sign_of_life_of_what_was_taken_for_dead_changes_nothing(acme: Protocol) -> None:
    answer = dead(acme, "a", **CHAT)
    renew(acme)
    renew(acme, {"key": key_of("a"), "attempt_id": answer["attempt_id"], "lease_s": 60})
    assert state(acme, "a") == "failed"


@pytest.mark.parametrize("operation", ["chat", "execute_tool"])
def test_what_was_taken_for_dead_and_succeeded_is_the_truth_and_spent(acme: Protocol, operation) -> None:
    acme.budget("eur", 100)
    answer = dead(acme, "a", operation=operation, **eur(60))
    acme.begin("b", **eur(101))
    assert acme.settle("a", answer, cost={"EUR": 50})
    assert (acme.call("a")["state"], acme.balance("eur")) == ("succeeded", (50, 0))


def test_a_lost_model_call_may_be_asked_again(acme: Protocol) -> None:
    dead(acme, "a", **CHAT)
    renew(acme)
    assert begun(acme, "a", **CHAT)["attempts"] == 2
