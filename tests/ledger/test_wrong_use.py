"""What a ledger is asked in a wrong way is answered by an error that says so, and after a side effect by none."""

from __future__ import annotations

import asyncio
import secrets

import pytest

import spanledger
from spanledger import AsyncLedger, Budget, Calls, Config, GuardrailSpanProcessor, Ledger, Money, Rule, ToolCall
from spanledger.errors import ConfigError, Undescribable

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="order-1", cost=Money("2", "EUR"))
HALF = "\ud800"


def test_a_key_that_is_none_is_the_key_of_no_call(ledger: Ledger) -> None:
    ledger.run(REFUND, lambda: "paid")
    assert ledger.get(None) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["xyz", "abc", None, b"ab", HALF])
def test_what_is_no_key_is_not_resolved_or_cancelled(ledger: Ledger, key: str) -> None:
    with pytest.raises(ConfigError, match="is no key"):
        ledger.resolve(key, by="ops", outcome="retry")
    with pytest.raises(ConfigError, match="is no key"):
        ledger.cancel(key, by="ops")


@pytest.mark.parametrize("by", ["", " ", None])
def test_nobody_resolves_or_cancels_without_a_name(ledger: Ledger, by: str) -> None:
    with pytest.raises(ConfigError, match="by is who decides"):
        ledger.resolve("ab", by=by, outcome="retry")
    with pytest.raises(ConfigError, match="by is who decides"):
        ledger.cancel("ab", by=by)


def test_a_result_that_has_no_json_form_is_refused_from_who_resolves(ledger: Ledger) -> None:
    with pytest.raises(ConfigError, match="cannot be kept for replay: object has no JSON form"):
        ledger.resolve("ab", by="ops", outcome="succeeded", result=object())


def test_a_text_that_postgres_cannot_hold_finds_nothing_and_breaks_no_connection(
    ledger: Ledger, dsn: str, logged
) -> None:
    def ask() -> None:
        for asked in (lambda: ledger.get(HALF), lambda: ledger.calls(workflow_id=HALF), lambda: ledger.budget(HALF)):
            with pytest.raises(ConfigError, match="half of a surrogate pair"):
                asked()

    async def ask_awaiting() -> None:
        async with AsyncLedger(dsn) as awaiting:
            with pytest.raises(ConfigError, match="half of a surrogate pair"):
                await awaiting.calls(workflow_id=HALF)

    ask()
    asyncio.run(ask_awaiting())
    assert logged() == []


@pytest.mark.parametrize("field", ["tool", "workflow_id", "tenant", "agent", "actor"])
def test_a_name_that_is_too_long_to_look_up_by_is_refused_and_not_taken_for_a_ledger_that_is_down(
    ledger_with, field: str
) -> None:
    ledger = ledger_with(rules=[Rule("*", on_ledger_down="continue")], budgets=[Budget("calls", Calls(1), per="agent")])
    long = {field: secrets.token_hex(501)}
    with pytest.raises(Undescribable, match=rf"(name|{field}) of .* has 1002 characters, and may have 1000"):
        ledger.run(ToolCall(**{"tool": "refund", "workflow_id": "order-1"} | long), lambda: pytest.fail("ran"))


def test_what_is_too_large_for_an_index_in_sum_is_refused_and_not_taken_for_a_ledger_that_is_down(ledger_with) -> None:
    per = ("agent", "actor", "workflow")
    rules = [Rule("*", on_ledger_down="continue")]
    ledger = ledger_with(rules=rules, budgets=[Budget("calls", Calls(1), per=per)])
    call = ToolCall("refund", **{name: secrets.token_hex(500) for name in ("workflow_id", "agent", "actor")})
    with pytest.raises(ConfigError, match="the ledger cannot take this: index row size"):
        ledger.run(call, lambda: pytest.fail("ran"))
    assert ledger.run(REFUND, lambda: "paid") == "paid"


@pytest.mark.parametrize("dsn", [3, b"postgresql://", lambda: 3, lambda: b"x"])
def test_a_connection_string_is_a_text_or_what_gives_one(dsn: str) -> None:
    with pytest.raises(ConfigError, match=r"a connection string or a callable that gives one|gave"):
        Ledger(dsn).calls()


def test_a_mistyped_price_costs_what_was_reserved_and_the_outcome_is_kept(ledger_with, caplog) -> None:
    ledger = ledger_with(budgets=[Budget("refunds", Money("5", "EUR"))])
    begun = ledger.begin(REFUND)
    assert ledger.settle(begun, "paid", cost=1.5)
    assert ledger.budget("refunds").spent == Money("2", "EUR")
    assert ledger.run(REFUND, lambda: pytest.fail("ran")) == "paid"
    assert "settled at 1.5, which is no amount" in caplog.text


def test_a_failure_can_be_told_in_words(ledger: Ledger) -> None:
    assert ledger.fail(ledger.begin(REFUND), "the card was declined")
    found = ledger.get(ledger.key(REFUND))
    assert found is not None
    assert (found["state"], found["error"]["message"]) == ("failed", "the card was declined")


@pytest.mark.parametrize("config", ["spanledger.toml", 3, {"mode": "off"}])
def test_what_is_no_configuration_is_said(config: Config) -> None:
    for use in (spanledger.instrument, GuardrailSpanProcessor, lambda given: Ledger(config=given)):
        with pytest.raises(ConfigError, match="a configuration is a Config"):
            use(config)
    with pytest.raises(ConfigError, match="a configuration is a Config"):
        AsyncLedger(config=config)


def test_one_name_is_no_list_of_libraries(dsn: str) -> None:
    with pytest.raises(ConfigError, match="libraries is a list of names, not 'openai'"):
        spanledger.instrument(Config(dsn=dsn), libraries="openai")
