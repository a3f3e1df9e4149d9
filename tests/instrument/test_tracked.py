"""Clients whose requests are recorded as calls, whichever client it is; on a real ledger and real servers."""

from __future__ import annotations

import asyncio
import contextvars
import inspect
import json
import types
from collections.abc import Callable, Iterator

import httpx
import pytest
from egress_world import CLIENTS
from opentelemetry.trace import StatusCode

from spanledger import Budget, Calls, EgressRule, Ledger, governed_client, tool, tracked_client, workflow
from spanledger import _setup as setup
from spanledger.errors import ConfigError, EgressRefused
from spanledger.instrument import _tracking

LIBRARIES = ["httpx"]
Send = Callable[..., list[int]]


@pytest.fixture
def told(ledger: Ledger) -> Callable[[], Ledger]:
    """The ledger, when all that was said so far is told."""

    def flushed() -> Ledger:
        assert setup._installed.connected.trail.flush(20)
        return ledger

    return flushed


@pytest.fixture(params=CLIENTS.values(), ids=CLIENTS)
def send(request: pytest.FixtureRequest) -> Send:
    """Send requests with a client that something was put around."""
    sends = request.param
    if inspect.iscoroutinefunction(sends):
        return lambda requests, put: asyncio.run(sends(requests, put))
    return sends


pytestmark = pytest.mark.usefixtures("in_workflow")


def test_a_request_outside_of_tools_is_a_call_that_was_made(send, site, instrument, told, spans):
    instrument()
    url = f"{site.url.replace('//', '//user:secret@')}/v1/orders?limit=3&token=secret#secret"
    assert send([("GET", url, {})], tracked_client) == [200]

    name, seen = f"GET 127.0.0.1:{site.port}/v1/orders", f"{site.url}/v1/orders?limit=[redacted]&token=[redacted]"
    span = spans.one(f"execute_tool {name}")
    assert {
        key: span.attributes.get(key) for key in ("http.request.method", "url.full", "http.response.status_code")
    } == {
        "http.request.method": "GET",
        "url.full": seen,
        "http.response.status_code": 200,
    }
    (row,) = told().calls("w")
    assert (row["tool"], row["state"]) == (name, "succeeded")
    assert json.loads(told().get(row["key"])["arguments"]) == {"method": "GET", "url": seen, "status": 200}
    assert "secret" not in span.to_json() + str(row)


def test_a_status_from_400_on_and_no_answer_are_failures(send, site, instrument, told, spans):
    instrument()
    site.failures = 1
    assert send([("POST", f"{site.url}/flaky", {}), ("POST", f"{site.url}/flaky", {})], tracked_client) == [500, 200]
    with pytest.raises(Exception, match=r"(?i)connect|refused|retries"):
        send([("GET", "http://127.0.0.1:9/none?api_key=secret", {})], tracked_client)
    rows = told().calls("w")
    # Told together, they may have begun in the same moment, for all that the ledger knows.
    assert sorted((row["tool"].partition("/")[2], row["state"]) for row in rows) == [
        ("flaky", "failed"),
        ("flaky", "succeeded"),
        ("none", "failed"),
    ]
    assert [span.status.status_code for span in spans.all()] == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.ERROR]
    lost = told().get(next(row["key"] for row in rows if row["tool"].endswith("/none")))
    assert lost["error"]["message"] == lost["error"]["type"].rpartition(".")[2]
    assert "secret" not in str(lost) + "".join(span.to_json() for span in spans.all())


@pytest.mark.parametrize(
    ("query", "seen"),
    [
        ("secret", "[redacted]"),
        ("token%3Dsecret", "[redacted]"),
        ("token%3dsecret=1&a%5Bb%5D=secret", "[redacted]&a%5Bb%5D=[redacted]"),
        ("a;secret=1&&b=", "[redacted]&b=[redacted]"),
    ],
)
def test_of_a_query_only_what_is_a_name_is_told(query, seen):
    assert _tracking.shown(f"http://h/p?{query}") == ("h", "/p", f"http://h/p?{seen}")


def test_telling_refuses_no_tool_anything(site, instrument, told):
    instrument(budgets=[Budget("rate", Calls(1), window=60)])
    with httpx.Client(trust_env=False) as client:
        for _ in range(2):
            tracked_client(client).get(f"{site.url}/ok")
    assert len(told().calls("w")) == 2
    assert tool("act")(lambda: "ran")() == "ran"
    assert told().budget("rate").spent == Calls(1)


def test_however_often_it_is_redirected_it_is_one_request(send, site, elsewhere, instrument, told):
    instrument()
    assert send([("GET", f"{site.url}/there", {})], tracked_client) == [200]
    assert len(elsewhere.seen) == 1
    assert [row["tool"] for row in told().calls("w")] == [f"GET 127.0.0.1:{site.port}/there"]


def test_put_around_twice_it_is_told_once(send, site, instrument, told):
    instrument()
    send([("GET", f"{site.url}/ok", {})], lambda client: tracked_client(governed_client(tracked_client(client))))
    assert len(told().calls("w")) == 1


def test_inside_of_a_guarded_tool_it_is_an_event_of_that_call(site, instrument, told, spans):
    instrument()

    @tool
    def act() -> int:
        with httpx.Client(trust_env=False) as client:
            return tracked_client(client).get(f"{site.url}/ok?a=b").status_code

    with workflow("w2"):
        assert act() == 200
    assert [row["tool"] for row in told().calls()] == ["act"]
    (event,) = [entry for entry in told().timeline("w2") if entry["what"] == "event"]
    assert event["detail"]["name"] == f"GET 127.0.0.1:{site.port}/ok"
    assert event["detail"]["detail"]["url"] == f"{site.url}/ok?a=[redacted]"
    assert event["key"] == told().calls()[0]["key"]
    assert [said.name for said in spans.one("execute_tool act").events] == ["spanledger.event"]


def test_what_a_request_has_started_is_told_when_it_outlives_it(site, instrument, told):
    instrument()

    async def main() -> None:
        over, started = asyncio.Event(), []

        async def later() -> None:
            await over.wait()
            await client.get(f"{site.url}/later")

        async def hook(_response: httpx.Response) -> None:
            if not started:
                started.append(asyncio.create_task(later()))

        async with httpx.AsyncClient(trust_env=False, event_hooks={"response": [hook]}) as client:
            tracked_client(client)
            await client.get(f"{site.url}/ok")
            over.set()
            await started[0]

    asyncio.run(main())
    assert sorted(row["tool"].partition("/")[2] for row in told().calls("w")) == ["later", "ok"]


def test_gone_on_with_in_another_context_a_request_returns_what_it_returns(instrument):
    instrument()

    class Pausing(httpx.AsyncBaseTransport):
        async def handle_async_request(self, _request: httpx.Request) -> httpx.Response:
            await pause()
            return httpx.Response(204)

    @types.coroutine
    def pause() -> Iterator[None]:
        yield

    client = tracked_client(httpx.AsyncClient(transport=Pausing()))
    sending = client.send(httpx.Request("GET", "http://h/"))
    contextvars.copy_context().run(sending.send, None)
    with pytest.raises(StopIteration) as returned:
        contextvars.copy_context().run(sending.send, None)
    assert returned.value.value.status_code == 204


@pytest.mark.parametrize("both", [False, True])
def test_a_tracked_client_is_under_rules_for_everything_where_it_is_governed_as_well(both, site, instrument, told):
    instrument(egress=[EgressRule("127.0.0.1", "deny", path="/secret")])
    with httpx.Client(trust_env=False) as client:
        tracked_client(governed_client(client) if both else client)
        if both:
            with pytest.raises(EgressRefused):
                client.get(f"{site.url}/secret")
        else:
            client.get(f"{site.url}/secret")
    # What was refused was not made.
    assert len(told().calls("w")) == len(site.seen) == (0 if both else 1)


def test_tracked_before_its_library_is_instrumented_it_is_under_the_rules_of_tools_all_the_same(site, instrument):
    with httpx.Client(trust_env=False) as client:
        tracked_client(client)
        instrument(egress=[EgressRule("127.0.0.1", "deny", path="/secret")])

        @tool
        def act() -> int:
            return client.get(f"{site.url}/secret").status_code

        with pytest.raises(EgressRefused):
            act()
    assert site.seen == []


def test_in_mode_off_nothing_is_told(site, instrument, ledger, spans):
    instrument(mode="off")
    with httpx.Client(trust_env=False) as client:
        assert tracked_client(client).get(f"{site.url}/ok").status_code == 200
    assert (ledger.calls(), spans.all()) == ([], [])


def test_what_cannot_be_told_is_counted_and_the_request_goes_on(site, instrument, monkeypatch):
    instrument()
    monkeypatch.setattr(_tracking, "shown", lambda url: 1 / 0)
    with httpx.Client(trust_env=False) as client:
        assert tracked_client(client).get(f"{site.url}/ok").status_code == 200
    assert setup._installed.connected.trail.lost == 1


def test_what_is_no_client_is_refused():
    with pytest.raises(ConfigError, match=r"tracked_client takes a client of httpx.*, not builtins\.dict"):
        tracked_client({})
