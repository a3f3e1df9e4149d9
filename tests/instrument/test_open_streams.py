"""Streams that are open where a process ends or forks: settled once, by the process that asked."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from spanledger import Ledger, Tokens

PROGRAM = """
import gc, os, sys
import openai
sys.path.insert(0, os.environ["WORLD"])
from openai_world import LIMITED, script
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import ConsoleSpanExporter, SimpleSpanProcessor

import spanledger
from spanledger import Budget, Config, Tokens
from spanledger.testing import ModelServer

provider = TracerProvider()
shown = ConsoleSpanExporter(formatter=lambda span: f"{span.name} {span.attributes['spanledger.usage.source']}\\n")
provider.add_span_processor(SimpleSpanProcessor(shown))
trace.set_tracer_provider(provider)
spanledger.instrument(Config(dsn=os.environ["DSN"], budgets=[Budget("b", Tokens(100_000))]), libraries=["openai"])
client = openai.OpenAI(base_url=ModelServer(script).start().url, api_key="offline", max_retries=0)
stream = client.chat.completions.create(**LIMITED, user="used", stream=True)
next(stream)
"""
LEFT = {
    "a stream": "",
    "a generator": "more = (chunk for chunk in stream); next(more)",
    "a helper": "del stream; helper = client.chat.completions.stream(**LIMITED).__enter__(); next(helper)",
}
FORKED = {
    "drops it": "del stream; gc.collect(); os._exit(0)",
    "closes it": "stream.close(); os._exit(0)",
    "ends": "sys.exit()",
}


def run(program: str, dsn: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + program],
        env=os.environ | {"DSN": dsn, "WORLD": str(Path(__file__).parent)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("left", LEFT.values(), ids=LEFT)
def test_what_nobody_has_closed_settles_when_the_program_ends(left, dsn, ledger: Ledger):
    told = run(left, dsn)
    assert set(told.splitlines()) == {"chat gpt-5 estimated"}
    balance = ledger.budget("b")
    assert balance.held == Tokens(0)
    assert balance.spent.steps > 0


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing is forked here")
@pytest.mark.parametrize("child", FORKED.values(), ids=FORKED)
def test_what_a_forked_child_does_with_its_parent_s_stream_settles_nothing(child, dsn, ledger: Ledger):
    told = run(f"if not (pid := os.fork()):\n    {child}\nos.waitpid(pid, 0)\nlist(stream)", dsn)
    assert told == "chat gpt-5 reported\n"
    balance = ledger.budget("b")
    assert (balance.held, balance.spent) == (Tokens(0), Tokens(1050))
