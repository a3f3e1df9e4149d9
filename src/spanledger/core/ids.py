"""Ids that nobody else makes, and texts that can be one."""

from __future__ import annotations

import os
from typing import Final

ID_CHARS_MAX: Final = 512


def is_id(text: object) -> bool:
    """Tell whether a text can be an id, or a name that is kept as one: printable, and not too long for an index."""
    return isinstance(text, str) and 0 < len(text) <= ID_CHARS_MAX and text.isprintable()


def new_id() -> str:
    """Make a random UUID as text, in a third of the time that `uuid.uuid4` takes to make a number of it first."""
    digits = os.urandom(16).hex()
    variant = "89ab"[int(digits[16], 16) & 3]
    return f"{digits[:8]}-{digits[8:12]}-4{digits[13:16]}-{variant}{digits[17:20]}-{digits[20:]}"
