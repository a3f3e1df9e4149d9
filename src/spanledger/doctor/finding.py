"""What the doctor says about one thing."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, BAD = "ok", "warn", "bad"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        about: What was looked at, in a word.
        state: ``"ok"``, ``"warn"``: works, but look at it; ``"bad"``: a program here is not guarded or does not start.
        says: What was found.
        do: What to do about it; None where nothing is to be done.
    """

    about: str
    state: str
    says: str
    do: str | None = None
