"""urllib3: runs no tools; what leaves through it has tests of its own."""

from __future__ import annotations

from library_case import Case

CASE = Case("urllib3")
