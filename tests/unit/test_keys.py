"""Which calls are the same call."""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import replace
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from spanledger import Config, Resource, Rule
from spanledger.core.call import Call, Identity, ScopeSource
from spanledger.core.keys import identify, passes_on
from spanledger.core.rules import terms_for
from spanledger.errors import Undescribable

unhurried = settings(deadline=None, max_examples=200, suppress_health_check=[HealthCheck.too_slow])
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=4)

TOOL = Call("refund", arguments={"order_id": "o-1", "amount": 10}, workflow_id="w-1", opted_in=True)
FROM_FRAMEWORK = replace(TOOL, workflow_source=ScopeSource.FRAMEWORK)


def identity(call: Call, rule: Rule | None = None, **how: Any) -> Identity:
    terms = terms_for(call, [rule] if rule else [])
    return identify(call, terms, **{"tenant": "acme", "nonce": "n-1"} | how)


def key(call: Call, rule: Rule | None = None, **how: Any) -> str:
    return identity(call, rule, **how).key


def rule(**fields: Any) -> Rule:
    return Rule("refund", **fields)


# --- the hash


def test_a_key_and_a_fingerprint_are_sha_256_in_hexadecimal() -> None:
    made = identity(TOOL)
    assert [len(bytes.fromhex(text)) for text in (made.key, made.fingerprint or "")] == [32, 32]


def test_a_fingerprint_is_reproducible_in_any_language() -> None:
    parts = [b"refund", b'{"amount":10,"order_id":"o-1"}']
    message = b"".join(len(part).to_bytes(8, "big") + part for part in parts)
    assert identity(TOOL).fingerprint == hashlib.sha256(message).hexdigest()


@unhurried
@given(*[st.tuples(texts, texts, texts, texts)] * 2)
def test_keys_are_equal_only_where_every_part_is(one: tuple[str, ...], other: tuple[str, ...]) -> None:
    def key_of(parts: tuple[str, ...]) -> str:
        tenant, scope, name, own = parts
        return key(Call(name, workflow_id=scope, key=own), tenant=tenant)

    assert (key_of(one) == key_of(other)) == (one == other)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("a|b", "c"), ("a", "b|c")),
        (("a|b", ""), ("a", "|b")),
        (("", "ab"), ("a", "b")),
        (("ab", ""), ("", "ab")),
        (("a\x1f", "b"), ("a", "\x1fb")),
    ],
)
def test_text_cannot_move_from_one_part_to_the_next(one: tuple[str, str], other: tuple[str, str]) -> None:
    def keys_of(parts: tuple[str, str]) -> list[str]:
        first, second = parts
        return [
            key(replace(TOOL, workflow_id=second), tenant=first),
            key(replace(TOOL, workflow_id=first, name=second)),
            key(replace(TOOL, name=first, key=second)),
            key(replace(TOOL, resource=Resource(first, second, 1))),
            key(replace(TOOL, call_id=f"x{first}", arguments=second), rule(identity="call_id")),
        ]

    assert not set(keys_of(one)) & set(keys_of(other))


@pytest.mark.parametrize(
    "changed",
    [
        {"name": "refund2"},
        {"workflow_id": "w-2"},
        {"arguments": {"order_id": "o-1", "amount": 11}},
        {"arguments": {"order_id": "o-1"}},
        {"key": "mine"},
        {"resource": Resource("stripe", "charge", "ch_1")},
    ],
)
def test_another_tool_scope_or_argument_is_another_call(changed: dict[str, Any]) -> None:
    assert key(replace(TOOL, **changed)) != key(TOOL)


def test_another_tenant_is_another_call() -> None:
    assert key(TOOL, tenant="other") != key(TOOL)


@pytest.mark.parametrize(
    "changed", [{"call_id": "call_9"}, {"agent": "b"}, {"actor": "u_2"}, {"turn": "t"}, {"opted_in": False}]
)
def test_who_asks_and_under_which_call_id_makes_no_other_call(changed: dict[str, Any]) -> None:
    by_arguments = rule(identity="arguments")
    assert key(replace(TOOL, **changed), by_arguments) == key(TOOL, by_arguments)


def test_a_secret_keys_the_hashes() -> None:
    made = [identity(TOOL, secret=secret) for secret in (None, b"one", b"two")]
    assert len({i.key for i in made}) == len({i.fingerprint for i in made}) == 3
    assert identity(TOOL, secret=b"one") == made[1]


def test_the_secret_of_the_configuration_is_used() -> None:
    def asked(**fields: Any) -> str:
        return Config(tenant="acme", **fields).asking(TOOL, attempt_id="n-1").identity.key

    assert asked() == key(TOOL)
    assert asked(secret="s") == key(TOOL, secret=b"s")


# --- by arguments


class Where(NamedTuple):
    street: str
    number: int


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": [1, 2]}, {"a": (1, 2)}),
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}),
        ({"a": 10}, {"a": 10.0}),
        ({"a": Where("Main", 5)}, {"a": {"street": "Main", "number": 5}}),
    ],
)
def test_what_a_retry_may_word_differently_is_the_same_call(one: Any, other: Any) -> None:
    assert key(replace(TOOL, arguments=one)) == key(replace(TOOL, arguments=other))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"a": 1}, {"a": "1"}),
        ({"a": 1}, {"a": True}),
        ({"a": None}, {}),
        ({"a": [1, 2]}, {"a": [2, 1]}),
        ({"amount": 2**53}, {"amount": 2**53 + 1}),
        ({}, None),
        ({}, "{}"),
        ("a", "b"),
    ],
)
def test_what_means_something_else_is_another_call(one: Any, other: Any) -> None:
    by_arguments = rule(identity="arguments")
    keys = []
    for arguments in (one, other):
        try:
            keys.append(key(replace(TOOL, arguments=arguments), by_arguments))
        except Undescribable:
            keys.append(None)
    assert keys[0] != keys[1]


def test_arguments_that_are_no_json_object_are_compared_as_text() -> None:
    assert key(replace(TOOL, arguments="10 EUR")) == key(replace(TOOL, arguments="10 EUR"))


# --- by fields


def test_fields_identify_and_the_rest_may_differ() -> None:
    by_order = rule(fields=("order_id",))
    made = [identity(replace(TOOL, arguments={"order_id": "o-1", "note": note}), by_order) for note in "ab"]
    assert made[0].key == made[1].key
    assert made[0].fingerprint != made[1].fingerprint
    assert made[0].source == "fields"
    assert key(replace(TOOL, arguments={"order_id": "o-2", "note": "a"}), by_order) != made[0].key


def test_the_names_of_fields_count_and_their_order_does_not() -> None:
    call = replace(TOOL, arguments={"a": 1, "b": 1})
    assert key(call, rule(fields=("a", "b"))) == key(call, rule(fields=("b", "a")))
    assert key(call, rule(fields=("a",))) != key(call, rule(fields=("b",)))


def test_fields_of_the_call_win_over_those_of_the_rule() -> None:
    call = replace(TOOL, fields=("amount",))
    assert key(call, rule(fields=("order_id",))) == key(call) == key(TOOL, rule(fields=("amount",)))


@pytest.mark.parametrize("arguments", [{"amount": 1}, {}, "o-1", None])
def test_a_missing_field_is_never_guessed(arguments: Any) -> None:
    with pytest.raises(Undescribable, match="identified by order_id, and this call has no such argument"):
        identity(replace(TOOL, arguments=arguments), rule(fields=("order_id",)))


def test_a_field_that_is_none_is_not_missing() -> None:
    by_order = rule(fields=("order_id",))
    assert identity(replace(TOOL, arguments={"order_id": None}), by_order).source == "fields"


# --- by call id


def test_a_call_id_identifies_together_with_the_arguments() -> None:
    by_id = rule(identity="call_id")
    first = replace(TOOL, call_id="call_a1")
    keys = {
        key(first, by_id),
        key(replace(first, call_id="call_a2"), by_id),
        key(replace(first, arguments={"order_id": "o-2"}), by_id),
    }
    assert len(keys) == 3
    assert identity(first, by_id).source == "call_id"


@pytest.mark.parametrize("call_id", [None, "", " ", "unknown", "UNKNOWN", "None", "null", "call_0"])
def test_an_id_that_every_call_has_identifies_nothing(call_id: str | None) -> None:
    call = replace(TOOL, call_id=call_id, opted_in=False)
    made = [identity(call, nonce=nonce) for nonce in "ab"]
    assert made[0].key != made[1].key
    assert made[0].source == "none"
    with pytest.raises(Undescribable, match="needs a call id, and this call has none"):
        identity(call, rule(identity="call_id"))


@pytest.mark.parametrize("arguments", [None, {"callback": len}])
def test_a_call_id_alone_is_not_trusted(arguments: Any) -> None:
    with pytest.raises(Undescribable):
        identity(replace(TOOL, call_id="call_a1", arguments=arguments), rule(identity="call_id"))


# --- by key and by resource


def test_a_key_of_the_callers_own_stands_for_the_arguments() -> None:
    mine = [identity(replace(TOOL, key="k-1", arguments=arguments)) for arguments in ({"a": 1}, {"a": 2}, None)]
    assert len({i.key for i in mine}) == 1
    assert len({i.fingerprint for i in mine}) == 3
    assert {i.source for i in mine} == {"explicit"}
    assert key(replace(TOOL, key="k-2")) != mine[0].key


@pytest.mark.parametrize("fields", [{"identity": "none"}, {"identity": "call_id"}, {"fields": ("order_id",)}])
def test_a_key_of_the_callers_own_wins_over_the_rule(fields: dict[str, Any]) -> None:
    call = replace(TOOL, key="k-1")
    assert key(call, rule(**fields)) == key(call)


def test_an_empty_key_is_a_key() -> None:
    assert identity(replace(TOOL, key="")).source == "explicit"


def test_a_resource_stands_for_the_arguments() -> None:
    charge = Resource("stripe", "charge", {"id": "ch_1", "n": 1})
    made = identity(replace(TOOL, resource=charge))
    assert made.source == "resource"
    assert key(replace(TOOL, resource=charge, arguments={"note": "b"})) == made.key
    others = [replace(charge, id="ch_1"), replace(charge, type="refund"), replace(charge, namespace="adyen")]
    assert len({made.key} | {key(replace(TOOL, resource=other)) for other in others}) == 4


def test_a_rule_that_identifies_by_resource_needs_one() -> None:
    with pytest.raises(Undescribable, match=r"give it one: ToolCall\(resource=…\)"):
        identity(TOOL, rule(identity="resource"))


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations(["explicit", "resource", "call_id", "args"], 2)))
def test_kinds_of_identity_do_not_meet(one: str, other: str) -> None:
    made = {
        "explicit": lambda: key(replace(TOOL, key='{"a":1}', arguments={"a": 1})),
        "resource": lambda: key(replace(TOOL, resource=Resource("", "", {"a": 1}))),
        "call_id": lambda: key(replace(TOOL, call_id="x", arguments={"a": 1}), rule(identity="call_id")),
        "args": lambda: key(replace(TOOL, arguments={"a": 1})),
    }
    assert made[one]() != made[other]()


def test_a_call_without_identity_never_meets_another() -> None:
    made = [identity(TOOL, rule(identity="none"), nonce=nonce) for nonce in ("n-1", "n-2")]
    assert made[0].key != made[1].key
    assert made[0].fingerprint == made[1].fingerprint
    assert {i.source for i in made} == {"none"}


# --- scope


@pytest.mark.parametrize("source", [ScopeSource.GIVEN, ScopeSource.ENVIRONMENT, ScopeSource.TRACE])
def test_a_scope_that_was_not_derived_is_taken_as_it_is(source: ScopeSource) -> None:
    made = identity(replace(TOOL, workflow_source=source, turn="t-1", actor="u_1"))
    assert made == identity(TOOL)
    assert made.scope == "w-1"


@pytest.mark.parametrize("source", [ScopeSource.FRAMEWORK, ScopeSource.CONVERSATION])
def test_a_derived_scope_is_narrowed_to_the_turn_and_the_actor(source: ScopeSource) -> None:
    derived = replace(TOOL, workflow_source=source)
    narrowed = [{}, {"turn": "x"}, {"actor": "x"}, {"turn": "x", "actor": "x"}, {"turn": "y"}, {"actor": "y"}]
    made = [identity(replace(derived, **fields)) for fields in narrowed]
    assert len({i.key for i in made}) == len({i.scope for i in made}) == len(narrowed)
    assert made[0].scope == "w-1"
    assert identity(replace(derived, turn="x", actor="x")) == made[3]


def test_a_rule_widens_a_derived_scope_to_the_whole_conversation() -> None:
    widened = rule(scope="workflow")
    made = [identity(replace(FROM_FRAMEWORK, turn=turn, actor=turn), widened) for turn in ("t-1", "t-2", None)]
    assert {i.scope for i in made} == {"w-1"}
    assert len({i.key for i in made}) == 1


# --- what cannot be described


@pytest.mark.parametrize("arguments", [{"when": object()}, {"x": float("nan")}, {"x": "\ud800"}, {"x": [10**5000]}])
def test_arguments_that_cannot_be_compared_refuse_a_call_identified_by_them(arguments: Any) -> None:
    with pytest.raises(Undescribable, match="cannot be compared: "):
        identity(replace(TOOL, arguments=arguments))


@pytest.mark.parametrize(
    ("changed", "how"),
    [
        ({"key": "k-1"}, None),
        ({"resource": Resource("s", "t", 1)}, None),
        ({}, {"identity": "none"}),
        ({}, {"fields": ("order_id",)}),
        ({"fields": ("order_id",)}, None),
    ],
)
def test_arguments_that_cannot_be_compared_matter_only_where_the_identity_needs_them(
    changed: dict[str, Any], how: dict[str, Any] | None
) -> None:
    call = replace(TOOL, arguments={"order_id": "o-1", "callback": len}, **changed)
    made = identity(call, rule(**how) if how else None)
    assert made.fingerprint is None
    assert len(made.key) == 64


def test_a_resource_or_field_that_cannot_be_compared_refuses_the_call() -> None:
    with pytest.raises(Undescribable):
        identity(replace(TOOL, resource=Resource("s", "t", object())))
    with pytest.raises(Undescribable):
        identity(replace(TOOL, arguments={"order_id": object()}), rule(fields=("order_id",)))


def test_unknown_arguments_refuse_a_call_identified_by_them() -> None:
    with pytest.raises(Undescribable, match="this call does not show them"):
        identity(replace(TOOL, arguments=None))


@pytest.mark.parametrize("name", ["name", "workflow_id", "turn", "call_id", "agent", "actor", "key"])
@pytest.mark.parametrize("text", ["a\0b", "\ud800", 7])
def test_a_text_that_postgres_cannot_hold_is_refused_before_it_is_sent(name: str, text: Any) -> None:
    with pytest.raises(Undescribable, match=f"{name} of .* which is no text that the ledger can hold"):
        identify(replace(TOOL, **{name: text}), terms_for(TOOL, []), tenant="acme", nonce="n")


@pytest.mark.parametrize("resource", [Resource("a\0", "b", 1), Resource("a", "\udfff", 1)])
def test_a_resource_that_is_no_text_is_refused(resource: Resource) -> None:
    with pytest.raises(Undescribable, match=r"resource\."):
        identity(replace(TOOL, resource=resource))


@pytest.mark.parametrize("tenant", ["a\0", "\ud800"])
def test_a_tenant_that_postgres_cannot_hold_is_refused(tenant: str) -> None:
    with pytest.raises(Undescribable, match="tenant of"):
        identity(TOOL, tenant=tenant)


# --- a call by another name

SENT = replace(TOOL, sent=True)


def is_passed_on_by(name: str, arguments: Any = TOOL.arguments, inner: Call = SENT) -> bool:
    outer = identity(replace(TOOL, name=name, arguments=arguments))
    return passes_on(name, outer.fingerprint, inner, identity(inner))


@pytest.mark.parametrize("name", ["shop_refund", "mcp_shop__refund", "mcp__shop__refund", "shop.refund", "shop/refund"])
def test_a_call_with_a_prefix_before_the_name_on_its_server_is_the_same_call(name):
    assert is_passed_on_by(name)


@pytest.mark.parametrize("name", ["refund", "prerefund", "research", "refund_shop", "shop_Refund", "", "_"])
def test_a_call_by_any_other_name_is_another(name):
    assert not is_passed_on_by(name)


def test_names_that_a_model_may_not_see_are_spelled_with_underscores():
    assert is_passed_on_by("mcp_shop__re_fund", inner=replace(SENT, name="re.fund"))
    assert not is_passed_on_by("shop_refund", inner=replace(SENT, name="..."))


def test_with_other_arguments_or_when_it_goes_to_no_server_it_is_another_call():
    assert not is_passed_on_by("shop_refund", {"order_id": "o-2"})
    assert not is_passed_on_by("shop_refund", inner=TOOL)


def test_where_nothing_but_the_name_is_shown_on_the_way_the_name_has_to_do():
    assert is_passed_on_by("shop_refund", inner=replace(SENT, arguments=None, opted_in=False))
