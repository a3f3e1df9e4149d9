"""Permission: one sentence each."""

from __future__ import annotations

import datetime as dt
import uuid
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from protocol import ASK, CHAT, RETRY, Protocol, eur, item, succeeded, unknown

from spanledger.core.grants import permitted

NEEDS = {"permission": "payments:refund"}


def granted(ledger: Protocol, permission: str = "payments:refund", **fields: Any) -> None:
    """Grant a permission; what is not given is anybody's and without limit."""
    spec = {"allowed": True, "limit": None, "approval": None, "reason": None}
    given = {name: fields.pop(name) for name in tuple(fields) if name in spec}
    ledger.apply(grants=[{"permission": permission, "spec": spec | given} | fields])


def limited(steps: int, unit: str = "EUR") -> dict[str, Any]:
    return {"unit": unit, "steps": steps}


def ago(seconds: float) -> str:
    return (dt.datetime.now(dt.UTC) - dt.timedelta(seconds=seconds)).isoformat()


def test_a_call_that_needs_what_nobody_granted_is_refused_and_told_what_it_needs(acme: Protocol) -> None:
    acme.budget("eur", 100)
    refused = acme.begin("a", **NEEDS, **eur(60))
    assert (refused["verdict"], refused["permission"], refused["reason"]) == (
        *("unauthorized", "payments:refund", "nobody has granted it"),
    )
    assert acme.call("a")["state"] == "refused"
    assert acme.call("a")["refusal"]["permission"] == "payments:refund"
    assert acme.balance("eur") == (0, 0)


def test_a_granted_call_runs_and_keeps_by_which_grant_and_version(acme: Protocol) -> None:
    granted(acme, "payments:*", agent="support")
    granted(acme, "payments:*", agent="support", reason="again")
    begun = acme.begin("a", **NEEDS, agent="support")
    by = {"permission": "payments:refund", "grant": "payments:* to agent support", "version": 2}
    assert (begun["verdict"], begun["grants"]) == ("run", [by])
    assert acme.call("a")["grants"] == [by]
    assert acme.begin("a", **NEEDS, attempt_id=begun["attempt_id"])["grants"] == [by]


@pytest.mark.parametrize(
    ("permission", "verdict"),
    [
        ("payments:refund", "run"),
        ("payments:*", "run"),
        ("*", "run"),
        ("payments:refund:*", "unauthorized"),
        ("payments:refunds", "unauthorized"),
        ("Payments:refund", "unauthorized"),
        ("payment%", "unauthorized"),
        ("payments:_efund", "unauthorized"),
        ("pay*", "unauthorized"),
        ("*:refund", "unauthorized"),
    ],
)
def test_a_star_stands_for_all_that_begins_so_and_nothing_else_does(acme: Protocol, permission, verdict) -> None:
    granted(acme, permission)
    assert acme.begin("a", **NEEDS)["verdict"] == verdict


@pytest.mark.parametrize(
    ("whose", "verdict"),
    [
        ({}, "run"),
        ({"agent": "support"}, "run"),
        ({"actor": "u_42"}, "run"),
        ({"agent": "support", "actor": "u_42"}, "run"),
        ({"agent": "sales"}, "unauthorized"),
        ({"agent": "support", "actor": "u_43"}, "unauthorized"),
    ],
)
def test_a_grant_is_to_the_agent_and_for_the_actor_that_it_names(acme: Protocol, whose, verdict) -> None:
    granted(acme, **whose)
    assert acme.begin("a", **NEEDS, agent="support", actor="u_42")["verdict"] == verdict


def test_a_grant_that_names_an_agent_is_not_for_a_call_of_none(acme: Protocol) -> None:
    granted(acme, agent="support")
    assert acme.begin("a", **NEEDS)["verdict"] == "unauthorized"


def test_a_grant_of_another_tenant_permits_nothing(acme: Protocol, other: Protocol) -> None:
    granted(other, "*")
    assert acme.begin("a", **NEEDS)["verdict"] == "unauthorized"


@pytest.mark.parametrize(
    ("broad", "narrow", "call", "verdict"),
    [
        (("*", {}), ("payments:*", {"allowed": False}), {}, "unauthorized"),
        (("*", {"allowed": False}), ("payments:*", {}), {}, "run"),
        (("payments:*", {"allowed": False}), ("payments:refund", {}), {}, "run"),
        (("payments:*", {"limit": limited(100)}), ("payments:refund", {"limit": limited(10)}), eur(50), "unauthorized"),
        (("payments:*", {"limit": limited(10)}), ("payments:refund", {"limit": limited(100)}), eur(50), "run"),
        (("payments:refund", {}), ("payments:refund", {"agent": "support", "allowed": False}), {}, "unauthorized"),
        (("payments:refund", {"allowed": False}), ("payments:refund", {"agent": "support"}), {}, "run"),
        # The permission is narrower than whom it is granted to.
        (("payments:*", {"agent": "support"}), ("payments:refund", {"allowed": False}), {}, "unauthorized"),
    ],
)
def test_of_two_grants_that_disagree_the_narrower_decides(acme: Protocol, broad, narrow, call, verdict) -> None:
    for permission, fields in (broad, narrow):
        granted(acme, permission, **fields)
    answer = acme.begin("a", **NEEDS, **call, agent="support", actor="u_42")
    assert answer["verdict"] == verdict
    assert (answer if verdict == "unauthorized" else answer["grants"][0])["grant"].startswith(narrow[0])


@pytest.mark.parametrize("denied", ["agent", "actor"])
def test_of_two_that_are_as_narrow_the_one_that_refuses_decides(acme: Protocol, denied) -> None:
    granted(acme, agent="support", allowed=denied != "agent")
    granted(acme, actor="u_42", allowed=denied != "actor")
    refused = acme.begin("a", **NEEDS, agent="support", actor="u_42")
    name = {"agent": "payments:refund to agent support", "actor": "payments:refund for u_42"}[denied]
    assert (refused["verdict"], refused["grant"]) == ("unauthorized", name)


@pytest.mark.parametrize(("cost", "verdict"), [(100, "run"), (101, "unauthorized")])
def test_a_limit_is_the_most_that_one_call_may_reserve(acme: Protocol, cost, verdict) -> None:
    granted(acme, limit=limited(100))
    answer = acme.begin("a", **NEEDS, **eur(cost))
    assert answer["verdict"] == verdict
    if verdict == "unauthorized":
        assert (answer["limit"], answer["requested"]) == (limited(100), 101)


def test_a_limit_in_another_currency_is_converted_and_without_a_rate_the_call_is_refused(acme: Protocol) -> None:
    granted(acme, limit=limited(100))
    dollars = {"reserve": {"calls": 1, "USD": 110}}
    refused = acme.begin("a", **NEEDS, **dollars)
    assert (refused["verdict"], "nobody can tell what it costs" in refused["reason"]) == ("unauthorized", True)
    acme.rate("USD", "EUR", "0.9")
    assert acme.begin("a", **NEEDS, **dollars)["verdict"] == "run"
    acme.rate("USD", "EUR", "0.95")
    assert acme.begin("b", **NEEDS, **dollars)["requested"] == 105


def test_a_limited_grant_permits_no_call_that_says_no_amount(acme: Protocol) -> None:
    granted(acme, limit=limited(100))
    assert acme.begin("a", **NEEDS)["verdict"] == "unauthorized"


def test_a_grant_that_expired_a_second_ago_permits_nothing_and_is_named(acme: Protocol) -> None:
    granted(acme, agent="support", expires_at=ago(1))
    refused = acme.begin("a", **NEEDS, agent="support")
    assert refused["reason"] == "the grant of payments:refund to agent support has expired"
    granted(acme, agent="support", expires_at=ago(-60))
    assert acme.begin("a", **NEEDS, agent="support")["verdict"] == "run"


def test_a_revoked_grant_permits_nothing_and_can_be_given_again(acme: Protocol) -> None:
    granted(acme, limit=limited(100))
    acme.apply(grants=[{"permission": "payments:refund", "revoked": True}])
    assert acme.begin("a", **NEEDS, **eur(1))["reason"] == "the grant of payments:refund was revoked"
    acme.apply(grants=[{"permission": "payments:refund", "revoked": True}])
    granted(acme)
    assert acme.begin("a", **NEEDS)["verdict"] == "run"
    changes = acme.history("grant_changed")
    assert [(c["before"] or {}).get("version") for c in changes] == [None, 1, 2]


def test_a_program_that_starts_gives_back_nothing_that_was_taken_away(acme: Protocol) -> None:
    mine = {"permission": "payments:refund", "spec": {"allowed": True, "limit": None}}
    acme.apply(new_grants=[mine])
    assert acme.begin("a", **NEEDS)["verdict"] == "run"
    acme.apply(grants=[{"permission": "payments:refund", "revoked": True}])
    acme.apply(new_grants=[mine])
    assert acme.begin("b", **NEEDS)["verdict"] == "unauthorized"
    granted(acme, allowed=False)
    acme.apply(new_grants=[mine])
    assert acme.begin("c", **NEEDS)["verdict"] == "unauthorized"


@pytest.mark.parametrize(
    ("approval", "call", "verdict"),
    [
        (True, {}, "awaiting_approval"),
        (limited(100), eur(100), "run"),
        (limited(100), eur(101), "awaiting_approval"),
        (limited(100), {}, "awaiting_approval"),
    ],
)
def test_a_grant_may_oblige_to_ask_a_person(acme: Protocol, approval, call, verdict) -> None:
    granted(acme, approval=approval)
    asked = acme.begin("a", **NEEDS, **call)
    assert asked["verdict"] == verdict
    if verdict == "awaiting_approval":
        assert acme.approvals("a")[0]["control"] == "grant payments:refund (version 1)"
        acme.approve(asked)
        begun = acme.begin("a", **NEEDS, **call)
        assert (begun["verdict"], begun["grants"][0]["approval"]) == ("run", True)


def test_an_approved_call_whose_grant_was_revoked_meanwhile_does_not_run(acme: Protocol) -> None:
    granted(acme, approval=True)
    acme.approve(acme.begin("a", **NEEDS))
    acme.apply(grants=[{"permission": "payments:refund", "revoked": True}])
    assert acme.begin("a", **NEEDS)["verdict"] == "unauthorized"
    granted(acme, approval=True)
    assert acme.begin("a", **NEEDS)["verdict"] == "run"


def test_an_operator_may_say_that_calls_need_a_permission_whatever_the_programs_file_says(acme: Protocol) -> None:
    acme.apply(permissions=[{"match": "ref*", "except": ["refund.test"], "permission": "payments:refund"}])
    assert acme.begin("a")["permission"] == "payments:refund"
    assert acme.begin("b", tool="refund.test")["verdict"] == "run"
    assert acme.begin("c", tool="mail")["verdict"] == "run"
    granted(acme, "payments:refund")
    assert acme.begin("a")["verdict"] == "run"
    # Both have to be granted.
    assert acme.begin("d", permission="payments:other")["permission"] == "payments:other"
    granted(acme, "payments:other")
    assert [g["permission"] for g in acme.begin("d", permission="payments:other")["grants"]] == [
        *("payments:other", "payments:refund"),
    ]


def test_a_model_call_may_need_a_permission_too(acme: Protocol) -> None:
    assert acme.begin("a", **CHAT, permission="llm:call")["verdict"] == "unauthorized"
    granted(acme, "llm:*")
    assert acme.begin("a", **CHAT, permission="llm:call")["verdict"] == "run"


def test_what_succeeded_is_replayed_and_what_runs_ends_as_it_would(acme: Protocol) -> None:
    succeeded(acme)
    assert acme.begin("a", **NEEDS)["verdict"] == "replay"
    granted(acme)
    begun = acme.begin("b", **NEEDS)
    acme.apply(grants=[{"permission": "payments:refund", "revoked": True}])
    assert acme.begin("b", **NEEDS, attempt_id=begun["attempt_id"])["verdict"] == "run"
    assert acme.settle("b", begun)


def test_a_retry_is_decided_anew_and_keeps_what_an_unknown_outcome_holds(acme: Protocol) -> None:
    acme.budget("eur", 100)
    granted(acme)
    unknown(acme, **eur(60), **NEEDS)
    acme.apply(grants=[{"permission": "payments:refund", "revoked": True}])
    assert acme.begin("a", **RETRY, **eur(60), **NEEDS)["verdict"] == "unauthorized"
    assert (acme.call("a")["state"], acme.balance("eur")) == ("unknown", (0, 60))
    granted(acme)
    assert acme.begin("a", **RETRY, **eur(60), **NEEDS)["verdict"] == "run"
    acme.fail("b", acme.begin("b", **NEEDS))
    assert acme.begin("b")["verdict"] == "run"
    assert acme.call("b")["grants"] is None


def test_in_a_batch_each_call_is_decided_as_if_it_were_alone(acme: Protocol) -> None:
    acme.budget("eur", 100)
    granted(acme, "a:*")
    names = [("1", "a:x"), ("2", "b:x"), ("3", None), ("4", "a:y")]
    items = [item(name, **eur(40), **({"permission": p} if p else {})) for name, p in names]
    assert [answer["verdict"] for answer in acme.ask("begin", items)] == [
        *("run", "unauthorized", "run", "budget_exceeded"),
    ]
    assert acme.balance("eur") == (0, 80)
    assert [acme.call(name)["grants"] is not None for name in "13"] == [True, False]


def test_a_stopped_call_says_that_it_is_stopped_and_a_denied_one_why(acme: Protocol) -> None:
    granted(acme, allowed=False, reason="audit in progress")
    assert acme.begin("a", **NEEDS)["reason"] == "audit in progress"
    acme.apply(switches=[{"match": "refund", "allowed": False, "reason": "bank is down"}])
    assert acme.begin("a", **NEEDS)["reason"] == "bank is down"


def test_consent_does_not_replace_a_permission(acme: Protocol) -> None:
    assert acme.begin("a", **ASK, **NEEDS)["verdict"] == "unauthorized"
    granted(acme)
    asked = acme.begin("a", **ASK, **NEEDS)
    acme.approve(asked)
    assert acme.begin("a", **ASK, **NEEDS)["verdict"] == "run"


NAMES = st.sampled_from(["a", "a:b", "a:b:c", "a:bc", "b", "ab"])
GRANTS = st.lists(
    st.builds(
        lambda permission, agent, actor, allowed: {
            "permission": permission, "agent": agent, "actor": actor, "spec": {"allowed": allowed}
        },
        st.sampled_from(["*", "a", "a:*", "a:b", "a:b:*", "a:b:c", "b:*"]),
        st.sampled_from([None, "support", "sales"]),
        st.sampled_from([None, "u_1"]),
        st.booleans(),
    ),
    max_size=8,
    unique_by=lambda grant: (grant["permission"], grant["agent"], grant["actor"]),
)  # fmt: skip


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(GRANTS, NAMES, st.sampled_from([None, "support"]), st.sampled_from([None, "u_1", "u_2"]))
def test_what_a_program_knows_decides_as_the_ledger_does(acme: Protocol, grants, permission, agent, actor) -> None:
    acme.sql.execute("delete from spanledger.grants where tenant = %s", (acme.tenant,))
    acme.apply(grants=grants)
    whose = {"agent": agent, "actor": actor}
    (known,) = acme.ask("permissions", [whose])
    (said,) = acme.ask("authorize", [{"id": str(uuid.uuid4()), "permission": permission, "reserve": {}, **whose}])
    assert permitted(known, permission) == ("reason" not in said)


def test_what_is_asked_again_because_the_answer_was_lost_is_kept_once(acme: Protocol) -> None:
    asked = {"id": str(uuid.uuid4()), "permission": "a", "reserve": {}}
    first = acme.ask("authorize", [asked])
    granted(acme, "a")
    assert acme.ask("authorize", [asked]) == first
    assert len(acme.history("not_authorized")) == 1
    assert acme.history("authorized") == []
