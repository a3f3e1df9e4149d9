"""The world of the OpenAI Agents tests: a scripted model that asks for refunds, and the ways to run an agent."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from agents import Agent, RunConfig, Runner
from agents.testing import ScriptedModel, assistant_message, function_call

REFUND = {"order_id": "o-1", "amount": 10}


def asked(call_id: str = "call_a", name: str = "refund", arguments: Any = REFUND) -> Any:
    """What a model asks for."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return function_call(name, text, call_id=call_id)


def agent_of(*tools: Any, told: Any = None, **fields: Any) -> Agent:
    """An agent whose model asks for tools in one turn, and says "done" in the next."""
    model = ScriptedModel([[asked()] if told is None else list(told), [assistant_message("done")]])
    return Agent(**{"name": "support", "tools": list(tools), "model": model} | fields)


def run(agent: Agent, given: Any = "go", **config: Any) -> Any:
    return asyncio.run(Runner.run(agent, given, run_config=RunConfig(**config)))


def run_sync(agent: Agent, given: Any = "go", **config: Any) -> Any:
    # It runs in the thread's own loop, and leaves it open.
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return Runner.run_sync(agent, given, run_config=RunConfig(**config))
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        asyncio.set_event_loop(None)


def run_streamed(agent: Agent, given: Any = "go", **config: Any) -> Any:
    async def main() -> Any:
        result = Runner.run_streamed(agent, given, run_config=RunConfig(**config))
        async for _ in result.stream_events():
            pass
        return result

    return asyncio.run(main())


WAYS = {"run": run, "run_sync": run_sync, "run_streamed": run_streamed}


def outputs(result: Any) -> list[Any]:
    """What the tools of a run gave."""
    return [item.output for item in result.new_items if item.type == "tool_call_output_item"]
