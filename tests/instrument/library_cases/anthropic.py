"""The Anthropic client's tool runner. Its model calls are tested in files of their own."""

from __future__ import annotations

import asyncio
import inspect
import json

import anthropic
from anthropic import beta_async_tool, beta_tool
from library_case import Answer, Ask, Case, Way

from spanledger.testing import CallTool, ModelServer, Say

# Bedrock's streams have a framing that the client leaves to AWS's own library.
NEEDS = ["anthropic[bedrock]"]

# Before, the runner does not show which call it runs a tool for.
SHOWS_CALLS = tuple(map(int, anthropic.__version__.split(".")[:2])) >= (1, 9)
REQUEST = {"model": "claude-test", "max_tokens": 100, "messages": [{"role": "user", "content": "refund it"}]}


def tool(function):
    if inspect.iscoroutinefunction(function):

        async def refund(order_id: str, amount: int) -> str:
            """Refund an order."""
            return json.dumps(await function(order_id, amount))

        return beta_async_tool(refund)

    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return json.dumps(function(order_id, amount))

    return beta_tool(refund)


def turn(run):
    def way(tool, asked, thread):
        said = [[CallTool("refund", a.arguments, a.call_id) for a in asked], Say("done")]
        with ModelServer(lambda _request: said.pop(0)) as model:
            run({"base_url": model.url.removesuffix("/v1"), "api_key": "offline", "max_retries": 0}, tool)
            results = model.requests[-1]["messages"][-1]["content"]
        return [Answer(str(r["content"]), r["content"], r["tool_use_id"] if SHOWS_CALLS else None) for r in results]

    return way


def blocking(options, tool):
    with anthropic.Anthropic(**options) as client:
        client.beta.messages.tool_runner(**REQUEST, tools=[tool]).until_done()


def awaiting(options, tool):
    async def main():
        async with anthropic.AsyncAnthropic(**options) as client:
            await client.beta.messages.tool_runner(**REQUEST, tools=[tool]).until_done()

    asyncio.run(main())


def messages(**more):
    def ask(server):
        with anthropic.Anthropic(base_url=server.anthropic_url, api_key="offline", max_retries=0) as client:
            found = client.messages.create(**REQUEST, **more)
            yield from found if more else ()

    return ask


def messages_awaiting(**more):
    async def ask(server):
        async with anthropic.AsyncAnthropic(base_url=server.anthropic_url, api_key="offline", max_retries=0) as client:
            found = await client.messages.create(**REQUEST, **more)
            if more:
                async for event in found:
                    yield event

    return ask


CASE = Case(
    "anthropic",
    tool,
    ways={
        "runner": Way(turn(blocking), bodies=("plain",)),
        "runner, awaiting": Way(turn(awaiting), bodies=("coroutine",)),
    },
    asks={
        "message": Ask(messages()),
        "message, streamed": Ask(messages(stream=True), streamed=True),
        "message, awaiting": Ask(messages_awaiting()),
        "message, streamed, awaiting": Ask(messages_awaiting(stream=True), streamed=True),
    },
    call_ids=SHOWS_CALLS,
    told_error=ValueError,
)
