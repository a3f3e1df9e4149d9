"""What the seeds' tests share: this process guarded, on the test's own database."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

import spanledger
from spanledger import Config, workflow
from spanledger.testing import ModelServer, Say


@pytest.fixture
def instrument(dsn: str) -> Callable[..., None]:
    """Instrument the OpenAI client and functions of one's own, with the given fields of `Config`."""
    return lambda **fields: spanledger.instrument(Config(**{"dsn": dsn} | fields), libraries=["openai"])


@pytest.fixture
def guarded(instrument: Callable[..., None]) -> Iterator[None]:
    """This process is guarded, without rules and budgets, and a workflow is around the test."""
    instrument()
    with workflow("w"):
        yield


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer(lambda request: Say("one two three")) as model:
        yield model
