"""A standby that does not confirm: nothing runs on a claim that only one machine has."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import psycopg
import pytest
from hosts import Server, pair
from proxies import Proxy
from test_failover import either_of
from ways import REFUND, either_way

from spanledger import Config, Ledger, Rule
from spanledger.errors import LedgerUnavailable


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


SYNC_WAITS = "from pg_stat_activity where wait_event = 'SyncRep' and application_name = 'spanledger'"


@either_way
@pytest.mark.parametrize("how", ["pg_terminate_backend", "pg_cancel_backend"])
def test_a_claim_that_an_operator_freed_from_waiting_is_no_claim(servers, run, how) -> None:
    primary, standby, network = servers
    with Ledger(config=config_of(servers)) as ledger:
        ledger.calls()
    network.black_hole = True
    ended: list[object] = []

    def work() -> None:
        try:
            ended.append(run(config_of(servers, ledger_timeout_s=3), lambda: "paid"))
        except LedgerUnavailable as error:
            ended.append(error)

    worker = threading.Thread(target=work)
    worker.start()
    with psycopg.connect(primary.dsn, autocommit=True) as sql:
        while not sql.execute(f"select count({how}(pid)) {SYNC_WAITS}").fetchone()[0]:
            time.sleep(0.01)
    worker.join()
    primary.kill()
    standby.promote()
    if ended == ["paid"]:
        with Ledger(config=config_of(servers)) as ledger:
            assert ledger.run(REFUND, lambda: pytest.fail("paid twice")) == "paid"
