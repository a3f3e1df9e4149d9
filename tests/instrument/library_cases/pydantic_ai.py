"""Function tools of Pydantic AI, in runs of every kind."""

from __future__ import annotations

from library_case import Answer, Case, Way
from pydantic_ai import Tool
from pydantic_world import agent_of, asked, iterate, returns, run, run_stream, run_sync, told_error


def way(run):
    def turn(tool, told, thread):
        agent = agent_of(tool, told=[asked(a.call_id, arguments=a.arguments) for a in told])
        given = {part.tool_call_id: part for part in returns(run(agent, conversation_id=thread))}
        return [Answer(given[a.call_id].model_response_str(), given[a.call_id].content, a.call_id) for a in told]

    return turn


CASE = Case(
    "pydantic_ai",
    Tool,
    ways={
        "run": Way(way(run), cancels=True),
        "run_sync": Way(way(run_sync), cancels=True),
        "run_stream": Way(way(run_stream), cancels=True),
        "iter": Way(way(iterate), cancels=True),
    },
    threads=True,
    told_error=told_error,
)
