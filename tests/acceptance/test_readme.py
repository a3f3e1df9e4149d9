"""Every code block of the README does what the README says."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from tests.acceptance.conftest import EXAMPLES, ROOT, Run

from spanledger import Config

README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
# In a fresh environment, as they stand, by .ci/run.
SET_UP = {"pip install -e '.[demo]' && spanledger demo", "pip install -e '.[dev]' && pytest"}


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def test_the_readme_has_no_block_of_a_kind_that_is_not_tested_here():
    assert {kind for kind, _ in BLOCKS} == {"bash", "toml", "python", "text"}  # text: test_trace.py


@pytest.mark.parametrize("code", blocks("python"), ids=range(len(blocks("python"))))
def test_its_python_runs(run: Run, dsn, code):
    done = run(sys.executable, "-W", "error", "-c", code, SPANLEDGER_DSN=dsn)

    assert done.returncode == 0, done.stderr
    assert done.stderr == ""


def test_its_configuration_is_the_example_s_and_what_it_adds_to_it_is_known(tmp_path: Path):
    first, *more = (tmp_path / f"{n}.toml" for n in range(len(blocks("toml"))))
    for file, text in zip((first, *more), blocks("toml"), strict=True):
        file.write_text(text)

    assert Config.from_file(first) == Config.from_file(EXAMPLES / "spanledger.toml")
    assert [Config.from_file(file) != Config() for file in more] == [True for _ in more]


def test_its_commands_are_run_here_or_by_the_checks():
    checks = (ROOT / ".ci" / "run").read_text()

    assert [command for command in SET_UP if command not in checks] == []


@pytest.mark.parametrize("text", [b for b in blocks("bash") if b.strip() not in SET_UP])
def test_its_walk_through_ends_with_one_refund(run: Run, dsn, tmp_path: Path, text):
    (tmp_path / "examples").symlink_to(EXAMPLES)

    done = run("bash", "-e", "-c", text, SPANLEDGER_DSN=dsn)

    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "refunds.jsonl").read_text().splitlines()) == 1
    assert '"spanledger.verdict": "replay"' in done.stdout
    assert re.search(r"order-123 +refund +succeeded", done.stdout)
