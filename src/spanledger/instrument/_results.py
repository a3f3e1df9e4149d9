"""Results of functions that are annotated: kept so that they come back as what the annotation says.

Rules: the annotation of the running program names what is made of a kept result, never the row of the ledger.
"""

from __future__ import annotations

import functools
import operator
import typing
from collections.abc import Callable
from typing import Any

from spanledger.core.call import Call
from spanledger.core.values import decode_as, encode


class TypedCodec:
    """Keeps results of an annotated function; without an annotation, what JSON and our tags for it give back equal."""

    def __init__(self, annotation: Any = None) -> None:
        self._annotation = annotation

    def encode(self, result: Any) -> Any:
        """Turn a result into a JSON tree that gives it back equal."""
        tree = encode(result, exact=True)
        back = decode_as(tree, self._annotation)
        if type(back) is not type(result) or back != result:
            raise TypeError(f"a {type(result).__qualname__} would not come back equal; annotate what is returned")
        return tree

    def decode(self, tree: Any, call: Call) -> Any:  # noqa: ARG002 - the call matters to other codecs
        """Turn a kept tree into the result."""
        return decode_as(tree, self._annotation)


def returned_by(function: Callable[..., Any]) -> Any:
    """Return what a function is annotated to return; None where it does not say. A class returns what it is."""
    if isinstance(function, type):
        return function
    try:
        return typing.get_type_hints(function, include_extras=True).get("return")
    except (NameError, TypeError):
        # A name that only a type checker sees: the result is kept where JSON alone gives it back.
        return None


def also_returned(function: Callable[..., Any] | None, *kinds: Any) -> Any:
    """Return the annotation of what a function, if there is one, or its framework may return.

    Args:
        function: The program's function.
        *kinds: Annotations of what the framework knows besides.
    """
    annotation = None if function is None else returned_by(function)
    # What the function says comes first: of several kinds of list the first one counts.
    named = () if annotation in (None, Any) else (annotation,)
    return functools.reduce(operator.or_, [*named, *kinds])
