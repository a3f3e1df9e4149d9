"""Telemetry reaches a backend by either protocol, and a backend that is down or hangs is nothing to the program."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import threading
from pathlib import Path

import pytest
from tests.acceptance.conftest import BIN, EXAMPLES, RUN_MAX_S, Run

from spanledger import Config, Ledger
from spanledger.testing import OtlpGrpcReceiver, OtlpReceiver

AGENT = EXAMPLES / "refund_agent.py"


class Hanging(OtlpReceiver):
    """A backend that takes a connection and does not answer."""

    def __init__(self) -> None:
        super().__init__()
        self.asked, self.released = threading.Event(), threading.Event()

    def answer(self, request):
        self.asked.set()
        self.released.wait(RUN_MAX_S)
        return super().answer(request)


@pytest.fixture
def environment(dsn):
    return {
        "SPANLEDGER_DSN": dsn,
        "SPANLEDGER_WORKFLOW_ID": "order-1",
        "OTEL_METRICS_EXPORTER": "otlp",
        "OTEL_LOGS_EXPORTER": "otlp",
        # What is left at the end is tried for so long.
        "OTEL_EXPORTER_OTLP_TIMEOUT": "2",
        "OTEL_BSP_EXPORT_TIMEOUT": "2000",
    }


def refunds(tmp_path: Path) -> list[dict]:
    return [json.loads(line) for line in (tmp_path / "refunds.jsonl").read_text().splitlines()]


def settled(dsn: str) -> list[str]:
    with Ledger(config=Config(dsn=dsn)) as ledger:
        return [call["state"] for call in ledger.calls()]


@pytest.mark.parametrize(("receiver", "protocol"), [(OtlpReceiver, "http/protobuf"), (OtlpGrpcReceiver, "grpc")])
def test_the_trace_arrives_by_either_protocol(run: Run, environment, receiver, protocol):
    with receiver() as backend:
        environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        done = run("opentelemetry-instrument", "python", AGENT, **environment)
        assert done.returncode == 0, done.stderr

    names = sorted(span.name for span in backend.spans)
    assert names == ["chat gpt-5-mini", "chat gpt-5-mini", "execute_tool refund", "invoke_agent LangGraph"]
    (tool,) = [span for span in backend.spans if span.name == "execute_tool refund"]
    assert tool.attributes["spanledger.verdict"] == "run"
    assert len({span.trace_id for span in backend.spans}) == 1


@pytest.mark.parametrize("protocol", ["http/protobuf", "grpc"])
def test_a_backend_that_is_down_is_nothing_to_the_program(run: Run, environment, dsn, tmp_path: Path, protocol):
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # taken, and not listened on
        endpoint = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        environment |= {"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol}
        done = run("opentelemetry-instrument", "python", AGENT, **environment)

    assert done.returncode == 0, done.stderr
    assert len(refunds(tmp_path)) == 1
    assert done.stdout.strip()
    assert settled(dsn) == ["succeeded"]


def test_a_backend_that_hangs_is_not_waited_for(environment, dsn, tmp_path: Path):
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("OTEL_", "SPANLEDGER_", "OPENAI_"))}
    with Hanging() as backend:
        environment |= {
            "OTEL_EXPORTER_OTLP_ENDPOINT": backend.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "1",  # it exports while the agent works
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONUNBUFFERED": "1",
        }
        command = ["opentelemetry-instrument", "python", str(AGENT)]
        with subprocess.Popen(
            command, cwd=tmp_path, env=kept | environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as agent:
            said = agent.stdout.readline()
            # It has done its work while its first spans were still on their way.
            assert said.strip()
            assert len(refunds(tmp_path)) == 1
            assert settled(dsn) == ["succeeded"]
            assert not backend.spans
            _, errors = agent.communicate(timeout=RUN_MAX_S)
        assert agent.returncode == 0, errors
        backend.released.set()
    assert backend.asked.is_set()
