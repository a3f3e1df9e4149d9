"""The conventions page says what is emitted: all of it, and nothing else.

What the tests see exported is watched as well: `tests/emitted.py`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests import emitted

import spanledger
from spanledger.telemetry import _declared, conventions, instruments, proposals, semconv

SRC = Path(spanledger.__file__).parent
DECLARING = [
    SRC / "telemetry" / f"{module}.py" for module in ("semconv", "_genai", "_evaluated", "_leaving", "instruments")
]
PROPOSED = {value for name, value in vars(proposals).items() if name.startswith(("GUARDRAIL_", "COST_"))}
NAMES = {
    f"{module.__name__.rpartition('.')[2]}.{constant}": value
    for module in (semconv, instruments)
    for constant, value in vars(module).items()
    if constant.isupper() and isinstance(value, str)
}
# As a name of ours or of the GenAI conventions looks; modules and loggers of ours look alike and live elsewhere.
NO_NAMES = {
    "spanledger.self_test",  # the tool of the gate's self-test
    "gen_ai.agent.call.id",  # by which spans of Pydantic AI are known; no convention has it
}
LITERAL = re.compile(r"(gen_ai|spanledger)(\.[a-z_]+)+")


def test_the_page_is_up_to_date() -> None:
    assert conventions.PAGE.read_text(encoding="utf-8") == conventions.page(), (
        "write it anew: python -m spanledger.telemetry.conventions"
    )


def test_every_name_is_declared_with_its_meaning() -> None:
    declared = {*_declared.ATTRIBUTES, *_declared.EVENTS, *_declared.METRICS}

    assert set(NAMES.values()) | PROPOSED == declared
    assert all(type(name) is str for name in NAMES.values())
    for attribute in _declared.ATTRIBUTES.values():
        assert all((attribute.when, attribute.example, attribute.meaning)), attribute.name


@pytest.mark.parametrize("constant", sorted(NAMES))
def test_what_is_documented_is_emitted_somewhere(constant: str) -> None:
    assert constant in EMITTED, f"nothing emits {constant}: emit it, or take it out"


def test_no_name_is_written_out_beside_its_declaration() -> None:
    found = [
        f"{path.relative_to(SRC)}:{node.lineno} {node.value}"
        for folder in ("telemetry", "instrument")
        for path in (SRC / folder).rglob("*.py")
        if path not in DECLARING and path.name != "proposals.py"
        for node in _literals(ast.parse(path.read_text()))
        if node.value not in NO_NAMES
    ]

    assert not found, "declare it in semconv.py and use its constant"


def test_a_name_is_declared_once() -> None:
    with pytest.raises(ValueError, match="declared twice"):
        _declared.attribute(semconv.VERDICT, "string", "every span", "run", "A second meaning.")


def test_an_event_carries_only_what_is_declared() -> None:
    with pytest.raises(ValueError, match="declared nowhere"):
        _declared.event("spanledger.odd", "nowhere", ("spanledger.unheard_of",), "Nothing.")


def test_what_nobody_declared_is_noticed() -> None:
    strays = set(emitted.strays("mine", ["spanledger.oops", "other"], [("spanledger.step", ["spanledger.oops"])]))

    assert strays == {"attribute spanledger.oops", "attribute spanledger.oops of event spanledger.step"}
    assert list(emitted.strays("spanledger", ["other"])) == ["attribute other"]
    assert not list(emitted.strays("spanledger", [semconv.VERDICT], [(semconv.EVENT_STEP, [semconv.STEP_TEXT])]))


def _emitting(tree: ast.AST, within: ast.AST | None = None) -> Iterator[str]:
    """The constants that are used otherwise than to look something up."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Attribute) and ast.unparse(node) in NAMES:
            if not _reads(tree):
                yield ast.unparse(node)
        else:
            yield from _emitting(node, tree)


def _reads(node: ast.AST) -> bool:
    """Tell whether a node only looks up what it is given."""
    getter = isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in ("get", "pop")
    return getter or isinstance(node, ast.Compare) or (isinstance(node, ast.Subscript) and _is_load(node))


def _is_load(node: ast.Subscript) -> bool:
    return isinstance(node.ctx, ast.Load)


def _literals(tree: ast.AST) -> Iterator[ast.Constant]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", None) in ("getLogger", "create_key"):
            continue
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and LITERAL.fullmatch(node.value):
            if not node.value.startswith(("spanledger.instrument.", "spanledger.telemetry.")):
                yield node
        else:
            yield from _literals(node)


EMITTED = {
    name for path in SRC.rglob("*.py") if path not in DECLARING for name in _emitting(ast.parse(path.read_text()))
}
