"""What the operator controls in the ledger alone holds for a call that cannot be described: a model words it."""

from __future__ import annotations

import pytest
from langchain_core.tools import tool as langchain_tool
from opentelemetry import trace

from spanledger import Budget, Calls, Config, Rule, Switch, errors

LIBRARIES = ["langchain"]
HALF = "\ud800"
CONTROLS = Config(
    rules=[Rule("ask", approval=True, wait_timeout_s=0)],
    budgets=[Budget("none", Calls(0), match="spend")],
    switches=[Switch("stopped", allowed=False, reason="the bank is down")],
)
REFUSALS = [("ask", errors.NotAuthorized), ("spend", errors.BudgetExceeded), ("stopped", errors.NotAuthorized)]
ODD = {
    "half a surrogate pair in an argument": ("call_1", HALF),
    "no number in an argument": ("call_1", float("nan")),
    "half a surrogate pair in the id": (f"call_{HALF}", "o-1"),
    "NUL in the id": ("call_\0", "o-1"),
}


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize(("call_id", "value"), ODD.values(), ids=ODD)
@pytest.mark.parametrize(("name", "refusal"), REFUSALS)
def test_no_tool_gets_past_the_ledgers_controls_with_what_cannot_be_described(
    instrument, ledger, name, refusal, call_id, value
):
    ledger.apply(CONTROLS)
    instrument()

    @langchain_tool(name)
    def guarded(what: object) -> str:
        """Do it."""
        pytest.fail("ran")

    with pytest.raises(refusal):
        guarded.invoke({"type": "tool_call", "id": call_id, "name": name, "args": {"what": value}})


@pytest.mark.parametrize("conversation", ["c-1", "c" * 1001])
@pytest.mark.parametrize(("name", "refusal"), REFUSALS)
def test_no_span_gets_past_them_either(instrument, ledger, name, refusal, conversation):
    ledger.apply(CONTROLS)
    instrument()
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": name,
        "gen_ai.tool.call.id": "call_1",
        "gen_ai.tool.call.arguments": '{"what": "\\ud800"}',
        "gen_ai.conversation.id": conversation,
    }
    tracer = trace.get_tracer("of-the-program")
    with pytest.raises(refusal), tracer.start_as_current_span(f"execute_tool {name}", attributes=attributes):
        pytest.fail("ran")


@pytest.mark.usefixtures("in_workflow")
@pytest.mark.parametrize(("call_id", "value"), ODD.values(), ids=ODD)
def test_what_nothing_controls_runs_however_odd_and_is_recorded_by_its_name(instrument, ledger, call_id, value):
    instrument()
    ran = []

    @langchain_tool
    def look_up(what: object) -> str:
        """Look it up."""
        ran.append(what)
        return "found"

    look_up.invoke({"type": "tool_call", "id": call_id, "name": "look_up", "args": {"what": value}})
    assert len(ran) == 1
    (row,) = ledger.calls(tool="look_up")
    assert (row["state"], row["key_source"], row["workflow_id"]) == ("succeeded", "none", "w")
