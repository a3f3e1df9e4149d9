"""Roles that may do little."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest


@pytest.fixture
def role_dsn(server: str) -> Iterator[Callable[[str], str]]:
    """Turn a DSN into one of a role that may log in and nothing else."""
    name = f"role_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create role {name} login")
        yield lambda dsn: psycopg.conninfo.make_conninfo(dsn, user=name)
        connection.execute(f"drop role {name}")
