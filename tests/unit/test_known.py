"""Terms that are remembered are those that would be found anew."""

from __future__ import annotations

import copy
import pickle
from itertools import product

import pytest

from spanledger import Config, Rule
from spanledger.core import known
from spanledger.core.call import EXECUTE_TOOL, Call
from spanledger.core.known import KnownTerms
from spanledger.core.rules import terms_for

RULES = (Rule("refund", side_effect=True), Rule("re*", side_effect=False, lease_s=5), Rule("gpt-*"))
CALLS = [
    Call(name, operation=operation, call_id=call_id, key=key, opted_in=opted_in, waits=waits)
    for name, operation, call_id, key, opted_in, waits in product(
        ("refund", "read", "gpt-5", "other"),
        (EXECUTE_TOOL, "chat"),
        (None, "call_0", "call_a1"),
        (None, "k", ""),
        (True, False),
        (True, False),
    )
]
OWN = (None, Rule("own", identity="none"), Rule("own", identity="fields", fields=("n",)))


def test_every_call_has_the_terms_that_it_would_have_alone() -> None:
    terms = KnownTerms(RULES)
    for _ in range(2):
        for call, own in product(CALLS, OWN):
            assert terms.of(call, own) == terms_for(call, RULES, own)


def test_the_rule_of_a_tool_that_is_gone_is_not_taken_for_another_in_its_place() -> None:
    terms = KnownTerms(())
    for lease_s in range(1, 50):
        assert terms.of(CALLS[0], Rule("own", lease_s=lease_s)).lease_s == lease_s


def test_names_that_a_model_makes_up_do_not_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "KNOWN_MAX", 10)
    terms = KnownTerms(RULES)
    for n in range(100):
        terms.of(Call(f"made-up-{n}"))
    assert len(terms._known) <= 10


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda config: pickle.loads(pickle.dumps(config))])
def test_a_copy_of_a_configuration_has_the_terms_of_its_own_rules(copied) -> None:
    config = Config(rules=RULES)
    config.terms(CALLS[0])
    assert copied(config) == config
    assert copied(config).terms(CALLS[0]) == config.terms(CALLS[0])
