"""A standby that does not confirm: nothing runs on a claim that only one machine has."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import Server, pair
from proxies import Proxy
from test_failover import either_of

from spanledger import AsyncLedger, Config, Ledger, Rule, ToolCall
from spanledger.errors import LedgerUnavailable

REFUND = ToolCall("refund", workflow_id="w")


def run_blocking(config: Config, handler: Callable[[], object]) -> object:
    with Ledger(config=config) as ledger:
        return ledger.run(REFUND, handler)


def run_awaiting(config: Config, handler: Callable[[], object]) -> object:
    async def main() -> object:
        async with AsyncLedger(config=config) as ledger:
            return await ledger.run(REFUND, handler)

    return asyncio.run(main())


either_way = pytest.mark.parametrize("run", [run_blocking, run_awaiting])


@pytest.fixture
def servers(tmp_path: Path):
    with pair(tmp_path / "servers") as (primary, standby, network):
        with Ledger(either_of(primary, standby)) as ledger:
            ledger.migrate()
        yield primary, standby, network


def config_of(servers: tuple[Server, Server, Proxy], **fields: object) -> Config:
    return Config(dsn=either_of(*servers[:2]), rules=[Rule("refund", lease_s=0.5, wait_timeout_s=10)], **fields)


@either_way
def test_a_call_does_not_run_while_its_claim_is_on_one_machine_only(servers, run) -> None:
    _, _, network = servers
    network.black_hole = True
    config = config_of(servers, ledger_timeout_s=0.5)
    with pytest.raises(LedgerUnavailable, match="did not answer within"):
        run(config, lambda: pytest.fail("it ran"))
    network.black_hole = False


@either_way
def test_an_outcome_that_one_machine_has_is_not_taken_for_recorded(servers, run) -> None:
    """It is told again, until the standby has it too."""
    primary, standby, network = servers
    config = config_of(servers, ledger_timeout_s=0.5)

    def handler() -> str:
        network.black_hole = True
        return "paid"

    assert run(config, handler) == "paid"
    time.sleep(1)  # long enough for the outcome to be told again, and to be believed too early
    primary.kill()
    standby.promote()
    assert run(config, lambda: pytest.fail("paid twice")) == "paid"
