"""agent-ledger: its defects, and what its own tests pin that was tested nowhere else."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from tests.ledger.workers import TIMEOUT_S, hang, started, together
from tests.seeds.parts import LEASE_S, REFUND, Counting, never, refund_slowly, retrying, stall

from spanledger import AsyncLedger, Config, Ledger, Rule, ToolCall, current_call, tool, workflow
from spanledger.core.call import Verdict
from spanledger.errors import CallFailed, CallInProgress, ConfigError, KeyReused, OutcomeUnknown
from spanledger.ledger import _trail

HUNG = ToolCall("refund", workflow_id="w")  # what `hang` begins


def call(n: int = 1, **fields: object) -> ToolCall:
    return ToolCall("refund", {"order_id": f"o-{n}"}, **{"workflow_id": "order-1", **fields})


# AL-D1: no fencing


@pytest.mark.parametrize("error", [None, ValueError("refused")], ids=["succeeds", "fails"])
def test_a_worker_that_stood_still_beyond_its_lease_changes_nothing_when_it_goes_on(ledger_with, dsn, error) -> None:
    worker, reader = started(stall, dsn, error)
    told = []

    def new_owner() -> str:
        # The stale one ends first, as if nothing had happened, while the new owner is still at work.
        os.kill(worker.pid, signal.SIGCONT)
        assert reader.poll(TIMEOUT_S)
        told.append(reader.recv())
        return "new owner"

    try:
        assert reader.recv() == "running"
        ledger = ledger_with(rules=[retrying(lease_s=60)])
        assert ledger.run(REFUND, new_owner) == "new owner"
    finally:
        worker.kill()
        worker.join(TIMEOUT_S)
    assert told == ["stale"] if error is None else isinstance(told[0], ValueError), "its own caller has its own"
    assert ledger.run(REFUND, never) == "new owner"
    row = ledger.get(ledger.key(REFUND))
    assert (row["state"], row["attempts"], row["error"]) == ("succeeded", 2, None)
    late = "late_success" if error is None else "late_failure"
    assert late in [event["event"] for event in ledger.history(row["key"])], "what it did is not forgotten either"


def test_of_eight_processes_and_a_handler_longer_than_the_lease_each_effect_happens_once(dsn, tmp_path) -> None:
    orders = 4
    results = together(8, refund_slowly, dsn, str(tmp_path), orders, 0.5)
    assert results == [results[0]] * 8
    done = {int(path.name): path.read_text().split() for path in tmp_path.iterdir()}
    assert results[0] == [f"{order} by {number}" for order in range(orders) for number in done[order]]


# AL-D2: takeover can never happen


def test_who_asks_again_and_again_does_not_renew_the_lease_of_a_dead_worker(ledger_with, sql, dsn) -> None:
    worker, reader = started(hang, dsn, 60)
    assert reader.recv() == "running"
    worker.kill()
    worker.join(TIMEOUT_S)
    ledger = ledger_with(rules=[retrying()])
    soon = "update spanledger.call set lease_until = clock_timestamp() + interval '0.3 s' returning lease_until"
    lease = "select lease_until from spanledger.call"
    before = sql.execute(lease).fetchone()
    assert {ledger.begin(HUNG).verdict for _ in range(10)} == {Verdict.IN_PROGRESS}
    assert sql.execute(lease).fetchone() == before
    (until,) = sql.execute(soon).fetchone()
    assert ledger.run(HUNG, lambda: "taken over") == "taken over"
    (late_s,) = sql.execute("select extract(epoch from clock_timestamp() - %s)", (until,)).fetchone()
    assert 0 <= late_s < 2


def test_who_comes_after_the_lease_is_over_need_not_wait_for_it_again(ledger_with, sql: psycopg.Connection) -> None:
    ledger = ledger_with(rules=[Rule("refund", on_unknown="retry", wait_timeout_s=0)])
    dead = ledger.begin(REFUND)
    sql.execute("update spanledger.call set lease_until = clock_timestamp()")
    assert ledger.run(REFUND, lambda: "at once") == "at once"
    assert dead.verdict is Verdict.RUN


# AL-D5: approve X, run Y (the half that needs no approval: other arguments, same key)


def test_other_arguments_under_the_same_fields_do_not_pass_where_the_rule_forbids_them(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("pay", fields=("order",), on_mismatch="refuse")])
    ledger.run(ToolCall("pay", {"order": 7, "to": "alice", "amount": 10}, workflow_id="w"), lambda: "paid alice")
    with pytest.raises(KeyReused):
        ledger.run(ToolCall("pay", {"order": 7, "to": "mallory", "amount": 99_999}, workflow_id="w"), never)


# AL-D6: begin and commit by hand execute twice


def test_of_many_who_begin_by_hand_at_once_one_is_told_to_run(ledger: Ledger) -> None:
    barrier = threading.Barrier(8)

    def begin(_: int) -> object:
        barrier.wait(TIMEOUT_S)
        return ledger.begin(REFUND)

    with ThreadPoolExecutor(8) as pool:
        begun = list(pool.map(begin, range(8)))
    assert Counter(b.verdict for b in begun) == {Verdict.RUN: 1, Verdict.IN_PROGRESS: 7}
    others = [b for b in begun if b.verdict is Verdict.IN_PROGRESS]
    assert not any(ledger.settle(b, "I ran it all the same") for b in others), "it owns nothing, so it settles nothing"
    assert ledger.settle(next(b for b in begun if b.verdict is Verdict.RUN), "done")
    assert ledger.run(REFUND, never) == "done"


@pytest.mark.parametrize("ended", ["failed", "cancelled"])
def test_a_call_that_ended_badly_does_not_read_as_a_success_without_a_result(ledger_with, ended: str) -> None:
    ledger = ledger_with(rules=[Rule("refund", on_failure="replay")])
    first = ledger.begin(REFUND)
    ledger.fail(first, ValueError("card expired"))
    if ended == "cancelled":
        ledger.cancel(first.key, by="ops")
    again = ledger.begin(REFUND)
    assert again.verdict.value == ended
    assert (again.result, again.result_kept) == (None, False)


# AL-D8: a success is recorded as a failure


def test_the_key_of_a_call_can_be_returned_by_it(ledger) -> None:
    seen = ledger.run(REFUND, lambda: ledger.get(ledger.key(REFUND)))
    assert ledger.run(REFUND, never) == seen
    assert ledger.get(seen["key"])["state"] == "succeeded"


@pytest.mark.usefixtures("guarded")
def test_a_plain_function_that_gives_back_a_coroutine_is_no_success(ledger: Ledger) -> None:
    ran = []

    async def pay(order_id: str) -> str:
        ran.append(order_id)
        return "paid"

    @tool
    def refund(order_id: str) -> object:
        return pay(order_id)

    with pytest.raises(ConfigError, match="coroutine"):
        refund("o-1")
    with pytest.raises(ConfigError, match="coroutine"):
        ledger.run(REFUND, lambda: pay("o-2"))
    assert ran == []
    assert {row["state"] for row in ledger.calls()} == {"failed"}


# AL-D9: stuck for ever


def test_a_call_given_up_by_wait_for_is_free_again_as_soon_as_a_person_says_so(dsn: str) -> None:
    async def main() -> str:
        runs = asyncio.Event()

        async def stuck() -> None:
            runs.set()
            await asyncio.Event().wait()

        async with AsyncLedger(config=Config(dsn=dsn)) as ledger:
            call = asyncio.create_task(ledger.run(REFUND, stuck))
            await runs.wait()
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(call, 0.1)
            with pytest.raises(OutcomeUnknown):
                await ledger.run(REFUND, never)
            assert await ledger.resolve(ledger.key(REFUND), by="ops", outcome="retry")
            return await ledger.run(REFUND, lambda: "second")

    assert asyncio.run(main()) == "second"


# AL-D10: a transient failure is permanent, and the error's type lost


def test_a_transient_failure_is_no_verdict_on_the_next_attempt_and_says_what_it_was(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", attempts_max=3)])
    for error in (ConnectionRefusedError("down"), KeyError("rate")):
        with pytest.raises(type(error)):
            ledger.run(REFUND, lambda error=error: (_ for _ in ()).throw(error))
    assert ledger.get(ledger.key(REFUND))["error"]["type"] == "builtins.KeyError"
    assert ledger.run(REFUND, lambda: "third time lucky") == "third time lucky"


# AL-D11: leases by the clocks of clients

BEHIND = """
import sys, time
import datetime as dt

class Behind(dt.datetime):
    @classmethod
    def now(cls, tz=None):
        return real.now(tz) - dt.timedelta(days=1)

real, dt.datetime = dt.datetime, Behind
clock, time.time = time.time, lambda: clock() - 86400
from spanledger import Config, Ledger, Rule, ToolCall
rules = [Rule("refund", lease_s=30, on_unknown="retry", wait_timeout_s=0)]
with Ledger(config=Config(dsn=sys.argv[1], rules=rules)) as ledger:
    print(ledger.begin(ToolCall("refund", {"n": 1}, workflow_id="w")).verdict.value)
    mine = ToolCall("refund", {"n": 2}, workflow_id="w")
    print(ledger.run(mine, lambda: ledger.begin(mine).verdict.value))
"""


def test_a_worker_whose_clock_is_a_day_behind_takes_nothing_over_and_holds_on_to_its_own(ledger, sql, dsn) -> None:
    assert ledger.begin(ToolCall("refund", {"n": 1}, workflow_id="w")).verdict is Verdict.RUN
    said = subprocess.run([sys.executable, "-c", BEHIND, dsn], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.split() == ["in_progress", "in_progress"]
    ages = sql.execute("select extract(epoch from clock_timestamp() - started_at) from spanledger.call").fetchall()
    assert all(0 <= age < 60 for (age,) in ages)


# AL-D12, AL-D13: keys


def test_a_separator_in_an_id_moves_nothing_from_one_id_to_the_next(ledger: Ledger) -> None:
    assert ledger.key(ToolCall("b", workflow_id="tenant|a")) != ledger.key(ToolCall("a|b", workflow_id="tenant"))


def test_integers_beyond_what_a_float_can_hold_are_told_apart(ledger: Ledger) -> None:
    snowflake = 1_200_000_000_000_000_001
    one, next_one = (ToolCall("ban", {"user_id": snowflake + n}, workflow_id="w") for n in (0, 1))
    assert ledger.run(one, lambda: snowflake) == ledger.run(one, never) == snowflake
    assert ledger.run(next_one, lambda: "another user") == "another user"


# AL-D15, AL-D16, AL-D17: what a call costs


def test_a_fresh_call_is_two_round_trips_and_a_replay_is_one_that_writes_nothing(
    dsn, sql: psycopg.Connection, monkeypatch
) -> None:
    monkeypatch.setattr(_trail, "GATHER_S", 60.0)  # what is told in the background goes when this test says so
    with contextlib.closing(Counting(dsn)) as counting, Ledger(config=Config(dsn=counting.dsn)) as ledger:
        for n in range(20):  # until the connection is there and everything is prepared
            ledger.run(call(n), lambda: "done")
            ledger.run(call(n), never)
        before = counting.trips
        for n in range(20, 30):
            ledger.run(call(n), lambda: "done")
        fresh = counting.trips
        versions = sql.execute("select key, xmin, ctid from spanledger.call order by key").fetchall()
        for n in range(20, 30):
            ledger.run(call(n), never)
        assert (fresh - before, counting.trips - fresh) == (20, 10)
        assert ledger._by_hand.trail.flush()
    assert sql.execute("select key, xmin, ctid from spanledger.call order by key").fetchall() == versions
    assert sql.execute("select count(*) from spanledger.history").fetchone() == (0,)


def test_who_waits_gives_up_when_they_said_they_would(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", wait_timeout_s=0.4)])
    begun = ledger.begin(REFUND)
    start_s = time.monotonic()
    with pytest.raises(CallInProgress):
        ledger.run(REFUND, never)
    assert 0.4 <= time.monotonic() - start_s < 1
    assert ledger.settle(begun, None)


def test_arguments_of_a_megabyte_do_not_stop_the_loop(dsn: str) -> None:
    rows = [{"id": n, "name": f"customer {n}", "active": True} for n in range(20_000)]
    stalls_s = []

    async def tick() -> None:
        while True:
            before_s = time.thread_time()  # what the loop itself has worked: the machine may be busy with others
            await asyncio.sleep(0)
            stalls_s.append(time.thread_time() - before_s)

    async def main() -> None:
        async with AsyncLedger(config=Config(dsn=dsn)) as ledger:
            await ledger.run(REFUND, lambda: None)
            ticking = asyncio.create_task(tick())
            await asyncio.sleep(0.01)
            await ledger.run(ToolCall("import", {"rows": rows}, workflow_id="w"), lambda: None)
            ticking.cancel()

    asyncio.run(main())
    assert max(stalls_s) < 0.15


# AL-D18: a claim inside somebody's transaction


def test_while_a_call_runs_it_is_on_record_and_nothing_is_locked(ledger, ledger_with, sql: psycopg.Connection) -> None:
    impatient = ledger_with(rules=[Rule("refund", wait_timeout_s=0)])

    def handler() -> str:
        with pytest.raises(CallInProgress):
            impatient.run(REFUND, never)
        open_transactions = (
            "select count(*) from pg_stat_activity "
            "where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle' "
            # What the trace is told of the one who would not wait is a statement of its own.
            "and query not like '%spanledger_v1.record(%'"
        )
        assert sql.execute(open_transactions).fetchone() == (0,)
        return sql.execute("select state from spanledger.call").fetchone()[0]

    assert ledger.run(REFUND, handler) == "in_flight"


def test_when_the_callers_own_transaction_is_rolled_back_the_call_is_not_forgotten(ledger, dsn: str) -> None:
    with psycopg.connect(dsn) as own:
        own.execute("create table orders (id int)")
        assert ledger.run(REFUND, lambda: own.execute("insert into orders values (1)").rowcount) == 1
        own.rollback()
    assert ledger.run(REFUND, never) == 1


# AL-D20: successes are forgotten


def test_a_success_is_never_forgotten_unless_the_rule_says_so(dsn: str, sql: psycopg.Connection) -> None:
    with Ledger(dsn) as ledger:
        ledger.run(REFUND, lambda: "done")
    sql.execute("update spanledger.call set created_at = 'epoch', started_at = 'epoch', ended_at = 'epoch'")
    with Ledger(dsn) as another_process:
        assert another_process.run(REFUND, never) == "done"


# AL-D21: a nested run erases the context around it


@pytest.mark.usefixtures("guarded")
@pytest.mark.parametrize("inner_ends", ["returns", "raises"])
def test_after_a_call_inside_a_call_the_outer_one_is_still_the_one_that_runs(inner_ends: str) -> None:
    @tool
    def inner() -> None:
        assert current_call().name == "inner"
        if inner_ends == "raises":
            raise ValueError

    @tool
    def outer() -> tuple[str, str]:
        before = current_call().key
        with contextlib.suppress(ValueError), workflow("another"):
            inner()
        return before, current_call().key

    before, after = outer()
    assert before == after


# what its own tests pin


def test_of_a_hundred_tasks_that_begin_at_once_one_runs(dsn: str) -> None:
    async def main() -> Counter[Verdict]:
        async with AsyncLedger(config=Config(dsn=dsn)) as ledger:
            begun = await asyncio.gather(*(ledger.begin(REFUND) for _ in range(100)))
            return Counter(b.verdict for b in begun)

    assert asyncio.run(main()) == {Verdict.RUN: 1, Verdict.IN_PROGRESS: 99}


def test_of_many_who_find_a_dead_worker_one_takes_over(ledger_with, sql: psycopg.Connection) -> None:
    ledger = ledger_with(rules=[Rule("refund", on_unknown="retry")])
    dead = ledger.begin(REFUND)
    sql.execute("update spanledger.call set lease_until = clock_timestamp()")
    ran, barrier = [], threading.Barrier(8)

    def run(number: int) -> int:
        barrier.wait(TIMEOUT_S)
        return ledger.run(REFUND, lambda: ran.append(number) or number)

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(run, range(8)))
    assert (results, dead.attempt) == (ran * 8, 1)


def test_a_failure_that_is_replayed_is_raised_to_everybody_who_waited_for_it(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", on_failure="replay")])
    running, release = threading.Event(), threading.Event()

    def handler() -> None:
        running.set()
        assert release.wait(TIMEOUT_S)
        raise ValueError("card expired")

    with ThreadPoolExecutor(4) as pool:
        first = pool.submit(ledger.run, REFUND, handler)
        assert running.wait(TIMEOUT_S)
        others = [pool.submit(ledger.run, REFUND, never) for _ in range(3)]
        release.set()
        assert isinstance(first.exception(TIMEOUT_S), ValueError)
        errors = [other.exception(TIMEOUT_S) for other in others]
    assert [type(error) for error in errors] == [CallFailed] * 3
    assert {error.error["message"] for error in errors} == {"card expired"}


@pytest.mark.parametrize("text", ["Zürich", "注文-1", "\N{PILE OF POO}", "a b\tc\n", "x" * 1000])
def test_ids_of_any_text_are_ids(ledger: Ledger, text: str) -> None:
    named = ToolCall(text, {text: text}, workflow_id=text, call_id=text)
    assert ledger.run(named, lambda: text) == ledger.run(named, never) == text
    assert [row["tool"] for row in ledger.calls(workflow_id=text)] == [text]


def test_arguments_are_copied_for_people_up_to_the_last_byte_that_is_allowed(ledger_with) -> None:
    text = '{"order_id":"o-1"}'
    exactly, less = (ledger_with(arguments_bytes_max=len(text) - n) for n in (0, 1))
    begun = exactly.begin(REFUND)
    assert exactly.get(begun.key)["arguments"] == text
    other = less.begin(call(2))
    assert less.get(other.key)["arguments"] is None


def test_two_that_wait_for_one_that_succeeds_late_get_its_result_and_not_their_own(ledger_with, tmp_path: Path) -> None:
    ledger = ledger_with(rules=[Rule("refund", lease_s=LEASE_S)])
    slow = threading.Event()
    with ThreadPoolExecutor(3) as pool:
        first = pool.submit(ledger.run, REFUND, lambda: slow.wait(2 * LEASE_S) or "slow")
        while not ledger.calls(state="in_flight"):
            time.sleep(0.01)
        others = [pool.submit(ledger.run, REFUND, never) for _ in range(2)]
        assert [f.result(TIMEOUT_S) for f in (first, *others)] == ["slow"] * 3
