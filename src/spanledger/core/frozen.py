"""Frozen data, made anew with some fields changed, on the way of every call.

Rules: for plain ones with slots, whose fields are all those of their `__init__` and are not checked there. It is what
`dataclasses.replace` does, which asks every field at every time how it was declared and takes twice as long.
"""

from __future__ import annotations

from typing import Any, TypeVar

T = TypeVar("T")

_set = object.__setattr__


def changed(instance: T, **changes: Any) -> T:
    """Return a copy with some fields changed."""
    cls = type(instance)
    copy = cls.__new__(cls)
    for name in cls.__slots__:  # type: ignore[attr-defined]
        _set(copy, name, changes.pop(name) if name in changes else getattr(instance, name))
    if changes:
        raise TypeError(f"{cls.__qualname__} has no {', '.join(changes)}")
    return copy
