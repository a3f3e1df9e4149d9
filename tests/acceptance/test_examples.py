"""The examples, as a user starts them: unmodified agents whose repeated run refunds nothing."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest
from tests.acceptance.conftest import EXAMPLES, Run

AGENTS = sorted(EXAMPLES.glob("with_*.py"))
WITHOUT_AGENT = [EXAMPLES / "with_mcp.py"]
LINES_MAX = 45


@pytest.mark.parametrize("example", AGENTS, ids=lambda path: path.stem)
def test_an_agent_that_runs_again_does_not_refund_again(run: Run, dsn, tmp_path: Path, example: Path):
    for wanted in lacking(example):
        pytest.skip(f"{wanted} is not installed")
    environment = {"SPANLEDGER_DSN": dsn, "SPANLEDGER_WORKFLOW_ID": "order-123", "OTEL_METRICS_EXPORTER": "none"}

    first, second = (
        run("opentelemetry-instrument", "--traces_exporter", "console", "python", example, **environment)
        for _ in range(2)
    )

    for done in (first, second):
        assert done.returncode == 0, done.stderr
        assert "refunded" in done.stdout
        assert '"gen_ai.tool.name": "refund"' in done.stdout
        assert '"name": "invoke_agent support"' in done.stdout or example in WITHOUT_AGENT
    assert len((tmp_path / "refunds.jsonl").read_text().splitlines()) == 1
    assert '"spanledger.verdict": "replay"' in second.stdout


@pytest.mark.parametrize("example", AGENTS, ids=lambda path: path.stem)
def test_an_example_is_short(example: Path):
    assert len(example.read_text().splitlines()) <= LINES_MAX


def lacking(example: Path) -> list[str]:
    """What an example imports and is not installed."""
    names = [
        name.partition(".")[0]
        for node in ast.walk(ast.parse(example.read_text()))
        for name in (
            [alias.name for alias in node.names]
            if isinstance(node, ast.Import)
            else [node.module or ""]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    ]
    beside = {path.stem for path in EXAMPLES.glob("*.py")}
    return [name for name in names if name not in beside and importlib.util.find_spec(name) is None]
