"""What ran before the calls that are tried out: it is not judged, and budgets count it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import functools
import json
import uuid
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_replay import (
    BUDGETS,
    CONTROLS,
    MADE,
    PERMISSIVE,
    RULES,
    TOOLS,
    call,
    judged_by,
    made_for_real,
    outcomes,
    price,
)

from spanledger import Budget, Calls, Config, Grant, Ledger, Money, Rate, Rule, Tokens, ToolCall
from spanledger.core.replaying import Carried
from spanledger.errors import ApprovalDenied
from spanledger.ledger._replay import replayed

PRICED = [Rule("*", identity="none", reserve=price)]
DAY = dt.datetime(2026, 3, 1, tzinfo=dt.UTC)


def hours(*offsets: float) -> list[dt.datetime]:
    return [DAY + dt.timedelta(hours=offset) for offset in offsets]


def moved(sql, times: list[dt.datetime], tenant: str = "default") -> None:
    """Let the calls of a tenant have been made at these times, in their order, a second each."""
    keys = sql.execute("select key from spanledger.call where tenant = %s order by started_at", (tenant,)).fetchall()
    for (key,), at in zip(keys, times, strict=True):
        sql.execute(
            "update spanledger.call set started_at = %s, ended_at = %s where tenant = %s and key = %s",
            (at, at + dt.timedelta(seconds=1), tenant, key),
        )


def spend(ledger: Ledger, *amounts: int, **fields: Any) -> None:
    for amount in amounts:
        ledger.run(call("refund", amount=amount, **fields), lambda: "paid")


def verdicts(ledger: Ledger, since: dt.datetime, *budgets: Budget, **fields: Any) -> list[str | None]:
    said = judged_by(ledger, since=since, **{"rules": PRICED, "budgets": budgets} | fields)
    return [one.verdict for one in said]


def carried(ledger: Ledger, since: dt.datetime, **fields: Any) -> Carried:
    told: list[Carried] = []
    config = Config(tenant=ledger.config.tenant, **{"rules": PRICED} | fields)
    list(replayed(ledger._database, config, since, alone=True, tell=told.append))
    return told[0]


# --- the same as for real


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(MADE, min_size=2, max_size=8),
    before=st.integers(1, 7),
    budgets=BUDGETS,
    rates=st.sampled_from([(), (Rate("EUR", "USD", "1.1", "2026-01-01"),)]),
)
def test_budgets_hold_what_the_ledger_holds_if_they_were_there_all_along_and_refused_nothing(
    shared_dsn, made, before, budgets, rates
):
    generous = [dataclasses.replace(b, limit=Calls(99) if b.limit.unit == "calls" else Money(9999, b.limit.unit))
                for b in budgets]  # fmt: skip
    before = min(before, len(made) - 1)
    with contextlib.ExitStack() as stack:

        def opened(**fields: Any) -> Ledger:
            return stack.enter_context(
                Ledger(config=Config(dsn=shared_dsn, tenant=uuid.uuid4().hex, rules=PRICED, **fields))
            )

        # What cannot be converted is refused whatever the limit is.
        rates = (Rate("EUR", "USD", "1.1", "2026-01-01"),) if any(b.limit.unit == "USD" for b in budgets) else rates
        past, real = opened(rates=rates), opened(budgets=generous, rates=rates)
        starts: list[dt.datetime] = []

        def then(n: int) -> None:
            if n == before:
                real.apply(Config(tenant=real.config.tenant, budgets=budgets))

        assert set(made_for_real(past, made, each=lambda n: starts.append(dt.datetime.now(dt.UTC)))) == {"run"}
        expected = made_for_real(real, made, each=then)

        said = judged_by(past, since=starts[before], rules=PRICED, budgets=budgets, rates=rates)

    by_attempt = {one.recorded.started_at: one.verdict for one in said}
    assert [by_attempt[moment] for moment in sorted(by_attempt)] == expected[before:]


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(MADE, min_size=2, max_size=8),
    since=st.integers(1, 7),
    rules=st.tuples(RULES, RULES, RULES),
    controls=CONTROLS,
)
def test_the_configuration_that_was_in_force_changes_nothing_wherever_one_begins(
    shared_dsn, made, since, rules, controls
):
    fields = {
        "rules": [Rule(tool, wait_timeout_s=0, **one) for tool, one in zip(TOOLS, rules, strict=True)],
        **controls,
    }
    with Ledger(config=Config(dsn=shared_dsn, tenant=uuid.uuid4().hex, **fields)) as ledger:
        starts: list[dt.datetime] = []
        made_for_real(ledger, made, each=lambda n: starts.append(dt.datetime.now(dt.UTC)))

        said = judged_by(ledger, since=starts[min(since, len(made) - 1)], **fields)

    assert [(one.recorded.tool, one.recorded.state, one.verdict) for one in said if one.outcome != "same"] == []


# --- windows


def test_what_was_spent_on_the_same_day_leaves_less_of_a_budget_for_a_day(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE)
    spend(ledger, 8, 3, 2)
    moved(sql, hours(9, 15, 16))
    budget = Budget("day", Money(10, "EUR"), window="day")

    said = judged_by(ledger, since=DAY + dt.timedelta(hours=12), rules=PRICED, budgets=[budget])

    assert [one.verdict for one in said] == ["budget_exceeded", "run"]
    assert said[0].reason == "budget day has 2.00 EUR left of 10.00 EUR"
    assert carried(ledger, DAY + dt.timedelta(hours=12), budgets=[budget]) == Carried(DAY, 1)


def test_what_was_spent_the_day_before_does_not_count_where_the_budget_is_for_a_day(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE)
    spend(ledger, 8, 3)
    moved(sql, hours(23, 25))
    day, month = Budget("b", Money(10, "EUR"), window="day"), Budget("b", Money(10, "EUR"), window="month")

    assert verdicts(ledger, DAY + dt.timedelta(hours=24.5), day) == ["run"]
    assert verdicts(ledger, DAY + dt.timedelta(hours=24.5), month) == ["budget_exceeded"]
    # 23:00 UTC is one in the morning there, and so is what follows on the same day.
    athens = Budget("b", Money(10, "EUR"), window="day", timezone="Europe/Athens")
    assert verdicts(ledger, DAY + dt.timedelta(hours=24.5), athens) == ["budget_exceeded"]
    assert carried(ledger, DAY + dt.timedelta(hours=24.5), budgets=[day]).attempts == 0


def test_a_rolling_window_forgets_what_is_older_than_it(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE)
    spend(ledger, 8, 3, 3)
    moved(sql, hours(1, 1.9, 2.5))
    rolling = Budget("b", Money(10, "EUR"), window=3600)

    assert verdicts(ledger, DAY + dt.timedelta(hours=1.5), rolling) == ["budget_exceeded", "run"]
    assert verdicts(ledger, DAY + dt.timedelta(hours=1.5), Budget("b", Money(10, "EUR"), window=7200)) == [
        "budget_exceeded",
        "budget_exceeded",
    ]


def test_a_budget_that_never_starts_anew_counts_all_that_is_recorded(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE)
    spend(ledger, 8, 3)
    moved(sql, hours(-20_000, 1))
    forever = Budget("b", Money(10, "EUR"))

    assert verdicts(ledger, DAY, forever) == ["budget_exceeded"]
    assert carried(ledger, DAY, budgets=[forever]) == Carried(None, 1)


def test_each_tenant_scope_and_match_counts_its_own(ledger_with, sql):
    acme, other = ledger_with(rules=PERMISSIVE, tenant="acme"), ledger_with(rules=PERMISSIVE, tenant="other")
    spend(acme, 8, actor="ada")
    spend(acme, 3, actor="bob")
    spend(acme, 3, actor="ada")
    spend(other, 3)
    for tenant, times in (("acme", hours(-1, 1, 2)), ("other", hours(1))):
        moved(sql, times, tenant)

    def of(ledger: Ledger, **fields: Any) -> list[str | None]:
        return verdicts(ledger, DAY, Budget("b", Money(10, "EUR"), **fields))

    assert of(acme) == ["budget_exceeded", "budget_exceeded"]
    assert of(acme, per=["actor"]) == ["run", "budget_exceeded"]
    assert of(acme, match="mail") == ["run", "run"]
    assert of(acme, operations=["chat"]) == ["run", "run"]
    assert of(other) == ["run"]


# --- what it cost


def test_what_budgets_took_note_of_is_believed_before_what_the_new_rule_says(ledger_with, sql):
    ledger = ledger_with(
        rules=[Rule("*", identity="none", reserve=Money(8, "EUR"))], budgets=[Budget("e", Money(99, "EUR"))]
    )
    spend(ledger, 3, 3)
    moved(sql, hours(-1, 1))
    one = [Rule("*", identity="none", reserve=Money(1, "EUR"))]

    assert verdicts(ledger, DAY, Budget("b", Money(8, "EUR")), rules=one) == ["budget_exceeded"]
    assert verdicts(ledger, DAY, Budget("b", Money(9, "EUR")), rules=one) == ["run"]


def test_what_it_turned_out_to_cost_counts_and_a_failure_costs_nothing_unless_it_says_so(ledger_with, sql):
    ledger = ledger_with(rules=PRICED)
    begun = [ledger.begin(call("refund", amount=8)) for _ in range(3)]
    ledger.settle(begun[0], "paid", cost=Money(3, "EUR"))
    ledger.fail(begun[1], ValueError())
    ledger.settle(begun[2], "paid")
    spend(ledger, 1)
    moved(sql, hours(-3, -2, -1, 1))

    assert verdicts(ledger, DAY, Budget("b", Money(12, "EUR"))) == ["run"]
    assert verdicts(ledger, DAY, Budget("b", Money("11.99", "EUR"))) == ["budget_exceeded"]
    assert verdicts(ledger, DAY, Budget("b", Calls(3))) == ["run"]
    assert verdicts(ledger, DAY, Budget("b", Calls(2))) == ["budget_exceeded"]


def test_other_currencies_count_at_the_rate_of_the_day(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE)
    spend(ledger, 4, 4, 4)
    moved(sql, hours(-48, -1, 1))
    dollars = Budget("b", Money(12, "USD"))
    rates = [Rate("EUR", "USD", "1", "2026-01-01"), Rate("EUR", "USD", "2", "2026-02-28")]

    assert verdicts(ledger, DAY, dollars, rates=rates) == ["budget_exceeded"]
    assert verdicts(ledger, DAY, Budget("b", Money(20, "USD")), rates=rates) == ["run"]
    # It was 4 and 8 dollars; what cannot be converted is nobody's loss, and that is told.
    late = [Rate("EUR", "USD", "2", "2026-02-28")]
    assert carried(ledger, DAY, budgets=[dollars], rates=late) == Carried(None, 2, unpriced=1)
    assert verdicts(ledger, DAY, Budget("b", Money(16, "USD")), rates=late) == ["run"]


def test_a_rate_of_the_file_holds_for_calls_that_are_older_than_its_being_applied(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE)
    spend(ledger, 4)
    moved(sql, hours(1))
    fields: dict[str, Any] = {
        "rates": [Rate("EUR", "USD", "2", "2026-01-01")],
        "budgets": [Budget("b", Money(8, "USD"))],
    }
    ledger.apply(Config(**fields))

    assert [one.verdict for one in judged_by(ledger, alone=False, rules=PRICED, **fields)] == ["run"]


def test_what_has_no_price_that_anybody_knows_is_told(ledger_with, sql):
    ledger = ledger_with(rules=[Rule("*", identity="none", redact=["amount"])])
    spend(ledger, 8, 3)
    moved(sql, hours(-1, 1))

    assert carried(ledger, DAY, budgets=[Budget("b", Money(1, "EUR"))]) == Carried(None, 1, unpriced=1)
    assert carried(ledger, DAY, budgets=[Budget("b", Calls(9))]) == Carried(None, 1)
    # It has none where none is said.
    by_field = [Rule("*", fields=["amount"])]
    assert carried(ledger, DAY, rules=by_field, budgets=[Budget("b", Money(1, "EUR"))]) == Carried(None, 0)
    assert verdicts(ledger, DAY, Budget("b", Calls(1)), rules=PERMISSIVE) == ["budget_exceeded"]


def test_tokens_count_as_they_were_used(ledger_with, sql):
    ledger = ledger_with(budgets=[Budget("t", Tokens(10_000))], rules=PERMISSIVE)
    for _ in range(2):
        begun = ledger.begin(ToolCall("think", workflow_id="w", cost=Tokens(50)))
        ledger.settle(begun, "thought", cost=Tokens(30))
    moved(sql, hours(-1, 1))

    assert verdicts(ledger, DAY, Budget("b", Tokens(79)), rules=PERMISSIVE) == ["budget_exceeded"]
    assert verdicts(ledger, DAY, Budget("b", Tokens(80)), rules=PERMISSIVE) == ["run"]


# --- what had not ended


def test_what_was_running_holds_its_amount_until_it_ended(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE)
    spend(ledger, 8, 3, 3)
    moved(sql, hours(-1, 1, 3))
    begun = ledger.begin(call("refund", amount=1))
    ledger.fail(begun, ValueError())
    sql.execute(
        "update spanledger.call set started_at = %s, ended_at = %s where state = 'failed'",
        (DAY - dt.timedelta(hours=2), DAY + dt.timedelta(hours=2)),
    )

    # 1 is held until two o'clock, and given back then.
    assert verdicts(ledger, DAY, Budget("b", Money(11, "EUR"))) == ["budget_exceeded", "run"]
    assert verdicts(ledger, DAY, Budget("b", Money(12, "EUR"))) == ["run", "budget_exceeded"]
    assert verdicts(ledger, DAY, Budget("b", Money(14, "EUR"))) == ["run", "run"]


def test_what_nobody_knows_the_outcome_of_stays_held_and_is_passed_on_to_its_next_attempt(ledger_with, sql):
    rules = [Rule("*", identity="arguments", reserve=price, on_unknown="retry")]
    ledger = ledger_with(rules=rules)
    for _ in range(2):
        ledger.fail(ledger.begin(call("refund", amount=8)), ValueError(), outcome_unknown=True)
    spend(ledger, 2)
    spend(ledger, 1)
    started = [row[0] for row in sql.execute("select started_at from spanledger_v1.recorded order by started_at")]
    assert len(started) == 4

    assert verdicts(ledger, started[2], Budget("b", Money(11, "EUR")), rules=rules) == ["run", "run"]
    assert verdicts(ledger, started[2], Budget("b", Money(10, "EUR")), rules=rules) == ["run", "budget_exceeded"]


def test_what_succeeded_late_is_spent_once(ledger_with, sql):
    rules = [Rule("*", identity="arguments", reserve=price, on_unknown="retry")]
    ledger = ledger_with(rules=rules)
    first = ledger.begin(call("refund", amount=8))
    ledger.fail(first, ValueError(), outcome_unknown=True)
    second = ledger.begin(call("refund", amount=8))
    assert ledger.settle(first, "paid") is False
    ledger.settle(second, "paid again")
    spend(ledger, 1)
    since = sql.execute("select max(started_at) from spanledger.call").fetchone()[0]

    assert verdicts(ledger, since, Budget("b", Money(17, "EUR")), rules=rules) == ["run"]
    assert verdicts(ledger, since, Budget("b", Money(16, "EUR")), rules=rules) == ["budget_exceeded"]


@pytest.mark.parametrize("how", ["after the next", "after it was ruled out", "before it was cancelled"])
def test_what_a_failure_cost_counts_whenever_that_was_told(ledger_with, sql, how):
    rules = [Rule("*", identity="arguments", reserve=price, on_unknown="retry")]
    ledger = ledger_with(rules=rules, budgets=[Budget("real", Money(100, "EUR"))])
    first = ledger.begin(call("refund", amount=8))
    told = {"key": first.key, "attempt_id": first.attempt_id, "error": {"type": "E"}, "cost": {"EUR": 5_000_000}}
    tell = functools.partial(sql.execute, "select spanledger_v1.fail('default', %s::jsonb)", (json.dumps([told]),))
    if how == "before it was cancelled":
        tell()
        ledger.cancel(first.key, by="ops", reason="enough")
    else:
        ledger.fail(first, ValueError(), outcome_unknown=True)
        if how == "after the next":
            ledger.settle(ledger.begin(call("refund", amount=8)), "paid")
        else:
            ledger.resolve(first.key, by="ops", outcome="failed")
        tell()
    spent = ledger.budget("real").spent
    assert spent == Money(13 if how == "after the next" else 5, "EUR")
    spend(ledger, 1)
    since = sql.execute("select max(started_at) from spanledger.call").fetchone()[0]

    for limit, verdict in ((spent.steps + 10**6, "run"), (spent.steps + 10**6 - 1, "budget_exceeded")):
        budget = Budget("b", Money(Decimal(limit) / 10**6, "EUR"))
        assert verdicts(ledger, since, budget, rules=rules) == [verdict]


# --- what else people did, and what was made before


def test_the_next_of_the_same_call_is_known_to_be_the_same(ledger_with, sql):
    rules = [Rule("*", identity="arguments")]
    ledger = ledger_with(rules=rules)
    spend(ledger, 8)
    since = dt.datetime.now(dt.UTC)
    ledger.fail(ledger.begin(call("mail")), ValueError())
    middle = dt.datetime.now(dt.UTC)
    spend(ledger, 5)
    ledger.fail(ledger.begin(call("mail")), ValueError())

    assert outcomes(judged_by(ledger, since=since, rules=rules)) == {"same": 3}
    once = [Rule("*", identity="arguments", attempts_max=1)]
    assert [one.verdict for one in judged_by(ledger, since=middle, rules=once)] == ["run", "failed"]


def test_attempts_before_that_provably_never_started_use_nothing_up(ledger_with, sql):
    rules = [Rule("*", identity="arguments", attempts_max=3)]
    ledger = ledger_with(rules=rules)

    def given_back() -> None:
        begun = ledger.begin(call("mail"))
        told = {"key": begun.key, "attempt_id": begun.attempt_id, "not_invoked": True}
        sql.execute("select spanledger_v1.fail('default', %s::jsonb)", (json.dumps([told]),))

    given_back()
    ledger.fail(ledger.begin(call("mail")), ValueError())
    given_back()
    since = dt.datetime.now(dt.UTC)
    ledger.fail(ledger.begin(call("mail")), ValueError())
    middle = dt.datetime.now(dt.UTC)
    ledger.fail(ledger.begin(call("mail")), ValueError())

    assert [one.verdict for one in judged_by(ledger, since=since, rules=rules)] == ["run", "run"]
    assert [one.verdict for one in judged_by(ledger, since=middle, rules=rules)] == ["run"]
    twice = [Rule("*", identity="arguments", attempts_max=2)]
    assert [one.verdict for one in judged_by(ledger, since=since, rules=twice)] == ["run", "failed"]
    assert [one.verdict for one in judged_by(ledger, since=middle, rules=twice)] == ["failed"]


@pytest.mark.parametrize("answer", ["approve", "deny"])
def test_what_a_person_was_asked_before_is_answered_when_it_was(ledger_with, answer):
    rules = [Rule("*", approval=True, wait_timeout_s=0)]
    ledger = ledger_with(rules=rules)
    since = []
    begun = ledger.begin(call("refund"))
    since.append(dt.datetime.now(dt.UTC))
    getattr(ledger, answer)(begun.approval_id, by="ops")
    since.append(dt.datetime.now(dt.UTC))
    with contextlib.suppress(ApprovalDenied):
        spend(ledger, 10)

    for moment in since:
        judged = judged_by(ledger, since=moment, rules=rules)
        # What was denied is known by its key, and not recorded as one more attempt.
        assert [(one.verdict, one.outcome) for one in judged] == ([("run", "same")] if answer == "approve" else [])


def test_whose_a_call_was_is_not_said_by_the_environment_of_whoever_tries_it_out(ledger_with):
    ledger = ledger_with(rules=PERMISSIVE)
    for conversation in ("one", "two"):
        spend(ledger, 8, workflow_id=f'["{conversation}", "turn", null]')
    budget = Budget("b", Money(10, "EUR"), per=["workflow", "agent"])

    said = judged_by(ledger, rules=PRICED, budgets=[budget], workflow_id="w", agent="operator")

    assert outcomes(said) == {"same": 2}
    narrow = [Rule("*", identity="none", permission="shop:pay")]
    granted = [Grant("shop:pay", agent="operator")]
    assert outcomes(judged_by(ledger, rules=narrow, grants=granted, agent="operator")) == {"refused": 2}


@pytest.mark.parametrize("hour", [2, 15])
def test_a_budget_that_somebody_topped_up_has_that_much_more(ledger_with, sql, hour):
    ledger = ledger_with(rules=PRICED, budgets=[Budget("b", Money(10, "EUR"), window="month", per=["actor"])])
    spend(ledger, 8, actor="ada")
    ledger.top_up("b", Money(5, "EUR"), by="ops", scope={"actor": "ada"})
    spend(ledger, 3, actor="ada")
    moved(sql, hours(1, 20))
    sql.execute("update spanledger.history set at = %s where event = 'topped_up'", hours(hour))

    noon = DAY + dt.timedelta(hours=12)

    def new(limit: int, **fields: Any) -> list[str | None]:
        return verdicts(
            ledger, noon, Budget("b", Money(limit, "EUR"), **{"window": "month", "per": ["actor"]} | fields)
        )

    assert new(10) == ["run"]
    assert new(5) == ["budget_exceeded"]
    assert new(10, per=[]) == ["budget_exceeded"]  # it is kept apart otherwise: nobody has topped that up


def test_who_interrupts_it_leaves_nothing_behind(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE)
    spend(ledger, 8, 3)
    moved(sql, hours(-1, 1))

    def interrupt(_: Carried) -> None:
        raise KeyboardInterrupt

    config = Config(rules=PRICED, budgets=[Budget("b", Money(10, "EUR"))])
    with pytest.raises(KeyboardInterrupt):
        list(replayed(ledger._database, config, DAY, tell=interrupt))

    with sql.transaction():  # as a migration does
        sql.execute("set local lock_timeout = '5s'")
        sql.execute("lock table spanledger.call, spanledger.account in access exclusive mode")
    assert sql.execute("select count(*) from pg_proc where proname = 'moment'").fetchone() == (0,)
    assert ledger.budgets() == []


def test_what_ran_before_is_read_by_an_operators_role_of_its_tenant_only(ledger_with, dsn, sql, role_dsn):
    for tenant in ("acme", "other"):
        spend(ledger_with(tenant=tenant, rules=PERMISSIVE), 8, 3)
        moved(sql, hours(-1, 1), tenant)
    role = str(psycopg.conninfo.conninfo_to_dict(role_dsn(dsn))["user"])
    ledger_with().bind_role(role, kind="operator", tenant="acme", by="owner")

    def counted(tenant: str) -> list[str | None]:
        with Ledger(config=Config(dsn=role_dsn(dsn), tenant=tenant)) as ledger:
            return verdicts(ledger, DAY, Budget("b", Money(10, "EUR")), alone=False)

    assert (counted("acme"), counted("other")) == (["budget_exceeded"], [])
    sql.execute(psycopg.sql.SQL("drop owned by {}").format(psycopg.sql.Identifier(role)))


def test_a_pooler_between_does_not_matter(ledger_with, pooler, dsn, sql):
    spend(ledger_with(rules=PERMISSIVE), 8, 3)
    moved(sql, hours(-1, 1))

    with Ledger(config=Config(dsn=pooler(dsn))) as ledger:
        assert verdicts(ledger, DAY, Budget("b", Money(10, "EUR"))) == ["budget_exceeded"]
