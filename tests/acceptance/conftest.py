"""Real processes, started as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
BIN = Path(sys.executable).parent
RUN_MAX_S = 120.0

Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    """Run a command in this test's directory with the environment given by keywords; other settings do not reach it."""

    def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("OTEL_", "SPANLEDGER_", "OPENAI_", "COV"))}
        return subprocess.run(
            [str(part) for part in command],
            cwd=tmp_path,
            env=kept | {"PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}"} | environment,
            capture_output=True,
            text=True,
            timeout=RUN_MAX_S,
            check=False,
        )

    return run
