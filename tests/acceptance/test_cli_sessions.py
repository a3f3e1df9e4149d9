"""`spanledger sessions` and `spanledger agents` on a real ledger."""

from __future__ import annotations

import contextlib
import json

import pytest
from tests.acceptance.conftest import Run

import spanledger
from spanledger import Config, Grant, Ledger, Money, Usage, record_llm_call, session, tool


@pytest.fixture
def talked(dsn: str, ledger: Ledger) -> Ledger:
    """A ledger in which an agent has talked to two people."""
    spanledger.instrument(Config(dsn=dsn), libraries=[])
    pay = tool("pay")(lambda euros: spanledger.current_call().charge(Money(euros, "EUR")))
    with session("chat-1", agent="support", actor="u_1") as chat:
        with chat.turn("m-1"):
            record_llm_call("house-1", Usage(input_tokens=20, output_tokens=10))
        with contextlib.suppress(ValueError), chat.turn("m-2"):
            pay(5)
            raise ValueError("no")
    with session("chat\x1b-2".replace("\x1b", "~"), agent="sales") as chat:
        chat.end("failed", error="hung up\x1b[2J")
    spanledger.uninstrument()
    ledger.apply(Config(grants=[Grant("payments:*", agent="support")]))
    return ledger


def test_sessions_are_listed_with_what_they_came_to(run_here: Run, talked, dsn):
    done = run_here("spanledger", "sessions", SPANLEDGER_DSN=dsn)

    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].split() == ["session", "agent", "status", "turns", "calls", "spent", "started"]
    assert lines[1].split()[:5] == ["chat~-2", "sales", "failed", "0", "0"]
    assert lines[2].split()[:10] == [
        "chat-1",
        "support",
        "done",
        "2",
        "2",
        "30",
        "tokens,",
        "5.00",
        "EUR",
        *lines[2].split()[9:10],
    ]
    chosen = json.loads(run_here("spanledger", "sessions", "--agent", "support", "--json", SPANLEDGER_DSN=dsn).stdout)
    assert [(row["session_id"], row["tokens"], row["cost"]) for row in chosen] == [("chat-1", 30, {"EUR": 5_000_000})]
    assert run_here("spanledger", "sessions", "--status", "lost", SPANLEDGER_DSN=dsn).stdout == "no sessions\n"


def test_one_session_is_shown_with_its_turns_and_how_each_ended(run_here: Run, talked, dsn):
    shown = run_here("spanledger", "sessions", "chat-1", SPANLEDGER_DSN=dsn).stdout.splitlines()

    assert shown[0] == "session chat-1, support for u_1: done"
    assert shown[2] == "calls   2 (1 of models), 30 tokens, 5.00 EUR"
    assert shown[3] == "tokens  20 read (0 of them cached), 10 written"
    assert shown[7].split()[5] == "20/10"
    assert [line.split()[:3] for line in shown[7:]] == [["chat-1/m-1", "done", "1"], ["chat-1/m-2", "failed", "1"]]
    data = json.loads(run_here("spanledger", "sessions", "chat-1", "--json", SPANLEDGER_DSN=dsn).stdout)
    assert [(turn["status"], turn["error"], turn["tokens"]) for turn in data["turns"]] == [
        ("done", None, 30),
        ("failed", "ValueError", 0),
    ]


def test_what_somebody_said_of_a_session_does_not_steer_the_terminal(run_here: Run, talked, dsn):
    assert "failed (hung up\\x1b[2J)" in run_here("spanledger", "sessions", "chat~-2", SPANLEDGER_DSN=dsn).stdout


def test_a_session_that_is_not_known_is_an_error_and_so_is_ending_one_that_has_ended(run_here: Run, talked, dsn):
    for arguments, said in (
        (["chat-9"], "knows no session chat-9"),
        (["chat-1", "--end", "done"], "nothing of session chat-1 is open"),
        (["--end", "done"], "say which session"),
    ):
        done = run_here("spanledger", "sessions", *arguments, SPANLEDGER_DSN=dsn)
        assert (done.returncode, done.stdout) == (1, "")
        assert said in done.stderr


def test_a_session_of_a_dead_process_is_ended_by_hand(run_here: Run, talked, dsn, sql):
    sql.execute(
        "update spanledger.run set ended_at = null, status = null, alive_until = clock_timestamp() "
        "where kind = 'session'"
    )
    assert "chat-1" in run_here("spanledger", "sessions", "--status", "lost", SPANLEDGER_DSN=dsn).stdout

    saying = ("--end", "failed", "--error", "its pod was evicted", "--by", "ops")
    ended = run_here("spanledger", "sessions", "chat-1", *saying, SPANLEDGER_DSN=dsn)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.splitlines()[0] == "session chat-1, support for u_1: failed by ops (its pod was evicted)"


def test_agents_are_listed_with_what_they_spent_and_may(run_here: Run, talked, dsn):
    lines = run_here("spanledger", "agents", SPANLEDGER_DSN=dsn).stdout.splitlines()
    assert [line.split()[:3] for line in lines] == [
        ["agent", "sessions", "calls"],
        ["sales", "1", "0"],
        ["support", "1", "2"],
    ]
    assert "30 tokens, 5.00 EUR  payments:*" in lines[2]

    one = run_here("spanledger", "agents", "support", SPANLEDGER_DSN=dsn).stdout
    assert one.startswith("agent support\n")
    assert "calls     2, 0 refused, 30 tokens, 5.00 EUR" in one
    assert "granted  payments:*  to agent support" in one
    assert "chat-1" in one
    data = json.loads(run_here("spanledger", "agents", "support", "--json", SPANLEDGER_DSN=dsn).stdout)
    assert (data["spent"]["tokens"], data["granted"], data["last_sessions"][0]["session_id"]) == (
        30,
        ["payments:*"],
        "chat-1",
    )
    unknown = run_here("spanledger", "agents", "nobody", SPANLEDGER_DSN=dsn)
    assert (unknown.returncode, "has not heard of agent nobody" in unknown.stderr) == (1, True)
