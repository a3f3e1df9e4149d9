"""`guard()`: calls that a program passes on without being the tool, on a real ledger and to a real server of MCP."""

from __future__ import annotations

import asyncio
import functools
import sys
from pathlib import Path

import pytest
from opentelemetry.trace import StatusCode

from spanledger import Budget, Calls, Rule, errors, guard, workflow

REFUND = {"order_id": "o-1", "amount": 10}


class Elsewhere:
    """A tool that is somebody else's; it notes what reaches it."""

    def __init__(self) -> None:
        self.got: list[dict] = []

    def call(self, arguments: dict) -> dict:
        self.got.append(arguments)
        return {"refunded": arguments["order_id"]}

    async def call_awaiting(self, arguments: dict) -> dict:
        await asyncio.sleep(0)
        return self.call(arguments)


def awaited(invoke) -> object:
    async def main() -> object:
        return await guard("refund", REFUND, invoke)

    return asyncio.run(main())


WAYS = {
    "blocking": lambda there: guard("refund", REFUND, there.call),
    "awaiting": lambda there: awaited(there.call_awaiting),
    "partial": lambda there: awaited(functools.partial(Elsewhere.call_awaiting, there)),
}


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_a_call_is_passed_on_once_and_its_result_given_to_whoever_makes_it_again(way, ledger, spans):
    there = Elsewhere()
    assert [way(there), way(there)] == [{"refunded": "o-1"}] * 2
    assert there.got == [REFUND]
    (row,) = ledger.calls()
    assert (row["tool"], row["state"], row["workflow_id"]) == ("refund", "succeeded", "w")
    assert [s.attributes["spanledger.verdict"] for s in spans.all("execute_tool refund")] == ["run", "replay"]


def test_what_is_refused_is_not_passed_on_and_its_span_says_why(instrument, spans):
    instrument(budgets=[Budget("few", Calls(1), match="refund")])
    there = Elsewhere()
    with workflow("w", actor="u_42"):
        guard("refund", REFUND, there.call)
        with pytest.raises(errors.BudgetExceeded):
            guard("refund", {"order_id": "o-2"}, there.call)
    assert there.got == [REFUND]
    refused = spans.all("execute_tool refund")[1]
    assert refused.status.status_code is StatusCode.ERROR
    assert refused.attributes["spanledger.verdict"] == "budget_exceeded"


def test_a_permission_that_the_gateway_names_is_needed(instrument):
    instrument()
    there = Elsewhere()
    with workflow("w"), pytest.raises(errors.NotAuthorized, match="nobody has granted it"):
        guard("refund", REFUND, there.call, permission="payments:refund")
    assert there.got == []


@pytest.mark.usefixtures("guarded")
def test_a_key_of_the_one_who_calls_says_which_call_it_is():
    there = Elsewhere()
    guard("refund", REFUND, there.call, key="theirs-1")
    guard("refund", REFUND, there.call, key="theirs-2")
    guard("refund", REFUND, there.call, key="theirs-2")
    with pytest.raises(errors.KeyReused):
        guard("refund", {"order_id": "o-2"}, there.call, key="theirs-2")
    assert there.got == [REFUND, REFUND]


@pytest.mark.usefixtures("guarded")
def test_what_the_tool_raises_comes_as_it_is_and_is_kept(ledger):
    error = ValueError("card expired")

    def fail(_: dict) -> None:
        raise error

    with pytest.raises(ValueError) as raised:
        guard("refund", REFUND, fail)
    assert raised.value is error
    assert ledger.calls()[0]["state"] == "failed"


def test_what_was_decided_is_what_is_passed_on_whatever_the_caller_does_meanwhile(instrument, ledger):
    asked = asyncio.Queue()
    instrument(rules=[Rule("pay", approval=True, wait_timeout_s=30)], on_approval_needed=asked.put)
    there = Elsewhere()
    arguments = {"order_id": "o-1", "to": ["alice"]}

    async def main() -> None:
        with workflow("w"):
            waiting = asyncio.ensure_future(guard("pay", arguments, there.call_awaiting))
            approval = await asked.get()
            arguments["order_id"] = "o-2"
            arguments["to"].append("mallory")
            ledger.approve(approval.id, by="ops@example.com")
            await waiting

    asyncio.run(main())
    assert there.got == [{"order_id": "o-1", "to": ["alice"]}]


def test_in_mode_off_it_is_passed_on_as_often_as_it_is_made(instrument):
    instrument(mode="off")
    there = Elsewhere()
    guard("refund", REFUND, there.call)
    awaited(there.call_awaiting)
    assert there.got == [REFUND, REFUND]


@pytest.mark.usefixtures("guarded")
def test_a_plain_function_that_gives_back_a_coroutine_is_no_success(ledger):
    there = Elsewhere()
    made = []
    with pytest.raises(errors.ConfigError, match="async def"):
        guard("refund", REFUND, lambda arguments: made.append(1) or there.call_awaiting(arguments))
    assert (made, there.got) == ([1], [])
    assert ledger.calls()[0]["state"] != "succeeded"


def _generator(arguments: dict):
    yield arguments


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ({"invoke": None}, "takes the function"),
        ({"invoke": _generator}, "generator"),
        ({"arguments": ["o-1"]}, "as a mapping"),
        ({"lease": 1}, "lease"),
        ({"lease_s": -1}, "lease_s is a number"),
    ],
)
def test_what_cannot_be_is_refused_where_it_stands(said, told):
    given = {"name": "refund", "arguments": {}, "invoke": print} | said
    with pytest.raises(errors.ConfigError, match=told):
        guard(**given)


# A gateway of MCP


class Gateway:
    """What whoever writes a gateway of MCP writes: each call of a tool goes through `guard`."""

    def __init__(self, session) -> None:
        self._session = session

    async def call_tool(self, name: str, arguments: dict, **more) -> object:
        return await guard(name, arguments, functools.partial(self._session.call_tool, name), **more)


@pytest.mark.parametrize("libraries", [[], ["mcp"]], ids=["alone", "with the client instrumented"])
def test_a_gateway_passes_a_call_of_mcp_on_once(libraries, dsn, ledger, tmp_path: Path):
    pytest.importorskip("mcp")
    from mcp import ClientSession, StdioServerParameters, stdio_client

    import spanledger

    spanledger.instrument(spanledger.Config(dsn=dsn, budgets=[Budget("few", Calls(9))]), libraries=libraries)
    shop = StdioServerParameters(
        command=sys.executable,
        args=[str(Path(__file__).with_name("mcp_shop.py")), str(tmp_path / "refunded"), "refund"],
    )

    async def main() -> list:
        async with stdio_client(shop) as streams, ClientSession(*streams) as session:
            await session.initialize()
            gateway = Gateway(session)
            with workflow("w"):
                good = [await gateway.call_tool("refund", REFUND) for _ in range(2)]
                return good, [await gateway.call_tool("refund", {"order_id": "o-2"}) for _ in range(2)]

    good, bad = asyncio.run(main())
    assert good[0] == good[1]
    assert type(good[0]).__name__ == "CallToolResult"
    assert (tmp_path / "refunded").read_text() == "o-1\n"
    # What the server says went wrong is no result, and so is asked for again.
    rows = sorted((row["state"], row["attempts"]) for row in ledger.calls())
    assert rows == [("failed", 2), ("succeeded", 1)]
    assert all("order_id" not in str(result.content) or "amount" in str(result.content) for result in bad)
    assert ledger.budget("few").spent == Calls(1)
