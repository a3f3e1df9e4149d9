"""Connectors: what is called with a credential that the program never has; on a real ledger and real servers."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import gzip
import html
import http.client
import itertools
import json
import logging
import math
import pickle
import socket
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from typing import Any
from urllib.parse import quote, quote_plus, unquote

import psycopg
import pytest
from egress_world import Server

import spanledger
from spanledger import (
    Budget,
    Config,
    Connector,
    Credential,
    EgressRule,
    Grant,
    Money,
    Redact,
    Rule,
    connectors,
    errors,
    invoke,
    invoke_awaiting,
    mint_credential,
    mint_credential_awaiting,
    workflow,
)
from spanledger.core.connectors import Hidden
from spanledger.core.redaction import MASK
from spanledger.doctor.connectors import of_connectors
from spanledger.doctor.finding import BAD, OK
from spanledger.instrument import _wire

CANARY = "canary-5f3c9a71d2"
GRANT = Grant("payments:refund")

pytestmark = pytest.mark.usefixtures("in_workflow")


@pytest.fixture
def door(site: Server, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Connector]:
    """Make a connector to the site, whose credential is in the environment."""
    monkeypatch.setenv("SITE_KEY", CANARY)

    def make(**fields: Any) -> Connector:
        given = {
            "credential_env": "SITE_KEY",
            "methods": ("GET", "POST"),
            "paths": ("/v1/*", "/echo", "/there", "/flaky*"),
        }
        return Connector("refunds", site.url, "payments:refund", **given | fields)

    return make


@pytest.fixture
def connected(instrument, door) -> Callable[..., None]:
    """Instrument with one connector, which everybody may call."""

    def make(*, door_has: dict[str, Any] | None = None, **fields: Any) -> None:
        instrument(**{"connectors": [door(**door_has or {})], "grants": [GRANT], "capture_content": True} | fields)

    return make


def refund(**sent: Any) -> Any:
    return invoke("refunds", "POST", "/v1/refunds", json={"order": "o-1"}, **sent)


def test_the_place_is_given_the_credential_and_the_call_is_made_once(connected, site, ledger, spans):
    connected()
    answers = [refund(params={"expand": "charge"}) for _ in range(3)]

    (seen,) = site.seen
    assert (seen.method, seen.path, json.loads(seen.body)) == ("POST", "/v1/refunds?expand=charge", {"order": "o-1"})
    assert seen.headers["Authorization"] == f"Bearer {CANARY}"
    assert seen.key is not None
    assert [(one.status, one.json(), one.text) for one in answers] == [(200, {}, "{}")] * 3
    assert [call["state"] for call in ledger.calls(tool="refunds")] == ["succeeded"]
    assert [span.attributes["spanledger.verdict"] for span in spans.all("execute_tool refunds")] == [
        *("run", "replay", "replay"),
    ]


def everything(sql: psycopg.Connection) -> str:
    """All that is in the ledger, as text."""
    names = sql.execute(
        "select relname from pg_class where relnamespace = 'spanledger'::regnamespace and relkind in ('r', 'p')"
    ).fetchall()
    return "".join(str(sql.execute(f"select t::text from spanledger.{name} t").fetchall()) for (name,) in names)


def test_the_credential_is_nowhere_else(connected, site, spans, sql, caplog):
    caplog.set_level(logging.DEBUG)
    connected()
    echoed = invoke("refunds", "GET", "/echo")
    assert site.seen[0].headers["Authorization"] == f"Bearer {CANARY}"
    assert "Authorization" in echoed.json()
    refund()
    with pytest.raises(errors.EgressRefused) as refused:
        invoke("refunds", "DELETE", "/v1/refunds")
    spanledger.uninstrument()

    shown = [repr(echoed), repr(connectors()), repr(refused.value), "".join(span.to_json() for span in spans.all())]
    shown += [caplog.text, everything(sql), str([record.__dict__ for record in caplog.records])]
    assert "refunds" in shown[3]
    assert "o-1" in shown[5]
    for text in shown:
        assert CANARY not in text


@pytest.mark.parametrize("broken", ["refused", "cut"])
def test_no_error_and_no_frame_of_one_holds_it(connected, broken):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        if broken == "cut":
            listening.listen()
        own = Connector(
            *("slow", url, "payments:refund"),
            credential=lambda: CANARY,
            methods=("POST",),
            paths=("/*",),
            timeout_s=0.2,
        )
        connected(connectors=[own])
        with pytest.raises(Exception, match=r"(?i)refused|timed out") as failed:
            invoke("slow", "POST", "/v1/refunds")
    told = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
    assert CANARY not in told + repr(vars(failed.value))


def test_whether_it_arrived_is_unknown_after_a_timeout_and_known_where_nobody_listened(connected, ledger):
    with socket.socket() as listening, socket.socket() as closed:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        closed.bind(("127.0.0.1", 0))
        given = {"credential": lambda: CANARY, "methods": ("POST",), "paths": ("/*",), "timeout_s": 0.2}
        doors = [
            Connector(name, f"http://127.0.0.1:{one.getsockname()[1]}", "payments:refund", **given)
            for name, one in (("slow", listening), ("closed", closed))
        ]
        connected(connectors=doors)
        for name in ("slow", "closed"):
            with pytest.raises(Exception, match=r"(?i)refused|timed out"):
                invoke(name, "POST", "/v1/refunds")
    assert {call["tool"]: call["state"] for call in ledger.calls()} == {"slow": "unknown", "closed": "failed"}


def test_a_redirect_is_an_answer_and_the_credential_does_not_follow_it(connected, site, elsewhere):
    connected()
    answer = invoke("refunds", "POST", "/there")
    assert (answer.status, answer.headers["location"]) == (307, f"{elsewhere.url}/arrived")
    assert elsewhere.seen == []


@pytest.mark.parametrize("status", [400, 404, 429])
def test_a_status_of_failure_is_given_back_and_the_call_is_made_again_with_the_same_key(
    connected, site, ledger, status
):
    connected()
    site.failures, site.fails_with = 1, status
    assert [invoke("refunds", "POST", "/flaky").status for _ in range(3)] == [status, 200, 200]
    assert len(site.seen) == 2
    assert len(set(site.keys)) == 1
    assert [call["state"] for call in ledger.calls()] == ["succeeded"]


@pytest.mark.parametrize("status", [408, 500, 502, 503, 504])
@pytest.mark.parametrize("awaited", [False, True])
def test_what_a_gateway_gave_up_on_may_have_taken_effect_and_stays_in_the_budget(
    connected, site, ledger, spans, status, awaited
):
    connected(budgets=[Budget("refunds", Money(100, "EUR"))])
    site.failures, site.fails_with = 1, status

    def send() -> Any:
        if awaited:
            return asyncio.run(invoke_awaiting("refunds", "POST", "/flaky", amount=Money(60, "EUR")))
        return invoke("refunds", "POST", "/flaky", amount=Money(60, "EUR"))

    assert send().status == status
    with pytest.raises(errors.OutcomeUnknown):
        send()
    assert len(site.seen) == 1
    assert [call["state"] for call in ledger.calls()] == ["unknown"]
    assert ledger.budget("refunds").remaining == Money(40, "EUR")
    first, _ = spans.all("execute_tool refunds")
    assert first.attributes["spanledger.call.outcome"] == "unknown"


def test_whoever_knows_that_the_place_keeps_keys_has_such_a_call_made_again_with_the_same_one(connected, site, ledger):
    connected(rules=[Rule("refunds", on_unknown="retry")])
    site.failures = 1
    assert [invoke("refunds", "POST", "/flaky").status for _ in range(3)] == [500, 200, 200]
    assert len(site.seen) == 2
    assert len(set(site.keys)) == 1
    assert [call["state"] for call in ledger.calls()] == ["succeeded"]


def test_what_only_reads_is_made_again_after_500_and_after_a_timeout(connected, site, ledger):
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        given = {"credential": lambda: CANARY, "methods": ("GET",), "paths": ("/*",)}
        slow = Connector("slow", url, "payments:refund", timeout_s=0.2, **given)
        connected(connectors=[slow, Connector("flaky", site.url, "payments:refund", **given)])
        for _ in range(2):
            with pytest.raises(Exception, match=r"(?i)timed out"):
                invoke("slow", "get", "/v1/refunds")
    site.failures = 1
    assert [invoke("flaky", "GET", "/flaky").status for _ in range(2)] == [500, 200]
    assert {call["tool"]: call["state"] for call in ledger.calls()} == {"slow": "unknown", "flaky": "succeeded"}


# --- places that repeat what they were sent, or take their time


Speaks = Callable[[socket.socket, str], None]


@pytest.fixture
def speaking(connected) -> Iterator[Callable[..., None]]:
    """Instrument with a connector, ``odd``, to a place that speaks as it likes once it has read a request."""
    with contextlib.ExitStack() as left:

        def make(speaks: Speaks, secret: str = CANARY, **fields: Any) -> None:
            listening = left.enter_context(socket.create_server(("127.0.0.1", 0)))

            def serve() -> None:
                with contextlib.suppress(OSError):
                    while True:
                        accepted, _ = listening.accept()
                        with accepted, contextlib.suppress(OSError):
                            asked = accepted.recv(65536).decode()
                            header = next(line for line in asked.split("\r\n") if line.startswith("Authorization"))
                            speaks(accepted, header)

            thread = threading.Thread(target=serve)
            thread.start()
            left.callback(thread.join)
            left.callback(listening.shutdown, socket.SHUT_RDWR)
            given = {"credential": lambda: secret, "methods": ("GET", "POST"), "paths": ("/*",), **fields}
            url = f"http://127.0.0.1:{listening.getsockname()[1]}"
            connected(connectors=[Connector("odd", url, "payments:refund", **given)])

        yield make


REPEATS: dict[str, Speaks] = {
    "status line": lambda place, header: place.sendall(f"NOPE {header}\r\n\r\n".encode()),
    "status": lambda place, header: place.sendall(f"HTTP/1.1 {header} x\r\n\r\n".encode()),
    "chunk": lambda place, header: place.sendall(
        f"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{header}\r\n\r\n".encode()
    ),
}


@pytest.mark.parametrize("repeats", REPEATS)
def test_an_error_that_repeats_the_credential_is_replaced_and_says_as_little_of_the_outcome(
    speaking, sql, ledger, spans, caplog, repeats
):
    caplog.set_level(logging.DEBUG)
    speaking(REPEATS[repeats])
    with pytest.raises(Exception, match="it repeats the credential") as failed:
        invoke("odd", "POST", "/v1/refunds")
    told = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
    assert [call["state"] for call in ledger.calls()] == ["unknown"]
    spanledger.uninstrument()
    for text in (told, repr(failed.value), everything(sql), caplog.text, str([one.to_json() for one in spans.all()])):
        assert CANARY not in text


def test_a_head_that_cannot_be_read_is_not_logged(speaking, caplog):
    caplog.set_level(logging.DEBUG)
    speaking(
        lambda place, header: place.sendall(
            f"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n{header.replace(':', '')}\r\nA: b\r\n\r\n{{}}".encode()
        )
    )
    assert invoke("odd", "GET", "/v1/a").status == 200
    assert CANARY not in caplog.text


def test_what_prints_connections_does_not_print_the_credential(connected, site, monkeypatch, capsys):
    monkeypatch.setattr(http.client.HTTPConnection, "debuglevel", 1)
    connected()
    refund()
    assert site.seen[0].headers["Authorization"] == f"Bearer {CANARY}"
    assert CANARY not in capsys.readouterr().out


def in_time(place: socket.socket, parts: Iterator[bytes]) -> None:
    """Speak on until nobody listens."""
    for part in parts:
        place.sendall(part)
        time.sleep(0.02)


@pytest.mark.parametrize("begins", [b"", b"HTTP/1.1 200 OK\r\nX: ", b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n"])
def test_an_answer_that_drips_is_cut_off_and_its_outcome_unknown(speaking, ledger, begins):
    speaking(lambda place, _: in_time(place, itertools.chain([begins], itertools.repeat(b"H"))), timeout_s=0.3)
    with pytest.raises(Exception, match=r"(?i)timed out"):
        invoke("odd", "POST", "/v1/refunds")
    assert [call["state"] for call in ledger.calls()] == ["unknown"]


def test_connecting_and_answering_have_one_time_together(connected, ledger):
    """The place is too busy to take the connection; the system tries again after a second. It answers after another."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        before = [socket.socket() for _ in range(3)]
        for one in before:
            one.setblocking(False)
            one.connect_ex(listening.getsockname())

        def serve() -> None:
            time.sleep(0.3)
            for one in before:
                one.close()
            with contextlib.suppress(OSError):
                while True:
                    accepted, _ = listening.accept()
                    with accepted, contextlib.suppress(OSError):
                        if accepted.recv(65536):
                            time.sleep(1)
                            accepted.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

        thread = threading.Thread(target=serve)
        thread.start()
        url = f"http://127.0.0.1:{listening.getsockname()[1]}"
        given = {"credential": lambda: CANARY, "methods": ("POST",), "paths": ("/*",), "timeout_s": 1.6}
        connected(connectors=[Connector("odd", url, "payments:refund", **given)])
        try:
            with pytest.raises(Exception, match=r"(?i)timed out"):
                invoke("odd", "POST", "/v1/refunds")
        finally:
            listening.shutdown(socket.SHUT_RDWR)
            thread.join()
    assert [call["state"] for call in ledger.calls()] == ["unknown"]


def test_all_addresses_of_a_place_have_one_time_together(connected, monkeypatch):
    """A name has three addresses; at none of them is anybody who takes a connection, or says that he does not."""
    hosts = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(socket.create_server((hosts[0], 0), backlog=0))
        port = listening.getsockname()[1]
        for host in hosts[1:]:
            stack.enter_context(socket.create_server((host, port), backlog=0))
        for host in hosts * 3:
            one = stack.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex((host, port))
        stream = (socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "")
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_args, **_kw: [(*stream, (host, port)) for host in hosts])
        given = {"credential": lambda: CANARY, "methods": ("POST",), "paths": ("/*",), "timeout_s": 1}
        connected(connectors=[Connector("odd", f"http://localhost:{port}", "payments:refund", **given)])
        began_s = time.monotonic()
        with pytest.raises(Exception, match=r"(?i)timed out"):
            invoke("odd", "POST", "/v1/refunds")
        assert time.monotonic() - began_s < 2


def test_a_place_whose_name_nobody_finds_in_time_was_sent_nothing(connected, ledger, monkeypatch):
    found = threading.Event()
    looks_up = socket.getaddrinfo

    def slow(host, *args, **kwargs):
        if host == "slow.example":
            found.wait(20)
            host = "127.0.0.1"
        return looks_up(host, *args, **kwargs)

    given = {"credential": lambda: CANARY, "methods": ("POST",), "paths": ("/*",), "timeout_s": 0.3}
    with socket.create_server(("127.0.0.1", 0)) as place:
        url = f"https://slow.example:{place.getsockname()[1]}"
        connected(connectors=[Connector("odd", url, "payments:refund", **given)])
        monkeypatch.setattr(socket, "getaddrinfo", slow)
        began_s = time.monotonic()
        with pytest.raises(Exception, match=r"(?i)timed out"):
            invoke("odd", "POST", "/v1/refunds")
        assert time.monotonic() - began_s < 10
        assert [call["state"] for call in ledger.calls()] == ["failed"]
        found.set()  # what is connected then is closed
        for thread in threading.enumerate():
            if thread.name == "spanledger-connect":
                thread.join(10)


@pytest.mark.parametrize("kind", ["plain", "gzip"])
def test_an_answer_that_is_too_large_is_cut_off_and_its_outcome_unknown(speaking, ledger, kind):
    body = bytes(_wire.BYTES_MAX + 1)
    sent = gzip.compress(body) if kind == "gzip" else body
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(sent)}\r\nContent-Encoding: {kind}\r\n\r\n".encode()
    speaking(lambda place, _: place.sendall(head + sent))
    with pytest.raises(Exception, match="the answer is larger than 16777216 bytes"):
        invoke("odd", "POST", "/v1/refunds")
    assert [call["state"] for call in ledger.calls()] == ["unknown"]


ODD_SECRET = 'sk+a/b"c\\\\d &e'


@pytest.mark.parametrize(
    "write",
    [
        str,
        json.dumps,
        lambda secret: json.dumps(json.dumps(secret)),
        lambda secret: json.dumps(secret).replace("/", "\\/"),
        lambda secret: "".join(f"\\u{ord(character):04X}" for character in secret),
        lambda secret: quote(secret, safe=""),
        lambda secret: quote(quote(secret)).lower(),
        quote_plus,
        lambda secret: "".join(f"%{ord(character):02x}" for character in secret),
        html.escape,
        lambda secret: secret.replace('"', "&#34;").replace("&e", "&#x26;e"),
        repr,
    ],
)
def test_however_an_answer_spells_the_credential_it_is_masked(speaking, write):
    said = write(ODD_SECRET)
    body = f"<{said}>".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\nX-Said: {said}\r\n\r\n".encode()
    speaking(lambda place, _: place.sendall(head + body), secret=ODD_SECRET)
    answer = invoke("odd", "GET", "/v1/a")
    for text in (answer.text, answer.headers["x-said"]):
        assert MASK in text
        assert len(text) <= len(MASK) + 8


def in_base64(text: str, *, url_safe: bool, padded: bool) -> str:
    written = (base64.urlsafe_b64encode if url_safe else base64.b64encode)(text.encode()).decode()
    return written if padded else written.rstrip("=")


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("url_safe", [True, False])
@pytest.mark.parametrize("around", ["{}", "u:{}", "me:{}", "joe:{}", "{}:", '{"k": "{}"}', "Bearer {}, as sent"])
@pytest.mark.parametrize("secret", [CANARY, "~~~???>>>sk+1", "s3cr3t"])
def test_a_credential_that_an_answer_repeats_in_base64_is_masked(secret, around, url_safe, padded):
    whole = around.replace("{}", secret)
    written = in_base64(whole, url_safe=url_safe, padded=padded)
    for spelled in (written, json.dumps(written).replace("/", "\\/"), quote(written, safe="")):
        hidden = Hidden(secret)
        assert hidden.is_in(f"is {spelled}.")
        left = hidden.masked(f"is {spelled}.")
        assert MASK in left
        # What is left is what stands around it, and the end of a character on either side.
        bare = unquote(left.replace('"', "").removeprefix("is ").removesuffix(".").replace(MASK, "")).rstrip("=")
        assert len(bare) <= math.ceil((len(around) - 2) * 4 / 3) + 1


def test_an_answer_is_looked_through_for_it_on_the_wire_in_base64_too(speaking):
    body = json.dumps({"auth": in_base64(f"user:{CANARY}", url_safe=False, padded=True)}).encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    speaking(lambda place, _: place.sendall(head + body))
    assert invoke("odd", "GET", "/v1/a").json() == {"auth": f"dXNlcjp{MASK}"}


def test_what_is_too_short_to_be_told_from_chance_is_not_looked_for_in_base64():
    assert Hidden("abc").masked("YWJj") == "YWJj"
    assert Hidden("abc").masked("abc") == MASK


@pytest.mark.parametrize("name", ["Content-Type", "content-type"])
def test_what_json_is_sent_as_is_said_once(connected, site, door, name):
    headers = {name: "application/vnd.api+json"}
    assert door(headers=headers).sent("POST", "/v1/refunds", {"json": {}}).headers == (*headers.items(),)
    connected(door_has={"headers": headers})
    refund()
    assert site.seen[0].headers[name] == "application/vnd.api+json"


def test_a_form_is_a_form_whatever_json_is_sent_as(door):
    sent = door(headers={"content-type": "application/json", "X-A": "b"}).sent(
        "POST", "/v1/refunds", {"data": {"a": "b"}}
    )
    assert sent.headers == (("X-A", "b"), ("Content-Type", "application/x-www-form-urlencoded"))


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", "/v1/refunds"),
        ("POST", "/v2/refunds"),
        ("POST", "/v1/../admin"),
        ("POST", "/v1/%2e%2e/admin"),
        ("POST", "/v1/%252e%252e/admin"),
        ("POST", "//evil.example/v1/refunds"),
    ],
)
@pytest.mark.parametrize("mode", ["enforce", "shadow", "off"])
def test_for_what_it_does_not_name_a_connector_is_not_good_in_any_mode(connected, site, ledger, mode, method, path):
    connected(mode=mode)
    with pytest.raises(errors.EgressRefused, match="the connector is for GET, POST of /v1/"):
        invoke("refunds", method, path)
    assert site.seen == []
    assert ledger.calls() == []


@pytest.mark.parametrize(
    "path", ["v1/refunds", "/v1/refunds?x=1", "/v1/re funds", "/v1\\refunds", "/v1/\r\nHost: evil", 7]
)
def test_what_is_no_path_is_said(connected, path):
    connected()
    with pytest.raises(errors.ConfigError, match="a path begins with '/' and has no query"):
        invoke("refunds", "POST", path)


@pytest.mark.parametrize("method", [5, None, "", "POST\r\nX: y"])
def test_what_is_no_method_is_said(connected, method):
    connected()
    with pytest.raises(errors.ConfigError, match="a method is such as 'POST'"):
        invoke("refunds", method, "/v1/refunds")


def test_without_urllib3_it_is_said_before_anything_is_decided(connected, ledger, monkeypatch):
    connected()
    monkeypatch.setitem(sys.modules, "urllib3", None)
    with pytest.raises(errors.ConfigError, match="urllib3, which is not installed"):
        refund()
    assert ledger.calls() == []


def test_permission_budget_switch_and_egress_rules_decide_before_anything_is_sent(connected, site, ledger):
    connected(
        grants=[Grant("payments:refund", limit=Money(50, "EUR"))],
        budgets=[Budget("refunds", Money(60, "EUR"))],
        egress=[EgressRule("127.0.0.1", "deny", path="/v1/payouts*", name="no payouts")],
    )
    with pytest.raises(errors.NotAuthorized, match=r"at most 50\.00 EUR"):
        refund(amount=Money(51, "EUR"))
    refund(amount=Money(40, "EUR"))
    with pytest.raises(errors.BudgetExceeded):
        refund(amount=Money(40, "EUR"), key="another")
    with pytest.raises(errors.EgressRefused, match="no payouts"):
        invoke("refunds", "POST", "/v1/payouts", amount=Money(1, "EUR"))
    assert [seen.path for seen in site.seen] == ["/v1/refunds"]
    assert ledger.budget("refunds").spent == Money(40, "EUR")


def test_a_rule_of_the_connectors_name_asks_a_person_and_no_person_reads_the_credential(connected, site, ledger):
    connected(rules=[Rule("refunds", approval=True, wait_timeout_s=0)])
    with pytest.raises(errors.ApprovalPending) as pending:
        refund()
    assert site.seen == []
    (asked,) = ledger.approvals()
    assert asked.arguments == {"method": "POST", "path": "/v1/refunds", "json": {"order": "o-1"}}
    ledger.approve(pending.value.approval_id, by="ops")
    assert refund().status == 200


def test_what_a_grant_redacts_is_not_sent(connected, site):
    connected(grants=[Grant("payments:refund", redact=[Redact("iban", "remove")])])
    invoke("refunds", "POST", "/v1/refunds", json={"order": "o-1", "iban": "DE02"})
    assert json.loads(site.seen[0].body) == {"order": "o-1"}


def test_awaited_it_is_the_same(connected, site, ledger):
    connected()

    async def main() -> list[Any]:
        return [await invoke_awaiting("refunds", "POST", "/v1/refunds", data={"order": "o 1"}) for _ in range(2)]

    assert [one.status for one in asyncio.run(main())] == [200, 200]
    (seen,) = site.seen
    assert (seen.body, seen.headers["Content-Type"]) == (b"order=o+1", "application/x-www-form-urlencoded")
    assert (seen.headers["Authorization"], seen.key is None) == (f"Bearer {CANARY}", False)
    assert len(ledger.calls()) == 1


def test_it_is_read_for_each_request_from_where_the_connector_says(connected, site, tmp_path):
    file = tmp_path / "key"
    file.write_text("first\n")
    headers = {"Site-Version": "2026-11"}
    connected(door_has={"credential_env": None, "credential_file": file, "header": "X-Api-Key: {}", "headers": headers})
    invoke("refunds", "GET", "/v1/a")
    file.write_text("second\n")
    invoke("refunds", "GET", "/v1/b")
    assert [seen.headers["X-Api-Key"] for seen in site.seen] == ["first", "second"]
    assert site.seen[0].headers["Site-Version"] == "2026-11"


@pytest.mark.parametrize("broken", ["missing", "no file", "two lines", "none"])
def test_without_a_credential_nothing_is_sent_and_the_call_has_failed(
    connected, site, ledger, monkeypatch, tmp_path, broken
):
    monkeypatch.delenv("SITE_KEY")
    door_has = {
        "missing": {},
        "no file": {"credential_env": None, "credential_file": tmp_path / "none"},
        "two lines": {"credential_env": None, "credential": lambda: f"{CANARY}\r\nHost: evil"},
        "none": {"credential_env": None, "credential": lambda: None},
    }[broken]
    connected(door_has=door_has)
    with pytest.raises(errors.ConfigError, match="connector 'refunds': its credential") as failed:
        refund()
    told = "".join(traceback.TracebackException.from_exception(failed.value, capture_locals=True).format())
    assert CANARY not in told
    assert site.seen == []
    assert [call["state"] for call in ledger.calls()] == ["failed"]


def test_connectors_are_listed_without_what_they_know(connected):
    connected(
        connectors=[
            Connector("a", "https://a.example", "a:use", credential=lambda: CANARY, methods=("GET",), paths=("/*",))
        ]
    )
    (listed,) = connectors()
    assert (listed.name, listed.base_url, listed.permission, listed.paths) == (
        "a",
        "https://a.example",
        "a:use",
        ("/*",),
    )
    for unknown in ("b", 5, ["a"]):
        with pytest.raises(errors.ConfigError, match=r"there is no connector .*; there are a"):
            invoke(unknown, "GET", "/")


def test_the_doctor_says_which_credential_is_missing(door, monkeypatch):
    both = [
        door(),
        Connector("later", "https://a.example", "a", credential=pytest.fail, methods=("GET",), paths=("/*",)),
    ]
    found = [(one.state, one.says) for one in of_connectors(Config(connectors=both))]
    assert [level for level, _ in found] == [OK, OK]
    assert CANARY not in str(found)
    monkeypatch.delenv("SITE_KEY")
    (missing,) = of_connectors(Config(connectors=[door()]))
    assert missing.state == BAD


def test_in_mode_off_it_is_sent_as_often_as_it_is_asked(connected, site):
    connected(mode="off")
    refund()
    refund()
    assert [seen.headers["Authorization"] for seen in site.seen] == [f"Bearer {CANARY}"] * 2


def test_connectors_of_a_file_are_read(tmp_path):
    file = tmp_path / "spanledger.toml"
    file.write_text(
        "[[connectors]]\nname = 'refunds'\nbase_url = 'https://api.stripe.com'\npermission = 'payments:refund'\n"
        "credential_env = 'STRIPE_KEY'\nmethods = ['POST']\npaths = ['/v1/refunds*']\nmint = 'os:getenv'\n"
        "[connectors.headers]\nStripe-Version = '2026-10-01'\n"
    )
    (read,) = Config.from_file(file).connectors
    assert (read.methods, read.paths, read.headers) == (("POST",), ("/v1/refunds*",), {"Stripe-Version": "2026-10-01"})


def test_a_credential_that_stands_in_a_file_is_not_repeated(tmp_path):
    file = tmp_path / "spanledger.toml"
    for written in (CANARY, f"user:{CANARY}"):
        file.write_text(
            f"[[connectors]]\nname = 'a'\nbase_url = 'https://a.example'\npermission = 'a'\ncredential = '{written}'\n"
        )
        with pytest.raises(errors.ConfigError, match="credential or mint is no 'module:function'") as refused:
            Config.from_file(file)
        assert CANARY not in "".join(traceback.format_exception(refused.value))


# --- credentials for a short while


@pytest.fixture
def minting(connected) -> Callable[..., list[dict[str, Any]]]:
    """Instrument with a connector that makes credentials; returns what it was asked for."""

    def make(**fields: Any) -> list[dict[str, Any]]:
        asked: list[dict[str, Any]] = []

        def mint(**given: Any) -> str:
            asked.append(given)
            return f"{CANARY}-{len(asked)}"

        connected(door_has={"mint": mint}, **fields)
        return asked

    return make


def test_a_credential_is_made_for_who_is_permitted_and_is_recorded_nowhere(minting, ledger, spans, sql, caplog):
    caplog.set_level(logging.DEBUG)
    asked = minting(budgets=[Budget("refunds", Money(60, "EUR"))])
    made = [mint_credential("refunds", amount=Money(20, "EUR"), expires_in_s=60) for _ in range(2)]

    assert [one.value for one in made] == [f"{CANARY}-1", f"{CANARY}-2"]
    assert asked == [{"permission": "payments:refund", "amount": Money(20, "EUR"), "expires_in_s": 60}] * 2
    assert ledger.budget("refunds").spent == Money(40, "EUR")
    with pytest.raises(errors.BudgetExceeded):
        mint_credential("refunds", amount=Money(21, "EUR"))
    spanledger.uninstrument()

    assert len(ledger.calls(tool="refunds.mint")) == 2
    shown = [repr(made), str(made[0]), everything(sql), caplog.text, "".join(span.to_json() for span in spans.all())]
    assert "expires_at" in shown[2]
    for text in shown:
        assert CANARY not in text
    with pytest.raises(TypeError, match="a credential is not pickled"):
        pickle.dumps(made[0])


def test_awaited_one_is_made_as_well(minting):
    minting()
    made = asyncio.run(mint_credential_awaiting("refunds", permission="payments:refund"))
    assert isinstance(made, Credential)
    assert made.value == f"{CANARY}-1"


def test_none_is_made_for_what_is_not_granted_or_not_the_connectors(minting, instrument):
    asked = minting(grants=[])
    with pytest.raises(errors.NotAuthorized, match="nobody has granted it"):
        mint_credential("refunds")
    with pytest.raises(errors.NotAuthorized, match="'payments:refund:eu'"):
        mint_credential("refunds", permission="payments:refund:eu")
    for wider in ("payments", "payments:*", "payments:refunds", "mail:send", 5):
        with pytest.raises(errors.ConfigError, match="a credential is for 'payments:refund' or for what is below it"):
            mint_credential("refunds", permission=wider)
    for too_long in (0, -1, 1e9, float("nan"), True, "9", None):
        with pytest.raises(errors.ConfigError, match="expires_in_s"):
            mint_credential("refunds", expires_in_s=too_long)
    assert asked == []


def test_what_was_made_and_is_no_text_is_in_no_frame_of_the_error(connected):
    for made in (CANARY.encode(), {"access_token": CANARY}):
        connected(door_has={"mint": lambda made=made, **_: made})
        with pytest.raises(errors.ConfigError, match="returned no text") as refused:
            mint_credential("refunds")
        frames = [frame for frame, _ in traceback.walk_tb(refused.value.__traceback__)]
        ours = [frame for frame in frames if "spanledger" in frame.f_globals["__name__"]]
        assert CANARY not in str([{**frame.f_locals, "self": None} for frame in ours])


def test_after_a_timeout_another_one_is_made(connected, ledger):
    tries = itertools.count(1)

    def mint(**_: Any) -> str:
        if next(tries) == 1:
            raise TimeoutError("timed out")
        return CANARY

    connected(door_has={"mint": mint})
    with pytest.raises(TimeoutError):
        mint_credential("refunds")
    assert mint_credential("refunds").value == CANARY
    assert [call["state"] for call in ledger.calls()] == ["succeeded"]


def test_a_person_may_have_to_allow_it(minting, ledger):
    asked = minting(rules=[Rule("refunds.mint", approval=True, wait_timeout_s=0)])
    with pytest.raises(errors.ApprovalPending) as pending:
        mint_credential("refunds")
    ledger.approve(pending.value.approval_id, by="ops")
    assert mint_credential("refunds").value == f"{CANARY}-1"
    assert len(asked) == 1


def test_one_that_a_rule_wants_replayed_is_not_there_to_be_given(minting):
    minting(rules=[Rule("refunds.mint", replay_for_s=3600)])
    mint_credential("refunds")
    with pytest.raises(errors.ResultNotKept, match="credentials are not kept"):
        mint_credential("refunds")


def test_what_makes_none_is_said(connected, ledger):
    connected()
    with pytest.raises(errors.ConfigError, match="it has no mint"):
        mint_credential("refunds")
    connected(door_has={"mint": lambda **_: None})
    with pytest.raises(errors.ConfigError, match="returned no text"):
        mint_credential("refunds")
    connected(door_has={"credential_env": None, "methods": (), "paths": (), "mint": lambda **_: CANARY})
    with workflow("another"):
        assert mint_credential("refunds").value == CANARY
    with pytest.raises(errors.EgressRefused, match="the connector is for nothing that is sent"):
        refund()


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"name": ""}, "a name is a text"),
        ({"permission": "payments:*"}, "a permission is a name such as"),
        ({"base_url": "http://api.stripe.com"}, "base_url begins with https://"),
        ({"base_url": "https://user:pw@api.stripe.com"}, "without a user"),
        ({"base_url": "https://api.stripe.com/?a=b"}, "base_url has no query"),
        ({"base_url": "https://"}, "base_url is such as"),
        ({"base_url": None}, "base_url is such as"),
        ({"credential_file": "/run/key"}, "give one of credential"),
        ({"credential_env": None}, "give one of credential"),
        ({"credential_env": None, "credential": CANARY}, "credential and mint are callables"),
        ({"methods": ()}, "its credential is good for nothing"),
        ({"paths": ()}, "its credential is good for nothing"),
        ({"methods": "POST"}, "methods is a list"),
        ({"paths": ("*",)}, "paths is a list such as"),
        ({"paths": "/v1"}, "paths is a list such as"),
        ({"header": "Authorization"}, "header is such as"),
        ({"header": "Authorization: Bearer"}, "header is such as"),
        ({"header": 5}, "header is such as"),
        ({"header": "Authorization: Bearer {}\r\nX: y"}, "header is such as"),
        ({"header": "Host: {}"}, "header and headers name others"),
        ({"header": "content-length: {}"}, "header and headers name others"),
        ({"header": "Transfer-Encoding: {}"}, "header and headers name others"),
        ({"header": "Connection: {}"}, "header and headers name others"),
        ({"headers": {"authorization": "x"}}, "header and headers name others"),
        ({"headers": {"Host": "evil"}}, "header and headers name others"),
        ({"headers": {"Transfer-Encoding": "chunked"}}, "header and headers name others"),
        ({"headers": {"X-A": "1", "x-a": "2"}}, "two headers have one name"),
        ({"headers": None}, "headers are texts by their names"),
        ({"headers": {5: "x"}}, "headers are texts by their names"),
        ({"base_url": "https://[::1"}, "base_url is such as"),
        ({"headers": {"A": "x\r\nB: y"}}, "headers are texts of plain characters"),
        ({"timeout_s": 0}, "timeout_s is a number of seconds"),
        ({"timeout_s": "3"}, "timeout_s is a number of seconds"),
        ({"timeout_s": None}, "timeout_s is a number of seconds"),
    ],
)
def test_a_connector_that_cannot_work_is_refused(fields, complaint):
    given = {"name": "refunds", "base_url": "https://api.stripe.com", "permission": "payments:refund"}
    given |= {"credential_env": "STRIPE_KEY", "methods": ("POST",), "paths": ("/v1/refunds*",)}
    with pytest.raises(errors.ConfigError, match=complaint) as refused:
        Connector(**given | fields)
    assert CANARY not in str(refused.value)


def test_two_of_one_name_are_refused(door):
    with pytest.raises(errors.ConfigError, match="two connectors are named 'refunds'"):
        Config(connectors=[door(), door()])
