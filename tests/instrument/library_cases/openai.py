"""The OpenAI client's tool runner, where there is one. Its model calls are tested in files of their own."""

from __future__ import annotations

import asyncio
import importlib.util
import inspect
import json

import openai
from library_case import Answer, Ask, Case, Way

from spanledger.testing import CallTool, ModelServer, Say

NEEDS = ["websockets>=13,<17"]  # for its realtime sessions
HAS_RUNNER = importlib.util.find_spec("openai.lib.responses_tool_runner") is not None
TOOL = {
    "type": "function",
    "name": "refund",
    "strict": True,
    "parameters": {
        "type": "object",
        "properties": {"order_id": {"type": "string"}, "amount": {"type": "integer"}},
        "required": ["order_id", "amount"],
        "additionalProperties": False,
    },
}


def tool(function):
    from openai.lib.responses_tool_runner import AsyncRegisteredFunction, RegisteredFunction

    async def awaiting(arguments):
        return json.dumps(await function(**arguments))

    if inspect.iscoroutinefunction(function):
        return AsyncRegisteredFunction(TOOL, awaiting)
    return RegisteredFunction(TOOL, lambda arguments: json.dumps(function(**arguments)))


def turn(run):
    def way(tool, asked, thread):
        said = [[CallTool("refund", a.arguments, a.call_id) for a in asked], Say("done")]
        with ModelServer(lambda _request: said.pop(0)) as model:
            run({"base_url": model.url, "api_key": "offline", "max_retries": 0}, tool)
            items = model.requests[-1]["input"]
        outputs = [item for item in items if item.get("type") == "function_call_output"]
        return [Answer(o["output"], o["output"], o["call_id"]) for o in outputs]

    return way


def blocking(options, tool):
    from openai.lib.responses_tool_runner import ResponsesToolRunner

    with openai.OpenAI(**options) as client:
        ResponsesToolRunner(functions=[tool]).run(client, {"model": "gpt-5", "input": "refund it"})


def awaiting(options, tool):
    from openai.lib.responses_tool_runner import AsyncResponsesToolRunner

    async def main():
        async with openai.AsyncOpenAI(**options) as client:
            await AsyncResponsesToolRunner(functions=[tool]).run(client, {"model": "gpt-5", "input": "refund it"})

    asyncio.run(main())


def chats(**more):
    def ask(server):
        with openai.OpenAI(base_url=server.url, api_key="offline", max_retries=0) as client:
            found = client.chat.completions.create(**CHAT, **more)
            yield from found if more else ()

    return ask


def chats_awaiting(**more):
    async def ask(server):
        async with openai.AsyncOpenAI(base_url=server.url, api_key="offline", max_retries=0) as client:
            found = await client.chat.completions.create(**CHAT, **more)
            if more:
                async for chunk in found:
                    yield chunk

    return ask


def responds(server):
    with openai.OpenAI(base_url=server.url, api_key="offline", max_retries=0) as client:
        return client.responses.create(model="gpt-5", input="say it", max_output_tokens=100)


CHAT = {"model": "gpt-5", "messages": [{"role": "user", "content": "say it"}], "max_completion_tokens": 100}
ASKS = {
    "chat": Ask(chats()),
    "chat, streamed": Ask(chats(stream=True), streamed=True),
    "chat, awaiting": Ask(chats_awaiting()),
    "chat, streamed, awaiting": Ask(chats_awaiting(stream=True), streamed=True),
    "response": Ask(responds),
}
RUNNER = {
    "runner": Way(turn(blocking), bodies=("plain",)),
    "runner, awaiting": Way(turn(awaiting), bodies=("coroutine",)),
}
CASE = Case("openai", tool if HAS_RUNNER else None, ways=RUNNER if HAS_RUNNER else {}, asks=ASKS)
