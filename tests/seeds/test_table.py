"""No defect is forgotten: the table at the top of this package names every one, and the tests it names are there."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest
import tests.seeds

TESTS = Path(tests.seeds.__file__).parent.parent
DEFECTS = {"AL-D": 22, "AL-T": 13, "LS-D": 9, "PV-D": 12, "PG-D": 6, "TR-D": 13}
THREADS = """
    litellm#34732 litellm#40095 litellm#26672 litellm#27639 litellm#30522 litellm#39851 litellm#40050 otari#128
    riskkernel#61 aihub#1766 langgraph#7417 crewAI#5802 langchain#40688 agno#10366 composio#3654 openai-agents#4615
    eunomia#201 hermes#70724
""".split()
TOPICS = """
    delegation; evals; web gates
"""
IDS = [f"{kind}{n}" for kind, last in DEFECTS.items() for n in range(1, last + 1)] + THREADS


def table() -> dict[str, list[str]]:
    """Every id, and what stands under it."""
    places: dict[str, list[str]] = {}
    for line in tests.seeds.__doc__.partition("reads this.")[2].splitlines():
        if line.startswith("    "):
            places[list(places)[-1]].append(line.strip())
        elif line:
            name, _, what = line.partition("  ")
            assert what, line
            assert name not in places, f"{name} is there twice"
            places[name] = []
    return places


@functools.cache
def names_in(file: str) -> frozenset[str]:
    tree = ast.parse((TESTS / file).read_text())
    return frozenset(node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


TABLE = table()


def test_every_defect_has_its_place_and_nothing_else_has():
    assert list(TABLE) == IDS


@pytest.mark.parametrize("name", IDS)
def test_what_is_tested_has_tests_and_what_waits_says_for_what(name):
    assert TABLE[name]
    for place in TABLE[name]:
        if place.startswith("waits for "):
            assert place.removeprefix("waits for ") in [topic.strip() for topic in re.split(";", TOPICS)]
        else:
            file, _, test = place.partition("::")
            assert test in names_in(file), place


def test_every_test_here_is_in_the_table():
    named = {place for places in TABLE.values() for place in places}
    here = {
        f"seeds/{file.name}::{test}"
        for file in Path(tests.seeds.__file__).parent.glob("test_*.py")
        if file.name != Path(__file__).name
        for test in names_in(f"seeds/{file.name}")
        if test.startswith("test_")
    }
    assert here - named == set()
