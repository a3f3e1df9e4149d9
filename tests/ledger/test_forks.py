"""Servers that fork their workers: what the parent has is not the children's, and the other way round."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from prefork import CHILDREN

PROGRAM = Path(__file__).with_name("prefork.py")


@pytest.mark.parametrize(("how", "code"), [("os_exit", 0), ("exception", 1), ("end", 0), ("multiprocessing", 0)])
def test_parent_and_children_use_the_ledger_at_once_and_however_a_child_ends_the_parent_goes_on(
    dsn: str, how: str, code: int
) -> None:
    done = subprocess.run(
        [sys.executable, str(PROGRAM), dsn, how], capture_output=True, text=True, timeout=90, check=False
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["children"] == [code] * CHILDREN, done.stderr
    assert (said["kept"], said["before"], said["replayed"]) == (True, True, True)
    # The call that ran through all of this was never taken for lost.
    assert (said["owned"], said["lapsed"]) == (True, 0)
    assert said["states"] == ["succeeded"]
    assert (said["calls"], said["held"]) == (said["expected"], 0)
    assert "discarding closed connection" not in done.stderr
    assert "BAD" not in done.stderr
