"""AutoGen: spans with the call's id; it tells the model whatever is raised, and hangs on what is no Exception."""

import asyncio

from autogen_agentchat.agents import AssistantAgent
from autogen_ext.models.openai import OpenAIChatCompletionClient
from framework_case import Case

REQUIRES = ["autogen-core>=0.7", "autogen-agentchat>=0.7", "autogen-ext[openai]>=0.7"]


def run(refund, url):
    async def turn():
        client = OpenAIChatCompletionClient(model="gpt-4o", base_url=url, api_key="-")
        agent = AssistantAgent("support", model_client=client, tools=[refund], max_tool_iterations=5)
        answer = (await agent.run(task="Refund o-1")).messages[-1].to_text()
        await client.close()
        return answer

    return asyncio.run(turn())


CASE = Case("autogen-core", run, stops=False)
