"""What leaves a guarded tool, through every client, against real servers."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from egress_world import CLIENTS, in_tool

import spanledger
from spanledger import Config, EgressRule, Ledger, tool, workflow
from spanledger.errors import CallRefused, EgressRefused

LIBRARIES = ("httpx", "httpx2", "requests", "urllib3", "aiohttp")

Send = Callable[[list[Any]], Any]


@pytest.fixture(params=CLIENTS.values(), ids=CLIENTS)
def send(request: pytest.FixtureRequest) -> Send:
    return request.param


@pytest.fixture
def tenant() -> str:
    return uuid.uuid4().hex


@pytest.fixture
def instrument(shared_dsn: str, tenant: str) -> Callable[..., None]:
    return lambda **fields: spanledger.instrument(Config(dsn=shared_dsn, tenant=tenant, **fields), libraries=LIBRARIES)


@pytest.fixture
def calls(shared_dsn: str, tenant: str) -> Iterator[Callable[[str], list[Any]]]:
    with Ledger(config=Config(dsn=shared_dsn, tenant=tenant)) as ledger:
        yield lambda name: ledger.calls(tool=name)


pytestmark = pytest.mark.usefixtures("in_workflow")


def test_a_denied_request_is_never_sent_and_the_call_ends_refused(send, site, calls, instrument):
    instrument(egress=[EgressRule("127.0.0.1", "deny", path="/v1/refunds*", name="no refunds", reason="closed")])

    with pytest.raises(EgressRefused, match="egress rule 'no refunds': closed") as refused:
        in_tool(send, ("POST", f"{site.url}/v1/refunds/7?token=x", {"json": {}}))

    assert site.seen == []
    assert (refused.value.rule, refused.value.method, refused.value.host) == ("no refunds", "POST", "127.0.0.1")
    (call,) = calls("act")
    assert call["state"] == "failed"
    assert call["error"]["type"] == "spanledger.errors.EgressRefused"
    assert "no refunds" in call["error"]["message"]


def test_what_no_rule_denies_is_sent(send, site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", "deny", ("DELETE",)), EgressRule("127.0.0.1", "deny", path="/admin*")])

    assert in_tool(send, ("POST", f"{site.url}/ok", {"json": {}}), ("GET", f"{site.url}/ok", {})) == [200, 200]


def test_the_first_rule_that_matches_counts(send, site, elsewhere, instrument):
    instrument(egress=[EgressRule(f"127.0.0.1:{site.port}"), EgressRule("*", "deny")])

    assert in_tool(send, ("POST", f"{site.url}/ok", {"json": {}})) == [200]
    with pytest.raises(EgressRefused):
        in_tool(send, ("POST", f"{elsewhere.url}/ok", {"json": {}}), name="other")
    assert elsewhere.seen == []


def test_a_redirect_is_a_request_like_any_other(send, site, elsewhere, instrument):
    instrument(egress=[EgressRule(f"127.0.0.1:{elsewhere.port}", "deny")])

    with pytest.raises(EgressRefused):
        in_tool(send, ("POST", f"{site.url}/there", {"json": {}}))
    assert elsewhere.seen == []


def test_outside_of_tools_only_rules_for_everywhere_count(send, site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", "deny", path="/secret", everywhere=True), EgressRule("*", "deny")])
    assert run(send, ("GET", f"{site.url}/ok", {})) == [200]
    with pytest.raises(EgressRefused):
        run(send, ("GET", f"{site.url}/secret", {}))


def test_what_may_change_something_carries_a_key_made_of_the_call(send, site, instrument):
    instrument()

    in_tool(send, ("POST", f"{site.url}/ok", {"json": {"n": 1}}), ("GET", f"{site.url}/ok", {}))

    key, none = site.keys
    assert str(uuid.UUID(key)) == key
    assert none is None


def test_the_same_request_twice_is_two_requests(send, site, instrument):
    instrument()
    post = ("POST", f"{site.url}/ok", {"json": {"n": 1}})

    in_tool(send, post, post, ("POST", f"{site.url}/ok", {"json": {"n": 2}}))

    assert len(set(site.keys)) == 3


def test_a_retry_of_what_failed_carries_the_same_key(send, site, instrument):
    instrument()
    site.failures = 2
    post = ("POST", f"{site.url}/flaky", {"json": {"n": 1}})

    assert in_tool(send, post, post, post, post) == [500, 500, 200, 200]

    assert len(set(site.keys[:3])) == 1
    assert site.keys[3] != site.keys[0]


def test_another_attempt_of_the_call_sends_the_same_keys(send, site, instrument):
    instrument()
    failed: list[bool] = []

    def twice(name: str) -> None:
        first = ("POST", f"{site.url}/ok", {"json": {"n": 1}})
        with pytest.raises(ZeroDivisionError) if not failed else no_error():
            in_tool(failing_once(send, failed), first, first, name=name)

    twice("act")
    twice("act")

    assert site.keys[:2] == site.keys[2:]
    assert len(set(site.keys)) == 2


def test_another_call_sends_other_keys(send, site, instrument):
    instrument()
    post = ("POST", f"{site.url}/ok", {"json": {"n": 1}})

    in_tool(send, post)
    with workflow("another"):
        in_tool(send, post)

    assert len(set(site.keys)) == 2


def test_a_key_of_the_programs_own_is_left_alone(send, site, instrument):
    instrument()

    in_tool(send, ("POST", f"{site.url}/ok", {"json": {}, "headers": {"idempotency-key": "mine"}}))

    assert [value for name, value in site.seen[0].headers.items() if name.lower() == "idempotency-key"] == ["mine"]


def test_outside_of_a_call_nothing_carries_a_key(send, site, instrument):
    instrument()

    run(send, ("POST", f"{site.url}/ok", {"json": {}}))

    assert site.keys == [None]


def test_a_key_follows_a_redirect_to_the_same_origin_and_to_no_other(send, site, elsewhere, instrument):
    instrument()

    in_tool(send, ("POST", f"{site.url}/here", {"json": {}}), ("POST", f"{site.url}/there", {"json": {}}))

    assert [seen.path for seen in site.seen] == ["/here", "/arrived", "/there"]
    assert site.seen[0].key == site.seen[1].key is not None
    assert elsewhere.keys == [None]


def test_a_rule_can_do_without_keys(send, site, instrument):
    instrument(egress=[EgressRule("127.0.0.1", idempotency_key=False)])

    in_tool(send, ("POST", f"{site.url}/ok", {"json": {}}))

    assert site.keys == [None]


def test_in_mode_shadow_everything_is_sent_as_it_is(send, site, instrument, caplog):
    instrument(egress=[EgressRule("*", "deny", name="nothing")], mode="shadow")

    with caplog.at_level("INFO", "spanledger"):
        assert in_tool(send, ("POST", f"{site.url}/ok", {"json": {}})) == [200]

    assert site.keys == [None]
    assert "enforced, it would be refused" in caplog.text


def test_a_refusal_that_was_wrapped_on_the_way_is_what_the_call_ends_with(site, calls, instrument):
    instrument(egress=[EgressRule("*", "deny", name="nothing")])
    httpx = pytest.importorskip("httpx")

    @tool
    def pay() -> None:
        try:
            httpx.post(f"{site.url}/pay", trust_env=False)
        except Exception as error:
            raise ConnectionError("could not reach the bank") from error

    with pytest.raises(EgressRefused) as refused:
        pay()

    assert isinstance(refused.value.__cause__, ConnectionError)
    (call,) = calls("pay")
    # Not unknown, as a broken connection would be: nothing was sent.
    assert (call["state"], call["error"]["type"]) == ("failed", "spanledger.errors.EgressRefused")


def test_a_tool_that_swallows_a_refusal_has_not_succeeded(site, calls, instrument):
    instrument(egress=[EgressRule("*", "deny", name="nothing")])
    httpx = pytest.importorskip("httpx")

    @tool
    def pay() -> str:
        try:
            httpx.post(f"{site.url}/pay", trust_env=False)
        except CallRefused:
            return "the bank is closed"
        return "paid"

    assert pay() == "the bank is closed"
    (call,) = calls("pay")
    assert (call["state"], call["error"]["type"]) == ("failed", "spanledger.errors.EgressRefused")


def test_a_tool_that_found_another_way_has_succeeded(site, elsewhere, calls, instrument):
    instrument(egress=[EgressRule(f"127.0.0.1:{site.port}", "deny")])
    httpx = pytest.importorskip("httpx")

    @tool
    def pay() -> int:
        try:
            return httpx.post(f"{site.url}/pay", trust_env=False).status_code
        except CallRefused:
            return httpx.post(f"{elsewhere.url}/pay", trust_env=False).status_code

    assert pay() == 200
    assert [call["state"] for call in calls("pay")] == ["succeeded"]


class no_error:
    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def failing_once(send: Send, failed: list[bool]) -> Send:
    import asyncio

    def fail(answers: list[int]) -> list[int]:
        if not failed:
            failed.append(True)
            raise ZeroDivisionError
        return answers

    if asyncio.iscoroutinefunction(send):

        async def awaiting(requests: list[Any]) -> list[int]:
            return fail(await send(requests))

        return awaiting
    return lambda requests: fail(send(requests))


def run(send: Send, *requests: Any) -> list[int]:
    import asyncio

    return asyncio.run(send(list(requests))) if asyncio.iscoroutinefunction(send) else send(list(requests))


def test_what_a_hook_of_a_request_sends_is_decided_by_itself(site, instrument):
    requests = pytest.importorskip("requests")
    instrument(egress=[EgressRule("127.0.0.1", redact=("card",))])

    def more(response: Any, **_: Any) -> None:
        if len(site.seen) == 1:
            requests.post(f"{site.url}/pay", json={"card": "second"})

    in_tool(lambda _: requests.post(f"{site.url}/pay", json={"card": "first"}, hooks={"response": more}).status_code)
    assert [seen.body for seen in site.seen] == [b'{"card":"[redacted]"}'] * 2
    assert len(set(site.keys) - {None}) == 2
