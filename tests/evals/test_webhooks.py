"""People are told by a webhook: of approvals that are needed, and of runs of a suite that failed."""

from __future__ import annotations

import base64
import datetime as dt
import hashlib
import hmac
import json
import subprocess
import sys
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
import requests

import spanledger
from spanledger import Approval, Config, EgressRule, Ledger, Rule, ToolCall, tool, webhook, webhooks, workflow
from spanledger.errors import ApprovalPending, ConfigError, EgressRefused
from spanledger.evals import Case, Submission, Suite, run, submit

SECRET = "whsec_" + base64.b64encode(b"between us").decode()


class Receiver:
    """A server on loopback that keeps what it is sent, and answers as told: a status each time, then 200."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[dict[str, str], bytes]] = []
        self.hold = threading.Event()
        self.hold.set()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["content-length"]))
                outer.hold.wait(30)
                outer.got.append(({name.lower(): value for name, value in self.headers.items()}, body))
                self.send_response(outer.answers.pop(0) if outer.answers else 200)
                self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = HTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_port}/hooks/secret-path"

    @property
    def bodies(self):
        assert webhooks.flush()
        return [json.loads(body) for _, body in self.got]


@pytest.fixture
def receiver():
    receiver = Receiver()
    thread = threading.Thread(target=receiver.server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield receiver
    receiver.hold.set()
    webhooks.flush()
    receiver.server.shutdown()
    thread.join()
    receiver.server.server_close()


def judged(answer, **more):
    return Suite("refunds", [Case("a", 1), Case("b", 0)], {"judge": lambda output, case: bool(output)}, **more)


def hasty(url, **more):
    return webhooks.Webhook(url, pause_s=0.001, **more)


# --- what is told


def test_a_run_that_failed_is_told_with_its_figures_and_none_of_its_words(receiver, ledger):
    suite = judged(0, fail_under=0.8, on_failed=webhook(receiver.url), agent="support")

    run(suite, lambda n: n, run_id="nightly", ledger=ledger)

    (body,) = receiver.bodies
    assert body["type"] == "eval.failed"
    data = body["data"]
    assert (data["suite"], data["run_id"], data["agent"]) == ("refunds", "nightly", "support")
    assert (data["passed"], data["failed"], data["pass_rate"], data["failed_cases"]) == (1, 1, 0.5, ["b"])
    assert "output" not in data
    assert "results" not in data


@pytest.mark.parametrize(("fail_under", "told"), [(0.5, 0), (0.51, 1), (1, 1), (0, 0)])
def test_only_a_run_under_the_rate_is_told(receiver, ledger, fail_under, told):
    run(judged(0, fail_under=fail_under, on_failed=webhook(receiver.url)), lambda n: n, ledger=ledger)

    assert len(receiver.bodies) == told


def test_a_run_is_told_once_when_it_is_completed(receiver, ledger):
    suite = judged(0, fail_under=1, on_failed=webhook(receiver.url))
    for _ in range(2):
        run(suite, lambda n: n, run_id="here", ledger=ledger)
    given = [{"case_id": "a", "passed": False}]
    for complete in (False, True, True):
        submit(Submission(suite, "there"), given, complete=complete, ledger=ledger)

    assert [body["data"]["run_id"] for body in receiver.bodies] == ["here", "there"]


def test_a_run_of_which_nothing_could_be_judged_has_failed(receiver, ledger):
    suite = Suite(
        "s", [Case("a")], {"judge": lambda output, case: 1 / 0}, fail_under=0, on_failed=webhook(receiver.url)
    )

    run(suite, str, ledger=ledger)

    assert receiver.bodies[0]["data"]["errors"] == 1


def test_a_person_is_told_of_an_approval_that_is_needed(receiver, ledger_with):
    rule = Rule("pay", approval=True, wait_timeout_s=0, redact=("$.iban",))
    ledger = ledger_with(rules=[rule], on_approval_needed=webhook(receiver.url))

    with pytest.raises(ApprovalPending) as pending:
        ledger.run(ToolCall("pay", {"amount": 10, "iban": "DE1"}, workflow_id="w"), lambda: None)

    (body,) = receiver.bodies
    assert (body["type"], body["data"]["id"]) == ("approval.requested", pending.value.approval_id)
    assert body["data"]["arguments"]["amount"] == 10
    requested_at = body["data"]["requested_at"]
    assert requested_at == dt.datetime.fromisoformat(requested_at).isoformat()
    assert "DE1" not in json.dumps(body)


def test_an_address_in_the_file_is_a_webhook(receiver, dsn, tmp_path):
    file = tmp_path / "spanledger.toml"
    file.write_text(
        f'on_approval_needed = "{receiver.url}"\n[[rules]]\nmatch = "pay"\napproval = true\nwait_timeout_s = 0.0\n'
    )
    from dataclasses import replace

    with Ledger(config=replace(Config.from_file(file), dsn=dsn)) as ledger, pytest.raises(ApprovalPending):
        ledger.run(ToolCall("pay", {}, workflow_id="w"), lambda: None)

    assert receiver.bodies[0]["data"]["tool"] == "pay"


def test_the_command_line_tells_as_well(receiver, typed, tmp_path):
    file = tmp_path / "results.json"
    file.write_text('[{"case_id": "a", "passed": false}]')
    words = ["evals", "submit", str(file), "--suite", "s", "--fail-under", "0.5", "--webhook", receiver.url]

    assert typed(*words)[0] == 1

    assert receiver.bodies[0]["data"]["suite"] == "s"


# --- how it can be known to be from us


def signature(secret, headers, body):
    told = f"{headers['webhook-id']}.{headers['webhook-timestamp']}.".encode() + body
    return "v1," + base64.b64encode(hmac.new(secret, told, hashlib.sha256).digest()).decode()


@pytest.mark.parametrize(("secret", "key"), [(SECRET, b"between us"), ("any words", b"any words")])
def test_it_is_signed_with_its_id_and_time(receiver, ledger, secret, key):
    run(judged(0, fail_under=1, on_failed=webhook(receiver.url, secret=secret)), lambda n: n, ledger=ledger)
    assert webhooks.flush()

    ((headers, body),) = receiver.got
    assert headers["webhook-signature"] == signature(key, headers, body)
    assert headers["content-type"] == "application/json"


def test_the_secret_may_come_from_the_environment_and_without_one_it_is_not_signed(receiver, ledger, monkeypatch):
    run(judged(0, fail_under=1, on_failed=webhook(receiver.url)), lambda n: n, ledger=ledger)
    assert webhooks.flush()
    monkeypatch.setenv("SPANLEDGER_WEBHOOK_SECRET", "any words")
    run(judged(0, fail_under=1, on_failed=webhook(receiver.url)), lambda n: n, ledger=ledger)
    assert webhooks.flush()

    (unsigned, _), (headers, body) = receiver.got
    assert "webhook-signature" not in unsigned
    assert headers["webhook-signature"] == signature(b"any words", headers, body)


def test_no_credentials_of_this_machine_go_along(receiver, ledger, monkeypatch, tmp_path):
    (tmp_path / "netrc").write_text("machine 127.0.0.1 login ada password lovelace\n")
    (tmp_path / "netrc").chmod(0o600)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))

    run(judged(0, fail_under=1, on_failed=webhook(receiver.url)), lambda n: n, ledger=ledger)
    assert webhooks.flush()

    assert "authorization" not in receiver.got[0][0]


def test_the_address_is_not_shown():
    hook = webhook("https://example.com/hooks/secret-path?token=another", secret="whsec_c2VjcmV0")

    assert repr(hook) == "Webhook('example.com')"
    shown = repr(Config(on_approval_needed=hook)) + repr(judged(0, fail_under=1, on_failed=hook))
    assert not [word for word in ("secret-path", "another", "c2VjcmV0") if word in shown]


def test_rules_about_what_the_program_sends_are_not_about_it(receiver, dsn):
    rules = [EgressRule("*", "deny", everywhere=True)]
    rule = Rule("pay", approval=True, wait_timeout_s=0)
    config = Config(dsn=dsn, egress=rules, rules=[rule], on_approval_needed=webhook(receiver.url))
    spanledger.instrument(config, libraries=("requests", "urllib3"))
    try:
        with workflow("w"), pytest.raises(ApprovalPending):
            tool(pay)()
        assert [body["data"]["tool"] for body in receiver.bodies] == ["pay"]
        with pytest.raises(EgressRefused):
            requests.post(receiver.url, timeout=5)
    finally:
        spanledger.uninstrument()


def pay():
    pass


# --- what fails


@pytest.mark.parametrize(
    ("answers", "times"), [([500, 429], 3), ([503, 500, 500, 200], 3), ([400], 1), ([302], 1), ([], 1)]
)
def test_it_is_sent_again_where_that_may_help_and_is_the_same_then(receiver, ledger, answers, times):
    receiver.answers = list(answers)

    run(judged(0, fail_under=1, on_failed=hasty(receiver.url)), lambda n: n, ledger=ledger)

    assert len(receiver.bodies) == times
    assert len({headers["webhook-id"] for headers, _ in receiver.got}) == 1
    assert len({body for _, body in receiver.got}) == 1


def test_where_nobody_listens_the_run_stands_and_it_is_logged_without_the_address(ledger, caplog):
    hook = hasty("http://127.0.0.1:1/hooks/secret-path", secret=SECRET)

    results = run(judged(0, fail_under=1, on_failed=hook), lambda n: n, ledger=ledger)
    assert webhooks.flush()

    assert results.state == "completed"
    assert "eval.failed for 127.0.0.1 did not arrive: ConnectionError (attempt 3 of 3)" in caplog.text
    assert "secret-path" not in caplog.text


def test_whoever_is_told_of_waits_for_nobody(receiver, ledger_with):
    receiver.hold.clear()
    rule = Rule("pay", approval=True, wait_timeout_s=0)
    ledger = ledger_with(rules=[rule], on_approval_needed=webhook(receiver.url))

    with pytest.raises(ApprovalPending):
        ledger.run(ToolCall("pay", {}, workflow_id="w"), lambda: None)

    # The receiver has not answered, nor even read it to the end.
    assert receiver.got == []


def test_so_many_are_under_way_and_no_more(receiver, ledger, caplog):
    receiver.hold.clear()
    hook = webhooks.Webhook(receiver.url)
    results = run(judged(0), lambda n: n, ledger=ledger)

    for _ in range(webhooks.UNDER_WAY_MAX + 1):
        hook(results)

    assert "eval.failed for 127.0.0.1 is not sent: 32 are under way" in caplog.text
    receiver.hold.set()
    assert len(receiver.bodies) == webhooks.UNDER_WAY_MAX


def test_a_program_that_ends_waits_for_what_is_under_way(receiver):
    receiver.answers = [500]
    code = f"""
import datetime as dt
from spanledger import Approval, webhook
now = dt.datetime.now(dt.UTC)
webhook({receiver.url!r})(Approval("1", "ab", "pay", {{}}, now, now))
"""

    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)

    assert [body["data"]["tool"] for body in receiver.bodies] == ["pay", "pay"]


def test_a_hook_that_raises_costs_no_run(ledger, caplog):
    def broken(results):
        raise LookupError("no pager")

    assert run(judged(0, fail_under=1, on_failed=broken), lambda n: n, run_id="r", ledger=ledger).state == "completed"
    assert "on_failed failed for run r; its results stand" in caplog.text


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: webhook("example.com/hooks"), "has an address"),
        (lambda: webhook("ftp://example.com"), "has an address"),
        (lambda: webhook("https://"), "has an address"),
        (lambda: webhook("https://[::1"), "has an address"),
        (lambda: webhook("https://example.com:port"), "has an address"),
        (lambda: webhook("https://example.com/a b"), "has an address"),
        (lambda: webhook("https://example.com/\r\nx"), "has an address"),
        (lambda: webhook(5), "has an address"),
        (lambda: webhook("https://example.com", secret="whsec_?"), "base64 after it"),
        (lambda: webhook("https://example.com", secret="whsec_é"), "base64 after it"),
        (lambda: webhook("https://example.com", secret="whsec_"), "is not empty"),
        (lambda: webhook("https://example.com", secret=""), "is not empty"),
        (lambda: webhook("https://example.com", secret=5), "printable text"),
        (lambda: webhook("https://example.com", secret="\ud800"), "printable text"),
        (lambda: webhook("https://example.com", timeout_s="x"), "number of seconds"),
        (lambda: webhook("https://example.com", timeout_s=-1), "number of seconds"),
        (lambda: webhook("https://example.com", timeout_s=0), "number of seconds"),
        (lambda: webhook("https://example.com", timeout_s=10**400), "number of seconds"),
        (lambda: webhooks.Webhook("https://example.com", attempts_max=0), "1 or more"),
        (lambda: judged(0, on_failed=print), "fail_under says|say by fail_under"),
        (lambda: judged(0, fail_under=80), "between 0 and 1"),
        (lambda: Submission("s", "r", fail_under=2), "between 0 and 1"),
        (lambda: Case("a", weight=-1), "more than 0"),
    ],
)
def test_what_makes_no_sense_is_said(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make()


def test_what_is_no_event_is_logged_and_nothing_sent(receiver, caplog):
    webhook(receiver.url)("hello")

    assert receiver.bodies == []
    assert "could not be sent" in caplog.text
    assert Approval.__name__ in caplog.text


def test_without_requests_a_webhook_says_so_when_it_is_made(monkeypatch):
    monkeypatch.setitem(sys.modules, "requests", None)
    with pytest.raises(ConfigError, match="requests, which is not installed"):
        webhook("https://example.com/hook")
