"""The two ways to make a call, for tests that hold for both."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from spanledger import AsyncLedger, Config, Ledger, ToolCall

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w")


def run_blocking(config: Config, handler: Callable[[], object]) -> object:
    with Ledger(config=config) as ledger:
        return ledger.run(REFUND, handler)


def run_awaiting(config: Config, handler: Callable[[], object]) -> object:
    async def main() -> object:
        async with AsyncLedger(config=config) as ledger:
            return await ledger.run(REFUND, handler)

    return asyncio.run(main())


either_way = pytest.mark.parametrize("run", [run_blocking, run_awaiting])
