"""Controls that only the ledger holds count for model calls as well; where it holds none, model calls do not ask."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import openai
import psycopg
import pytest
from openai_world import ASK, LIMITED
from settled import until_nothing_is_held
from tests.ledger.proxies import Proxy

import spanledger
from spanledger import Budget, Calls, Config, Ledger, Money, Price, Rule, Switch, Tokens, tool, workflow
from spanledger.errors import BudgetExceeded, CallRefused, NotAuthorized
from spanledger.instrument import _controls

LIBRARIES = ["openai"]
STOPPED = Config(switches=[Switch("gpt-*", allowed=False, reason="too dear")])
RESUMED = Config(switches=[Switch("gpt-*", allowed=True)])
KNOWN_FOR_S = 0.3
SOON_S = 10.0


@pytest.fixture
def forgetful(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the ledger said is asked again soon."""
    monkeypatch.setattr(_controls, "KNOWN_FOR_S", KNOWN_FOR_S)
    monkeypatch.setattr(_controls, "AGAIN_S", KNOWN_FOR_S)


@pytest.fixture
def proxy(dsn: str) -> Iterator[Proxy]:
    """A network before the ledger."""
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    with Proxy(f"{given['host']}/.s.PGSQL.{given['port']}") as proxy:
        yield proxy


def chat(client: openai.OpenAI, **more: Any) -> Any:
    return client.chat.completions.create(**LIMITED | more)


def refuses(client: openai.OpenAI, **more: Any) -> bool:
    try:
        chat(client, **more)
    except NotAuthorized:
        return True
    return False


def until(seen: Callable[[], bool]) -> bool:
    """Wait until something is seen; False where it is not."""
    end_s = time.monotonic() + SOON_S
    while not seen():
        if time.monotonic() > end_s:
            return False
        time.sleep(KNOWN_FOR_S / 10)
    return True


def asked(spans: Any) -> list[bool]:
    """Whether the ledger was asked about each model call."""
    return ["spanledger.verdict" in span.attributes for span in spans.all()]


# --- switches


def test_a_model_that_was_stopped_before_the_program_began_is_not_asked(instrument, ledger, client, awaited, model):
    ledger.apply(STOPPED)
    ledger.apply(Config(switches=[Switch("text-embedding-*", allowed=False)]))
    instrument()
    for refused in (
        lambda: chat(client),
        lambda: list(chat(client, stream=True)),
        lambda: client.chat.completions.with_raw_response.create(**ASK),
        lambda: client.responses.create(model="gpt-5", input="hi"),
        lambda: client.embeddings.create(model="text-embedding-3-small", input="hi"),
        lambda: awaited(lambda client: client.chat.completions.create(**ASK)),
    ):
        with pytest.raises(NotAuthorized):
            refused()
    assert model.requests == []


def test_where_many_first_calls_are_made_at_once_all_wait_for_what_the_ledger_says(instrument, ledger, awaited, model):
    ledger.apply(STOPPED)
    instrument()

    async def twenty(client: openai.AsyncOpenAI) -> list[Any]:
        calls = (client.chat.completions.create(**ASK) for _ in range(20))
        return await asyncio.gather(*calls, return_exceptions=True)

    assert {type(answer) for answer in awaited(twenty)} == {NotAuthorized}
    assert model.requests == []


def test_a_switch_counts_in_a_program_that_runs_and_so_does_taking_it_back(instrument, ledger, client, forgetful):
    instrument()
    assert not refuses(client)
    ledger.apply(STOPPED)
    assert until(lambda: refuses(client))
    ledger.apply(RESUMED)
    assert not refuses(client), "a call that is asked about is decided as things are now"
    assert until(lambda: not refuses(client))


def test_other_models_of_a_stopped_family_s_tenant_are_not_asked_about(instrument, ledger, client, spans):
    ledger.apply(STOPPED)
    instrument()
    assert not refuses(client, model="house-model")
    assert refuses(client)
    assert asked(spans) == [False, True]


def test_no_odd_name_gets_a_model_past_a_switch(instrument, ledger, client, model):
    ledger.apply(STOPPED)
    instrument()
    for odd in ("gpt-5\x00", "gpt-\ud800", "gpt-" + "5" * 10_000, "gpt-\n5"):
        with pytest.raises(CallRefused):
            chat(client, model=odd)
    assert model.requests == []


def test_each_tenant_has_switches_of_its_own(instrument, ledger, ledger_with, client, spans):
    ledger_with(tenant="acme").apply(STOPPED, tenant="acme")
    instrument()
    assert not refuses(client)
    with workflow("w", tenant="acme"):
        assert refuses(client)
    with workflow("w", tenant="other"):
        assert not refuses(client)
    assert not refuses(client)


def test_in_mode_shadow_a_stopped_model_is_asked_and_that_is_recorded(instrument, ledger, client, model):
    ledger.apply(STOPPED)
    instrument(mode="shadow")
    chat(client)
    assert [row["verdict"] for row in ledger.passed_over()] == ["unauthorized"]
    assert len(model.requests) == 1


def test_a_forked_child_knows_what_is_stopped(instrument, ledger, model):
    ledger.apply(STOPPED)
    instrument()
    child = os.fork()
    if child == 0:
        with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
            os._exit(0 if refuses(client) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert model.requests == []


# --- budgets and permissions


def test_a_budget_that_only_the_ledger_holds_counts_and_settles(instrument, ledger, client, awaited, model):
    ledger.apply(Config(budgets=[Budget("models", Calls(2), match="gpt-*", operations=("chat",))]))
    instrument()
    chat(client)
    list(chat(client, stream=True))
    with pytest.raises(BudgetExceeded):
        chat(client)
    with pytest.raises(BudgetExceeded):
        awaited(lambda client: client.chat.completions.create(**ASK))
    assert len(model.requests) == 2
    until_nothing_is_held(lambda: ledger.budget("models"))
    assert ledger.budget("models").spent == Calls(2)


def test_tokens_and_money_are_reserved_and_settled_at_what_was_used(instrument, ledger, client, spans):
    budgets = [Budget("tokens", Tokens(10_000)), Budget("money", Money(1, "USD"))]
    ledger.apply(Config(budgets=budgets))
    instrument(prices=[Price("gpt-5", input=Money(1, "USD"), output=Money(10, "USD"))])
    answer = chat(client)
    assert ledger.budget("tokens").spent == Tokens(answer.usage.total_tokens)
    assert 0 < ledger.budget("money").spent.steps < 10_000
    with pytest.raises(BudgetExceeded):
        chat(client, max_completion_tokens=10_000)


def test_a_permission_that_only_the_ledger_asks_for_is_needed(instrument, ledger, client):
    ledger.apply(Config(rules=[Rule("gpt-*", permission="models:use")]))
    instrument()
    assert refuses(client)


def test_what_is_about_tools_alone_costs_model_calls_nothing(instrument, ledger, client, spans):
    ledger.apply(Config(budgets=[Budget("tools", Calls(1), operations=("execute_tool",))]))
    ledger.apply(Config(rules=[Rule("*", approval=True)], switches=[Switch("refund", allowed=False)]))
    ledger.apply(RESUMED)
    instrument()
    chat(client)
    assert asked(spans) == [False]
    assert ledger.calls() == []


# --- where there is no ledger, or none that answers


def test_a_bare_client_starts_no_private_server_and_says_nothing(client, tmp_path: Path, caplog, logged):
    spanledger.instrument(Config(), libraries=LIBRARIES)
    with caplog.at_level(logging.DEBUG, "spanledger.ledger"):
        chat(client)
        list(chat(client, stream=True))
    assert logged() == []
    assert list(tmp_path.rglob("*")) == []


def test_a_private_server_that_is_in_use_is_asked(client, forgetful):
    spanledger.instrument(Config(), libraries=LIBRARIES)
    assert not refuses(client)
    tool("refund")(lambda: None)()
    with Ledger() as ledger:
        ledger.apply(STOPPED)
    assert until(lambda: refuses(client))


def test_where_no_ledger_answers_model_calls_run_as_unruled_tools_do(
    instrument_client, client, model, forgetful, caplog
):
    instrument_client()
    for _ in range(3):
        chat(client)
        time.sleep(KNOWN_FOR_S)
    assert len(model.requests) == 3
    assert [message.split(":")[0] for message in caplog.messages] == [
        "the ledger does not say which model calls its controls are about, so they run unguarded"
    ]


def test_a_schema_without_a_ledger_breaks_no_model_call(empty_dsn, client, model, caplog):
    spanledger.instrument(Config(dsn=empty_dsn), libraries=LIBRARIES)
    for _ in range(3):
        chat(client)
    assert (len(model.requests), len(caplog.messages)) == (3, 1)
    assert "spanledger migrate" in caplog.text


def test_a_ledger_that_answers_no_more_has_said_what_counts(dsn, proxy, ledger, client, spans, forgetful, caplog):
    ledger.apply(STOPPED)
    spanledger.instrument(Config(dsn=proxy.before(dsn), ledger_timeout_s=0.5), libraries=LIBRARIES)
    assert refuses(client)
    proxy.close()
    time.sleep(KNOWN_FOR_S)
    chat(client)
    assert "what it said last counts" in caplog.text
    assert "gpt-5 runs unguarded, as its rule allows" in caplog.text, "it was asked about, in vain"


def test_a_ledger_that_comes_back_counts_again(dsn, proxy, ledger, client, forgetful, caplog):
    ledger.apply(STOPPED)
    down = True

    def where() -> str:
        return "host=/nowhere" if down else dsn

    spanledger.instrument(Config(dsn=where), libraries=LIBRARIES)
    assert not refuses(client)
    down = False
    assert until(lambda: refuses(client))
    assert "says again" in caplog.text


# --- what it costs


def test_a_plain_model_call_asks_the_ledger_nothing_and_passes_one_function_more(instrument, ledger, client):
    instrument()
    chat(client)
    seen: list[str] = []

    def note(frame: Any, event: str, arg: Any) -> None:
        if event == "call" and "/spanledger/ledger/" in frame.f_code.co_filename:
            seen.append(frame.f_code.co_qualname)
        elif frame.f_code.co_filename == _controls.__file__ and event in ("call", "c_call"):
            seen.append(frame.f_code.co_qualname if event == "call" else arg.__qualname__)

    sys.setprofile(note)
    try:
        chat(client)
    finally:
        sys.setprofile(None)
    assert seen == ["LedgerControls.cover", "ContextVar.get", "monotonic"]
