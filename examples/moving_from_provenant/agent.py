"""A program that used to hand its client to provenant's `instrument`, on spanledger.

    python examples/moving_from_provenant/agent.py

It starts a private Postgres of its own (`SPANLEDGER_DSN` names yours instead) and a scripted model on loopback. What
became of what is in the README.md beside it.
"""

import asyncio
import contextlib
import os
from typing import Any

from openai import AsyncOpenAI, OpenAI

import spanledger
from spanledger import Calls, Config, Connector, Grant, Ledger, Money, Price, errors, invoke, workflow
from spanledger.testing import ModelServer, PaymentProvider, Say

CONFIG = Config(prices=(Price("gpt-5*", input=Money(1, "USD"), output=Money(8, "USD")),))
REFUND = {"order_id": "o-1", "amount": "20.00", "currency": "EUR"}
QUESTIONS = ("Where is my order?", "And when does it come?")


def ask(client: OpenAI, question: str) -> str:
    """Ask and read a stream; the client is as it was, and each chunk comes when it is sent."""
    messages: Any = [{"role": "user", "content": question}]
    stream: Any = client.chat.completions.create(model="gpt-5", messages=messages, stream=True)
    return "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)


async def ask_awaiting(client: AsyncOpenAI, question: str) -> str:
    """Ask and await the answer, which there was an empty turn."""
    answer = await client.chat.completions.create(model="gpt-5", messages=[{"role": "user", "content": question}])
    return answer.choices[0].message.content or ""


def evaluate(url: str) -> None:
    """Have the agent judged, and hand in how another program judged it."""
    from spanledger import evals

    cases = (
        evals.Case("where", QUESTIONS[0], expected="on, its, way", weight=3),
        evals.Case("when", QUESTIONS[1], expected="tomorrow"),
    )
    # Where there was a webhook of a server's: on_failed=spanledger.webhook("https://…").
    suite = evals.Suite("answers", cases, [evals.contains_keywords], agent="support", fail_under=0.8, on_failed=failed)
    with OpenAI(base_url=url, api_key="-") as client:
        ran = evals.run(suite, lambda question: ask(client, question), run_id="nightly-7")
    print(f"{ran.run_id}: {ran.pass_rate:.0%} passed, {ran.weighted_pass_rate:.0%} by weight")
    results = [{"caseId": "where", "score": 91, "passed": True}, {"caseId": "when", "passed": True, "tokenCount": 42}]
    done = evals.submit(evals.Submission("answers", "java-7", agent_version="2.0"), results)
    print(f"{done.results.run_id}: {done.created} handed in, fixed: {evals.compare(ran, done.results).fixed}")


def failed(results: Any) -> None:
    """Tell people that too few cases passed."""
    print(f"too few passed: {results.passed} of {results.cases}")


async def converse_awaiting(url: str) -> None:
    """Go on with the conversation later, in another place: the same id is the same session."""
    client = AsyncOpenAI(base_url=url, api_key="-")
    async with client, spanledger.session("chat-9", agent="support", actor="u_42") as chat, chat.turn("m-3"):
        print(await ask_awaiting(client, "Thank you."))


def converse(url: str) -> None:
    """Have a conversation of two turns, and one that fails."""
    with (
        spanledger.session("chat-9", agent="support", actor="u_42") as chat,
        OpenAI(base_url=url, api_key="-") as client,
    ):
        for number, question in enumerate(QUESTIONS, 1):
            with chat.turn(f"m-{number}", goal=question):
                print(ask(client, question))
    with contextlib.suppress(ConnectionResetError), spanledger.session("chat-10", agent="support"):
        # There, a session whose body raised was recorded as completed.
        raise ConnectionResetError("the customer is gone")


def mint(**wanted: Any) -> str:
    """Stand for what makes short-lived credentials where you are."""
    return f"good for {wanted['expires_in_s']} s"


def governed(url: str) -> None:
    """Act through a gateway under a mandate: `connectors`, `invoke`, `mint_credential` there and here."""
    door = Connector(
        "refunds",
        url,
        "payments:refund",
        credential_env="PROVIDER_KEY",
        methods=("POST",),
        paths=("/refunds",),
        mint=mint,
    )
    rate = spanledger.Budget("rate", Calls(60), window=60, per=("agent",), operations=("execute_tool",))
    mandate = (
        Grant("payments:refund", agent="support", limit=Money(50, "EUR"), hours="00:00-24:00"),
        Grant("payments:refund", agent="night", allowed=False, reason="not at night"),
    )
    spanledger.instrument(Config(connectors=(door,), grants=mandate, budgets=(rate,)), libraries=[])
    print("connectors:", [one.name for one in spanledger.connectors()])
    with workflow("order-1", agent="support"):
        answers = {invoke("refunds", "POST", "/refunds", json=REFUND, amount=Money(20, "EUR")).text for _ in range(3)}
        print(f"asked three times, paid {len(answers)} time")
        print("minted:", spanledger.mint_credential("refunds", amount=Money(5, "EUR"), expires_in_s=60))
        with contextlib.suppress(errors.NotAuthorized):
            invoke("refunds", "POST", "/refunds", json=REFUND, amount=Money(51, "EUR"), key="too dear")
    with workflow("order-2", agent="night"):
        answer = spanledger.authorize("payments:refund", Money(20, "EUR"))
        print(f"night may refund: {answer.allowed}, {answer.reason}")
    spanledger.uninstrument()


def main() -> None:
    """Talk, and look at what is known of it; then act."""
    with ModelServer(lambda _request: Say("It is on its way.")) as model:
        spanledger.instrument(CONFIG, libraries=["openai"])
        converse(model.url)
        asyncio.run(converse_awaiting(model.url))
        evaluate(model.url)
        spanledger.uninstrument()
    with Ledger() as ledger:
        for one in ledger.sessions():
            print(f"{one['session_id']}: {one['status']}, {one['turns']} turns, {one['model_calls']} calls")
        turns = ledger.turns("chat-9")
        print(f"every turn has its tokens: {all(turn['input_tokens'] and turn['output_tokens'] for turn in turns)}")
        agent = ledger.agent("support") or {}
        print(f"agent {agent['name']}: {agent['sessions']} sessions, {agent['spent']['calls']} calls")
    os.environ["PROVIDER_KEY"] = "sk_live_7"  # of your deployment; no agent has it
    with PaymentProvider() as provider:
        governed(provider.url)


main()
