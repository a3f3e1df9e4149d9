"""A budget is checked when it is made, and says to the ledger what it means."""

from __future__ import annotations

import math
from decimal import Decimal
from typing import Any

import pytest

from spanledger import Balance, Budget, Calls, Money, Tokens
from spanledger.errors import ConfigError


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"name": ""}, "a budget needs a name, not ''"),
        ({"limit": 5}, "the limit is Money, Tokens or Calls, not 5"),
        ({"match": ""}, "match is a name of tools or models"),
        ({"operations": "chat"}, "operations is a list of names"),
        ({"operations": ("chat", "bogus")}, r"list of execute_tool, chat, .*, retrieval, not \['chat', 'bogus'\]"),
        ({"operations": ("invoke_agent",)}, "operations is a list of execute_tool"),
        ({"operations": ()}, "operations is a list of execute_tool"),
        ({"per": "user"}, "per is a list of tenant, actor, agent, workflow, tool, model, not 'user'"),
        ({"per": ("actor", "user")}, "per is a list of"),
        ({"per": 7}, "per is a list of"),
        ({"window": "week"}, "window is one of hour, day, month, or a number of seconds, not 'week'"),
        ({"window": 0.5}, "a rolling window has at least 1 s, not 0.5"),
        ({"window": -60}, "a rolling window has at least 1 s"),
        ({"window": math.inf}, "a rolling window has at least 1 s"),
        ({"window": math.nan}, "a rolling window has at least 1 s"),
        ({"window": True}, "window is one of"),
        ({"timezone": "Berlin"}, "'Berlin' is not a time zone; use an IANA name such as 'Europe/Berlin'"),
        ({"timezone": "../etc/passwd"}, "is not a time zone"),
        ({"timezone": ""}, "is not a time zone"),
        ({"timezone": None}, "is not a time zone"),
        ({"soft": 0}, "soft is an amount, or a share of the limit between 0 and 1, not 0"),
        ({"soft": 1.5}, "soft is an amount, or a share"),
        ({"soft": True}, "soft is an amount, or a share"),
        ({"soft": "0.8"}, "soft is an amount, or a share"),
        ({"soft": Tokens(1)}, "soft is in tokens and the limit in calls"),
    ],
)
def test_a_budget_that_cannot_be_is_refused(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        Budget(**{"name": "mails", "limit": Calls(5)} | fields)


def test_what_it_is_kept_apart_by_is_one_name_or_several() -> None:
    assert Budget("b", Calls(1), per="actor").per == ("actor",)
    assert Budget("b", Calls(1), per=["actor", "tool", "actor"]).per == ("actor", "tool")
    # Every tenant's budgets are its own anyway.
    assert Budget("b", Calls(1), per=("tenant", "actor")).control()["per"] == ["actor"]


@pytest.mark.parametrize(
    ("window", "kind", "window_s"),
    [(None, None, None), ("day", "day", None), (90, "rolling", 90), (1.5, "rolling", 1.5)],
)
def test_a_number_of_seconds_is_a_rolling_window(window: Any, kind: str | None, window_s: float | None) -> None:
    control = Budget("b", Calls(1), window=window).control()
    assert (control["window"], control["window_s"]) == (kind, window_s)


@pytest.mark.parametrize(
    ("soft", "steps"),
    [(None, None), (0.8, 8_000_000), (Decimal("0.333"), 3_330_000), (1, 10_000_000), (Money("9.99", "EUR"), 9_990_000)],
)
def test_a_soft_limit_is_an_amount_or_a_share(soft: Any, steps: int | None) -> None:
    assert Budget("b", Money(10, "EUR"), soft=soft).control()["soft"] == steps


@pytest.mark.parametrize(("remaining", "past"), [(3, False), (2, False), (1, True), (-1, True)])
def test_a_balance_is_past_its_soft_limit_when_more_is_used(remaining: int, past: bool) -> None:
    figures = (Calls(10), Calls(0), Calls(0), Calls.of_steps(remaining))
    assert Balance("b", *figures, soft=Calls(8)).past_soft is past
    assert not Balance("b", *figures).past_soft
