"""Delegations: one sentence each."""

from __future__ import annotations

import hashlib
import uuid
from typing import Any

import psycopg
import pytest
from protocol import CHAT, Protocol, eur, failed, item, key_of, succeeded, unknown
from test_grants import granted

NEEDS = {"permission": "payments:refund", "tool": "refund"}
FAR_S = 3600


def limited(steps: int, unit: str = "EUR") -> dict[str, Any]:
    return {"unit": unit, "steps": steps}


class Delegated(dict[str, Any]):
    """What an item says that acts under a delegation."""

    id: str
    answer: dict[str, Any]


def delegate(acme: Protocol, to_agent: str = "billing", above: Delegated | None = None, **fields: Any) -> Delegated:
    """Pass authority on and say what acts under it; the giver is support, or the agent of what is above."""
    shown = f"shown for {uuid.uuid4()}"
    asked = {
        "id": str(uuid.uuid4()),
        "proof": hashlib.sha256(shown.encode()).hexdigest(),
        "agent": "support" if above is None else above["agent"],
        "to_agent": to_agent,
        "permissions": ["payments:refund"],
        "max": None,
        "expires_in_s": FAR_S,
    }
    if above is not None:
        asked["delegation"] = above["delegation"]
    (answer,) = acme.ask("delegate", [asked | fields])
    made = Delegated(agent=to_agent, delegation={"id": asked["id"], "proof": shown})
    made.id, made.answer = asked["id"], answer
    return made


def expire(acme: Protocol, made: Delegated) -> None:
    """Let it have ended a second ago."""
    acme.sql.execute(
        "update spanledger.delegation set expires_at = clock_timestamp() - interval '1 s' "
        "where tenant = %s and id = %s",
        (acme.tenant, made.id),
    )


def revoke(acme: Protocol, made: Delegated) -> None:
    acme.sql.execute("select spanledger_v1.revoke_delegation(%s, %s, 'ops', 'leaked')", (acme.tenant, made.id))


def pool(acme: Protocol, made: Delegated) -> tuple[int, int, int]:
    """Limit, spent and held steps of what a delegation may spend."""
    query = "select limit_steps, spent_steps, held_steps from spanledger_v1.delegations where tenant = %s and id = %s"
    return acme.sql.execute(query, (acme.tenant, made.id)).fetchone()


@pytest.fixture
def support(acme: Protocol) -> Protocol:
    """A ledger in which support may do everything with payments, and nobody else anything."""
    granted(acme, "payments:*", agent="support")
    return acme


def test_an_agent_may_do_by_delegation_what_it_may_not_by_itself(support: Protocol) -> None:
    made = delegate(support)

    assert support.begin("own", **NEEDS, agent="billing")["verdict"] == "unauthorized"
    begun = support.begin("a", **NEEDS, **made)
    assert begun["verdict"] == "run"
    assert begun["grants"] == [
        {"permission": "payments:refund", "grant": "payments:* to agent support", "version": 1, "delegation": made.id}
    ]
    assert support.call("a")["delegation"] == made.id
    assert support.begin("a", **NEEDS, **made, attempt_id=begun["attempt_id"])["again"]


def test_the_answer_shows_the_chain_and_nobody_can_read_what_a_bearer_shows(support: Protocol) -> None:
    made = delegate(support, permissions=["payments:*"], actor="u_42", max=limited(100))
    below = delegate(support, "refunds", made, actor="u_42", max=limited(40))

    assert below.answer["chain"] == [made.id, below.id]
    assert below.answer["agents"] == ["support", "billing", "refunds"]
    assert (below.answer["actor"], below.answer["permissions"]) == ("u_42", ["payments:refund"])
    assert below.answer["max"] == limited(40)
    rows = support.sql.execute("select to_jsonb(d)::text from spanledger_v1.delegations d").fetchall()
    kept = support.sql.execute("select h.detail::text from spanledger_v1.history h").fetchall()
    shown = [made["delegation"]["proof"], below["delegation"]["proof"]]
    shown += [hashlib.sha256(text.encode()).hexdigest() for text in shown]
    assert not [text for (text,) in rows + kept if any(one in text for one in shown)]


def test_asked_again_because_the_answer_was_lost_it_is_made_once(support: Protocol) -> None:
    asked = {"id": str(uuid.uuid4()), "proof": key_of("x"), "agent": "support", "to_agent": "billing"}
    asked |= {"permissions": ["payments:refund"], "max": limited(10), "expires_in_s": FAR_S}
    answers = [support.ask("delegate", [asked])[0] for _ in range(2)]

    assert answers[0] == answers[1]
    assert len(support.history("delegated")) == 1


@pytest.mark.parametrize(
    ("permissions", "reason"),
    [
        (["payments:payout"], "payments:payout:"),
        (["*"], "*:"),
        (["payments:*"], "payments:*:"),
        (["payments:refund", "mail:send"], "mail:send:"),
    ],
)
def test_what_was_delegated_is_passed_on_no_wider(support: Protocol, permissions: list[str], reason: str) -> None:
    made = delegate(support)
    refused = delegate(support, "refunds", made, permissions=permissions)

    assert set(refused.answer) == {"reason"}
    assert refused.answer["reason"].startswith(f"{reason} delegation {made.id[:8]} to agent billing has only")
    assert support.begin("a", **NEEDS, **refused)["reason"] == "the ledger knows of no such delegation"


@pytest.mark.parametrize("permissions", [["*"], ["mail:send"], ["payments:refund", "mail:*"]])
def test_nobody_passes_on_what_is_not_granted_to_them(support: Protocol, permissions: list[str]) -> None:
    assert "nobody has granted it" in delegate(support, permissions=permissions).answer["reason"]
    assert support.history("not_delegated")[0]["to_agent"] == "billing"


def test_whoever_lost_a_grant_has_passed_nothing_on(support: Protocol) -> None:
    made = delegate(support)
    granted(support, "payments:*", agent="support", revoked=True)

    refused = support.begin("a", **NEEDS, **made)
    assert (refused["verdict"], refused["reason"]) == (
        "unauthorized",
        "who delegated it, agent support, may not: the grant of payments:* to agent support was revoked",
    )


def test_a_denial_to_the_giver_or_to_the_agent_itself_counts_under_a_delegation(support: Protocol) -> None:
    made = delegate(support, permissions=["payments:*"])
    granted(support, "payments:payout", agent="support", allowed=False, reason="not support")
    granted(support, "payments:refund", agent="billing", allowed=False, reason="billing must not")

    payout = support.begin("a", **made, permission="payments:payout", tool="payout")
    assert (payout["verdict"], "not support" in payout["reason"]) == ("unauthorized", True)
    assert support.begin("b", **NEEDS, **made)["reason"] == "billing must not"


def test_a_call_beyond_what_was_delegated_is_refused_also_where_its_giver_may(support: Protocol) -> None:
    made = delegate(support)
    refused = support.begin("a", **made, permission="payments:payout")

    assert (refused["verdict"], refused["permission"]) == ("unauthorized", "payments:payout")
    assert refused["reason"].endswith("to agent billing has only payments:refund")
    assert support.call("a")["delegation"] == support.call("a")["refusal"]["delegation"] == made.id


@pytest.mark.parametrize("lost", [expire, revoke])
@pytest.mark.parametrize("which", [0, 1, 2])
def test_what_is_over_anywhere_in_the_chain_is_over_for_all_below(support: Protocol, lost: Any, which: int) -> None:
    first = delegate(support)
    second = delegate(support, "refunds", first)
    third = delegate(support, "cards", second)
    lost(support, (first, second, third)[which])

    said = {expire: "has expired", revoke: "was revoked by ops: leaked"}[lost]
    verdicts = []
    for n, made in enumerate((first, second, third)):
        answer = support.begin(f"call {n}", **NEEDS, **made)
        verdicts.append(answer["verdict"])
        assert answer["verdict"] == "run" or said in answer["reason"]
    assert verdicts == ["run"] * which + ["unauthorized"] * (3 - which)
    assert said in delegate(support, "more", third).answer["reason"]


def test_it_ends_no_later_than_what_it_comes_from(support: Protocol) -> None:
    made = delegate(support, expires_in_s=60)
    assert delegate(support, "refunds", made).answer["expires_at_s"] == made.answer["expires_at_s"]
    assert delegate(support, "refunds", made, expires_in_s=5).answer["expires_at_s"] < made.answer["expires_at_s"]


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"agent": "sales"}, "is not for agent sales"),
        ({"agent": None}, "is not for an agent without a name"),
        ({"actor": "u_43"}, "is for u_42, and not for u_43"),
        ({"actor": None}, "is for u_42, and not for nobody"),
    ],
)
def test_it_is_for_one_agent_and_one_actor(support: Protocol, changed: dict[str, Any], reason: str) -> None:
    made = delegate(support, actor="u_42")

    assert support.begin("a", **NEEDS, **made, actor="u_42")["verdict"] == "run"
    assert support.begin("b", **(NEEDS | made | {"actor": "u_42"} | changed))["reason"].endswith(reason)
    assert delegate(support, "refunds", made, **changed).answer["reason"].endswith(reason)


def test_a_wrong_proof_and_another_tenant_s_delegation_are_no_delegation(support: Protocol, other: Protocol) -> None:
    made = delegate(support)
    granted(other, "*")
    forged = Delegated(made, delegation=made["delegation"] | {"proof": "guessed"})

    for ledger, used in ((support, forged), (other, made)):
        answer = ledger.begin("a", **NEEDS, **used)
        assert (answer["verdict"], answer["reason"]) == ("unauthorized", "the ledger knows of no such delegation")
    assert delegate(support, "refunds", forged).answer["reason"] == "the ledger knows of no such delegation"


def test_a_call_that_needs_no_permission_runs_under_a_delegation_only_while_that_is_in_force(support: Protocol) -> None:
    made = delegate(support)
    assert support.begin("a", **made, **CHAT)["verdict"] == "run"
    revoke(support, made)
    assert support.begin("b", **(made | CHAT))["verdict"] == "unauthorized"


@pytest.mark.parametrize("past", [succeeded, failed, unknown])
def test_who_may_not_act_is_told_nothing_of_what_was_recorded(support: Protocol, past: Any) -> None:
    made = delegate(support)
    past(support, **NEEDS, **made)
    state = support.call("a")["state"]
    revoke(support, made)

    answer = support.begin("a", **NEEDS, **made, on_unknown="retry")
    assert answer["verdict"] == "unauthorized"
    assert "result" not in answer
    assert support.call("a")["state"] == state
    assert support.last_event("a")["event"] == "refused"


def test_who_was_not_given_a_permission_is_not_given_the_result_of_what_needs_it(support: Protocol) -> None:
    succeeded(support, **NEEDS, agent="support")
    made = delegate(support, permissions=["payments:payout"])

    answer = support.begin("a", **NEEDS, **made)
    assert (answer["verdict"], "result" in answer) == ("unauthorized", False)
    assert support.call("a")["state"] == "succeeded"


def test_a_replay_is_given_under_a_delegation_that_is_in_force(support: Protocol) -> None:
    made = delegate(support)
    succeeded(support, **NEEDS, **made)
    assert support.begin("a", **NEEDS, **made)["verdict"] == "replay"


def test_all_that_is_below_spends_from_the_same_pool(support: Protocol) -> None:
    made = delegate(support, max=limited(100))
    left, right = delegate(support, "left", made), delegate(support, "right", made, max=limited(70))

    first = support.begin("a", **NEEDS, **left, **eur(60))
    assert first["verdict"] == "run"
    assert (pool(support, made), pool(support, right)) == ((100, 0, 60), (70, 0, 0))
    refused = support.begin("b", **NEEDS, **right, **eur(50))
    assert (refused["verdict"], refused["remaining"], refused["budget"]) == ("budget_exceeded", 40, "delegated EUR")
    support.settle("a", first, cost={"EUR": 20})
    assert support.begin("b", **NEEDS, **right, **eur(50))["verdict"] == "run"
    assert (pool(support, made), pool(support, right)) == ((100, 20, 50), (70, 0, 50))
    assert support.begin("c", **NEEDS, **right, **eur(25))["verdict"] == "budget_exceeded"
    assert support.call("c")["delegation"] == right.id


def test_a_failure_gives_back_what_it_held_of_every_pool_and_budget(support: Protocol) -> None:
    support.budget("all", 500)
    made = delegate(support, max=limited(100))
    below = delegate(support, "left", made, max=limited(100))
    begun = support.begin("a", **NEEDS, **below, **eur(60))

    assert (pool(support, made), pool(support, below), support.balance("all")) == ((100, 0, 60), (100, 0, 60), (0, 60))
    support.fail("a", begun)
    assert (pool(support, made), pool(support, below), support.balance("all")) == ((100, 0, 0), (100, 0, 0), (0, 0))


def test_a_retry_after_an_unknown_outcome_holds_its_amount_once(support: Protocol) -> None:
    made = delegate(support, max=limited(100))
    unknown(support, **NEEDS, **made, **eur(80))

    assert support.begin("a", **NEEDS, **made, **eur(80), on_unknown="retry")["verdict"] == "run"
    assert pool(support, made) == (100, 0, 80)


def test_another_currency_is_converted_and_one_without_a_rate_refused(support: Protocol) -> None:
    support.rate("USD", "EUR", "0.5")
    made = delegate(support, max=limited(100))

    assert support.begin("a", **NEEDS, **made, reserve={"USD": 100})["verdict"] == "run"
    assert pool(support, made) == (100, 0, 50)
    refused = support.begin("b", **NEEDS, **made, reserve={"CHF": 1})
    assert (refused["verdict"], "nobody can tell" in refused["reason"]) == ("unauthorized", True)


def test_what_needs_a_permission_and_does_not_say_what_it_costs_is_refused_where_that_is_limited(
    support: Protocol,
) -> None:
    made = delegate(support, max=limited(100))

    assert "nobody can tell" in support.begin("a", **NEEDS, **made, reserve={"calls": 1})["reason"]
    assert support.begin("b", **made, **CHAT)["verdict"] == "run"


def test_calls_can_be_delegated_by_number(support: Protocol) -> None:
    made = delegate(support, max=limited(2, "calls"))

    verdicts = [support.begin(name, **NEEDS, **made)["verdict"] for name in "abc"]
    assert verdicts == ["run", "run", "budget_exceeded"]


def test_a_child_may_not_spend_more_than_its_parent(support: Protocol) -> None:
    made = delegate(support, max=limited(100))
    assert "may spend more than delegation" in delegate(support, "left", made, max=limited(101)).answer["reason"]


def test_it_is_passed_on_seven_times_and_no_more(support: Protocol) -> None:
    made = delegate(support)
    for n in range(7):
        made = delegate(support, f"agent {n}", made)
        assert "reason" not in made.answer
    assert "more than 8 times" in delegate(support, "last", made).answer["reason"]


def test_in_a_batch_each_call_acts_under_its_own_delegation(support: Protocol) -> None:
    made, ended = delegate(support, max=limited(100)), delegate(support)
    revoke(support, ended)
    asked = [
        item("a", **NEEDS, **made, **eur(60)),
        item("b", **NEEDS, **ended),
        item("c", **NEEDS, **made, **eur(60)),
        item("d", **NEEDS, agent="support"),
        item("e", **NEEDS, agent="billing"),
        item("f"),
    ]
    verdicts = [answer["verdict"] for answer in support.ask("begin", asked)]
    assert verdicts == ["run", "unauthorized", "budget_exceeded", "run", "unauthorized", "run"]
    assert [support.call(name)["delegation"] for name in "abcdef"] == [made.id, ended.id, made.id, None, None, None]


def test_an_attempt_under_another_authority_does_not_keep_the_old_one(support: Protocol) -> None:
    made = delegate(support)
    failed(support, **NEEDS, **made)
    assert support.begin("a", **NEEDS, agent="support")["verdict"] == "run"
    assert support.call("a")["delegation"] is None
    assert support.last_event("a")["detail"]["delegation"] == made.id


def test_a_question_is_answered_under_the_delegation(support: Protocol) -> None:
    made = delegate(support)

    def asked(permission: str) -> dict[str, Any]:
        return support.ask("authorize", [{"id": str(uuid.uuid4()), "permission": permission, "reserve": {}} | made])[0]

    assert "reason" not in asked("payments:refund")
    assert asked("payments:payout")["reason"].endswith("has only payments:refund")
    (grant,) = support.ask("permissions", [made])[0]
    assert (grant["permission"], grant["agent"]) == ("payments:*", "support")
    revoke(support, made)
    assert "was revoked" in asked("payments:refund")["reason"]
    assert support.ask("permissions", [made]) == [[]]


def test_a_request_for_approval_counts_for_whoever_acts_by_delegation(acme: Protocol) -> None:
    granted(acme, "payments:*", agent="support", approval=True)
    made = delegate(acme)

    asked = acme.begin("a", **NEEDS, **made)
    assert asked["verdict"] == "awaiting_approval"
    acme.approve(asked)
    revoke(acme, made)
    assert acme.begin("a", **NEEDS, **made)["verdict"] == "unauthorized"
    assert acme.call("a")["state"] == "approved"


def test_budgets_do_not_list_pools_and_take_no_pool_s_name(support: Protocol) -> None:
    delegate(support, max=limited(100))
    query = "select count(*) from spanledger_v1.budgets where tenant = %s"
    assert support.sql.execute(query, (support.tenant,)).fetchone() == (0,)
    with pytest.raises(psycopg.Error, match="where what is delegated is kept"):
        support.budget("delegated EUR", 5)


def test_no_delegation_stands_in_for_a_budget_of_that_name(support: Protocol) -> None:
    support.budget("delegated EUR", 5)
    with pytest.raises(psycopg.Error, match="give it another name"):
        delegate(support, max=limited(100))


def test_what_ran_beyond_what_a_delegation_may_spend_is_spent_of_every_delegation_above_it(support: Protocol) -> None:
    made = delegate(support, permissions=["payments:*"], max=limited(100))
    below = delegate(support, "refunds", made, max=limited(40))
    begun = support.begin("a", **NEEDS, **below, **eur(60))
    assert begun["verdict"] != "run"

    for _ in range(2):
        assert support.settle("a", begun)
        assert (pool(support, made), pool(support, below)) == ((100, 60, 0), (40, 60, 0))
