"""Requests that are redacted, and requests that wait for a person; and clients that are governed one by one."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
import urllib3
from egress_world import CLIENTS, Request, Server, in_tool, serving

import spanledger
from spanledger import EgressRule, Ledger, Redact, governed_client, tool
from spanledger.errors import ApprovalDenied, ApprovalPending, ConfigError, EgressRefused, ResultNotKept

pytestmark = pytest.mark.usefixtures("in_workflow")
LIBRARIES = ("httpx", "httpx2", "requests", "urllib3", "aiohttp")


@pytest.fixture
def site() -> Iterator[Server]:
    with serving() as site:
        site.there = site.url.replace("127.0.0.1", "localhost")
        yield site


@pytest.fixture(params=CLIENTS.values(), ids=CLIENTS)
def send(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_what_is_redacted_is_not_sent_and_not_in_the_trace(send, site, instrument, spans):
    instrument(egress=[EgressRule("127.0.0.1", redact=("password", Redact("$.card.number", "remove")))])
    body = {"password": "canary-1", "card": {"number": "canary-2", "exp": 7}}

    answers = in_tool(send, ("POST", f"{site.url}/ok?password=canary-3&a=1", {"json": body}))

    assert answers == [200]
    (seen,) = site.seen
    assert json.loads(seen.body) == {"password": "[redacted]", "card": {"exp": 7}}
    assert seen.path == "/ok?password=%5Bredacted%5D&a=1"
    assert int(seen.headers["Content-Length"]) == len(seen.body)
    assert seen.key
    (event,) = [event for span in spans.all() for event in span.events if event.name == "spanledger.egress"]
    assert event.attributes["spanledger.egress.redacted"] == 3
    assert "canary" not in repr([span.to_json() for span in spans.all()])


def test_two_requests_that_differ_only_in_what_is_redacted_are_two(send, site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", redact=("password",))])

    in_tool(send, *(("POST", f"{site.url}/ok", {"json": {"password": said}}) for said in ("a", "b")))

    assert site.seen[0].body == site.seen[1].body
    assert len(set(site.keys)) == 2


@pytest.mark.parametrize(
    ("body", "headers"),
    [
        (b"password: x", {"Content-Type": "text/plain"}),
        (gzip.compress(b'{"password": "x"}'), {"Content-Type": "application/json", "Content-Encoding": "gzip"}),
        (b'{"password": ', {"Content-Type": "application/json"}),
        (iter([b'{"password": "x"}']), {"Content-Type": "application/json"}),
    ],
    ids=["text", "compressed", "broken", "stream"],
)
def test_what_cannot_be_redacted_is_not_sent(body, headers, site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", redact=("password",))])

    @tool
    def post() -> None:
        httpx.post(f"{site.url}/ok", content=body, headers=headers, trust_env=False)

    with pytest.raises(EgressRefused, match="cannot be redacted: its body is"):
        post()
    assert site.seen == []


def test_a_form_is_redacted_as_stripe_writes_it(site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", redact=("$.card.number",))])

    @tool
    def charge() -> None:
        requests.post(f"{site.url}/v1/charges", data={"amount": 10, "card[number]": "4242"}, timeout=5)

    charge()
    assert site.seen[0].body == b"amount=10&card%5Bnumber%5D=%5Bredacted%5D"


HOLD = EgressRule("127.0.0.1", "hold", path="/pay", name="payments", wait_timeout_s=0.01, redact=("secret",))


def pay(send: Any, site: Server, *more: Request, amount: int = 1) -> list[int]:
    return in_tool(send, ("POST", f"{site.url}/pay", {"json": {"amount": amount, "secret": "canary"}}), *more)


def pending(send: Any, site: Server, **more: Any) -> str:
    with pytest.raises(ApprovalPending) as waiting:
        pay(send, site, **more)
    return waiting.value.approval_id


def test_a_held_request_is_sent_once_a_person_has_approved_exactly_it(send, site, dsn, instrument):
    instrument(egress=[HOLD])
    with Ledger(dsn=dsn) as ledger:
        approval = pending(send, site)
        assert site.seen == []
        (asked,) = ledger.approvals()
        assert (asked.id, asked.tool) == (approval, "egress payments")
        assert json.loads(json.dumps(asked.arguments))["path"] == "/pay"
        assert "canary" not in repr(asked.arguments)
        ledger.approve(approval, by="ops@example.com")

        # Another request is another approval.
        assert pending(send, site, amount=2) != approval
        assert site.seen == []
        assert pay(send, site) == [200]

    (seen,) = site.seen
    assert json.loads(seen.body) == {"amount": 1, "secret": "[redacted]"}
    assert seen.key


def test_a_request_that_a_person_denies_is_never_sent(send, site, dsn, instrument):
    instrument(egress=[HOLD])
    with Ledger(dsn=dsn) as ledger:
        ledger.deny(pending(send, site), by="ops@example.com", reason="too much")

    with pytest.raises(ApprovalDenied, match="too much"):
        pay(send, site)
    assert site.seen == []


def test_what_was_approved_and_sent_is_not_sent_again_by_another_attempt(site, dsn, instrument):
    instrument(egress=[HOLD])
    send = CLIENTS["by_httpx"]

    @tool
    def act() -> None:
        httpx.post(f"{site.url}/pay", json={"amount": 1}, trust_env=False)
        raise ZeroDivisionError

    with Ledger(dsn=dsn) as ledger:
        with pytest.raises(ApprovalPending) as waiting:
            act()
        ledger.approve(waiting.value.approval_id, by="ops@example.com")
    with pytest.raises(ZeroDivisionError):
        act()
    with pytest.raises(ResultNotKept):
        act()
    assert len(site.seen) == 1
    assert send


def test_the_key_of_a_held_request_does_not_follow_it_elsewhere(site, dsn, instrument):
    instrument(egress=[EgressRule("*", "hold", path="/there", wait_timeout_s=0.01)])

    @tool
    def act() -> int:
        with requests.Session() as http:
            return http.post(f"{site.url}/there", json={}, timeout=5).status_code

    with Ledger(dsn=dsn) as ledger:
        with pytest.raises(ApprovalPending) as waiting:
            act()
        ledger.approve(waiting.value.approval_id, by="ops@example.com")
    assert act() == 200
    first, second = site.keys
    assert first
    assert second is None


def test_nobody_is_asked_outside_of_a_tool(site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", "hold", everywhere=True)])

    with pytest.raises(EgressRefused, match="only inside a guarded tool"):
        httpx.post(f"{site.url}/pay", json={}, trust_env=False)
    assert site.seen == []


def test_what_cannot_be_read_cannot_be_approved(site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", "hold")])

    @tool
    def act() -> None:
        httpx.post(f"{site.url}/pay", content=iter([b"x"]), trust_env=False)

    with pytest.raises(EgressRefused, match="nobody can approve it"):
        act()


# --- governed clients


def clients() -> Iterator[Any]:
    yield httpx.Client(trust_env=False), lambda client, url: client.post(url, json={})
    yield requests.Session(), lambda client, url: client.post(url, json={}, timeout=5)
    yield urllib3.PoolManager(), lambda client, url: client.request("POST", url, json={})


@pytest.mark.parametrize("instrumented", [False, True])
def test_a_governed_client_is_the_client_and_all_rules_count(instrumented, site, dsn):
    rules = [EgressRule("127.0.0.1", "deny", path="/secret")]
    spanledger.instrument(spanledger.Config(dsn=dsn, egress=rules), libraries=LIBRARIES if instrumented else ())

    for client, post in clients():
        with client:
            assert governed_client(client) is client
            post(governed_client(client), f"{site.url}/ok")
            with pytest.raises(EgressRefused):
                post(client, f"{site.url}/secret")

            @tool(f"pay by {type(client).__name__} {type(client).__module__}")
            def pay(client: str, post: Any = post, made: Any = client) -> None:
                post(made, f"{site.url}/ok")

            with spanledger.workflow(type(client).__module__):
                _ = pay
    assert [seen.path for seen in site.seen] == ["/ok"] * 3
    assert site.keys == [None] * 3


def test_a_governed_client_sends_keys_inside_a_tool_once(site, dsn):
    spanledger.instrument(spanledger.Config(dsn=dsn), libraries=())

    @tool
    def pay() -> None:
        for client, post in clients():
            with client:
                post(governed_client(client), f"{site.url}/ok")

    pay()
    assert all(site.keys)
    assert len(site.keys) == 3


def test_a_governed_session_of_aiohttp_refuses_before_it_connects(dsn):
    import aiohttp

    spanledger.instrument(spanledger.Config(dsn=dsn, egress=[EgressRule("*", "deny")]), libraries=())

    async def main() -> None:
        async with aiohttp.ClientSession() as session:
            governed_client(session)
            with pytest.raises(EgressRefused):
                await session.post("http://127.0.0.1:9/ok", json={})

    asyncio.run(main())


def test_what_is_no_client_is_refused():
    with pytest.raises(ConfigError, match=r"governed_client takes a client of httpx.*, not builtins\.dict"):
        governed_client({})
