"""Budgets that start anew, are kept apart, warn early and count other currencies, through the public names."""

from __future__ import annotations

import datetime as dt
import logging
import time
import zoneinfo

import pytest

import spanledger
from spanledger import Budget, Calls, Config, Ledger, Money, Rate, ToolCall, workflow
from spanledger.errors import BudgetExceeded, ConfigError


def mail(number: int, actor: str | None = "u_1", **fields) -> ToolCall:
    return ToolCall("mail", {"n": number}, workflow_id=fields.pop("workflow_id", "w"), actor=actor, **fields)


def sent(ledger: Ledger, *calls: ToolCall) -> list[bool]:
    """Make calls; which of them ran."""
    ran = []
    for call in calls:
        try:
            ran.append(ledger.run(call, lambda: True))
        except BudgetExceeded:
            ran.append(False)
    return ran


# --- kept apart


@pytest.mark.parametrize(
    ("per", "others"),
    [
        ("actor", {"actor": "u_2"}),
        ("agent", {"agent": "sales"}),
        ("workflow", {"workflow_id": "w2"}),
        ("tenant", {"tenant": "acme"}),
    ],
)
def test_each_has_the_whole_limit(ledger_with, per: str, others: dict) -> None:
    ledger = ledger_with(budgets=[Budget("mails", Calls(1), per=(per,))])

    assert sent(ledger, mail(1), mail(2), mail(3, **others), mail(4, **others)) == [True, False, True, False]


def test_a_budget_for_each_tool_and_actor_is_one_for_each_pair(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("each", Calls(1), per=("tool", "actor"))])
    post = ToolCall("post", {}, workflow_id="w", actor="u_1")

    assert sent(ledger, mail(1), post, mail(2, "u_2"), mail(3)) == [True, True, True, False]
    balances = ledger.budgets()
    assert sorted((b.scope["tool"], b.scope["actor"]) for b in balances) == [
        *(("mail", "u_1"), ("mail", "u_2"), ("post", "u_1")),
    ]
    assert {b.per for b in balances} == {("tool", "actor")}


def test_calls_of_nobody_share_a_budget_of_their_own(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("mails", Calls(1), per=("actor",))])

    assert sent(ledger, mail(1, None), mail(2, None), mail(3)) == [True, False, True]
    assert ledger.budget("mails", scope={"actor": None}).remaining == Calls(0)


def test_how_a_budget_that_is_kept_apart_stands_is_asked_by_scope(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("mails", Calls(3), per=("actor",))])
    assert ledger.budget("mails", scope={"actor": "u_1"}).remaining == Calls(3), "nobody has used it"
    sent(ledger, mail(1), mail(2, "u_2"))

    assert ledger.budget("mails", scope={"actor": "u_1"}).spent == Calls(1)
    assert ledger.budget("mails", scope={"actor": "u_9"}).remaining == Calls(3)
    with pytest.raises(ConfigError, match="kept apart by actor; say whose it shall be, for example scope="):
        ledger.budget("mails")
    with pytest.raises(ConfigError, match="has no budget 'posts'"):
        ledger.budget("posts")


def test_one_scope_is_topped_up_and_no_other(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("mails", Calls(1), per=("actor",))])
    ledger.top_up("mails", Calls(1), by="ops", scope={"actor": "u_1"})

    assert sent(ledger, mail(1), mail(2), mail(3), mail(4, "u_2"), mail(5, "u_2")) == [True, True, False, True, False]
    assert ledger.budget("mails", scope={"actor": "u_1"}).limit == Calls(2)
    for scope in (None, {"agent": "support"}, {"actor": "u_1", "agent": "support"}):
        with pytest.raises(ConfigError, match="kept apart by actor"):
            ledger.top_up("mails", Calls(1), by="ops", scope=scope)
    with pytest.raises(ConfigError, match="no budget 'mails' in tokens"):
        ledger.top_up("mails", spanledger.Tokens(1), by="ops", scope={"actor": "u_1"})


# --- starting anew


def test_a_rolling_window_forgets_what_was_reserved_long_ago(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("mails", Calls(1), window=2)])
    assert sent(ledger, mail(1), mail(2)) == [True, False]

    time.sleep(2.1)
    assert sent(ledger, mail(2), mail(3)) == [True, False]
    assert ledger.budget("mails").window == 2


@pytest.mark.parametrize("window", ["hour", "day", "month"])
def test_a_window_of_the_calendar_starts_anew(ledger_with, sql, window: str) -> None:
    ledger = ledger_with(budgets=[Budget("mails", Calls(1), window=window, timezone="Asia/Kathmandu")])
    assert sent(ledger, mail(1), mail(2)) == [True, False]

    now = dt.datetime.now(zoneinfo.ZoneInfo("Asia/Kathmandu"))
    starts = {"hour": {}, "day": {"hour": 0}, "month": {"day": 1, "hour": 0}}
    balance = ledger.budget("mails")
    assert balance.window_start == now.replace(minute=0, second=0, microsecond=0, **starts[window])
    # As if all that was in the window before.
    sql.execute("update spanledger.account set window_start = window_start - %s::interval", (f"1 {window}",))
    assert sent(ledger, mail(2), mail(3)) == [True, False]


def test_a_top_up_counts_in_the_present_window_only(ledger_with, sql) -> None:
    ledger = ledger_with(budgets=[Budget("mails", Calls(1), window="day")])
    ledger.top_up("mails", Calls(1), by="ops")
    assert sent(ledger, mail(1), mail(2), mail(3)) == [True, True, False]

    sql.execute("update spanledger.account set window_start = window_start - interval '1 day'")
    assert sent(ledger, mail(3), mail(4)) == [True, False]


def test_what_was_reserved_yesterday_is_booked_yesterday(ledger_with, sql) -> None:
    ledger = ledger_with(budgets=[Budget("eur", Money(10, "EUR"), window="day")])
    begun = ledger.begin(mail(1, cost=Money(8, "EUR")))
    sql.execute("update spanledger.account set window_start = window_start - interval '1 day'")
    ledger.settle(begun, None, cost=Money(9, "EUR"))

    assert sent(ledger, mail(2, cost=Money(10, "EUR"))) == [True]
    assert ledger.budget("eur").spent == Money(10, "EUR")


def test_a_time_zone_that_nobody_knows_is_refused() -> None:
    with pytest.raises(ConfigError, match="'Europe/Berlim' is not a time zone"):
        Budget("mails", Calls(1), window="day", timezone="Europe/Berlim")


# --- warning early


def test_the_call_that_goes_past_a_soft_limit_says_so_in_log_span_and_metric_and_runs(
    dsn, spans, caplog, measured
) -> None:
    budget = Budget("mails", Calls(4), match="mail", soft=0.5)
    spanledger.instrument(Config(dsn=dsn, budgets=[budget]), libraries=[])
    send = spanledger.tool("mail")(lambda number: number)
    with workflow("w"):
        assert [send(number) for number in range(4)] == [0, 1, 2, 3]

    (warned,) = [record.getMessage() for record in caplog.records if "soft limit" in record.getMessage()]
    assert warned == "budget 'mails' is past its soft limit: 1 calls left of it after this call"
    events = [event for span in spans.all("execute_tool mail") for event in span.events]
    (event,) = [event for event in events if event.name == "spanledger.budget.soft_limit"]
    assert dict(event.attributes) == {
        "spanledger.budget.name": "mails",
        "spanledger.budget.soft_limit": "2 calls",
        "spanledger.budget.left": "1 calls",
    }
    points = measured.points()["spanledger.budget.soft_limits"]
    assert [(labels, point.value) for labels, point in points] == [({"spanledger.budget.name": "mails"}, 1)]


def test_how_a_budget_stands_says_whether_it_is_past_its_soft_limit(ledger_with, caplog) -> None:
    ledger = ledger_with(budgets=[Budget("eur", Money(100, "EUR"), soft=Money(10, "EUR"))])
    past = []
    with caplog.at_level(logging.WARNING):
        for number, amount in enumerate(("5", "5", "1", "80")):
            sent(ledger, mail(number, cost=Money(amount, "EUR")))
            past.append(ledger.budget("eur").past_soft)
    assert past == [False, False, True, True]
    assert ledger.budget("eur").soft == Money(10, "EUR")
    assert [record.getMessage() for record in caplog.records if "soft limit" in record.getMessage()] == [
        "budget 'eur' is past its soft limit: 89.00 EUR left of it after this call"
    ]
    begun = [event for event in ledger.history(ledger.key(mail(2))) if event["event"] == "soft_limit"]
    assert len(begun) == 1


# --- other currencies


def test_another_currency_is_counted_at_the_rate_of_the_day_and_rounded_up(ledger_with) -> None:
    rates = [Rate("USD", "EUR", "0.333333", "2026-01-01")]
    ledger = ledger_with(budgets=[Budget("eur", Money(1, "EUR"))], rates=rates)

    assert sent(ledger, mail(1, cost=Money("0.000001", "USD"))) == [True]
    assert ledger.budget("eur").spent == Money("0.000001", "EUR")
    assert sent(ledger, mail(2, cost=Money("3.01", "USD")), mail(3, cost=Money("2", "USD"))) == [False, True]
    assert ledger.budget("eur").spent == Money("0.666667", "EUR")


def test_a_currency_without_a_rate_is_refused_and_not_guessed(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("eur", Money(1, "EUR"))], rates=[Rate("EUR", "USD", "1.1", "2026-01-01")])

    with pytest.raises(BudgetExceeded, match="it reserves USD, budget eur is kept in EUR and the ledger has no rate"):
        ledger.run(mail(1, cost=Money("0.01", "USD")), lambda: pytest.fail("ran"))


def test_a_late_outcome_is_booked_at_the_rate_of_its_reservation(ledger_with) -> None:
    ledger = ledger_with(budgets=[Budget("eur", Money(10, "EUR"))], rates=[Rate("USD", "EUR", "0.50", "2026-01-01")])
    begun = ledger.begin(mail(1, cost=Money(4, "USD")))
    ledger.apply(Config(rates=[Rate("USD", "EUR", "2", "2026-01-01")]))
    ledger.settle(begun, None, cost=Money(6, "USD"))

    assert ledger.budget("eur").spent == Money(3, "EUR")


def test_all_of_it_can_be_said_in_a_file(dsn: str, tmp_path) -> None:
    (tmp_path / "any.toml").write_text(
        f"""
        dsn = "{dsn}"
        [[budgets]]
        name = "mails"
        limit = "5.00 EUR"
        match = "mail"
        per = ["actor", "tool"]
        window = "month"
        timezone = "Europe/Berlin"
        soft = "4.00 EUR"
        [[budgets]]
        name = "rolling"
        limit = "5 calls"
        window = 3600
        soft = 0.8
        [[rates]]
        source = "USD"
        target = "EUR"
        rate = "0.92"
        valid_from = 2026-01-01
        """
    )
    with Ledger(config=Config.from_file(tmp_path / "any.toml")) as ledger:
        assert sent(ledger, mail(1, cost=Money(2, "USD"))) == [True]
        mails = ledger.budget("mails", scope={"actor": "u_1", "tool": "mail"})
        assert (mails.spent, mails.window, mails.timezone, mails.soft) == (
            *(Money("1.84", "EUR"), "month", "Europe/Berlin", Money(4, "EUR")),
        )
        assert (ledger.budget("rolling").window, ledger.budget("rolling").soft) == (3600, Calls(4))
