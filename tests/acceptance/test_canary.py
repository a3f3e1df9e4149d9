"""A secret in redacted places is found nowhere: not on the wire, in the ledger, in logs, on disk or at a terminal."""

from __future__ import annotations

import base64
import gzip
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from tests.acceptance.conftest import Run

from spanledger.testing import OtlpReceiver
from spanledger.testing._http import Reply, Request

AGENT = Path(__file__).with_name("canary_agent.py")
CANARY = "canary7f3a9c51"
SEEN = "visible-order"
# However it is written: plainly, or as bytes are.
TRACES = (CANARY, CANARY.encode().hex(), base64.b64encode(f"x{CANARY}".encode()).decode()[4:-4])
RULES = """
on_approval_needed = "canary_agent:told"
[[rules]]
match = "*door"
identity = "arguments"
on_ledger_down = "{down}"
redact = [
    "password",
    "$..card.number",
    {{path = "$..customer", action = "hmac"}},
    {{path = "authorization", action = "remove"}},
]
"""
COLUMNS = """
select c.table_schema || '.' || c.table_name, c.column_name from information_schema.columns c
join information_schema.tables t using (table_schema, table_name)
where c.table_schema in ('spanledger', 'spanledger_v1')"""


class Wire(OtlpReceiver):
    """A backend that keeps all it is sent, as it was sent."""

    def __init__(self) -> None:
        super().__init__()
        self.sent: dict[str, bytes] = {}

    def answer(self, request: Request) -> Reply:
        packed = request.headers.get("content-encoding") == "gzip"
        body = gzip.decompress(request.body) if packed else request.body
        self.sent[request.path] = self.sent.get(request.path, b"") + body
        return super().answer(request)


@pytest.fixture
def wire() -> Iterator[Wire]:
    with Wire() as wire:
        yield wire


@pytest.fixture
def agent(run: Run, wire: Wire, tmp_path: Path) -> Callable[..., list[str]]:
    """Run the agent; returns how its calls ended."""
    (tmp_path / "keys.toml").write_text(f'"*" = ["k1:{base64.b64encode(bytes(32)).decode()}"]\n')

    def run_agent(dsn: str, *, down: str = "refuse", keys: bool = True) -> list[str]:
        (tmp_path / "spanledger.toml").write_text(RULES.format(down=down))
        environment = {
            "CANARY": CANARY,
            "PYTHONPATH": str(AGENT.parent),
            "SPANLEDGER_DSN": dsn,
            "SPANLEDGER_SECRET": "a secret of the test",
            "SPANLEDGER_STATE_DIR": str(tmp_path / "state"),
            "OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "SPAN_AND_EVENT",
            "OTEL_EXPORTER_OTLP_ENDPOINT": wire.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_METRICS_EXPORTER": "otlp",
            "OTEL_LOGS_EXPORTER": "otlp",
            "OTEL_PYTHON_LOGGING_AUTO_INSTRUMENTATION_ENABLED": "true",
        } | ({"SPANLEDGER_PAYLOAD_KEYS_FILE": str(tmp_path / "keys.toml")} if keys else {})
        done = run("opentelemetry-instrument", "python", AGENT, **environment)
        assert done.returncode == 0, done.stderr
        assert not any(trace in done.stderr for trace in TRACES)
        return done.stdout.splitlines()

    return run_agent


def leaks(where: str, content: str | bytes) -> list[str]:
    """Where the canary is found, with what is around it."""
    text = content.decode("latin-1") if isinstance(content, bytes) else content
    return [f"{where}: {text[max(0, text.index(t) - 200) : text.index(t) + 100]!r}" for t in TRACES if t in text]


def in_tables(sql: psycopg.Connection, words: str) -> list[str]:
    """The columns of the ledger's tables and views that hold something."""
    columns = sql.execute(COLUMNS).fetchall()
    return [
        f"{table}.{column}"
        for table, column in columns
        if sql.execute(f"select 1 from {table} where {column}::text like %s", (f"%{words}%",)).fetchone()  # type: ignore[arg-type]
    ]


@pytest.mark.parametrize("keys", [True, False], ids=["sealed", "plain"])
def test_a_secret_in_redacted_places_is_found_nowhere(keys, agent, dsn, sql, wire, run_here, tmp_path: Path):
    ended = agent(dsn, keys=keys)

    assert f"by_block fails: {ValueError.__name__}" in ended
    assert ended.count("by_tool succeeds") == (2 if keys else 1)
    assert "asking succeeds: ApprovalPending" in ended
    assert "unpriced succeeds: Undescribable" in ended
    # What may be seen is seen everywhere, so that the secret would be.
    logged, told = (tmp_path / "everything.log").read_text(), (tmp_path / "told.txt").read_text()
    assert SEEN.encode() in wire.sent["/v1/traces"]
    assert SEEN.encode() in wire.sent["/v1/logs"]
    assert b"span door" in wire.sent["/v1/traces"]
    assert ended.count("by_model succeeds") == ended.count("by_ruled_model succeeds") == 2
    for name in (b"gen_ai.input.messages", b"gen_ai.output.messages"):
        assert all(name in wire.sent[path] for path in ("/v1/traces", "/v1/logs"))
    assert b"gen_ai.client.inference.operation.details" in wire.sent["/v1/logs"]
    assert set(wire.sent) == {"/v1/traces", "/v1/metrics", "/v1/logs"}
    assert {"spanledger.call.arguments", "spanledger.approval.arguments"} <= set(in_tables(sql, SEEN))
    assert "DEBUG" in logged
    assert SEEN in told

    (tmp_path / "cli.toml").touch()
    found = [leak for path, body in wire.sent.items() for leak in leaks(path, body)]
    found += [column for trace in TRACES for column in in_tables(sql, trace)]
    found += leaks("log", logged) + leaks("on_approval_needed", told)
    for command in (["calls"], ["approvals", "--all"], *shows(sql)):
        for form in ([], ["--json"]):
            done = run_here(
                "spanledger", *command, *form, SPANLEDGER_DSN=dsn, SPANLEDGER_CONFIG=str(tmp_path / "cli.toml")
            )
            assert done.returncode == 0, done.stderr
            found += leaks(f"spanledger {command}", done.stdout + done.stderr)
    assert found == []


def shows(sql: psycopg.Connection) -> list[list[str]]:
    """One call of every tool and state."""
    rows = sql.execute("select min(key) from spanledger_v1.calls group by tool, state").fetchall()
    assert len(rows) > 10
    return [["show", key] for (key,) in rows]


@pytest.mark.parametrize("keys", [True, False], ids=["sealed", "plain"])
def test_nor_on_disk_while_the_ledger_is_down(keys, agent, wire, tmp_path: Path):
    ended = agent("host=127.0.0.1 port=9 dbname=gone connect_timeout=1", down="continue", keys=keys)

    assert "by_block succeeds" in ended
    spooled = [path.read_text() for path in (tmp_path / "state").rglob("*.json")]
    assert any(SEEN in text for text in spooled)
    logged = (tmp_path / "everything.log").read_text()
    found = [leak for text in spooled for leak in leaks("spool", text)]
    assert found + leaks("log", logged) + [x for path, body in wire.sent.items() for x in leaks(path, body)] == []
