"""`spanledger trace` and `spanledger tail`: what an agent did and why, told by the ledger alone."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.acceptance.conftest import BIN, ROOT, Run

from spanledger import Config, Ledger
from spanledger.testing import OtlpReceiver

OVER = "budget refunds has 5.50 EUR left of 25.00 EUR, 10.00 EUR requested (rule refund)"
README = ROOT / "README.md"
AGENT = Path(__file__).with_name("agents_day.py")


@pytest.fixture
def day(run: Run, dsn: str) -> Callable[..., None]:
    """Let the agent do something in a process of its own."""

    def live(what: str, workflow_id: str, code: int = 0, **environment: str) -> None:
        done = run(sys.executable, AGENT, what, workflow_id, SPANLEDGER_DSN=dsn, **environment)
        assert done.returncode == code, done.stderr

    return live


def told(run: Run, dsn: str, workflow_id: str) -> list[str]:
    done = run("spanledger", "trace", workflow_id, SPANLEDGER_DSN=dsn)
    assert done.returncode == 0, done.stderr
    text = re.sub(r"\n {25}", " ", done.stdout)
    return [re.sub(r"^\d\d:\d\d:\d\d\.\d{3}  ", "", line) for line in text.splitlines()]


def timeless(text: str) -> str:
    return re.sub(r"\d{4}-\d\d-\d\d|\d\d:\d\d:\d\d\.\d{3}|\b[0-9a-f]{8}\b|\b[0-9a-f]{32}\b", "…", text)


def keyless(line: str) -> str:
    return re.sub(r"\b[0-9a-f]{8}\b", "KEY", line)


def test_a_day_of_an_agent_reads_as_what_it_did_and_why(run: Run, day, dsn, ledger: Ledger):
    day("day", "order-123")
    (approval,) = ledger.approvals()
    ledger.approve(approval.id, by="ops@example.com", note="known to us")
    day("wired", "order-123")

    lines = [keyless(line) for line in told(run, dsn, "order-123")]
    assert lines[0] == "workflow order-123, tenant default"
    expected = [
        "started    support for u_42: refund order 123",
        "step       the customer is entitled to a refund",
        "decided    method: card, not voucher, because paid by card",
        'run        refund KEY  {"order_id":"o-1"}',
        "succeeded  refund KEY  cost 9.50 EUR",
        "replayed   refund KEY  given the result of attempt 1 in trace KEY",
        'run        refund KEY  {"order_id":"o-unknown"}',
        "unknown    refund KEY  TimeoutError: no answer from the bank. Find out, then: spanledger resolve KEY",
        f'refused    refund KEY  {OVER} {{"order_id":"o-2"}}',
        'refused    mail KEY  stopped, switch mail: the relay is down {"to":"a@b"}',
        'asked      wire KEY  a person has to allow it, asked for by wire (version 1): {"to":"ada"} (approval KEY)',
        "ended      done",
        "approved   wire KEY  by ops@example.com: known to us",
        "started    support",
        'run        wire KEY  {"to":"ada"} (consent KEY)',
    ]
    assert lines[2 : 2 + len(expected)] == expected
    assert "calls   3 ran, 1 replayed, 2 refused, 1 asked of a person, 1 of unknown outcome" in lines
    assert len(re.findall(r"[0-9a-f]{32}", "\n".join(lines))) == 2


def test_the_readme_shows_what_is_really_printed(run: Run, day, dsn):
    day("day", "order-123")
    done = run("spanledger", "trace", "order-123", SPANLEDGER_DSN=dsn)

    (shown,) = re.findall(
        r"^```text\n\$ spanledger trace order-123\n(.*?)^```", README.read_text(), re.MULTILINE | re.DOTALL
    )
    assert timeless(done.stdout) == timeless(shown)


def test_the_same_as_json_has_every_entry_with_its_place_in_the_trace(run: Run, day, dsn):
    day("day", "order-123")

    data = json.loads(run("spanledger", "trace", "order-123", "--json", SPANLEDGER_DSN=dsn).stdout)
    assert data["totals"] == {
        "run": 2, "replay": 1, "refused": 2, "asked": 1, "unknown": 1, "cost": ["9.50 EUR"],
    }  # fmt: skip
    (only,) = data["runs"]
    assert (only["goal"], only["agent"], only["actor"], only["status"]) == (
        "refund order 123", "support", "u_42", "done",
    )  # fmt: skip
    assert all(entry["trace_id"] == only["trace_id"] and entry["span_id"] for entry in data["entries"])
    assert data["traces"] == [only["trace_id"]]


def test_what_a_killed_process_did_is_told_although_its_trace_is_lost(run: Run, day, dsn):
    with OtlpReceiver() as backend:
        day(
            *("killed", "order-124", -signal.SIGKILL),
            OTEL_EXPORTER_OTLP_ENDPOINT=backend.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        assert backend.spans == ()
    with Ledger(config=Config(dsn=dsn)) as ledger:
        (call,) = ledger.calls()
    assert call["state"] == "in_flight"

    lines = [keyless(line) for line in told(run, dsn, "order-124")]
    assert [line for line in lines if line.startswith(("started", "step", "run"))] == [
        "started    support: refund\\x1b[2J order 124",
        "step       it is due",
        'run        refund KEY  {"order_id":"o-killed"}',
    ]
    assert "it still runs, or its process died" in lines[-1]
    assert call["trace_id"] in "\n".join(lines)


def test_the_same_is_in_the_spans_that_any_backend_gets(run: Run, day, dsn, ledger: Ledger):
    with OtlpReceiver() as backend:
        where = {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"}
        day("day", "order-123", **where)
        (approval,) = ledger.approvals()
        ledger.approve(approval.id, by="ops@example.com")
        day("wired", "order-123", **where)
        spans = sorted(backend.spans, key=lambda span: span.start_ns)
    calls = [span for span in spans if span.name.startswith("execute_tool")]
    assert [(span.name.split()[1], span.attributes["spanledger.verdict"]) for span in calls] == [
        ("refund", "run"),
        ("refund", "replay"),
        ("refund", "run"),
        ("refund", "budget_exceeded"),
        ("mail", "unauthorized"),
        ("wire", "awaiting_approval"),
        ("wire", "run"),
    ]
    around = [span for span in spans if span.name == "invoke_agent support"]
    assert {span.parent_span_id for span in calls} == {span.span_id for span in around}
    assert [name for name, _ in around[0].events] == ["spanledger.step", "spanledger.decision"]
    ran, replayed, unknown, *_, asked, wired = calls
    assert replayed.links[0][:2] == (ran.trace_id, ran.span_id)
    assert unknown.attributes["spanledger.call.outcome"] == "unknown"
    assert ran.attributes["spanledger.budget.before"] == ("25.00 EUR",)
    (request,) = [span for span in spans if span.name == "approval wire"]
    assert request.parent_span_id == asked.span_id
    assert [link[:2] for link in wired.links] == [(request.trace_id, request.span_id)]
    assert wired.trace_id != request.trace_id
    assert wired.attributes["spanledger.approval.approver"] == "ops@example.com"
    keys = {row["key"] for row in ledger.calls()}
    assert {span.attributes["spanledger.call.key"] for span in calls} == keys


def test_a_lease_that_is_over_is_an_unknown_outcome_before_anybody_asks(run: Run, day, dsn, sql):
    day("killed", "order-124", -signal.SIGKILL)
    sql.execute("update spanledger.call set lease_until = clock_timestamp() - interval '1 second'")

    (line,) = [line for line in told(run, dsn, "order-124") if line.startswith("unknown")]
    assert "its process may have died. Find out, then: spanledger resolve" in line


def test_a_workflow_that_nobody_knows_is_said_to_be_unknown(run: Run, dsn):
    done = run("spanledger", "trace", "no\x1bbody", SPANLEDGER_DSN=dsn)

    assert done.returncode == 1
    assert done.stderr == "spanledger: the ledger knows no workflow no\\x1bbody of tenant default\n"


@pytest.fixture
def tail(dsn: str, tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start `spanledger tail`."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: str) -> subprocess.Popen[str]:
        environment = {"SPANLEDGER_DSN": dsn, "PATH": str(BIN), "PYTHONPATH": ":".join(sys.path)}
        started.append(
            subprocess.Popen(
                [BIN / "spanledger", "tail", *arguments],
                env=environment,
                cwd=tmp_path,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def line_of(process: subprocess.Popen[str], wanted: str, timeout_s: float = 60.0) -> str:
    late = threading.Timer(timeout_s, process.kill)
    late.start()
    try:
        return next(line for line in process.stdout if wanted in line)
    except StopIteration:
        raise AssertionError(f"no {wanted!r}: {process.stderr.read()}") from None
    finally:
        late.cancel()


def test_tail_shows_what_was_and_what_comes_and_ends_cleanly_by_ctrl_c(day, tail):
    day("day", "order-1")
    following = tail("--lines", "3")
    assert "[order-1]" in line_of(following, "ended")

    day("day", "order-2")
    for wanted in ("started", "replayed", "ended"):
        assert "[order-2]" in line_of(following, wanted)
    following.send_signal(signal.SIGINT)
    assert following.wait(30) == 0
    assert following.stderr.read() == ""


def test_tail_follows_one_workflow_and_tool_as_json_lines(day, tail):
    following = tail("--workflow", "order-2", "--tool", "refund", "--json")
    day("day", "order-1")
    day("day", "order-2")

    entries = [json.loads(line_of(following, "{")) for _ in range(3)]
    assert {(entry["workflow_id"], entry["tool"]) for entry in entries} == {("order-2", "refund")}
