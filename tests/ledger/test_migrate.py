"""Bringing the schema up to date: once, wholly or not at all, and with words for what is in the way."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
import ways
from ways import either_way
from workers import together

from spanledger import Budget, Calls, Config, Ledger, ToolCall
from spanledger.errors import ConfigError
from spanledger.ledger import _migrate
from spanledger.ledger._migrate import Script

REFUND = ToolCall("refund", workflow_id="w")
CLAIM_FRESH = "spanledger.claim_fresh(text, jsonb, integer[], jsonb[], boolean)"
SCRIPTS = Path(_migrate.__file__).parent / "sql"


def never() -> None:
    pytest.fail("it ran")


def migrate_there(number: int, dsn: str) -> list[str]:
    with Ledger(dsn, Config()) as ledger:
        return ledger.migrate()


@pytest.fixture
def with_scripts(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Let this program know other scripts than it does, as another version of it would."""

    def change(*, migrations: list[Script] | None = None, modules: list[Script] | None = None) -> None:
        if migrations is not None:
            monkeypatch.setattr(_migrate, "migrations", lambda: migrations)
        if modules is not None:
            monkeypatch.setattr(_migrate, "modules", lambda: modules)

    return change


VERSIONS = [script.version for script in _migrate.migrations()]
NEWEST = VERSIONS[-1]


def newer(text: str) -> list[Script]:
    """What a program knows that is one version ahead."""
    last = _migrate.migrations()[-1]
    return [*_migrate.migrations(), Script(f"{last.version + 1:04}_newer", text)]


def test_an_empty_database_gets_every_script_and_a_second_time_none(empty_dsn: str) -> None:
    with Ledger(empty_dsn) as ledger:
        applied = ledger.migrate()
        assert sorted(applied) == sorted(path.stem for path in SCRIPTS.rglob("*.sql"))
        assert ledger.migrate() == []
        assert ledger.run(REFUND, lambda: "done") == "done"


def test_programs_that_start_at_once_bring_it_up_to_date_once(empty_dsn: str) -> None:
    applied = together(6, migrate_there, empty_dsn)
    assert sorted(map(len, applied)) == [0] * 5 + [len(list(SCRIPTS.rglob("*.sql")))]


def test_twenty_threads_that_start_at_once_bring_it_up_to_date_once(empty_dsn: str) -> None:
    with ThreadPoolExecutor(20) as pool, Ledger(empty_dsn) as ledger:
        applied = list(pool.map(lambda _: ledger.migrate(), range(20)))
    assert sum(map(bool, applied)) == 1


def test_a_database_without_a_ledger_says_what_to_do(empty_dsn: str) -> None:
    with Ledger(empty_dsn) as ledger, pytest.raises(ConfigError, match="holds no ledger yet: run `spanledger migrate`"):
        ledger.run(REFUND, never)


def test_a_schema_that_is_older_says_what_to_do(ledger: Ledger, with_scripts) -> None:
    with_scripts(migrations=newer("create table spanledger.newer ()"))
    with pytest.raises(
        ConfigError, match=f"at version {NEWEST}, this spanledger needs {NEWEST + 1}: run `spanledger migrate`"
    ):
        ledger.run(REFUND, never)
    assert ledger.migrate() == [f"{NEWEST + 1:04}_newer"]
    assert ledger.run(REFUND, lambda: "done") == "done"


def test_a_schema_whose_migration_was_never_finished_says_what_to_do(ledger: Ledger, sql) -> None:
    sql.execute("delete from spanledger.migration")
    with pytest.raises(ConfigError, match="at version 0"):
        ledger.run(REFUND, never)


def test_a_function_that_is_missing_says_what_to_do(ledger: Ledger, sql: psycopg.Connection) -> None:
    sql.execute("drop function spanledger_v1.begin")
    with pytest.raises(ConfigError, match="schema is missing or too old: run `spanledger migrate`"):
        ledger.run(REFUND, never)


def test_a_newer_schema_is_accepted_by_an_older_program(ledger: Ledger, sql: psycopg.Connection) -> None:
    sql.execute("insert into spanledger.migration values (%s, 'newer', 'hash', false)", (NEWEST + 1,))
    assert ledger.run(REFUND, lambda: "done") == "done"
    assert ledger.migrate() == []


def test_a_newer_schema_that_is_breaking_shuts_an_older_program_out(ledger: Ledger, sql: psycopg.Connection) -> None:
    rows = "(%s, 'newer', 'hash', true), (%s, 'newest', 'hash', false)"
    sql.execute(f"insert into spanledger.migration values {rows}", (NEWEST + 1, NEWEST + 2))
    for attempt in (lambda: ledger.run(REFUND, never), ledger.migrate):
        with pytest.raises(ConfigError, match=f"at version {NEWEST + 1}, this spanledger knows {NEWEST}: upgrade"):
            attempt()


def test_a_migration_says_in_its_first_line_that_it_is_breaking(ledger: Ledger, with_scripts, sql) -> None:
    with_scripts(migrations=newer("-- breaking\ncreate table spanledger.newer ()"))
    ledger.migrate()
    rows = sql.execute("select version, breaking from spanledger.migration order by version").fetchall()
    assert rows == [*((version, False) for version in VERSIONS), (NEWEST + 1, True)]


def test_an_edited_migration_is_refused(ledger: Ledger, with_scripts) -> None:
    (first, *others) = _migrate.migrations()
    with_scripts(migrations=[Script(first.name, first.text + "-- edited"), *others])
    with pytest.raises(ConfigError, match=f"{first.name} was edited after it had been applied; restore the file"):
        ledger.migrate()


def test_a_function_is_applied_again_when_its_text_has_changed(ledger: Ledger, with_scripts) -> None:
    changed = [
        Script(script.name, script.text + "-- changed") if script.name in ("begin", "calls") else script
        for script in _migrate.modules()
    ]
    with_scripts(modules=changed)
    assert ledger.migrate() == ["begin", "calls"]
    assert ledger.migrate() == []


def test_an_older_program_does_not_put_its_functions_over_newer_ones(ledger: Ledger, with_scripts, sql) -> None:
    sql.execute("insert into spanledger.migration values (%s, 'newer', 'hash', false)", (NEWEST + 1,))
    with_scripts(modules=[Script("begin", "drop function spanledger_v1.begin")])
    assert ledger.migrate() == []
    assert ledger.run(REFUND, lambda: "done") == "done"


@pytest.mark.parametrize("broken", ["migration", "module"])
def test_when_a_script_fails_nothing_is_applied_and_the_error_says_why(empty_dsn, with_scripts, broken: str) -> None:
    if broken == "migration":
        with_scripts(migrations=newer("create table spanledger.half (); select no_such_function()"))
    else:
        with_scripts(modules=[*_migrate.modules(), Script("half", "create view spanledger_v1.half as select nothing")])
    with Ledger(empty_dsn) as ledger, pytest.raises(ConfigError, match=r"nothing was changed: .*no") as caught:
        ledger.migrate()
    assert isinstance(caught.value.__cause__, psycopg.Error)
    with psycopg.connect(empty_dsn) as connection:
        assert connection.execute("select to_regnamespace('spanledger')").fetchone() == (None,)


def test_a_role_that_may_not_migrate_is_told_so(empty_dsn: str, role_dsn: Callable[[str], str]) -> None:
    with Ledger(role_dsn(empty_dsn)) as ledger, pytest.raises(ConfigError, match="may not do this: permission denied"):
        ledger.migrate()


def test_migrating_keeps_what_the_ledger_knows(ledger_with, with_scripts) -> None:
    ledger = ledger_with(budgets=[Budget("count", Calls(2))])
    ledger.run(REFUND, lambda: "done")
    with_scripts(migrations=newer("alter table spanledger.call add column newer text"))
    ledger.migrate()
    assert ledger.run(REFUND, never) == "done"
    assert ledger.budget("count").spent == Calls(1)


LOCK_KEY = "select pg_advisory_xact_lock(spanledger.claim_of('default', %s))"
BLOCKED = "select count(*) from pg_locks where locktype = 'advisory' and not granted"


@either_way
def test_a_call_that_is_being_begun_while_functions_are_replaced_runs(dsn, sql, with_scripts, run) -> None:
    config = Config(dsn=dsn)
    with Ledger(dsn) as ledger, ThreadPoolExecutor(1) as pool:
        with sql.transaction():
            sql.execute(LOCK_KEY, (ledger.key(ways.REFUND),))
            running = pool.submit(run, config, lambda: "done")
            while sql.execute(BLOCKED).fetchone() == (0,):
                time.sleep(0.01)
            # What it calls next has another name now.
            renamed = [Script(one.name, one.text.replace(".claim_fresh(", ".claims(")) for one in _migrate.modules()]
            with_scripts(modules=[*renamed, Script("zz", f"drop function {CLAIM_FRESH}")])
            ledger.migrate()
        assert running.result() == "done"
        assert [row["state"] for row in ledger.calls()] == ["succeeded"]


def test_what_is_printed_for_somebody_else_does_what_migrating_does(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as owner:
        owner.execute(_migrate.script())
    with Ledger(empty_dsn) as ledger:
        assert ledger.migrate() == []
        assert ledger.run(REFUND, lambda: "done") == "done"


def test_what_is_printed_from_some_version_on_brings_that_version_up_to_date(empty_dsn: str, with_scripts) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as owner:
        owner.execute(_migrate.script())
        with_scripts(migrations=newer("create table spanledger.newer ()"))
        owner.execute(_migrate.script(NEWEST))
        assert owner.execute("select to_regclass('spanledger.newer') is not null").fetchone() == (True,)
    with Ledger(empty_dsn) as ledger:
        assert ledger.migrate() == []


def test_what_is_printed_for_another_version_changes_nothing(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn, autocommit=True) as owner:
        with pytest.raises(psycopg.errors.RaiseException, match=f"a schema at version {NEWEST}, and it is at 0"):
            owner.execute(_migrate.script(NEWEST))
        owner.execute("rollback")
        assert owner.execute("select to_regnamespace('spanledger')").fetchone() == (None,)
    with pytest.raises(ConfigError, match="no version 999"):
        _migrate.script(999)
