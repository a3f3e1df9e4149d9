"""An unmodified agent under `opentelemetry-instrument`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tests.acceptance.conftest import EXAMPLES, Run

from spanledger import Config, Ledger
from spanledger.testing import OtlpReceiver, ReceivedSpan

AGENT = EXAMPLES / "refund_agent.py"


@pytest.fixture
def backend():
    with OtlpReceiver() as receiver:
        yield receiver


@pytest.fixture
def environment(dsn, backend):
    return {
        "SPANLEDGER_DSN": dsn,
        "SPANLEDGER_WORKFLOW_ID": "order-1",
        "OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint,
        "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
    }


def spans_of(backend: OtlpReceiver, name: str) -> list[ReceivedSpan]:
    return sorted((span for span in backend.spans if span.name == name), key=lambda span: span.start_ns)


def test_a_second_run_of_the_same_workflow_replays_the_refund(run: Run, environment, backend, dsn, tmp_path: Path):
    for _ in range(2):
        done = run("opentelemetry-instrument", "python", AGENT, **environment)
        assert done.returncode == 0, done.stderr

    assert len((tmp_path / "refunds.jsonl").read_text().splitlines()) == 1
    first, second = spans_of(backend, "execute_tool refund")
    assert first.attributes["spanledger.verdict"] == "run"
    assert second.attributes["spanledger.verdict"] == "replay"
    assert second.links[0][:2] == (first.trace_id, first.span_id)
    assert first.attributes["gen_ai.tool.call.id"] != second.attributes["gen_ai.tool.call.id"]
    with Ledger(config=Config(dsn=dsn)) as ledger:
        (call,) = ledger.calls()
    assert (call["state"], call["workflow_id"], call["trace_id"]) == ("succeeded", "order-1", first.trace_id)


def test_a_run_is_one_trace_of_model_and_tool_calls_without_their_content(run: Run, environment, backend):
    assert run("opentelemetry-instrument", "python", AGENT, **environment).returncode == 0

    (agent,) = spans_of(backend, "invoke_agent LangGraph")
    children = [span for span in backend.spans if span.parent_span_id == agent.span_id]
    names = [span.name for span in sorted(children, key=lambda span: span.start_ns)]
    assert names == ["chat gpt-5-mini", "execute_tool refund", "chat gpt-5-mini"]
    model = spans_of(backend, "chat gpt-5-mini")[0]
    assert model.kind == "CLIENT"
    assert model.attributes["gen_ai.provider.name"] == "openai"
    assert model.attributes["gen_ai.usage.input_tokens"] > 0
    assert "o-123" not in repr([span.attributes for span in backend.spans])


def test_a_refund_over_budget_is_refused_before_it_happens(run: Run, environment, backend, tmp_path: Path):
    done = run(
        "opentelemetry-instrument", "python", AGENT, REQUEST="Please refund 600.00 EUR for order o-9.", **environment
    )

    assert done.returncode != 0
    assert "BudgetExceeded" in done.stderr
    assert not (tmp_path / "refunds.jsonl").exists()
    (refused,) = spans_of(backend, "execute_tool refund")
    assert refused.status_code == "ERROR"
    assert refused.attributes["spanledger.verdict"] == "budget_exceeded"


def test_an_unsampled_run_is_guarded_all_the_same(run: Run, environment, backend, tmp_path: Path):
    for _ in range(2):
        done = run("opentelemetry-instrument", "python", AGENT, OTEL_TRACES_SAMPLER="always_off", **environment)
        assert done.returncode == 0, done.stderr

    assert backend.spans == ()
    assert len((tmp_path / "refunds.jsonl").read_text().splitlines()) == 1


def test_the_console_exporter_works_where_nobody_else_configures_the_sdk(run: Run, environment):
    done = run("opentelemetry-instrument", "--traces_exporter", "console", "python", AGENT, **environment)

    assert done.returncode == 0, done.stderr
    # One object after the other, as the exporter writes them; the agent's own words follow or precede.
    spans = [json.loads(text) for text in re.findall(r"^\{\n.*?^\}", done.stdout, re.MULTILINE | re.DOTALL)]
    assert sorted(span["name"] for span in spans) == [
        "chat gpt-5-mini",
        "chat gpt-5-mini",
        "execute_tool refund",
        "invoke_agent LangGraph",
    ]


@pytest.mark.parametrize(
    ("environment", "reason"),
    [
        ({"SPANLEDGER_EMBEDDED": "off"}, "SPANLEDGER_DSN is not set"),
        ({"SPANLEDGER_CONFIG": "missing.toml"}, "cannot read missing.toml"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, "runs in a cluster"),
        ({"SPANLEDGER_MODE": "enforced"}, "mode is one of"),
    ],
)
def test_a_guard_that_cannot_be_attached_ends_the_process_before_the_program_runs(run: Run, environment, reason):
    done = run("opentelemetry-instrument", "python", "-c", "print('ran')", **environment)

    assert done.returncode == 1
    assert "ran" not in done.stdout
    assert reason in done.stderr
    assert "SPANLEDGER_MODE=off" in done.stderr
    assert "direct cause" not in done.stderr


def test_in_mode_off_the_program_runs_as_if_we_were_not_there(run: Run, tmp_path: Path):
    for _ in range(2):
        done = run("opentelemetry-instrument", "python", AGENT, SPANLEDGER_MODE="off", SPANLEDGER_EMBEDDED="off")
        assert done.returncode == 0, done.stderr

    assert len((tmp_path / "refunds.jsonl").read_text().splitlines()) == 2


def test_without_a_ledger_a_guarded_tool_does_not_run(run: Run, environment, tmp_path: Path):
    nowhere = environment | {"SPANLEDGER_DSN": f"host={tmp_path} dbname=none"}

    done = run("opentelemetry-instrument", "python", AGENT, **nowhere)

    assert "LedgerUnavailable" in done.stderr
    assert not (tmp_path / "refunds.jsonl").exists()


@pytest.mark.parametrize("names", ["spanledger", "requests , spanledger", "*"])
def test_who_disables_us_as_any_other_instrumentation_runs_unguarded_and_is_told_so(run: Run, tmp_path: Path, names):
    done = run(
        "opentelemetry-instrument",
        "python",
        AGENT,
        OTEL_PYTHON_DISABLED_INSTRUMENTATIONS=names,
        SPANLEDGER_EMBEDDED="off",
        OTEL_TRACES_EXPORTER="none",
    )

    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "refunds.jsonl").read_text().splitlines()) == 1
    assert "this program runs unguarded: OTEL_PYTHON_DISABLED_INSTRUMENTATIONS" in done.stderr


def test_where_the_guard_is_required_it_cannot_be_disabled(run: Run, environment):
    disabled = environment | {"OTEL_PYTHON_DISABLED_INSTRUMENTATIONS": "spanledger", "SPANLEDGER_REQUIRED": "1"}
    done = run("opentelemetry-instrument", "python", "-c", "print('ran')", **disabled)

    assert done.returncode == 1
    assert "ran" not in done.stdout
    assert "SPANLEDGER_REQUIRED is set, and OTEL_PYTHON_DISABLED_INSTRUMENTATIONS is 'spanledger'" in done.stderr
