"""The delegation that a call acts under, on its span."""

from __future__ import annotations

from typing import Any

from spanledger.core.authority import Authority
from spanledger.telemetry import semconv


def said(authority: Authority | None) -> dict[str, Any]:
    """Say under what a call acts, as attributes."""
    if authority is None:
        return {}
    return {
        semconv.DELEGATION_ID: authority.id,
        semconv.DELEGATION_CHAIN: list(authority.chain),
        semconv.DELEGATION_AGENTS: [name or "" for name in authority.agents],
    }
