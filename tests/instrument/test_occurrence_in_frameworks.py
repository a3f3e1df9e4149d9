"""Equal calls of frameworks, of servers and of processes that die: told apart by which of a run they are."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.tools import StructuredTool
from langchain_core.tools import tool as langchain_tool
from langchain_world import answers, asked, graph_of, told_by
from langgraph.prebuilt import ToolNode

import spanledger
from spanledger import Rule, workflow

LIBRARIES = ["langchain", "langgraph", "mcp"]
BY_OCCURRENCE = Rule("*refund", identity="occurrence")
GIVEN = {"order_id": "o-1", "amount": 10}


def rolled(dsn: str, file: Path, *words: str, code: int = 0) -> Any:
    program = [sys.executable, str(Path(__file__).with_name("rolling.py")), dsn, str(file), *words]
    done = subprocess.run(program, capture_output=True, text=True, timeout=90, check=False)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout or "null")


def test_a_run_that_was_killed_between_equal_calls_is_repeated_from_the_first_that_did_not_run(dsn, tmp_path, ledger):
    file = tmp_path / "rolled"
    for dies_after, throws in (("1", 1), ("2", 2)):
        rolled(dsn, file, dies_after, code=-signal.SIGKILL)
        assert len(file.read_text().splitlines()) == throws
    assert rolled(dsn, file) == [1, 2, 3] == rolled(dsn, file)
    assert len(file.read_text().splitlines()) == len(ledger.calls()) == 3


# --- LangGraph


def test_equal_tool_calls_of_a_graph_all_run_and_a_run_from_scratch_with_other_ids_replays_them(
    instrument, refund, world
):
    instrument(rules=[BY_OCCURRENCE])
    for ids in ("ab", "cde"):
        with workflow("w"):
            said = graph_of(refund).invoke(told_by(*[asked(f"call_{one}") for one in ids]))
        assert sorted(text for _, text in answers(said)) == [f"refund {n}" for n in range(1, len(ids) + 1)]
    assert len(world.refunded) == 3


def test_a_framework_that_asks_again_for_the_same_call_is_given_what_it_gave(instrument, refund, world):
    instrument(rules=[BY_OCCURRENCE])
    graph = graph_of(refund)
    with workflow("w"):
        given = [answers(graph.invoke(told_by(asked(id_)))) for id_ in ("call_a", "call_b", "call_a")]
    assert [text for ((_, text),) in given] == ["refund 1", "refund 2", "refund 1"]
    assert len(world.refunded) == 2


@pytest.mark.usefixtures("spans")
def test_without_a_workflow_the_trace_of_a_run_is_an_execution(instrument, refund, world):
    instrument(rules=[Rule("refund", identity="occurrence", scope="workflow")])
    thread: Any = {"configurable": {"thread_id": "t-1"}}
    for ids, count in (("ab", 2), ("cd", 2), ("efg", 3)):
        graph_of(refund, name="support").invoke(told_by(*[asked(f"call_{one}") for one in ids]), thread)
        assert len(world.refunded) == count


def test_a_function_inside_a_tool_that_no_rule_names_is_counted_with_those_of_the_run(instrument, world):
    instrument()

    @spanledger.tool("pay", identity="occurrence")
    def pay(order_id: str) -> str:
        return world.refund(order_id)

    @langchain_tool
    def settle(order_id: str) -> list[str]:
        """Pay twice, and fail the first time."""
        paid = [pay(order_id), pay(order_id)]
        if len(tried) == 0:
            tried.append(order_id)
            raise ValueError(order_id)
        return paid

    tried: list[str] = []
    graph = graph_of(ToolNode([settle], handle_tool_errors=True))
    with workflow("w"):
        for _ in range(2):  # the framework's own retry, by the same id
            graph.invoke(told_by(asked("call_a", "settle", order_id="o-1")))
        assert len(world.refunded) == 2
        graph.invoke(told_by(asked("call_b", "settle", order_id="o-1")))
    assert len(world.refunded) == 4
    with workflow("w"):
        for id_ in ("call_c", "call_d", "call_e"):  # another run is asked from scratch
            graph.invoke(told_by(asked(id_, "settle", order_id="o-1")))
    assert len(world.refunded) == 6


# --- the OpenAI Agents SDK


def test_equal_tool_calls_of_an_agent_all_run_and_another_run_replays_them(dsn, world):
    agents = pytest.importorskip("agents")
    import agents_world

    agents.set_trace_processors([])
    spanledger.instrument(spanledger.Config(dsn=dsn, rules=[BY_OCCURRENCE]), libraries=["openai_agents"])

    @agents.function_tool
    async def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        await asyncio.sleep(0.01)  # both run at once
        return world.refund(order_id)

    for ids in ("ab", "cde"):
        with workflow("w"):
            told = [agents_world.asked(f"call_{one}") for one in ids]
            said = agents_world.outputs(agents_world.run(agents_world.agent_of(refund, told=told)))
        assert sorted(said) == [f"refund {n}" for n in range(1, len(ids) + 1)]
    assert len(world.refunded) == 3


# --- over MCP


def ask_server(dsn: str, file: Path, times: int, *, over: str | None) -> None:
    """Have a server in a process of its own refund, perhaps by a framework's tool of another name."""
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    shop = str(Path(__file__).with_name("mcp_guarded_shop.py"))
    config = json.dumps({"dsn": dsn, "trust_baggage": True})
    environment = {"SHOP_CONFIG": config, "SHOP_IDENTITY": "occurrence"}
    parameters = StdioServerParameters(command=sys.executable, args=[shop, str(file)], env=environment)

    async def main() -> None:
        async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
            await session.initialize()

            async def refund(order_id: str, amount: int) -> str:
                """Refund an order."""
                return str(await session.call_tool("refund", {"order_id": order_id, "amount": amount}))

            tool = StructuredTool.from_function(coroutine=refund, name=over or "refund")
            for _ in range(times):
                assert "'isError': True" not in str(await (refund(**GIVEN) if over is None else tool.ainvoke(GIVEN)))

    asyncio.run(main())


@pytest.mark.parametrize("over", [None, "refund", "shop_refund"])
def test_a_call_that_is_passed_on_to_a_server_shares_the_number_of_the_one_around(
    instrument, dsn, tmp_path, ledger, over
):
    pytest.importorskip("mcp")
    instrument(rules=[BY_OCCURRENCE])
    file = tmp_path / "refunds"
    for times, refunds in ((1, 1), (2, 2), (3, 3), (3, 3)):
        with workflow("w"):
            ask_server(dsn, file, times, over=over)
        assert len(file.read_text().splitlines()) == refunds
    assert len(ledger.calls()) == (6 if over == "shop_refund" else 3)
