"""JSONPath (RFC 9535), by a library that is needed only where a rule has such a path.

Rules: a path that cannot be read, or read by nobody here, is an error when the rule is first looked at, and never a
path that finds nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any

from spanledger.core.redaction import Location, Redact
from spanledger.errors import ConfigError


def check(redact: Iterable[Redact | str]) -> None:
    """Make sure that every path can be looked up.

    Raises:
        ConfigError: One cannot be read, or the library is not installed.
    """
    for one in redact:
        if isinstance(one, Redact) and one.is_path:
            _compiled(one.path)


def find(path: str, tree: Any) -> Iterable[Location]:
    """Look a path up in a JSON tree."""
    return _compiled(path)(tree)


@functools.lru_cache(maxsize=1024)
def _compiled(path: str) -> Callable[[Any], list[Location]]:
    try:
        from jsonpath import JSONPathEnvironment, JSONPathError
    except ImportError:
        raise ConfigError(
            f"redact {path!r} is a JSONPath: pip install 'spanledger[jsonpath]', or name the key alone"
        ) from None
    try:
        query = JSONPathEnvironment(strict=True).compile(path)
    except JSONPathError as error:
        raise ConfigError(f"redact {path!r} is no JSONPath: {str(error).partition(chr(10))[0]}") from None
    return lambda tree: [match.parts for match in query.finditer(tree)]
