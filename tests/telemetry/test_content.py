"""Where the content of calls is recorded, and where not."""

from __future__ import annotations

import pytest
from tests.measured import Measured

import spanledger
from spanledger import Config, Rule, workflow

REDACTING = Rule("charge", redact=["card"])
CONTENT = ("gen_ai.tool.call.arguments", "gen_ai.tool.call.result")


@spanledger.tool
def charge(card: str, cents: int) -> dict[str, object]:
    return {"card": card, "id": "re_1"}


def charged(dsn: str, capture: str) -> None:
    spanledger.instrument(Config(dsn=dsn, rules=[REDACTING], capture_content=capture), libraries=[])
    with workflow("w"):
        charge("4111", 10)


@pytest.mark.parametrize(
    ("capture", "on_spans", "on_events"),
    [
        ("no_content", False, False),
        ("span_only", True, False),
        ("event_only", False, True),
        ("span_and_event", True, True),
    ],
)
def test_content_is_where_it_was_asked_for_and_redacted_there(
    capture, on_spans, on_events, dsn, spans, measured: Measured
):
    charged(dsn, capture)

    seen = ['{"card": "[redacted]", "cents": 10}', '{"card": "[redacted]", "id": "re_1"}']
    span = spans.one("execute_tool charge")
    assert [span.attributes.get(name) for name in CONTENT] == (seen if on_spans else [None, None])
    told = [event.attributes for event in measured.events() if event.event_name == "spanledger.call.content"]
    assert [attributes[name] for attributes in told for name in CONTENT if name in attributes] == (
        seen if on_events else []
    )


def test_an_event_with_content_belongs_to_the_span_of_its_call(dsn, spans, measured: Measured):
    charged(dsn, "event_only")

    span = spans.one("execute_tool charge")
    for event in measured.events():
        assert (event.trace_id, event.span_id) == (span.context.trace_id, span.context.span_id)
        assert event.attributes["gen_ai.tool.name"] == "charge"
