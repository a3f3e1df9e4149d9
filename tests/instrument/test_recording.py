"""What a program records by itself, and what its instrumented clients do in sessions: in trace, ledger and budgets."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from openai_world import ASK
from opentelemetry.trace import StatusCode, format_trace_id

import spanledger
from spanledger import (
    Budget,
    Calls,
    Config,
    Ledger,
    Money,
    Price,
    Rate,
    Rule,
    Tokens,
    Usage,
    errors,
    record_event,
    record_llm_call,
    record_tool_call,
    session,
    tool,
    workflow,
)
from spanledger import _setup as setup

PRICES = [Price("house-*", input=Money("1", "USD"), output=Money("2", "USD"))]
USED = Usage(input_tokens=1000, output_tokens=500)


@pytest.fixture
def told(ledger: Ledger) -> Callable[[], Ledger]:
    """The ledger, when all that was said so far is told."""

    def flushed() -> Ledger:
        assert setup._installed is not None
        assert setup._installed.connected.trail.flush(20)
        return ledger

    return flushed


def lost() -> int:
    assert setup._installed is not None
    return setup._installed.connected.trail.lost


def test_a_model_call_is_a_span_of_the_past_and_a_row_that_says_that_nobody_guarded_it(instrument, told, spans):
    instrument(prices=PRICES)
    with workflow("order-1", agent="support", actor="u_42"):
        key = record_llm_call("house-1", USED, provider="house", latency_s=2.5)

    (row,) = told().calls("order-1")
    assert (row["key"], row["tool"], row["operation"], row["state"]) == (key, "house-1", "chat", "succeeded")
    assert (row["key_source"], row["agent"], row["actor"]) == ("recorded", "support", "u_42")
    assert row["cost"] == {"tokens": 1500, "USD": 2000}
    span = spans.one("chat house-1")
    assert format_trace_id(span.context.trace_id) == row["trace_id"]
    assert span.parent.span_id == spans.one("invoke_agent support").context.span_id
    assert span.end_time - span.start_time == 2_500_000_000
    assert span.attributes["spanledger.recorded"] is True
    assert span.attributes["spanledger.call.key"] == key
    assert span.attributes["gen_ai.usage.input_tokens"] == 1000
    assert span.attributes["gen_ai.provider.name"] == "house"
    assert span.attributes["spanledger.cost"] == ("0.002 USD",)
    assert "spanledger.verdict" not in span.attributes


def test_a_tool_call_shows_people_its_arguments_without_what_its_rule_redacts(instrument, told, spans):
    instrument(rules=[Rule("mail", redact=["card"])])
    with workflow("order-1"):
        record_tool_call("mail", {"to": "ada", "card": "4711"}, call_id="call_1", cost=Money("0.10", "EUR"))
        record_tool_call("mail", {"to": "bob"}, error=TimeoutError("no answer"), latency_s=1)

    first, second = told().calls("order-1")  # the second began earlier
    assert (first["arguments"], first["call_id"]) == ('{"card":"[redacted]","to":"ada"}', "call_1")
    assert (second["state"], second["error"]["type"]) == ("failed", "builtins.TimeoutError")
    fine, failed = spans.all("execute_tool mail")
    assert (fine.attributes["gen_ai.tool.call.id"], fine.status.status_code) == ("call_1", StatusCode.UNSET)
    assert (failed.attributes["error.type"], failed.status.status_code) == ("TimeoutError", StatusCode.ERROR)
    assert not {"gen_ai.tool.call.arguments", "gen_ai.tool.call.result"} & fine.attributes.keys()


def test_content_is_on_the_span_where_it_is_captured(instrument, told, spans):
    instrument(capture_content=True, rules=[Rule("mail", redact=["card"])])
    record_tool_call("mail", {"to": "ada", "card": "4711"}, result={"card": "4711", "sent": True})

    attributes = spans.one("execute_tool mail").attributes
    assert attributes["gen_ai.tool.call.arguments"] == '{"to": "ada", "card": "[redacted]"}'
    assert attributes["gen_ai.tool.call.result"] == '{"card": "[redacted]", "sent": true}'


def test_what_was_said_is_on_the_span_where_it_is_captured_and_without_what_rules_redact(instrument, told, spans):
    instrument(capture_content=True, rules=[Rule("*", redact=["card"])])
    record_llm_call("gpt", USED, prompt='{"card": "4711", "q": "where?"}', response="on its way")

    attributes = spans.one("chat gpt").attributes
    assert "4711" not in attributes["gen_ai.input.messages"]
    assert "where?" in attributes["gen_ai.input.messages"]
    assert json.loads(attributes["gen_ai.output.messages"])[0]["parts"] == [{"type": "text", "content": "on its way"}]
    spanledger.uninstrument()
    instrument()
    record_llm_call("other", USED, prompt="where?", response="on its way")
    assert not {"gen_ai.input.messages", "gen_ai.output.messages"} & spans.one("chat other").attributes.keys()


def test_money_that_left_counts_as_spent_and_what_exceeds_a_budget_refuses_the_next_guarded_call(instrument, told):
    instrument(
        budgets=[
            Budget("euros", Money(10, "EUR")),
            Budget("tokens", Tokens(2000), per=("agent",)),
            Budget("calls", Calls(100), operations=("chat",)),
        ],
        rates=[Rate("USD", "EUR", "0.5", "2020-01-01")],
    )
    with workflow("w", agent="support"):
        record_llm_call("gpt", USED, cost=Money(10, "USD"))
        ledger = told()
        assert ledger.budget("euros").spent == Money(5, "EUR")
        assert ledger.budget("tokens", scope={"agent": "support"}).spent == Tokens(1500)
        record_llm_call("gpt", USED, cost=Money(30, "USD"))
        told()
        with pytest.raises(errors.BudgetExceeded) as caught:
            tool("refund", reserve=lambda _: Money(1, "EUR"))(lambda: "paid")()

    assert caught.value.spent == Money(20, "EUR")
    assert ledger.budget("euros").held == Money(0, "EUR")
    assert ledger.budget("calls").spent == Calls(2)
    overruns = [row for row in ledger.timeline("w") if row["what"] == "overrun"]
    assert {row["detail"]["budget"] for row in overruns} == {"euros", "tokens"}


def test_a_failed_call_spends_what_it_cost_and_counts_as_no_call(instrument, told):
    instrument(budgets=[Budget("euros", Money(10, "EUR")), Budget("calls", Calls(10))])
    record_llm_call("gpt", cost=Money(1, "EUR"), error="rate limited")

    ledger = told()
    assert (ledger.budget("euros").spent, ledger.budget("calls").spent) == (Money(1, "EUR"), Calls(0))
    assert ledger.calls()[0]["error"] == {"type": "error", "message": "rate limited"}


def test_what_is_recorded_again_under_its_id_counts_once(instrument, told):
    instrument(budgets=[Budget("euros", Money(10, "EUR"))])
    for _ in range(3):
        record_llm_call("gpt", USED, cost=Money(1, "EUR"), record_id="resp_1")
    told()
    record_llm_call("gpt", USED, cost=Money(1, "EUR"), record_id="resp_1")
    record_llm_call("gpt", USED, cost=Money(1, "EUR"), record_id="resp_2")

    ledger = told()
    assert len(ledger.calls()) == 2
    assert ledger.budget("euros").spent == Money(2, "EUR")


def test_events_are_on_the_span_and_in_the_trace_in_their_order(instrument, told, spans):
    instrument()
    with workflow("w") as run:
        record_event("escalated", {"to": "ada", "urgent": True, "nothing": None})
        run.step("waiting for ada")
        record_event("answered")

    rows = [row for row in told().timeline("w") if row["what"] in ("event", "step")]
    assert [row["detail"] for row in rows] == [
        {"name": "escalated", "detail": {"to": "ada", "urgent": True}},
        {"text": "waiting for ada"},
        {"name": "answered", "detail": {}},
    ]
    events = [e for e in spans.one("invoke_agent").events if e.name == "spanledger.event"]
    assert dict(events[0].attributes) == {
        "spanledger.event.name": "escalated",
        "spanledger.event.detail": '{"to": "ada", "urgent": true}',
    }


class Unwritable:
    def __str__(self) -> str:
        raise RuntimeError("boo")


def test_one_bad_event_costs_no_other_and_is_counted_and_logged(instrument, told, caplog, sql):
    instrument()
    circle: dict[str, Any] = {}
    circle["self"] = circle
    with caplog.at_level(logging.WARNING, "spanledger"), workflow("w") as run, sql.transaction():
        sql.execute("lock table spanledger.trail")  # so that all of it goes in one statement
        record_event("first")
        for bad in ({"what": Unwritable()}, circle):
            record_event("bad", bad)
        run.decide("bad", options=[Unwritable()], chosen="x")  # type: ignore[list-item]
        record_tool_call("odd", {"what": Unwritable(), "set": {1, 2}, "nan": float("nan")})
        record_event("\0 \ud800 last", {"\0": "\0"})

    rows = told().timeline("w")
    assert [row["detail"].get("name") for row in rows if row["what"] == "event"] == ["first", "\ufffd ? last"]
    assert [row["tool"] for row in rows if row["what"] == "run"] == ["odd"]
    assert lost() == 3
    assert "lost so far" in caplog.text


@pytest.mark.parametrize(
    ("wrong", "error", "said"),
    [
        (lambda: record_llm_call(""), ValueError, "not empty"),
        (lambda: record_llm_call(7), TypeError, "text as its name"),
        (lambda: record_llm_call("gpt", {"input_tokens": 1}), TypeError, "usage is a Usage"),
        (lambda: record_llm_call("gpt", Usage(input_tokens=-1)), ValueError, "number of tokens"),
        (lambda: record_llm_call("gpt", Usage(output_tokens=1.5)), ValueError, "number of tokens"),
        (lambda: record_llm_call("gpt", cost=0.02), TypeError, "a cost is an amount"),
        (lambda: record_llm_call("gpt", cost=Tokens(7)), TypeError, "a cost is an amount"),
        (lambda: record_llm_call("gpt", operation="chatting"), ValueError, "operation is one of"),
        (lambda: record_llm_call("gpt", latency_s=-1), ValueError, "seconds"),
        (lambda: record_llm_call("gpt", latency_s=float("nan")), ValueError, "seconds"),
        (lambda: record_llm_call("gpt", latency_s="1"), TypeError, "seconds"),
        (lambda: record_tool_call("mail", ["ada"]), TypeError, "arguments are a mapping"),
        (lambda: record_tool_call("mail", cost=1), TypeError, "a cost is an amount"),
        (lambda: record_event(""), ValueError, "not empty"),
        (lambda: record_event("e", "words"), TypeError, "detail is a mapping"),
    ],
)
def test_what_is_wrong_in_every_run_is_raised_at_once(instrument, told, wrong, error, said):
    instrument()
    with pytest.raises(error, match=said):
        wrong()
    assert told().calls() == []
    assert lost() == 0


def test_nobody_waits_for_the_ledger_and_a_lost_call_is_counted(instrument, caplog, monkeypatch):
    monkeypatch.setattr("spanledger.ledger._trail.EXIT_TIMEOUT_S", 0.01)
    spanledger.instrument(Config(dsn="postgresql://nobody@127.0.0.1:1/none"), libraries=[])
    for _ in range(3):
        assert record_llm_call("gpt", USED)
    with caplog.at_level(logging.WARNING, "spanledger"):
        spanledger.uninstrument()
    assert "3 entries of the decision trace are lost so far: the ledger did not take them in time" in caplog.text


def test_nothing_is_recorded_in_mode_off(dsn, ledger):
    spanledger.instrument(Config(dsn=dsn, mode="off"), libraries=[])
    assert record_llm_call("gpt", USED) is None
    assert record_tool_call("mail") is None
    record_event("escalated")
    assert ledger.calls() == []


# --- instrumented clients in a session


@pytest.fixture
def in_session(instrument_client: Callable[..., None], dsn: str) -> Callable[..., None]:
    return lambda **fields: instrument_client(dsn=dsn, prices=[Price("gpt-5*", input=Money("1", "USD"),
        output=Money("1", "USD"))], **fields)  # fmt: skip


def tokens_of(span: Any) -> int:
    return span.attributes["gen_ai.usage.input_tokens"] + span.attributes["gen_ai.usage.output_tokens"]


@pytest.mark.parametrize("budgets", [(), (Budget("all", Tokens(10_000_000)),)], ids=["uncovered", "budgeted"])
def test_tokens_cost_and_time_of_every_way_to_ask_count_once_in_their_turn(
    in_session, client, awaited, told, spans, budgets
):
    in_session(budgets=budgets, output_tokens_max=100)
    with session("chat-9", agent="support") as chat:
        with chat.turn("plain"):
            client.chat.completions.create(**ASK)
        with chat.turn("streamed"):
            stream = client.chat.completions.create(**ASK, stream=True)
        list(stream)  # read when the turn is over
        with chat.turn("awaited"):
            awaited(lambda c: c.chat.completions.create(**ASK))

    ledger = told()
    by_trace = {format_trace_id(span.context.trace_id): tokens_of(span) for span in spans.all("chat gpt-5")}
    rows = ledger.turns("chat-9")
    assert [row["tokens"] for row in rows] == [by_trace[row["trace_id"]] for row in rows]
    assert [row["model_calls"] for row in rows] == [1, 1, 1]
    assert [row["cost"] for row in rows] == [{"USD": row["tokens"]} for row in rows]
    found = ledger.session("chat-9")
    assert (found["tokens"], found["recorded_calls"]) == (sum(by_trace.values()), 0 if budgets else 3)
    assert found["model_latency_s"] > 0


def test_a_call_that_failed_is_a_failed_call_of_its_turn(in_session, client, told):
    in_session()
    with session("chat-9") as chat, chat.turn(), pytest.raises(Exception, match="slow down"):
        client.with_options(max_retries=0).chat.completions.create(**ASK, user="busy")

    (turn,) = told().turns("chat-9")
    assert (turn["failed_calls"], turn["tokens"], turn["status"]) == (1, 0, "done")


def test_who_records_what_an_instrumented_client_has_made_counts_nothing_twice(in_session, client, told):
    in_session()
    with session("chat-9") as chat, chat.turn():
        answer = client.chat.completions.create(**ASK)
        used = Usage(
            response_id=answer.id,
            input_tokens=answer.usage.prompt_tokens,
            output_tokens=answer.usage.completion_tokens,
        )
        assert record_llm_call("gpt-5", used) is None
        assert record_llm_call("other", USED) is not None

    assert told().session("chat-9")["model_calls"] == 2


def test_outside_of_sessions_a_call_that_no_budget_covers_is_traced_and_not_kept(in_session, client, told, spans):
    in_session()
    with workflow("w"):
        client.chat.completions.create(**ASK)

    assert told().calls() == []
    assert spans.one("chat gpt-5")


def test_recorded_calls_from_many_tasks_are_all_there(instrument, told):
    instrument(budgets=[Budget("euros", Money(1000, "EUR"))])

    async def one(n: int) -> None:
        async with chat.turn(f"m-{n}"):
            record_llm_call("gpt", USED, cost=Money("0.01", "EUR"))
            record_tool_call("look", {"n": n})

    async def many() -> None:
        await asyncio.gather(*(one(n) for n in range(100)))

    with session("chat-9") as chat:
        asyncio.run(many())

    ledger = told()
    assert lost() == 0
    found = ledger.session("chat-9")
    assert (found["turns"], found["calls"], found["cost"]) == (100, 200, {"EUR": 1_000_000})
    assert ledger.budget("euros").spent == Money(1, "EUR")
