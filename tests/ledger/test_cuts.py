"""A network that cuts, and a server that is started again: under load, and at the worst moments."""

from __future__ import annotations

import asyncio
import functools
import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hosts import running
from proxies import Proxy, unix_socket
from ways import REFUND, either_way, run_blocking
from worlds import World

from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, Rule, ToolCall
from spanledger.errors import LedgerUnavailable

PATIENCE_S = 30.0
BUDGETS = (Budget("refunds", Calls(9)),)


def figures(dsn: str) -> tuple[object, object, object]:
    """State of the only call, and what the budget has spent and holds."""
    with Ledger(dsn) as ledger:
        (row,) = ledger.calls()
        balance = ledger.budget("refunds")
    return row["state"], balance.spent, balance.held


def until(condition: Callable[[], bool]) -> None:
    deadline_s = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline_s, "it never came to be"
        time.sleep(0.02)


# an answer that is lost, after the server has done what was asked


@either_way
def test_a_begin_whose_answer_was_lost_is_asked_again_and_runs_once(dsn: str, run) -> None:
    ran: list[int] = []
    with Proxy(unix_socket(dsn)) as proxy:
        config = Config(dsn=proxy.before(dsn), budgets=BUDGETS)
        proxy.lose_answer_to = b"spanledger_v1.begin"
        assert run(config, lambda: ran.append(1) or "done") == "done"
        assert proxy.cuts == 1
    assert ran == [1]
    assert figures(dsn) == ("succeeded", Calls(1), Calls(0))


@either_way
@pytest.mark.parametrize(("error", "state", "held"), [(ValueError, "failed", 0), (TimeoutError, "unknown", 1)])
def test_a_failure_whose_answer_was_lost_is_told_again_and_counted_once(dsn, run, error, state, held) -> None:
    with Proxy(unix_socket(dsn)) as proxy:
        config = Config(dsn=proxy.before(dsn), budgets=BUDGETS)

        def handler() -> None:
            proxy.lose_answer_to = b"spanledger_v1.fail"
            raise error

        with pytest.raises(error):
            run(config, handler)
        assert proxy.cuts == 1
    assert figures(dsn) == (state, Calls(0), Calls(held))
    with Ledger(dsn) as ledger:
        assert ledger.history(ledger.key(REFUND)) == []


def test_a_top_up_whose_answer_was_lost_is_done_once(dsn: str) -> None:
    with Ledger(config=Config(dsn=dsn)) as ledger:
        ledger.apply(Config(budgets=BUDGETS))
    with Proxy(unix_socket(dsn)) as proxy, Ledger(proxy.before(dsn)) as ledger:
        ledger.calls()
        proxy.lose_answer_to = b"spanledger_v1.top_up"
        ledger.top_up("refunds", Calls(10), by="ops@example.com")
        assert (proxy.cuts, ledger.budget("refunds").limit) == (1, Calls(19))
        ledger.top_up("refunds", Calls(10), by="ops@example.com")
        assert ledger.budget("refunds").limit == Calls(29)


@either_way
def test_a_ledger_behind_a_slow_network_is_slow_and_right(dsn: str, run) -> None:
    with Proxy(unix_socket(dsn)) as proxy:
        proxy.latency_s = 0.02
        assert run(Config(dsn=proxy.before(dsn), budgets=BUDGETS), lambda: "done") == "done"
    assert figures(dsn) == ("succeeded", Calls(1), Calls(0))


@either_way
def test_a_network_that_swallows_everything_is_given_up_and_the_call_does_not_run(dsn: str, run) -> None:
    with Proxy(unix_socket(dsn)) as proxy:
        config = Config(dsn=f"{proxy.before(dsn)} connect_timeout=2", ledger_timeout_s=0.5)
        proxy.black_hole = True
        with pytest.raises(LedgerUnavailable):
            run(config, lambda: pytest.fail("it ran"))


def test_an_outcome_that_a_network_swallowed_is_told_when_it_is_back(dsn: str, tmp_path: Path) -> None:
    with Proxy(unix_socket(dsn)) as proxy:
        config = Config(dsn=f"{proxy.before(dsn)} connect_timeout=2", budgets=BUDGETS, ledger_timeout_s=0.5)

        def handler() -> str:
            proxy.black_hole = True
            return "done"

        assert run_blocking(config, handler) == "done"
        assert len(list((tmp_path / "state").rglob("*.json"))) == 1
        proxy.black_hole = False
        proxy.cut_all()
        assert run_blocking(config, lambda: pytest.fail("it ran")) == "done"
    assert figures(dsn) == ("succeeded", Calls(1), Calls(0))


# at random, under load


def test_connections_that_are_cut_anywhere_cost_no_effect_and_no_cent(dsn: str) -> None:
    seed = random.SystemRandom().getrandbits(32)
    drawn = random.Random(seed)
    with Ledger(dsn) as ledger:
        ledger.migrate()
    with Proxy(unix_socket(dsn)) as proxy:
        proxy.limits = lambda: (drawn.uniform(500, 15_000), drawn.uniform(800, 15_000))
        world = World(proxy.before(dsn), orders=60, seed=seed)
        with world.working(threads=3, tasks=5):
            pass
        proxy.limits = None
        states = world.check()
        assert proxy.cuts > 3
    assert states["succeeded"] > 30


@pytest.mark.parametrize("how", ["fast", "immediate"])
def test_a_server_that_is_started_again_under_load_costs_no_effect_and_no_cent(tmp_path: Path, how: str) -> None:
    with running(tmp_path / "server") as server:
        with Ledger(server.dsn) as ledger:
            ledger.migrate()
        world = World(server.dsn, orders=60, seed=random.SystemRandom().getrandbits(32))
        with world.working(threads=3, tasks=5):
            for effects in (10, 30):
                world.wait_for_effects(effects)
                server.stop(how)
                server.start()
        states = world.check()
    assert states["succeeded"] > 30


def test_a_call_that_was_refused_for_want_of_an_answer_is_not_unknown_afterwards(dsn) -> None:
    """It did not run, and we know that: what it claimed is given back when the ledger answers again."""
    rules = [Rule("refund", lease_s=0.5, wait_timeout_s=5)]
    budgets = (Budget("refunds", Calls(9)),)
    with Proxy(unix_socket(dsn)) as proxy:
        through = Config(dsn=f"{proxy.before(dsn)} connect_timeout=2", rules=rules, budgets=budgets, ledger_timeout_s=1)
        with Ledger(config=through) as ledger:
            ledger.calls()
            proxy.lose_answer_to = b"spanledger_v1.begin"
            proxy.limits = lambda: (0, 0)  # and nobody gets through any more
            with pytest.raises(LedgerUnavailable):
                ledger.run(REFUND, lambda: pytest.fail("it ran"))
            proxy.limits = None
            until_s = time.monotonic() + 20
            while True:
                try:
                    assert ledger.run(REFUND, lambda: "paid") == "paid"
                    break
                except LedgerUnavailable:  # connections come back in their own time
                    assert time.monotonic() < until_s


OTHER_SESSIONS = "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
TOLD = """
select count(*) from (select attempt_id from spanledger.call where state = 'released'
    union all select attempt_id from spanledger.history where event = 'not_invoked') t"""


@pytest.mark.parametrize(("past", "asks"), [((), b"spanledger_v1.begin"), (("no", "no"), b"spanledger_begin")])
def test_a_begin_that_arrives_when_its_caller_was_told_that_nothing_ran_starts_nothing(dsn, sql, past, asks) -> None:
    arrives = threading.Event()
    with Proxy(unix_socket(dsn)) as proxy:
        through = Config(dsn=f"{proxy.before(dsn)} connect_timeout=2", ledger_timeout_s=1, budgets=BUDGETS)
        with Ledger(config=through) as ledger:
            for error in past:
                with pytest.raises(ValueError, match=error):
                    ledger.run(REFUND, functools.partial(_raise, ValueError(error)))
            proxy.late = (asks, arrives)
            with pytest.raises(LedgerUnavailable, match="did not answer within"):
                ledger.run(REFUND, lambda: pytest.fail("it ran"))
            until(lambda: sql.execute(TOLD).fetchone() == (1,))
        arrives.set()
        until(lambda: sql.execute(OTHER_SESSIONS).fetchone() == (0,))

    state = "failed" if past else "released"
    assert figures(dsn) == (state, Calls(0), Calls(0))
    with Ledger(dsn) as ledger:
        assert ledger.run(REFUND, lambda: "paid") == "paid"


def _raise(error: Exception) -> None:
    raise error


def test_an_awaiting_caller_has_its_result_soon_though_the_server_froze(tmp_path) -> None:
    with running(tmp_path / "server") as server:
        with Ledger(server.dsn) as ledger:
            ledger.migrate()

        async def main() -> float:
            async with AsyncLedger(config=Config(dsn=server.dsn, ledger_timeout_s=0.5)) as ledger:
                await ledger.run(ToolCall("refund", workflow_id="v"), lambda: "warm")
                started_s = time.monotonic()
                assert (
                    await ledger.run(ToolCall("refund", workflow_id="w"), lambda: server.freeze() or "done") == "done"
                )
                took_s = time.monotonic() - started_s
                server.freeze(on=False)
                return took_s

        assert asyncio.run(main()) < 3


# a server that is silent


def test_after_one_has_waited_in_vain_the_others_are_told_at_once_until_it_answers_again(dsn, caplog) -> None:
    with Proxy(unix_socket(dsn)) as proxy:
        rules = [Rule("look", on_ledger_down="continue"), Rule("refund")]
        config = Config(dsn=f"{proxy.before(dsn)} connect_timeout=2", rules=rules, ledger_timeout_s=1.2)
        with Ledger(config=config) as ledger:
            assert ledger.run(ToolCall("look", {}, workflow_id="w"), lambda: "seen") == "seen"
            proxy.black_hole = True
            with pytest.raises(LedgerUnavailable, match="did not answer within"):
                ledger.run(ToolCall("refund", {"n": 0}, workflow_id="w"), lambda: pytest.fail("ran"))
            until(lambda: "nobody waits for it" in caplog.text)

            for n in range(20):
                with pytest.raises(LedgerUnavailable, match="has not since"):
                    ledger.run(ToolCall("refund", {"n": n}, workflow_id="w"), lambda: pytest.fail("ran"))
                assert ledger.run(ToolCall("look", {"n": n}, workflow_id="w"), lambda: "seen") == "seen"

            proxy.black_hole = False
            proxy.cut_all()
            until(lambda: "the ledger answers again" in caplog.text)
            assert ledger.run(ToolCall("refund", {"n": 0}, workflow_id="w"), lambda: "paid") == "paid"
            # What ran meanwhile is told later.
            until(lambda: len(ledger.calls(tool="look")) == 21)


def test_a_refusal_that_comes_quickly_is_no_silence(caplog) -> None:
    with Ledger(config=Config(dsn="postgresql://nobody@127.0.0.1:1/none")) as ledger:
        for _ in range(3):
            with pytest.raises(LedgerUnavailable, match="no connection to the ledger"):
                ledger.run(ToolCall("refund", {}, workflow_id="w"), lambda: pytest.fail("ran"))
    assert "nobody waits for it" not in caplog.text
