"""What is needed to test that the spans a framework makes itself are guarded, without any wrap of ours: a `Case`.

Rules: a case lives in `framework_cases/NAME.py` and is called `CASE`; it says how one turn of an agent is run that has
one tool, and tests nothing. `REQUIRES` at the top of the file names what has to be installed. The tests are in
`test_frameworks.py`; `python -m tests.frameworks` runs each where only its framework is installed.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement

CASES = Path(__file__).with_name("framework_cases")


@dataclass(frozen=True)
class Case:
    """One framework that makes spans of its tools.

    Attributes:
        scope: The instrumentation scope of its spans.
        run: (the tool's function, the URL of a model) → what the agent says last.
        tool: Name of the tool, as its spans have it.
        stops: A refusal ends the run, as the rule says; else the model is told whatever it says.
        tells: It can be told to the model instead.
        told: What the model reads of a refusal; None: the refusal itself.
        unsampled: As `run`, where the spans are not sampled, so that nobody records them; None: not tested.
    """

    scope: str
    run: Callable[[Callable[..., str], str], str]
    tool: str = "refund"
    stops: bool = True
    tells: bool = True
    told: str | None = None
    unsampled: Callable[[Callable[..., str], str], str] | None = None


def names() -> list[str]:
    """Names of all cases."""
    return sorted(path.stem for path in CASES.glob("[!_]*.py"))


def requires(name: str) -> list[str]:
    """What has to be installed for a case, read without importing it."""
    for node in ast.parse((CASES / f"{name}.py").read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["REQUIRES"]:
            return list(ast.literal_eval(node.value))
    raise ValueError(f"framework_cases/{name}.py says nothing of what it REQUIRES")


def lacking(name: str) -> str | None:
    """Say what is not installed of what a case needs; None: nothing."""
    for requirement in map(Requirement, requires(name)):
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return f"{requirement.name} is not installed"
        if not requirement.specifier.contains(version, prereleases=True):
            return f"{requirement.name} {version} is installed, not {requirement}"
    return None


def load(name: str) -> Any:
    """Return the case of a framework that is installed."""
    return importlib.import_module(f"framework_cases.{name}").CASE
