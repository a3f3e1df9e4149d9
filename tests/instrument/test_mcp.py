"""MCP between two processes on one ledger: who has asked for a call says so, and is believed if the ledger agrees."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry import trace

import spanledger
from spanledger import Budget, Calls, Config, Rule, workflow
from spanledger.errors import OutcomeUnknown

pytest.importorskip("mcp")
import mcp_lowlevel_shop
from mcp import ClientSession, StdioServerParameters
from mcp.client.stdio import stdio_client

try:
    from mcp.client.streamable_http import streamable_http_client as streamable_http
except ImportError:  # the oldest
    from mcp.client.streamable_http import streamablehttp_client as streamable_http

try:  # 2
    from mcp import Client as in_process
except ImportError:  # 1
    from mcp.shared.memory import create_connected_server_and_client_session as in_process

SHOPS = ["mcp_guarded_shop.py", "mcp_lowlevel_shop.py"]
REFUND = {"order_id": "o-1", "amount": 10}


@pytest.fixture(params=SHOPS)
def shop(request) -> str:
    """A server whose tools the SDK runs, and one that answers requests itself."""
    return str(Path(__file__).with_name(request.param))


def ask(dsn: str, file: Path, *calls: dict, shop: str = str(Path(__file__).with_name(SHOPS[0])), **config: Any) -> list:
    """Have a server in a process of its own refund, by calls of one session."""
    environment = {"SHOP_CONFIG": json.dumps({"dsn": dsn, **config})}
    parameters = StdioServerParameters(command=sys.executable, args=[shop, str(file)], env=environment)

    async def main() -> list:
        async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
            await session.initialize()
            return [await session.call_tool("refund", REFUND, **call) for call in calls]

    return asyncio.run(main())


@pytest.fixture
def url(dsn: str, tmp_path: Path) -> Iterator[str]:
    """The address of the first shop in a process of its own, over HTTP."""
    shop = Path(__file__).with_name(SHOPS[0])
    environment = {**os.environ, "SHOP_CONFIG": json.dumps({"dsn": dsn, "tenant": "shop", "trust_baggage": True})}
    command = [sys.executable, str(shop), str(tmp_path / "refunds"), "http"]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        yield f"http://127.0.0.1:{process.stdout.readline().strip()}/mcp"
        process.terminate()


def test_over_http_every_request_of_a_session_has_its_own_workflow_and_trace(url, dsn, ledger_with, tmp_path, spans):
    spanledger.instrument(Config(dsn=dsn), libraries=["mcp"])

    async def main() -> None:
        async with streamable_http(url) as streams, ClientSession(*streams[:2]) as session:
            await session.initialize()
            for name in ("w-1", "w-2", "w-1"):
                with workflow(name):
                    await session.call_tool("refund", REFUND)

    asyncio.run(main())
    first, second = (line.split() for line in (tmp_path / "refunds").read_text().splitlines())
    ran = [trace.format_trace_id(span.context.trace_id) for span in spans.all("execute_tool refund")]
    assert [first[1], first[3], second[1], second[3]] == [ran[0], "w-1", ran[1], "w-2"]
    assert {row["workflow_id"] for row in ledger_with(tenant="shop").calls()} == {"w-1", "w-2"}


# Before 2, a client over HTTP waits for ever.
@pytest.mark.parametrize("over", ["stdio", "http"] if in_process.__name__ == "Client" else ["stdio"])
def test_of_a_call_whose_server_dies_in_the_midst_of_it_nobody_knows_whether_it_took_effect(
    over, url, dsn, ledger, tmp_path
):
    spanledger.instrument(Config(dsn=dsn, rules=[Rule("refund", identity="arguments")]), libraries=["mcp"])

    @contextlib.asynccontextmanager
    async def streams() -> AsyncIterator[Any]:
        if over == "http":
            async with streamable_http(url) as streams:
                yield streams[:2]
            return
        shop, environment = Path(__file__).with_name(SHOPS[0]), {"SHOP_CONFIG": '{"mode": "off"}'}
        file = str(tmp_path / "refunds")
        async with stdio_client(
            StdioServerParameters(command=sys.executable, args=[str(shop), file], env=environment)
        ) as streams:
            yield streams

    async def main() -> None:
        async with streams() as both, ClientSession(*both) as session:
            await session.initialize()
            with workflow("w"), pytest.raises(Exception, match=r"Connection closed|SSE stream ended"):
                await session.call_tool("refund", {"order_id": "o-killed", "amount": 10})
            with workflow("w"), pytest.raises(OutcomeUnknown):
                await session.call_tool("refund", {"order_id": "o-killed", "amount": 10})

    asyncio.run(main())
    assert len((tmp_path / "refunds").read_text().splitlines()) == 1
    assert [row["state"] for row in ledger.calls()] == ["unknown"]


def failed(result: Any) -> bool:
    return result.is_error if hasattr(result, "is_error") else result.isError


def test_client_and_server_on_one_ledger_ask_once_and_are_one_trace(shop, dsn, ledger, tmp_path, spans):
    file = tmp_path / "refunds"
    spanledger.instrument(
        Config(dsn=dsn, rules=[Rule("refund", identity="arguments")], budgets=[Budget("few", Calls(9))]),
        libraries=["mcp"],
    )
    with workflow("w"):
        first, second = ask(dsn, file, {}, {}, shop=shop)
    assert first.content == second.content
    (line,) = file.read_text().splitlines()
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"], row["workflow_id"]) == ("succeeded", 1, "w")
    assert ledger.budget("few").spent == Calls(1)
    ran = next(s for s in spans.all("execute_tool refund") if s.attributes["spanledger.verdict"] == "run")
    assert line.split() == ["o-1", trace.format_trace_id(ran.context.trace_id), row["key"], "w"]


def test_a_server_gives_back_what_it_did_to_a_client_that_nobody_guards(shop, dsn, ledger, tmp_path):
    file = tmp_path / "refunds"
    said = {"baggage": "spanledger.workflow.id=w"}
    first, second = ask(dsn, file, {"meta": said}, {"meta": said}, shop=shop, trust_baggage=True)
    assert (first.content, failed(first)) == (second.content, False)
    assert len(file.read_text().splitlines()) == 1
    assert [(row["state"], row["attempts"], row["workflow_id"]) for row in ledger.calls()] == [("succeeded", 1, "w")]


def test_a_refusal_of_a_server_is_an_error_result_and_its_session_lives_on(shop, dsn, ledger, tmp_path):
    file = tmp_path / "refunds"
    ledger.apply(Config(budgets=[Budget("few", Calls(0), match="refund")]))
    results = ask(dsn, file, {}, {}, shop=shop)
    assert all(failed(result) and "few" in result.content[0].text for result in results)
    assert not file.exists()


def test_a_server_made_while_it_was_guarded_serves_on_when_nobody_guards_any_more(dsn, ledger, tmp_path, monkeypatch):
    file = tmp_path / "refunds"
    monkeypatch.setattr(sys, "argv", ["shop", str(file)])
    spanledger.instrument(Config(dsn=dsn, rules=[Rule("refund", identity="arguments")]), libraries=["mcp"])
    server = mcp_lowlevel_shop.made()

    async def main() -> None:
        async with in_process(server) as client:
            session = getattr(client, "session", client)
            for _ in range(2):
                assert not failed(await session.call_tool("refund", REFUND))

    with workflow("w"):
        asyncio.run(main())
    assert len(file.read_text().splitlines()) == 1
    spanledger.uninstrument()
    asyncio.run(main())
    assert len(file.read_text().splitlines()) == 3
    assert len(ledger.calls()) == 1


def test_a_server_is_told_the_workflow_and_lets_it_choose_nothing(dsn, ledger_with, tmp_path, spans):
    file = tmp_path / "refunds"
    spanledger.instrument(Config(dsn=dsn), libraries=["mcp"])
    with workflow("w"):
        ask(dsn, file, {}, tenant="shop")
    (_, trace_id, key, said) = file.read_text().split()
    assert (said, trace_id) == ("w", trace.format_trace_id(spans.one("execute_tool refund").context.trace_id))
    (row,) = ledger_with(tenant="shop").calls()
    assert (row["key"], row["workflow_id"]) == (key, trace_id)


def test_a_server_that_trusts_its_clients_acts_in_the_workflow_that_they_name(dsn, ledger_with, tmp_path):
    spanledger.instrument(Config(dsn=dsn), libraries=["mcp"])
    with workflow("w"):
        ask(dsn, tmp_path / "refunds", {}, tenant="shop", trust_baggage=True)
    assert [row["workflow_id"] for row in ledger_with(tenant="shop").calls()] == ["w"]


@pytest.mark.parametrize(
    "meta",
    [
        {"baggage": "spanledger.workflow.id=" + "x" * 20_000, "traceparent": "garbage"},
        {"baggage": "spanledger.workflow.id=%1b%5b2J", "traceparent": 7, "tracestate": ["no", "text"]},
        {"baggage": {"spanledger.workflow.id": "w"}},
    ],
)
def test_what_a_client_makes_up_about_its_trace_and_workflow_breaks_no_server(meta, dsn, ledger, tmp_path):
    (result,) = ask(dsn, tmp_path / "refunds", {"meta": meta}, trust_baggage=True)
    assert not failed(result)
    (row,) = ledger.calls()
    assert row["state"] == "succeeded"
    assert re.fullmatch("process:.*|[0-9a-f]{32}", row["workflow_id"])


@pytest.mark.parametrize(
    "claim",
    [
        {"key": "00" * 32, "attempt_id": "6f1b0f5e-0000-4000-8000-000000000000"},
        {"key": "no hexadecimal", "attempt_id": "no uuid"},
        {"key": 1},
        "no claim at all",
    ],
)
def test_a_server_believes_nobody_who_says_that_he_has_asked_and_has_not(claim, dsn, ledger, tmp_path):
    (result,) = ask(dsn, tmp_path / "refunds", {"meta": {"spanledger/claim": claim}})
    assert not failed(result)
    assert [(row["tool"], row["state"]) for row in ledger.calls()] == [("refund", "succeeded")]
