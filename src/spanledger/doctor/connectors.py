"""Whether the credentials of connectors can be read here; a callable that fetches one is not called.

Rules: a credential is read and not shown.
"""

from __future__ import annotations

from collections.abc import Iterator

from spanledger.config import Config
from spanledger.doctor.finding import BAD, OK, Finding
from spanledger.errors import ConfigError
from spanledger.instrument import _wire


def of_connectors(config: Config) -> Iterator[Finding]:
    """Say what each connector is for, or that its credential is missing."""
    for door in config.connectors:
        try:
            if door.credential_env is not None or door.credential_file is not None:
                _wire.credential_of(door)
        except ConfigError as error:
            yield Finding("connectors", BAD, str(error), "its calls fail: give it to the programs that make them")
        else:
            only = f"{', '.join(door.methods)} of {', '.join(door.paths)} at {door.base_url}" if door.paths else "mints"
            yield Finding("connectors", OK, f"connector {door.name!r}: {only}, for who may {door.permission}")
