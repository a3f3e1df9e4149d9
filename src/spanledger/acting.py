"""Under which delegation this code acts, and which one it sends along to others.

Rules: both are tokens in a context variable, which follows tasks and copied contexts. What is in there was perhaps sent
by somebody else: whoever decides by it reads it with the configuration's keys, and a token that cannot be read is not
the same as none. Nobody gets rid of one from inside. A token is as good as its bearer: it goes to others only where
`sending` says so, in a header of its own, and never in baggage, which goes everywhere.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import replace
from typing import Any, Final

from spanledger.core.frozen import value
from spanledger.errors import ConfigError
from spanledger.tokens import TOKEN_CHARS_MAX

HEADER: Final = "spanledger-delegation"
# Stands for what was sent and is no text.
_NO_TOKEN: Final = "?"  # noqa: S105 - none


@value
class Acting:
    """What is around this code.

    Attributes:
        under: The token that it acts under.
        sends: The token that it sends along.
    """

    under: str | None = None
    sends: str | None = None


_around: ContextVar[Acting] = ContextVar("spanledger_delegation", default=Acting())  # noqa: B039 - frozen


# No function around it, for it is asked at every call.
around: Final[Callable[[], Acting]] = _around.get
"""Return what is around this code."""


def token() -> str | None:
    """Return the token that this code acts under, read by nobody yet; None where it acts by itself."""
    return _around.get().under


@contextlib.contextmanager
def put(here: Acting) -> Iterator[None]:
    """Put what was around other code around a block."""
    before = _around.set(here)
    try:
        yield
    finally:
        # A generator may be closed in another context than it was opened in; then there is nothing to put back.
        with contextlib.suppress(ValueError):
            _around.reset(before)


def acting(under: str) -> contextlib.AbstractContextManager[None]:
    """Act under a token inside a block."""
    return put(replace(_around.get(), under=under))


def sending(token: str) -> contextlib.AbstractContextManager[None]:
    """Send a token along inside a block: in the headers that `carrier` makes, and to the MCP servers that are called.

    Whoever gets it can act under it, so it is best one of their own: what `delegate` passes on to the agent that is
    called, with no more than it needs.

    Args:
        token: What `delegate` returned.

    Raises:
        ConfigError: That is no token.
    """
    return put(replace(_around.get(), sends=checked(token)))


def checked(token: object) -> str:
    """Return a token that can be a header; whether it is good for anything its receiver says.

    Raises:
        ConfigError: It cannot.
    """
    fits = isinstance(token, str) and 0 < len(token) <= TOKEN_CHARS_MAX and token.isascii() and token.isprintable()
    if not fits or " " in str(token):
        raise ConfigError("what is sent along is the token that delegate() returned")
    return str(token)


def received(headers: Mapping[Any, Any]) -> str | None:
    """Return the token among what another process has sent, read by nobody yet; None where there is none.

    However it is spelled, and however often it is there: what says two things says nothing that can be read.
    """
    named = [value for name, value in headers.items() if isinstance(name, str) and name.lower() == HEADER]
    # Whoever could send None can as well send nothing.
    found = [value for value in named if value is not None]
    if not found:
        return None
    return found[0] if len(found) == 1 and isinstance(found[0], str) else _NO_TOKEN
