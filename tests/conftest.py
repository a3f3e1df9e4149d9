"""A real Postgres for the tests: one private server for the whole run, one database for each test.

Tests that keep to tenants of their own share a database.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from tests import databases, emitted
from tests.measured import Measured

import spanledger
from spanledger import Config, Ledger, cli
from spanledger.instrument import _messages
from spanledger.ledger import _migrate
from spanledger.ledger._embedded import EmbeddedPostgres

# What is tested is what survives a crash of a process, not of the machine.
FAST = {"fsync": "off", "synchronous_commit": "off", "full_page_writes": "off"}
TEMPLATE = "ledger_template"


emitted.watch()


def pytest_addoption(parser: pytest.Parser) -> None:
    """`python -m tests.library` names the library that has to be there."""
    parser.addoption("--library", action="append", default=[], help="only this library, which must be installed")


@pytest.fixture(autouse=True)
def documented() -> Iterator[None]:
    """Nothing is exported that the conventions page does not know."""
    yield
    found = sorted(emitted.undocumented)
    emitted.undocumented.clear()
    assert not found, "declare it in telemetry/semconv.py"


@pytest.fixture(autouse=True)
def untouched_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """No test sees the settings or files of whoever runs it, nor what another test has instrumented or made a tool.

    But for which Postgres it is run on: `python -m tests.servers` runs on several.
    """
    for name in os.environ.keys() - {"SPANLEDGER_EMBEDDED"}:
        if name.startswith(("SPANLEDGER_", "OTEL_", "OPENAI_")):
            monkeypatch.delenv(name)
    monkeypatch.setattr(_messages, "_own", dict(_messages._own))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    yield
    logging.getLogger("spanledger").setLevel(logging.NOTSET)  # the command line sets it
    spanledger.uninstrument()


@pytest.fixture
def logged(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """What is logged, but by threads that other tests have left, whose ledger is gone."""
    others = {thread.ident for thread in threading.enumerate()} - {threading.get_ident()}
    return lambda: [record.getMessage() for record in caplog.records if record.thread not in others]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """DSN of a server that all workers of this run share; it stops soon after the last of them."""
    base = tmp_path_factory.getbasetemp()
    shared = base.parent if os.environ.get("PYTEST_XDIST_WORKER") else base
    embedded = EmbeddedPostgres(shared / "server", settings=FAST, linger_s=0.5)
    yield embedded.dsn()
    embedded.release()


@pytest.fixture(scope="session")
def template(server: str) -> str:
    """Name of a database that holds an empty ledger, made once per run."""
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute("select pg_advisory_lock(1)")
        found = connection.execute("select 1 from pg_database where datname = %s", (TEMPLATE,)).fetchone()
        if not found:
            connection.execute(f"create database {TEMPLATE}_half_made")
            with psycopg.connect(server, dbname=f"{TEMPLATE}_half_made", autocommit=True) as half_made:
                _migrate.migrate(half_made)
            connection.execute(f"alter database {TEMPLATE}_half_made rename to {TEMPLATE}")
        connection.execute("select pg_advisory_unlock(1)")
    return TEMPLATE


@pytest.fixture
def empty_dsn(server: str) -> Iterator[str]:
    """DSN of a database without a ledger."""
    with databases.made(server, "template0") as dsn:
        yield dsn


@pytest.fixture(scope="session")
def ledgers(server: str, template: str) -> Iterator[databases.Ledgers]:
    """The databases that a worker lends to its tests."""
    ledgers = databases.Ledgers(server, template)
    yield ledgers
    ledgers.drop()


@pytest.fixture
def dsn(ledgers: databases.Ledgers) -> Iterator[str]:
    """DSN of a database with an empty ledger."""
    with ledgers.one() as dsn:
        yield dsn


@pytest.fixture(scope="session")
def shared_dsn(server: str, template: str) -> Iterator[str]:
    """DSN of a database with a ledger for all tests of a worker that keep to tenants of their own."""
    with databases.made(server, template) as dsn:
        yield dsn


@pytest.fixture
def typed(
    dsn: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Type a command, as the program `spanledger` gets it; gives its exit code, output and complaints."""
    monkeypatch.setenv("SPANLEDGER_DSN", dsn)

    def typed(*words: str) -> tuple[int, str, str]:
        try:
            code = cli.main(words)
        except SystemExit as exit_:  # argparse
            code = int(exit_.code or 0)
        return (code, *capsys.readouterr())

    return typed


@pytest.fixture
def ledger(dsn: str) -> Iterator[Ledger]:
    """An empty ledger with no rules and no budgets."""
    with Ledger(config=Config(dsn=dsn)) as ledger:
        yield ledger


@pytest.fixture
def ledger_with(dsn: str) -> Iterator[Callable[..., Ledger]]:
    """Make ledgers with the given fields of `Config`, all on this test's database."""
    with contextlib.ExitStack() as stack:
        yield lambda **fields: stack.enter_context(Ledger(config=Config(dsn=dsn, **fields)))


@pytest.fixture
def sql(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection of the test's own, for looking behind the curtain."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


class Spans:
    """What the global tracer provider of this process has exported since the test began."""

    def __init__(self, exporter: InMemorySpanExporter) -> None:
        self._exporter = exporter

    def all(self, name: str | None = None) -> list[ReadableSpan]:
        """The ended spans, the first to end first; of one name, or all."""
        return [span for span in self._exporter.get_finished_spans() if name in (None, span.name)]

    def one(self, name: str) -> ReadableSpan:
        """The only span of a name."""
        (span,) = self.all(name)
        return span


@pytest.fixture(scope="session")
def exporter() -> InMemorySpanExporter:
    """Exporter of the global tracer provider, of which a process can have one only."""
    exporter = InMemorySpanExporter()
    if not isinstance(trace.get_tracer_provider(), TracerProvider):
        trace.set_tracer_provider(TracerProvider(shutdown_on_exit=False))
    trace.get_tracer_provider().add_span_processor(SimpleSpanProcessor(exporter))
    return exporter


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Spans:
    """The spans that this test makes in this process."""
    exporter.clear()
    return Spans(exporter)


@pytest.fixture(scope="session")
def providers() -> Measured:
    """A process can have one meter provider and one logger provider."""
    return Measured()


@pytest.fixture
def measured(providers: Measured) -> Measured:
    """What this test measures in this process."""
    providers.forget()
    return providers
