"""Spans that others write, on calls whose rule redacts."""

from __future__ import annotations

import json

import pytest
from hand_written import NAME, attributes

from spanledger import Config, EncryptingCodec, Ledger, Redact, Rule, workflow
from spanledger.errors import CallReplayed, ResultNotKept

CARD = "4111111111111111"
RULE = Rule("refund", identity="arguments", redact=["$.card", "authorization"])
GIVEN = {"gen_ai.tool.call.arguments": json.dumps({"order_id": "o-1", "card": CARD})}
KEYS = {"*": ["k1:" + "A" * 43 + "="]}


@pytest.fixture
def redacting(instrument):
    instrument(rules=[RULE])
    with workflow("w"):
        yield


def everything(sdk) -> str:
    return "".join(span.to_json() for span in sdk.spans())


def test_a_hand_written_span_is_exported_without_what_its_rule_redacts(redacting, sdk, tracer):
    with tracer.start_as_current_span(NAME, attributes=attributes(**GIVEN, authorization=CARD)) as span:
        span.set_attribute("gen_ai.tool.call.result", json.dumps({"card": CARD, "id": "re_1"}))
        span.set_attributes({"http.request.header.authorization": ["Bearer of it"], "card": 1})
        span.add_event("sent", {"body": json.dumps({"authorization": CARD})})

    (exported,) = sdk.spans()
    assert CARD not in everything(sdk)
    assert exported.attributes["http.request.header.authorization"] == "[redacted]"
    assert json.loads(exported.attributes["gen_ai.tool.call.arguments"]) == {"order_id": "o-1", "card": "[redacted]"}
    assert json.loads(exported.attributes["gen_ai.tool.call.result"])["id"] == "re_1"
    assert exported.attributes["gen_ai.tool.name"] == "refund"
    assert exported.attributes["spanledger.verdict"] == "run"


def test_attributes_by_their_place_are_redacted_too(redacting, sdk, tracer):
    tracer.start_span(NAME, None, 0, attributes(**GIVEN), None).end()

    assert sdk.spans()
    assert CARD not in everything(sdk)


def test_an_error_inside_is_exported_by_its_type_and_place(redacting, sdk, tracer, dsn):
    with pytest.raises(ValueError, match=CARD), tracer.start_as_current_span(NAME, attributes=attributes(**GIVEN)):
        raise ValueError(f"cannot charge {CARD}") from RuntimeError(CARD)

    (exported,) = sdk.spans()
    assert CARD not in everything(sdk)
    (event,) = exported.events
    assert event.attributes["exception.type"] == "ValueError"
    assert "test_redacted_spans.py" in event.attributes["exception.stacktrace"]
    with Ledger(config=Config(dsn=dsn)) as ledger:
        assert ledger.calls()[0]["error"] == {"type": "builtins.ValueError", "message": "[redacted]"}


def test_a_span_inside_of_the_same_call_is_redacted_as_well(redacting, sdk, tracer):
    with (
        tracer.start_as_current_span(NAME, attributes=attributes(**GIVEN)),
        tracer.start_as_current_span(NAME, attributes=attributes(**GIVEN)) as inner,
    ):
        inner.set_attribute("gen_ai.tool.call.result", f"charged {CARD}")

    assert len(sdk.spans()) == 2
    assert CARD not in everything(sdk)


def test_arguments_that_are_no_json_are_masked_as_a_whole(redacting, sdk, tracer):
    with tracer.start_as_current_span(NAME, attributes=attributes(**{"gen_ai.tool.call.arguments": f"card {CARD}"})):
        pass

    assert sdk.spans()[0].attributes["gen_ai.tool.call.arguments"] == "[redacted]"


def test_what_is_removed_is_not_on_the_span_at_all(instrument, sdk, tracer):
    instrument(rules=[Rule("refund", redact=[Redact("order", "remove"), Redact("$.card", "remove")])])
    with workflow("w"), tracer.start_as_current_span(NAME, attributes=attributes(**GIVEN, order=CARD)):
        pass

    (exported,) = sdk.spans()
    assert "order" not in exported.attributes
    assert exported.attributes["gen_ai.tool.call.arguments"] == '{"order_id": "o-1"}'


def test_a_replay_gives_the_exact_result_only_where_it_was_sealed(instrument, tracer):
    for codec, expected in ((None, ResultNotKept), (EncryptingCodec(KEYS), CallReplayed)):
        instrument(rules=[RULE], payload_codec=codec)
        with workflow(f"with {codec is None}"):
            with tracer.start_as_current_span(NAME, attributes=attributes(**GIVEN)) as span:
                span.set_attribute("gen_ai.tool.call.result", json.dumps({"card": CARD}))
            with pytest.raises(expected) as raised, tracer.start_as_current_span(NAME, attributes=attributes(**GIVEN)):
                pytest.fail("ran twice")
            assert codec is None or raised.value.result == {"card": CARD}
