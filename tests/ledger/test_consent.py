"""A person has to say yes: asked once, bound to exactly these arguments, and everybody may restart meanwhile."""

from __future__ import annotations

import asyncio
import inspect
import logging
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
from workers import TIMEOUT_S, started, wait_for_consent

from spanledger import Approval, AsyncLedger, Config, Ledger, Money, Rate, Rule, ToolCall, over
from spanledger.errors import ApprovalDenied, ApprovalPending, ConfigError, NotAuthorized, Undescribable

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w", agent="support", actor="u_42")
PATIENT = Rule("refund", approval=True, wait_timeout_s=30)
HASTY = Rule("refund", approval=True, wait_timeout_s=0)
OPS = "ops@example.com"


def never() -> None:
    pytest.fail("it ran")


def costing(amount: str | None, currency: str = "EUR") -> ToolCall:
    cost = None if amount is None else Money(amount, currency)
    return ToolCall("refund", {"amount": amount}, workflow_id="w", cost=cost)


def asked_by(ledger: Ledger, call: ToolCall = REFUND) -> Approval:
    """Make a call that has to wait for a person, and return what they are asked."""
    with pytest.raises(ApprovalPending) as pending:
        ledger.run(call, never)
    (approval,) = ledger.approvals(approval_id=pending.value.approval_id)
    return approval


def until(condition: Callable[[], Any]) -> Any:
    deadline_s = time.monotonic() + TIMEOUT_S
    while not (found := condition()):
        assert time.monotonic() < deadline_s
        time.sleep(0.02)
    return found


# --- waiting


def test_a_caller_waits_and_goes_on_soon_after_somebody_has_said_yes(ledger_with, ledger: Ledger) -> None:
    waiting = ledger_with(rules=[PATIENT])
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(waiting.run, REFUND, lambda: "paid")
        (approval,) = until(ledger.approvals)
        assert (approval.tool, approval.arguments, approval.actor, approval.rule) == (
            *("refund", {"order_id": "o-1"}, "u_42", "refund"),
        )
        assert ledger.approve(approval.id, by=OPS, note="checked")
        begun_s = time.monotonic()
        assert result.result(TIMEOUT_S) == "paid"
    assert time.monotonic() - begun_s < 10, "woken, or asked again, and not after wait_timeout_s"
    (approval,) = ledger.approvals(state=None)
    assert (approval.state, approval.by, approval.note) == ("consumed", OPS, "checked")


def test_a_task_waits_without_blocking_its_loop(dsn: str, ledger: Ledger) -> None:
    async def main() -> Any:
        async with AsyncLedger(config=Config(dsn=dsn, rules=[PATIENT])) as waiting:
            task = asyncio.create_task(waiting.run(REFUND, lambda: "paid"))
            async with asyncio.timeout(TIMEOUT_S):
                while not (found := await waiting.approvals()):  # noqa: ASYNC110 - the event is in the ledger
                    await asyncio.sleep(0.02)
                assert await waiting.approve(found[0].id, by=OPS)
                return await task

    assert asyncio.run(main()) == "paid"


def test_somebody_who_says_no_ends_the_wait(ledger_with, ledger: Ledger) -> None:
    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(ledger_with(rules=[PATIENT]).run, REFUND, never)
        (approval,) = until(ledger.approvals)
        assert ledger.deny(approval.id, by=OPS, reason="no such order")
        error = result.exception(TIMEOUT_S)
    assert isinstance(error, ApprovalDenied)
    assert (error.approver, error.reason) == (OPS, "no such order")


def test_after_wait_timeout_s_the_caller_is_told_and_the_request_lives_on(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", approval=True, wait_timeout_s=0.3)])
    with pytest.raises(ApprovalPending) as first:
        ledger.run(REFUND, never)
    with pytest.raises(ApprovalPending, match=f"spanledger approve {first.value.approval_id}") as second:
        ledger.run(REFUND, never)
    assert (second.value.approval_id, second.value.key) == (first.value.approval_id, ledger.key(REFUND))
    assert [approval.id for approval in ledger.approvals()] == [first.value.approval_id]


def test_a_wait_that_is_cancelled_leaves_the_request_as_it_is(dsn: str, ledger: Ledger) -> None:
    async def main() -> None:
        async with AsyncLedger(config=Config(dsn=dsn, rules=[PATIENT])) as waiting:
            task = asyncio.create_task(waiting.run(REFUND, never))
            async with asyncio.timeout(TIMEOUT_S):
                while not await waiting.approvals():  # noqa: ASYNC110 - the event is in the ledger
                    await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    (approval,) = ledger.approvals()
    assert ledger.approve(approval.id, by=OPS)


# --- restarts


def test_what_was_allowed_runs_once_whoever_restarts(dsn: str) -> None:
    def fresh() -> Ledger:
        return Ledger(config=Config(dsn=dsn, rules=[HASTY]))

    with fresh() as ledger:
        approval = asked_by(ledger)
    with fresh() as ledger:
        assert ledger.approve(approval.id, by=OPS)
    with fresh() as ledger:
        assert ledger.run(REFUND, lambda: "paid") == "paid"
    with fresh() as ledger:
        assert ledger.run(REFUND, never) == "paid"


def test_a_process_is_killed_while_it_waits_and_what_is_then_allowed_runs_once(dsn: str, ledger_with, sql) -> None:
    worker, reader = started(wait_for_consent, dsn)
    assert reader.recv() == "waiting"
    ledger = ledger_with(rules=[HASTY])
    # A question that is under way when its process dies may still be answered: nobody would know.
    until(lambda: sql.execute("select from spanledger.call where waited_until is not null").fetchall())
    (approval,) = ledger.approvals()
    worker.kill()
    worker.join(TIMEOUT_S)

    assert ledger.approve(approval.id, by=OPS)
    ran: list[int] = []
    for _ in range(2):
        ledger.run(REFUND, lambda: ran.append(1))
    assert ran == [1]


def test_of_many_who_wait_for_one_consent_one_runs_and_all_have_its_result(ledger_with, ledger: Ledger) -> None:
    waiting, ran = ledger_with(rules=[PATIENT]), []

    def handler() -> str:
        ran.append(1)
        return "paid"

    with ThreadPoolExecutor(5) as pool:
        results = [pool.submit(waiting.run, REFUND, handler) for _ in range(5)]
        (approval,) = until(ledger.approvals)
        ledger.approve(approval.id, by=OPS)
        assert [result.result(TIMEOUT_S) for result in results] == ["paid"] * 5
    assert ran == [1]
    assert len(ledger.approvals(state=None)) == 1


# --- what consent is to


def test_it_holds_for_exactly_the_arguments_that_were_asked_about(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", approval=True, fields=["order_id"], wait_timeout_s=0)])
    cheap, dear = (
        ToolCall("refund", {"order_id": "o-1", "amount": amount}, workflow_id="w") for amount in (10, 1_000_000)
    )
    ledger.approve(asked_by(ledger, cheap).id, by=OPS)

    asked = asked_by(ledger, dear)  # the same call by its key, other arguments
    assert asked.arguments["amount"] == 1_000_000
    assert [approval.state for approval in ledger.approvals(state=None)] == ["superseded", "pending"]


def test_it_is_for_one_attempt_unless_the_rule_says_more(ledger_with) -> None:
    def declined() -> None:
        raise ValueError("declined")

    for rule, asks_again in (
        (HASTY, True),
        (Rule("mail", approval=True, wait_timeout_s=0, approval_covers_retries=True), False),
    ):
        ledger, call = ledger_with(rules=[rule]), ToolCall(rule.match, workflow_id="w")
        ledger.approve(asked_by(ledger, call).id, by=OPS)
        with pytest.raises(ValueError, match="declined"):
            ledger.run(call, declined)
        if asks_again:
            ledger.approve(asked_by(ledger, call).id, by=OPS)
        assert ledger.run(call, lambda: "done") == "done"


def test_what_succeeded_is_replayed_and_nobody_is_asked(ledger_with, ledger: Ledger) -> None:
    ledger.run(REFUND, lambda: "paid")

    assert ledger_with(rules=[HASTY]).run(REFUND, never) == "paid"


# --- no


def test_denied_is_final_until_somebody_lets_it_be_asked_again(ledger_with) -> None:
    ledger = ledger_with(rules=[HASTY])
    approval = asked_by(ledger)
    assert ledger.deny(approval.id, by=OPS, reason="no such order")
    for _ in range(2):
        with pytest.raises(ApprovalDenied, match=f"{OPS} denied it: no such order; .*--outcome retry") as denied:
            ledger.run(REFUND, never)
    assert (denied.value.approver, denied.value.reason) == (OPS, "no such order")
    assert not ledger.approve(approval.id, by=OPS)
    assert ledger.resolve(ledger.key(REFUND), by=OPS, outcome="retry")
    assert asked_by(ledger).id != approval.id


def test_when_nobody_answers_in_time_it_is_refused_and_cannot_be_allowed(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", approval=True, approval_timeout_s=1, wait_timeout_s=30)])
    with pytest.raises(ApprovalDenied, match="nobody answered in time") as expired:
        ledger.run(REFUND, never)
    assert expired.value.approver is None
    (approval,) = ledger.approvals(state=None)
    assert approval.state == "expired"
    assert not ledger.approve(approval.id, by=OPS)
    with pytest.raises(ApprovalDenied):
        ledger.run(REFUND, never)


def test_a_cancelled_request_can_no_longer_be_allowed(ledger_with) -> None:
    ledger = ledger_with(rules=[HASTY])
    approval = asked_by(ledger)
    assert ledger.cancel(ledger.key(REFUND), by=OPS)
    assert not ledger.approve(approval.id, by=OPS)
    assert [one.state for one in ledger.approvals(state=None)] == ["cancelled"]


# --- who


@pytest.mark.parametrize("by", ["u_42", " U_42", "support"])
def test_who_asked_may_not_say_yes_but_may_say_no(ledger_with, by: str) -> None:
    ledger = ledger_with(rules=[HASTY])
    approval = asked_by(ledger)
    with pytest.raises(NotAuthorized, match="another person has to") as refused:
        ledger.approve(approval.id, by=by)
    assert refused.value.reason == "self-approval"
    assert ledger.approvals() == [approval]
    assert ledger.deny(approval.id, by=by)


def test_a_rule_can_let_who_asked_say_yes(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", approval=True, self_approval=True, wait_timeout_s=0)])
    assert ledger.approve(asked_by(ledger).id, by="u_42")


def test_the_first_answer_counts_and_the_same_again_is_no_news(ledger_with) -> None:
    ledger = ledger_with(rules=[HASTY])
    approval = asked_by(ledger)
    assert ledger.approve(approval.id, by=OPS)
    assert ledger.approve(approval.id, by="somebody else")
    assert not ledger.deny(approval.id, by="somebody else")
    assert ledger.approvals(state="approved")[0].by == OPS
    assert not ledger.approve(str(uuid.uuid4()), by=OPS)


@pytest.mark.parametrize(
    ("approval_id", "by", "words"), [("5f0c", OPS, "not an approval's id"), (str(uuid.UUID(int=7)), " ", "by is who")]
)
def test_an_answer_without_an_id_or_a_name_is_refused(ledger: Ledger, approval_id: str, by: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ledger.approve(approval_id, by=by)


# --- when


def test_over_an_amount_a_person_is_asked_and_where_nobody_can_tell_how_much(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", approval=over(Money(100, "EUR")), wait_timeout_s=0)])
    assert ledger.run(costing("100"), lambda: "paid") == "paid"
    for call in (costing("100.01"), costing(None), costing("1", "USD")):
        asked_by(ledger, call)
    ledger.apply(Config(rates=[Rate("USD", "EUR", "0.90", "2026-01-01")]))
    assert ledger.run(costing("2", "USD"), lambda: "paid") == "paid"
    asked_by(ledger, costing("200", "USD"))


def test_a_function_of_the_arguments_says_when(ledger_with) -> None:
    rule = Rule("refund", approval=lambda arguments: arguments["amount"] == "dear", wait_timeout_s=0)
    ledger = ledger_with(rules=[rule])
    assert ledger.run(costing(None), lambda: "paid") == "paid"
    asked_by(ledger, ToolCall("refund", {"amount": "dear"}, workflow_id="w"))
    with pytest.raises(Undescribable, match="whether 'refund' needs an approval cannot be said: KeyError"):
        ledger.run(ToolCall("refund", {}, workflow_id="w"), never)


@pytest.mark.parametrize(
    ("text", "amounts"),
    [
        ("true", ("0.01", None)),
        ('"over 100.00 EUR"', ("100.01", "100")),
        ('"consent_for_approvals:needed"', ("7", "8")),
    ],
)
def test_a_file_says_when_in_three_ways(dsn, tmp_path: Path, monkeypatch, text, amounts) -> None:
    asks, passes = amounts
    (tmp_path / "consent_for_approvals.py").write_text("def needed(arguments): return arguments['amount'] == '7'\n")
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "any.toml").write_text(
        f'dsn = "{dsn}"\n[[rules]]\nmatch = "refund"\napproval = {text}\nwait_timeout_s = 0\n'
    )
    with Ledger(config=Config.from_file(tmp_path / "any.toml")) as ledger:
        asked_by(ledger, costing(asks))
        assert passes is None or ledger.run(costing(passes), lambda: "paid") == "paid"


def test_the_ledger_asks_also_for_programs_whose_own_file_does_not(ledger_with, ledger: Ledger) -> None:
    ledger.apply(Config(rules=[Rule("refund", approval=True)]), by=OPS)
    program = ledger_with(rules=[Rule("refund", wait_timeout_s=0, approval=lambda _: False)])
    assert asked_by(program).rule == "refund"


# --- the hook


def hook_into(seen: list[Approval], *, coroutine: bool) -> Callable[[Approval], Any]:
    async def later(approval: Approval) -> None:
        await asyncio.sleep(0)
        seen.append(approval)

    return later if coroutine else seen.append


def test_the_hook_is_told_once_what_is_asked(ledger_with) -> None:
    seen: list[Approval] = []
    ledger = ledger_with(rules=[HASTY], on_approval_needed=hook_into(seen, coroutine=False))
    approval = asked_by(ledger)
    asked_by(ledger)
    ledger.begin(REFUND)

    assert [one.id for one in seen] == [approval.id]
    told = seen[0]
    assert (told.arguments, told.workflow_id, told.actor, told.tenant) == (
        *({"order_id": "o-1"}, "w", "u_42", "default"),
    )
    assert abs((told.expires_at - approval.expires_at).total_seconds()) < 1


@pytest.mark.parametrize("coroutine", [False, True], ids=["plain function", "coroutine function"])
def test_the_hook_of_a_task_may_be_either(dsn: str, coroutine: bool) -> None:
    seen: list[Approval] = []
    config = Config(dsn=dsn, rules=[HASTY], on_approval_needed=hook_into(seen, coroutine=coroutine))

    async def main() -> None:
        async with AsyncLedger(config=config) as ledger:
            for _ in range(2):
                with pytest.raises(ApprovalPending):
                    await ledger.run(REFUND, never)

    asyncio.run(main())
    assert len(seen) == 1


def failing(approval: Approval) -> None:
    raise RuntimeError("the chat is down")


async def needs_a_loop(approval: Approval) -> None:
    """Cannot be awaited by a thread."""


@pytest.mark.parametrize("hook", [failing, needs_a_loop])
def test_a_hook_that_fails_is_logged_and_the_request_stands(ledger_with, caplog, hook) -> None:
    ledger = ledger_with(rules=[HASTY], on_approval_needed=hook)
    approval = asked_by(ledger)

    (logged,) = [record for record in caplog.records if "on_approval_needed failed" in record.message]
    assert logged.levelno == logging.ERROR
    if inspect.iscoroutinefunction(hook):
        assert "hook that is a coroutine function needs an asynchronous caller" in str(logged.exc_info[1])
    assert ledger.approve(approval.id, by=OPS)
    assert ledger.run(REFUND, lambda: "paid") == "paid"


def test_of_many_threads_that_ask_at_once_one_tells_people(ledger_with) -> None:
    seen: list[Approval] = []
    ledger = ledger_with(rules=[HASTY], on_approval_needed=seen.append)
    barrier = threading.Barrier(8)

    def ask(_: int) -> None:
        barrier.wait(TIMEOUT_S)
        with suppress(ApprovalPending):
            ledger.run(REFUND, never)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(8)))
    assert len(seen) == 1


# --- roles


def test_an_approvers_role_may_approve_and_deny_and_nothing_else(dsn: str, role_dsn, ledger_with) -> None:
    ledger = ledger_with(rules=[HASTY])
    role = str(psycopg.conninfo.conninfo_to_dict(role_dsn(dsn))["user"])
    ledger.bind_role(role, kind="approver", tenant="default", by="owner")
    try:
        with Ledger(config=Config(dsn=role_dsn(dsn))) as approver:
            first, second = asked_by(ledger), asked_by(ledger, ToolCall("refund", {}, workflow_id="other"))
            assert [one.id for one in approver.approvals()] == [first.id, second.id]
            assert approver.approve(first.id, by=OPS)
            assert approver.deny(second.id, by=OPS)
            for forbidden in (
                lambda: approver.run(ToolCall("mail", workflow_id="w"), never),
                lambda: approver.resolve(first.key, by=OPS, outcome="retry"),
                lambda: approver.cancel(first.key, by=OPS),
                lambda: approver.apply(Config(rules=[HASTY])),
                lambda: approver.bind_role(role, kind="agent", tenant="default", by=OPS),
            ):
                with pytest.raises(ConfigError, match="the database role may not do this"):
                    forbidden()
        with psycopg.connect(dsn) as connection:
            (by_role,) = connection.execute(
                "select by_role from spanledger_v1.approvals where id = %s", (first.id,)
            ).fetchone()
        assert by_role == role
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("drop owned by {}").format(psycopg.sql.Identifier(role)))


def test_an_agents_role_cannot_allow_what_it_asks_for(dsn: str, role_dsn, ledger: Ledger) -> None:
    role = str(psycopg.conninfo.conninfo_to_dict(role_dsn(dsn))["user"])
    ledger.bind_role(role, kind="agent", tenant="default", by="owner")
    ledger.apply(Config(rules=[Rule("refund", approval=True)]), by=OPS)
    try:
        with Ledger(config=Config(dsn=role_dsn(dsn), rules=[Rule("refund", wait_timeout_s=0)])) as agent:
            approval = asked_by(agent)
            for decide in (agent.approve, agent.deny):
                with pytest.raises(ConfigError, match="the database role may not do this"):
                    decide(approval.id, by=OPS)
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("drop owned by {}").format(psycopg.sql.Identifier(role)))
