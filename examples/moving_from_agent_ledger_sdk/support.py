"""A support agent that used to log sessions to agent-ledger-sdk, on spanledger.

    python examples/moving_from_agent_ledger_sdk/support.py

It starts a private Postgres of its own; `SPANLEDGER_DSN` names yours instead. README.md beside it says what became of
what.
"""

import spanledger
from spanledger import Budget, Config, Ledger, Money, Price, Usage, errors

# What used to be a limit on somebody's server: an agent, a day, and here before the money is spent.
CONFIG = Config(
    budgets=(Budget("a day", Money("0.0235", "USD"), per=("agent",), window="day"),),
    prices=(Price("house-*", input=Money(1, "USD"), output=Money(2, "USD")),),
)


@spanledger.tool("search", reserve=lambda _: Money("0.008", "USD"))
def search(query: str) -> list[str]:
    """Look something up, for money; `instrument_tool` used to stand around this."""
    return [f"order of {query}"]


def ask_model(prompt: str) -> tuple[str, Usage]:
    """Ask a model by a client of one's own, which nothing instruments."""
    return f"about {prompt}", Usage(input_tokens=2000, output_tokens=500)


def answer(question: str) -> None:
    """Do what used to be a series of `log_…` calls with a step index."""
    found = search(question)
    spanledger.step(f"found {len(found)} orders")
    said, usage = ask_model(question)
    spanledger.record_llm_call("house-large", usage, provider="house", latency_s=0.4)
    spanledger.record_event("answered", {"characters": len(said)})


def converse() -> None:
    """Talk to a customer until the budget of the day is used up."""
    with spanledger.session("chat-9", agent="support", actor="u_42") as chat:
        try:
            # The first is asked again: a turn repeats none of its side effects, and `search` is not paid for twice.
            for message_id, question in (("m-1", "ada"), ("m-1", "ada"), ("m-2", "bob"), ("m-3", "eve")):
                with chat.turn(message_id, goal=question):
                    answer(question)
        except errors.BudgetExceeded as refused:
            print(f"refused before it was spent: {refused.requested} of budget {refused.budget!r}")
            chat.end("failed", error="the budget of the day is used up")


def main() -> None:
    """Do what the agent does in a day, and look at it."""
    spanledger.instrument(CONFIG, libraries=[])
    converse()
    spanledger.uninstrument()
    with Ledger() as ledger:
        session = ledger.session("chat-9") or {}
        print(f"session {session['session_id']}: {session['status']} ({session['error']})")
        for turn in ledger.turns("chat-9"):
            print(f"  {turn['workflow_id']}: {turn['status']}, {turn['calls']} calls, {turn['tokens']} tokens")
        print(f"agents: {', '.join(agent['name'] for agent in ledger.agents())}")


main()
