"""What may be seen of a conversation: what rules redact of a tool is hidden wherever the model is told of it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import pytest

from spanledger.config import Config
from spanledger.core import parts
from spanledger.core.call import Call
from spanledger.core.messages import Asked
from spanledger.core.redaction import MASK, Redact
from spanledger.core.rules import Rule
from spanledger.core.said import Said
from spanledger.instrument import _messages
from spanledger.instrument.library import Messages

SECRET = "4111-2222"
MODEL = Call("gpt-5", operation="chat")
CALL = parts.tool_call("c1", "charge", {"card": SECRET, "cents": 10})


def seen(
    *told: Any, answer: tuple[Any, ...] = (), rules: tuple[Rule, ...], system: str = "", tools: tuple[Any, ...] = ()
) -> Said:
    """What may be seen of a conversation of parts."""
    asked = Asked([parts.message("user", [part]) for part in told], [*filter(None, [parts.text(system)])], list(tools))
    output = [parts.message("assistant", answer)] if answer else []
    shape = Messages(lambda _request: asked, lambda _answer: output, lambda _gathered, _chunk: None)
    return _messages.Heard(shape, {}).said(MODEL, Config(dsn="host=/nowhere", rules=rules, secret="s" * 32))


def parts_of(messages: list[Mapping[str, Any]]) -> list[Any]:
    return [part for message in messages for part in message["parts"]]


def test_without_rules_that_redact_everything_is_as_it_was_said():
    shown = seen(CALL, parts.text(SECRET), rules=(Rule("charge"),), system=SECRET)

    assert parts_of(shown.asked.input) == [CALL, parts.text(SECRET)]
    assert shown.asked.system == [parts.text(SECRET)]


def test_what_a_tools_rule_redacts_is_hidden_in_what_models_say_of_it():
    told = parts.tool_response("c1", {"card": SECRET, "id": "re_1"})
    shown = seen(CALL, told, answer=(CALL | {"id": "c2"},), rules=(Rule("charge", redact=["$.card"]),))

    assert parts_of(shown.asked.input) == [
        CALL | {"arguments": {"card": MASK, "cents": 10}},
        told | {"response": {"card": MASK, "id": "re_1"}},
    ]
    assert parts_of(shown.output) == [CALL | {"id": "c2", "arguments": {"card": MASK, "cents": 10}}]


def test_what_a_tool_was_given_is_masked_wherever_it_is_said_again():
    shown = seen(
        parts.text(f"charge {SECRET}"),
        parts.text("and thank you"),
        parts.tool_call("c9", "mail", {"body": f"charged {SECRET}"}),
        answer=(CALL, parts.reasoning(f"I take {SECRET}")),
        rules=(Rule("charge", redact=["card"]),),
        system=f"their card is {SECRET}",
    )

    assert SECRET not in json.dumps([shown.asked.input, shown.asked.system, shown.output])
    assert parts_of(shown.asked.input)[1] == parts.text("and thank you")


def test_another_tools_arguments_are_left_alone():
    mail = parts.tool_call("c2", "mail", {"card": "with love"})
    shown = seen(CALL, mail, rules=(Rule("charge", redact=["card"]),))

    assert parts_of(shown.asked.input)[1] == mail


def test_words_of_a_tool_that_repeat_what_it_was_given_are_masked():
    told = parts.tool_response("c1", f"cannot charge {SECRET}")
    shown = seen(CALL, told, rules=(Rule("charge", redact=["card"]),))

    assert parts_of(shown.asked.input)[1] == told | {"response": MASK}


@pytest.mark.parametrize("arguments", ['{"card": "4111-22', f"card {SECRET}", SECRET])
def test_arguments_that_are_no_json_are_masked_as_a_whole(arguments):
    broken = parts.tool_call("c1", "charge", arguments)
    shown = seen(broken, parts.tool_response("c1", SECRET), rules=(Rule("charge", redact=["card"]),))

    assert [part.get("arguments", part.get("response")) for part in parts_of(shown.asked.input)] == [MASK, MASK]


def test_a_result_of_nobody_knows_which_tool_is_masked_as_a_whole():
    shown = seen(parts.tool_response("elsewhere", {"id": "re_1"}), rules=(Rule("charge", redact=["card"]),))

    assert parts_of(shown.asked.input)[0]["response"] == MASK


def test_a_models_own_rule_redacts_all_that_is_said_to_it():
    document = json.dumps({"card": SECRET, "order": "o-1"})
    shown = seen(
        parts.text(document),
        parts.text("their password is hunter2"),
        CALL,
        rules=(Rule("gpt-*", redact=["card", "password", "$.inner.pin"]),),
        system=document,
        answer=(parts.tool_call("c3", "mail", {"inner": {"pin": "1234"}, "to": "a"}),),
        tools=(parts.function("charge", None, {"properties": {"password": {"default": "hunter2"}}}),),
    )

    first, second, third = parts_of(shown.asked.input)
    assert json.loads(first["content"]) == {"card": MASK, "order": "o-1"}
    assert second == parts.text(MASK)
    assert third["arguments"] == {"card": MASK, "cents": 10}
    assert json.loads(shown.asked.system[0]["content"])["card"] == MASK
    assert parts_of(shown.output)[0]["arguments"] == {"inner": {"pin": MASK}, "to": "a"}
    assert shown.asked.tools[0]["parameters"] == {"properties": {"password": MASK}}


def test_equal_values_hash_alike_in_a_message_and_where_both_rules_name_them():
    rule = Rule("*", redact=[Redact("card", "hmac")])
    one, two = parts_of(seen(CALL, CALL | {"id": "c2"}, rules=(rule,)).asked.input)

    assert one["arguments"]["card"] == two["arguments"]["card"]
    assert one["arguments"]["card"].startswith("hmac:")


def test_what_a_developer_redacts_at_the_tool_is_hidden_as_well(monkeypatch):
    monkeypatch.setattr(_messages, "_own", {})
    _messages.redacts(Rule("charge", redact=["card"]))
    _messages.redacts(Rule("charge", redact=["cents"]))
    _messages.redacts(Rule("harmless"))
    shown = seen(CALL, rules=())

    assert parts_of(shown.asked.input)[0]["arguments"] == {"card": MASK, "cents": MASK}
    assert list(_messages._own) == ["charge"]
