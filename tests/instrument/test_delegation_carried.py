"""Delegations on their way to other processes, over HTTP, MCP and A2A: who receives one acts under it and no wider."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import spanledger
from spanledger import Config, Delegation, Grant, Ledger, Money, Rule, carrier, delegate, delegated, sending, workflow
from spanledger.acting import HEADER

KEYS = ["k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE="]
SERVERS = Path(__file__).with_name("delegated_servers.py")
SHOP = Path(__file__).with_name("mcp_guarded_shop.py")


@pytest.fixture
def governed(dsn) -> Iterator[Ledger]:
    """A process that is instrumented, and a ledger in which support may do everything with payments."""
    spanledger.instrument(Config(dsn=dsn, delegation_keys=KEYS), libraries=[])
    with Ledger(config=Config(dsn=dsn, delegation_keys=KEYS)) as ledger:
        ledger.grant(Grant("payments:*", agent="support"), by="ops")
        yield ledger
    spanledger.uninstrument()


@pytest.fixture
def serve(dsn) -> Iterator[Callable[..., int]]:
    """Start a server in a process of its own; gives its port."""
    started: list[subprocess.Popen[str]] = []

    def serve(kind: str, **config: Any) -> int:
        given = {"dsn": dsn, "delegation_keys": KEYS} | config
        environment = os.environ | {"SERVER_CONFIG": json.dumps(given)}
        command = [sys.executable, str(SERVERS), kind]
        started.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
        return int(started[-1].stdout.readline())

    yield serve
    for process in started:
        process.kill()
        process.wait()
        process.stdout.close()


def posted(port: int, headers: dict[str, str], order_id: str = "o-1", amount: int = 10) -> dict[str, Any]:
    data = json.dumps({"order_id": order_id, "amount": amount}).encode()
    request = urllib.request.Request(f"http://127.0.0.1:{port}/", data, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def passed_on(to_agent: str = "refunds", **given: Any) -> str:
    with workflow("order-1", agent="support"):
        return delegate(to_agent, ["payments:refund"], **given)


# --- HTTP


def test_over_http_a_server_acts_under_what_it_is_sent_and_the_ledger_says_until_when(governed, serve, spans):
    port, token = serve("http"), passed_on(max_amount=Money(30, "EUR"))

    with workflow("order-1", agent="support"):
        headers = carrier(token)
        assert posted(port, headers) == {"result": "refunded 10"}
        assert posted(port, {name.upper(): text for name, text in headers.items()}, "o-2", 20) == {
            "result": "refunded 20"
        }
        assert posted(port, headers, "o-3") == {"over": "0.00 EUR"}
        assert posted(port, carrier(), "o-4") == {"refused": "nobody has granted it"}
    (row,) = governed.delegations.all()
    governed.delegations.revoke(row["id"], by="ops", reason="leaked")
    assert posted(port, headers)["refused"].endswith("was revoked by ops: leaked")
    ran = [call for call in governed.calls() if call["state"] == "succeeded"]
    assert {(call["delegation"], call["agent"]) for call in ran} == {(row["id"], "refunds")}


def test_over_http_what_is_no_good_token_is_refused_and_says_why(governed, serve):
    port, token, theirs = serve("http"), passed_on(), passed_on("billing")
    head, claims, signature = token.split(".")

    for sent, reason in (
        (f"{head}.{claims}.{'A' * len(signature)}", "the token was changed, or is not what this key has signed"),
        (f"{head}.{claims}.", "the token was changed, or is not what this key has signed"),
        ("garbage", "the token cannot be read"),
        ("", "the token is no text"),
        (token + "x" * 8000, "the token is no text"),
        (f"{token}, {token}", "the token"),
        (theirs, "is not for agent refunds"),
    ):
        assert reason in posted(port, {HEADER: sent})["refused"], sent
    other = serve("http", delegation_keys=["k9:AgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAgI="])
    assert "not among the delegation keys here" in posted(other, {HEADER: token})["refused"]
    nothing = serve("http", delegation_keys=[])
    assert "not among the delegation keys here" in posted(nothing, {HEADER: token})["refused"]
    elsewhere = serve("http", tenant="acme")
    assert posted(elsewhere, {HEADER: token})["refused"] == "the token is for tenant 'default' and not for 'acme'"
    assert governed.calls(state="succeeded") == []


def test_baggage_is_no_authority(governed, serve):
    port, token = serve("http", trust_baggage=True), passed_on()
    said = f"{HEADER}={token},spanledger.delegation={token},spanledger.agent=support"
    assert posted(port, {"baggage": said})["refused"] == "nobody has granted it"


def test_nothing_is_sent_that_nobody_has_said(governed):
    token = passed_on("billing")
    with delegated(token):
        assert HEADER not in carrier()
        narrower = delegate("refunds", "payments:refund")
        with sending(narrower):
            assert carrier()[HEADER] == narrower
            assert carrier(token)[HEADER] == token
    assert HEADER not in carrier()
    for bad in ("", "a b", "a\r\nset-cookie: x", "é", "x" * 9000, None, 7):
        with pytest.raises(spanledger.errors.ConfigError, match="the token that delegate"):
            sending(bad)


# --- MCP


def asked_of_shop(dsn: str, file: Path, order_id: str, **call: Any) -> Any:
    """Have a server in a process of its own refund an order; gives its result."""
    pytest.importorskip("mcp")
    from mcp import ClientSession, StdioServerParameters
    from mcp.client.stdio import stdio_client

    environment = {"SHOP_CONFIG": json.dumps({"dsn": dsn, "tenant": "shop", "delegation_keys": KEYS})}
    parameters = StdioServerParameters(command=sys.executable, args=[str(SHOP), str(file)], env=environment)

    async def main() -> Any:
        async with stdio_client(parameters) as streams, ClientSession(*streams) as session:
            await session.initialize()
            return await session.call_tool("refund", {"order_id": order_id, "amount": 10}, **call)

    return asyncio.run(main())


def failed(result: Any) -> bool:
    return result.is_error if hasattr(result, "is_error") else result.isError


def test_over_mcp_a_server_acts_under_what_is_sent_along_in_meta(dsn, tmp_path):
    with Ledger(config=Config(dsn=dsn, tenant="shop", delegation_keys=KEYS)) as shop:
        shop.grant(Grant("payments:*", agent="support"), by="ops")
        shop.apply(Config(rules=[Rule("refund", permission="payments:refund")]), tenant="shop")
        token = shop.delegations.give(Delegation("shop", "payments:refund"), agent="support")
        spanledger.instrument(Config(dsn=dsn, delegation_keys=KEYS), libraries=["mcp"])
        with workflow("order-1"):
            with sending(token):
                allowed = asked_of_shop(dsn, tmp_path / "refunds", "o-1")
            refused = asked_of_shop(dsn, tmp_path / "refunds", "o-2")
            tampered = asked_of_shop(dsn, tmp_path / "refunds", "o-3", meta={HEADER: token[:-4] + "AAAA"})
        # The server was ended right after its answer, and may have told the outcome to its disk.
        acted = {(call["state"] != "refused", call["agent"], bool(call["delegation"])) for call in shop.calls()}
    assert [failed(result) for result in (allowed, refused, tampered)] == [False, True, True]
    assert "nobody has granted it" in str(refused.content)
    assert "the token was changed" in str(tampered.content)
    assert acted == {(True, "shop", True), (False, None, False)}
    assert len((tmp_path / "refunds").read_text().splitlines()) == 1


# --- A2A


def test_over_a2a_the_called_agent_acts_under_what_its_caller_passes_on(governed, serve):
    pytest.importorskip("a2a")
    from a2a.client import ClientConfig, create_client
    from a2a.client.client import ClientCallContext
    from a2a.helpers.proto_helpers import get_stream_response_text, new_text_message
    from a2a.types import Role, SendMessageRequest

    port = serve("a2a")

    async def asked(headers: dict[str, str], order_id: str) -> dict[str, Any]:
        client = await create_client(f"http://127.0.0.1:{port}", client_config=ClientConfig(streaming=False))
        text = json.dumps({"order_id": order_id, "amount": 10})
        request = SendMessageRequest(message=new_text_message(text, role=Role.ROLE_USER))
        context = ClientCallContext(service_parameters=headers)
        said = [get_stream_response_text(e) async for e in client.send_message(request, context=context)]
        await client.close()
        return json.loads(said[-1])

    async def main() -> list[dict[str, Any]]:
        async with workflow("order-1", agent="support"):
            token = await asyncio.to_thread(delegate, "refunds", "payments:refund")
            good = await asked(carrier(token), "o-1")
            return [good, await asked(carrier(), "o-2"), await asked(carrier(token[:-4] + "AAAA"), "o-3")]

    good, without, tampered = asyncio.run(main())
    assert good == {"result": "refunded 10"}
    assert without == {"refused": "nobody has granted it"}
    assert tampered == {"refused": "the token was changed, or is not what this key has signed"}
    (call,) = governed.calls(state="succeeded")
    assert (call["agent"], call["delegation"]) == ("refunds", governed.delegations.all()[0]["id"])
