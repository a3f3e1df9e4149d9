"""What others put around functions and results."""

from __future__ import annotations

from typing import Any, Final

import wrapt

PROXY: Final[Any] = getattr(wrapt, "BaseObjectProxy", wrapt.ObjectProxy)
"""What all proxies are; since wrapt 2 those of functions are no `ObjectProxy`."""


def innermost(thing: Any) -> Any:
    """Return what is inside of all that others have put around it."""
    while isinstance(thing, PROXY):
        thing = thing.__wrapped__
    return thing
