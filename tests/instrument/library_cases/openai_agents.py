"""Function tools of the OpenAI Agents SDK, in runs of every kind."""

from __future__ import annotations

from agents import function_tool, set_trace_processors
from agents_world import agent_of, asked, run, run_streamed, run_sync
from library_case import Answer, Case, Way

# The SDK's own traces are made as ever, and not sent to anybody.
set_trace_processors([])


def way(run):
    def turn(tool, told, thread):
        agent = agent_of(tool, told=[asked(a.call_id, arguments=a.arguments) for a in told])
        items = run(agent, group_id=thread).new_items
        given = {i.raw_item["call_id"]: i for i in items if i.type == "tool_call_output_item"}
        return [Answer(str(given[a.call_id].output), given[a.call_id].output, a.call_id) for a in told]

    return turn


CASE = Case(
    "openai_agents",
    function_tool,
    ways={
        "run": Way(way(run)),
        "run_sync": Way(way(run_sync)),
        "run_streamed": Way(way(run_streamed)),
    },
    threads=True,
    text_arguments=True,
)
