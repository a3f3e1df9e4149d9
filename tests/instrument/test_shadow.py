"""Mode shadow: everything runs, and what enforcement would have done is recorded; on a real ledger."""

from __future__ import annotations

import asyncio
import logging

import pytest
from opentelemetry import trace

import spanledger
from spanledger import Budget, Config, Grant, Ledger, Money, Rule, Switch, ToolCall, tool, tool_call, workflow
from spanledger.errors import ConfigError

RULES = (
    Rule("refund", reserve=Money(10, "EUR")),
    Rule("payout", permission="payments:payout"),
    Rule("wire", approval=True),
    Rule("odd", identity="fields", fields=("order_id",)),
)


@pytest.fixture
def shadowed(dsn):
    """A process that only looks, and a ledger to look into."""
    asked = []
    config = Config(
        dsn=dsn,
        mode="shadow",
        rules=RULES,
        budgets=[Budget("refunds", Money(15, "EUR"))],
        switches=[Switch("mail", allowed=False)],
        on_approval_needed=asked.append,
    )
    spanledger.instrument(config, libraries=[])
    with Ledger(config=Config(dsn=dsn)) as ledger:
        yield ledger
    spanledger.uninstrument()
    assert asked == []


def would_have(ledger: Ledger) -> list[str]:
    return [row["verdict"] for row in ledger.passed_over()]


def test_what_would_be_refused_replayed_or_asked_about_runs_and_is_recorded(shadowed, spans, caplog):
    ran = []
    names = ["refund", "refund", "refund", "payout", "wire", "mail"]
    with caplog.at_level(logging.INFO, "spanledger"), workflow("order-1"):
        for n, name in enumerate(names):
            tool(name)(lambda order, name=name: ran.append(name))(0 if n == 1 else n)

    assert ran == names
    said = ["replay", "budget_exceeded", "unauthorized", "awaiting_approval", "unauthorized"]
    assert would_have(shadowed) == said
    calls = [span for span in spans.all() if span.name.startswith("execute_tool")]
    assert [span.attributes.get("spanledger.shadow.verdict") for span in calls] == [None, *said]
    assert {span.attributes["spanledger.verdict"] for span in calls} == {"run"}
    assert "nobody has granted it" in calls[3].attributes["spanledger.verdict.reason"]
    assert "shadow: payout runs; enforced, its verdict would be unauthorized" in caplog.text
    # What was let pass leaves no trace where enforcement would find it.
    assert [(call["tool"], call["state"]) for call in shadowed.calls()] == [("refund", "succeeded")]
    assert shadowed.approvals(state=None) == []
    assert shadowed.budget("refunds").spent == Money(10, "EUR")


def test_what_runs_as_it_would_is_kept_as_it_would(shadowed):
    @tool("payout")
    def payout(order: str) -> str:
        return "paid"

    shadowed.grant(Grant("payments:*"), by="ops")
    with workflow("order-1"):
        assert payout("a") == "paid"
    (call,) = shadowed.calls()
    assert (call["state"], call["result_kept"], call["grants"][0]["grant"]) == ("succeeded", True, "payments:*")


def test_every_door_lets_pass(shadowed):
    with workflow("order-1"):
        with tool_call("wire", {"to": "ada"}) as call:
            assert not call.replayed
            call.result = "sent"
        with trace.get_tracer("mine").start_as_current_span("execute_tool wire"):
            pass

        async def in_a_loop() -> str:
            @tool("wire")
            async def wire(to: str) -> str:
                return to

            return await wire("bob")

        assert asyncio.run(in_a_loop()) == "bob"
    assert would_have(shadowed) == ["awaiting_approval", "unauthorized", "awaiting_approval"]


def test_errors_of_what_was_let_pass_are_the_programs_own(shadowed):
    @tool("wire")
    def wire(to: str) -> None:
        raise KeyError(to)

    with workflow("order-1"), pytest.raises(KeyError, match="ada"):
        wire("ada")


def test_a_call_that_cannot_be_described_or_calls_itself_runs(shadowed, caplog):
    depth = []

    @tool("refund")
    def refund(order: str) -> int:
        depth.append(order)
        return len(depth) if len(depth) > 2 else refund(order)

    with caplog.at_level(logging.WARNING, "spanledger"), workflow("order-1"):
        assert tool("odd")(lambda other: other)("b") == "b"
        assert refund("a") == 3
    assert "shadow: odd runs; enforced, it would be refused" in caplog.text


@pytest.mark.parametrize("at_the_tool", [True, False])
def test_what_a_rule_redacts_is_redacted_also_where_the_call_cannot_be_described(dsn, spans, caplog, at_the_tool):
    rules, own = ([], {"redact": ["token"]}) if at_the_tool else ([Rule("*", redact=["token"])], {})
    spanledger.instrument(Config(dsn=dsn, mode="shadow", rules=rules, capture_content=True), libraries=[])

    @tool("look_up", **own)
    def look_up(what: float, token: str) -> dict[str, str]:
        return {"token": token}

    @tool("fail", **own)
    def fail(what: float, token: str) -> None:
        raise ValueError(f"token {token} is over")

    with workflow("order-1"):
        assert look_up(float("nan"), "sk-1234567") == {"token": "sk-1234567"}
        with pytest.raises(ValueError, match="sk-1234567"):
            fail(float("nan"), "sk-1234567")
    spanledger.uninstrument()
    with Ledger(config=Config(dsn=dsn)) as ledger:
        assert "sk-1234567" not in str(ledger.calls())
    assert [span.attributes["spanledger.verdict"] for span in spans.all() if "tool" in span.name] == ["run", "run"]
    assert "sk-1234567" not in "".join(span.to_json() for span in spans.all())
    assert "sk-1234567" not in caplog.text


def test_without_a_ledger_everything_runs_and_that_is_said(caplog):
    spanledger.instrument(Config(dsn="postgresql://nobody@127.0.0.1:1/none", mode="shadow", rules=RULES), libraries=[])
    try:
        with caplog.at_level(logging.WARNING, "spanledger"), workflow("order-1"):
            assert tool("refund")(lambda: "paid")() == "paid"
    finally:
        spanledger.uninstrument()
    assert "what the ledger would say is not known" in caplog.text


def test_the_ledger_by_hand_looks_as_well(dsn):
    config = Config(dsn=dsn, mode="shadow", rules=RULES)
    call = ToolCall("wire", {"to": "ada"}, workflow_id="order-1")
    with Ledger(config=config) as ledger:
        assert ledger.run(call, lambda: "sent") == "sent"
        begun = ledger.begin(call)
        assert (begun.verdict, begun.would_have) == ("run", "awaiting_approval")
        assert ledger.settle(begun, "sent")
        assert ledger.fail(begun, TimeoutError())
        assert ledger.calls() == []
        assert would_have(ledger) == ["awaiting_approval"] * 2


def test_a_mode_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="mode is one of enforce, shadow, off"):
        Config(mode="dry-run")
