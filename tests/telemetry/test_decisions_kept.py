"""The decision trace in the ledger, and what ties it to the spans: every entry says where it is in the trace."""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from opentelemetry.trace import StatusCode, format_span_id, format_trace_id
from tests.forks import forked_while_held

import spanledger
from spanledger import Budget, Calls, Config, Ledger, Money, Rule, Switch, errors, tool, tool_call, workflow
from spanledger import _setup as setup
from spanledger.core.trail import Entry
from spanledger.telemetry import trail

ASKED = Rule("refund", approval=True, wait_timeout_s=0)


@pytest.fixture
def instrument(dsn: str) -> Callable[..., None]:
    """Guard this process with the given fields of `Config`, on this test's database."""
    return lambda **fields: spanledger.instrument(Config(dsn=dsn, **fields), libraries=[])


@pytest.fixture
def timeline(ledger: Ledger) -> Callable[..., list[dict[str, Any]]]:
    """The ledger's timeline of a workflow, with all that was told so far."""

    def read(workflow_id: str | None = None) -> list[dict[str, Any]]:
        assert setup._installed is not None
        assert setup._installed.connected.trail.flush(20)
        return ledger.timeline(workflow_id)

    return read


def ids(span: Any) -> tuple[str, str]:
    return format_trace_id(span.context.trace_id), format_span_id(span.context.span_id)


def told(rows: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    return [(row["what"], row["detail"]) for row in rows if row["source"] == "trail"]


def test_a_workflow_its_steps_choices_and_calls_are_one_timeline(instrument, timeline, spans):
    instrument()
    refund = tool("refund")(lambda order_id: order_id)
    with workflow("order-1", agent="support", goal="refund order 1", actor="u_42") as run:
        run.step("entitled")
        run.decide("method", options=["card", "voucher"], chosen="card", because="paid by card", confidence=0.9)
        refund("o-1")
        refund("o-1")

    rows = timeline("order-1")
    assert [row["what"] for row in rows] == ["started", "step", "decision", "run", "succeeded", "replay", "ended"]
    chosen = {"name": "method", "options": ["card", "voucher"], "chosen": "card"}
    assert [detail for _, detail in told(rows)] == [
        {"goal": "refund order 1"},
        {"text": "entitled"},
        chosen | {"because": "paid by card", "confidence": 0.9},
        {"attempt": 1, "original": {"trace_id": rows[3]["trace_id"], "span_id": rows[3]["span_id"]}},
        {"status": "done"},
    ]
    assert {(row["agent"], row["actor"]) for row in rows} == {("support", "u_42")}
    assert len({row["run_id"] for row in rows if row["source"] == "trail"}) == 1
    around, (ran, replayed) = spans.one("invoke_agent support"), spans.all("execute_tool refund")
    found = [(row["trace_id"], row["span_id"]) for row in rows]
    assert found == [ids(around)] * 3 + [ids(ran)] * 2 + [ids(replayed), ids(around)]


def test_a_run_says_how_it_ended(instrument, timeline, spans):
    instrument()
    for error in (ValueError("no"), KeyboardInterrupt(), asyncio.CancelledError()):
        with pytest.raises(type(error)), workflow("w"):
            raise error

    assert [detail for what, detail in told(timeline("w")) if what == "ended"] == [
        {"status": "failed", "error": "ValueError"},
        {"status": "interrupted", "error": "KeyboardInterrupt"},
        {"status": "interrupted", "error": "asyncio.exceptions.CancelledError"},
    ]
    statuses = [span.status.status_code for span in spans.all("invoke_agent")]
    assert statuses == [StatusCode.ERROR, StatusCode.UNSET, StatusCode.UNSET]


def test_a_generator_that_is_closed_early_ends_its_workflow_without_an_error(instrument, timeline, spans):
    instrument()

    def answers():
        with workflow("w"):
            yield "first"
            yield "second"

    generator = answers()
    assert next(generator) == "first"
    generator.close()

    assert told(timeline("w"))[-1] == ("ended", {"status": "interrupted", "error": "GeneratorExit"})
    assert spans.one("invoke_agent").status.status_code is StatusCode.UNSET
    assert spanledger.current_workflow() is None


def test_what_an_agent_says_before_its_first_guarded_call_is_kept_where_that_call_connects(dsn, ledger, monkeypatch):
    monkeypatch.setenv("SPANLEDGER_DSN", dsn)
    spanledger.uninstrument()
    with workflow("order-0", goal="nothing is guarded here") as idle:
        idle.step("nobody keeps this")
    with workflow("order-1", goal="refund order 1") as run:
        run.step("entitled")
        run.decide("method", options=["card", "voucher"], chosen="card")
        tool("refund")(lambda order_id: order_id)("o-1")

    assert setup._unasked is not None
    assert setup._unasked.trail.flush(20)
    whats = [row["what"] for row in ledger.timeline("order-1")]
    spanledger.uninstrument()
    assert whats == ["started", "step", "decision", "run", "succeeded", "ended"]
    assert ledger.timeline("order-0") == []


def test_threads_of_executors_have_the_workflow_though_nobody_instrumented_the_process(dsn, ledger, monkeypatch):
    monkeypatch.setenv("SPANLEDGER_DSN", dsn)
    spanledger.uninstrument()
    refund = tool("refund")(lambda order_id: order_id)

    async def on_a_loop() -> None:
        await asyncio.get_running_loop().run_in_executor(None, refund, "o-2")

    with ThreadPoolExecutor(1) as pool, workflow("order-1"):
        pool.submit(refund, "o-1").result()
        asyncio.run(on_a_loop())
    scopes = {row["workflow_id"] for row in ledger.calls(tool="refund")}
    spanledger.uninstrument()
    assert scopes == {"order-1"}
    assert "wrapt" not in type(ThreadPoolExecutor.__dict__["submit"]).__module__


class Sink:
    """Who is connected late."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.lost: list[str] = []

    def tell(self, entry: Entry, happened_s: float | None = None) -> None:
        self.told.append(f"{entry.event} {happened_s is not None}")

    def lose(self, why: str) -> None:
        self.lost.append(why)


@pytest.fixture
def sink() -> Iterator[Sink]:
    """Nobody is connected, and this one can be."""
    spanledger.uninstrument()
    sink = Sink()
    yield sink
    trail.disconnect(sink)


def test_what_is_said_before_anything_is_guarded_is_bounded_and_the_rest_is_counted_as_lost(sink, monkeypatch):
    monkeypatch.setattr(trail, "EARLY_MAX", 2)
    with workflow("order-1") as run:
        for _ in range(3):
            run.step("entitled")
        trail.connect(sink)

    assert sink.told == ["started True", "step True", "ended False"]
    assert len(sink.lost) == 2


def test_nothing_is_lost_of_a_workflow_that_has_ended_before_anything_was_guarded(sink, monkeypatch):
    monkeypatch.setattr(trail, "EARLY_MAX", 2)
    with workflow("order-1") as run:
        for _ in range(3):
            run.step("entitled")
    trail.connect(sink)
    assert (sink.told, sink.lost) == ([], [])


def test_what_a_collection_lets_be_said_while_something_is_kept_blocks_nobody(sink):
    """A generator that was left ends its workflow where it is collected, which is wherever something is allocated."""

    def collected(phase: str, _about: object) -> None:
        if phase == "start" and threading.current_thread() is talking:
            run.step("from what is collected")

    def talk() -> None:
        with workflow("order-2"):
            gc.set_threshold(1)
        gc.set_threshold(*usual)

    usual, talking = gc.get_threshold(), threading.Thread(target=talk, daemon=True)
    with workflow("order-1") as run:
        for _ in range(500):
            run.step("entitled")
        # Python keeps small tuples that are free; with none left, each that is made may start a collection.
        taken = [(one, one) for one in range(5000)]
        gc.callbacks.append(collected)
        try:
            talking.start()
            talking.join(30)
            assert taken
            assert not talking.is_alive()
        finally:
            gc.set_threshold(*usual)
            gc.callbacks.remove(collected)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="nothing forks here")
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_a_child_says_what_it_does_though_a_thread_of_its_parent_was_saying_something_when_it_was_forked(sink):
    def says() -> int:
        with workflow("of-the-child"):
            return 0

    assert forked_while_held(trail._lock, says) == 0


def test_a_workflow_inside_another_is_in_the_trail_of_both(instrument, timeline):
    instrument()
    with workflow("outer", tenant=None), workflow("inner", goal="look it up"):
        pass

    assert told(timeline("outer")) == [
        ("started", {}),
        ("inner", {"workflow_id": "inner", "goal": "look it up"}),
        ("ended", {"status": "done"}),
    ]
    assert told(timeline("inner"))[0] == ("started", {"goal": "look it up", "within": "outer"})


def test_a_replay_and_a_step_do_not_wait_for_the_ledger_to_take_them(instrument, timeline, sql):
    instrument()
    refund = tool("refund")(lambda: "paid")
    with workflow("w") as run:
        refund()
        timeline("w")
        with sql.transaction():
            # Nobody can write the trail while this is held.
            sql.execute("lock table spanledger.trail in access exclusive mode")
            run.step("again")
            assert refund() == "paid"
    assert [what for what, _ in told(timeline("w"))] == ["started", "step", "replay", "ended"]


def test_refusals_are_in_the_ledger_with_what_decided_and_where_they_are(instrument, timeline, spans):
    instrument(
        rules=[Rule("wire", fields=["order"], on_mismatch="refuse"), Rule("*", identity="arguments")],
        budgets=[Budget("few", Calls(1), match="mail")],
        switches=[Switch("drop", allowed=False, reason="the bank is down")],
    )
    calls = {name: tool(name)(lambda order, n=0: n) for name in ("wire", "mail", "drop")}
    with workflow("w"):
        calls["wire"](1)
        calls["mail"](1)
        for name, kind, arguments in (
            ("wire", errors.KeyReused, (1, 2)),
            ("mail", errors.BudgetExceeded, (2,)),
            ("drop", errors.NotAuthorized, (1,)),
        ):
            with pytest.raises(kind):
                calls[name](*arguments)

    rows = {row["tool"]: row for row in timeline("w") if row["what"] == "refused"}
    assert rows["wire"]["detail"]["verdict"] == "key_reused"
    assert rows["mail"]["detail"]["refusal"]["budget"] == "few"
    assert rows["mail"]["detail"]["rule"] == "*"
    assert rows["drop"]["detail"]["refusal"]["reason"] == "the bank is down"
    for name, row in rows.items():
        refused = spans.all(f"execute_tool {name}")[-1]
        assert (row["trace_id"], row["span_id"]) == ids(refused)
        assert refused.attributes["spanledger.call.key"] == row["key"]


def test_a_refusal_beside_the_past_of_its_call_says_where_it_was(instrument, timeline, spans, ledger):
    instrument()
    mail = tool("mail")(lambda: 1 / 0)
    with workflow("w"):
        with pytest.raises(ZeroDivisionError):
            mail()
        ledger.apply(Config(switches=[Switch("mail", allowed=False)]), by="ops")
        with pytest.raises(errors.NotAuthorized):
            mail()

    (row,) = [row for row in timeline("w") if row["what"] == "refused"]
    assert (row["trace_id"], row["span_id"]) == ids(spans.all("execute_tool mail")[-1])


# --- approvals


def test_a_request_for_consent_is_a_closed_span_and_what_runs_by_it_links_to_it(instrument, timeline, ledger, spans):
    instrument(rules=[ASKED])
    refund = tool("refund")(lambda: "paid")
    with pytest.raises(errors.ApprovalPending) as caught, workflow("w"):
        refund()
    request = spans.one("approval refund")
    assert request.end_time is not None
    assert request.parent.span_id == spans.one("execute_tool refund").context.span_id
    assert request.attributes["spanledger.approval.id"] == caught.value.approval_id
    timeline("w")

    ledger.approve(caught.value.approval_id, by="ops@example.com")
    with workflow("w"):
        assert refund() == "paid"
    ran = spans.all("execute_tool refund")[-1]
    assert [(link.context.trace_id, link.context.span_id) for link in ran.links] == [
        (request.context.trace_id, request.context.span_id)
    ]
    assert ran.links[0].attributes["spanledger.approval.id"] == caught.value.approval_id
    assert ran.attributes["spanledger.approval.approver"] == "ops@example.com"
    whats = [row["what"] for row in timeline("w") if row["source"] != "trail"]
    assert whats == ["asked", "approved", "run", "succeeded"]


def test_who_waits_for_a_person_has_told_the_backend_before(instrument, ledger, spans):
    asked = threading.Event()
    instrument(
        rules=[Rule("refund", approval=True, wait_timeout_s=60)],
        on_approval_needed=lambda approval: (seen.extend(spans.all()), asked.set(), ids_.append(approval.id)),
    )
    seen: list[Any] = []
    ids_: list[str] = []
    refund = tool("refund")(lambda: "paid")

    def run() -> None:
        with workflow("w"):
            refund()

    waiting = threading.Thread(target=run)
    waiting.start()
    assert asked.wait(30)
    ledger.approve(ids_[0], by="ops")
    waiting.join(30)

    assert [span.name for span in seen] == ["approval refund"]
    ran = spans.one("execute_tool refund")
    assert [link.context.span_id for link in ran.links] == [seen[0].context.span_id]


def test_only_who_asked_says_where_a_request_is(instrument, timeline, ledger, sql, spans):
    instrument(rules=[ASKED])
    with pytest.raises(errors.ApprovalPending) as caught, workflow("w"):
        tool("refund")(lambda: "paid")()
    timeline("w")
    forged = (
        '[{"event": "approval", "id": "00000000-0000-0000-0000-000000000000", "trace_id": "ff", "span_id": "ff", '
        f'"detail": {{"approval_id": "{caught.value.approval_id}"}}}}]'
    )
    sql.execute("select spanledger_v1.record('default', %s)", (forged,))

    found = sql.execute("select trace_id, span_id from spanledger_v1.approvals").fetchone()
    assert found == ids(spans.one("approval refund"))


def test_budgets_before_and_after_are_on_the_span(instrument, spans):
    instrument(budgets=[Budget("refunds", Money(500, "EUR"))])
    with workflow("w"), tool_call("refund", {"n": 1}, cost=Money(10, "EUR")):
        pass
    attributes = spans.one("execute_tool refund").attributes
    assert attributes["spanledger.budget.before"] == ("500.00 EUR",)
    assert attributes["spanledger.budget.remaining"] == ("490.00 EUR",)


def test_with_nobody_to_tell_a_workflow_is_a_span_and_no_more(spans):
    with workflow("w") as run:
        run.step("nobody keeps this")
    assert len(spans.one("invoke_agent").events) == 1
