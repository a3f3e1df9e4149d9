"""The protocol on this test's database."""

from __future__ import annotations

import psycopg
import pytest
from protocol import Protocol


@pytest.fixture
def acme(sql: psycopg.Connection) -> Protocol:
    return Protocol(sql, "acme")


@pytest.fixture
def other(sql: psycopg.Connection) -> Protocol:
    """Another tenant of the same ledger."""
    return Protocol(sql, "other")
