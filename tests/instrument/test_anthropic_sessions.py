"""Tools of managed agents, run for the events of a session; the sessions are a server of ours on loopback."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import anthropic
import pytest
from anthropic import beta_async_tool, beta_tool
from anthropic.lib.tools import _beta_session_runner

from spanledger import Budget, Calls, Rule, errors
from spanledger.core.outcomes import links
from spanledger.testing._http import LoopbackServer, Reply, Request, json_reply

LIBRARIES = ["anthropic"]
NONE = Budget("none", Calls(0), match="refund")
AT = "2026-11-30T00:00:00Z"
ASKED = {"id": "sevt_1", "type": "agent.custom_tool_use", "name": "refund", "input": {"order_id": "o-1"},
         "processed_at": AT}  # fmt: skip
OVER = {"id": "sevt_9", "type": "session.status_terminated", "processed_at": AT}


class Sessions(LoopbackServer):
    """A session whose agent has asked for a refund; it refuses as many results as it is told."""

    def __init__(self, refused: int = 0) -> None:
        self.refused = refused
        self.results: list[dict[str, Any]] = []

    def answer(self, request: Request) -> Reply:
        if request.path.endswith("/stream"):
            return Reply(200, self._events(), "text/event-stream")
        if request.method == "GET":
            return json_reply(200, {"data": [ASKED], "next_page": None})
        if self.refused:
            self.refused -= 1
            return json_reply(400, {"type": "error", "error": {"type": "invalid_request_error", "message": "not now"}})
        (result,) = request.json_object()["events"]
        self.results.append(result)
        return json_reply(200, {"data": []})

    def _events(self) -> Iterator[bytes]:
        for event in (ASKED, OVER):
            yield f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode()


def run(sessions: Sessions, tool: Any) -> None:
    """Run the tools of the session until it is over, as a worker does."""

    async def main() -> None:
        async with anthropic.AsyncAnthropic(base_url=sessions.url, api_key="offline", max_retries=0) as client:
            async with asyncio.timeout(30):
                async for _ in client.beta.sessions.events.tool_runner("sesn_1", tools=[tool], max_idle=5):
                    pass

    asyncio.run(main())


@pytest.fixture
def sessions() -> Iterator[Sessions]:
    with Sessions() as sessions:
        yield sessions


@pytest.fixture
def refunded() -> list[str]:
    return []


@pytest.fixture(params=["sync", "async"])
def refund(request: Any, refunded: list[str]) -> Any:
    def refund(order_id: str) -> str:
        """Refund an order."""
        refunded.append(order_id)
        return f"refund {len(refunded)}"

    async def refund_awaiting(order_id: str) -> str:
        """Refund an order."""
        return refund(order_id)

    if request.param == "sync":
        return beta_tool(refund)
    return beta_async_tool(refund_awaiting, name="refund")


def text_of(result: dict[str, Any]) -> str:
    return result["content"][0]["text"]


def test_a_call_whose_result_could_not_be_sent_is_not_made_by_the_next_worker(
    instrument, sessions, refund, refunded, ledger
):
    instrument()
    sessions.refused = 1
    run(sessions, refund)
    assert sessions.results == []
    run(sessions, refund)
    (result,) = sessions.results
    assert (result["custom_tool_use_id"], text_of(result), result["is_error"]) == ("sevt_1", "refund 1", False)
    assert refunded == ["o-1"]
    (row,) = ledger.calls()
    assert (row["tool"], row["attempts"], row["key_source"]) == ("refund", 1, "call_id")
    assert json.loads(row["workflow_id"])[0] == "sesn_1"


def test_what_a_tool_of_a_session_raises_is_told_to_it_as_a_failure_and_made_again(
    instrument, sessions, refund, refunded, ledger
):
    instrument()
    refunded.append("the bank is closed")

    def closed(order_id: str) -> str:
        """Refund an order."""
        raise ValueError(refunded.pop())

    sessions.refused = 1
    run(sessions, beta_tool(closed, name="refund"))
    assert [(row["state"], row["error"]["type"]) for row in ledger.calls()] == [("failed", "builtins.ValueError")]
    run(sessions, refund)
    assert [(text_of(result), result["is_error"]) for result in sessions.results] == [("refund 1", False)]


def test_a_tool_of_a_session_that_took_too_long_may_have_taken_effect(instrument, sessions, ledger, monkeypatch):
    instrument(rules=[Rule("refund")])
    monkeypatch.setattr(_beta_session_runner, "TOOL_TIMEOUT", 1.0)  # in which it has begun

    @beta_async_tool
    async def refund(order_id: str) -> str:
        """Refund an order."""
        await asyncio.sleep(60)

    run(sessions, refund)
    assert [(text_of(result), result["is_error"]) for result in sessions.results] == [("tool 'refund' timed out", True)]
    assert [row["state"] for row in ledger.calls()] == ["unknown"]


def test_a_refusal_stops_the_runner_of_a_session(instrument, sessions, refund, refunded):
    instrument(budgets=[NONE])
    with pytest.raises(BaseException) as raised:
        run(sessions, refund)
    assert any(isinstance(error, errors.BudgetExceeded) for error in links(raised.value))
    assert (refunded, sessions.results) == ([], [])


def test_a_refusal_is_told_to_the_agent_of_a_session_where_the_rule_says_so(instrument, sessions, refund, refunded):
    instrument(rules=[Rule("refund", on_refusal="tell")], budgets=[NONE])
    run(sessions, refund)
    assert [text_of(result)[:9] for result in sessions.results] == ["Not done:"]
    assert refunded == []
