"""Which libraries a change has tested in environments of their own."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests import library

from spanledger.instrument import _registry


@pytest.mark.parametrize(
    ("path", "concerned"),
    [
        ("README.md", set()),
        ("tests/unit/test_keys.py", set()),
        ("tests/instrument/test_tool.py", set()),
        ("src/spanledger/instrument/libraries/mcp.py", {"mcp"}),
        ("src/spanledger/instrument/libraries/_openai_responses.py", {"openai"}),
        ("tests/instrument/library_cases/langgraph.py", {"langgraph"}),
        ("tests/instrument/test_openai_agents.py", {"openai_agents"}),
        ("tests/instrument/anthropic_world.py", {"anthropic"}),
        ("tests/instrument/test_every_library.py", set(_registry.LIBRARIES)),
        ("tests/instrument/test_every_model.py", set(_registry.LIBRARIES)),
        ("tests/instrument/conftest.py", set(_registry.LIBRARIES)),
        ("src/spanledger/instrument/library.py", set(_registry.LIBRARIES)),
        ("src/spanledger/_setup.py", set(_registry.LIBRARIES)),
        ("src/spanledger/testing/_http.py", set(_registry.LIBRARIES)),
        ("src/spanledger/ledger/_ledger.py", set()),
        ("src/spanledger/telemetry/scopes.py", set()),
        ("pyproject.toml", set(_registry.LIBRARIES)),
    ],
)
def test_a_file_concerns_its_own_library_and_what_is_shared_concerns_all(path, concerned):
    assert library.touched([path]) == concerned


@pytest.fixture
def git(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A repository whose main branch has two commits."""
    monkeypatch.setattr(library, "ROOT", tmp_path)

    def run(*command: str) -> None:
        who = ["-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", "-C", str(tmp_path), *who, *command], check=True, capture_output=True)

    run("init", "--initial-branch=main")
    for name in ("one", "two"):
        (tmp_path / name).touch()
        run("add", name)
        run("commit", "--message", name)
    return run


def test_a_branch_changes_what_differs_from_the_main_one(git, tmp_path):
    git("checkout", "-b", "mine")
    (tmp_path / "three").touch()
    git("add", "three")
    git("commit", "--message", "three")
    (tmp_path / "one").write_text("not committed")
    (tmp_path / "four").touch()
    assert library.changed() == ["one", "three", "four"]


def test_the_main_branch_changes_what_differs_from_the_last_tag(git):
    assert library.changed() is None
    git("tag", "v1", "HEAD~1")
    assert library.changed() == ["two"]


def test_outside_of_a_repository_nobody_can_tell(tmp_path, monkeypatch):
    monkeypatch.setattr(library, "ROOT", tmp_path)
    assert library.changed() is None


def test_a_library_without_a_case_is_told_where_to_write_one():
    with pytest.raises(
        LookupError, match=r"write tests/instrument/library_cases/nothing\.py|library_cases/nothing\.py in a folder"
    ):
        library.needs("nothing")
