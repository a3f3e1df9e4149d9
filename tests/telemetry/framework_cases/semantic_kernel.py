"""Semantic Kernel: spans with the call's id; it tells the model whatever is raised."""

import asyncio

from framework_case import Case
from openai import AsyncOpenAI
from semantic_kernel.agents import ChatCompletionAgent
from semantic_kernel.connectors.ai.open_ai import OpenAIChatCompletion
from semantic_kernel.functions import kernel_function

REQUIRES = ["semantic-kernel>=1.40"]


def run(refund, url):
    class Shop:
        @kernel_function(name="refund")
        def refund(self, order_id: str) -> str:
            return refund(order_id)

    async def turn():
        client = AsyncOpenAI(base_url=url, api_key="-")
        service = OpenAIChatCompletion(ai_model_id="gpt-5", async_client=client)
        agent = ChatCompletionAgent(service=service, name="support", plugins=[Shop()])
        answer = str(await agent.get_response(messages="Refund o-1"))
        await client.close()
        return answer

    return asyncio.run(turn())


CASE = Case("semantic_kernel.functions.kernel_function", run, tool="Shop-refund", stops=False)
