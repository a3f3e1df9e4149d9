"""`spanledger doctor` on real ledgers and in broken places."""

from __future__ import annotations

import dataclasses
import json
import uuid
from pathlib import Path

import psycopg
import pytest
from tests.acceptance.conftest import Run

from spanledger import Budget, Calls, Config, Ledger, Money, Rule, Switch, ToolCall
from spanledger.core.asking import Ask
from spanledger.doctor.standing import _of_waiting
from spanledger.errors import ApprovalPending
from spanledger.ledger._checkup import Checkup
from spanledger.ledger._opening import open_database
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
    assert found["approvals"]["says"] == "nothing waits for a person"
    assert found["waiting"]["says"] == "LISTEN works: who waits is woken by whoever changes the call"
    assert found["clock"]["state"] == found["round trip"]["state"] == "ok"
    assert "password" not in done.stdout
    assert {item["state"] for item in found.values()} <= {"ok", "warn"}


def test_who_has_named_no_tool_is_told_where_to(run_here: Run, dsn, tmp_path: Path):
    def configuration():
        return findings(run_here("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn))["configuration"]

    assert "name the tools" in configuration()["do"]
    (tmp_path / "spanledger.toml").write_text('[[rules]]\nmatch = "refund"')
    assert configuration()["do"] is None


def test_settings_that_forget_what_was_confirmed_are_named(run_here: Run, dsn):
    done = run_here("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn)  # the tests' server runs without fsync

    durability = [found for found in json.loads(done.stdout) if found["about"] == "durability"]
    assert "fsync = off" in [found["says"] for found in durability]


def test_unknown_outcomes_and_workers_that_died_are_counted(run_here: Run, dsn):
    with Ledger(config=Config(dsn=dsn)) as ledger:
        for number in range(3):
            begun = ledger.begin(ToolCall("refund", {"n": number}, workflow_id="w"))
            if number < 2:
                ledger.fail(begun, TimeoutError("no answer"))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update spanledger.call set lease_until = clock_timestamp() where state = 'in_flight'")

    calls = findings(run_here("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn))["calls"]

    assert calls["state"] == "warn"
    assert calls["says"].startswith("3 of unknown outcome since ")
    assert "1 of them died unnoticed" in calls["says"]
    assert "spanledger resolve" in calls["do"]


def test_outcomes_that_wait_on_disk_are_counted(run_here: Run, dsn, tmp_path: Path):
    database = open_database(Config(dsn=dsn))
    database.conninfo()
    item = {"key": "00", "attempt_id": str(uuid.uuid4()), "tool": "refund"}
    spool = Spool(tmp_path / "state", database.spooled().path.name)
    assert spool.keep(Ask("settle", "default", item))

    found = findings(
        run_here("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn, SPANLEDGER_STATE_DIR=str(tmp_path / "state"))
    )["spool"]

    assert found["state"] == "warn"
    assert found["says"].startswith("1 outcome(s) wait to be told, the oldest for ")


def test_a_budget_that_is_used_up_and_one_that_was_never_applied_are_named(run_here: Run, dsn, tmp_path: Path):
    config = Config(dsn=dsn, budgets=(Budget("mails", Calls(1), match="mail"),))
    with Ledger(config=config) as ledger:
        ledger.run(ToolCall("mail", {}, workflow_id="w"), lambda: None)
    (tmp_path / "spanledger.toml").write_text('[[budgets]]\nname = "posts"\nlimit = "5 calls"\n')

    done = run_here("spanledger", "doctor", SPANLEDGER_DSN=dsn)

    assert done.returncode == 0, done.stderr
    assert "'mails' has 0 calls left of 1 call" in done.stdout
    assert "the ledger has no budget 'posts'" in done.stdout


def test_a_role_without_rights_is_named_with_what_it_may_not_use(run_here: Run, dsn, sql):
    sql.execute("create role reader login")
    try:
        sql.execute("grant usage on schema spanledger_v1 to reader")
        sql.execute("grant select on all tables in schema spanledger_v1 to reader")
        sql.execute("revoke execute on all functions in schema spanledger_v1 from public")
        role = findings(run_here("spanledger", "doctor", "--json", SPANLEDGER_DSN=psycopg.conninfo.make_conninfo(
            dsn, user="reader")))["role"]  # fmt: skip
    finally:
        sql.execute("drop owned by reader")
        sql.execute("drop role reader")

    assert role["says"] == "reader may not use begin, settle, fail, renew, probed, gauges"


def test_what_an_operator_has_to_look_at_is_named_with_what_to_do(run_here: Run, dsn):
    budgets = (
        Budget("mails", Calls(9), match="mail", soft=Calls(1), per=("actor",), window="day", timezone="Europe/Berlin"),
        Budget("eur", Money(5, "EUR"), match="wire"),
    )
    config = Config(dsn=dsn, budgets=budgets, rules=(Rule("refund", approval=True, wait_timeout_s=0),))
    with Ledger(config=config) as ledger:
        for number in range(2):
            ledger.run(ToolCall("mail", {"n": number}, workflow_id="w", actor="u_42"), lambda: None)
        ledger.settle(ledger.begin(ToolCall("wire", {}, workflow_id="w")), None, cost=Money(7, "EUR"))
        with pytest.raises(ApprovalPending):
            ledger.run(ToolCall("refund", {}, workflow_id="w"), lambda: None)
        ledger.apply(Config(switches=[Switch("stripe.*", allowed=False, reason="the bank is down")]), by="ops")
        ledger.begin(ToolCall("search", {}, workflow_id="w"))

    done = run_here("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn)
    found = [(item["about"], item["state"], item["says"], item["do"]) for item in json.loads(done.stdout)]
    said = {about: (state, says, do) for about, state, says, do in found if about != "budgets"}
    assert said["approvals"][1].startswith("1 wait for a person, the oldest for ")
    assert said["approvals"][2].startswith("spanledger approvals, then")
    assert said["switches"][1].startswith("'stripe.*' is stopped by ops since ")
    assert said["switches"][2] == "spanledger resume 'stripe.*', when it may go on"
    assert "1 running, the oldest for " in said["calls"][1]
    assert said["time zones"][1].startswith("budgets start anew by the calendar of Europe/Berlin")
    assert [says for about, _, says, _ in found if about == "budgets"] == [
        "'eur' is over its limit: -2.00 EUR of 5.00 EUR",
        "'mails' of {'actor': 'u_42'} is past its soft limit 1 calls: 7 calls left of 9 calls",
    ]


def test_of_many_budgets_that_are_used_up_the_first_few_are_named(run_here: Run, dsn):
    budgets = [Budget(f"b{number}", Calls(0)) for number in range(9)]
    with Ledger(config=Config(dsn=dsn)) as ledger:
        ledger.apply(Config(budgets=budgets))

    found = json.loads(run_here("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn).stdout)
    says = [item["says"] for item in found if item["about"] == "budgets"]
    assert (len(says), says[-1]) == (6, "and 4 more")


@pytest.mark.parametrize(
    ("bound", "told"),
    [
        (("agent", "default"), ("ok", "may act for tenant default as agent")),
        (("approver", "default"), ("warn", "may not use begin, settle")),
        (("agent", "acme"), ("warn", "may act for tenant default not at all, so programs are refused")),
    ],
)
def test_a_role_is_told_as_what_it_may_act_for_the_tenant(run_here: Run, ledger, sql, bound, told):
    name = f"role_{uuid.uuid4().hex}"
    dsn = psycopg.conninfo.make_conninfo(ledger.config.dsn, user=name)
    sql.execute(f"create role {name} login")
    try:
        ledger.bind_role(name, kind=bound[0], tenant=bound[1], by="test")
        role = findings(run_here("spanledger", "doctor", "--json", SPANLEDGER_DSN=dsn))["role"]
    finally:
        sql.execute(f"drop owned by {name}")
        sql.execute(f"drop role {name}")

    assert (role["state"], told[1] in role["says"]) == (told[0], True), role


def test_behind_a_pooler_waiters_are_said_to_ask_again_and_again():
    checkup = Checkup("a:1/b", "18", "r", False, 0.001, 0.0, True, {}, (), (0, 0, None), (0, None, None), (0, None),
                      ("agent",), None, "UTC", ())  # fmt: skip
    assert "nobody can LISTEN" in _of_waiting(checkup).says
    assert _of_waiting(dataclasses.replace(checkup, listens=False)).state == "warn"


@pytest.mark.parametrize(
    ("environment", "about", "words"),
    [
        ({"SPANLEDGER_DSN": "postgresql://127.0.0.1:1/nowhere"}, "ledger", "no connection to the ledger"),
        ({"SPANLEDGER_EMBEDDED": "off"}, "ledger", "SPANLEDGER_DSN is not set"),
        ({"SPANLEDGER_MODE": "off", "SPANLEDGER_EMBEDDED": "off"}, "configuration", "mode off"),
        ({"SPANLEDGER_MODE": "shadow", "SPANLEDGER_EMBEDDED": "off"}, "configuration", "mode shadow"),
        ({"SPANLEDGER_MODE": "perhaps"}, "configuration", "one of enforce, shadow, off"),
    ],
)
def test_what_would_leave_a_program_unguarded_fails_the_command(run_here: Run, environment, about, words):
    done = run_here("spanledger", "doctor", "--json", **environment)

    found = findings(done)[about]
    assert done.returncode == 1
    assert (found["state"], words in found["says"]) == ("bad", True)


def test_an_empty_database_is_told_from_a_ledger(run_here: Run, empty_dsn):
    ledger = findings(run_here("spanledger", "doctor", "--json", SPANLEDGER_DSN=empty_dsn))["ledger"]

    assert ledger["state"] == "bad"
    assert "spanledger migrate" in ledger["says"]
