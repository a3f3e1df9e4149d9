"""Every model call is measured, as the GenAI conventions name it, guarded or not, sampled or not."""

from __future__ import annotations

import openai
import pytest
from openai_world import ASK, LIMITED

from spanledger import Budget, Tokens
from spanledger.errors import BudgetExceeded
from spanledger.telemetry import instruments, semconv

LIBRARIES = ("openai",)


def test_time_and_tokens_of_a_call_are_measured(instrument, client, model, measured):
    instrument()
    answer = client.chat.completions.create(**ASK)

    points = measured.points()
    ((labels, duration),) = points[instruments.OPERATION_DURATION]
    host, _, port = model.url.removeprefix("http://").removesuffix("/v1").partition(":")
    assert labels == {
        semconv.OPERATION_NAME: "chat",
        semconv.PROVIDER_NAME: "openai",
        semconv.REQUEST_MODEL: "gpt-5",
        semconv.RESPONSE_MODEL: answer.model,
        semconv.SERVER_ADDRESS: host,
        semconv.SERVER_PORT: int(port),
    }
    assert duration.count == 1
    tokens = {labels[semconv.TOKEN_TYPE]: point.sum for labels, point in points[instruments.TOKEN_USAGE]}
    assert tokens == {"input": answer.usage.prompt_tokens, "output": answer.usage.completion_tokens}
    assert instruments.TIME_TO_FIRST_CHUNK not in points


def test_a_stream_is_measured_when_it_is_drained(instrument, client, measured):
    instrument()
    stream = client.chat.completions.create(**ASK, stream=True)
    next(stream)
    assert instruments.OPERATION_DURATION not in measured.points()
    list(stream)

    points = measured.points()
    ((_, chunk),) = points[instruments.TIME_TO_FIRST_CHUNK]
    ((_, duration),) = points[instruments.OPERATION_DURATION]
    assert 0 < chunk.sum <= duration.sum
    assert {labels[semconv.TOKEN_TYPE] for labels, _ in points[instruments.TOKEN_USAGE]} == {"input", "output"}


def test_a_call_that_fails_is_measured_by_its_error(instrument, client, measured):
    instrument()
    with pytest.raises(openai.RateLimitError):
        client.chat.completions.create(**ASK, user="busy")

    points = measured.points()
    ((labels, _),) = points[instruments.OPERATION_DURATION]
    assert labels[semconv.ERROR_TYPE] == "openai.RateLimitError"
    assert instruments.TOKEN_USAGE not in points


def test_a_call_that_is_refused_took_no_time_and_is_counted_by_its_verdict(instrument, client, measured, in_workflow):
    instrument(budgets=[Budget("tokens", Tokens(10), operations=("chat",))])
    with pytest.raises(BudgetExceeded):
        client.chat.completions.create(**LIMITED)

    points = measured.points()
    assert instruments.OPERATION_DURATION not in points
    ((labels, _),) = points[instruments.CALLS]
    assert labels == {
        semconv.OPERATION_NAME: "chat",
        semconv.REQUEST_MODEL: "gpt-5",
        semconv.VERDICT: "budget_exceeded",
    }
