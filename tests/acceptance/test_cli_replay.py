"""`spanledger replay`: a configuration is tried out on the past, at the command line."""

from __future__ import annotations

import json

import pytest
from tests.acceptance.conftest import ROOT

from spanledger import Budget, Config, Ledger, Money, Rule, ToolCall

README = (ROOT / "README.md").read_text()
NEW = """
[[rules]]
match = "refund"
identity = "arguments"
reserve = { argument = "amount", currency = "EUR" }

[[rules]]
match = "wire"
approval = true

[[budgets]]
name = "refunds"
match = "refund"
limit = "30.00 EUR"
"""


@pytest.fixture
def past(ledger_with, tmp_path):
    """A ledger of calls that nothing restricted, and a file that would have."""
    (tmp_path / "new.toml").write_text(NEW)
    ledger = ledger_with(
        rules=[Rule("*", identity="none", reserve=lambda a: Money(a["amount"], "EUR"))],
        budgets=[Budget("all", Money(1000, "EUR"))],
    )
    for tool, amount in [("refund", "10"), ("refund", "10"), ("refund", "25"), ("wire", "5"), ("mail", "1")]:
        ledger.run(ToolCall(tool, {"amount": amount}, workflow_id="w"), lambda: "done")
    return ledger


def test_it_says_what_would_not_have_run_and_what_that_saves(typed, past):
    words = "replay --config new.toml --since 7d"
    assert f"`spanledger {words}`" in README
    code, out, _ = typed(*words.split())

    assert code == 0
    assert out.splitlines() == [
        "      2  as it was",
        "      1  ran, and would have been refused, 25.00 EUR",
        "      1  ran, and would have been given a recorded result, 10.00 EUR",
        "      1  ran, and would have waited for a person, 5.00 EUR",
        "",
        "held (awaiting_approval)  1 x wire, 5.00 EUR",
        "refused (budget_exceeded)  1 x refund, 25.00 EUR: budget refunds",
        "replayed  1 x refund, 10.00 EUR",
        "",
        "saved: 35.00 EUR, 2 calls",
    ]


def test_a_program_reads_it_and_may_stop_because_of_it(typed, past):
    code, out, _ = typed("replay", "--config", "new.toml", "--json", "--exit-code")

    told = json.loads(out)
    assert code == 1
    assert (told["attempts"], told["cut_short"]) == (5, False)
    assert told["saved"] == {"EUR": 35_000_000, "calls": 2}
    assert told["outcomes"]["held"] == {"attempts": 1, "amounts": {"EUR": 5_000_000, "calls": 1}}
    assert [(one["tool"], one["outcome"], one["verdict"]) for one in told["attempts_changed"]] == [
        ("refund", "refused", "budget_exceeded"),
        ("refund", "replayed", "replay"),
        ("wire", "held", "awaiting_approval"),
    ]


def test_the_first_so_many_attempts_are_judged_and_that_is_said(typed, past):
    code, out, _ = typed("replay", "--config", "new.toml", "--limit", "1", "--exit-code")

    assert code == 0
    assert out.splitlines() == ["      1  as it was", "these are the first 1 attempts; --limit takes more"]


def test_a_ledger_without_calls_is_no_error(typed, past):
    for words in (("--tenant", "nobody"), ("--since", "2099-01-01")):
        code, out, err = typed("replay", "--config", "new.toml", "--exit-code", *words)

        assert (code, out, err) == (0, "no call is recorded there\n", "")
    assert json.loads(typed("replay", "--config", "new.toml", "--tenant", "nobody", "--json")[1])["attempts"] == 0


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--config", "new.toml", "--since", "7 parsecs"], "'7 parsecs' is no time; write 30m, 2h, 7d or 2026-11-24"),
        (["--config", "new.toml", "--limit", "0"], "'0' is not a whole number, at least 1"),
        (["--config", "none.toml"], "there is no file none.toml"),
        (["--config", "bad.toml"], "budgit"),
        ([], "--config"),
    ],
)
def test_what_makes_no_sense_is_wrong_use(typed, past, tmp_path, words, complaint):
    (tmp_path / "bad.toml").write_text("[[budgit]]\nname = 'x'")

    code, out, err = typed("replay", *words)

    assert (code, out) == (2, "")
    assert complaint in err


def test_a_budget_in_a_time_zone_that_nobody_knows_is_a_wrong_configuration(typed, past, tmp_path):
    (tmp_path / "zone.toml").write_text(
        '[[budgets]]\nname = "b"\nlimit = "1 calls"\nwindow = "day"\ntimezone = "Europe/Atlantis"\n'
    )

    code, _, err = typed("replay", "--config", "zone.toml")

    assert code == 2
    assert "Atlantis" in err


def test_a_ledger_that_does_not_answer_is_said_as_such(typed, past, monkeypatch):
    monkeypatch.setenv("SPANLEDGER_DSN", "postgresql://nobody@127.0.0.1:1/none")

    assert typed("replay", "--config", "new.toml")[0] == 3


def test_the_file_that_is_tried_out_is_not_applied(typed, past, dsn):
    typed("replay", "--config", "new.toml")

    with Ledger(config=Config(dsn=dsn)) as ledger:
        assert [budget.name for budget in ledger.budgets()] == ["all"]


def test_what_budgets_count_from_before_is_said(typed, past, sql):
    sql.execute(
        "update spanledger.call set started_at = started_at - interval '30 d', ended_at = ended_at - interval '30 d' "
        "where started_at < (select max(started_at) from spanledger.call where tool = 'refund')"
    )
    code, out, _ = typed("replay", "--config", "new.toml", "--since", "7d")

    assert code == 0
    assert "refused (budget_exceeded)  1 x refund, 25.00 EUR: budget refunds" in out
    assert out.splitlines()[-1] == "budgets count 2 calls from before"
    told = json.loads(typed("replay", "--config", "new.toml", "--since", "7d", "--json")[1])
    assert told["before"] == {"since": None, "attempts": 2, "unpriced": 0, "pruned": None}

    past.prune(older_than_s=20 * 86400.0, by="ops")
    out = typed("replay", "--config", "new.toml", "--since", "7d")[1]
    assert out.splitlines()[-1].startswith("not counted: what ended before ")
    assert "budget_exceeded" not in out
