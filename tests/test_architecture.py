"""The mechanical limits of this code base: each failure says what to do."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from pathlib import Path

import pytest

import spanledger
from spanledger.instrument import _registry

SRC = Path(spanledger.__file__).parent
MODULES = sorted(SRC.rglob("*.py"))
FUNCTION_LINES_MAX, MODULE_LINES_MAX, LIBRARY_LINES_MAX, PARAMETERS_MAX, NESTING_MAX = 60, 400, 150, 6, 3
# Public calls whose keyword-only parameters are the fields of what they make.
MANY_PARAMETERS = {"tool_call.__init__", "Ledger.calls", "AsyncLedger.calls", "record_llm_call", "record_tool_call"}
NESTING = (ast.If, ast.For, ast.AsyncFor, ast.While, ast.With, ast.AsyncWith, ast.Try)

PUBLIC = [
    "Answer",
    "Approval",
    "AsyncLedger",
    "Authorization",
    "Balance",
    "Begun",
    "Budget",
    "Call",
    "Calls",
    "Codec",
    "Config",
    "Connector",
    "Credential",
    "Delegation",
    "EgressRule",
    "EncryptingCodec",
    "Grant",
    "GuardrailSpanProcessor",
    "Ledger",
    "Library",
    "Money",
    "Price",
    "Rate",
    "Redact",
    "Report",
    "Resolution",
    "Resource",
    "Rule",
    "Switch",
    "Tokens",
    "ToolCall",
    "Usage",
    "Verdict",
    "Wrap",
    "authorize",
    "carried",
    "carrier",
    "connectors",
    "current_call",
    "current_workflow",
    "decide",
    "delegate",
    "delegated",
    "ensure_authorized",
    "errors",
    "guard",
    "governed_client",
    "has_permission",
    "instrument",
    "invoke",
    "invoke_awaiting",
    "mint_credential",
    "mint_credential_awaiting",
    "over",
    "record_event",
    "record_llm_call",
    "record_tool_call",
    "sending",
    "session",
    "step",
    "tool",
    "tool_call",
    "tracked_client",
    "uninstrument",
    "webhook",
    "workflow",
]


def test_the_public_names_are_these() -> None:
    assert sorted(spanledger.__all__) == sorted(PUBLIC)


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_a_module_is_short_and_begins_with_its_rules(path: Path) -> None:
    text = path.read_text()

    limit = LIBRARY_LINES_MAX if path.parent.name == "libraries" else MODULE_LINES_MAX
    assert text.count("\n") <= limit, f"split it: a module has at most {limit} lines"
    header = ast.get_docstring(ast.parse(text))
    assert header, "say in the first line what the module is for"
    if text.count("\n") > 60:
        assert header.count("\n") > 1, "its header states its rules"


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(SRC)))
def test_functions_are_short_flat_and_annotated(path: Path) -> None:
    for name, function in _functions(ast.parse(path.read_text())):
        where = f"{path.name}: {name}"
        lines = (function.end_lineno or 0) - function.lineno + 1
        assert lines <= FUNCTION_LINES_MAX, f"{where} has {lines} lines; split it"
        parameters = [a for a in (*function.args.args, *function.args.kwonlyargs) if a.arg not in ("self", "cls")]
        if name not in MANY_PARAMETERS:
            assert len(parameters) <= PARAMETERS_MAX, f"{where} has {len(parameters)} parameters; make a dataclass"
        assert all(a.annotation for a in parameters), f"{where}: annotate every parameter"
        assert _depth(function) <= NESTING_MAX, f"{where} is nested deeper than {NESTING_MAX}; return early"


@pytest.mark.parametrize("name", _registry.LIBRARIES)
def test_a_library_is_registered_under_its_own_name_and_wraps_something(name: str) -> None:
    library = _registry.load(name)

    assert library.name == name
    assert library.wraps
    assert all(":" in wrap.target and inspect.isfunction(wrap.describe) for wrap in library.wraps)


def test_every_library_file_is_registered() -> None:
    files = {path.stem for path in (SRC / "instrument" / "libraries").glob("[!_]*.py")}

    assert files == set(_registry.LIBRARIES), "add one line to instrument/_registry.py"


def _functions(tree: ast.AST, within: str = "") -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield within + node.name, node
        if isinstance(node, ast.ClassDef):
            yield from _functions(node, f"{within}{node.name}.")
        elif not isinstance(node, ast.expr):
            yield from _functions(node, within)


def _depth(node: ast.AST, level: int = 0) -> int:
    deepest = level
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        elif_ = isinstance(node, ast.If) and isinstance(child, ast.If) and node.orelse == [child]
        deepest = max(deepest, _depth(child, level + (isinstance(child, NESTING) and not elif_)))
    return deepest
