"""Approvals that an operator's controls in the ledger ask for: one sentence each."""

from __future__ import annotations

import pytest
from protocol import CHAT, Protocol


def ask_for(match: str, approval: object = True, **fields: object) -> dict:
    return {"match": match, "approval": approval} | fields


@pytest.mark.parametrize(
    ("control", "verdict"),
    [
        (ask_for("refund"), "awaiting_approval"),
        (ask_for("ref*"), "awaiting_approval"),
        (ask_for("r_fund"), "run"),
        (ask_for("mail*"), "run"),
        (ask_for("*", **{"except": ["mail*"]}), "awaiting_approval"),
        (ask_for("*", **{"except": ["mail", "ref*"]}), "run"),
        (ask_for("refund", approval=False), "run"),
        (ask_for("refund", approval={"unit": "EUR", "steps": 50}), "awaiting_approval"),
        (ask_for("refund", approval={"unit": "EUR", "steps": 60}), "run"),
    ],
)
def test_a_control_asks_for_consent_to_the_tools_it_names(acme: Protocol, control, verdict) -> None:
    acme.apply(approvals=[control])
    assert acme.begin("a", reserve={"calls": 1, "EUR": 60})["verdict"] == verdict


def test_a_control_asks_for_no_consent_to_model_calls(acme: Protocol) -> None:
    acme.apply(approvals=[ask_for("*")])
    assert acme.begin("a", **CHAT)["verdict"] == "run"


def test_a_control_of_another_tenant_asks_for_nothing(acme: Protocol, other: Protocol) -> None:
    other.apply(approvals=[ask_for("*")])
    assert acme.begin("a")["verdict"] == "run"


def test_a_program_that_asks_for_none_cannot_talk_itself_out_of_it(acme: Protocol) -> None:
    acme.apply(approvals=[ask_for("*")])
    assert acme.begin("a", approval=False)["verdict"] == "awaiting_approval"


def test_a_request_says_which_version_of_which_control_asked(acme: Protocol) -> None:
    acme.apply(approvals=[ask_for("refund", approval=False)])
    for steps in (10, 10, 20):
        acme.apply(approvals=[ask_for("refund", approval={"unit": "EUR", "steps": steps})])
    acme.begin("a")
    assert acme.approvals("a")[0]["control"] == "refund (version 2)"


def test_of_several_controls_the_first_by_name_is_said_to_have_asked(acme: Protocol) -> None:
    acme.apply(approvals=[ask_for("refund"), ask_for("ref*")])
    acme.begin("a")
    assert acme.approvals("a")[0]["control"] == "ref* (version 1)"


def test_a_request_that_the_rule_alone_asked_for_names_no_control(acme: Protocol) -> None:
    acme.begin("a", approval=True, rule="refund")
    assert (acme.approvals("a")[0]["rule"], acme.approvals("a")[0]["control"]) == ("refund", None)


def test_what_asks_for_nothing_is_written_only_over_what_did(acme: Protocol) -> None:
    acme.apply(approvals=[ask_for("refund", approval=False)], switches=[{"match": "refund", "allowed": True}])
    query = "select kind, match, spec from spanledger_v1.controls where tenant = %s"
    assert acme.sql.execute(query, (acme.tenant,)).fetchall() == []
    acme.apply(approvals=[ask_for("refund")])
    acme.apply(approvals=[ask_for("refund", approval=False)])
    assert acme.sql.execute(query, (acme.tenant,)).fetchall() == [("approval", "refund", {"approval": False})]
    assert acme.begin("a")["verdict"] == "run"


def test_every_change_of_a_control_is_in_history_with_what_was_before(acme: Protocol) -> None:
    acme.apply(approvals=[ask_for("*")])
    acme.apply(approvals=[ask_for("*")])
    acme.apply(approvals=[ask_for("*", **{"except": ["mail"]})])
    first, second = acme.history("approval_changed")
    assert first["before"] is None
    assert (second["before"]["except_like"], second["after"]["except"]) == ([], ["mail"])


def test_every_change_of_a_budget_is_in_history_with_what_was_before(acme: Protocol) -> None:
    acme.budget("eur", 100)
    acme.budget("eur", 100)
    for change in ({"soft": 50}, {"window": "day"}, {"per": ["actor"]}, {"match": "ref*"}):
        acme.budget("eur", 100, **change)
    changes = acme.history("budget_changed")
    assert [change["before"]["version"] for change in changes] == [1, 2, 3, 4]


def test_an_unknown_time_zone_is_an_error_when_it_is_applied(acme: Protocol) -> None:
    with pytest.raises(Exception, match="time zone"):
        acme.budget("eur", 100, window="day", timezone="Europe/Atlantis")
