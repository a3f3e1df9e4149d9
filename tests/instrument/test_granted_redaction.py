"""What a grant redacts: nobody sees it, and nobody who is called gets it; who cannot keep it is refused."""

from __future__ import annotations

import asyncio
import json

import pytest

import spanledger
from spanledger import Config, Grant, Ledger, Redact, Rule, ToolCall, errors, guard, over, tool, tool_call, workflow

CARD = {"order_id": "o-1", "card": {"number": "4111-1111", "holder": "Ada"}}
NEEDS = {"permission": "payments:refund"}


@pytest.fixture
def governed(dsn, ledger: Ledger):
    """A process that is instrumented and records content, and a ledger in which a grant redacts."""
    ledger.grant(Grant("payments:*", redact=["number"]), by="ops")
    spanledger.instrument(Config(dsn=dsn, rules=[Rule("refund", **NEEDS)], capture_content=True), libraries=[])
    with workflow("w"):
        yield ledger
    spanledger.uninstrument()


class Elsewhere:
    """Whoever is called; it says what reached it."""

    def __init__(self) -> None:
        self.got: list[dict] = []

    def __call__(self, arguments: dict) -> dict:
        self.got.append(arguments)
        return {"charged": "4111-1111", "ok": True}


async def _awaiting(there: Elsewhere) -> object:
    async def invoke(arguments: dict) -> dict:
        return there(arguments)

    return await guard("refund", CARD, invoke)


@pytest.mark.parametrize("way", [lambda t: guard("refund", CARD, t), lambda t: asyncio.run(_awaiting(t))])
def test_a_call_is_passed_on_without_it_and_neither_span_nor_row_shows_it(governed: Ledger, spans, way):
    there = Elsewhere()
    assert way(there) == {"charged": "4111-1111", "ok": True}
    seen = {"order_id": "o-1", "card": {"number": "[redacted]", "holder": "Ada"}}
    assert there.got == [seen]
    span = spans.one("execute_tool refund")
    assert json.loads(span.attributes["gen_ai.tool.call.arguments"]) == seen
    assert "4111" not in str(dict(span.attributes))
    (row,) = governed.calls()
    assert json.loads(row["arguments"]) == seen
    assert "4111" not in str(row)
    assert (row["state"], row["attempts"]) == ("succeeded", 1)
    assert governed.history(row["key"]) == [], "asking twice is no refusal"


def test_who_has_to_approve_sees_it_neither_and_approves_the_exact_arguments(governed: Ledger):
    governed.grant(Grant("payments:*", redact=["number"], approval=True), by="ops")
    there = Elsewhere()
    for _ in range(2):
        with pytest.raises(errors.ApprovalPending):
            guard("refund", CARD, there, wait_timeout_s=0)
    (approval,) = governed.approvals()
    assert approval.arguments["card"] == {"number": "[redacted]", "holder": "Ada"}
    governed.approve(approval.id, by="ops@example.com")
    guard("refund", CARD, there)
    assert there.got[0]["card"]["number"] == "[redacted]"


def test_what_the_tool_raises_comes_as_it_is_and_its_words_are_kept_from_the_ledger(governed: Ledger, spans):
    def fail(_: dict) -> None:
        raise ValueError("4111-1111 was declined")

    with pytest.raises(ValueError, match="4111-1111"):
        guard("refund", CARD, fail)
    (row,) = governed.calls()
    assert (row["state"], "4111" in str(row)) == ("failed", False)


def test_what_a_rule_redacts_besides_is_passed_on(governed: Ledger):
    there = Elsewhere()
    guard("refund", CARD, there, redact=["holder"])
    assert there.got[0]["card"] == {"number": "[redacted]", "holder": "Ada"}
    assert json.loads(governed.calls()[0]["arguments"])["card"] == {"number": "[redacted]", "holder": "[redacted]"}


def test_of_two_grants_that_are_as_narrow_what_either_redacts_is_kept(governed: Ledger):
    governed.grant(Grant("payments:refund", agent="a", redact=["number"]), by="ops")
    governed.grant(Grant("payments:refund", actor="u", redact=[Redact("holder", "remove")]), by="ops")
    there = Elsewhere()
    with workflow("two", agent="a", actor="u"):
        guard("refund", CARD, there)
    assert there.got[0]["card"] == {"number": "[redacted]"}


# Who cannot


@tool
def refund(order_id: str, card: dict) -> str:
    raise AssertionError("must not run")


def _tool() -> None:
    refund(**CARD)


def _block() -> None:
    with tool_call("refund", CARD):
        raise AssertionError("must not run")


def _more_than_json() -> None:
    guard("refund", {"card": {"number": (1, 2)}}, lambda _: pytest.fail("must not run"))


@pytest.mark.parametrize("way", [_tool, _block, _more_than_json], ids=["a tool", "a block", "no JSON"])
def test_who_cannot_keep_it_from_whom_is_called_is_refused_and_shows_it_nowhere(governed: Ledger, spans, way):
    with pytest.raises(errors.NotAuthorized, match="its grant redacts") as refused:
        way()
    assert refused.value.grant == "payments:*"
    assert "4111" not in str(dict(spans.one("execute_tool refund").attributes))
    (row,) = governed.calls()
    assert (row["state"], row["attempts"]) == ("refused", 0)


def test_a_span_by_hand_is_refused_and_what_stood_on_it_is_written_over(governed: Ledger, spans):
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "refund",
        "gen_ai.tool.call.id": "call_1",
        "gen_ai.tool.call.arguments": json.dumps(CARD),
    }
    from opentelemetry import trace

    with (
        pytest.raises(errors.NotAuthorized),
        trace.get_tracer("mine").start_as_current_span("execute_tool refund", attributes=attributes),
    ):
        pytest.fail("must not run")
    assert "4111" not in str(dict(spans.one("execute_tool refund").attributes))


def test_a_tool_on_whose_span_its_framework_writes_is_refused(dsn, ledger: Ledger, spans):
    pytest.importorskip("pydantic_ai")
    from pydantic_ai.capabilities import Instrumentation
    from pydantic_world import agent_of, run

    ledger.grant(Grant("payments:*", redact=["number"]), by="ops")
    spanledger.instrument(Config(dsn=dsn, rules=[Rule("refund", **NEEDS)]), libraries=["pydantic_ai"])

    def refund(order_id: str, amount: int) -> str:
        return f"refunded {order_id} by 4111-1111, {amount}"

    with workflow("a"), pytest.raises(errors.NotAuthorized, match="its grant redacts"):
        run(agent_of(refund, capabilities=[Instrumentation()]))
    with workflow("b"):
        run(agent_of(refund))
    assert sorted(row["state"] for row in ledger.calls()) == ["refused", "succeeded"]
    assert len(spans.all("execute_tool refund")) == 2


def test_the_ledger_refuses_a_call_by_hand(governed: Ledger):
    with pytest.raises(errors.NotAuthorized, match="its grant redacts"):
        governed_with_rule(governed).run(ToolCall("refund", CARD, workflow_id="w"), lambda: pytest.fail("must not run"))


def governed_with_rule(ledger: Ledger) -> Ledger:
    ledger.apply(Config(rules=[Rule("refund", **NEEDS)]))
    return ledger


@tool("refund")
def refund_order(order_id: str) -> dict:
    return {"number": "4111-1111", "order_id": order_id}


def test_a_tool_without_it_runs_and_its_result_is_not_seen(governed: Ledger, spans):
    assert refund_order("o-1") == {"number": "4111-1111", "order_id": "o-1"}
    span = spans.one("execute_tool refund").attributes
    assert json.loads(span["gen_ai.tool.call.arguments"]) == {"order_id": "o-1"}
    assert json.loads(span["gen_ai.tool.call.result"]) == {"number": "[redacted]", "order_id": "o-1"}
    with pytest.raises(errors.ResultNotKept):
        refund_order("o-1")


# What is said of it


def test_who_asks_is_told_what_to_keep(governed: Ledger):
    answer = spanledger.authorize("payments:refund")
    assert (answer.allowed, answer.redact) == (True, (Redact("number"),))


def test_in_mode_shadow_nothing_is_refused_and_what_would_be_is_kept(dsn, ledger: Ledger, sql):
    ledger.grant(Grant("payments:*", redact=["number"]), by="ops")
    spanledger.instrument(Config(dsn=dsn, mode="shadow", rules=[Rule("refund", **NEEDS)]), libraries=[])
    there = Elsewhere()
    with workflow("w"):
        guard("refund", CARD, there)
        with tool_call("refund", CARD | {"order_id": "o-2"}):
            pass
    assert there.got[0]["card"]["number"] == "[redacted]"
    kept = sql.execute("select detail ->> 'reason' from spanledger.history where event = 'would_have'").fetchall()
    assert kept == [("its grant redacts what this program cannot keep from whom it calls",)]


def test_a_grant_of_a_file_redacts_as_one_in_code_does(tmp_path):
    file = tmp_path / "spanledger.toml"
    file.write_text(
        """
[[grants]]
permission = "payments:*"
approval = "over 100.00 EUR"
redact = ["number", {path = "holder", action = "remove"}]
"""
    )
    (grant,) = Config.from_file(file).grants
    assert grant == Grant(
        "payments:*", approval=over(spanledger.Money(100, "EUR")), redact=["number", Redact("holder", "remove")]
    )


@pytest.mark.parametrize("redact", ["number", [1], [""]])
def test_what_names_no_place_is_refused(redact):
    with pytest.raises(errors.ConfigError, match="redact"):
        Grant("payments:*", redact=redact)
