"""Where the ledger of a configuration is.

Rules: what is given by hand counts, then the configuration, the environment, and last a private server of this machine.
"""

from __future__ import annotations

import os

from spanledger.config import Config, Dsn
from spanledger.config_environment import dsn_of
from spanledger.errors import ConfigError
from spanledger.ledger._database import Database
from spanledger.ledger._embedded import EmbeddedPostgres, embedded_server
from spanledger.ledger._functions import starting
from spanledger.ledger._trail import Trail


def open_database(config: Config, dsn: Dsn | None = None, *, apply: bool = True) -> Database:
    """Say where the ledger of a configuration is; nothing is opened yet.

    Args:
        config: The configuration.
        dsn: Where it is, instead of what the configuration says.
        apply: Write the configuration's controls into the ledger when it is opened, where the role may. People who look
            or decide do not: whoever runs programs does, or who applies a file on purpose.

    Raises:
        ConfigError: No DSN is given and no private server can be used here, or what is given is none.
    """
    if dsn is not None and not isinstance(dsn, str) and not callable(dsn):
        raise ConfigError(f"dsn is a connection string or a callable that gives one, not {type(dsn).__name__}")
    where: Dsn | EmbeddedPostgres = dsn or config.dsn or dsn_of(os.environ) or embedded_server(config.embedded)
    database = Database(where, controls=starting(config) if apply else None, timeout_s=config.ledger_timeout_s)
    database.trail = Trail(database, config)
    return database
