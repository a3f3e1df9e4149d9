"""The guides from systems that kept sessions: their examples run offline, on a private server of their own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tests.acceptance.conftest import EXAMPLES, Run

import spanledger
from spanledger import errors, evals

SAID = {
    "moving_from_agent_ledger_sdk": [
        "refused before it was spent: 0.008 USD of budget 'a day'",
        "session chat-9: failed (the budget of the day is used up)",
        "  chat-9/m-1: done, 2 calls, 2500 tokens",
        "  chat-9/m-1: done, 1 calls, 2500 tokens",
        "  chat-9/m-2: done, 2 calls, 2500 tokens",
        "  chat-9/m-3: failed, 0 calls, 0 tokens",
        "agents: support",
    ],
    "moving_from_provenant": [
        "too few passed: 1 of 2",
        "nightly-7: 50% passed, 75% by weight",
        "java-7: 2 handed in, fixed: ('when',)",
        "chat-10: failed, 0 turns, 0 calls",
        "chat-9: done, 3 turns, 3 calls",
        "every turn has its tokens: True",
        "agent support: 2 sessions, 3 calls",
        "connectors: ['refunds']",
        "asked three times, paid 1 time",
        "minted: <credential of refunds for payments:refund>",
        "night may refund: False, not at night",
    ],
}


@pytest.mark.parametrize("name", SAID)
def test_the_example_does_the_job_on_a_ledger_of_its_own(run: Run, tmp_path: Path, name: str):
    (example,) = (EXAMPLES / name).glob("*.py")
    done = run(sys.executable, "-W", "error", example, XDG_STATE_HOME=str(tmp_path / "state"))

    assert done.returncode == 0, done.stderr
    assert [line for line in done.stdout.splitlines() if line in SAID[name]] == SAID[name]
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("name", SAID)
def test_every_name_that_a_guide_calls_ours_is_there(name: str):
    rows = [row for row in (EXAMPLES / name / "README.md").read_text().splitlines() if row.startswith("| ")]
    ours = " ".join(row.split("|")[2] for row in rows)
    calls = set(re.findall(r"`([A-Za-z_]+)\(", ours)) | set(re.findall(r"`Ledger\.(\w+)\(", ours))
    of_evals = set(re.findall(r"`evals\.([A-Za-z_]+)", ours))
    raised = set(re.findall(r"`errors\.(\w+)`", ours))

    assert [call for call in calls if not hasattr(spanledger, call) and not hasattr(spanledger.Ledger, call)] == []
    assert [name for name in of_evals if not hasattr(evals, name)] == []
    assert [kind for kind in raised if not hasattr(errors, kind)] == []
