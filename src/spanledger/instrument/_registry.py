"""The libraries we know, one line each. The module is imported when its library is."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from types import MappingProxyType

from spanledger.instrument.library import Library

LIBRARIES: Mapping[str, str] = MappingProxyType(
    {
        "anthropic": "spanledger.instrument.libraries.anthropic",
        "langchain": "spanledger.instrument.libraries.langchain",
        "langgraph": "spanledger.instrument.libraries.langgraph",
        "mcp": "spanledger.instrument.libraries.mcp",
        "openai": "spanledger.instrument.libraries.openai",
        "openai_agents": "spanledger.instrument.libraries.openai_agents",
    }
)


def load(name: str) -> Library:
    """Return the library of a name."""
    library: Library = importlib.import_module(LIBRARIES[name]).LIBRARY
    return library
