"""The drivers are twins: one blocks where the other awaits, and they differ in nothing else."""

from __future__ import annotations

import ast
import inspect
import textwrap

import pytest

from spanledger.ledger._batch import AwaitingBatches, BlockingBatches
from spanledger.ledger._drivers import AwaitingDriver, BlockingDriver

SAME = {
    "reply_awaiting": "reply",
    "forget_loop_connections": "forget_connections",
    "deliver_awaiting": "deliver",
}


class WithoutAwait(ast.NodeTransformer):
    """Writes asynchronous code as if it blocked."""

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        plain = ast.FunctionDef(**{name: getattr(node, name, None) for name in ast.FunctionDef._fields})
        return self.generic_visit(ast.copy_location(plain, node))

    def visit_AsyncWith(self, node: ast.AsyncWith) -> ast.AST:
        return self.generic_visit(ast.copy_location(ast.With(items=node.items, body=node.body), node))

    def visit_Await(self, node: ast.Await) -> ast.AST:
        return self.visit(node.value)

    def visit_Attribute(self, node: ast.Attribute) -> ast.AST:
        node.attr = SAME.get(node.attr, node.attr)
        return self.generic_visit(node)

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """`Awaitable[X]` is `X`."""
        self.generic_visit(node)
        return node.slice if isinstance(node.value, ast.Name) and node.value.id == "Awaitable" else node


def written_blocking(method: object) -> str:
    tree = ast.parse(textwrap.dedent(inspect.getsource(method)))
    return ast.unparse(WithoutAwait().visit(tree))


DRIVERS = (AwaitingDriver, BlockingDriver)
BATCHES = (AwaitingBatches, BlockingBatches)


@pytest.mark.parametrize(
    ("twins", "name"),
    [
        *((DRIVERS, name) for name in ("__init__", "drive", "query", "_query")),
        *((BATCHES, name) for name in ("ask", "_send")),
    ],
)
def test_the_twins_are_alike_but_for_await(twins: tuple[type, type], name: str) -> None:
    awaiting, blocking = (written_blocking(getattr(twin, name)) for twin in twins)
    assert awaiting == blocking


@pytest.mark.parametrize("twins", [DRIVERS, BATCHES])
def test_the_twins_have_the_same_methods(twins: tuple[type, type]) -> None:
    assert set(vars(twins[0])) == set(vars(twins[1]))
