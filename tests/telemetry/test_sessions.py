"""Sessions and their turns: how they end, what they come to, and what groups them in the trace."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest

import spanledger
from spanledger import (
    Budget,
    Config,
    Ledger,
    Money,
    Usage,
    current_call,
    record_llm_call,
    session,
    tool,
    tool_call,
    workflow,
)
from spanledger import _setup as setup
from spanledger.errors import ConfigError

EUR_5 = {"EUR": 5_000_000}


@pytest.fixture(autouse=True)
def instrumented(dsn: str) -> None:
    spanledger.instrument(Config(dsn=dsn, budgets=[Budget("all", Money(100, "EUR"))]), libraries=[])


@pytest.fixture
def told(ledger: Ledger) -> Callable[[], Ledger]:
    """The ledger, when all that was said so far is told."""

    def flushed() -> Ledger:
        assert setup._installed is not None
        assert setup._installed.connected.trail.flush(20)
        return ledger

    return flushed


@tool("refund", reserve=lambda arguments: Money(arguments["euros"], "EUR"))
def refund(order_id: str, euros: int) -> str:
    return order_id


def test_turns_are_traces_of_their_own_that_carry_the_id_of_the_conversation(told, spans):
    with session("chat-9", agent="support", actor="u_42") as chat:
        with chat.turn("m-1", goal="refund order 1"):
            refund("o-1", 5)
        with chat.turn("m-2"):
            refund("o-2", 5)

    turns = spans.all("invoke_agent support")
    assert len({span.context.trace_id for span in turns}) == 2
    of_conversation = [*turns, *spans.all("execute_tool refund")]
    assert {span.attributes["gen_ai.conversation.id"] for span in of_conversation} == {"chat-9"}
    assert [span.attributes["spanledger.workflow.id"] for span in turns] == ["chat-9/m-1", "chat-9/m-2"]
    rows = told().turns("chat-9")
    assert [(row["workflow_id"], row["goal"], row["status"]) for row in rows] == [
        ("chat-9/m-1", "refund order 1", "done"),
        ("chat-9/m-2", None, "done"),
    ]
    assert [int(row["trace_id"], 16) for row in rows] == [span.context.trace_id for span in turns]


def test_what_calls_cost_is_summed_per_turn_and_session_and_a_replay_costs_nothing(told):
    with session("chat-9", agent="support", actor="u_42") as chat:
        for order in ("o-1", "o-1", "o-2"):
            with chat.turn("m-1"):
                refund(order, 5)
        with chat.turn("m-2"), pytest.raises(ZeroDivisionError), tool_call("broken", {}):
            _ = 1 / 0
        refund("outside of any turn", 5)

    ledger = told()
    rows = ledger.turns("chat-9")
    assert [(row["calls"], row["cost"], row["failed_calls"]) for row in rows] == [
        (1, EUR_5, 0),
        (0, {}, 0),
        (1, EUR_5, 0),
        (1, {}, 1),
    ]
    found = ledger.session("chat-9")
    assert found is not None
    assert (found["turns"], found["calls"], found["cost"]) == (4, 4, {"EUR": 15_000_000})
    assert (found["agent"], found["actor"], found["status"]) == ("support", "u_42", "done")
    assert found["latency_s"] == pytest.approx(sum(row["latency_s"] for row in rows))
    assert ledger.budget("all").spent == Money(15, "EUR")


def test_a_call_that_ran_again_in_another_turn_counts_where_it_ran(told):
    outcomes = [ValueError("no"), None]

    @tool("mail")
    def mail(to: str) -> str:
        current_call().charge(Money(1, "EUR"))
        if error := outcomes.pop(0):
            raise error
        return to

    with session("chat-9") as chat, workflow("order-1"), pytest.raises(ValueError, match="no"):
        mail("ada")
    with session("chat-9") as chat, chat.turn("m-2"), workflow("order-1"):
        mail("ada")

    (turn,) = told().turns("chat-9")
    assert (turn["calls"], turn["cost"]) == (1, {"EUR": 1_000_000})


def test_workflows_inside_a_turn_count_in_it_and_not_in_other_sessions_with_that_workflow(told):
    for name in ("chat-1", "chat-2"):
        with session(name) as chat, chat.turn(), workflow("order-1"):
            refund(f"for {name}", 5)

    for name in ("chat-1", "chat-2"):
        assert [row["cost"] for row in told().turns(name)] == [EUR_5]
        assert told().session(name)["cost"] == EUR_5


def test_ids_with_separators_in_them_move_nothing_from_one_session_to_the_next(told):
    for name, turn in (("a/b", "c"), ("a", "b/c"), ("a%2Fb", "c")):
        with session(name) as chat, chat.turn(turn):
            refund("the same", 5)

    assert [told().session(name)["calls"] for name in ("a/b", "a", "a%2Fb")] == [1, 1, 1]


@pytest.mark.parametrize(
    ("error", "status"),
    [(ValueError("no"), "failed"), (KeyboardInterrupt(), "interrupted"), (asyncio.CancelledError(), "interrupted")],
    ids=repr,
)
def test_what_is_raised_passes_through_and_says_how_session_and_turn_ended(error, status, told):
    with pytest.raises(type(error)), session("chat-9") as chat, chat.turn():
        raise error

    found, (turn,) = told().session("chat-9"), told().turns("chat-9")
    assert found["status"] == turn["status"] == status
    assert found["error"] == turn["error"]
    assert found["error"].endswith(type(error).__name__)


def test_an_error_in_a_turn_that_is_handled_is_none_of_the_session(told):
    with session("chat-9") as chat, pytest.raises(ValueError, match="no"), chat.turn():
        raise ValueError("no")

    assert told().session("chat-9")["status"] == "done"
    assert [row["status"] for row in told().turns("chat-9")] == ["failed"]


def test_a_session_ends_once_whoever_says_so_first(told):
    with session("chat-1") as chat:
        chat.end("failed", error="the customer hung up")
        chat.end("done")
    with session("chat-2"):
        assert told().end_session("chat-2", by="ops@example.com", status="failed", error="closed at night")
        assert not told().end_session("chat-2", by="late@example.com")

    first, second = told().session("chat-1"), told().session("chat-2")
    assert (first["status"], first["error"], first["ended_by"]) == ("failed", "the customer hung up", None)
    assert (second["status"], second["error"], second["ended_by"]) == ("failed", "closed at night", "ops@example.com")
    assert not told().end_session("chat-1", by="ops")
    assert not told().end_session("no such session", by="ops")


def test_a_session_that_is_opened_again_goes_on_and_is_open_as_long_as_it_is_open_anywhere(told):
    with session("chat-9", agent="support") as chat, chat.turn():
        pass
    ended_at = told().session("chat-9")["ended_at"]
    assert ended_at
    with session("chat-9"), session("chat-9") as chat:
        assert told().session("chat-9")["status"] == "open"
        chat.end()
        found = told().session("chat-9")
        assert (found["status"], found["ended_at"]) == ("open", None)
    found = told().session("chat-9")
    assert (found["status"], found["turns"], found["agent"]) == ("done", 1, "support")
    assert found["ended_at"] > ended_at


KILLED = """
import os, signal
import spanledger
from spanledger import session
from spanledger import _setup as setup

spanledger.instrument(libraries=[])
with session("chat-9") as chat, chat.turn("m-1"):
    assert setup._installed.connected.trail.flush(20)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_session_whose_process_was_killed_is_lost_once_its_signs_of_life_stop(dsn, told, sql):
    done = subprocess.run([sys.executable, "-c", KILLED], env={**os.environ, "SPANLEDGER_DSN": dsn}, check=False)
    assert done.returncode == -signal.SIGKILL
    assert told().session("chat-9")["status"] == "open"  # nobody knows yet

    sql.execute("update spanledger.run set alive_until = clock_timestamp()")
    found, (turn,) = told().session("chat-9"), told().turns("chat-9")
    assert (found["status"], turn["status"], turn["ended_at"]) == ("lost", "lost", None)
    assert [row["session_id"] for row in told().sessions(status="lost")] == ["chat-9"]
    with session("chat-9"):
        assert told().session("chat-9")["status"] == "open"
    assert told().session("chat-9")["status"] == "done"


def test_a_session_that_is_open_gives_signs_of_life_and_one_that_has_ended_gives_none(told, sql):
    heartbeat = setup._installed.connected.database.heartbeat
    with session("chat-9") as chat:
        told()
        (pulse,) = heartbeat._heart()._pulses.values()
        sql.execute("update spanledger.run set alive_until = '-infinity'")
        heartbeat._heart()._beat([pulse])
        assert told().session("chat-9")["status"] == "open"
        chat.end()
        assert pulse.holder() is None
    told()
    before = sql.execute("select alive_until from spanledger.run").fetchone()
    heartbeat._heart()._beat([pulse])
    assert sql.execute("select alive_until from spanledger.run").fetchone() == before


async def awaited() -> None:
    async with session("chat-9", agent="support") as chat:
        async with chat.turn("m-1"):
            await asyncio.to_thread(refund, "o-1", 5)

        async def other() -> None:
            async with chat.turn("m-2"):
                refund_awaiting = tool("pay", reserve=lambda a: Money(a["euros"], "EUR"))(pay)
                await refund_awaiting(5)

        await asyncio.gather(other())


async def pay(euros: int) -> int:
    return euros


def test_awaited_turns_are_as_others_also_in_tasks_and_threads(told):
    asyncio.run(awaited())

    assert [(row["workflow_id"], row["cost"]) for row in told().turns("chat-9")] == [
        ("chat-9/m-1", EUR_5),
        ("chat-9/m-2", EUR_5),
    ]


def test_a_call_by_hand_under_the_workflow_of_a_turn_counts_in_it(told, ledger):
    with session("chat-9") as chat, chat.turn("m-1") as turn:
        call = spanledger.ToolCall("wire", {}, workflow_id=turn.workflow_id, cost=Money(5, "EUR"))
        ledger.settle(ledger.begin(call), None, cost=Money(5, "EUR"))
    with session("chat-9") as chat, chat.turn("m-1"):
        pass

    assert [row["cost"] for row in told().turns("chat-9")] == [EUR_5, {}]


@pytest.mark.parametrize("bad", ["", "x" * 513, "a\0b", "a\nb", 7, b"chat"], ids=repr)
def test_an_id_that_is_none_is_refused_at_once(bad: Any):
    with pytest.raises(ValueError, match="printable text"):
        session(bad)
    with session("chat-9") as chat, pytest.raises(ValueError, match="printable text"):
        chat.turn(bad)


@pytest.mark.parametrize("bad", ["", "x" * 513, "a\0b", "\ud800", 7], ids=repr)
@pytest.mark.parametrize("name", ["agent_version", "environment"])
def test_a_version_or_environment_that_cannot_be_kept_is_refused_at_once(name: str, bad: Any):
    with pytest.raises(ValueError, match=f"{name} is printable text"):
        session("chat-9", **{name: bad})
    with pytest.raises(ConfigError, match=f"{name} is printable text"):
        Config(**{name: bad})


def test_what_another_program_says_of_a_version_that_cannot_be_kept_is_not_heard():
    for said in ("a%00b", "x" * 513, "a\udcffb"):
        assert Config.from_env({"OTEL_RESOURCE_ATTRIBUTES": f"service.version={said}"}).agent_version is None


def test_a_turn_needs_an_open_session():
    chat = session("chat-9")
    for _ in range(2):
        with pytest.raises(RuntimeError, match="open the session first"):
            chat.turn()
        with chat:
            pass
    with pytest.raises(ValueError, match="ends as"), chat:
        chat.end("completed")  # type: ignore[arg-type]


def test_sessions_are_listed_newest_first_and_chosen_by_what_they_are(told):
    for name, agent, actor in (("chat-1", "support", "u_1"), ("chat-2", "sales", "u_2"), ("chat-3", "support", "u_2")):
        with session(name, agent=agent, actor=actor):
            pass

    ledger = told()
    assert [row["session_id"] for row in ledger.sessions()] == ["chat-3", "chat-2", "chat-1"]
    assert [row["session_id"] for row in ledger.sessions(limit=1)] == ["chat-3"]
    assert [row["session_id"] for row in ledger.sessions(agent="support")] == ["chat-3", "chat-1"]
    assert [row["session_id"] for row in ledger.sessions(agent="support", actor="u_1")] == ["chat-1"]
    assert ledger.sessions(status="lost") == []
    assert ledger.sessions(tenant="other") == []
    assert ledger.session("chat-9") is None
    with pytest.raises(spanledger.errors.ConfigError, match="chosen by"):
        ledger.sessions(colour="red")
    with pytest.raises(spanledger.errors.ConfigError, match="ends as"):
        ledger.end_session("chat-1", by="ops", status="completed")


def test_two_tenants_have_sessions_of_one_id_and_see_their_own(told, ledger_with):
    for tenant in ("acme", "other"):
        with session("chat-9", tenant=tenant) as chat, chat.turn("m-1"):
            refund(f"for {tenant}", 5)

    told()
    for tenant in ("acme", "other"):
        assert ledger_with(tenant=tenant).session("chat-9")["calls"] == 1


def test_what_was_said_of_a_turn_is_erased_and_that_it_happened_is_not(told, ledger):
    with session("chat-9", actor="u_42") as chat:
        with chat.turn("m-1", goal="refund Ada's card 4711"):
            refund("o-1", 5)
        chat.end("failed", error="Ada hung up")

    told().erase(by="privacy@example.com", actor="u_42")
    (turn,) = ledger.turns("chat-9")
    assert (turn["goal"], turn["status"], turn["cost"]) == (None, "done", EUR_5)
    assert ledger.session("chat-9")["error"] is None


# --- tokens by kind


def test_tokens_that_were_read_written_cached_and_thought_are_kept_apart(told):
    with session("chat-9", agent="support") as chat:
        with chat.turn("m-1"):
            record_llm_call("m", Usage(input_tokens=100, output_tokens=20, cached_tokens=60, reasoning_tokens=5))
            record_llm_call("m", Usage(input_tokens=10), error="broke off")
        with chat.turn("m-2"):
            record_llm_call("m", Usage(input_tokens=1, output_tokens=2))

    kinds = ("tokens", "input_tokens", "output_tokens", "cached_tokens", "reasoning_tokens")
    ledger = told()
    assert [tuple(row[kind] for kind in kinds) for row in ledger.turns("chat-9")] == [
        (130, 110, 20, 60, 5),
        (3, 1, 2, 0, 0),
    ]
    one = ledger.session("chat-9") or {}
    assert tuple(one[kind] for kind in kinds) == (133, 111, 22, 60, 5)
    spent = (ledger.agent("support") or {})["spent"]
    assert (spent["input_tokens"], spent["output_tokens"]) == (111, 22)
    assert {"input_tokens": 1, "output_tokens": 2} in [call["usage"] for call in ledger.calls()]


def test_usage_that_is_no_usage_makes_no_session_unreadable(told, sql):
    with session("chat-9") as chat, chat.turn("m-1"):
        record_llm_call("m", Usage(input_tokens=1))
        record_llm_call("m", Usage(input_tokens=2))
    ledger = told()
    for odd in ('{"input_tokens": "many"}', '{"input_tokens": 1e300}', '{"input_tokens": -5}', "[]", "7", "null"):
        sql.execute(
            "update spanledger.call set usage = %s where usage ->> 'input_tokens' <> '1' or usage is null", (odd,)
        )
        assert (ledger.session("chat-9") or {})["input_tokens"] in (1, 1_000_000_000_001)


# --- versions of agents, and where they run


def test_a_session_says_which_version_of_the_agent_ran_where(told, spans):
    with session("chat-9", agent="support", agent_version="1.4", environment="staging") as chat, chat.turn("m-1"):
        refund("o-1", 5)
        with workflow("inner", agent="another"):
            pass

    (turn,) = spans.all("invoke_agent support")
    assert (turn.attributes["gen_ai.agent.version"], turn.attributes["deployment.environment.name"]) == (
        "1.4",
        "staging",
    )
    assert spans.one("execute_tool refund").attributes["gen_ai.agent.version"] == "1.4"
    # The version of one agent is not that of another inside it.
    assert "gen_ai.agent.version" not in spans.one("invoke_agent another").attributes
    ledger = told()
    rows = [ledger.session("chat-9") or {}, *ledger.turns("chat-9")]
    assert [(row["agent_version"], row["environment"]) for row in rows] == [("1.4", "staging")] * 2


def test_without_a_word_it_is_the_configured_version_and_a_session_is_as_it_was_opened_last(dsn, told, spans):
    for version in ("1.4", "1.5"):
        spanledger.instrument(Config(dsn=dsn, agent_version=version, environment="prod"), libraries=[])
        with session("chat-9", agent="support") as chat, chat.turn():
            pass
        told()

    ledger = told()
    assert [turn["agent_version"] for turn in ledger.turns("chat-9")] == ["1.4", "1.5"]
    assert (ledger.session("chat-9") or {})["agent_version"] == "1.5"
    versions = (ledger.agent("support") or {})["versions"]
    assert [(one["agent_version"], one["environment"], one["sessions"]) for one in versions] == [
        ("1.5", "prod", 1),
        ("1.4", "prod", 1),
    ]
    assert [span.attributes["gen_ai.agent.version"] for span in spans.all("invoke_agent support")] == ["1.4", "1.5"]


def test_where_nobody_has_said_a_version_there_is_none(told, spans):
    with session("chat-9", agent="support") as chat, chat.turn():
        pass

    assert {"gen_ai.agent.version", "deployment.environment.name"}.isdisjoint(
        spans.one("invoke_agent support").attributes
    )
    assert (told().agent("support") or {})["versions"] == []
