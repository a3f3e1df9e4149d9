"""Clients that retry, sit on one another, or swallow what they are told: against real servers."""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest
import requests
import urllib3
from egress_world import Server, serving

from spanledger import EgressRule, Ledger, tool
from spanledger.errors import EgressRefused

pytestmark = pytest.mark.usefixtures("in_workflow")
LIBRARIES = ("httpx", "httpx2", "requests", "urllib3", "aiohttp", "openai", "anthropic")


@pytest.fixture
def site() -> Iterator[Server]:
    with serving() as site:
        yield site


def session() -> requests.Session:
    made = requests.Session()
    made.trust_env = False
    return made


def egress_events(spans: Any) -> list[dict[str, Any]]:
    return [
        dict(event.attributes) for span in spans.all() for event in span.events if event.name == "spanledger.egress"
    ]


def test_what_requests_sends_is_decided_and_told_once_although_it_sits_on_urllib3(site, instrument, spans):
    instrument(egress=[EgressRule("127.0.0.1", name="here")])

    @tool
    def pay() -> None:
        with session() as http:
            http.post(f"{site.url}/pay", json={})

    pay()

    (event,) = egress_events(spans)
    assert event["spanledger.egress.rule"] == "here"
    assert event["spanledger.egress.idempotency_key"] == site.seen[0].key


def test_retries_of_urllib3_below_requests_carry_one_key(site, instrument):
    instrument()
    site.failures = 2

    @tool
    def pay() -> int:
        with session() as http:
            retry = urllib3.Retry(3, status_forcelist=[500], allowed_methods=None, backoff_factor=0)
            http.mount("http://", requests.adapters.HTTPAdapter(max_retries=retry))
            return http.post(f"{site.url}/flaky", json={}).status_code

    assert pay() == 200
    assert len(site.keys) == 3
    assert len(set(site.keys)) == 1


def test_a_pool_without_a_manager_is_governed_too(site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", "deny", path="/secret")])

    @tool
    def ask() -> int:
        with urllib3.HTTPConnectionPool("127.0.0.1", site.port) as pool:
            pool.request("POST", "/ok", body=b"x", headers={"A": "b"})
            return pool.request("GET", "/secret").status

    with pytest.raises(EgressRefused):
        ask()
    assert [seen.path for seen in site.seen] == ["/ok"]
    assert site.seen[0].key


def test_headers_of_the_program_are_not_changed(site, instrument):
    instrument()
    mine = {"A": "b"}
    prepared = requests.Request("POST", f"{site.url}/ok", headers=mine, data=b"x").prepare()
    built = httpx.Request("POST", f"{site.url}/ok", content=b"x")

    @tool
    def pay(by: str) -> None:
        with session() as http, httpx.Client(trust_env=False) as client, urllib3.PoolManager() as pools:
            http.send(prepared)
            client.send(built)
            pools.request("POST", f"{site.url}/ok", headers=mine, body=b"x")

    pay("a")
    pay("b")

    assert all(site.keys)
    # Had a key stayed on what is sent again, the second call's request would pass for the first one's.
    assert set(site.keys[:3]).isdisjoint(site.keys[3:])
    assert mine == {"A": "b"}
    assert "Idempotency-Key" not in prepared.headers
    assert "Idempotency-Key" not in built.headers


def test_a_body_that_can_be_read_once_only_is_sent_as_it_is_and_without_a_key(site, instrument):
    instrument()

    @tool
    def upload() -> None:
        with session() as http, httpx.Client(trust_env=False) as client:
            http.post(f"{site.url}/ok", data=io.BytesIO(b"from a file"))
            client.post(f"{site.url}/ok", content=iter([b"in ", b"pieces"]))

    upload()

    assert [(seen.body, seen.key) for seen in site.seen] == [(b"from a file", None), (b"in pieces", None)]


def test_threads_of_a_tool_are_inside_it(site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", "deny", path="/secret")])
    together = threading.Barrier(8)

    def post(number: int) -> int:
        together.wait(10)
        return httpx.post(f"{site.url}/ok", json={}, trust_env=False).status_code

    @tool
    def fan_out() -> list[int]:
        with ThreadPoolExecutor(8) as pool:
            return list(pool.map(post, range(8)))

    assert fan_out() == [200] * 8
    assert len(set(site.keys)) == 8


def test_retries_of_an_sdk_that_swallows_the_refusal_end_refused(instrument, dsn):
    anthropic = pytest.importorskip("anthropic")
    instrument(egress=[EgressRule("*", "deny", name="no models in tools")])

    @tool
    def summarise() -> str:
        with anthropic.Anthropic(base_url="http://127.0.0.1:9", api_key="offline", max_retries=1) as client:
            return str(client.messages.create(model="m", max_tokens=9, messages=[{"role": "user", "content": "x"}]))

    with pytest.raises(EgressRefused, match="no models in tools") as refused:
        summarise()

    assert isinstance(refused.value.__cause__, anthropic.APIConnectionError)
    with Ledger(dsn=dsn) as ledger:
        (call,) = ledger.calls(tool="summarise")
    assert (call["state"], call["error"]["type"]) == ("failed", "spanledger.errors.EgressRefused")


def test_a_model_call_inside_a_tool_carries_no_key_wherever_the_model_is(instrument, site):
    openai = pytest.importorskip("openai")
    instrument()

    @tool
    def ask() -> None:
        with openai.OpenAI(base_url=f"{site.url}/v1", api_key="offline", max_retries=0) as client:
            client.chat.completions.create(model="m", messages=[{"role": "user", "content": "x"}])

    ask()
    assert site.keys == [None]
