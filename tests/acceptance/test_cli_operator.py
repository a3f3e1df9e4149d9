"""What an operator does at the command line, on a real ledger: approve, stop, look, change budgets."""

from __future__ import annotations

import argparse
import json
from importlib.metadata import version
from pathlib import Path

import psycopg
import pytest
from tests.acceptance.conftest import Run

from spanledger import Budget, Calls, Config, Ledger, Money, Rate, Rule, Switch, ToolCall, cli
from spanledger.cli import common
from spanledger.demo import main
from spanledger.errors import ApprovalPending, NotAuthorized

REFUND = ToolCall("refund", {"order_id": "o-1", "amount": "10"}, workflow_id="order-1", agent="support", actor="u_42")
ASKED = Rule("refund", approval=True, wait_timeout_s=0)


@pytest.fixture
def as_json(typed):
    """Type a command and read the JSON that it prints."""

    def as_json(*words: str):
        code, out, err = typed(*words, "--json")
        assert code == 0, err
        return json.loads(out)

    return as_json


@pytest.fixture
def asked(ledger_with):
    """A ledger whose refunds need an approval, one of which waits: (ledger, id of the request)."""
    ledger = ledger_with(rules=[ASKED])
    with pytest.raises(ApprovalPending) as pending:
        ledger.run(REFUND, lambda: pytest.fail("ran"))
    return ledger, pending.value.approval_id


# --- approvals


def test_a_person_sees_what_waits_and_allows_it_from_another_process(run: Run, asked, dsn):
    ledger, approval_id = asked

    listed = run("spanledger", "approvals", SPANLEDGER_DSN=dsn).stdout
    assert approval_id[:8] in listed
    assert '"order_id":"o-1"' in listed.replace(" ", "")
    assert "by support for u_42" in listed
    done = run(
        *("spanledger", "approve", approval_id[:8], "--by", "ops@example.com", "--note", "checked"),
        SPANLEDGER_DSN=dsn,
    )

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("approved by ops@example.com: refund {")
    assert ledger.run(REFUND, lambda: "paid") == "paid"
    assert ledger.approvals(state="consumed")[0].note == "checked"
    again = run("spanledger", "approve", approval_id[:8], "--by", "late@example.com", SPANLEDGER_DSN=dsn)
    assert (again.returncode, again.stdout.startswith("approved by ops@example.com, and used since: refund")) == (
        0,
        True,
    )


def test_what_a_person_denied_shows_everywhere_and_can_be_reopened(typed, as_json, asked):
    ledger, approval_id = asked

    assert as_json("deny", approval_id[:8], "--by", "ops", "--reason", "no such order")["state"] == "denied"
    again = typed("approve", approval_id, "--by", "ops")
    assert (again[0], "it is denied by ops" in again[2]) == (1, True)
    assert typed("approvals")[1] == "nothing waits for a person\n"
    (shown,) = as_json("approvals", "--state", "denied")
    assert (shown["id"], shown["by"], shown["note"]) == (approval_id, "ops", "no such order")
    told = typed("show", shown["key"][:8])[1]
    assert "denied by ops: no such order" in told.partition("approvals\n")[2]
    assert "denied by ops, attempt 0" in told.partition("history\n")[2]
    assert typed("resolve", shown["key"][:8], "--outcome", "retry")[0] == 0
    with pytest.raises(ApprovalPending):
        ledger.run(REFUND, lambda: pytest.fail("ran"))
    assert len(as_json("approvals", "--all")) == 2


def test_who_asked_may_not_say_yes(typed, asked):
    code, _, complaint = typed("approve", asked[1], "--by", "u_42")

    assert (code, "another person has to" in complaint) == (1, True)


def test_an_id_that_no_request_has_or_two_have_is_not_guessed(typed, asked):
    ledger, approval_id = asked

    assert typed("approve", "beef" if not approval_id.startswith("beef") else "cafe")[0] == 1
    with pytest.raises(ApprovalPending):
        ledger.run(ToolCall("refund", {}, workflow_id="order-2"), lambda: None)
    # By chance they begin alike, sooner or later.
    while len({approval.id[0] for approval in ledger.approvals()}) == len(ledger.approvals()):
        with pytest.raises(ApprovalPending):
            ledger.run(ToolCall("refund", {}, workflow_id=f"order-{len(ledger.approvals()) + 1}"), lambda: None)
    first = [approval.id[0] for approval in ledger.approvals()]
    code, _, complaint = typed("deny", max(first, key=first.count))
    assert (code, "more than one request has" in complaint) == (1, True)
    assert {approval.state for approval in ledger.approvals(state=None)} == {"pending"}


@pytest.mark.parametrize(
    "command",
    [
        ["approve", ""],
        ["approve", "ID", "--by", ""],
        ["approve", "ID", "--by", "ops", "--tenant", " "],
        ["deny", ""],
        ["cancel", ""],
        ["resolve", "", "--outcome", "retry"],
        ["show", ""],
        ["budgets", "set", "mails", "20 calls", "--match", ""],
        ["role", "somebody", "--kind", "agent", "--tenant", ""],
    ],
)
def test_a_variable_that_nobody_set_is_not_taken_for_the_only_request_person_or_tenant(typed, asked, command):
    ledger, approval_id = asked

    code, out, complaint = typed(*(approval_id if word == "ID" else word for word in command))

    assert (code, out, "it is empty" in complaint) == (2, "", True)
    assert [approval.state for approval in ledger.approvals(state=None)] == ["pending"]
    assert ledger.budgets() == []


@pytest.mark.parametrize("limit", ["0", "-1", "many", "1.5"])
def test_how_many_are_listed_is_a_number_of_them(typed, limit):
    code, _, complaint = typed("calls", "--limit", limit)

    assert (code, "is not a whole number, at least 1" in complaint) == (2, True)


def test_times_in_json_are_all_written_alike(as_json, asked):
    (shown,) = as_json("approvals")
    (call,) = as_json("calls")

    assert shown["requested_at"] == call["created_at"]


@pytest.mark.parametrize("fraction", [".123456", ".1234", ".1", ".000001", ""])
def test_one_moment_is_one_text_whether_postgres_or_python_wrote_it(dsn, capsys, fraction):
    with psycopg.connect(dsn) as connection:
        connection.execute("set timezone to 'UTC'")
        (moment, written) = connection.execute(
            "select v::timestamptz, to_jsonb(v::timestamptz)::text from (values (%s)) t(v)",
            [f"2026-11-24 17:46:07{fraction}+00"],
        ).fetchone()

    common.answer(argparse.Namespace(json=True), moment, [])

    assert capsys.readouterr().out.strip() == written


def test_the_demo_prints_json_as_every_command(as_json, monkeypatch):
    monkeypatch.setattr(main, "main", lambda: print("paid 1 refund\nNext") or 0)

    assert as_json("demo") == {"told": ["paid 1 refund", "Next"]}


def test_a_person_who_has_waited_enough_is_not_shown_a_traceback(typed, monkeypatch):
    def waits(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(Ledger, "calls", waits)
    code, _, complaint = typed("calls")

    assert (code, complaint) == (130, "spanledger: interrupted; look whether it was done before you do it again\n")


def test_what_a_model_wrote_cannot_steer_the_terminal_of_who_approves(typed, ledger_with):
    ledger = ledger_with(rules=[Rule("*", approval=True, wait_timeout_s=0)])
    hostile = "\x1b[2J\u202eo-1\x9b1A"
    with pytest.raises(ApprovalPending):
        ledger.run(ToolCall(hostile, {"order_id": hostile}, workflow_id=hostile, actor=hostile), lambda: None)

    for command in (["approvals"], ["calls"], ["show", ledger.calls()[0]["key"]]):
        out = typed(*command)[1]
        assert out.replace("\n", "").isprintable(), command
        assert "o-1" in out


# --- switches


def test_stopped_tools_do_not_begin_until_somebody_resumes_them(typed, as_json, ledger):
    typed("stop", "ref*", "--by", "ops", "--reason", "the bank is down")

    with pytest.raises(NotAuthorized, match=r"'ref\*' is stopped by ops: the bank is down"):
        ledger.run(REFUND, lambda: pytest.fail("ran"))
    assert typed("controls")[1].startswith("switch  ref*  stopped: the bank is down  (version 1, by ops ")
    typed("stop", "refund", "--by", "ops")
    assert as_json("resume", "refund", "--by", "ops")["still_stopped_by"] == ["ref*"]
    assert typed("resume", "ref*", "--by", "ops")[1] == "resumed ref*\n"
    assert ledger.run(REFUND, lambda: "paid") == "paid"
    assert typed("controls")[1] == "no switch, approval, permission or rate is in force\n"


def test_nothing_is_resumed_that_was_not_stopped_under_that_name(typed):
    typed("stop", "stripe.*")

    code, _, complaint = typed("resume", "stripe.refund")
    assert (code, "stopped are stripe.*" in complaint) == (1, True)


def test_a_program_that_starts_lets_nothing_go_on_that_was_stopped(typed, ledger_with):
    typed("stop", "refund")

    restarted = ledger_with(switches=[Switch("refund", allowed=True)])
    with pytest.raises(NotAuthorized):
        restarted.run(REFUND, lambda: pytest.fail("ran"))


# --- grants


def test_a_person_grants_looks_and_takes_back(typed, as_json, ledger_with):
    ledger = ledger_with(rules=[Rule("refund", permission="payments:refund", reserve=Money(10, "EUR"))])
    assert typed("grants")[1] == "nothing is granted\n"
    given = as_json(
        *("grants", "add", "payments:*", "--agent", "support", "--limit", "280.00 EUR"),
        *("--approval-over", "100.00 EUR", "--expires-at", "2126-12-31", "--by", "ops"),
    )
    assert (given["state"], given["version"], given["applied_by"]) == ("granted", 1, "ops")
    assert ledger.run(REFUND, lambda: "paid") == "paid"
    assert typed("grants")[1] == (
        "granted  payments:*  to agent support, at most 280.00 EUR a call, with a person's approval over 100.00 EUR, "
        "until 2126-12-31T00:00:00+00:00  (version 1, by ops)\n"
    )
    denied = typed("grants", "add", "payments:refund", "--actor", "u_42", "--deny", "--reason", "fraud", "--by", "ops")
    assert denied[1] == "denied  payments:refund  to any agent for u_42: fraud  (version 1, by ops)\n"
    assert typed("grants", "revoke", "payments:*", "--agent", "support", "--by", "ops")[0] == 0
    assert [row["state"] for row in as_json("grants")] == ["denied"]
    assert sorted(row["state"] for row in as_json("grants", "--all")) == ["denied", "revoked"]


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["add", "pay*"], 2, "a permission is a name such as"),
        (["add", "p", "--limit", "much"], 2, "write for example '500.00 EUR'"),
        (["add", "p", "--expires-at", "soon"], 2, "is no date or time"),
        (["add", "p", "--agent", ""], 2, "it is empty"),
        (["add", "p", "--approval", "--approval-over", "1.00 EUR"], 2, "not allowed with"),
        (["revoke", "p"], 1, "there is no grant of 'p' to exactly these"),
    ],
)
def test_a_grant_that_makes_no_sense_changes_nothing(typed, ledger, command, code, words):
    result = typed("grants", *command)

    assert (result[0], words in result[2]) == (code, True), result
    assert ledger.grants() == []


def test_a_file_with_permissions_and_grants_is_applied_and_shown(typed, tmp_path, monkeypatch):
    file = tmp_path / "spanledger.toml"
    file.write_text(
        "[[rules]]\nmatch = 'refund'\npermission = 'payments:refund'\n[[grants]]\npermission = 'payments:*'\n"
    )
    monkeypatch.setenv("SPANLEDGER_CONFIG", str(file))

    assert typed("apply", "--by", "ops")[1] == (
        "applied permission  refund  needs payments:refund\napplied grant payments:*\n"
    )
    assert typed("controls")[1].startswith("permission  refund  needs payments:refund  (version 1, by ops")


# --- shadow


def test_what_was_passed_over_is_counted_by_verdict_and_tool(typed, as_json, dsn):
    rules = [Rule("refund", reserve=Money(10, "EUR"))]
    budgets = [Budget("refunds", Money(10, "EUR"))]
    with Ledger(config=Config(dsn=dsn, mode="shadow", rules=rules, budgets=budgets)) as ledger:
        for n in (1, 1, 2, 3):
            ledger.run(ToolCall("refund", {"n": n}, workflow_id="order-1"), lambda: None)

    exceeded, replay = typed("shadow", "--since", "1h")[1].splitlines()
    assert exceeded.startswith("budget_exceeded  refund  20.00 EUR, 2 calls, last ")
    assert replay.startswith("replay  refund  10.00 EUR, 1 calls, last ")
    assert [row["verdict"] for row in as_json("shadow")] == ["replay", "budget_exceeded", "budget_exceeded"]
    assert typed("shadow", "--since", "2126-01-01")[1] == "nothing was passed over\n"


# --- budgets


def test_a_budget_is_added_changed_and_topped_up(as_json, ledger):
    made = as_json(
        *("budgets", "set", "refunds", "100.00 EUR", "--match", "refund", "--per", "actor", "--window", "day"),
        *("--timezone", "Europe/Berlin", "--soft", "0.8"),
    )
    assert (made["per"], made["window"], made["timezone"], made["soft"]) == (
        *(["actor"], "day", "Europe/Berlin", "80.00 EUR"),
    )
    changed = as_json("budgets", "set", "refunds", "50.00 EUR", "--soft", "none")
    assert (changed["match"], changed["window"], changed["soft"]) == ("refund", "day", None)
    topped = as_json("budgets", "top-up", "refunds", "5.00 EUR", "--scope", "actor=u_42")
    assert (topped["limit"], topped["scope"]) == ("55.00 EUR", {"actor": "u_42"})
    assert ledger.budget("refunds", scope={"actor": "u_43"}).limit == Money(50, "EUR")


def test_budgets_are_shown_with_whose_they_are_and_when_they_start_anew(typed, ledger_with):
    budget = Budget("mails", Calls(2), match="mail", per=("actor",), window=3600, soft=Calls(0))
    ledger = ledger_with(budgets=[budget])
    ledger.run(ToolCall("mail", {}, workflow_id="w", actor="u_42"), lambda: None)

    assert typed("budgets")[1] == (
        "mails of actor u_42: 1 calls spent, 0 calls held, 1 calls left of 2 calls, within 3600 s, "
        "past its soft limit 0 calls\n"
    )


def test_a_call_shows_what_it_holds_of_which_budget_until_its_outcome_is_known(typed, as_json, ledger_with):
    budgets = [Budget("refunds", Money(500, "EUR")), Budget("calls", Calls(2))]
    ledger = ledger_with(budgets=budgets, rules=[Rule("refund", reserve=Money(10, "EUR"))])
    begun = ledger.begin(REFUND)

    shown = typed("show", begun.key[:8])[1]
    assert "holds         1 calls of budget calls\nholds         10.00 EUR of budget refunds\n" in shown
    assert [held["budget"] for held in as_json("show", begun.key)["holds"]] == ["calls", "refunds"]

    ledger.fail(begun, TimeoutError())
    assert "holds         10.00 EUR of budget refunds\n" in typed("show", begun.key)[1]

    ledger.resolve(begun.key, by="ops", outcome="failed")
    assert "holds" not in typed("show", begun.key)[1]
    assert as_json("show", begun.key)["holds"] is None


@pytest.mark.parametrize(
    ("command", "code", "words"),
    [
        (["top-up", "nothing", "1 calls"], 1, "has no budget 'nothing'"),
        (
            ["top-up", "mails", "0 calls", "--scope", "actor=u_42"],
            2,
            "is topped up by more than nothing, not by 0 calls",
        ),
        (["top-up", "mails", "1.00 EUR"], 2, "no budget 'mails' in EUR"),
        (["top-up", "mails", "1 calls"], 2, "is kept apart by actor"),
        (["top-up", "mails", "1 calls", "--scope", "u_42"], 2, "NAME=VALUE"),
        (["set", "mails", "1.00 EUR"], 2, "a budget keeps its unit"),
        (["set", "mails", "many"], 2, "write for example '500.00 EUR'"),
        (["set", "mails", "1 calls", "--window", "week"], 2, "window is one of"),
        (["set", "mails", "1 calls", "--per", "colour"], 2, "per is a list of"),
        (["set", "mails", "1 calls", "--timezone", "Berlin"], 2, "not a time zone"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(typed, ledger, command, code, words):
    ledger.apply(Config(budgets=[Budget("mails", Calls(2), per=("actor",))]))

    done = typed("budgets", *command)
    assert (done[0], words in done[2]) == (code, True), done
    assert ledger.budget("mails").limit == Calls(2)


# --- apply, controls, calls

EVERY_KIND = """
[[rules]]
match = "refund"
approval = "over 100.00 EUR"

[[rules]]
match = "mail"
approval = "json:loads"

[[rules]]
match = "search"

[[budgets]]
name = "mails"
limit = "20 calls"

[[switches]]
match = "wire"
allowed = false
reason = "not yet"

[[rates]]
source = "USD"
target = "EUR"
rate = "0.92"
valid_from = "2026-01-01"
"""


def test_a_file_is_applied_by_command_and_by_no_other(typed, as_json, ledger, tmp_path: Path):
    (tmp_path / "spanledger.toml").write_text(EVERY_KIND)
    typed("calls")
    typed("doctor")
    assert ledger.controls() == ledger.budgets() == []

    assert typed("apply", "--by", "ops")[1].splitlines() == [
        "applied budget mails: 20 calls",
        "applied approval  refund  over 100.00 EUR",
        "applied switch  wire  stopped: not yet",
        "applied rate  1 USD = 0.92 EUR from 2026-01-01",
        "not applied: whether mail needs an approval is said by a function of the program's own",
    ]
    assert [row["applied_by"] for row in as_json("controls")] == ["ops"] * 3
    (tmp_path / "spanledger.toml").write_text('[[rules]]\nmatch = "refund"\n')
    assert typed("apply")[1] == "applied approval  refund  not needed\n"
    assert [row["kind"] for row in as_json("controls")] == ["rate", "switch"]
    assert [row["kind"] for row in as_json("controls", "--all")] == ["approval", "rate", "switch"]


def test_a_file_is_applied_by_its_name(typed, ledger, tmp_path: Path):
    file = tmp_path / "controls.toml"
    file.write_text('[[budgets]]\nname = "mails"\nlimit = "20 calls"\n')
    code, out, err = typed("apply", str(file))
    assert (code, out) == (0, "applied budget mails: 20 calls\n"), err
    assert ledger.budget("mails").limit == Calls(20)
    code, _, err = typed("apply", str(tmp_path / "none.toml"))
    assert code == 2
    assert "cannot read" in err


def test_the_version_is_asked_for_as_elsewhere(capsys):
    with pytest.raises(SystemExit) as ended:
        cli.main(["--version"])
    assert ended.value.code == 0
    assert capsys.readouterr().out == f"spanledger {version('spanledger')}\n"


def test_of_rates_the_one_that_holds_now_is_in_force(as_json, ledger):
    days = {"2026-01-01": "0.90", "2026-02-01": "0.95", "2999-01-01": "1.10"}
    ledger.apply(Config(rates=[Rate("USD", "EUR", rate, day) for day, rate in days.items()]))

    assert [row["spec"]["rate"] for row in as_json("controls")] == ["0.95"]
    assert len(as_json("controls", "--all")) == 3


def test_calls_are_found_by_who_made_them_and_when(as_json, typed, ledger_with):
    for tenant, agent, actor in (("default", "support", "u_1"), ("default", "sales", "u_2"), ("acme", "sales", "u_1")):
        ledger_with(tenant=tenant).run(
            ToolCall("mail", {"to": actor}, workflow_id="w", agent=agent, actor=actor), lambda: None
        )

    assert [call["actor"] for call in as_json("calls", "--agent", "sales")] == ["u_2"]
    assert [call["agent"] for call in as_json("calls", "--actor", "u_1")] == ["support"]
    assert len(as_json("calls", "--since", "1h", "--tool", "mail", "--state", "succeeded")) == 2
    assert as_json("calls", "--since", "2999-01-01") == []
    (theirs,) = as_json("calls", "--tenant", "acme")
    assert typed("show", theirs["key"])[0] == 1
    assert as_json("show", theirs["key"], "--tenant", "acme")["tenant"] == "acme"
    assert typed("calls", "--since", "yesterday")[0] == typed("calls", "--state", "unkown")[0] == 2


def test_controls_of_another_tenant_are_its_own(typed, as_json, ledger):
    typed("stop", "refund", "--tenant", "acme")
    typed("budgets", "--tenant", "acme", "set", "mails", "2 calls")

    assert [budget["name"] for budget in as_json("budgets", "--tenant", "acme")] == ["mails"]
    assert [row["match"] for row in as_json("controls", "--tenant", "acme")] == ["refund"]
    assert as_json("controls") == as_json("budgets") == []
    assert ledger.run(REFUND, lambda: "paid") == "paid"


@pytest.mark.parametrize(
    "command",
    [
        "grants",
        "grants add",
        "shadow",
        "grants revoke",
        "approvals",
        "approve",
        "deny",
        "stop",
        "resume",
        "controls",
        "apply",
        "budgets",
        "budgets set",
        "budgets top-up",
    ],
)
def test_the_help_of_every_command_shows_an_example(typed, command):
    code, out, _ = typed(*command.split(), "--help")

    assert (code, "example:\n  " in out, "--json" in out, "--tenant" in out) == (0, True, True, True)
