"""Gates of web frameworks, on real servers: who passes, who does not, and what they are told."""

from __future__ import annotations

import threading
from typing import Any

import httpx
import pytest
from apps import cost

import spanledger
from spanledger import Config, Grant, Ledger, Money, errors, over
from spanledger.web.starlette import bearer_token, trusted_header

USER = {"actor": trusted_header("X-User")}
ADA = {"X-User": "ada"}


def told(response: httpx.Response) -> dict[str, Any]:
    """What a refusal says; FastAPI puts it under `detail`."""
    body = response.json()
    return body.get("detail", body)


@pytest.mark.parametrize("route", ["refunds", "plain"])
def test_a_request_passes_that_is_granted_and_what_it_does_is_done_for_its_actor(serve, governed: Ledger, route):
    governed.grant(Grant("payments:refund", actor="ada"), by="ops")
    client = serve(**USER)
    assert client.post(f"/{route}/o-1?amount=5", headers=ADA).json() == {"done": "refunded o-1"}
    (row,) = governed.calls()
    assert (row["tool"], row["state"], row["actor"], row["agent"]) == ("refund", "succeeded", "ada", "web")


def test_a_request_that_is_not_granted_is_answered_with_the_grant_that_decided(serve, governed: Ledger):
    governed.grant(Grant("payments:*"), by="ops")
    governed.grant(Grant("payments:*", actor="ada", allowed=False, reason="on leave"), by="ops")
    response = serve(**USER).post("/refunds/o-1?amount=5", headers=ADA)
    assert response.status_code == 403
    assert told(response) == {
        "error": "not_authorized",
        "permission": "payments:refund",
        "reason": "on leave",
        "grant": "payments:* for ada",
        "version": 1,
        "obligations": {},
    }
    assert governed.calls() == []


def test_what_a_request_costs_is_held_against_the_limit_of_the_grant(serve, governed: Ledger):
    governed.grant(Grant("payments:refund", limit=Money(10, "EUR")), by="ops")
    client = serve(amount=cost)
    assert client.post("/refunds/o-1?amount=10").status_code == 200
    refused = client.post("/refunds/o-2?amount=11")
    assert refused.status_code == 403
    assert (told(refused)["limit"], told(refused)["reason"]) == ("10.00 EUR", "it costs more than was granted")


def test_no_header_is_believed_unless_the_application_says_so(serve, governed: Ledger):
    governed.grant(Grant("payments:refund", actor="ada"), by="ops")
    assert serve().post("/refunds/o-1?amount=5", headers=ADA).status_code == 403


@pytest.mark.parametrize("headers", [[], [("X-User", "")], [("X-User", "ada"), ("X-User", "bob")]])
def test_who_is_nobody_or_two_is_not_let_through(serve, governed: Ledger, headers):
    governed.grant(Grant("*"), by="ops")
    response = serve(**USER).post("/refunds/o-1?amount=5", headers=headers)
    assert response.status_code == 401
    assert told(response)["error"] == "unauthenticated"
    assert governed.calls() == []


def test_where_a_person_has_to_approve_each_call_a_request_does_not_pass_the_gate(serve, governed: Ledger):
    governed.grant(Grant("payments:refund", approval=True), by="ops")
    response = serve().post("/refunds/o-1?amount=5")
    assert response.status_code == 403
    assert told(response)["reason"] == "a person has to approve each call"
    assert told(response)["obligations"] == {"approval": True}


def test_where_a_grant_redacts_a_request_passes_only_if_a_call_in_it_sees_to_that(serve, governed: Ledger):
    governed.grant(Grant("payments:refund", redact=["card"]), by="ops")
    refused = serve().post("/refunds/o-1?amount=5")
    assert refused.status_code == 403
    assert told(refused)["obligations"] == {"redact": [{"path": "card", "action": "mask"}]}
    assert serve(obligations="inside").post("/refunds/o-1?amount=5").status_code == 200


def test_a_call_inside_waits_for_its_approval_and_the_request_is_told_its_id_until_then(serve, governed: Ledger):
    governed.grant(Grant("payments:refund", approval=over(Money(100, "EUR"))), by="ops")
    client = serve(amount=cost, obligations="inside")
    asked = {}
    for order in ("o-1", "o-2"):
        pending = client.post(f"/refunds/{order}?amount=101")
        assert (pending.status_code, told(pending)["error"]) == (409, "approval_pending")
        asked[order] = told(pending)["approval_id"]
    assert {a.arguments["order_id"]: a.id for a in governed.approvals()} == asked
    governed.approve(asked["o-1"], by="ops@example.com")
    governed.deny(asked["o-2"], by="ops@example.com", reason="too much")
    assert client.post("/refunds/o-1?amount=101").json() == {"done": "refunded o-1"}
    denied = client.post("/refunds/o-2?amount=101")
    assert denied.status_code == 403
    assert (told(denied)["error"], told(denied)["reason"]) == ("approval_denied", "too much")


def test_a_request_acts_under_the_delegation_that_it_brings(serve, dsn, ledger: Ledger):
    keys = ("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",)
    spanledger.instrument(Config(dsn=dsn, delegation_keys=keys), libraries=[])
    ledger.grant(Grant("payments:*", agent="support"), by="ops")
    with spanledger.workflow("order-1", agent="support", actor="ada"):
        token = spanledger.delegate("billing", ["payments:refund"])
    client = serve(delegation=bearer_token)
    bearer = {"Authorization": f"Bearer {token}"}
    assert client.post("/refunds/o-1?amount=5", headers=bearer).json() == {"done": "refunded o-1"}
    (row,) = ledger.calls()
    assert (row["actor"], row["delegation"] is not None) == ("ada", True)
    for headers, status in (
        ({}, 401),
        ({"Authorization": f"Basic {token}"}, 401),
        ({"Authorization": f"Bearer {token[:-3]}abc"}, 403),
        ([*bearer.items(), ("Authorization", "Bearer another")], 401),
    ):
        assert client.post("/refunds/o-2?amount=5", headers=headers).status_code == status
    assert len(ledger.calls()) == 1


def test_a_ledger_that_does_not_answer_lets_nobody_through(serve, dsn):
    spanledger.instrument(Config(dsn="host=/nowhere", ledger_timeout_s=0.1), libraries=[])
    response = serve().post("/refunds/o-1?amount=5")
    assert (response.status_code, response.headers["Retry-After"]) == (503, "1")
    assert told(response) == {
        "error": "ledger_unavailable",
        "permission": "payments:refund",
        "reason": "the ledger does not answer",
    }


def test_in_mode_shadow_everybody_passes_and_it_is_said_who_would_not(serve, dsn, caplog):
    spanledger.instrument(Config(dsn=dsn, mode="shadow"), libraries=[])
    assert serve().post("/refunds/o-1?amount=5").status_code == 200
    assert "enforced, it would be refused: payments:refund: nobody has granted it" in caplog.text


def test_in_mode_shadow_a_ledger_that_does_not_answer_stops_nobody(serve, caplog):
    spanledger.instrument(Config(dsn="host=/nowhere", ledger_timeout_s=0.1, mode="shadow"), libraries=[])
    assert serve().post("/refunds/o-1?amount=5").status_code == 200
    assert "is not known" in caplog.text


def test_in_mode_off_nothing_is_asked(serve):
    spanledger.instrument(Config(mode="off"))
    assert serve(**USER).post("/refunds/o-1?amount=5", headers=ADA).status_code == 200


@pytest.mark.parametrize("framework", ["fastapi", "starlette"], indirect=True)
def test_while_a_request_waits_for_the_ledger_the_loop_answers_others(serve, governed: Ledger, sql):
    governed.grant(Grant("payments:refund"), by="ops")
    client = serve()
    sql.execute("begin")
    sql.execute("lock table spanledger.grants in access exclusive mode")
    answers = []
    waiting = threading.Thread(target=lambda: answers.append(client.post("/refunds/o-1?amount=5").status_code))
    waiting.start()
    _until_somebody_waits(sql)
    assert client.get("/ping").json() == "pong"
    assert answers == []
    sql.execute("rollback")
    waiting.join(60)
    assert answers == [200]


def _until_somebody_waits(sql) -> None:
    for _ in range(10_000):
        if sql.execute("select 1 from pg_locks where not granted").fetchone():
            return
        threading.Event().wait(0.005)
    raise AssertionError("nobody waits for the lock")


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        ({"permission": "payments refund"}, "a permission is a name"),
        ({"amount": 1.5}, "never a float"),
        ({"actor": "ada"}, "actor is a callable"),
        ({"obligations": "maybe"}, "obligations is one of"),
    ],
)
def test_a_gate_that_cannot_be_is_refused_when_it_is_made(gate, said):
    from spanledger.web import fastapi, flask, starlette

    for module in (fastapi, flask, starlette):
        with pytest.raises(errors.ConfigError, match=said):
            module.require_permission(**{"permission": "payments:refund"} | gate)
