"""The protocol for tenants of this test's own."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import psycopg
import pytest
from protocol import Protocol


@pytest.fixture
def shared(shared_dsn: str) -> Iterator[psycopg.Connection]:
    with psycopg.connect(shared_dsn, autocommit=True) as connection:
        yield connection


@pytest.fixture
def acme(shared: psycopg.Connection) -> Protocol:
    return Protocol(shared, f"acme-{uuid.uuid4()}")


@pytest.fixture
def other(shared: psycopg.Connection) -> Protocol:
    """Another tenant of the same ledger."""
    return Protocol(shared, f"other-{uuid.uuid4()}")
