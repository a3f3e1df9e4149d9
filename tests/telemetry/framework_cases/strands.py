"""Strands, whose spans start with a name and no attributes, and which asks the model for ever on a BaseException."""

from framework_case import Case
from strands import Agent, tool
from strands.models.openai import OpenAIModel

REQUIRES = ["strands-agents[openai]>=1.30"]


def run(refund, url):
    model = OpenAIModel(client_args={"base_url": url, "api_key": "-"}, model_id="gpt-5")
    return str(Agent(model=model, tools=[tool(refund)], callback_handler=None)("Refund o-1"))


CASE = Case("strands.telemetry.tracer", run, tells=False)
