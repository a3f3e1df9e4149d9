"""`spanledger demo`, as a newcomer runs it."""

from __future__ import annotations

from pathlib import Path

from tests.acceptance.conftest import Run


def test_the_demo_shows_two_refunds_without_us_and_one_with_us(run: Run, tmp_path: Path):
    done = run("spanledger", "demo", TMPDIR=str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    without, recorded, unrecorded, over, ledger = (
        done.stdout.partition(start)[2].partition(end)[0]
        for start, end in [
            ("Without spanledger", "(a)"),
            ("(a)", "(b)"),
            ("(b)", "(c)"),
            ("(c)", "The ledger"),
            ("The ledger", "Next"),
        ]
    )
    assert "paid 2 refunds" in without
    assert "paid 1 refund." in recorded
    assert "replay, of span 2" in recorded
    assert "paid 1 refund." in unrecorded
    assert "a probe found: succeeded" in unrecorded
    assert "paid 0 refunds" in over
    assert "budget_exceeded" in over
    assert "20.00 EUR spent, 0.00 EUR held, 480.00 EUR left" in ledger
    assert not any(line != line.rstrip() for line in without.splitlines() + over.splitlines())
    assert not list(tmp_path.glob("spanledger-demo-*")), "the demo leaves nothing behind"
