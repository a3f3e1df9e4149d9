"""Signs of life: a call that runs is believed alive, and one that was dropped is not."""

from __future__ import annotations

import asyncio
import gc
import threading
import time

from spanledger import AsyncLedger, Config, Ledger, Rule, ToolCall, Verdict

LEASE_S = 0.3
CALL = ToolCall("slow", {"n": 1}, workflow_id="w")
RULE = Rule("slow", lease_s=LEASE_S)


def lease_of(sql):
    (lease,) = sql.execute("select lease_until from spanledger.call").fetchone()
    return lease


def wait_for(condition, timeout_s=10.0):
    """Wait for what another thread or the database brings about; its moment is not ours to know."""
    end_s = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < end_s, "it did not happen"
        time.sleep(0.02)


def test_a_call_that_outlasts_its_lease_is_still_in_progress_for_others(ledger_with, sql):
    ledger = ledger_with(rules=[RULE])
    finish = threading.Event()
    worker = threading.Thread(target=lambda: ledger.run(CALL, lambda: finish.wait(10) and "done"))
    worker.start()
    wait_for(lambda: ledger.calls(state="in_flight"))
    first = lease_of(sql)

    wait_for(lambda: sql.execute("select clock_timestamp() > %s", (first,)).fetchone()[0])

    assert ledger.begin(CALL).verdict is Verdict.IN_PROGRESS
    finish.set()
    worker.join()
    assert ledger.run(CALL, lambda: "again") == "done"


def test_a_blocked_event_loop_does_not_look_dead(dsn, sql):
    async def main():
        async with AsyncLedger(config=Config(dsn=dsn, rules=[RULE])) as ledger:

            async def blocks():
                first = lease_of(sql)
                wait_for(lambda: lease_of(sql) > first)
                return "done"

            return await ledger.run(CALL, blocks)

    assert asyncio.run(main()) == "done"


def test_a_call_that_was_dropped_without_a_word_becomes_unknown(ledger_with, sql):
    ledger = ledger_with(rules=[RULE])
    begun = ledger.begin(CALL)
    assert begun.verdict is Verdict.RUN

    del begun
    gc.collect()

    wait_for(lambda: ledger.calls(state="unknown"))
    assert ledger.begin(CALL).verdict is Verdict.OUTCOME_UNKNOWN


def test_a_call_gets_no_signs_of_life_beyond_its_longest_run(ledger_with):
    ledger = ledger_with(rules=[Rule("slow", lease_s=LEASE_S, run_max_s=0.1)])
    begun = ledger.begin(CALL)

    wait_for(lambda: ledger.calls(state="unknown"))

    assert ledger.settle(begun, "late but true")
    assert ledger.begin(CALL).verdict is Verdict.REPLAY


def heartbeats():
    return {thread for thread in threading.enumerate() if thread.name == "spanledger-heartbeat"}


def test_the_thread_ends_when_nothing_runs(ledger_with):
    ledger = ledger_with(rules=[RULE])
    others = heartbeats()

    (own,) = ledger.run(CALL, lambda: [thread.ident for thread in heartbeats() - others])

    wait_for(lambda: own not in {thread.ident for thread in heartbeats()})


def test_a_closed_ledger_gives_no_signs_and_opens_no_connection(dsn):
    ledger = Ledger(config=Config(dsn=dsn, rules=[RULE]))
    others = heartbeats()
    begun = ledger.begin(CALL)
    beating = heartbeats() - others

    ledger.close()

    wait_for(lambda: not beating & heartbeats())
    assert begun.verdict is Verdict.RUN
    assert ledger._database._threads is None


def test_a_beat_that_fails_is_tried_again(ledger_with, sql):
    ledger = ledger_with(rules=[RULE])
    begun = ledger.begin(CALL)
    sql.execute("alter function spanledger_v1.renew(text, jsonb) rename to renew_gone")
    wait_for(lambda: ledger.calls(state="unknown"))
    sql.execute("update spanledger.call set lease_until = clock_timestamp() + interval '0.3 s'")
    first = lease_of(sql)

    sql.execute("alter function spanledger_v1.renew_gone(text, jsonb) rename to renew")

    wait_for(lambda: lease_of(sql) > first)
    assert ledger.settle(begun, "done")
