"""`Ledger` by hand and `Ledger.run`, on a real ledger."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import decimal
import pickle
import uuid
from collections.abc import Callable

import psycopg
import pytest

from spanledger import Budget, Calls, Config, Ledger, Money, Resource, Rule, ToolCall
from spanledger.core.call import Resolution, Verdict
from spanledger.errors import (
    BudgetExceeded,
    CallFailed,
    CallInProgress,
    ConfigError,
    KeyReused,
    OutcomeUnknown,
    ResultNotKept,
)

REFUND = ToolCall("refund", {"order_id": "o-1", "amount": 1000}, workflow_id="w")
EUR_5 = Budget("eur", Money("5.00", "EUR"))


def priced(amount: str, name: str = "o-1", **fields) -> ToolCall:
    return ToolCall("refund", {"order_id": name}, workflow_id="w", cost=Money(amount, "EUR"), **fields)


def boom(error: BaseException) -> Callable[[], None]:
    def handler() -> None:
        raise error

    return handler


def never() -> None:
    pytest.fail("it ran")


# results


@pytest.mark.parametrize(
    "result",
    [
        None,
        "done",
        "NUL \0 and an emoji \N{PILE OF POO}",
        {"id": "re_1", "amount": 10**30, "ratio": 0.1, "list": [1, None, True]},
        decimal.Decimal("10.50"),
        dt.datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=dt.UTC),
        uuid.UUID(int=7),
        b"\0\xff",
        ("a", ("b",)),
        {"a", "b"},
        {1: "one", "$tag": 2},
    ],
    ids=lambda result: type(result).__name__,
)
def test_a_repeated_call_gets_the_recorded_result_and_does_not_run(ledger: Ledger, result: object) -> None:
    ledger.run(REFUND, lambda: result)
    replayed = ledger.run(REFUND, never)
    assert (type(replayed), replayed) == (type(result), result)


@dataclasses.dataclass
class Receipt:
    id: str


@pytest.mark.parametrize(
    "result",
    [Receipt("re_1"), object(), float("nan"), "half \udcff", "x" * 2000],
    ids=["record", "object", "nan", "surrogate", "long"],
)
def test_a_result_that_cannot_be_kept_reaches_its_caller_once(ledger_with, result: object) -> None:
    ledger = ledger_with(result_bytes_max=1000)
    assert ledger.run(REFUND, lambda: result) is result
    with pytest.raises(ResultNotKept, match="its result was not kept") as caught:
        ledger.run(REFUND, never)
    assert caught.value.key == ledger.key(REFUND)


def test_a_result_that_is_not_to_be_kept_is_not(ledger_with, sql: psycopg.Connection) -> None:
    ledger = ledger_with(rules=[Rule("refund", keep_result=False)])
    ledger.run(REFUND, lambda: "secret")
    assert ledger.get(ledger.key(REFUND))["result"] is None


# failures


def test_what_the_handler_raises_passes_through_and_another_attempt_runs(ledger: Ledger) -> None:
    error = ValueError("card expired")
    with pytest.raises(ValueError, match="card expired") as caught:
        ledger.run(REFUND, boom(error))
    assert caught.value is error
    row = ledger.get(ledger.key(REFUND))
    assert (row["state"], row["error"]) == ("failed", {"type": "builtins.ValueError", "message": "card expired"})
    assert ledger.run(REFUND, lambda: "done") == "done"


@pytest.mark.parametrize("message", ["NUL \0", "half \udcff", "x" * 100_000], ids=["nul", "surrogate", "long"])
def test_an_error_of_any_text_is_recorded(ledger: Ledger, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        ledger.run(REFUND, boom(ValueError(message)))
    assert str(caught.value) == message
    assert ledger.get(ledger.key(REFUND))["state"] == "failed"


def test_after_an_ambiguous_error_nobody_runs_it_again_until_a_person_decides(ledger: Ledger) -> None:
    with pytest.raises(TimeoutError):
        ledger.run(REFUND, boom(TimeoutError("no answer")))
    with pytest.raises(OutcomeUnknown, match=f"spanledger resolve {ledger.key(REFUND)}") as caught:
        ledger.run(REFUND, never)
    assert caught.value.attempts == 1
    assert ledger.resolve(ledger.key(REFUND), by="ops@example.com", outcome="succeeded", result={"id": "re_1"})
    assert ledger.run(REFUND, never) == {"id": "re_1"}


def test_an_interrupt_passes_through_and_leaves_the_outcome_unknown(ledger: Ledger) -> None:
    with pytest.raises(KeyboardInterrupt):
        ledger.run(REFUND, boom(KeyboardInterrupt()))
    assert ledger.get(ledger.key(REFUND))["state"] == "unknown"


def test_after_attempts_max_the_recorded_failure_is_raised(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", attempts_max=2)])
    for _ in range(2):
        with pytest.raises(ValueError, match="no"):
            ledger.run(REFUND, boom(ValueError("no")))
    with pytest.raises(CallFailed, match="no") as caught:
        ledger.run(REFUND, never)
    assert (caught.value.attempts, caught.value.error["type"]) == (2, "builtins.ValueError")


@pytest.mark.parametrize(
    ("outcome", "verdict"), [("succeeded", Verdict.REPLAY), ("failed", Verdict.RUN), ("retry", Verdict.RUN)]
)
def test_a_person_can_say_what_became_of_a_call(ledger: Ledger, outcome: str, verdict: Verdict) -> None:
    ledger.fail(ledger.begin(REFUND), OSError(), outcome_unknown=True)
    key = ledger.key(REFUND)
    assert ledger.resolve(key, by="ops@example.com", outcome=outcome, reason="asked the bank \0 \udcff")
    assert not ledger.resolve(key, by="ops@example.com", outcome="succeeded")
    assert ledger.begin(REFUND).verdict is verdict
    resolved = next(event for event in ledger.history(key) if event["event"] == "resolved")
    assert (resolved["by_name"], resolved["detail"]["reason"]) == (
        "ops@example.com",
        "asked the bank \N{REPLACEMENT CHARACTER} ?",
    )


def test_an_outcome_that_is_none_of_three_is_refused(ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match="succeeded, failed, retry, not 'done'"):
        ledger.resolve("00", by="ops", outcome="done")


# probes


@pytest.mark.parametrize("found", [Resolution("succeeded", "found"), Resolution("failed"), Resolution("retry")])
def test_a_probe_finds_out_instead_of_a_person(ledger_with, found: Resolution) -> None:
    ledger = ledger_with(rules=[Rule("refund", probe=lambda call, key: found)])
    ledger.fail(ledger.begin(REFUND), OSError(), outcome_unknown=True)
    assert ledger.run(REFUND, lambda: "ran") == ("found" if found.outcome == "succeeded" else "ran")


def refusing_probe(call, key) -> None:
    raise RuntimeError("the bank is closed")


async def coroutine_probe(call, key) -> None:
    """Needs a loop."""


@pytest.mark.parametrize(
    ("probe", "reason"),
    [
        (lambda call, key: None, "the probe could not tell either"),
        (refusing_probe, "its probe failed: the bank is closed"),
        (coroutine_probe, "a probe or hook that is a coroutine function needs an asynchronous caller"),
    ],
    ids=["cannot tell", "fails", "coroutine"],
)
def test_a_probe_that_does_not_help_leaves_the_outcome_unknown(ledger_with, probe, reason: str) -> None:
    ledger = ledger_with(rules=[Rule("refund", probe=probe)])
    ledger.fail(ledger.begin(REFUND), OSError(), outcome_unknown=True)
    for _ in range(2):  # the second probe does not have to wait for the first one's lease
        with pytest.raises(OutcomeUnknown, match=reason):
            ledger.run(REFUND, never)


# by hand


def test_begin_settle_and_begin_again(ledger: Ledger) -> None:
    begun = ledger.begin(REFUND)
    assert (begun.verdict, begun.key, begun.attempt) == (Verdict.RUN, ledger.key(REFUND), 1)
    assert ledger.begin(REFUND).verdict is Verdict.IN_PROGRESS
    assert ledger.settle(begun, {"id": ("re", 1)})
    again = ledger.begin(REFUND)
    assert (again.verdict, again.result, again.result_kept) == (Verdict.REPLAY, {"id": ("re", 1)}, True)


def test_a_result_that_cannot_be_kept_is_settled_all_the_same(ledger: Ledger) -> None:
    assert ledger.settle(ledger.begin(REFUND), object())
    again = ledger.begin(REFUND)
    assert (again.verdict, again.result_kept) == (Verdict.REPLAY, False)


def test_a_late_settle_is_told_that_it_is_late(ledger_with, sql: psycopg.Connection) -> None:
    ledger = ledger_with(rules=[Rule("refund", on_unknown="retry")])
    late = ledger.begin(REFUND)
    sql.execute("update spanledger.call set lease_until = clock_timestamp()")
    current = ledger.begin(REFUND)
    assert (current.verdict, current.attempt) == (Verdict.RUN, 2)
    assert [ledger.settle(late, "late"), ledger.settle(current, "current")] == [False, True]
    assert ledger.begin(REFUND).result == "current"
    assert [e["event"] for e in ledger.history(late.key)] == ["lease_over", "superseded", "late_success"]


@pytest.mark.parametrize(
    ("error", "said", "state"),
    [
        (ValueError("no"), None, "failed"),
        (TimeoutError(), None, "unknown"),
        (ValueError("no"), True, "unknown"),
        (TimeoutError(), False, "failed"),
        (ConnectionRefusedError(), None, "failed"),
    ],
)
def test_a_failure_is_unknown_by_the_kind_of_error_unless_the_caller_knows(ledger, error, said, state) -> None:
    assert ledger.fail(ledger.begin(REFUND), error, outcome_unknown=said)
    assert ledger.get(ledger.key(REFUND))["state"] == state


def test_a_rule_says_which_errors_are_ambiguous(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", ambiguous_errors=(KeyError,), definite_errors=(TimeoutError,))])
    ledger.fail(ledger.begin(REFUND), TimeoutError())
    ledger.fail(ledger.begin(REFUND), KeyError())
    assert ledger.get(ledger.key(REFUND))["state"] == "unknown"


def test_another_tenant_another_call(ledger: Ledger) -> None:
    ledger.run(REFUND, lambda: "default")
    assert ledger.run(dataclasses.replace(REFUND, tenant="other"), lambda: "other") == "other"
    assert [row["tenant"] for row in ledger.calls(tenant="other")] == ["other"]


@pytest.mark.parametrize(
    ("identified", "repeated"),
    [
        ({"key": "mine"}, {"key": "mine"}),
        ({"fields": ("order_id",)}, {"fields": ("order_id",), "arguments": {"order_id": "o-1", "note": "x"}}),
        (
            {"resource": Resource("shop", "order", {"id": 1})},
            {"resource": Resource("shop", "order", {"id": 1}), "arguments": {}},
        ),
    ],
    ids=["key", "fields", "resource"],
)
def test_a_call_is_the_same_by_what_identifies_it(ledger: Ledger, identified: dict, repeated: dict) -> None:
    ledger.run(dataclasses.replace(REFUND, **identified), lambda: "done")
    assert ledger.run(dataclasses.replace(REFUND, **repeated), never) == "done"


def test_a_key_of_ones_own_with_other_arguments_is_refused(ledger: Ledger) -> None:
    ledger.run(dataclasses.replace(REFUND, key="mine"), lambda: "done")
    with pytest.raises(KeyReused, match="use another key"):
        ledger.run(dataclasses.replace(REFUND, key="mine", arguments={}), never)


def test_who_does_not_want_to_wait_is_told_at_once(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", wait_timeout_s=0)])
    ledger.begin(REFUND)
    with pytest.raises(CallInProgress, match="another worker"):
        ledger.run(REFUND, never)


# looking


def test_calls_are_found_by_what_they_are_the_newest_first(ledger: Ledger) -> None:
    for name, scope in (("refund", "w-1"), ("mail", "w-1"), ("refund", "w-2")):
        ledger.run(ToolCall(name, workflow_id=scope), lambda: None)
    ledger.begin(ToolCall("mail", workflow_id="w-2"))

    def found(**where) -> list[tuple[str, str]]:
        return [(row["tool"], row["workflow_id"]) for row in ledger.calls(**where)]

    assert found() == [("mail", "w-2"), ("refund", "w-2"), ("mail", "w-1"), ("refund", "w-1")]
    assert found(tool="refund") == [("refund", "w-2"), ("refund", "w-1")]
    assert found(workflow_id="w-1", tool="mail") == [("mail", "w-1")]
    assert found(state="in_flight") == [("mail", "w-2")]
    assert found(limit=1) == [("mail", "w-2")]
    assert found(tenant="nobody") == []


def test_a_call_that_nobody_asked_for_is_not_found(ledger: Ledger) -> None:
    assert (ledger.get("00"), ledger.history("00")) == (None, [])
    assert not ledger.resolve("00", by="ops", outcome="failed")


def test_the_arguments_are_kept_for_people_to_read_unless_they_are_too_long(ledger_with) -> None:
    ledger = ledger_with(arguments_bytes_max=50)
    long = dataclasses.replace(REFUND, arguments={"text": "x" * 100})
    for call in (REFUND, long):
        ledger.begin(call)
    assert ledger.get(ledger.key(REFUND))["arguments"] == '{"amount":1000,"order_id":"o-1"}'
    assert ledger.get(ledger.key(long))["arguments"] is None


# budgets


def test_a_budget_is_held_spent_and_given_back(ledger_with) -> None:
    ledger = ledger_with(budgets=[EUR_5])
    first, second = ledger.begin(priced("2.00")), ledger.begin(priced("1.00", "o-2"))
    assert ledger.budget("eur").held == Money("3.00", "EUR")
    ledger.settle(first, None, cost=Money("2.50", "EUR"))
    ledger.fail(second, ValueError())
    balance = ledger.budget("eur")
    figures = (balance.limit, balance.spent, balance.held, balance.remaining)
    assert figures == tuple(Money(amount, "EUR") for amount in ("5.00", "2.50", "0", "2.50"))
    assert ledger.budgets() == [balance]


def test_a_call_that_is_too_dear_does_not_run_and_the_error_has_the_figures(ledger_with) -> None:
    ledger = ledger_with(budgets=[EUR_5])
    ledger.run(priced("4.00"), lambda: None)
    with pytest.raises(BudgetExceeded, match=r"1.00 EUR left of 5.00 EUR .*, 1.01 EUR requested") as caught:
        ledger.run(priced("1.01", "o-2"), never)
    error = pickle.loads(pickle.dumps(caught.value))
    assert (error.budget, error.unit, error.key) == ("eur", "EUR", ledger.key(priced("1.01", "o-2")))
    assert (error.spent, error.held, error.remaining) == tuple(Money(a, "EUR") for a in ("4", "0", "1"))
    assert error.projected == Money(4 + error.requested.amount, "EUR")


@pytest.mark.parametrize("more", [{}, {"approval": True}])
def test_who_settles_what_may_not_run_says_that_it_ran_and_it_is_spent(ledger_with, more: dict) -> None:
    budget = Budget("refunds", Money("10", "EUR"), match="refund")
    ledger = ledger_with(rules=[Rule("refund", reserve=Money("20", "EUR"), **more)], budgets=[budget])
    call = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w")
    begun = ledger.begin(call)
    assert begun.verdict in (Verdict.BUDGET_EXCEEDED, Verdict.AWAITING_APPROVAL)
    assert ledger.settle(begun, "done", cost=Money("12", "EUR"))
    assert (ledger.budget("refunds").spent, ledger.begin(call).result) == (Money("12", "EUR"), "done")
    assert ledger.approvals() == []


def test_who_settles_what_another_attempt_runs_is_late_and_its_cost_is_spent(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("refunds", Money("10", "EUR"), match="refund")])
    call = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w")
    first, second = ledger.begin(call), ledger.begin(call)
    assert second.verdict is Verdict.IN_PROGRESS
    assert not ledger.settle(second, "done", cost=Money("2", "EUR"))
    assert ledger.settle(first, "done", cost=Money("3", "EUR"))
    assert ledger.budget("refunds").spent == Money("5", "EUR")


def test_who_settles_what_was_replayed_has_spent_nothing_more(ledger_with) -> None:
    ledger = ledger_with(budgets=[EUR_5])
    ledger.run(priced("2.00"), lambda: "done")
    replayed = ledger.begin(priced("2.00"))
    assert replayed.verdict is Verdict.REPLAY
    assert not ledger.settle(replayed, "done", cost=Money("2.00", "EUR"))
    assert ledger.budget("eur").spent == Money("2.00", "EUR")


def test_a_call_shows_what_it_was_booked_at_whether_it_said_a_cost_or_not(ledger_with) -> None:
    ledger = ledger_with(budgets=[EUR_5, Budget("count", Calls(9))])
    silent, said = ledger.begin(priced("2.00")), ledger.begin(priced("1.00", "o-2"))
    assert ledger.get(silent.key)["cost"] is None
    ledger.settle(silent, None)
    ledger.settle(said, None, cost=Money("0.50", "EUR"))
    assert ledger.get(silent.key)["cost"] == {"EUR": 2_000_000}
    assert ledger.get(said.key)["cost"] == {"EUR": 500_000}
    assert ledger.budget("eur").spent == Money("2.50", "EUR")


def test_after_a_top_up_the_refused_call_runs(ledger_with) -> None:
    ledger = ledger_with(budgets=[EUR_5])
    assert ledger.begin(priced("6.00")).verdict is Verdict.BUDGET_EXCEEDED
    ledger.top_up("eur", Money("1.00", "EUR"), by="ops@example.com")
    assert ledger.run(priced("6.00"), lambda: "done") == "done"
    assert ledger.budget("eur").limit == Money("6.00", "EUR")


def test_a_budget_that_is_not_there_is_an_error_that_says_so(ledger_with) -> None:
    ledger = ledger_with(budgets=[EUR_5])
    with pytest.raises(ConfigError, match="no budget 'usd'"):
        ledger.budget("usd")
    for name, amount in (("usd", Money("1", "USD")), ("eur", Money("1", "USD")), ("eur", Calls(1))):
        with pytest.raises(ConfigError, match=f"no budget '{name}' in {amount.unit}"):
            ledger.top_up(name, amount, by="ops")


def test_a_budget_can_be_changed_but_not_its_unit(ledger_with) -> None:
    ledger = ledger_with(budgets=[EUR_5])
    ledger.apply(Config(budgets=[Budget("eur", Money("7.00", "EUR")), Budget("count", Calls(3))]))
    assert [balance.limit for balance in ledger.budgets()] == [Calls(3), Money("7.00", "EUR")]
    with pytest.raises(ConfigError, match="a budget keeps its unit"):
        ledger.apply(Config(budgets=[Budget("eur", Calls(3))]))


def test_a_closed_ledger_opens_again_when_it_is_asked(dsn: str) -> None:
    with Ledger(dsn) as ledger:
        ledger.run(REFUND, lambda: "done")
    assert ledger.run(REFUND, never) == "done"
    ledger.close()


def test_a_blocking_ledger_works_inside_a_running_loop(ledger: Ledger) -> None:
    async def main() -> str:
        return ledger.run(REFUND, lambda: "done")

    assert asyncio.run(main()) == "done"
