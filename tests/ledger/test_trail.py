"""What agents say of themselves, in the ledger: told in the background, bounded, and every loss is counted."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterator

import psycopg
import pytest

from spanledger import Config, Ledger, ToolCall
from spanledger.core.trail import OPTIONS_MAX, Entry
from spanledger.ledger import _trail
from spanledger.ledger._opening import open_database
from spanledger.ledger._trail import Trail

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="order-1")
NOBODY = "host=127.0.0.1 port=1 dbname=none"


@pytest.fixture
def trail_of() -> Iterator[Callable[..., Trail]]:
    """Make trails with the given fields of `Config`."""
    made = []

    def make(**fields: object) -> Trail:
        config = Config(**fields)  # type: ignore[arg-type]
        database = open_database(config)
        made.append((Trail(database, config), database))
        return made[-1][0]

    yield make
    for trail, database in made:
        trail.close()
        database.close()


def of(ledger: Ledger, workflow_id: str | None = None) -> list[tuple[str, object]]:
    return [(row["what"], row["detail"]) for row in ledger.timeline(workflow_id) if row["source"] == "trail"]


def test_entries_are_there_in_their_order_and_with_all_they_say(trail_of, dsn, ledger):
    trail = trail_of(dsn=dsn)
    trail.tell(Entry("started", "order-1", agent="support", actor="u_42", detail={"goal": "refund order 1"}))
    trail.tell(Entry("step", "order-1", detail={"text": "entitled"}, trace_id="aa" * 16, span_id="bb" * 8))
    trail.tell(Entry("step", "order-2", detail={"text": "another one"}))

    assert trail.flush()
    started, step = ledger.timeline("order-1")
    assert (started["what"], started["agent"], started["actor"]) == ("started", "support", "u_42")
    assert started["detail"] == {"goal": "refund order 1"}
    assert (step["trace_id"], step["span_id"]) == ("aa" * 16, "bb" * 8)
    assert started["at"] <= step["at"]
    assert trail.lost == 0


def test_what_is_told_twice_is_kept_once(trail_of, dsn, ledger):
    trail, entry = trail_of(dsn=dsn), Entry("step", "w", detail={"text": "once"})
    trail.tell(entry)
    trail.tell(entry)

    assert trail.flush()
    assert of(ledger) == [("step", {"text": "once"})]


def test_an_entry_about_a_call_belongs_to_the_workflow_of_that_call(trail_of, dsn, ledger):
    trail = trail_of(dsn=dsn, workflow_id="of this process")
    begun = ledger.begin(REFUND)
    trail.tell(Entry("replay", key=begun.key))
    trail.tell(Entry("step", detail={"text": "nowhere in particular"}))

    assert trail.flush()
    assert [row["tool"] for row in ledger.timeline("order-1") if row["source"] == "trail"] == ["refund"]
    assert of(ledger, "of this process") == [("step", {"text": "nowhere in particular"})]


def test_hostile_words_are_kept_as_words(trail_of, dsn, ledger):
    trail = trail_of(dsn=dsn)
    hostile = "'; drop table spanledger.trail; --\n\x1b[2J\0 \ud800"
    trail.tell(Entry("step", hostile, detail={"text": hostile, "nan": float("nan"), "many": ["x" * 9999] * 999}))

    assert trail.flush()
    ((_, detail),) = of(ledger)
    assert detail["text"].startswith("'; drop table spanledger.trail; --\n\x1b[2J")
    assert detail["nan"] == "nan"
    assert len(detail["many"]) == OPTIONS_MAX
    assert {len(text) for text in detail["many"]} == {2000}
    assert trail.lost == 0


def test_one_entry_that_the_ledger_refuses_costs_no_other(trail_of, dsn, ledger, sql, caplog):
    trail = trail_of(dsn=dsn)
    with sql.transaction():
        # Locked, so that all of them go in one statement.
        sql.execute("lock table spanledger.trail")
        trail.tell(Entry("step", "w", detail={"text": "first"}))
        for event in ("step", "no such event", "step"):
            trail.tell(Entry(event, "w"))

    with caplog.at_level(logging.WARNING, "spanledger"):
        assert trail.flush()
    assert len(of(ledger)) == 3
    assert trail.lost == 1
    assert "1 entries of the decision trace are lost so far" in caplog.text


def test_what_finds_no_room_is_counted_and_logged_and_nobody_waits(trail_of, monkeypatch, caplog):
    monkeypatch.setattr(_trail, "ENTRIES_MAX", 3)
    trail = trail_of(dsn=NOBODY)

    with caplog.at_level(logging.WARNING, "spanledger"):
        for _ in range(20):
            trail.tell(Entry("step", "w"))
        assert not trail.flush(0.01)
    # One batch may be on its way meanwhile.
    assert 20 - 2 * 3 <= trail.lost <= 17
    assert "too many wait for the ledger" in caplog.text


def test_entries_wait_for_a_ledger_that_comes_back(trail_of, dsn, ledger):
    places = [NOBODY, NOBODY, dsn]
    trail = trail_of(dsn=lambda: places.pop(0) if len(places) > 1 else places[0])
    trail.tell(Entry("step", "w", detail={"text": "late but true"}))

    assert trail.flush(20)
    assert of(ledger) == [("step", {"text": "late but true"})]
    assert trail.lost == 0


def test_what_is_left_when_the_time_is_up_is_lost_and_said(trail_of, monkeypatch, caplog):
    monkeypatch.setattr(_trail, "EXIT_TIMEOUT_S", 0.01)
    trail = trail_of(dsn=NOBODY)
    trail.tell(Entry("step", "w"))

    with caplog.at_level(logging.WARNING, "spanledger"):
        trail.close()
    assert "lost" in caplog.text


def test_a_ledger_without_a_trail_loses_it_and_says_so(trail_of, empty_dsn, caplog):
    trail = trail_of(dsn=empty_dsn)

    with caplog.at_level(logging.WARNING, "spanledger"):
        trail.tell(Entry("step", "w"))
        assert trail.flush()
    assert trail.lost == 1
    assert "spanledger migrate" in caplog.text


def test_a_private_server_is_not_started_for_this_alone(trail_of, monkeypatch, tmp_path):
    monkeypatch.setenv("SPANLEDGER_STATE_DIR", str(tmp_path / "private"))
    trail = trail_of(embedded="auto")
    trail.tell(Entry("step", "w"))

    assert trail.flush(0.2)
    assert not (tmp_path / "private").exists()


def test_many_threads_tell_and_nothing_is_lost(trail_of, dsn, ledger):
    trail = trail_of(dsn=dsn)

    def tell() -> None:
        for _ in range(100):
            trail.tell(Entry("step", "w"))

    threads = [threading.Thread(target=tell) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trail.flush(20)
    assert len(of(ledger)) == 800


def test_a_forked_child_tells_its_own_entries_and_not_its_parents(trail_of, dsn, ledger, sql):
    trail = trail_of(dsn=dsn)
    with sql.transaction():
        sql.execute("lock table spanledger.trail")
        trail.tell(Entry("step", "w", detail={"text": "parent"}))
        child = os.fork()
        if child == 0:
            trail.tell(Entry("step", "w", detail={"text": "child"}))
            os._exit(0 if trail._round()._thread is not None and len(trail._rounds) == 2 else 1)
        assert os.waitpid(child, 0)[1] == 0
    assert trail.flush(20)
    assert [detail["text"] for _, detail in of(ledger)] == ["parent"]


@pytest.mark.parametrize("which", [{"workflow_id": "order-1"}, {"actor": "u_42"}, {"tenant": "default"}], ids=str)
def test_what_is_erased_is_that_it_was_said_no_more(which, trail_of, dsn, ledger):
    trail = trail_of(dsn=dsn)
    trail.tell(Entry("step", "order-1", actor="u_42", detail={"text": "her card ends in 4711"}))
    trail.tell(Entry("decision", "order-1", actor="u_42", detail={"name": "card", "chosen": "4711"}))
    assert trail.flush()

    ledger.erase(by="ops", **which)
    assert of(ledger) == [("step", {}), ("decision", {})]


# --- who may read it


@pytest.fixture
def as_role(dsn: str, role_dsn: Callable[[str], str], ledger: Ledger) -> Iterator[Callable[..., str]]:
    """DSN of a role that is bound as given."""
    role = str(psycopg.conninfo.conninfo_to_dict(role_dsn(dsn))["user"])

    def bound(*kinds: tuple[str, str]) -> str:
        for kind, tenant in kinds:
            ledger.bind_role(role, kind=kind, tenant=tenant, by="owner")
        return role_dsn(dsn)

    yield bound
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("drop owned by {}").format(psycopg.sql.Identifier(role)))


@pytest.mark.parametrize("tenant", ["acme", "*"])
def test_an_agents_role_writes_its_trail_and_reads_none(tenant, as_role, trail_of, ledger_with):
    mine = as_role(("agent", tenant))
    trail = trail_of(dsn=mine, tenant="acme")
    trail.tell(Entry("step", "order-1", detail={"text": "secret thoughts"}))

    assert trail.flush()
    assert trail.lost == 0
    assert of(ledger_with(tenant="acme")) == [("step", {"text": "secret thoughts"})]
    with Ledger(config=Config(dsn=mine, tenant="acme")) as agent:
        assert of(agent) == []
    with psycopg.connect(mine) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select * from spanledger.trail")


def test_nobody_writes_the_trail_of_another_tenant_and_operators_write_none(as_role, trail_of, ledger_with, caplog):
    with caplog.at_level(logging.WARNING, "spanledger"):
        for kind, tenant in (("agent", "other"), ("operator", "acme")):
            trail = trail_of(dsn=as_role((kind, "acme")), tenant=tenant)
            trail.tell(Entry("step", "order-1"))
            assert trail.flush()
            if (kind, tenant) == ("agent", "other"):
                assert trail.lost == 1
    assert of(ledger_with(tenant="other")) == []


def test_an_operators_role_reads_the_trail_of_its_tenant(as_role, trail_of, dsn):
    for tenant in ("acme", "other"):
        trail = trail_of(dsn=dsn, tenant=tenant)
        trail.tell(Entry("step", "order-1", detail={"text": tenant}))
        assert trail.flush()

    mine = as_role(("operator", "acme"))
    for tenant, seen in (("acme", [("step", {"text": "acme"})]), ("other", [])):
        with Ledger(config=Config(dsn=mine, tenant=tenant)) as operator:
            assert of(operator) == seen


def test_a_better_guess_at_the_databases_clock_puts_nothing_before_what_was_told_already() -> None:
    clock = _trail._Clock()
    clock.heard(100.0, 110.0, 1105.5)  # slow: half of it is a guess
    first = clock.shown(110.0)
    clock.heard(110.0, 110.01, 1110.0)  # fast: the clock is behind what was thought
    assert clock.shown(110.1) >= first
    assert clock.shown(112.0) == pytest.approx(1111.995)
