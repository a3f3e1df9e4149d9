"""The world of the Pydantic AI tests: a model that asks for tools as it is told, and the ways to run an agent."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from pydantic_ai import Agent, exceptions
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart, ToolReturnPart
from pydantic_ai.models.function import AgentInfo, DeltaToolCall, FunctionModel

# Since 2.10 or so a tool can say that it has failed without stopping the run.
told_error = getattr(exceptions, "ToolFailed", None)
REFUND = {"order_id": "o-1", "amount": 10}


def asked(call_id: str = "call_a", name: str = "refund", arguments: Any = None) -> ToolCallPart:
    """What a model asks for."""
    return ToolCallPart(name, dict(REFUND) if arguments is None else arguments, call_id)


def model_of(told: Sequence[ToolCallPart]) -> FunctionModel:
    """A model that asks for tools once, and says "done" when it has read what came of them."""

    def answers_are_in(messages: list[ModelMessage]) -> bool:
        return any(isinstance(message, ModelResponse) for message in messages)

    def whole(messages: list[ModelMessage], _info: AgentInfo) -> ModelResponse:
        return ModelResponse(parts=[TextPart("done")] if answers_are_in(messages) else list(told))

    async def streamed(messages: list[ModelMessage], _info: AgentInfo) -> AsyncIterator[Any]:
        if answers_are_in(messages):
            yield "done"
            return
        for index, call in enumerate(told):
            text = call.args if isinstance(call.args, str) else json.dumps(call.args)
            yield {index: DeltaToolCall(name=call.tool_name, json_args=text, tool_call_id=call.tool_call_id)}

    return FunctionModel(whole, stream_function=streamed)


def agent_of(*tools: Any, told: Sequence[ToolCallPart] | None = None, **fields: Any) -> Agent[Any, Any]:
    return Agent(model_of([asked()] if told is None else told), **{"name": "support", "tools": list(tools)} | fields)


def run(agent: Agent[Any, Any], **given: Any) -> list[ModelMessage]:
    return asyncio.run(agent.run("go", **given)).all_messages()


def run_sync(agent: Agent[Any, Any], **given: Any) -> list[ModelMessage]:
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    try:
        return agent.run_sync("go", **given).all_messages()
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
        asyncio.set_event_loop(None)


def run_stream(agent: Agent[Any, Any], **given: Any) -> list[ModelMessage]:
    async def main() -> list[ModelMessage]:
        async with agent.run_stream("go", **given) as stream:
            await stream.get_output()
            return stream.all_messages()

    return asyncio.run(main())


def iterate(agent: Agent[Any, Any], **given: Any) -> list[ModelMessage]:
    async def main() -> list[ModelMessage]:
        async with agent.iter("go", **given) as steps:
            async for _ in steps:
                pass
            return steps.all_messages()

    return asyncio.run(main())


WAYS: dict[str, Callable[..., list[ModelMessage]]] = {
    "run": run,
    "run_sync": run_sync,
    "run_stream": run_stream,
    "iter": iterate,
}


def returns(messages: Sequence[ModelMessage]) -> list[ToolReturnPart]:
    """What the tools of a run gave."""
    return [part for message in messages for part in message.parts if part.part_kind in ("tool-return", "retry-prompt")]
