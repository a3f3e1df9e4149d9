"""Agents whose tools are those of a server of MCP: two funnels, one call."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from spanledger import Budget, Calls, Rule, errors

LIBRARIES = ["openai_agents", "pydantic_ai", "mcp"]
SERVER = str(Path(__file__).with_name("mcp_shop.py"))
RULES = [Rule("refund", identity="arguments")]
FEW = Budget("few", Calls(1), match="refund")


def openai_agents(
    file: Path, call_id: str, *, prefixed: bool = False, server_name: str = "shop", name: str = "refund"
) -> str:
    import agents_world
    from agents import Runner, set_trace_processors
    from agents.mcp import MCPServerStdio
    from agents.mcp.util import MCPUtil

    set_trace_processors([])

    async def main() -> str:
        started = {"command": sys.executable, "args": [SERVER, str(file), name]}
        async with MCPServerStdio(started, name=server_name) as server:
            spoken = MCPUtil._shorten_tool_name(f"mcp_{server_name}__{name}", f"{server_name}\0{name}")
            told = [agents_world.asked(call_id, name=spoken if prefixed else name)]
            named = {"include_server_in_tool_names": prefixed}
            agent = agents_world.agent_of(told=told, mcp_servers=[server], mcp_config=named)
            return str(agents_world.outputs(await Runner.run(agent, "go")))

    return asyncio.run(main())


def pydantic_ai(file: Path, call_id: str, *, prefixed: bool = False) -> str:
    import pydantic_world
    from fastmcp.client.transports import StdioTransport
    from pydantic_ai.mcp import MCPToolset

    async def main() -> str:
        transport = StdioTransport(sys.executable, [SERVER, str(file), "refund"], keep_alive=False)
        told = [pydantic_world.asked(call_id, name="shop_refund" if prefixed else "refund")]
        # Its own limit of five seconds is short for a machine that does something else as well.
        toolset = MCPToolset(transport, init_timeout=60)
        agent = pydantic_world.agent_of(told=told, toolsets=[toolset.prefixed("shop") if prefixed else toolset])
        async with agent:
            return str([p.content for p in pydantic_world.returns((await agent.run("go")).all_messages())])

    return asyncio.run(main())


PREFIXED = {openai_agents: "mcp_shop__refund", pydantic_ai: "shop_refund"}
Turn = Callable[[Path, str], str]


@pytest.fixture(params=[openai_agents, pydantic_ai], ids=lambda way: way.__name__)
def turn(request: Any, tmp_path: Path) -> Callable[[str], str]:
    return lambda call_id: request.param(tmp_path / "refunded", call_id)


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_of_a_server_is_one_call_and_runs_once(turn, instrument, ledger, spans, tmp_path):
    instrument(rules=RULES, budgets=[FEW])
    first, second = turn("call_a"), turn("call_b")
    assert first == second
    assert "refunded" in first
    assert (tmp_path / "refunded").read_text() == "o-1\n"
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"], row["call_id"]) == ("succeeded", 1, "call_a")
    assert ledger.budget("few").spent == Calls(1)
    verdicts = [span.attributes.get("spanledger.verdict") for span in spans.all("execute_tool refund")]
    assert [verdict for verdict in verdicts if verdict] == ["run", "replay"]


@pytest.mark.usefixtures("in_workflow")
def test_a_refusal_stops_the_run_before_the_server_is_asked(turn, instrument, tmp_path):
    instrument(budgets=[FEW])
    turn("call_a")
    with pytest.raises(errors.BudgetExceeded):
        turn("call_b")
    assert (tmp_path / "refunded").read_text() == "o-1\n"


@pytest.mark.parametrize("way", [openai_agents, pydantic_ai])
@pytest.mark.usefixtures("in_workflow")
def test_a_tool_with_a_prefix_before_its_server_s_name_is_one_call_to_a_budget_of_both(
    way, instrument, ledger, tmp_path
):
    named = PREFIXED[way]
    budgets = [Budget("agent's", Calls(9), match=named), Budget("server's", Calls(9), match="refund")]
    instrument(rules=[Rule("*refund", identity="arguments")], budgets=[*budgets, Budget("both", Calls(9))])
    for call_id in ("call_a", "call_b"):
        assert "refunded" in way(tmp_path / "refunded", call_id, prefixed=True)
    assert (tmp_path / "refunded").read_text() == "o-1\n"
    assert sorted(row["tool"] for row in ledger.calls()) == sorted([named, "refund"])
    assert [ledger.budget(name).spent for name in ("agent's", "server's", "both")] == [Calls(1)] * 3


@pytest.mark.usefixtures("in_workflow")
def test_rules_know_a_tool_by_its_own_name_where_that_was_too_long_and_became_a_hash(instrument, ledger, tmp_path):
    name = "shop_" * 14
    budgets = [Budget("server's", Calls(9), match="refund"), Budget("both", Calls(9), match="*refund")]
    instrument(rules=[Rule("*refund", identity="arguments")], budgets=budgets)
    for call_id in ("call_a", "call_b"):
        assert "refunded" in openai_agents(tmp_path / "refunded", call_id, prefixed=True, server_name=name)
    assert (tmp_path / "refunded").read_text() == "o-1\n"
    longer, own = sorted({row["tool"] for row in ledger.calls()})
    assert (own, longer[:10], longer[-8:]) == ("refund", "mcp_shop_s", "__refund")
    assert [ledger.budget(name).spent for name in ("server's", "both")] == [Calls(1)] * 2


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_whose_own_name_ends_like_a_hash_has_no_other_name(instrument, ledger, tmp_path):
    name = "refund_20260101"
    instrument(rules=[Rule(f"mcp_shop__{name}", identity="arguments")], budgets=[Budget("all", Calls(9))])
    for call_id in ("call_a", "call_b"):
        assert "refunded" in openai_agents(tmp_path / "refunded", call_id, prefixed=True, name=name)
    assert (tmp_path / "refunded").read_text() == "o-1\n"
    assert {row["tool"] for row in ledger.calls()} == {f"mcp_shop__{name}", name}
