"""Google's ADK, whose spans start with a name and no attributes."""

import asyncio

from framework_case import Case
from google.adk.agents import LlmAgent
from google.adk.models import BaseLlm, LlmResponse
from google.adk.runners import InMemoryRunner
from google.genai import types

REQUIRES = ["google-adk>=2.0"]


class Model(BaseLlm):
    async def generate_content_async(self, llm_request, stream=False):
        answered = llm_request.contents[-1].parts[-1].function_response
        call = types.FunctionCall(name="refund", args={"order_id": "o-1"}, id="call_a")
        part = types.Part(text=f"Done: {answered.response}") if answered else types.Part(function_call=call)
        yield LlmResponse(content=types.Content(role="model", parts=[part]))


def run(refund, url):
    async def turn():
        runner = InMemoryRunner(LlmAgent(name="support", model=Model(model="m"), tools=[refund]), app_name="shop")
        session = await runner.session_service.create_session(app_name="shop", user_id="u")
        asked = types.Content(role="user", parts=[types.Part(text="Refund o-1")])
        said = ""
        async for event in runner.run_async(user_id="u", session_id=session.id, new_message=asked):
            said = (event.content and event.content.parts[0].text) or said
        return said

    return asyncio.run(turn())


CASE = Case("gcp.vertex.agent", run, tells=False)
