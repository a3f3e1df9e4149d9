"""Real processes, started as a user starts them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from spanledger import cli

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


@pytest.fixture
def run_here(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Run our own command as `run` does, but in this process, where all that takes long to import is imported."""

    def run_here(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
        program, *words = command
        assert program == "spanledger"
        capsys.readouterr()
        with monkeypatch.context() as patched:
            for name, value in environment.items():
                patched.setenv(name, value)
            try:
                code = cli.main(words)
            except SystemExit as ended:  # argparse
                code = int(ended.code or 0)
        return subprocess.CompletedProcess(command, code, *capsys.readouterr())

    return run_here
