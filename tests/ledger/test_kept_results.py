"""Results in the ledger: kept exactly or not at all."""

from __future__ import annotations

import logging

import pytest
from ways import either_way

from spanledger import Config, EncryptingCodec, Resolution, Rule, ToolCall
from spanledger.errors import OutcomeUnknown, ResultNotKept

KEYS = {"*": ["k1:" + "A" * 43 + "="]}
CARD = "4111111111111111"
HIDING = Rule("refund", redact=["$.card"])
RESULT = {"card": CARD, "id": "re_1"}
REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w")


def never() -> None:
    pytest.fail("ran twice")


@either_way
def test_a_sealed_result_is_replayed_exactly_and_read_by_nobody_else(run, dsn, sql):
    config = Config(dsn=dsn, rules=(HIDING,), payload_codec=EncryptingCodec(KEYS))

    assert run(config, lambda: RESULT) == run(config, never) == RESULT

    (kept,) = sql.execute("select result from spanledger.call").fetchone()
    assert CARD not in kept
    assert "re_1" not in kept


@either_way
def test_what_its_rule_hides_is_not_kept_without_encryption(run, dsn, sql, caplog):
    config = Config(dsn=dsn, rules=(HIDING,))
    run(config, lambda: RESULT)

    with pytest.raises(ResultNotKept):
        run(config, never)
    assert sql.execute("select result, result_kept from spanledger.call").fetchone() == (None, False)


@either_way
def test_a_result_of_which_nothing_is_hidden_is_kept_as_ever(run, dsn):
    config = Config(dsn=dsn, rules=(HIDING,))

    assert run(config, lambda: {"id": "re_1"}) == run(config, never) == {"id": "re_1"}


@either_way
def test_a_rule_may_say_that_nothing_is_kept(run, dsn, sql):
    config = Config(dsn=dsn, rules=(Rule("refund", keep_result=False),), payload_codec=EncryptingCodec(KEYS))
    run(config, lambda: RESULT)

    with pytest.raises(ResultNotKept, match="its result was not kept; it is not run again"):
        run(config, never)
    assert sql.execute("select result from spanledger.call").fetchone() == (None,)


@either_way
def test_what_is_too_large_is_not_kept_and_that_is_said(run, dsn, caplog, sql):
    config = Config(dsn=dsn, result_bytes_max=20, arguments_bytes_max=5)
    with caplog.at_level(logging.WARNING, "spanledger"):
        run(config, lambda: "x" * 100)

    assert "the result of refund is too large to be kept (102 bytes)" in caplog.text
    with pytest.raises(ResultNotKept):
        run(config, never)
    assert sql.execute("select arguments from spanledger.call").fetchone() == (None,)


@either_way
@pytest.mark.parametrize(
    "harm",
    [
        "update spanledger.call set result = overlay(result placing 'AAAA' from 30)",
        'update spanledger.call set result = \'{"id": "forged"}\'',
        "update spanledger.call set result = 'null'",
    ],
)
def test_what_was_changed_in_the_ledger_is_never_given_back(run, harm, dsn, sql):
    config = Config(dsn=dsn, payload_codec=EncryptingCodec(KEYS))
    run(config, lambda: RESULT)
    sql.execute(harm)

    with pytest.raises(ResultNotKept):
        run(config, never)


def test_by_hand_results_are_sealed_and_opened_as_well(ledger_with, sql):
    ledger = ledger_with(rules=(HIDING,), payload_codec=EncryptingCodec(KEYS))
    assert ledger.settle(ledger.begin(REFUND), RESULT)

    assert ledger.begin(REFUND).result == RESULT
    assert CARD not in sql.execute("select result from spanledger.call").fetchone()[0]
    with pytest.raises(ResultNotKept):
        ledger_with(rules=(HIDING,)).begin(REFUND)


def test_by_hand_an_error_is_told_without_its_words(ledger_with):
    ledger = ledger_with(rules=(HIDING,))
    begun = ledger.begin(REFUND)
    ledger.fail(begun, ValueError(CARD))

    assert ledger.get(begun.key)["error"] == {"type": "builtins.ValueError", "message": "[redacted]"}


@pytest.mark.parametrize("codec", [None, EncryptingCodec(KEYS)])
def test_what_a_person_says_came_of_it_is_kept_likewise(codec, ledger_with, sql):
    ledger = ledger_with(rules=(HIDING,), payload_codec=codec)
    begun = ledger.begin(REFUND)
    ledger.fail(begun, TimeoutError())

    assert ledger.resolve(begun.key, by="ops", outcome="succeeded", result=RESULT)

    assert CARD not in str(sql.execute("select result from spanledger.call").fetchone())
    if codec is None:
        with pytest.raises(ResultNotKept):
            ledger.run(REFUND, never)
    else:
        assert ledger.run(REFUND, never) == RESULT


@pytest.mark.parametrize("codec", [None, EncryptingCodec(KEYS)])
def test_what_a_probe_finds_is_kept_likewise(codec, ledger_with, sql):
    found = Resolution("succeeded", RESULT, reason=f"seen {CARD}")
    rule = Rule("refund", redact=["$.card"], probe=lambda _call, _key: found)
    ledger = ledger_with(rules=(rule,), payload_codec=codec)
    ledger.fail(ledger.begin(REFUND), TimeoutError())

    if codec is None:
        with pytest.raises(ResultNotKept):
            ledger.run(REFUND, never)
    else:
        assert ledger.run(REFUND, never) == RESULT
    assert CARD not in str(sql.execute("select result from spanledger.call").fetchone())
    assert CARD not in str(sql.execute("select detail from spanledger.history").fetchall())


def test_a_probe_that_fails_does_not_tell_what_it_asked_about(ledger_with, caplog):
    def probe(_call: object, _key: str) -> None:
        raise ValueError(CARD)

    ledger = ledger_with(rules=(Rule("refund", redact=["$.card"], probe=probe),))
    ledger.fail(ledger.begin(REFUND), TimeoutError())

    with pytest.raises(OutcomeUnknown) as unknown, caplog.at_level(logging.DEBUG):
        ledger.run(REFUND, never)
    assert CARD not in str(unknown.value) + caplog.text
