"""Pruning: what is over and old goes, and nothing whose absence would let anything happen twice."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
import uuid

import psycopg
import pytest
from tests.aging import age, contents

import spanledger
from spanledger import (
    AsyncLedger,
    Budget,
    Calls,
    Config,
    Delegation,
    Grant,
    Ledger,
    Money,
    Rule,
    ToolCall,
    session,
    workflow,
)
from spanledger.core.asking import Ask
from spanledger.errors import (
    ApprovalDenied,
    ApprovalPending,
    BudgetExceeded,
    CallCancelled,
    CallFailed,
    ConfigError,
    OutcomeUnknown,
    ResultNotKept,
)
from spanledger.evals import Case, Suite, run

CANARY = "canary-5b21e0"
DAY_S = 86400.0
KEYS = ("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",)


def call(order: str = "o-1", *, tool: str = "refund", workflow_id: str = "w", **fields) -> ToolCall:
    return ToolCall(tool, {"order_id": order, "note": CANARY}, workflow_id=workflow_id, actor="u_42", **fields)


def fail(error: Exception) -> None:
    raise error


def never() -> None:
    pytest.fail("ran")


def prune(ledger: Ledger, **fields) -> dict[str, int]:
    """Prune what is older than 90 days; the counts that are not 0."""
    pruned = ledger.prune(**{"by": "ops", "older_than_s": 90 * DAY_S} | fields)
    return {kind: count for kind, count in pruned.counts.items() if count}


def left_in(sql: psycopg.Connection) -> set[str]:
    return {table for table, rows in contents(sql).items() if any(CANARY in row for row in rows)}


@pytest.fixture
def rules() -> list[Rule]:
    return [Rule("pay", approval=True, wait_timeout_s=0), Rule("fail", on_failure="replay")]


@pytest.fixture
def filled(ledger_with, rules) -> Ledger:
    """A ledger in which a call has come to every end that there is, with content wherever content can be."""
    ledger = ledger_with(rules=rules, tenant="acme")
    ledger.run(call(), lambda: {"said": CANARY})
    for tool in ("fail", "again", "again"):
        with pytest.raises(ValueError, match=CANARY):
            ledger.run(call(tool=tool), lambda: fail(ValueError(CANARY)))
    with pytest.raises(ApprovalPending):
        ledger.run(call(tool="pay"), never)
    ledger.deny(ledger.approvals()[0].id, by="ops", reason=CANARY)
    begun = ledger.begin(call(tool="cancelled"))
    ledger.fail(begun, TimeoutError(CANARY))
    ledger.cancel(begun.key, by="ops", reason=CANARY)
    return ledger


# --- what goes, and what stays of it


def test_what_was_said_is_gone_and_every_end_is_still_the_end(filled, sql):
    states = {row["key"]: row["state"] for row in filled.calls()}
    age(sql)

    assert prune(filled) == {"calls": 5, "history": 3, "approvals": 1}

    assert left_in(sql) == set()
    assert {row["key"]: row["state"] for row in filled.calls()} == states
    assert {row["pruned_at"] is not None for row in filled.calls()} == {True}
    with pytest.raises(ResultNotKept, match=r"'refund' succeeded before and its result was pruned on \d{4}-\d\d-\d\d"):
        filled.run(call(), never)
    with pytest.raises(CallFailed) as failed:
        filled.run(call(tool="fail"), never)
    assert failed.value.error == {"type": "builtins.ValueError"}
    with pytest.raises(ApprovalDenied) as denied:
        filled.run(call(tool="pay"), never)
    assert (denied.value.approver, denied.value.reason) == ("ops", None)
    with pytest.raises(CallCancelled):
        filled.run(call(tool="cancelled"), never)


def test_what_is_not_that_old_stays_as_it_is(filled, sql):
    age(sql, 80)
    before = contents(sql)

    assert prune(filled) == {}

    before.pop("pruning")
    assert {name: rows for name, rows in contents(sql).items() if name != "pruning"} == before


def test_what_is_not_over_is_never_touched_however_old_it_is(ledger_with, rules, sql):
    approved = [Rule("pay", approval=True, wait_timeout_s=0, approval_timeout_s=300 * DAY_S)]
    ledger = ledger_with(rules=approved, budgets=[Budget("all", Money("100", "EUR"), window="day")])
    running = ledger.begin(call("running", cost=Money("2", "EUR")))
    with pytest.raises(TimeoutError):
        ledger.run(call("unknown"), lambda: fail(TimeoutError(CANARY)))
    with pytest.raises(TimeoutError):  # and one that was unknown before: its past is kept as well
        ledger.run(call("reopened"), lambda: fail(TimeoutError(CANARY)))
    ledger.resolve(ledger.key(call("reopened")), by="ops", outcome="retry", reason=CANARY)
    for order in ("pending", "approved"):
        with pytest.raises(ApprovalPending):
            ledger.run(call(order, tool="pay"), never)
    ledger.approve(ledger.approvals()[1].id, by="ops", note=CANARY)
    age(sql)
    before = contents(sql)

    assert prune(ledger, forget_keys=True) == {}

    after = contents(sql)
    assert {name: after[name] for name in ("call", "history", "approval", "account")} == {
        name: before[name] for name in ("call", "history", "approval", "account")
    }
    assert ledger.settle(running, "done")
    with pytest.raises(OutcomeUnknown):
        ledger.run(call("unknown"), never)
    assert ledger.run(call("approved", tool="pay"), lambda: "paid") == "paid"


def test_who_was_asked_and_never_answered_is_not_asked_any_more(ledger_with, rules, sql):
    ledger = ledger_with(rules=rules)
    with pytest.raises(ApprovalPending):
        ledger.run(call(tool="pay"), never)
    age(sql)

    assert prune(ledger, dry_run=True) == {"calls": 1, "approvals": 1}
    assert prune(ledger) == {"calls": 1, "approvals": 1, "history": 1}

    assert left_in(sql) == set()
    with pytest.raises(ApprovalDenied) as expired:
        ledger.run(call(tool="pay"), never)
    assert expired.value.approver is None


def test_what_no_other_call_can_have_the_key_of_goes_with_its_key(ledger_with, sql):
    ledger = ledger_with(
        rules=[Rule("look", identity="none")], budgets=[Budget("few", Calls(1), match="mail", window="day")]
    )
    ledger.run(call(tool="look"), lambda: CANARY)
    ledger.run(call("o-1", tool="mail"), lambda: CANARY)
    with pytest.raises(BudgetExceeded):
        ledger.run(call("o-2", tool="mail"), never)
    given_back = ledger.begin(call("o-3", tool="released"))
    ledger._driver.query(Ask("fail", "default", {
        "key": given_back.key, "attempt_id": given_back.attempt_id, "not_invoked": True}))  # fmt: skip
    age(sql)

    assert prune(ledger) == {"calls": 1, "keys": 3, "windows": 1}

    (row,) = ledger.calls()
    assert (row["tool"], row["state"]) == ("mail", "succeeded")
    # It was refused for want of money, and was not run: nothing is in its way now.
    assert ledger.run(call("o-2", tool="mail"), lambda: "sent") == "sent"


def test_attempts_are_counted_on(ledger_with, sql):
    ledger = ledger_with(rules=[Rule("refund", attempts_max=2)])
    for _ in range(2):
        with pytest.raises(ValueError, match=CANARY):
            ledger.run(call(), lambda: fail(ValueError(CANARY)))
    age(sql)
    prune(ledger)

    with pytest.raises(CallFailed) as failed:
        ledger.run(call(), never)
    assert failed.value.attempts == 2


def test_a_key_that_was_forgotten_runs_again(filled, sql):
    age(sql)
    prune(filled)

    assert prune(filled, forget_keys=True) == {"keys": 5}

    assert filled.calls() == []
    assert filled.run(call(), lambda: "again") == "again"


def test_a_key_that_was_pruned_may_live_again_and_be_pruned_again(ledger_with, sql):
    ledger = ledger_with(rules=[Rule("refund", replay_for_s=DAY_S)])
    ledger.run(call(), lambda: CANARY)
    age(sql)
    prune(ledger)

    assert ledger.run(call(), lambda: CANARY) == CANARY
    assert ledger.run(call(), never) == CANARY
    (row,) = ledger.calls()
    assert (row["pruned_at"], row["attempt"], row["actor"]) == (None, 2, "u_42")
    age(sql)
    assert prune(ledger) == {"calls": 1, "history": 1}
    assert left_in(sql) == set()


def test_a_workers_late_outcome_still_counts_where_the_call_has_not_run_since(ledger_with, sql):
    ledger = ledger_with(budgets=[Budget("all", Money("100", "EUR"))])
    begun = ledger.begin(call(cost=Money("7", "EUR")))
    ledger.fail(begun, ValueError(CANARY))
    age(sql)
    prune(ledger)

    assert ledger.settle(begun, "done")

    assert ledger.run(call(cost=Money("7", "EUR")), never) == "done"
    assert ledger.budget("all").spent == Money("7", "EUR")
    assert prune(ledger) == {}  # it ended just now


def test_what_was_erased_is_not_brought_back_by_who_comes_late(ledger_with, sql):
    ledger = ledger_with()
    begun = ledger.begin(call())
    ledger.fail(begun, ValueError(CANARY))
    ledger.erase(by="dpo", actor="u_42")
    age(sql)
    prune(ledger)

    assert ledger.settle(begun, CANARY)

    assert left_in(sql) == set()


def test_other_tenants_keep_what_is_theirs(ledger_with, sql):
    mine, theirs = ledger_with(tenant="mine"), ledger_with(tenant="theirs")
    for ledger in (mine, theirs):
        ledger.run(call(), lambda: CANARY)
    age(sql)

    assert prune(mine) == {"calls": 1}

    assert theirs.run(call(), never) == CANARY
    assert theirs.prunings() == []
    assert prune(mine, tenant="theirs") == {"calls": 1}


# --- budgets


def spent(ledger: Ledger) -> dict[tuple[str, ...], tuple[object, ...]]:
    return {
        (b.name, *sorted(b.scope.values())): (b.limit, b.spent, b.held, b.remaining, b.window_start)
        for b in ledger.budgets()
    }


def test_budgets_stand_exactly_as_before(ledger_with, sql):
    budgets = [
        Budget("ever", Money("1000", "EUR")),
        Budget("each", Money("1000", "EUR"), per=("workflow",)),
        *(Budget(name, Money("1000", "EUR"), window=name) for name in ("hour", "day", "month")),
        Budget("long", Money("1000", "EUR"), window=200 * DAY_S),
        Budget("short", Money("1000", "EUR"), window=7 * DAY_S),
    ]
    ledger = ledger_with(budgets=budgets)
    ledger.top_up("ever", Money("5", "EUR"), by="ops")
    for order, days in (("o-1", 150), ("o-2", 130), ("o-3", 1)):
        ledger.run(call(order, workflow_id=order, cost=Money("2", "EUR")), lambda: None)
        begun = ledger.begin(call(f"{order}-lost", workflow_id=order, cost=Money("3", "EUR")))
        ledger.fail(begun, TimeoutError("lost"))  # unknown: what it holds, it holds
        sql.execute("update spanledger.account set window_start = window_start - make_interval(days => %s) "
            "where window_start > '-infinity'", (days,))  # fmt: skip
        age(sql, days, "call", "history")
    ledger.run(call("now", cost=Money("2", "EUR")), lambda: None)
    before, held = spent(ledger), sql.execute("select sum(held) from spanledger.account").fetchone()

    pruned = prune(ledger)

    # What the unknown hold keeps its window; nothing was closed that held nothing.
    assert "windows" not in pruned
    assert pruned["calls"] == 2
    assert spent(ledger) == before
    assert sql.execute("select sum(held) from spanledger.account").fetchone() == held

    for row in ledger.calls(state="unknown"):
        ledger.resolve(row["key"], by="ops", outcome="failed")
    before = spent(ledger)
    counted = prune(ledger, dry_run=True)["windows"]
    # Of all but the longest, those of 281 and 131 days ago are closed.
    assert counted == prune(ledger)["windows"] == 8
    assert spent(ledger) == before
    assert ledger.budget("long").spent == Money("6", "EUR")  # 131 days ago and 1 day ago count, and now
    assert ledger.budget("ever").spent == Money("8", "EUR")
    assert sql.execute("select sum(held) from spanledger.account").fetchone() == (0,)


def test_a_window_counts_until_its_last_day_is_as_old_as_that(ledger_with, sql):
    ledger = ledger_with(budgets=[Budget("month", Money("9", "EUR"), window="month")])
    ledger.run(call(cost=Money("2", "EUR")), lambda: None)
    sql.execute("update spanledger.account set window_start = date_trunc('month', now() at time zone 'UTC' "
        "- interval '90 days') at time zone 'UTC'")  # fmt: skip
    assert prune(ledger, dry_run=True) == {}  # the month has ended later than 90 days ago

    sql.execute("update spanledger.account set window_start = date_trunc('month', now() at time zone 'UTC' "
        "- interval '125 days') at time zone 'UTC'")  # fmt: skip
    assert prune(ledger, dry_run=True) == {"windows": 1}


# --- beside calls


def test_what_was_said_of_controls_stays_and_what_was_asked_of_no_call_goes(ledger_with, sql):
    ledger = ledger_with(budgets=[Budget("all", Money("1", "EUR"))])
    ledger.apply(Config(budgets=[Budget("all", Money("2", "EUR"))]), by="ops")
    ledger.authorize("payments:refund")
    age(sql)

    assert prune(ledger) == {"history": 1}

    assert sql.execute("select distinct event from spanledger.history").fetchall() == [("budget_changed",)]


def test_a_consent_stays_as_long_as_its_call_goes_by_it(ledger_with, sql):
    ledger = ledger_with(rules=[Rule("pay", approval=True, approval_covers_retries=True, wait_timeout_s=0)])
    with pytest.raises(ApprovalPending):
        ledger.run(call(tool="pay"), never)
    ledger.approve(ledger.approvals()[0].id, by="ops")
    with pytest.raises(ValueError, match=CANARY):
        ledger.run(call(tool="pay"), lambda: fail(ValueError(CANARY)))
    age(sql, 100, "approval")
    assert prune(ledger) == {}
    age(sql, 100, "call", "history")
    assert prune(ledger) == {"calls": 1, "approvals": 1, "history": 2}

    with pytest.raises(ApprovalPending):  # nobody remembers that it was allowed
        ledger.run(call(tool="pay"), never)


def test_delegations_go_with_their_pools_when_nothing_under_them_is_open(ledger_with, sql):
    ledger = ledger_with(tenant="acme", delegation_keys=KEYS, agent="support")
    ledger.grant(Grant("payments:*", agent="support"), by="ops")
    token = ledger.delegations.give(Delegation("billing", "payments:refund", max_amount=Money("50", "EUR")))
    spare = ledger.delegations.give(Delegation("spare", "payments:refund", max_amount=Money("5", "EUR")))
    below = ledger.delegations.give(Delegation("refunds", "payments:refund"), under=token)
    assert spare != below
    begun = ledger.begin(ToolCall("pay", {}, workflow_id="w", agent="billing", delegation=token,
        cost=Money("7", "EUR"), key="k"))  # fmt: skip
    ledger.fail(begun, TimeoutError("lost"))
    age(sql)

    assert prune(ledger)["delegations"] == 2
    (kept,) = ledger.delegations.all()
    assert (kept["to_agent"], kept["held_steps"]) == ("billing", 7_000_000)

    ledger.resolve(begun.key, by="ops", outcome="succeeded")
    assert prune(ledger)["delegations"] == 1
    assert sql.execute("select count(*) from spanledger.account").fetchone() == (0,)
    assert ledger.begin(ToolCall("pay", {}, workflow_id="w", agent="billing", delegation=token)).reason


# --- the trail, sessions and evaluations have ages of their own


@pytest.fixture
def told(dsn, ledger_with) -> Ledger:
    """A ledger with a workflow, a session, an evaluation and a call."""
    spanledger.instrument(Config(dsn=dsn), libraries=[])
    with workflow("order-1", goal=CANARY) as trace, session("chat-1") as chat, chat.turn("m-1"):
        trace.step(CANARY)
    spanledger.uninstrument()
    ledger = ledger_with(retention={"calls": "90d", "trail": "30d", "evaluations": "52w"})
    ledger.run(call(workflow_id="order-1"), lambda: CANARY)
    run(Suite("sums", [Case("one", CANARY)], [lambda output, _: bool(output)]), lambda said: said, ledger=ledger)
    return ledger


def test_each_part_is_kept_as_long_as_the_configuration_says(told, sql):
    assert prune(told, older_than_s=None) == {}
    age(sql, 40)
    gone = prune(told, older_than_s=None)
    assert gone.keys() == {"trail", "sessions"}
    assert told.sessions() == []
    assert left_in(sql) == {"call", "eval_result"}
    age(sql, 60)
    assert prune(told, older_than_s=None) == {"calls": 1}
    assert left_in(sql) == {"eval_result"}
    age(sql, 300)
    assert prune(told, older_than_s=None) == {"evaluations": 1}
    assert left_in(sql) == set()
    assert [(row["part"], row["by_name"]) for row in told.prunings()] == [
        ("calls", "ops"),
        ("evaluations", "ops"),
        ("trail", "ops"),
    ]


def test_a_session_that_is_open_keeps_all_of_its_past(told, sql):
    age(sql)
    sql.execute("update spanledger.run set ended_at = null, alive_until = now() + interval '1 minute' "
        "where kind = 'session'")  # fmt: skip

    assert "sessions" not in prune(told)

    assert [row["session_id"] for row in told.sessions()] == ["chat-1"]
    assert len(told.turns("chat-1")) == 1


# --- how it is asked for


def test_a_dry_run_writes_nothing_and_counts_what_would_go(filled, told, sql):
    age(sql, 400)
    before = contents(sql)

    for ledger, forget_keys in ((filled, False), (told, False), (filled, True)):
        counted = prune(ledger, dry_run=True, forget_keys=forget_keys)
        assert counted
        assert contents(sql) == before
        assert prune(ledger, forget_keys=forget_keys) == counted
        before = contents(sql)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"older_than_s": 3599}, "at least an hour"),
        ({"older_than_s": None}, "say how old what goes is"),
        ({"older_than_s": float("inf")}, "an age like '90d'"),
        ({"older_than_s": True}, "an age like '90d'"),
        ({"by": " "}, "needs a name"),
    ],
)
def test_what_is_pruned_has_to_be_said(ledger, fields, complaint):
    with pytest.raises(ConfigError, match=complaint):
        ledger.prune(**{"by": "ops", "older_than_s": 90 * DAY_S} | fields)


def test_the_ledger_itself_takes_no_younger_age_and_no_other_part(sql):
    for what in ({"calls": 3599}, {"calls": 1e6, "budgets": 1e6}, {"dry_run": True}, {}):
        with pytest.raises(psycopg.Error, match=r"at least an hour|calls, trail or evaluations"):
            sql.execute("select spanledger_v1.prune('default', %s, 'ops')", (psycopg.types.json.Jsonb(what),))


def test_keys_are_not_forgotten_where_nothing_says_how_long_calls_are_kept(ledger_with):
    with pytest.raises(ConfigError, match="keys are forgotten with their calls"):
        ledger_with(retention={"trail": "30d"}).prune(by="ops", forget_keys=True)


def test_it_is_awaited_likewise(ledger, dsn, sql):
    ledger.run(call(), lambda: CANARY)
    age(sql)

    async def main() -> tuple[dict[str, int], list[dict]]:
        async with AsyncLedger(config=Config(dsn=dsn)) as awaited:
            pruned = await awaited.prune(by="ops", older_than_s=90 * DAY_S)
            return dict(pruned.counts), await awaited.prunings()

    counts, prunings = asyncio.run(main())
    assert counts["calls"] == 1
    assert {row["part"] for row in prunings} == {"calls", "trail", "evaluations"}
    before = dt.datetime.fromisoformat(prunings[0]["before"]).timestamp()
    assert time.time() - before == pytest.approx(90 * DAY_S, abs=3600)


# --- in batches


def insert(sql: psycopg.Connection, count: int) -> None:
    """Put calls there that have succeeded, a hundred days ago."""
    sql.execute(
        """
        insert into spanledger.call (tenant, key, state, attempt, attempts, attempt_id, tool, operation, workflow_id,
            key_source, arguments, result, result_kept, created_at, started_at, ended_at)
        select 'default', sha256(convert_to(n::text, 'UTF8')), 'succeeded', 1, 1, gen_random_uuid(), 'refund',
            'execute_tool', 'w', 'arguments', '{}', '1', true, at, at, at
        from generate_series(1, %s) n cross join lateral (select now() - interval '100 days' as at) t
        """,
        (count,),
    )


def test_each_batch_is_bounded_and_the_next_goes_on_where_it_stopped(ledger, sql):
    insert(sql, 25)
    asked = "select spanledger_v1.prune('default', '{\"calls\": 7776000}', 'ops', 10)"

    answers = [sql.execute(asked).fetchone()[0] for _ in range(4)]

    assert [(answer["counts"]["calls"], answer["more"]) for answer in answers] == [
        (10, True), (10, True), (5, False), (0, False)]  # fmt: skip


def test_what_somebody_has_locked_is_left_for_the_next_time(ledger, sql, dsn):
    insert(sql, 3)
    with psycopg.connect(dsn) as other:
        (key,) = other.execute("select key from spanledger.call order by key limit 1 for update").fetchone()
        assert prune(ledger) == {"calls": 2}
        (row,) = ledger.calls(key=key.hex())
        assert row["pruned_at"] is None
    assert prune(ledger) == {"calls": 1}


def test_it_finds_what_is_old_without_reading_what_is_not(ledger, sql):
    ledger.run(call(), lambda: None)
    # Of one row the planner would sort; with those forbidden, what it cannot do without still shows.
    sql.execute("set enable_seqscan = off; set enable_sort = off; set enable_bitmapscan = off")
    plan = "\n".join(row for (row,) in sql.execute(
        "explain select c.key from spanledger.over_calls c where c.tenant = 'default' and not c.pruned "
        "and c.over_at < now() - interval '90 days' order by c.over_at limit 500 for update skip locked"))  # fmt: skip

    assert "Index Scan using call_over" in plan
    assert "Sort" not in plan


def test_an_operators_key_of_a_pruned_call_is_still_that_calls(ledger, sql):
    begun = ledger.begin(call())
    ledger.settle(begun, CANARY)
    age(sql)
    prune(ledger)

    assert ledger.settle(begun, CANARY)  # told again, because the answer was lost
    assert left_in(sql) == set()
    assert not ledger.cancel(begun.key, by="ops")
    assert str(uuid.UUID(begun.attempt_id)) == ledger.calls()[0]["attempt_id"]
