"""Microsoft's Agent Framework: spans with the call's id; its run ends by an exception of its own."""

import asyncio

from agent_framework import Agent, tool
from agent_framework.openai import OpenAIChatCompletionClient
from framework_case import Case

REQUIRES = ["agent-framework-core>=1.15", "agent-framework-openai"]


def run(refund, url):
    client = OpenAIChatCompletionClient(model="gpt-5", base_url=url, api_key="-")
    agent = Agent(client=client, tools=[tool(refund, approval_mode="never_require")])
    return asyncio.run(agent.run("Refund o-1")).text


CASE = Case("agent_framework", run, told="Error: Function failed.")
