"""A person's say: what agent-ledger, provenant and tracengent get wrong about it, and what agent-ledger's tests pin."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import pickle
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection

import pytest
from tests.ledger.workers import TIMEOUT_S, started
from tests.seeds.parts import REFUND, never

from spanledger import Budget, Calls, Config, Ledger, Rule, ToolCall, tool, workflow
from spanledger.errors import (
    ApprovalDenied,
    ApprovalPending,
    ConfigError,
    KeyReused,
    OutcomeUnknown,
    SpanledgerError,
)

ASKING = Rule("refund", approval=True, wait_timeout_s=0)
WAITING = dataclasses.replace(ASKING, wait_timeout_s=TIMEOUT_S)
BY = "ops@example.com"


def pending(ledger: Ledger, call: ToolCall = REFUND) -> str:
    """Ask for a call that nobody has approved yet; return the request's id."""
    with pytest.raises(ApprovalPending) as caught:
        ledger.run(call, never)
    return caught.value.approval_id


def until_asked(ledger: Ledger) -> str:
    """Wait until somebody has asked; return the request's id."""
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (asked := ledger.approvals()):
        assert time.monotonic() < deadline_s
        time.sleep(0.01)
    return asked[0].id


def all_waiting(ledger: Ledger, pool: ThreadPoolExecutor, count: int, handler: Callable[[], object]) -> list[Future]:
    runs = [pool.submit(ledger.run, REFUND, handler) for _ in range(count)]
    until_asked(ledger)
    return runs


# AL-D3: a crash gets around an approval


def fail_to_notify(*_: object) -> None:
    raise RuntimeError("the chat is down")


def test_a_notice_that_fails_leaves_the_call_waiting_for_its_approval(ledger_with) -> None:
    ledger = ledger_with(rules=[ASKING], on_approval_needed=fail_to_notify)
    first, second = pending(ledger), pending(ledger)
    assert first == second
    assert [asked.id for asked in ledger.approvals()] == [first]


def wait_for_approval(writer: Connection, dsn: str) -> None:
    """Ask, say so when the notice goes out, and wait for a person."""
    config = Config(dsn=dsn, rules=[WAITING], on_approval_needed=lambda *_: writer.send("asked"))
    Ledger(config=config).run(REFUND, lambda: "the dead one ran it")


def test_a_worker_that_is_killed_while_it_waits_for_a_person_opens_no_way_around(ledger_with, dsn: str) -> None:
    worker, reader = started(wait_for_approval, dsn)
    assert reader.poll(TIMEOUT_S)
    worker.kill()
    worker.join(TIMEOUT_S)
    ledger = ledger_with(rules=[dataclasses.replace(ASKING, on_unknown="retry", lease_s=0.2)])
    approval_id = pending(ledger)
    time.sleep(0.3)  # longer than any lease
    assert pending(ledger) == approval_id
    assert ledger.approve(approval_id, by=BY)
    assert ledger.run(REFUND, lambda: "done") == "done"


def test_what_a_worker_did_with_its_approval_before_it_died_is_not_done_again_with_it(ledger_with, sql) -> None:
    ledger = ledger_with(rules=[dataclasses.replace(ASKING, on_unknown="retry")])
    ledger.approve(pending(ledger), by=BY)
    dead = ledger.begin(REFUND)
    assert dead.verdict.value == "run"
    sql.execute("update spanledger.call set lease_until = clock_timestamp()")
    with pytest.raises(OutcomeUnknown):
        ledger.run(REFUND, never)
    assert ledger.resolve(dead.key, by=BY, outcome="retry")
    pending(ledger)


# AL-D4: what is said nearer to the call cannot weaken the rule


def test_a_developer_s_own_words_do_not_switch_an_approval_off(instrument) -> None:
    instrument(rules=[ASKING])

    @tool("refund", approval=False, wait_timeout_s=0)
    def refund(order_id: str) -> None:
        never()

    with workflow("w"), pytest.raises(ApprovalPending):
        refund("o-1")


# AL-D5: approve X, run Y


def test_an_approval_is_for_the_arguments_that_were_shown_and_no_others(ledger_with) -> None:
    rule = Rule("pay", approval=True, wait_timeout_s=0, fields=("order",))
    ledger = ledger_with(rules=[rule])
    alice = ToolCall("pay", {"order": 7, "to": "alice", "amount": 10}, workflow_id="w")
    mallory = dataclasses.replace(alice, arguments={"order": 7, "to": "mallory", "amount": 99_999})
    approval_id = pending(ledger, alice)
    (asked,) = ledger.approvals()
    shown = asked.arguments if isinstance(asked.arguments, dict) else json.loads(asked.arguments)
    assert shown == alice.arguments
    assert ledger.approve(approval_id, by=BY)
    with pytest.raises((ApprovalPending, KeyReused)) as caught:
        ledger.run(mallory, never)
    assert getattr(caught.value, "approval_id", None) != approval_id


def test_an_id_of_the_provider_that_changes_between_attempts_does_not_change_what_was_approved(ledger_with) -> None:
    ledger = ledger_with(rules=[ASKING])
    assert ledger.approve(pending(ledger, dataclasses.replace(REFUND, call_id="call_1")), by=BY)
    assert ledger.run(dataclasses.replace(REFUND, call_id="call_2"), lambda: "done") == "done"


# AL-D7: asking about what already runs


def test_a_rule_that_comes_while_a_call_runs_does_not_run_it_a_second_time(ledger, ledger_with) -> None:
    stricter = ledger_with(rules=[WAITING])
    running, release = threading.Event(), threading.Event()

    def handler() -> str:
        running.set()
        assert release.wait(TIMEOUT_S)
        return "done"

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(ledger.run, REFUND, handler)
        assert running.wait(TIMEOUT_S)
        second = pool.submit(stricter.run, REFUND, never)
        release.set()
        assert [first.result(TIMEOUT_S), second.result(TIMEOUT_S)] == ["done", "done"]
    assert stricter.approvals() == []


# AL-D19: a coroutine is always true


def test_a_coroutine_function_cannot_say_whether_an_approval_is_needed() -> None:
    async def needs_approval(arguments: object) -> bool:
        return False

    with pytest.raises(ConfigError):
        Rule("refund", approval=needs_approval)


# TR-D11, PG-D6: not bound, not to be waited for, without an id, and no way to go on


def test_who_waits_goes_on_as_soon_as_a_person_has_said_yes(ledger_with) -> None:
    ledger = ledger_with(rules=[WAITING])
    with ThreadPoolExecutor(1) as pool:
        run = pool.submit(ledger.run, REFUND, lambda: "done")
        assert ledger.approve(until_asked(ledger), by=BY, note="fine")
        assert run.result(TIMEOUT_S) == "done"
    assert ledger.approvals() == []


def test_after_an_approval_any_process_goes_on_with_the_same_call_and_once(dsn: str) -> None:
    config = Config(dsn=dsn, rules=[ASKING])
    with Ledger(config=config) as before_the_restart:
        approval_id = pending(before_the_restart)
    with Ledger(config=config) as operator:
        (asked,) = operator.approvals()
        assert (asked.id, asked.tool, asked.key) == (approval_id, "refund", operator.key(REFUND))
        assert asked.requested_at < asked.expires_at
        assert operator.approve(approval_id, by=BY)
    with Ledger(config=config) as after:
        assert [after.run(REFUND, lambda: "done"), after.run(REFUND, never)] == ["done", "done"]
        assert after.get(after.key(REFUND))["attempts"] == 1


def test_the_id_of_a_request_survives_the_way_to_another_process(ledger_with) -> None:
    ledger = ledger_with(rules=[ASKING])
    with pytest.raises(ApprovalPending) as caught:
        ledger.run(REFUND, never)
    again = pickle.loads(pickle.dumps(caught.value))
    assert (again.approval_id, again.key) == (ledger.approvals()[0].id, ledger.key(REFUND))


def test_who_is_refused_is_told_by_whom_and_why(ledger_with) -> None:
    ledger = ledger_with(rules=[ASKING])
    assert ledger.deny(pending(ledger), by=BY, reason="not this customer")
    with pytest.raises(ApprovalDenied) as caught:
        ledger.run(REFUND, never)
    assert (caught.value.approver, caught.value.reason) == (BY, "not this customer")


def test_what_waits_for_a_person_holds_no_budget(ledger_with) -> None:
    ledger = ledger_with(rules=[ASKING], budgets=[Budget("b", Calls(1))])
    approval_id = pending(ledger)
    assert ledger.budget("b").held == Calls(0)
    ledger.approve(approval_id, by=BY)
    ledger.run(REFUND, lambda: "done")
    assert (ledger.budget("b").held, ledger.budget("b").spent) == (Calls(0), Calls(1))


# what agent-ledger's own tests pin (AL-T13)


def test_nobody_answers_what_nobody_asked(ledger: Ledger) -> None:
    unknown = "00000000-0000-0000-0000-000000000000"
    assert not ledger.approve(unknown, by=BY)
    assert not ledger.deny(unknown, by=BY, reason="no")


@pytest.mark.parametrize("first", ["approve", "deny"])
def test_a_request_is_answered_once(ledger_with, first: str) -> None:
    ledger = ledger_with(rules=[ASKING])
    approval_id = pending(ledger)
    answers = {
        "approve": lambda: ledger.approve(approval_id, by=BY),
        "deny": lambda: ledger.deny(approval_id, by=BY, reason="no"),
    }
    assert answers.pop(first)()
    (other,) = answers.values()
    assert not other()


def test_of_an_approval_and_a_denial_at_the_same_moment_one_counts(ledger_with) -> None:
    ledger = ledger_with(rules=[ASKING])
    approval_id, barrier = pending(ledger), threading.Barrier(8)

    def answer(number: int) -> bool:
        barrier.wait(TIMEOUT_S)
        if number % 2:
            return ledger.approve(approval_id, by=f"{number}@example.com")
        return ledger.deny(approval_id, by=f"{number}@example.com", reason="no")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(answer, range(8)))
    kinds = {number % 2 for number, counted in enumerate(answers) if counted}
    assert len(kinds) == 1
    expected = contextlib.nullcontext() if kinds == {1} else pytest.raises(ApprovalDenied)
    with expected:
        assert ledger.run(REFUND, lambda: "done") == "done"


def test_of_all_who_wait_for_one_approval_one_runs_and_all_have_its_result(ledger_with) -> None:
    ledger, ran = ledger_with(rules=[WAITING]), []
    with ThreadPoolExecutor(6) as pool:
        runs = all_waiting(ledger, pool, 6, lambda: ran.append(1) or "done")
        assert ledger.approve(until_asked(ledger), by=BY)
        assert [run.result(TIMEOUT_S) for run in runs] == ["done"] * 6
    assert ran == [1]


def test_all_who_wait_are_told_of_a_denial(ledger_with) -> None:
    ledger = ledger_with(rules=[WAITING])
    with ThreadPoolExecutor(4) as pool:
        runs = all_waiting(ledger, pool, 4, never)
        assert ledger.deny(until_asked(ledger), by=BY, reason="no")
        assert [type(run.exception(TIMEOUT_S)) for run in runs] == [ApprovalDenied] * 4


def test_a_request_that_nobody_answered_in_time_is_a_denial_by_nobody(ledger_with) -> None:
    ledger = ledger_with(rules=[dataclasses.replace(WAITING, approval_timeout_s=1)])
    with pytest.raises(ApprovalDenied) as caught:
        ledger.run(REFUND, never)
    assert caught.value.approver is None
    assert ledger.approvals() == []


def test_one_notice_goes_out_for_a_request_and_none_for_a_replay(ledger_with) -> None:
    notices = []
    ledger = ledger_with(rules=[ASKING], on_approval_needed=lambda *told: notices.append(told))
    approval_id = pending(ledger)
    pending(ledger)
    assert len(notices) == 1
    ledger.approve(approval_id, by=BY)
    for _ in range(2):
        assert ledger.run(REFUND, lambda: "done") == "done"
    assert len(notices) == 1


def fail() -> None:
    raise ValueError("card expired")


@pytest.mark.parametrize("covers", [True, False])
def test_after_a_definite_failure_a_person_is_asked_again_unless_the_approval_covers_retries(
    ledger_with, covers
) -> None:
    ledger = ledger_with(rules=[dataclasses.replace(ASKING, approval_covers_retries=covers)])
    approval_id = pending(ledger)
    ledger.approve(approval_id, by=BY)
    with pytest.raises(ValueError):
        ledger.run(REFUND, fail)
    if covers:
        assert ledger.run(REFUND, lambda: "second") == "second"
    else:
        assert pending(ledger) != approval_id


def test_nobody_approves_their_own_call(ledger_with) -> None:
    ledger = ledger_with(rules=[ASKING])
    mine = dataclasses.replace(REFUND, actor="u_42")
    approval_id = pending(ledger, mine)
    with contextlib.suppress(SpanledgerError):
        assert not ledger.approve(approval_id, by="u_42")
    assert pending(ledger, mine) == approval_id
    assert ledger.approve(approval_id, by=BY)
    assert ledger.run(mine, lambda: "done") == "done"
