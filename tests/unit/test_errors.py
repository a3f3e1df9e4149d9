"""The tree of errors: data on attributes, kept by pickling, the rest refused."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest

from spanledger import Calls, Money, Tokens, errors
from spanledger.errors import (
    ApprovalDenied,
    ApprovalPending,
    BudgetExceeded,
    CallCancelled,
    CallFailed,
    CallInProgress,
    CallPending,
    CallRefused,
    CallReplayed,
    ConfigError,
    EgressRefused,
    KeyReused,
    LedgerUnavailable,
    NotAuthorized,
    OutcomeUnknown,
    ResultNotKept,
    SpanledgerError,
    Undescribable,
    WrapMissing,
)

PARENTS = {
    CallRefused: SpanledgerError,
    BudgetExceeded: CallRefused,
    ApprovalDenied: CallRefused,
    NotAuthorized: CallRefused,
    CallCancelled: CallRefused,
    EgressRefused: CallRefused,
    KeyReused: CallRefused,
    Undescribable: CallRefused,
    CallPending: SpanledgerError,
    CallInProgress: CallPending,
    ApprovalPending: CallPending,
    CallFailed: SpanledgerError,
    ResultNotKept: SpanledgerError,
    CallReplayed: SpanledgerError,
    OutcomeUnknown: SpanledgerError,
    LedgerUnavailable: SpanledgerError,
    ConfigError: SpanledgerError,
    WrapMissing: ConfigError,
}

FIGURES = {
    "budget": "support-day",
    "unit": "EUR",
    "limit": Money("10", "EUR"),
    "spent": Money("9", "EUR"),
    "held": Tokens(1),
    "remaining": Calls.of_steps(-1),
    "requested": Money("2", "EUR"),
}
SAMPLES: list[tuple[type[SpanledgerError], dict[str, Any]]] = [
    (BudgetExceeded, FIGURES),
    (CallFailed, {"error": {"type": "builtins.ValueError", "message": "no"}, "attempts": 3}),
    (CallReplayed, {"result": {"id": "r-1"}}),
    (OutcomeUnknown, {"attempts": 2}),
    (ApprovalDenied, {"approver": "ops@example.com", "reason": "too much"}),
    (ApprovalPending, {"approval_id": "4f6f"}),
    (NotAuthorized, {"permission": None, "reason": "incident 42"}),
    *[(kind, {}) for kind in PARENTS if kind not in (BudgetExceeded, CallFailed, CallReplayed, OutcomeUnknown)],
]


def test_every_error_stands_where_the_tree_says() -> None:
    kinds = {k for k in vars(errors).values() if isinstance(k, type) and issubclass(k, SpanledgerError)}
    assert kinds == {SpanledgerError, *PARENTS}
    assert {kind: kind.__bases__[0] for kind in PARENTS} == PARENTS


def test_the_tree_in_the_docstring_names_every_error() -> None:
    drawn = errors.__doc__ or ""
    assert [kind.__name__ for kind in PARENTS if f"|__ {kind.__name__} " not in drawn] == []


def test_a_wrong_configuration_is_a_value_error_and_no_other_is() -> None:
    assert {kind for kind in PARENTS if issubclass(kind, ValueError)} == {ConfigError, WrapMissing}


def test_refusals_can_be_told_from_what_is_only_not_yet_and_from_doubt() -> None:
    assert not issubclass(OutcomeUnknown, CallRefused | CallPending)
    assert not issubclass(LedgerUnavailable, CallRefused | CallPending)
    assert not issubclass(CallFailed, CallRefused)


@pytest.mark.parametrize(("kind", "data"), SAMPLES)
@pytest.mark.parametrize("protocol", [2, pickle.HIGHEST_PROTOCOL])
def test_an_error_survives_pickling_with_its_data(
    kind: type[SpanledgerError], data: dict[str, Any], protocol: int
) -> None:
    error = kind("not run: 100 % of\nthe budget", key="ab" * 32, **data)
    for back in (pickle.loads(pickle.dumps(error, protocol)), copy.copy(error)):
        assert type(back) is kind
        assert str(back) == "not run: 100 % of\nthe budget"
        assert {name: getattr(back, name) for name in ("key", *data)} == {"key": "ab" * 32, **data}


@pytest.mark.parametrize(("kind", "data"), SAMPLES)
def test_data_that_was_not_given_is_none(kind: type[SpanledgerError], data: dict[str, Any]) -> None:
    error = kind("no")
    assert {getattr(error, name) for name in ("key", *data)} == {None}


@pytest.mark.parametrize("kind", [SpanledgerError, *PARENTS])
def test_data_that_an_error_does_not_have_is_refused(kind: type[SpanledgerError]) -> None:
    with pytest.raises(TypeError, match=f"{kind.__name__} has no weight, zeal"):
        kind("no", zeal=1, weight=2)


def test_an_error_of_a_users_own_subclass_survives_pickling() -> None:
    back = pickle.loads(pickle.dumps(OutOfAllowance("no", key="k", budget="b")))
    assert (type(back), str(back), back.key, back.budget) == (OutOfAllowance, "no", "k", "b")


class OutOfAllowance(BudgetExceeded):
    """What an application may add."""
