"""What may be seen of values whose rule redacts."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanledger import Config, Redact, Rule, jsonpaths, tool, tool_call
from spanledger.core.call import Call
from spanledger.core.content import Capture, Content, capture_said
from spanledger.core.redaction import MASK, Redactor
from spanledger.errors import ConfigError, Undescribable

SECRET = b"0123456789abcdef"
CARD = "4111111111111111"


def redactor(*redact: Redact | str, secret: bytes | None = SECRET) -> Redactor:
    places = tuple(Redact(one) if isinstance(one, str) else one for one in redact)
    return Redactor(places, jsonpaths.find, secret)


def seen(value: Any, *redact: Redact | str) -> Any:
    return redactor(*redact).tree(value)


# --- places


def test_what_a_path_finds_is_masked_and_nothing_else():
    order = {"customer": {"card": CARD, "name": "Ada"}, "items": [{"sku": "a"}, {"sku": "b"}]}

    assert seen(order, "$.customer.card") == {**order, "customer": {"card": MASK, "name": "Ada"}}
    assert seen(order, "$.items[*].sku")["items"] == [{"sku": MASK}, {"sku": MASK}]
    assert seen(order, "$..card")["customer"] == {"card": MASK, "name": "Ada"}
    assert seen(order, "$.items[?@.sku == 'b'].sku")["items"] == [{"sku": "a"}, {"sku": MASK}]
    assert seen(order, "$") == MASK
    assert seen(order, "$.nothing") == order


def test_a_key_is_masked_at_any_depth_however_it_is_spelled():
    value = {"api_key": 1, "in": [{"API-Key": 2}, {"apiKey": {"deep": 3}}], "keys": 4}

    assert seen(value, "api_key") == {"api_key": MASK, "in": [{"API-Key": MASK}, {"apiKey": MASK}], "keys": 4}


def test_a_star_stands_for_any_text_in_the_name_of_a_key():
    assert seen({"access_token": 1, "token": 2, "tokens": 3}, "*token") == {
        "access_token": MASK,
        "token": MASK,
        "tokens": 3,
    }


def test_a_header_is_masked_wherever_it_stands():
    headers = {
        "headers": {"Authorization": CARD},
        "raw": [["authorization", CARD], ["accept", "*/*"]],
        "har": [{"name": "Authorization", "value": CARD}, {"name": "Accept", "value": "*/*"}],
        "line": f"Authorization: Bearer {CARD}",
    }

    shown = seen(headers, "authorization")

    assert CARD not in json.dumps(shown)
    assert shown["raw"][1] == ["accept", "*/*"]
    assert shown["har"][1]["value"] == "*/*"


def test_json_inside_of_text_is_looked_into():
    body = json.dumps({"card": CARD, "again": json.dumps({"card": CARD}), "name": "Ada"})

    for place in ("card", "$.card"):
        shown = seen({"body": body, "twice": json.dumps(body)}, place)
        assert CARD not in json.dumps(shown)
        assert json.loads(shown["body"])["name"] == "Ada"


@pytest.mark.parametrize("raw", [b'{"card": "' + CARD.encode() + b'"}', b"\xff\xfe" + CARD.encode()])
def test_bytes_that_hold_it_or_cannot_be_read_are_masked(raw):
    assert seen({"body": raw}, "card") == {"body": MASK}
    assert seen({"body": b"plain"}, "card") == {"body": {"$bytes": "cGxhaW4="}}


def test_a_key_with_a_dollar_sign_is_found_under_its_own_name():
    assert seen({"$secret": 1, "$$x": 2}, "$['$secret']") == {"$secret": MASK, "$$x": 2}


def test_records_are_looked_into_like_objects():
    from tests.unit.records import Item

    assert seen(Item("s-1", Decimal("1.10")), "$.price")["price"] == MASK


# --- actions


def test_what_is_removed_leaves_nothing_behind():
    value = {"card": CARD, "cards": [CARD, CARD], "headers": [["card", CARD], ["a", "b"]]}

    assert seen(value, Redact("$.cards[0]", "remove"), Redact("card", "remove")) == {
        "cards": [CARD],
        "headers": [["a", "b"]],
    }
    assert seen({"card": CARD}, Redact("$", "remove")) is None


def test_equal_values_have_equal_hashes_that_depend_on_the_secret():
    first, second = (seen({"card": card}, Redact("card", "hmac"))["card"] for card in (CARD, CARD))
    other = redactor(Redact("card", "hmac"), secret=b"other").tree({"card": CARD})["card"]

    assert first == second != other
    assert first.startswith("hmac:")
    assert seen({"card": "4222"}, Redact("card", "hmac"))["card"] != first


def test_of_two_that_name_the_same_place_the_first_counts():
    assert seen({"card": CARD}, Redact("$.card", "remove"), "$.card") == {}
    assert seen({"card": CARD}, "card", Redact("card", "remove")) == {"card": MASK}


# --- failing closed


@pytest.mark.parametrize("text", ['{"card": "4111', "[1, 2", '{"card": 1, "card": 2}', '{"card": ' * 5000])
def test_what_looks_like_json_and_cannot_be_read_is_masked(text):
    assert seen({"body": text}, "$.other") in ({"body": MASK}, MASK)
    assert redactor("$.other").text(text) == MASK


def test_text_that_stands_for_a_document_and_is_none_is_masked():
    for text in ("4111", "charged 4111", "null", '"4111"'):
        assert redactor("$.card").text(text) == MASK
    assert redactor("$.card").text('{"ok": 1}') == '{"ok": 1}'
    assert Content(redactor("$.card")).words("could not charge 4111") == MASK


def test_text_that_names_a_redacted_key_is_masked():
    for place in ("card", "$.customer.card", "$..['card']"):
        assert seen({"note": f"card={CARD}"}, place) == {"note": MASK}
        assert seen({"note": "discarded"}, place) == {"note": "discarded"}


def test_text_that_repeats_what_is_redacted_in_the_arguments_is_masked():
    knowing = redactor("$.card").knowing({"card": CARD, "pin": 12, "amount": 100})

    assert knowing.tree({"note": f"charged {CARD}", "number": int(CARD), "amount": 100}) == {
        "note": MASK,
        "number": MASK,
        "amount": 100,
    }
    assert knowing.tree(f"charged {CARD}") == MASK
    assert knowing.tree("charged") == "charged"


class Opaque:
    """A value without a JSON form."""


def test_a_value_that_has_no_json_form_is_masked():
    assert seen({"a": Opaque()}, "card") == MASK
    assert redactor("card").hides(Opaque())


def test_a_path_whose_engine_fails_masks_the_whole_value():
    def broken(path: str, tree: Any) -> Any:
        raise RuntimeError(path)

    assert Redactor((Redact("$.card"),), broken).tree({"a": 1}) == MASK


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["card", "a", "name"]), inner, max_size=3)
    ),
    max_leaves=12,
)


@settings(deadline=None)
@given(JSON, st.sampled_from(["card", "$..card"]), st.booleans())
def test_nothing_of_a_redacted_place_is_left_however_deep(value, place, as_text):
    def planted(tree: Any) -> Any:
        if isinstance(tree, dict):
            return {key: "canary-7f3a" if key == "card" else planted(item) for key, item in tree.items()}
        return [planted(item) for item in tree] if isinstance(tree, list) else tree

    document = planted({"in": value, "card": 1})

    shown = seen({"body": json.dumps(document)} if as_text else document, place)

    assert "canary" not in json.dumps(shown)


# --- configuration


def test_what_cannot_be_redacted_is_an_error_that_says_what_to_do():
    with pytest.raises(ConfigError, match="is no JSONPath"):
        Config(rules=[Rule("refund", redact=["$.a["])])
    with pytest.raises(ConfigError, match="a list of JSONPaths, names of keys, or Redact"):
        Rule("refund", redact=[7])  # type: ignore[list-item]
    with pytest.raises(ConfigError, match="action is one of mask, remove, hmac"):
        Redact("card", "hide")
    with pytest.raises(ConfigError, match="takes a JSONPath"):
        Redact("--")
    with pytest.raises(ConfigError, match="needs SPANLEDGER_SECRET"):
        Config(rules=[Rule("refund", redact=[Redact("card", "hmac")])])


def test_a_tool_of_ones_own_with_a_path_that_cannot_be_read_is_an_error_where_it_is_written():
    with pytest.raises(ConfigError, match="is no JSONPath"):
        tool("refund", redact=["$.a["])(lambda: None)
    with pytest.raises(ConfigError, match="is no JSONPath"):
        tool_call("refund", redact=["$.a["])


def test_a_path_without_its_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "jsonpath", None)

    with pytest.raises(ConfigError, match=r"pip install 'spanledger\[jsonpath\]'"):
        Config(rules=[Rule("refund", redact=["$.never_compiled_before"])])
    assert Config(rules=[Rule("refund", redact=["card"])])


def test_a_file_redacts_too_and_the_environment_has_the_secret(tmp_path):
    (tmp_path / "spanledger.toml").write_text(
        '[[rules]]\nmatch = "refund"\nredact = ["password", {path = "$.card", action = "hmac"}]\n'
    )

    config = Config.from_env({"SPANLEDGER_CONFIG": str(tmp_path / "spanledger.toml"), "SPANLEDGER_SECRET": "s"})

    assert config.rules[0].redact == (Redact("password"), Redact("$.card", "hmac"))
    with pytest.raises(ConfigError, match="SPANLEDGER_SECRET"):
        Config.from_file(tmp_path / "spanledger.toml")


def test_what_the_developer_and_the_configuration_redact_is_redacted_both():
    config = Config(rules=[Rule("refund", redact=["card"])])

    shown = config.content(Call("refund"), Rule("refund", redact=["pin"]))

    assert shown.seen({"card": 1, "pin": 2, "amount": 3}) == {"card": MASK, "pin": MASK, "amount": 3}
    assert config.content(Call("lookup")).seen({"card": 1}) == {"card": 1}


# --- what a call shows


def asking(**arguments: Any) -> Any:
    rule = Rule("refund", redact=["$.card"])
    return Config(rules=[rule]).asking(Call("refund", arguments=arguments, workflow_id="w"), attempt_id="a")


def test_the_copy_for_people_is_redacted_and_the_key_is_that_of_the_exact_arguments():
    one, other = asking(card=CARD, amount=1), asking(card="4222", amount=1)

    assert one.arguments == other.arguments == '{"amount":1,"card":"[redacted]"}'
    assert one.identity.fingerprint != other.identity.fingerprint


def test_arguments_that_are_no_json_are_masked_in_the_copy():
    call = Call("refund", arguments=f"charge {CARD}", workflow_id="w")

    shown = Config(rules=[Rule("refund", redact=["$.card"])]).asking(call, attempt_id="a")

    assert shown.arguments == '"[redacted]"'


def test_why_a_price_cannot_be_read_does_not_tell_the_argument():
    def price(arguments: Any) -> Any:
        raise ValueError(f"cannot read {arguments['card']}")

    config = Config(rules=[Rule("refund", redact=["card"], reserve=price)])

    with pytest.raises(Undescribable) as raised:
        config.asking(Call("refund", arguments={"card": CARD}, workflow_id="w"), attempt_id="a")

    assert CARD not in repr((raised.value, raised.value.__cause__, raised.value.__context__))


# --- where content goes


@pytest.mark.parametrize(
    ("said", "on_spans", "on_events"),
    [
        ("", False, False),
        ("false", False, False),
        ("NO_CONTENT", False, False),
        ("true", True, False),
        ("SPAN_ONLY", True, False),
        ("event_only", False, True),
        ("SPAN_AND_EVENT", True, True),
    ],
)
def test_the_environment_says_where_content_goes(said, on_spans, on_events, monkeypatch):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT", said)

    for config in (Config(), Config.from_env()):
        content = config.content(Call("refund"))
        assert (content.for_span({"a": 1}) is not None, content.for_event({"a": 1}) is not None) == (
            on_spans,
            on_events,
        )


def test_a_word_that_is_not_known_captures_nothing_and_says_so(caplog):
    assert capture_said("everything") is Capture.NO_CONTENT
    assert "NO_CONTENT, SPAN_ONLY, EVENT_ONLY, SPAN_AND_EVENT" in caplog.text


@pytest.mark.parametrize(("said", "events"), [("true", True), (" FALSE ", False), ("", None), ("yes", None)])
def test_the_environment_says_whether_model_calls_are_told_in_events(said, events, monkeypatch, caplog):
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", said)

    assert [config.model_events for config in (Config(), Config.from_env())] == [events, events]
    assert ("neither true nor false" in caplog.text) == (said == "yes")
    assert Config(model_events=True).tells_model_calls


def test_the_environment_s_word_on_events_wins_over_the_file(tmp_path, monkeypatch):
    (tmp_path / "spanledger.toml").write_text('model_events = true\ncapture_content = "event_only"')
    assert Config.from_env().tells_model_calls
    monkeypatch.setenv("OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT", "false")
    assert not Config.from_env().tells_model_calls


def test_the_configuration_says_it_by_the_same_words(tmp_path):
    (tmp_path / "spanledger.toml").write_text('capture_content = "event_only"')
    config = Config.from_env()

    assert config.capture_content is Capture.EVENT_ONLY
    assert Config(capture_content=True).capture_content is Capture.SPAN_ONLY
    assert Config.from_env({"OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT": "false"}).capture_content is (
        Capture.NO_CONTENT
    )


def test_what_is_captured_is_redacted():
    content = Content(redactor("card"), Capture.SPAN_AND_EVENT)

    assert content.for_span({"card": CARD, "a": 1}) == '{"card": "[redacted]", "a": 1}'
    assert content.for_event([{"card": CARD}]) == '[{"card": "[redacted]"}]'
    assert content.for_span("done") == "done"
    assert content.for_span("done", document=True) == MASK
