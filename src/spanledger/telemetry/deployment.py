"""Which version of an agent runs where, as spans say it.

Rules: what a session says counts, then what the process was configured with.
"""

from __future__ import annotations

from spanledger.config import Config
from spanledger.placing import Ambient

_version: str | None = None
_environment: str | None = None


def connect(config: Config) -> None:
    """Say from now on what this configuration says."""
    global _version, _environment
    _version, _environment = config.agent_version, config.environment


def version(around: Ambient | None) -> str | None:
    """Return the version of the agent around this code."""
    return (around.agent_version if around is not None else None) or _version


def environment(around: Ambient | None) -> str | None:
    """Return where it runs."""
    return (around.environment if around is not None else None) or _environment
