"""`spanledger doctor` on real ledgers and in broken places."""

from __future__ import annotations

import json
import uuid
from pathlib import Path

import psycopg
import pytest
from tests.acceptance.conftest import Run

from spanledger import Budget, Calls, Config, Ledger, ToolCall
from spanledger.core.asking import Ask
from spanledger.ledger._ledger import open_database
from spanledger.ledger._spool import Spool


def findings(done):
    """What the doctor found, by what it is about; the last of each."""
    return {found["about"]: found for found in json.loads(done.stdout)}


def test_a_guarded_program_on_a_sound_ledger_is_told_so(run: Run, dsn):
    done = run("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn)

    found = findings(done)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["spans"]["says"] == "a refused tool span was tried, and its body did not run"
    assert found["calls"]["says"] == "no outcome is unknown, 0 running"
    assert "password" not in done.stdout
    assert {item["state"] for item in found.values()} <= {"ok", "warn"}


def test_settings_that_forget_what_was_confirmed_are_named(run: Run, dsn):
    done = run("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn)  # the tests' server runs without fsync

    durability = [found for found in json.loads(done.stdout) if found["about"] == "durability"]
    assert "fsync = off" in [found["says"] for found in durability]


def test_unknown_outcomes_and_workers_that_died_are_counted(run: Run, dsn):
    with Ledger(config=Config(dsn=dsn)) as ledger:
        for number in range(3):
            begun = ledger.begin(ToolCall("refund", {"n": number}, workflow_id="w"))
            if number < 2:
                ledger.fail(begun, TimeoutError("no answer"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update spanledger.call set lease_until = clock_timestamp() where state = 'in_flight'")

    calls = findings(run("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn))["calls"]

    assert calls["state"] == "warn"
    assert calls["says"].startswith("3 of unknown outcome since ")
    assert "1 of them died unnoticed" in calls["says"]
    assert "spanledger resolve" in calls["do"]


def test_outcomes_that_wait_on_disk_are_counted(run: Run, dsn, tmp_path: Path):
    database = open_database(Config(dsn=dsn))
    database.conninfo()
    item = {"key": "00", "attempt_id": str(uuid.uuid4()), "tool": "refund"}
    spool = Spool(tmp_path / "state", database.spooled().path.name)
    assert spool.keep(Ask("settle", "default", item))

    found = findings(
        run("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn, SPANLEDGER_STATE_DIR=str(tmp_path / "state"))
    )["spool"]

    assert found["state"] == "warn"
    assert found["says"].startswith("1 outcome(s) wait to be told, the oldest for ")


def test_a_budget_that_is_used_up_and_one_that_was_never_applied_are_named(run: Run, dsn, tmp_path: Path):
    config = Config(dsn=dsn, budgets=(Budget("mails", Calls(1), match="mail"),))
    with Ledger(config=config) as ledger:
        ledger.run(ToolCall("mail", {}, workflow_id="w"), lambda: None)
    (tmp_path / "spanledger.toml").write_text('[[budgets]]\nname = "posts"\nlimit = "5 calls"\n')

    done = run("spanledger", "doctor", SPANLEDGER_DSN=dsn)

    assert done.returncode == 0, done.stderr
    assert "'mails' has 0 calls left of 1 call" in done.stdout
    assert "'posts' is in the configuration only" in done.stdout


def test_a_role_without_rights_is_named_with_what_it_may_not_use(run: Run, dsn, sql):
    sql.execute("create role reader login")
    try:
        sql.execute("grant usage on schema spanledger_v1 to reader")
        sql.execute("grant select on all tables in schema spanledger_v1 to reader")
        sql.execute("revoke execute on all functions in schema spanledger_v1 from public")
        role = findings(run("spanledger", "doctor", "--json", SPANLEDGER_DSN=psycopg.conninfo.make_conninfo(
            dsn, user="reader")))["role"]  # fmt: skip
    finally:
        sql.execute("drop owned by reader")
        sql.execute("drop role reader")

    assert role["says"] == "reader may not use begin, settle, fail, renew, probed"


@pytest.mark.parametrize(
    ("environment", "about", "words"),
    [
        ({"SPANLEDGER_DSN": "postgresql://127.0.0.1:1/nowhere"}, "ledger", "no connection to the ledger"),
        ({"SPANLEDGER_EMBEDDED": "off"}, "ledger", "SPANLEDGER_DSN is not set"),
        ({"OTEL_TRACES_EXPORTER": "oltp", "SPANLEDGER_EMBEDDED": "off"}, "export", "no trace exporter 'oltp'"),
        ({"SPANLEDGER_MODE": "off", "SPANLEDGER_EMBEDDED": "off"}, "configuration", "mode off"),
        ({"SPANLEDGER_MODE": "perhaps"}, "configuration", "one of enforce, off"),
    ],
)
def test_what_would_leave_a_program_unguarded_fails_the_command(run: Run, environment, about, words):
    done = run("spanledger", "doctor", "--json", **environment)

    found = findings(done)[about]
    assert done.returncode == 1
    assert (found["state"], words in found["says"]) == ("bad", True)


def test_an_empty_database_is_told_from_a_ledger(run: Run, empty_dsn):
    ledger = findings(run("spanledger", "doctor", "--json", SPANLEDGER_DSN=empty_dsn))["ledger"]

    assert ledger["state"] == "bad"
    assert "spanledger migrate" in ledger["says"]
