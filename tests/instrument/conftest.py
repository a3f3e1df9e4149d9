"""What the tests of instrumentation share: this process guarded, on the test's own database."""

from __future__ import annotations

import asyncio
import importlib.util
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import pytest

import spanledger
from spanledger import Config, workflow
from spanledger.testing import ModelServer

if TYPE_CHECKING:  # libraries are imported where they are used: some tests run where one of them is installed
    import openai
    from egress_world import Server
    from langchain_core.tools import BaseTool
    from langchain_world import World


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A test of every library that applies to none of those asked for is no test."""
    empty = [item for item in items if _is_empty(item)]
    config.hook.pytest_deselected(items=empty)
    items[:] = [item for item in items if not _is_empty(item)]


def _is_empty(item: Any) -> bool:
    made_with = getattr(getattr(item, "callspec", None), "params", {})
    return not made_with.keys().isdisjoint(("entry", "asking")) and "NOTSET" in item.name


# Tests of libraries that are not installed here.
_TESTS = {
    "agents": ["test_openai_agents.py", "test_agents_over_mcp.py"],
    "pydantic_ai": ["test_pydantic_ai.py"],
    "fastmcp": ["test_agents_over_mcp.py"],
    "langchain": ["test_create_agent.py"],
}
collect_ignore = [test for name, tests in _TESTS.items() for test in tests if not importlib.util.find_spec(name)]


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
    from langchain_world import World

    return World()


@pytest.fixture
def refund(world: World) -> BaseTool:
    from langchain_core.tools import tool

    @tool
    def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        return world.refund(order_id)

    return refund


@pytest.fixture
def refund_awaiting(world: World) -> BaseTool:
    from langchain_core.tools import tool

    @tool("refund")
    async def refund(order_id: str, amount: int) -> str:
        """Refund an order."""
        await asyncio.sleep(0)
        return world.refund(order_id)

    return refund


@pytest.fixture
def model() -> Iterator[ModelServer]:
    from openai_world import script

    with ModelServer(script) as model:
        yield model


@pytest.fixture
def client(model: ModelServer) -> Iterator[openai.OpenAI]:
    import openai

    with openai.OpenAI(base_url=model.url, api_key="offline", max_retries=0) as client:
        yield client


@pytest.fixture
def awaited(model: ModelServer) -> Callable[..., object]:
    """Run a coroutine function with an asynchronous client in a loop of its own."""

    import openai

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


@pytest.fixture
def elsewhere() -> Iterator[Server]:
    """A server that a site leads to."""
    from egress_world import serving

    with serving() as server:
        yield server


@pytest.fixture
def site(elsewhere: Server) -> Iterator[Server]:
    """A server that requests are sent to; it knows another one."""
    from egress_world import serving

    with serving() as server:
        server.there = elsewhere.url
        yield server
