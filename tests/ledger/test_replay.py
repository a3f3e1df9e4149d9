"""What another configuration would have made of recorded calls: the same as the ledger makes of them under it."""

from __future__ import annotations

import contextlib
import datetime as dt
import uuid
from collections import Counter
from collections.abc import Callable
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import spanledger
from spanledger import (
    Budget,
    Calls,
    Config,
    Grant,
    Ledger,
    Money,
    Rate,
    Redact,
    Resource,
    Rule,
    Switch,
    ToolCall,
    over,
)
from spanledger.core.replaying import UNJUDGED, Judged
from spanledger.errors import NotAuthorized, SpanledgerError
from spanledger.ledger import _sandbox
from spanledger.ledger._replay import replayed

TOOLS = ("refund", "mail", "wire")
# All that is made runs, and is recorded.
PERMISSIVE = [Rule("*", identity="none")]


def price(arguments: Any) -> Money:
    return Money(arguments["amount"], "EUR")


def price_of_all(arguments: Any) -> Money:
    return Money(arguments["order"], "EUR")


def judged_by(ledger: Ledger, *, alone: bool = True, since: dt.datetime | None = None, **fields: Any) -> list[Judged]:
    config = Config(tenant=ledger.config.tenant, **fields)
    return list(replayed(ledger._database, config, since, alone=alone))


def outcomes(judged: list[Judged]) -> Counter[str]:
    return Counter(one.outcome for one in judged)


def call(tool: str, order: int = 1, amount: int = 10, **fields: Any) -> ToolCall:
    return ToolCall(tool, {"order": order, "amount": amount}, **{"workflow_id": "w"} | fields)


# --- the same as for real

MADE = st.tuples(
    st.sampled_from(TOOLS), st.integers(1, 2), st.sampled_from([5, 60]), st.sampled_from(["ada", "bob"]),
    st.sampled_from(["succeeded", "succeeded", "failed", "unknown", "running"]), st.integers(0, 3),
)  # fmt: skip
RULES = st.fixed_dictionaries({
    "identity": st.sampled_from(["arguments", "none"]),
    "on_unknown": st.sampled_from(["ask", "retry"]),
    "on_failure": st.sampled_from(["retry", "replay"]),
    "attempts_max": st.sampled_from([None, 2]),
    "approval": st.sampled_from([False, False, over(Money(50, "EUR"))]),
    "permission": st.sampled_from([None, None, "shop:pay"]),
    "replay_for_s": st.sampled_from([None, 0.0]),
    "reserve": st.sampled_from([None, price]),
})  # fmt: skip
BUDGETS = st.lists(
    st.builds(
        lambda unit, limit, per, window: Budget(
            f"{unit} {per} {window}",
            Calls(limit) if unit == "calls" else Money(limit * 20, unit),
            match="*",
            per=per,
            window=window,
        ),
        st.sampled_from(["calls", "EUR", "USD"]), st.integers(0, 6), st.sampled_from([(), ("actor",), ("tool",)]),
        st.sampled_from([None, "day", 3600]),
    ),
    max_size=2,
    unique_by=lambda budget: budget.name,
)  # fmt: skip
CONTROLS = st.fixed_dictionaries({
    "budgets": BUDGETS,
    "grants": st.sampled_from([(), (Grant("shop:*", actor="ada"),), (Grant("shop:pay", limit=Money(50, "EUR")),)]),
    "switches": st.sampled_from([(), (), (Switch("mail", allowed=False, reason="down"),)]),
    "rates": st.sampled_from([(), (Rate("EUR", "USD", "1.1", "2026-01-01"),)]),
})  # fmt: skip


def made_for_real(
    ledger: Ledger, made: list[tuple[Any, ...]], each: Callable[[int], Any] = lambda n: None
) -> list[str]:
    """Make calls one after the other; each ends so many calls later. What they were answered with."""
    verdicts, ends = [], []
    for n, (tool, order, amount, actor, how, later) in enumerate(made):
        each(n)
        begun = ledger.begin(call(tool, order, amount, actor=actor))
        verdicts.append(begun.verdict.value)
        if begun.verdict.value == "run" and how != "running":
            ends.append((n + later, begun, how))
        for end in [one for one in ends if one[0] <= n]:
            ends.remove(end)
            if end[2] == "succeeded":
                ledger.settle(end[1], "done")
            else:
                ledger.fail(end[1], ValueError(), outcome_unknown=end[2] == "unknown")
    return verdicts


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(made=st.lists(MADE, min_size=1, max_size=8), rules=st.tuples(RULES, RULES, RULES), controls=CONTROLS)
def test_every_verdict_is_the_one_that_the_ledger_gives_under_that_configuration(shared_dsn, made, rules, controls):
    new = [Rule(tool, wait_timeout_s=0, **fields) for tool, fields in zip(TOOLS, rules, strict=True)]
    with contextlib.ExitStack() as stack:

        def opened(**fields: Any) -> Ledger:
            return stack.enter_context(Ledger(config=Config(dsn=shared_dsn, tenant=uuid.uuid4().hex, **fields)))

        past = opened(rules=PERMISSIVE)
        assert set(made_for_real(past, made)) == {"run"}
        real = made_for_real(opened(rules=new, **controls), made)

        said = judged_by(past, rules=new, **controls)

    by_attempt = {one.recorded.started_at: one.verdict for one in said}
    assert [by_attempt[moment] for moment in sorted(by_attempt)] == real


def test_the_configuration_that_was_in_force_changes_nothing(ledger_with):
    fields: dict[str, Any] = {
        "rules": [
            Rule("refund", reserve=price),
            Rule("wire", approval=True, wait_timeout_s=0, approval_covers_retries=True),
            Rule("mail", on_failure="retry", attempts_max=2),
        ],
        "budgets": [Budget("euros", Money(25, "EUR"), match="refund"), Budget("all", Calls(100))],
    }
    ledger = ledger_with(**fields)
    for order in (1, 2, 3):  # the third is over budget
        with contextlib.suppress(SpanledgerError):
            ledger.run(call("refund", order), lambda: "paid")
    for decide in (ledger.approve, ledger.deny):
        wanted = call("wire", order=len(decide.__name__))
        begun = ledger.begin(wanted)
        decide(begun.approval_id, by="ops")
        with contextlib.suppress(SpanledgerError):
            ledger.run(wanted, lambda: "sent")
    for _ in range(2):
        with pytest.raises(ZeroDivisionError):
            ledger.run(call("mail"), lambda: 1 / 0)
    ledger.run(call("mail", key="a key of its own"), lambda: "sent")
    ledger.run(call("mail", resource=Resource("shop", "letter", 7)), lambda: "sent")

    said = judged_by(ledger, **fields)

    assert [(one.recorded.tool, one.verdict) for one in said if one.outcome != "same"] == []
    assert Counter(one.verdict for one in said) == {
        "run": 7,
        "budget_exceeded": 1,
        "awaiting_approval": 2,
    }


# --- what it says


def test_it_says_which_calls_would_not_have_run_and_what_they_cost(ledger_with):
    ledger = ledger_with(
        rules=[Rule("refund", identity="none", reserve=price)], budgets=[Budget("e", Money(999, "EUR"))]
    )
    for order in (1, 1, 2, 3):
        ledger.run(call("refund", order), lambda: "paid")

    said = judged_by(
        ledger,
        rules=[Rule("refund", identity="arguments", reserve=price)],
        budgets=[Budget("two", Calls(2), match="refund")],
    )

    assert [one.outcome for one in said] == ["same", "replayed", "same", "refused"]
    assert [one.amounts for one in said][1] == {"calls": 1, "EUR": 10_000_000}
    assert said[3].verdict == "budget_exceeded"
    assert said[3].reason == "budget two has 0 calls left of 2 calls"


def test_windows_are_those_of_the_recorded_times(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE)
    for _ in range(4):
        ledger.run(call("mail"), lambda: "sent")
    # Two on one day, one on the next, and one today.
    sql.execute("""
        with o as (select key, row_number() over (order by started_at) as n from spanledger.call)
        update spanledger.call c set started_at = m.at, ended_at = m.at + interval '1 s' from (
            select o.key, timestamptz '2026-03-01 12:00:00Z' + case n when 1 then interval '0'
                when 2 then interval '1 h' when 3 then interval '1 d' else interval '9 d' end as at from o) m
            where m.key = c.key""")

    def verdicts(**fields: Any) -> list[str | None]:
        return [one.verdict for one in judged_by(ledger, rules=PERMISSIVE, budgets=[Budget("b", Calls(1), **fields)])]

    assert verdicts(window="day") == ["run", "budget_exceeded", "run", "run"]
    assert verdicts(window="hour") == ["run", "run", "run", "run"]
    assert verdicts(window=2 * 3600) == ["run", "budget_exceeded", "run", "run"]
    assert verdicts() == ["run", "budget_exceeded", "budget_exceeded", "budget_exceeded"]


def test_a_call_that_found_the_same_one_running_would_have_waited_for_its_result(ledger_with):
    ledger = ledger_with(rules=PERMISSIVE)
    first, second = ledger.begin(call("refund")), ledger.begin(call("refund"))
    ledger.settle(first, "paid")
    ledger.settle(second, "paid")

    said = judged_by(ledger, rules=[Rule("refund", identity="arguments")])

    assert [one.verdict for one in said] == ["run", "replay"]


def test_what_is_refused_costs_nothing_that_a_later_call_would_miss(ledger_with):
    ledger = ledger_with(rules=[Rule("*", identity="none", reserve=price)])
    for amount in (60, 40, 40):
        ledger.run(call("refund", amount=amount), lambda: "paid")

    said = judged_by(ledger, rules=[Rule("refund", identity="none", reserve=price)],
                     budgets=[Budget("e", Money(100, "EUR"))], switches=[Switch("mail", allowed=False)])  # fmt: skip

    assert [one.verdict for one in said] == ["run", "run", "budget_exceeded"]
    said = judged_by(ledger, rules=[Rule("refund", identity="none", reserve=price, approval=over(Money(50, "EUR")))],
                     budgets=[Budget("e", Money(100, "EUR"))])  # fmt: skip
    assert [one.outcome for one in said] == ["held", "same", "same"]


def test_controls_that_the_ledger_holds_count_unless_the_configuration_is_to_stand_alone(ledger_with):
    ledger = ledger_with(rules=PERMISSIVE)
    ledger.run(call("refund"), lambda: "paid")
    ledger.run(call("mail"), lambda: "sent")
    ledger.apply(
        Config(
            grants=[Grant("shop:pay")],
            switches=[Switch("mail", allowed=False, reason="down")],
            rates=[Rate("EUR", "USD", "1.1", "2026-01-01")],
            budgets=[Budget("dollars", Money(5, "USD"), match="wire")],
        )
    )
    new = [Rule("refund", identity="none", permission="shop:pay"), *PERMISSIVE]

    assert [one.verdict for one in judged_by(ledger, rules=new, alone=False)] == ["run", "unauthorized"]
    assert judged_by(ledger, rules=new, alone=False)[1].reason == "switch mail: down"
    alone = judged_by(ledger, rules=new, alone=True)
    assert [one.verdict for one in alone] == ["unauthorized", "run"]
    assert alone[0].reason == "permission shop:pay: nobody has granted it"


def test_what_was_replayed_and_would_have_run_again_is_told(ledger_with, dsn):
    rules = [Rule("refund", identity="arguments"), Rule("mail", fields=["to"])]
    spanledger.instrument(Config(dsn=dsn, rules=rules), libraries=[])

    @spanledger.tool
    def refund(order: int) -> str:
        return f"paid {order}"

    @spanledger.tool
    def mail(to: str, text: str) -> str:
        return f"sent to {to}: {text}"

    with spanledger.workflow("w"):
        for again in range(2):
            refund(1)
            mail("ada", f"reminder {again}")
    spanledger.uninstrument()  # all is told
    ledger = ledger_with()

    assert outcomes(judged_by(ledger, rules=rules)) == {"same": 3, "unjudged": 1}
    said = judged_by(ledger, rules=[Rule("*", identity="none")])
    assert [(one.recorded.tool, one.outcome) for one in said] == [
        ("refund", "same"),
        ("mail", "same"),
        ("refund", "allowed"),
        ("mail", "allowed"),
    ]


def test_equal_calls_of_a_run_are_told_apart_as_they_were(ledger_with, dsn):
    spanledger.instrument(Config(dsn=dsn), libraries=[])

    @spanledger.tool("refund", identity="occurrence")
    def refund(order: int) -> str:
        return f"paid {order}"

    for again in range(1, 3):
        with spanledger.workflow("w"):
            for _ in range(again):
                refund(1)
    spanledger.uninstrument()  # all is told
    ledger = ledger_with()

    assert sorted(one.recorded.state for one in judged_by(ledger)) == ["replayed", "succeeded", "succeeded"]
    for rules in (
        [],
        [Rule("refund", identity="occurrence")],
        [Rule("refund", on_failure="replay", reserve=price_of_all)],
    ):
        assert outcomes(judged_by(ledger, rules=rules)) == {"same": 3}
    assert outcomes(judged_by(ledger, rules=[Rule("refund", identity="arguments")])) == {"same": 2, "replayed": 1}
    assert outcomes(judged_by(ledger, rules=[Rule("refund", identity="none")])) == {"same": 2, "allowed": 1}


def test_calls_that_were_told_apart_otherwise_would_have_been_numbered_in_their_order(ledger_with):
    ledger = ledger_with(rules=[Rule("refund", identity="none")])
    for order in (1, 1, 2):
        ledger.run(call("refund", order), lambda: "paid")
    assert outcomes(judged_by(ledger, rules=[Rule("refund", identity="occurrence")])) == {"same": 3}


# --- what it cannot say


def test_redacted_arguments_tell_calls_apart_and_nothing_more(ledger_with):
    ledger = ledger_with(rules=[Rule("refund", identity="none", redact=["order", Redact("$.amount", "remove")])])
    for order in (1, 1, 2):
        ledger.run(call("refund", order), lambda: "paid")

    whole = judged_by(ledger, rules=[Rule("refund", identity="arguments")])
    fields = judged_by(ledger, rules=[Rule("refund", fields=["order"])])
    priced = judged_by(ledger, rules=[Rule("refund", identity="none", reserve=lambda _: Money(1, "EUR"))])
    asked = judged_by(ledger, rules=[Rule("refund", identity="none", approval=lambda _: False)])

    assert [one.verdict for one in whole] == ["run", "replay", "run"]
    for said in (fields, priced, asked):
        assert {(one.outcome, one.reason) for one in said} == {("unjudged", UNJUDGED)}


def test_erased_arguments_are_no_arguments(ledger_with):
    ledger = ledger_with(rules=PERMISSIVE)
    ledger.run(call("refund"), lambda: "paid")
    ledger.erase(workflow_id="w", by="privacy")

    assert outcomes(judged_by(ledger, rules=[Rule("refund", fields=["order"])])) == {"unjudged": 1}


def test_a_secret_of_another_ledger_makes_no_arguments_known(ledger_with):
    ledger = ledger_with(rules=PERMISSIVE, secret="theirs")
    ledger.run(call("refund"), lambda: "paid")
    rule = Rule("refund", fields=["order"])

    assert outcomes(judged_by(ledger, rules=[rule], secret="theirs")) == {"same": 1}
    assert outcomes(judged_by(ledger, rules=[rule], secret="ours")) == {"unjudged": 1}


def test_a_rule_that_needs_an_argument_which_the_call_never_had_would_have_refused_it(ledger_with):
    ledger = ledger_with(rules=PERMISSIVE)
    ledger.run(call("refund"), lambda: "paid")

    (said,) = judged_by(ledger, rules=[Rule("refund", fields=["iban"])])

    assert (said.outcome, said.verdict) == ("refused", "undescribable")
    assert "iban" in str(said.reason)


# --- what it leaves alone


def test_the_ledger_is_not_written_and_works_meanwhile(ledger_with, sql):
    ledger = ledger_with(rules=PERMISSIVE, budgets=[Budget("all", Calls(100))])
    for order in range(3):
        ledger.run(call("refund", order), lambda: "paid")
    tables = [row[0] for row in sql.execute("select tablename from pg_tables where schemaname = 'spanledger'")]

    def all_of_it() -> dict[str, list[Any]]:
        return {table: sql.execute(f"select t from spanledger.{table} t order by 1").fetchall() for table in tables}

    before = all_of_it()
    replaying = replayed(ledger._database, Config(rules=[Rule("refund", identity="arguments")]))
    next(replaying)

    assert all_of_it() == before
    assert ledger.run(call("refund", 0), lambda: "paid again") == "paid again"
    with sql.transaction():  # as a migration does
        sql.execute("set local lock_timeout = '5s'")
        sql.execute(f"lock table {', '.join(f'spanledger.{table}' for table in tables)} in access exclusive mode")
    assert len(list(replaying)) == 2  # as it was when it began
    assert sql.execute("select count(*) from pg_proc where proname = 'moment'").fetchone() == (0,)


def test_once_the_copy_is_made_the_server_lets_nothing_else_be_written(ledger_with, dsn):
    ledger_with().migrate()

    def write() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection, _sandbox.opened(connection, "default") as sandbox:
            _sandbox.freeze(connection)
            sandbox.apply({}, dt.datetime.now(dt.UTC))
            connection.execute("delete from spanledger.budget")

    with pytest.raises(SpanledgerError, match="read-only transaction"):
        write()


def test_an_operators_role_may_try_a_configuration_out_and_sees_its_tenant_only(ledger_with, dsn, role_dsn):
    for tenant in ("acme", "other"):
        ledger_with(tenant=tenant, rules=PERMISSIVE).run(call("refund"), lambda: "paid")
    role = str(psycopg.conninfo.conninfo_to_dict(role_dsn(dsn))["user"])
    ledger_with().bind_role(role, kind="operator", tenant="acme", by="owner")

    def seen(tenant: str) -> int:
        with Ledger(config=Config(dsn=role_dsn(dsn), tenant=tenant)) as ledger:
            return len(judged_by(ledger, rules=[Rule("refund", identity="arguments")], alone=False))

    assert (seen("acme"), seen("other")) == (1, 0)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("drop owned by {}").format(psycopg.sql.Identifier(role)))


@pytest.mark.parametrize("alone", [True, False])
def test_what_a_grant_would_redact_is_no_refusal(ledger_with, alone) -> None:
    ledger = ledger_with(rules=PERMISSIVE)
    for _ in range(2):
        ledger.run(call("refund"), lambda: "paid")
    narrow = Grant("shop:pay", redact=["$.order"])
    rules = [Rule("refund", identity="none", permission="shop:pay")]

    assert outcomes(judged_by(ledger, alone=alone, rules=rules, grants=[narrow])) == {"same": 2}
    limited = Grant("shop:pay", redact=["$.order"], limit=Money(5, "EUR"))
    rules = [Rule("refund", identity="none", permission="shop:pay", reserve=price)]
    assert outcomes(judged_by(ledger, alone=alone, rules=rules, grants=[limited])) == {"refused": 2}


@pytest.mark.parametrize("reserve", [None, price])
def test_what_cost_more_than_was_granted_is_tried_out_again(ledger_with, reserve) -> None:
    granted = [Grant("shop:pay", limit=Money(5, "EUR"))]
    rules = [Rule("refund", permission="shop:pay", reserve=reserve)]
    ledger = ledger_with(rules=rules, grants=granted)
    with pytest.raises(NotAuthorized):
        ledger.run(call("refund"), lambda: "paid")

    assert outcomes(judged_by(ledger, rules=rules, grants=granted)) == {"same": 1}
    (said,) = judged_by(ledger, rules=[Rule("refund")])
    assert (said.outcome, said.amounts.get("EUR")) == ("allowed", None if reserve is None else 10_000_000)
