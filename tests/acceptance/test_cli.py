"""The command line on a real ledger."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.acceptance.conftest import EXAMPLES, Run

from spanledger import ToolCall


@pytest.fixture
def unknown_call(ledger):
    """A call that was cut off: (ledger, key)."""
    call = ToolCall("refund", {"order_id": "o-1"}, workflow_id="order-1")
    begun = ledger.begin(call)
    ledger.fail(begun, TimeoutError("no answer"))
    return ledger, begun.key


def test_migrate_prints_its_sql_without_a_database(run_here: Run):
    done = run_here("spanledger", "migrate", "--sql")
    wrong = run_here("spanledger", "migrate", "--sql", "--since", "999")

    assert done.returncode == 0
    assert done.stdout.startswith("-- The schema of a spanledger ledger, from version 0 to ")
    assert done.stdout.endswith("commit;\n")
    assert (wrong.returncode, wrong.stdout) == (2, "")
    assert "there is no version 999 of the schema" in wrong.stderr


def test_migrate_prepares_an_empty_database_and_says_when_there_is_nothing_to_do(run: Run, empty_dsn):
    first = run("spanledger", "migrate", SPANLEDGER_DSN=empty_dsn)
    second = run("spanledger", "migrate", SPANLEDGER_DSN=empty_dsn)

    assert (first.returncode, second.returncode) == (0, 0)
    assert "applied 0001" in first.stdout
    assert "nothing to do" in second.stdout


def test_a_person_finds_and_resolves_a_call_of_unknown_outcome(run: Run, unknown_call, dsn):
    ledger, key = unknown_call

    listed = run("spanledger", "calls", "--state", "unknown", SPANLEDGER_DSN=dsn)
    assert key[:8] in listed.stdout
    resolved = run(
        *("spanledger", "resolve", key[:8], "--outcome", "succeeded", "--result", '{"id": "re_1"}'),
        *("--by", "ops@example.com", "--reason", "seen at the provider"),
        SPANLEDGER_DSN=dsn,
    )
    assert resolved.returncode == 0, resolved.stderr
    shown = json.loads(run("spanledger", "show", key[:8], "--json", SPANLEDGER_DSN=dsn).stdout)

    assert shown["state"] == "succeeded"
    assert shown["history"][-1]["by_name"] == "ops@example.com"
    replayed = ledger.run(ToolCall("refund", {"order_id": "o-1"}, workflow_id="order-1"), lambda: pytest.fail("ran"))
    assert replayed == {"id": "re_1"}


def test_budgets_are_applied_from_the_file_and_shown(run_here: Run, dsn, tmp_path: Path):
    (tmp_path / "spanledger.toml").write_text((EXAMPLES / "spanledger.toml").read_text())

    assert run_here("spanledger", "apply", SPANLEDGER_DSN=dsn).stdout == "applied budget refunds: 500.00 EUR\n"
    (budget,) = json.loads(run_here("spanledger", "budgets", "--json", SPANLEDGER_DSN=dsn).stdout)

    figures = {name: budget[name] for name in ("name", "match", "limit", "spent", "held", "remaining")}
    assert figures == {
        "name": "refunds",
        "match": "refund",
        "limit": "500.00 EUR",
        "spent": "0.00 EUR",
        "held": "0.00 EUR",
        "remaining": "500.00 EUR",
    }


def test_a_role_is_bound_to_a_tenant_and_unbound(run_here: Run, dsn, sql):
    sql.execute("create role bound_by_cli login")
    try:
        bound = run_here(
            "spanledger", "role", "bound_by_cli", "--kind", "agent", "--tenant", "acme", SPANLEDGER_DSN=dsn
        )
        taken = run_here("spanledger", "role", "bound_by_cli", "--remove", "--tenant", "acme", SPANLEDGER_DSN=dsn)
        again = run_here("spanledger", "role", "bound_by_cli", "--remove", "--tenant", "acme", SPANLEDGER_DSN=dsn)
    finally:
        sql.execute("drop owned by bound_by_cli")
        sql.execute("drop role bound_by_cli")

    assert bound.stdout == "bound_by_cli may act as agent for tenant acme\n"
    assert (taken.returncode, again.returncode) == (0, 1)
    assert "has no rights on tenant acme" in again.stderr


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["show", "beef"], 1, "no call with key"),
        (["resolve", "beef", "--outcome", "failed"], 1, "no call with key"),
        (["resolve", "beef", "--outcome", "perhaps"], 2, "invalid choice"),
        (["resolve", "beef", "--outcome", "succeeded", "--result", "{"], 2, "not JSON"),
        (["nonsense"], 2, "invalid choice"),
    ],
)
def test_what_cannot_be_done_is_said_and_shows_in_the_exit_code(run_here: Run, dsn, command, code, words):
    done = run_here("spanledger", *command, SPANLEDGER_DSN=dsn)

    assert done.returncode == code
    assert words in done.stderr
    assert "Traceback" not in done.stderr


def test_a_ledger_that_does_not_answer_has_an_exit_code_of_its_own(run_here: Run, tmp_path: Path):
    done = run_here("spanledger", "calls", SPANLEDGER_DSN=f"host={tmp_path} dbname=none")

    assert done.returncode == 3
    assert "no connection to the ledger" in done.stderr


def test_a_database_without_a_ledger_says_how_to_make_one(run_here: Run, empty_dsn):
    done = run_here("spanledger", "calls", SPANLEDGER_DSN=empty_dsn)

    assert done.returncode == 2
    assert "spanledger migrate" in done.stderr


def test_a_configuration_that_is_no_text_is_no_traceback(run_here: Run, dsn, tmp_path: Path):
    (tmp_path / "spanledger.toml").write_bytes(b"tenant = '\xff'")

    done = run_here("spanledger", "calls", SPANLEDGER_DSN=dsn)

    assert (done.returncode, "spanledger.toml is not TOML" in done.stderr, done.stderr.count("\n")) == (2, True, 1)


@pytest.mark.parametrize(
    "command", ["demo", "migrate", "apply", "calls", "show", "budgets", "resolve", "cancel", "role", "doctor"]
)
def test_the_help_of_every_command_shows_an_example(run_here: Run, command):
    done = run_here("spanledger", command, "--help")

    assert done.returncode == 0
    assert "example:\n  " in done.stdout
