"""Under which delegation this code acts.

Rules: it is a token in a context variable, which follows tasks and copied contexts. What is in there was perhaps sent
by somebody else: whoever decides by it reads it with the configuration's keys, and a token that cannot be read is not
the same as none. Nobody gets rid of one from inside.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

_token: ContextVar[str | None] = ContextVar("spanledger_delegation", default=None)


def token() -> str | None:
    """Return the token that this code acts under, read by nobody yet; None where it acts by itself."""
    return _token.get()


@contextlib.contextmanager
def acting(under: str | None) -> Iterator[None]:
    """Act under a token inside a block; None: under none."""
    before = _token.set(under)
    try:
        yield
    finally:
        # A generator may be closed in another context than it was opened in; then there is nothing to put back.
        with contextlib.suppress(ValueError):
            _token.reset(before)
