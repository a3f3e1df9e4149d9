"""What the environment says, above what a file says.

Rules: a variable that is empty says nothing. What expires is read at every connection.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from spanledger.core.content import CAPTURE_VARIABLE, capture_said, events_said
from spanledger.core.deployed import deployed
from spanledger.encryption import EncryptingCodec
from spanledger.errors import LedgerUnavailable

if TYPE_CHECKING:
    from spanledger.config import Config, Dsn


def applied(config: Config, environ: Mapping[str, str]) -> Config:
    """Return a configuration changed as the environment says."""
    names = {
        "SPANLEDGER_TENANT": "tenant",
        "SPANLEDGER_AGENT": "agent",
        "SPANLEDGER_AGENT_VERSION": "agent_version",
        "SPANLEDGER_ENVIRONMENT": "environment",
        "SPANLEDGER_WORKFLOW_ID": "workflow_id",
        "SPANLEDGER_MODE": "mode",
        "SPANLEDGER_EMBEDDED": "embedded",
        "SPANLEDGER_SECRET": "secret",
        "SPANLEDGER_DELEGATION_KEYS": "delegation_keys",
    }
    deployment = {field: value for field, value in deployed(environ).items() if getattr(config, field) is None}
    changes: dict[str, Any] = deployment | {field: environ[name] for name, field in names.items() if environ.get(name)}
    if environ.get(CAPTURE_VARIABLE):
        changes["capture_content"] = capture_said(environ[CAPTURE_VARIABLE])
    if (told := events_said(environ)) is not None:
        changes["model_events"] = told
    if environ.get("SPANLEDGER_PAYLOAD_KEYS_FILE"):
        changes["payload_codec"] = EncryptingCodec.from_file(environ["SPANLEDGER_PAYLOAD_KEYS_FILE"])
    return dataclasses.replace(config, dsn=dsn_of(environ) or config.dsn, **changes)


def dsn_of(environ: Mapping[str, str]) -> Dsn | None:
    """Return what the environment says about where the ledger is."""
    file = environ.get("SPANLEDGER_DSN_FILE")
    return environ.get("SPANLEDGER_DSN") or (_DsnFile(Path(file)) if file else None)


@dataclass(frozen=True, slots=True)
class _DsnFile:
    """Read at every connection: what is in the file may expire. The same file is the same ledger."""

    path: Path

    def __call__(self) -> str:
        try:
            return self.path.read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            # Not for ever: whoever renews the file may be about to write it.
            raise LedgerUnavailable(f"cannot read SPANLEDGER_DSN_FILE: {error}") from error
