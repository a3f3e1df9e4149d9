"""The libraries we know, one line each, and those that other packages publish; a module is imported when asked for.

Rules: a package publishes a `Library` under the entry point group `spanledger_library`. Ours go before one of the same
name. What is wrong with another's library is its own trouble: it is left out, and said so.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import sys
from collections.abc import Iterator, Mapping
from importlib.machinery import all_suffixes
from pathlib import Path
from types import MappingProxyType

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from spanledger.instrument.library import Library, Wrap

GROUP = "spanledger_library"

LIBRARIES: Mapping[str, str] = MappingProxyType(
    {
        "aiohttp": "spanledger.instrument.libraries.aiohttp",
        "anthropic": "spanledger.instrument.libraries.anthropic",
        "httpx": "spanledger.instrument.libraries.httpx",
        "httpx2": "spanledger.instrument.libraries.httpx2",
        "langchain": "spanledger.instrument.libraries.langchain",
        "langgraph": "spanledger.instrument.libraries.langgraph",
        "mcp": "spanledger.instrument.libraries.mcp",
        "openai": "spanledger.instrument.libraries.openai",
        "openai_agents": "spanledger.instrument.libraries.openai_agents",
        "pydantic_ai": "spanledger.instrument.libraries.pydantic_ai",
        "requests": "spanledger.instrument.libraries.requests",
        "urllib3": "spanledger.instrument.libraries.urllib3",
    }
)


def names() -> list[str]:
    """Names of all libraries: ours, then those of other packages."""
    published = importlib.metadata.entry_points(group=GROUP)
    return list(dict.fromkeys([*LIBRARIES, *sorted(published.names)]))


def published() -> Iterator[Library]:
    """The libraries of other packages that can be used."""
    for name in names()[len(LIBRARIES) :]:
        with contextlib.suppress(Exception):  # reported where it is to be attached
            yield load(name)


def load(name: str) -> Library:
    """Return the library of a name.

    Raises:
        LookupError: There is none.
        TypeError: What another package publishes under that name is no library of that name.
        ValueError: It says of a target or of versions what cannot be read.
        Exception: Whatever importing it raises.
    """
    if name in LIBRARIES:
        library: Library = importlib.import_module(LIBRARIES[name]).LIBRARY
        return library
    entries = importlib.metadata.entry_points(group=GROUP, name=name)
    if not entries:
        raise LookupError(f"there is no library {name!r}; there are {', '.join(names())}")
    entry = next(iter(entries))
    try:
        found = entry.load()
    except SystemExit as error:
        raise ImportError(f"importing {entry.value} would end the program") from error
    if not isinstance(found, Library):
        raise TypeError(f"{entry.value} is no spanledger.Library but a {type(found).__name__}")
    if found.name != name:
        raise TypeError(f"the Library at {entry.value} is named {found.name!r}: name its entry point so")
    if found.requires:
        Requirement(found.requires)
    for wrap in found.wraps:
        SpecifierSet(wrap.versions)
        if not (wrap.module and wrap.path):
            raise ValueError(f"a target is 'module:Class.method' or 'module:function', not {wrap.target!r}")
    return found


def publishers(name: str) -> list[str]:
    """The packages that publish a library under a name, as people know them."""
    entries = importlib.metadata.entry_points(group=GROUP, name=name)
    return sorted({entry.dist.name if entry.dist else entry.value for entry in entries})


def passed_over() -> Iterator[str]:
    """Say which published libraries another one of the same name stands before."""
    for name in sorted(importlib.metadata.entry_points(group=GROUP).names):
        before = "spanledger itself" if name in LIBRARIES else publishers(name)[0]
        left = publishers(name)[0 if name in LIBRARIES else 1 :]
        if left:
            yield f"{name}: that of {', '.join(left)} is not used, because {before} has one of the same name"


def installed(library: Library) -> str | None:
    """Return the installed version of a library's package, "0" where it comes in none; None where it is not there."""
    if not library.requires:
        return "0"
    try:
        return importlib.metadata.version(Requirement(library.requires).name)
    except importlib.metadata.PackageNotFoundError:
        return None


def is_known(library: Library, version: str) -> bool:
    """Tell whether a version is among those whose functions the library knows."""
    return not library.requires or Requirement(library.requires).specifier.contains(version, prereleases=True)


def wraps_of(library: Library, version: str) -> Iterator[Wrap]:
    """What there is to wrap in a version of a library's package."""
    return (wrap for wrap in library.wraps if SpecifierSet(wrap.versions).contains(version, prereleases=True))


def has_module(name: str) -> bool:
    """Tell without importing it, or the package it is in, whether there is a module; true where that cannot be told."""
    top, *rest = name.split(".")
    if name in sys.modules:
        return True
    spec = importlib.util.find_spec(top)
    if spec is None or not rest:
        return spec is not None
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    if not any(place.is_dir() for place in places):
        return bool(places)  # in an archive, perhaps
    paths = [place.joinpath(*rest) for place in places]
    return any(path.is_dir() or any(path.with_name(path.name + s).exists() for s in all_suffixes()) for path in paths)
