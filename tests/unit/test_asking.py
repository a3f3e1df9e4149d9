"""From a configuration and a call to what is asked of the ledger."""

from __future__ import annotations

from typing import Any

import pytest

from spanledger import Budget, Config, Rule, Tokens
from spanledger.core.asking import Traced
from spanledger.core.call import Call, ScopeSource

CALL = Call("refund", arguments={"order_id": "o-1"}, opted_in=True)


def asking(config: Config, call: Call, **how: Any) -> Any:
    return config.asking(call, attempt_id="a-1", **how)


@pytest.mark.parametrize(
    ("configured", "given", "source", "scope"),
    [
        (None, "w", ScopeSource.GIVEN, "w"),
        (None, "t", ScopeSource.FRAMEWORK, "t"),
        (None, None, ScopeSource.GIVEN, "11" * 16),
        ("w-env", None, ScopeSource.GIVEN, "w-env"),
        ("w-env", "w", ScopeSource.GIVEN, "w"),
        ("w-env", "t", ScopeSource.FRAMEWORK, "w-env"),
        ("w-env", "c", ScopeSource.CONVERSATION, "w-env"),
    ],
)
def test_a_given_scope_comes_before_the_configured_and_that_before_a_derived_one(
    configured: str | None, given: str | None, source: ScopeSource, scope: str
) -> None:
    call = Call("refund", arguments={}, workflow_id=given, workflow_source=source, opted_in=True)
    asked = asking(Config(workflow_id=configured), call, trace=Traced("11" * 16, "22" * 8))
    assert asked.identity.scope == scope
    assert (asked.item()["trace_id"], asked.item()["span_id"]) == ("11" * 16, "22" * 8)


def test_what_is_not_known_of_a_call_is_not_sent() -> None:
    assert None not in asking(Config(), CALL).item().values()


def test_tenant_and_agent_of_the_call_win_over_the_configuration() -> None:
    config = Config(tenant="acme", agent="support")
    asked = asking(config, CALL)
    assert (asked.tenant, asked.call.agent) == ("acme", "support")
    other = asking(config, Call("refund", arguments={}, tenant="globex", agent="b", opted_in=True))
    assert (other.tenant, other.call.agent) == ("globex", "b")


@pytest.mark.parametrize(
    ("arguments", "bytes_max", "copied"),
    [
        ({"b": 1, "a": "é"}, 100, '{"a":"é","b":1}'),
        ({"a": "é"}, 10, '{"a":"é"}'),
        ({"a": "é"}, 9, None),
        (None, 100, None),
        ({"a": object()}, 100, None),
    ],
)
def test_arguments_are_copied_for_people_up_to_a_number_of_bytes(
    arguments: Any, bytes_max: int, copied: str | None
) -> None:
    call = Call("refund", arguments=arguments, key="k", opted_in=True)
    assert asking(Config(arguments_bytes_max=bytes_max), call).arguments == copied


@pytest.mark.parametrize(
    ("call", "covered"),
    [
        (Call("gpt-5", operation="chat"), True),
        (Call("gpt-5", operation="embeddings"), False),
        (Call("claude", operation="chat"), False),
        (Call("refund"), True),
        (Call("lookup"), False),
        (CALL, True),
    ],
)
def test_the_ledger_is_asked_about_what_a_budget_or_a_rule_covers(call: Call, covered: bool) -> None:
    budget = Budget("thinking", Tokens(1), match="gpt-*", operations=("chat",))
    assert Config(rules=(Rule("refund"),), budgets=(budget,)).covers(call) is covered
