"""When a person has to say yes: what a rule may say, and what the ledger is asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from spanledger import Call, Calls, Config, Money, Rule, Tokens, over
from spanledger.core.approvals import asked_for
from spanledger.errors import ConfigError, Undescribable


async def coroutine_function(arguments: Any) -> bool:
    return True


@pytest.mark.parametrize("amount", [100, "100 EUR", None, 1.5])
def test_over_takes_an_amount(amount: Any) -> None:
    with pytest.raises(ConfigError, match="over takes Money, Tokens or Calls, not"):
        over(amount)


@pytest.mark.parametrize("approval", ["always", 1, None, Money(1, "EUR"), coroutine_function])
def test_a_rule_says_when_by_yes_no_an_amount_or_a_plain_function(approval: Any) -> None:
    with pytest.raises(
        ConfigError, match=r"rule 'refund': approval is true, false, over\(amount\) or a plain function"
    ):
        Rule("refund", approval=approval)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"approval_timeout_s": 0.5}, "approval_timeout_s is a number of seconds, at least 1"),
        ({"approval_timeout_s": "1h"}, "approval_timeout_s is a number of seconds"),
        ({"approval_covers_retries": "yes"}, "approval_covers_retries is true or false"),
        ({"self_approval": 1}, "self_approval is true or false"),
    ],
)
def test_the_terms_of_an_approval_are_checked(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Rule("refund", approval=True, **fields)


@pytest.mark.parametrize(
    ("approval", "asked"),
    [
        (True, True),
        (False, False),
        (over(Money("1.50", "EUR")), {"unit": "EUR", "steps": 1_500_000}),
        (over(Tokens(7)), {"unit": "tokens", "steps": 7}),
        (over(Calls(0)), {"unit": "calls", "steps": 0}),
        (lambda arguments: arguments["amount"] > 5, True),
        (lambda arguments: arguments["amount"] > 6, False),
    ],
)
def test_the_ledger_is_asked_for_no_yes_or_an_amount(approval: Any, asked: Any) -> None:
    assert asked_for(Call("refund", arguments={"amount": 6}), approval) == asked


def test_nobody_is_asked_about_a_question_to_a_model() -> None:
    assert asked_for(Call("gpt-5", operation="chat"), True) is False


@pytest.mark.parametrize(
    ("approval", "complaint"),
    [
        (lambda arguments: arguments["nothing"], "whether 'refund' needs an approval cannot be said: KeyError"),
        (lambda arguments: None, "approval of 'refund' gave None; it has to be True or False"),
        (coroutine_function, "it has to be True or False"),
    ],
)
def test_a_function_that_cannot_say_refuses_the_call(approval: Any, complaint: str) -> None:
    with pytest.raises(Undescribable, match=complaint):
        asked_for(Call("refund", arguments={}), approval)


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ('"over 100"', "rule 'refund': unknown currency"),
        ('"over much EUR"', "rule 'refund': 'much' is not a decimal number"),
        ('"always"', "rule 'refund': approval is true, false, 'over 100.00 EUR' or 'module:function', not 'always'"),
        ("{amount_over = '20 EUR'}", "rule 'refund': approval is true, false, 'over 100.00 EUR' or 'module:function'"),
        ('"json:nothing"', "cannot find 'json:nothing'"),
        ("100", "rule 'refund': approval is true, false"),
    ],
)
def test_a_file_that_says_it_wrong_is_refused(tmp_path: Path, text: str, complaint: str) -> None:
    (tmp_path / "any.toml").write_text(f'[[rules]]\nmatch = "refund"\napproval = {text}\n')
    with pytest.raises(ConfigError, match=complaint):
        Config.from_file(tmp_path / "any.toml")
