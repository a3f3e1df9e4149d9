"""What the tests of instrumentation share: this process guarded, on the test's own database."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

import openai
import pytest
from langchain_core.tools import BaseTool
from langchain_core.tools import tool as langchain_tool
from langchain_world import World
from openai_world import script

import spanledger
from spanledger import Config, workflow
from spanledger.testing import ModelServer


@pytest.fixture
def instrument(dsn: str, request: pytest.FixtureRequest) -> Callable[..., None]:
    """Instrument the `LIBRARIES` of the test's module, none by default, with the given fields of `Config`."""
    libraries = getattr(request.module, "LIBRARIES", ())
    return lambda **fields: spanledger.instrument(Config(dsn=dsn, **fields), libraries=libraries)


@pytest.fixture
def in_workflow() -> Iterator[None]:
    """A workflow "w" is around the test."""
    with workflow("w"):
        yield


@pytest.fixture
def guarded(instrument: Callable[..., None], in_workflow: None) -> None:
    """Instrument without rules and budgets, inside a workflow "w"."""
    instrument()


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
def refund(world: World) -> BaseTool:
    @langchain_tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return world.refund(order_id)

    return refund


@pytest.fixture
def refund_awaiting(world: World) -> BaseTool:
    @langchain_tool("refund")
    async def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        await asyncio.sleep(0)
        return world.refund(order_id)

    return refund


@pytest.fixture
def model() -> Iterator[ModelServer]:
    with ModelServer(script) as model:
        yield model


@pytest.fixture
def client(model: ModelServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
        yield client


@pytest.fixture
def awaited(model: ModelServer) -> Callable[..., object]:
    """Run a coroutine function with an asynchronous client in a loop of its own."""

    def run(function: Callable[..., object]) -> object:
        async def main() -> object:
            async with openai.AsyncOpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
                return await function(client)

        return asyncio.run(main())

    return run


@pytest.fixture
def instrument_client() -> Callable[..., None]:
    """Instrument the client; no ledger is there unless the test gives one, and none is asked without need."""
    return lambda **fields: spanledger.instrument(
        Config(**{"dsn": "host=/nowhere", "ledger_timeout_s": 0.1} | fields), libraries=["openai"]
    )


@pytest.fixture
def instrumented_client(instrument_client: Callable[..., None]) -> None:
    instrument_client()
