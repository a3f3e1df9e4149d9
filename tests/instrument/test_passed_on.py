"""A framework's tool that passes its call on to a server, where it has another name, is one call to a shared budget."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest

pytest.importorskip("mcp")
from langchain_core.tools import StructuredTool

from spanledger import Budget, Calls, Money, Rule, errors

try:  # 2
    from mcp import Client as in_process
    from mcp.server.mcpserver import MCPServer
except ImportError:  # 1
    from mcp.server.fastmcp import FastMCP as MCPServer
    from mcp.shared.memory import create_connected_server_and_client_session as in_process

LIBRARIES = ["langchain", "mcp"]
BOTH = Budget("both", Calls(20))
GIVEN = {"order_id": "o-1"}


def shop(ran: list[str]) -> Any:
    server = MCPServer("shop")

    def refund(order_id: str) -> str:
        ran.append(order_id)
        return "refunded"

    for name in ("refund", "look.up", "a", "b", "c"):
        server.tool(name=name)(refund)
    return server


@pytest.fixture
def ran() -> list[str]:
    return []


@pytest.fixture
def call(ran: list[str]) -> Callable[..., None]:
    """Have a framework's tool of some name call tools of the server: by default one, with its own arguments."""

    def run(
        name: str,
        *inner: str,
        given: Sequence[dict[str, str]] = (GIVEN,),
        lose: Exception | None = None,
        then: Exception | None = None,
    ) -> None:
        async def main() -> None:
            server = shop(ran)
            async with in_process(server if hasattr(in_process, "__aenter__") else server._mcp_server) as client:
                session = getattr(client, "session", client)
                if lose is not None:
                    session.send_request = losing(session.send_request, lose)

                async def body(order_id: str) -> str:
                    try:
                        for tool in inner:
                            for arguments in given:
                                await session.call_tool(tool, arguments)
                    except LookupError as error:
                        raise ValueError(str(error)) from None
                    if then is not None:
                        raise then
                    return "done"

                tool = StructuredTool.from_function(coroutine=body, name=name, description="Refund.")
                await tool.ainvoke(GIVEN)

        try:
            asyncio.run(main())
        except BaseExceptionGroup as group:
            raise alone(group) from None

    return run


def losing(send: Callable[..., Any], error: Exception) -> Callable[..., Any]:
    """A connection that breaks when the server has answered a call."""

    async def lost(*args: Any, **kwargs: Any) -> Any:
        answer = await send(*args, **kwargs)
        if hasattr(answer, "content"):
            raise error
        return answer

    return lost


def alone(error: BaseException) -> BaseException:
    """The one error that task groups are made of."""
    return alone(error.exceptions[0]) if isinstance(error, BaseExceptionGroup) else error


@pytest.mark.parametrize(
    ("name", "inner"),
    [
        ("shop_refund", "refund"),
        ("mcp__shop__refund", "refund"),
        ("shop.refund", "refund"),
        ("shop_look_up", "look.up"),
    ],
)
@pytest.mark.usefixtures("in_workflow")
def test_a_prefix_makes_no_second_call_of_it(name, inner, instrument, call, ledger, ran):
    own = [Budget("outer", Calls(20), match=name), Budget("inner", Calls(20), match=inner)]
    instrument(budgets=[BOTH, *own])
    call(name, inner)
    assert ran == ["o-1"]
    assert [ledger.budget(budget).spent for budget in ("both", "outer", "inner")] == [Calls(1)] * 3
    assert sorted(row["tool"] for row in ledger.calls()) == sorted([name, inner])


@pytest.mark.parametrize(
    ("name", "inner", "given", "calls"),
    [
        ("research", ("a", "b", "c"), [GIVEN], 4),  # an agent as a tool, say
        ("shop_refund", ("refund",), [{"order_id": "o-2"}], 2),
        ("prerefund", ("refund",), [GIVEN], 2),
        ("shop_refund", ("refund",), [GIVEN, GIVEN, GIVEN], 3),
        ("shop_refund", ("refund", "a"), [GIVEN], 2),
    ],
    ids=["other names", "other arguments", "no prefix", "again", "and another"],
)
@pytest.mark.usefixtures("in_workflow")
def test_what_a_tool_calls_besides_counts(name, inner, given, calls, instrument, call, ledger):
    instrument(budgets=[BOTH])
    call(name, *inner, given=given)
    assert ledger.budget("both").spent == Calls(calls)


@pytest.mark.usefixtures("in_workflow")
def test_the_last_call_of_a_budget_can_be_passed_on(instrument, call, ran):
    instrument(budgets=[Budget("one", Calls(1))])
    call("shop_refund", "refund")
    with pytest.raises(errors.BudgetExceeded):
        call("shop_refund", "refund")
    assert ran == ["o-1"]


@pytest.mark.parametrize(
    ("config", "refusal"),
    [
        ({"rules": [Rule("refund", approval=True, wait_timeout_s=0)]}, errors.ApprovalPending),
        ({"budgets": [Budget("none", Calls(0), match="refund")]}, errors.BudgetExceeded),
    ],
    ids=["rules", "budgets"],
)
@pytest.mark.usefixtures("in_workflow")
def test_what_holds_for_the_server_s_name_holds_all_the_same(config, refusal, instrument, call, ran):
    instrument(**config)
    with pytest.raises(refusal):
        call("shop_refund", "refund")
    assert ran == []


@pytest.mark.parametrize(("outer", "inner", "spent"), [(0, 5, 5), (2, 5, 5), (5, 2, 5), (5, 0, 5)])
@pytest.mark.usefixtures("in_workflow")
def test_of_what_both_reserve_the_greater_is_spent(outer, inner, spent, instrument, call, ledger):
    prices = {"shop_refund": outer, "refund": inner}
    rules = [Rule(name, reserve=Money(str(price), "EUR")) for name, price in prices.items() if price]
    instrument(rules=rules, budgets=[Budget("money", Money("9", "EUR")), BOTH])
    call("shop_refund", "refund")
    assert ledger.budget("money").spent == Money(str(spent), "EUR")
    assert ledger.budget("both").spent == Calls(1)


@pytest.mark.parametrize(("outer", "inner", "spent"), [(5, 5, 5), (2, 5, 5), (5, 2, 5), (5, 0, 5)])
@pytest.mark.usefixtures("in_workflow")
def test_what_took_effect_at_the_server_is_spent_once_though_the_call_around_fails(
    outer, inner, spent, instrument, call, ledger, ran
):
    prices = {"shop_refund": outer, "refund": inner}
    by_price = {name: Money(str(price), "EUR") if price else None for name, price in prices.items()}
    rules = [Rule(name, reserve=price, identity="arguments") for name, price in by_price.items()]
    instrument(rules=rules, budgets=[Budget("money", Money("20", "EUR")), BOTH])
    for _ in range(2):  # the second time it is only replayed
        with pytest.raises(ValueError, match="cannot read"):
            call("shop_refund", "refund", then=ValueError("cannot read the answer"))
    call("shop_refund", "refund")
    assert ran == ["o-1"]
    assert (ledger.budget("money").spent, ledger.budget("both").spent) == (Money(str(spent), "EUR"), Calls(1))


@pytest.mark.usefixtures("in_workflow")
def test_what_a_program_with_a_secret_passes_on_is_known_as_well(instrument, call, ledger):
    instrument(secret="s" * 32, budgets=[BOTH])
    call("shop_refund", "refund")
    assert ledger.budget("both").spent == Calls(1)


@pytest.mark.usefixtures("in_workflow")
def test_in_shadow_what_is_passed_on_counts_once_too(instrument, call, ledger, ran):
    instrument(mode="shadow", budgets=[BOTH])
    call("shop_refund", "refund")
    assert (ran, ledger.budget("both").spent) == (["o-1"], Calls(1))


@pytest.mark.usefixtures("in_workflow")
def test_what_may_have_taken_effect_at_the_server_stays_held_by_the_call_around(instrument, call, ledger):
    instrument(budgets=[BOTH], rules=[Rule("refund", ambiguous_errors=(LookupError,))])
    with pytest.raises(ValueError, match="lost"):
        call("shop_refund", "refund", lose=LookupError("lost"))
    assert [row["state"] for row in ledger.calls()] == ["unknown", "unknown"]
    assert ledger.budget("both").held == Calls(1)
