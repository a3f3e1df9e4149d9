"""What the tests of telemetry share: the gate closed, on the test's own database."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hand_written import BY_ARGUMENTS, Exporting

import spanledger
from spanledger import (
    Config,
    workflow,
)


@pytest.fixture
def instrument(dsn: str) -> Callable[..., None]:
    """Close the gate with the given fields of `Config`, on this test's database."""
    return lambda **fields: spanledger.instrument(
        Config(**{"dsn": dsn, "rules": [BY_ARGUMENTS]} | fields), libraries=[]
    )


@pytest.fixture
def closed(instrument: Callable[..., None]) -> Iterator[None]:
    """The gate is closed, refunds go by their arguments, and a workflow is around."""
    instrument()
    with workflow("w"):
        yield


@pytest.fixture
def sdk() -> Exporting:
    return Exporting()


@pytest.fixture
def tracer(sdk: Exporting) -> Any:
    return sdk.tracer
