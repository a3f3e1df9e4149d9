"""The guides for those who move from another system: their examples run offline, on a private server of their own."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tests.acceptance.conftest import EXAMPLES, Run

import spanledger

GUIDES = sorted(EXAMPLES.glob("moving_from_*"))
LINES_MAX = 140
# What each example says when it has done the job.
SAID = {
    "moving_from_agent_ledger": [
        "five asked, 1 ran: {'refund': 're_1'}",
        "refused: KeyReused",
        "waits for a person: stripe.refund {'amount': 250, 'order_id': 'o-2'}",
        "allowed: {'refund': 're_2'}",
        "by hand: replay, noted",
        "failed: ValueError",
        "failed: CallFailed",
    ],
    "moving_from_tracengent": [
        "may refund 20 EUR: True",
        "may refund 500 EUR: False, payments:* to agent support: it costs more than was granted",
        "may delete users: False",
        "once: {'refunded 100 EUR of order-7'}",
        "the CRM got {'customer': 'c-1', 'iban': '[redacted]'}",
        "did not leave: EgressRefused",
        "billing: refunded 20 EUR of order-7",
        "billing is refused: BudgetExceeded",
    ],
}


@pytest.mark.parametrize("guide", [guide for guide in GUIDES if guide.name in SAID], ids=lambda path: path.name)
def test_the_example_of_a_guide_does_the_job_on_a_ledger_of_its_own(run: Run, tmp_path: Path, guide: Path):
    (example,) = guide.glob("*.py")
    done = run(sys.executable, example, XDG_STATE_HOME=str(tmp_path / "state"))
    assert done.returncode == 0, done.stderr
    assert [line for line in SAID[guide.name] if line not in done.stdout.splitlines()] == []


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_a_guide_is_a_table_and_one_short_example(guide: Path):
    assert "| spanledger |" in (guide / "README.md").read_text()
    (example,) = guide.glob("*.py")
    assert len(example.read_text().splitlines()) <= LINES_MAX


@pytest.mark.parametrize("guide", GUIDES, ids=lambda path: path.name)
def test_every_public_name_that_a_guide_calls_ours_is_there(guide: Path):
    ours = [row.split("|")[2] for row in (guide / "README.md").read_text().splitlines() if row.startswith("| ")]
    names = {name for cell in ours for name in re.findall(r"`([A-Z]\w+)\(", cell)}
    assert [name for name in sorted(names) if not hasattr(spanledger, name)] == []
