"""Roles that may do little, and poolers between us and the server."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from pooler import pgbouncer


@pytest.fixture
def role_dsn(server: str) -> Iterator[Callable[[str], str]]:
    """Turn a DSN into one of a role that may log in and nothing else."""
    name = f"role_{uuid.uuid4().hex}"
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f"create role {name} login")
        yield lambda dsn: psycopg.conninfo.make_conninfo(dsn, user=name)
        connection.execute(f"drop role {name}")


@pytest.fixture(scope="module")
def pooler(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Turn a DSN into one that goes through a pooler in transaction mode."""
    with pgbouncer(server, tmp_path_factory.mktemp("pooler"), "transaction") as through:
        yield through


@pytest.fixture(scope="module")
def session_pooler(server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], str]]:
    """Turn a DSN into one that goes through a pooler in session mode."""
    with pgbouncer(server, tmp_path_factory.mktemp("session_pooler"), "session") as through:
        yield through
