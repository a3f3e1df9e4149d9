"""pydantic-ai, whose spans show the call's id and its arguments, and take a recorded result back."""

import asyncio

from framework_case import Case
from openai import AsyncOpenAI
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from pydantic_ai import Agent
from pydantic_ai.capabilities import Instrumentation
from pydantic_ai.models.instrumented import InstrumentationSettings
from pydantic_ai.models.openai import OpenAIChatModel
from pydantic_ai.providers.openai import OpenAIProvider

REQUIRES = ["pydantic-ai-slim[openai]>=2.3"]


def run(refund, url, **settings):
    async def turn():
        async with AsyncOpenAI(base_url=url, api_key="-") as client:
            model = OpenAIChatModel("gpt-5", provider=OpenAIProvider(openai_client=client))
            instrumentation = Instrumentation(settings=InstrumentationSettings(**settings))
            agent = Agent(model, tools=[refund], capabilities=[instrumentation])
            return (await agent.run("Refund o-1")).output

    return asyncio.run(turn())


def unsampled(refund, url):
    return run(refund, url, tracer_provider=TracerProvider(ALWAYS_OFF, shutdown_on_exit=False))


CASE = Case("pydantic-ai", run, unsampled=unsampled)
