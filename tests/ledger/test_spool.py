"""Outcomes that the ledger did not take: kept on disk, and told later, once."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg
import pytest
from proxies import Proxy, unix_socket
from test_connections import _kill_server
from ways import REFUND, either_way, run_blocking

from spanledger import Budget, Calls, Config, Ledger, Rule
from spanledger.core.asking import Ask
from spanledger.ledger import _spool
from spanledger.ledger._embedded import EmbeddedPostgres
from spanledger.ledger._spool import Spool, ledger_name

BUDGETS = [Budget("refunds", Calls(9))]


def never() -> None:
    pytest.fail("it ran")


@pytest.fixture
def mortal(tmp_path: Path) -> Iterator[EmbeddedPostgres]:
    """A server of this test's own, which it may kill and start again."""
    server = EmbeddedPostgres(tmp_path / "mortal", settings={"fsync": "off", "shared_buffers": "1MB"}, linger_s=0.1)
    yield server
    server.release()


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    return Spool(tmp_path / "spools", "a")


def outcome(key: str = "aa", **item: object) -> Ask:
    return Ask("settle", "acme", {"key": key, "attempt_id": "1", "tool": "refund", **item}, shielded=True)


def told_by(spool: Spool) -> list[str]:
    told: list[Ask] = []
    spool.deliver(told.append, spool.waiting())
    return [ask.item["key"] for ask in told]


# whether something waits


def test_what_is_kept_is_seen_by_whoever_looked_before_and_so_is_that_it_is_told(spool: Spool) -> None:
    assert not spool.holds_some()
    assert spool.keep(outcome())
    assert spool.holds_some()
    assert told_by(spool) == ["aa"]
    for _ in range(3):
        assert not spool.holds_some()


def test_what_another_process_keeps_in_an_old_folder_is_seen(spool: Spool) -> None:
    assert spool.keep(outcome("bb"))
    assert told_by(spool) == ["bb"]
    os.utime(spool.directory, (1_000_000_000, 1_000_000_000))
    for _ in range(2):
        assert not spool.holds_some()
    assert Spool(spool.directory.parents[1], "a").keep(outcome())
    assert spool.holds_some()


def test_what_is_kept_at_the_same_time_by_a_coarse_clock_is_seen(spool: Spool) -> None:
    assert spool.keep(outcome("bb"))
    assert told_by(spool) == ["bb"]
    assert not spool.holds_some()
    changed_ns = spool.directory.stat().st_mtime_ns
    assert spool.keep(outcome())
    os.utime(spool.directory, ns=(changed_ns, changed_ns))
    assert spool.holds_some()


# the whole way


@either_way
def test_a_server_that_dies_during_the_call_costs_neither_the_result_nor_the_outcome(mortal, run) -> None:
    dsn = mortal.dsn()
    config = Config(dsn=dsn, ledger_timeout_s=0.5, budgets=BUDGETS)
    with Ledger(dsn) as ledger:
        ledger.migrate()

    def handler() -> str:
        _kill_server(dsn)
        return "done"

    assert run(config, handler) == "done"
    with Ledger(config=config) as ledger:
        status = ledger._database.spooled()
        assert (status.entries, status.refused) == (1, 0)
        assert 0 <= status.oldest_age_s < 60

    assert mortal.dsn() == dsn
    assert run(config, never) == "done"
    with Ledger(config=config) as ledger:
        balance = ledger.budget("refunds")
        assert (balance.spent, balance.held) == (Calls(1), Calls(0))
        assert ledger._database.spooled().entries == 0


def test_an_outcome_told_by_hand_is_kept_as_well(mortal) -> None:
    dsn = mortal.dsn()
    with Ledger(dsn) as ledger:
        ledger.migrate()
    with Ledger(config=Config(dsn=dsn, ledger_timeout_s=0.5, budgets=BUDGETS)) as ledger:
        begun = ledger.begin(REFUND)
        _kill_server(dsn)
        assert ledger.settle(begun, "done")

    assert mortal.dsn() == dsn
    assert run_blocking(Config(dsn=dsn), never) == "done"


@pytest.mark.parametrize("left", [9, 0])
@either_way
def test_a_call_that_ran_unguarded_is_recorded_when_the_ledger_is_back_and_not_run_again(mortal, run, left) -> None:
    dsn = mortal.dsn()
    with Ledger(dsn) as ledger:
        ledger.migrate()
    rules = [Rule("refund", on_ledger_down="continue")]
    config = Config(dsn=dsn, ledger_timeout_s=0.5, rules=rules, budgets=[Budget("refunds", Calls(left))])
    with Ledger(config=config) as ledger:
        ledger.calls()
    _kill_server(dsn)
    assert run(config, lambda: "done") == "done"

    assert mortal.dsn() == dsn
    assert run(config, never) == "done"
    with Ledger(config=config) as ledger:
        (call,) = ledger.calls()
        assert (call["state"], call["attempt"]) == ("succeeded", 1 if left else 0)
        assert (ledger.budget("refunds").spent, ledger.budget("refunds").held) == (Calls(1), Calls(0))


CRASHES = """
import os, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from test_spool import REFUND, BUDGETS, _kill_server
from spanledger import Config, Ledger
ledger = Ledger(config=Config(dsn=sys.argv[1], ledger_timeout_s=0.5, budgets=BUDGETS))
ledger.run(REFUND, lambda: _kill_server(sys.argv[1]) or "done")
os.kill(os.getpid(), 9)
"""


def test_an_outcome_survives_the_process_and_another_tells_it_unasked(mortal) -> None:
    dsn = mortal.dsn()
    with Ledger(dsn) as ledger:
        ledger.migrate()
    command = [sys.executable, "-c", CRASHES, dsn, str(Path(__file__).parent)]
    assert subprocess.run(command, check=False, timeout=60).returncode == -9

    assert mortal.dsn() == dsn
    with Ledger(dsn) as ledger:
        deadline_s = time.monotonic() + 20
        while [call["state"] for call in ledger.calls()] != ["succeeded"]:
            assert time.monotonic() < deadline_s
            time.sleep(0.02)


@either_way
def test_where_nothing_can_be_written_the_result_is_returned_all_the_same(dsn, sql, run, monkeypatch, caplog) -> None:
    monkeypatch.setenv("SPANLEDGER_STATE_DIR", "/proc/nowhere")
    held = threading.Event()

    def handler() -> str:
        sql.execute("begin")
        sql.execute("lock table spanledger.call in access exclusive mode")
        held.set()
        return "done"

    assert run(Config(dsn=dsn, ledger_timeout_s=0.5), handler) == "done"
    assert held.is_set()
    assert "could not be kept in /proc/nowhere/spool" in caplog.text
    assert "it counts as unknown once its lease is over" in caplog.text
    sql.execute("rollback")


def test_what_the_ledger_refuses_for_good_is_set_aside_and_begins_go_on(dsn, caplog) -> None:
    with Ledger(dsn) as ledger:
        ledger.calls()
        spool = ledger._database.spool
        key = ledger.key(REFUND)
        spool.keep(Ask("settle", ledger.config.tenant, {"key": key, "attempt_id": "no uuid"}))
        assert ledger.run(REFUND, lambda: "done") == "done"
        status = ledger._database.spooled()
    assert (status.entries, status.aside) == (0, 1)
    assert "the ledger refused it: invalid input syntax" in caplog.text


@either_way
def test_an_outcome_of_a_call_that_a_restored_ledger_does_not_have_is_set_aside_and_said(dsn, sql, run, caplog) -> None:
    def restore() -> str:
        sql.execute("delete from spanledger.call")
        return "done"

    assert run(Config(dsn=dsn), restore) == "done"

    with Ledger(dsn) as ledger:
        ledger.calls()
        until_s = time.monotonic() + 20
        while (status := ledger._database.spooled()).entries or not status.aside:
            assert time.monotonic() < until_s
            time.sleep(0.02)
        (aside,) = status.path.glob("*.aside")
        assert json.loads(aside.read_text())["item"]["result"] == '"done"'
        assert ledger.run(REFUND, lambda: "again") == "again"
    assert "an outcome was set aside, the ledger has no such call" in caplog.text


def test_a_claim_that_others_are_making_while_it_is_given_back_waits_on(spool) -> None:
    spool.keep(Ask("fail", "acme", {"key": "aa", "attempt_id": "1", "not_invoked": True}))
    spool.deliver(lambda _: {"owned": False, "known": False}, spool.waiting())
    assert (spool.status().entries, spool.status().aside) == (1, 0)
    spool.deliver(lambda _: {"owned": False}, spool.waiting())
    assert (spool.status().entries, spool.status().aside) == (0, 0)


# whose it is


def test_a_ledger_is_named_by_where_it_is_and_not_by_who_asks(monkeypatch) -> None:
    place = {"host": "h", "port": "5432", "dbname": "d"}
    assert ledger_name(place) == ledger_name({**place, "user": "u", "password": "secret"})
    assert len({ledger_name({**place, part: "other"}) for part in place} | {ledger_name(place)}) == 4
    monkeypatch.setenv("PGHOST", "h")
    assert ledger_name({"dbname": "d", "port": "5432"}) == ledger_name(place)


def test_another_ledger_is_not_told(dsn, empty_dsn) -> None:
    with Ledger(dsn) as one, Ledger(empty_dsn) as other:
        other.migrate()
        one.calls()
        other.calls()
        assert one._database.spool.keep(outcome())
        assert (one._database.spooled().entries, other._database.spooled().entries) == (1, 0)


# on disk


def test_only_the_owner_may_read_it(spool) -> None:
    assert spool.keep(outcome())
    (entry,) = spool.waiting()
    modes = [path.stat().st_mode & 0o777 for path in (entry, entry.parent, entry.parent.parent)]
    assert modes == [0o600, 0o700, 0o700]


def test_a_folder_that_others_can_write_to_is_not_used(spool) -> None:
    spool.directory.mkdir(parents=True)
    spool.directory.chmod(0o777)
    assert not spool.keep(outcome())


def test_entries_are_told_oldest_first_or_of_one_call(spool) -> None:
    for key in ("bb", "aa", "cc"):
        assert spool.keep(outcome(key))
    assert len(spool.waiting(outcome("aa"))) == 1
    assert told_by(spool) == ["bb", "aa", "cc"]
    assert told_by(spool) == []


def test_a_folder_that_could_not_be_looked_into_is_looked_into_again(spool) -> None:
    assert spool.keep(outcome())
    os.utime(spool.directory, (1_000_000_000, 1_000_000_000))
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    free = os.open(os.devnull, os.O_RDONLY)
    os.close(free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, limits[1]))
    try:
        assert not spool.holds_some()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    assert spool.holds_some()


def test_a_full_spool_keeps_the_oldest_and_counts_what_it_refuses(spool, monkeypatch, caplog) -> None:
    monkeypatch.setattr(_spool, "ENTRIES_MAX", 2)
    assert [spool.keep(outcome(key)) for key in ("aa", "bb", "cc")] == [True, True, False]
    assert (spool.status().entries, spool.status().refused) == (2, 1)
    assert "the spool is full" in caplog.text
    assert told_by(spool) == ["aa", "bb"]
    monkeypatch.setattr(_spool, "BYTES_MAX", 500)
    assert [spool.keep(outcome(result="x" * 600)), spool.keep(outcome())] == [False, True]


def test_what_a_crash_left_half_written_is_never_told_and_set_aside(spool) -> None:
    assert spool.keep(outcome())
    (entry,) = spool.waiting()
    young, old = entry.with_suffix(".part"), entry.with_name("0-x-y.part")
    for part in (young, old):
        part.write_bytes(entry.read_bytes()[:20])
    os.utime(old, (0, 0))
    spool.tidy()
    assert (young.exists(), old.exists(), spool.status().aside) == (True, False, 1)
    entry.write_bytes(entry.read_bytes()[:20])
    assert told_by(spool) == []
    assert (spool.status().entries, spool.status().aside) == (0, 2)


def test_while_the_ledger_does_not_answer_everything_waits_on(spool) -> None:
    spool.keep(outcome())

    def refuse(ask: Ask) -> None:
        raise psycopg.OperationalError("nobody there")

    with pytest.raises(psycopg.OperationalError):
        spool.deliver(refuse, spool.waiting())
    assert told_by(spool) == ["aa"]


def test_of_two_who_tell_at_once_each_entry_is_told_by_one(spool) -> None:
    for n in range(20):
        spool.keep(outcome(f"{n:02}"))
    told: list[str] = []
    together = threading.Barrier(2)
    entries = spool.waiting()

    def drain(_: int) -> None:
        together.wait()
        Spool(spool.directory.parent.parent, "a").deliver(lambda ask: told.append(ask.item["key"]), entries, wait_s=5)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(drain, range(2)))
    assert sorted(told) == [f"{n:02}" for n in range(20)]


# an answer that is lost


@either_way
def test_a_settle_whose_answer_was_lost_is_asked_again_and_not_guessed(dsn, run, tmp_path) -> None:
    with Proxy(unix_socket(dsn)) as proxy:
        config = Config(dsn=proxy.before(dsn), budgets=BUDGETS)

        def handler() -> str:
            proxy.lose_answer_to = b"spanledger_v1.settle"
            return "done"

        assert run(config, handler) == "done"
        assert proxy.cuts == 1
        assert run(config, never) == "done"
    with Ledger(dsn) as ledger:
        assert ledger.budget("refunds").spent == Calls(1)
    assert not list((tmp_path / "state").rglob("*.json")), "it was not kept on disk"


WRITES = """
import sys
from pathlib import Path
from spanledger.core.asking import Ask
from spanledger.ledger._spool import Spool
spool = Spool(Path(sys.argv[1]), "a")
for n in range(900):
    item = {"key": "aa", "attempt_id": str(n), "result": "x" * 20_000}
    assert spool.keep(Ask("settle", "acme", item))
    print(n, flush=True)
"""


def test_of_a_writer_that_is_killed_every_entry_is_whole_or_not_there(spool) -> None:
    folder = str(spool.directory.parent.parent)
    with subprocess.Popen([sys.executable, "-c", WRITES, folder], stdout=subprocess.PIPE, text=True) as writer:
        kept = [int(writer.stdout.readline()) for _ in range(10)]
        writer.kill()
        kept += [int(line) for line in writer.stdout.read().splitlines()]
    told: list[Ask] = []
    spool.deliver(told.append, spool.waiting())
    assert [int(ask.item["attempt_id"]) for ask in told][: len(kept)] == kept
    assert len(told) <= len(kept) + 1
    assert all(len(ask.item["result"]) == 20_000 for ask in told)
    assert spool.status().aside == 0
