"""`spanledger erase`, as an operator types it."""

from __future__ import annotations

import json

import pytest

from spanledger import ToolCall
from spanledger.errors import ResultNotKept

CALL = ToolCall("refund", {"card": "4111"}, workflow_id="order-1", actor="u_42")


def test_an_operator_erases_what_is_kept_of_an_actor(typed, ledger):
    ledger.run(CALL, lambda: "4111")

    code, out, _ = typed("erase", "--actor", "u_42", "--by", "dpo@example.com", "--yes")

    assert (code, out) == (0, "erased what was kept of 1 call of actor u_42\n")
    (row,) = ledger.calls()
    assert (row["state"], row["arguments"], row["result"]) == ("succeeded", None, None)
    assert ledger.history(row["key"])[-1]["by_name"] == "dpo@example.com"
    with pytest.raises(ResultNotKept):
        ledger.run(CALL, lambda: pytest.fail("ran"))


def test_nothing_is_erased_that_was_not_confirmed(typed, ledger):
    ledger.run(CALL, lambda: "4111")

    code, _, complaint = typed("erase", "--workflow", "order-1")

    assert code == 2
    assert "confirm it by --yes" in complaint
    assert ledger.run(CALL, lambda: pytest.fail("ran")) == "4111"


def test_what_to_erase_has_to_be_said(typed, ledger):
    code, _, complaint = typed("erase", "--yes")

    assert code == 2
    assert "--workflow, --actor, --key, or --tenant alone" in complaint


def test_a_key_may_be_said_by_its_beginning_and_a_tenant_alone_means_all(typed, ledger):
    ledger.run(CALL, lambda: "4111")

    assert typed("erase", "--key", ledger.key(CALL)[:8], "--yes")[0] == 0
    assert typed("erase", "--key", "ffffffff", "--yes")[0] == 1
    assert json.loads(typed("erase", "--tenant", "default", "--yes", "--json")[1]) == {"erased": 1, "tenant": "default"}
    assert json.loads(typed("erase", "--tenant", "nobody", "--yes", "--json")[1])["erased"] == 0
