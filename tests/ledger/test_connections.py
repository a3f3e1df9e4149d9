"""Where the ledger is, and what happens when it is not there."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, Rule, ToolCall
from spanledger.errors import ConfigError, LedgerUnavailable
from spanledger.ledger._embedded import EmbeddedPostgres

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w")
OTHER = ToolCall("refund", {"order_id": "o-2"}, workflow_id="w")
KILL = (
    "select count(pg_terminate_backend(pid)) from pg_stat_activity "
    "where datname = current_database() and application_name = 'spanledger'"
)


def never() -> None:
    pytest.fail("it ran")


def run_blocking(ledger_config: Config, call: ToolCall, handler: Callable[[], object]) -> object:
    with Ledger(config=ledger_config) as ledger:
        return ledger.run(call, handler)


def run_awaiting(ledger_config: Config, call: ToolCall, handler: Callable[[], object]) -> object:
    async def main() -> object:
        async with AsyncLedger(config=ledger_config) as ledger:
            return await ledger.run(call, handler)

    return asyncio.run(main())


either_way = pytest.mark.parametrize("run", [run_blocking, run_awaiting])


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is ours and that nobody listens on."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        yield bound.getsockname()[1]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening.getsockname()[1]


# no ledger


@either_way
def test_a_closed_port_is_an_error_that_names_it_and_nothing_runs(closed_port: int, run) -> None:
    config = Config(dsn=f"host=127.0.0.1 port={closed_port} dbname=x")
    with pytest.raises(
        LedgerUnavailable, match=rf"no connection to the ledger: .*port {closed_port}.*refused"
    ) as caught:
        run(config, REFUND, never)
    assert "is SPANLEDGER_DSN right and the server up?" in str(caught.value)
    assert isinstance(caught.value.__cause__, psycopg.OperationalError)


@either_way
def test_a_socket_that_does_not_exist_is_an_error_that_names_it(tmp_path: Path, run) -> None:
    with pytest.raises(LedgerUnavailable, match=rf"no connection to the ledger: .*{tmp_path}/nowhere"):
        run(Config(dsn=f"host={tmp_path}/nowhere dbname=x"), REFUND, never)


@either_way
def test_a_server_that_says_nothing_is_given_up_after_connect_timeout(silent_port: int, run) -> None:
    # libpq's shortest timeout is two seconds; it has to be waited for once and not twice.
    config = Config(dsn=f"host=127.0.0.1 port={silent_port} dbname=x connect_timeout=1")
    with pytest.raises(LedgerUnavailable, match="timeout"):
        run(config, REFUND, never)


def test_of_many_threads_none_waits_longer_than_the_ledgers_timeout(silent_port: int) -> None:
    config = Config(dsn=f"host=127.0.0.1 port={silent_port} dbname=x connect_timeout=2", ledger_timeout_s=0.1)
    with Ledger(config=config) as ledger, ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(ledger.run, REFUND, never) for _ in range(8)]
        errors = [str(future.exception()) for future in asked]
    assert sum("did not answer in time: no connection" in error for error in errors) == 7


@either_way
def test_a_database_that_does_not_exist_is_an_error_that_names_it(server: str, run) -> None:
    with pytest.raises(LedgerUnavailable, match='database "nowhere" does not exist'):
        run(Config(dsn=psycopg.conninfo.make_conninfo(server, dbname="nowhere")), REFUND, never)


@either_way
@pytest.mark.parametrize(
    ("dsn", "complaint"),
    [
        ("what is this", "not a Postgres connection string"),
        ("postgresql://[::1", "not a Postgres connection string"),
        ("host=localhost colour=blue", 'not a Postgres connection string: .*"colour"'),
        ("host=localhost connect_timeout=soon", "not a Postgres connection string"),
        ("mysql://u:s3cret@host/db", "not a Postgres connection string: .*; write it as postgresql://user@host"),
        ("postgresql://u:s3cret%zz@host/db", "not a Postgres connection string"),
        (lambda: "", "the ledger's DSN is empty"),
        (lambda: None, "the ledger's DSN is empty"),
    ],
    ids=["words", "url", "option", "value", "scheme", "percent", "empty", "none"],
)
def test_a_dsn_that_cannot_be_one_is_an_error_of_configuration(dsn, complaint: str, run) -> None:
    with pytest.raises(ConfigError, match=complaint) as refused:
        run(Config(dsn=dsn), REFUND, never)
    assert "s3cret" not in str(refused.value)


@either_way
def test_a_role_without_privileges_is_told_what_it_may_not(dsn: str, role_dsn, run) -> None:
    with pytest.raises(ConfigError, match="the database role may not do this: permission denied for schema spanledger"):
        run(Config(dsn=role_dsn(dsn)), REFUND, never)


@either_way
def test_a_budget_that_cannot_be_applied_is_an_error_before_anything_runs(dsn: str, run) -> None:
    run(Config(dsn=dsn, budgets=[Budget("b", Calls(1), match="other")]), REFUND, lambda: "done")
    from spanledger import Tokens

    with pytest.raises(ConfigError, match="a budget keeps its unit"):
        run(Config(dsn=dsn, budgets=[Budget("b", Tokens(1))]), OTHER, never)


@either_way
def test_where_the_rule_says_continue_a_call_runs_without_the_ledger(closed_port: int, run, caplog) -> None:
    rules = [Rule("refund", on_ledger_down="continue")]
    config = Config(dsn=f"host=127.0.0.1 port={closed_port} dbname=x", rules=rules)
    assert run(config, REFUND, lambda: "done") == "done"
    assert "refund runs unguarded, as its rule allows" in caplog.text


@either_way
def test_continue_is_no_way_around_a_configuration_that_is_wrong(empty_dsn: str, run) -> None:
    with pytest.raises(ConfigError, match="holds no ledger yet"):
        run(Config(dsn=empty_dsn, rules=[Rule("refund", on_ledger_down="continue")]), REFUND, never)


@either_way
def test_a_ledger_that_cannot_take_a_call_is_no_ledger_that_is_down(dsn: str, run) -> None:
    rules = [Rule("refund", on_ledger_down="continue", lease_s=1e300)]
    with pytest.raises(ConfigError, match="the ledger cannot take this"):
        run(Config(dsn=dsn, rules=rules), REFUND, never)


# where the address comes from


@either_way
def test_a_dsn_that_is_a_callable_is_asked_for_every_connection(dsn: str, sql, run) -> None:
    asked = []
    assert run(Config(dsn=lambda: asked.append(1) or dsn), REFUND, lambda: "done") == "done"
    assert len(asked) >= 2


@either_way
def test_a_dsn_that_cannot_be_had_is_a_ledger_that_does_not_answer(run) -> None:
    def expired() -> str:
        raise RuntimeError("the token service is down")

    with pytest.raises(LedgerUnavailable, match="DSN cannot be had: RuntimeError: the token service is down"):
        run(Config(dsn=expired), REFUND, never)


@either_way
def test_a_dsn_comes_from_a_file_which_is_read_again(dsn: str, tmp_path: Path, monkeypatch, run) -> None:
    file = tmp_path / "dsn"
    monkeypatch.setenv("SPANLEDGER_DSN_FILE", str(file))
    config = Config.from_env()
    with pytest.raises(LedgerUnavailable, match=r"cannot read SPANLEDGER_DSN_FILE: .*No such file"):
        run(config, REFUND, never)
    file.write_text(f"{dsn}\n")
    assert run(config, REFUND, lambda: "done") == "done"


def test_a_dsn_of_the_environment_wins_over_a_file(dsn: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("SPANLEDGER_DSN_FILE", str(tmp_path / "missing"))
    monkeypatch.setenv("SPANLEDGER_DSN", dsn)
    with Ledger() as ledger:
        assert ledger.run(REFUND, lambda: "done") == "done"


# connections that break


@either_way
def test_a_connection_that_broke_between_calls_is_replaced(dsn: str, sql: psycopg.Connection, run) -> None:
    with Ledger(dsn) as ledger:
        ledger.run(REFUND, lambda: "done")
        assert sql.execute(KILL).fetchone()[0] > 0
        assert ledger.run(REFUND, never) == "done"


def test_a_connection_that_broke_between_calls_of_a_loop_is_replaced(dsn: str, sql: psycopg.Connection) -> None:
    async def main() -> None:
        async with AsyncLedger(dsn) as ledger:
            await ledger.run(REFUND, lambda: "done")
            assert sql.execute(KILL).fetchone()[0] > 0
            assert await ledger.run(REFUND, never) == "done"

    asyncio.run(main())


@either_way
def test_a_connection_that_breaks_while_the_call_runs_costs_nothing(dsn: str, sql, run) -> None:
    def handler() -> str:
        assert sql.execute(KILL).fetchone()[0] > 0
        return "done"

    assert run(Config(dsn=dsn), REFUND, handler) == "done"
    assert run(Config(dsn=dsn), REFUND, never) == "done"


@either_way
def test_a_connection_that_breaks_while_the_outcome_is_told_is_asked_again(dsn: str, sql, run) -> None:
    """The settle waits for a lock and loses its connection; the second one has the answer."""
    killer = threading.Thread(target=_kill_who_waits, args=(sql,))

    def handler() -> str:
        sql.execute("begin")
        sql.execute("select from spanledger.call for update")
        killer.start()
        return "done"

    assert run(Config(dsn=dsn), REFUND, handler) == "done"
    killer.join()
    assert run(Config(dsn=dsn), REFUND, never) == "done"


def _kill_who_waits(sql: psycopg.Connection) -> None:
    waiting = (
        "select count(pg_terminate_backend(pid)) from pg_locks "
        "where not granted and pg_backend_pid() = any (pg_blocking_pids(pid))"
    )
    while sql.execute(waiting).fetchone() == (0,):
        pass
    sql.execute("rollback")


# a server that goes away


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, which it may kill and start again."""
    server = EmbeddedPostgres(tmp_path / "mortal", settings={"fsync": "off", "shared_buffers": "1MB"}, linger_s=0.1)
    yield server
    server.release()


def _kill_server(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as connection:
        (directory,) = connection.execute("show data_directory").fetchone()
    postmaster = int(Path(directory, "postmaster.pid").read_text().splitlines()[0])
    os.kill(postmaster, signal.SIGQUIT)  # crashes at once, its children with it
    while Path(directory, "postmaster.pid").exists() and Path(f"/proc/{postmaster}").exists():
        pass


def test_a_server_that_goes_away_after_the_effect_costs_the_caller_nothing(mortal, caplog) -> None:
    dsn = mortal.dsn()
    config = Config(dsn=dsn, ledger_timeout_s=0.5, rules=[Rule("refund", lease_s=0.2, wait_timeout_s=5)])
    with Ledger(config=config) as ledger:
        ledger.migrate()

        def handler() -> str:
            _kill_server(dsn)
            return "done"

        assert ledger.run(REFUND, handler) == "done"
        assert "its outcome (succeeded) could not be recorded; it is kept on disk" in caplog.text
        for _ in range(3):
            with pytest.raises(LedgerUnavailable):
                ledger.run(OTHER, never)
        assert "Traceback" not in caplog.text
        assert caplog.text.count("error connecting in 'spanledger'") <= 1

        assert mortal.dsn() == dsn
        assert ledger.run(REFUND, never) == "done"
        assert ledger.run(OTHER, lambda: "done") == "done"


def test_a_configuration_in_code_without_a_dsn_uses_the_environment_s(dsn, monkeypatch):
    monkeypatch.setenv("SPANLEDGER_DSN", dsn)

    with Ledger(config=Config(rules=[Rule("refund")])) as ledger:
        ledger.run(ToolCall("refund", workflow_id="w"), lambda: 1)

    with Ledger(dsn) as same:
        assert [call["tool"] for call in same.calls()] == ["refund"]


def test_a_server_that_has_frozen_does_not_hold_a_blocking_caller(dsn, sql):
    with Ledger(config=Config(dsn=dsn, ledger_timeout_s=0.5)) as ledger:
        ledger.calls()
        call = ToolCall("refund", workflow_id="w")
        with sql.transaction():
            sql.execute("lock table spanledger.call in access exclusive mode")
            with pytest.raises(LedgerUnavailable, match="did not answer within"):
                ledger.run(call, lambda: pytest.fail("ran"))
        assert ledger.run(call, lambda: "ran once it answered") == "ran once it answered"


def test_the_result_of_an_effect_is_not_held_back_by_a_frozen_server(dsn, sql):
    with Ledger(config=Config(dsn=dsn, ledger_timeout_s=0.5)) as ledger:
        call = ToolCall("refund", workflow_id="w")
        with sql.transaction():

            def effect():
                sql.execute("lock table spanledger.call in access exclusive mode")
                return "done"

            assert ledger.run(call, effect) == "done"


def test_a_server_that_has_frozen_is_given_up_and_not_waited_for(dsn, sql):
    async def main():
        async with AsyncLedger(config=Config(dsn=dsn, ledger_timeout_s=0.5)) as ledger:
            await ledger.calls()
            call = ToolCall("refund", workflow_id="w")
            with sql.transaction():
                # Whoever asks about this call gets no answer while this transaction is open.
                sql.execute("lock table spanledger.call in access exclusive mode")
                with pytest.raises(LedgerUnavailable, match="did not answer within"):
                    await ledger.run(call, lambda: pytest.fail("ran"))
            return await ledger.run(call, lambda: "ran once it answered")

    assert asyncio.run(main()) == "ran once it answered"
