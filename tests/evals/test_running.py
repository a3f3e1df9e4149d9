"""A suite is run: every case is asked once, judged, kept, and none loses its neighbours."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
import time
from contextvars import ContextVar

import psycopg
import pytest
from opentelemetry import trace
from tests.ledger.proxies import Proxy

import spanledger
from spanledger import AsyncLedger, Config, Ledger
from spanledger.errors import CallInProgress, ConfigError, LedgerUnavailable
from spanledger.evals import Case, Result, Score, Suite, load, run, run_async, wait
from spanledger.ledger._evaluations import EvaluationStore

SUMS = [Case("one", [1, 2], expected=3), Case("two", [2, 2], expected=4), Case("three", [3, 3], expected=6)]


def exact(output, case):
    return output == case.expected


def add(numbers):
    return sum(numbers)


def outcomes(results):
    return {(one.case_id, one.evaluator): one.outcome for one in results.results}


def results_in(measured):
    return [event for event in measured.events() if event.event_name == "gen_ai.evaluation.result"]


# --- asking and judging


def test_a_run_is_kept_with_what_was_answered_and_who_judged_it(ledger):
    results = run(
        Suite("sums", SUMS, [exact]), lambda numbers: 4 if numbers == [2, 2] else 0, run_id="r", ledger=ledger
    )

    assert (results.state, results.cases, results.passed, results.failed, results.errors) == ("completed", 3, 1, 2, 0)
    assert results.pass_rate == 1 / 3
    assert load("r", ledger=ledger) == results
    assert {(one.case_id, one.output, one.score, one.label) for one in results.results} == {
        ("one", "0", 0.0, "fail"),
        ("two", "4", 1.0, "pass"),
        ("three", "0", 0.0, "fail"),
    }


def test_targets_and_evaluators_may_be_plain_or_coroutine_functions(ledger):
    async def slow_add(numbers):
        await asyncio.sleep(0)
        return sum(numbers)

    async def near(output, case):
        await asyncio.sleep(0)
        return Score(1 - abs(output - case.expected) / 10, explanation="near enough", label="near")

    for target in (add, slow_add):
        results = run(Suite("sums", SUMS, {"exact": exact, "near": near}), target, ledger=ledger)
        assert results.pass_rate == 1
        assert results.means() == {"exact": 1.0, "near": 1.0}
        assert {(one.label, one.explanation) for one in results.results if one.evaluator == "near"} == {
            ("near", "near enough")
        }


def test_it_is_awaited_where_a_loop_runs(ledger):
    async def main():
        with pytest.raises(ConfigError, match="await run_async"):
            run(Suite("sums", SUMS, [exact]), add, ledger=ledger)
        return await run_async(Suite("sums", SUMS, [exact]), add, ledger=ledger)

    assert asyncio.run(main()).pass_rate == 1


@pytest.mark.parametrize(
    ("said", "outcome", "score"),
    [
        (True, "passed", 1.0),
        (False, "failed", 0.0),
        (0.7, "passed", 0.7),
        (0.69, "failed", 0.69),
        (Score(0.1, passed=True), "passed", 0.1),
        (Score(passed=False), "failed", None),
        (None, "error", None),
        ("yes", "error", None),
        (float("nan"), "error", None),
        (Score(), "error", None),
    ],
)
def test_what_an_evaluator_returns_is_a_score_or_an_error_of_its_own(ledger, said, outcome, score):
    suite = Suite("s", [Case("c")], {"judge": lambda output, case: said}, passes_at=0.7)

    (result,) = run(suite, lambda _: "answer", ledger=ledger).results

    assert (result.outcome, result.score) == (outcome, score)


def test_an_evaluator_that_raises_is_an_error_and_no_failed_case(ledger):
    def picky(output, case):
        if case.id == "two":
            raise AssertionError("no idea")
        return True

    results = run(Suite("sums", SUMS, [exact, picky]), add, ledger=ledger)

    assert results.by_case == {"one": "passed", "two": "error", "three": "passed"}
    assert (results.pass_rate, results.errors) == (1.0, 1)
    (error,) = [one for one in results.results if one.outcome == "error"]
    assert error.error == {"type": "AssertionError", "message": "no idea"}


@pytest.mark.parametrize(
    "figure", [1.5e308, -1e16, 10**400, 10**5_000, float("inf")], ids=lambda figure: type(figure).__name__
)
@pytest.mark.parametrize("wrap", [Score, lambda figure: figure])
def test_a_figure_that_no_mean_can_hold_is_an_error_of_whoever_gave_it(ledger, sql, figure, wrap):
    results = run(Suite("sums", SUMS, {"odd": lambda output, case: wrap(figure)}), add, ledger=ledger)

    assert (results.state, results.errors, results.mean_score) == ("completed", 3, None)
    assert {(one.error or {})["type"] for one in results.results} == {"TypeError"}
    assert sql.execute("select errors from spanledger_v1.eval_runs").fetchall() == [(3,)]


class Closed(BaseException):
    pass


@pytest.mark.parametrize("kind", [ValueError, SystemExit, Closed, asyncio.CancelledError])
@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_target_that_raises_has_failed_its_case_alone(ledger, kind, asynchronous):
    def target(numbers):
        if numbers == [2, 2]:
            raise kind("no")
        return sum(numbers)

    async def awaited(numbers):
        return target(numbers)

    results = run(Suite("sums", SUMS, [exact]), awaited if asynchronous else target, ledger=ledger)

    assert outcomes(results) == {("one", "exact"): "passed", ("two", None): "failed", ("three", "exact"): "passed"}
    (failed,) = [one for one in results.results if one.case_id == "two"]
    assert failed.error is not None
    assert failed.error["type"] == kind.__name__


class Mute:
    def __repr__(self):
        raise RuntimeError("no words")


@pytest.mark.parametrize(
    "answer",
    [object(), "\0\ud800", {"a": {1, 2}}, b"\xff", float("nan"), "x" * 300_000, [[[]]], lambda: 0, [10**5_000], Mute()],
)
def test_whatever_a_target_answers_is_kept_in_some_way(ledger, answer):
    results = run(
        Suite("odd", [Case("c")], {"any": lambda output, case: output is answer}), lambda _: answer, ledger=ledger
    )

    (result,) = results.results
    assert result.outcome == "passed"
    assert 0 < len(result.output or "") <= 100_001


def test_at_most_so_many_cases_run_at_once_and_all_of_them_do(ledger):
    running, most, lock = set(), [], threading.Lock()

    def target(n):
        with lock:
            running.add(n)
            most.append(len(running))
        time.sleep(0.01)
        with lock:
            running.remove(n)

    suite = Suite("many", [Case(str(n), n) for n in range(12)], {"ok": lambda output, case: True})

    assert run(suite, target, ledger=ledger, concurrency=3).passed == 12
    assert max(most) <= 3


def test_a_target_that_takes_too_long_has_failed(ledger):
    async def target(numbers):
        await asyncio.sleep(60 if numbers == [2, 2] else 0)
        return sum(numbers)

    results = run(Suite("sums", SUMS, [exact]), target, ledger=ledger, case_timeout_s=0.2)

    assert results.by_case == {"one": "passed", "two": "failed", "three": "passed"}


def test_what_is_around_the_code_is_around_the_target(ledger):
    who: ContextVar[str] = ContextVar("who")
    who.set("ada")

    assert run(
        Suite("s", [Case("c")], {"ada": lambda output, case: output == "ada"}), lambda _: who.get(), ledger=ledger
    ).passed


# --- spans and events


def test_the_judged_span_is_the_agents_run_and_carries_the_result(ledger, spans, measured):
    def agent(numbers):
        with trace.get_tracer("agent").start_as_current_span("think"):
            return sum(numbers)

    said = Score(0.9, explanation="it adds up", response_id="r-1")
    suite = Suite("sums", SUMS[:1], {"exact": lambda output, case: said}, agent="adder")
    (result,) = run(suite, agent, run_id="r", ledger=ledger).results

    span = spans.one("invoke_agent adder")
    assert result.trace_id == trace.format_trace_id(span.context.trace_id)
    assert result.span_id == trace.format_span_id(span.context.span_id)
    assert spans.one("think").parent.span_id == span.context.span_id
    (event,) = results_in(measured)
    assert (event.trace_id, event.span_id) == (span.context.trace_id, span.context.span_id)
    assert dict(event.attributes) == {
        "gen_ai.evaluation.name": "exact",
        "gen_ai.evaluation.score.value": 0.9,
        "gen_ai.evaluation.score.label": "pass",
        "gen_ai.evaluation.explanation": "it adds up",
        "gen_ai.response.id": "r-1",
        "spanledger.eval.suite": "sums",
        "spanledger.eval.case": "one",
        "spanledger.eval.run": "r",
        "spanledger.eval.outcome": "passed",
    }


def test_an_error_of_who_judges_is_an_event_as_well(ledger, measured):
    run(Suite("sums", SUMS[:1], {"broken": lambda output, case: 1 / 0}), add, ledger=ledger)

    (event,) = results_in(measured)
    assert event.attributes["error.type"] == "ZeroDivisionError"
    assert event.attributes["spanledger.eval.outcome"] == "error"
    assert "gen_ai.evaluation.score.value" not in event.attributes


def test_every_case_of_every_run_has_side_effects_of_its_own(dsn, ledger):
    spanledger.instrument(Config(dsn=dsn), libraries=[])
    paid = []

    @spanledger.tool
    def pay(order):
        paid.append(order)
        return order

    suite = Suite("pays", [Case("a", 1), Case("b", 1)], {"paid": lambda output, case: output == 1})

    assert [run(suite, pay, ledger=ledger).passed for _ in range(2)] == [2, 2]
    assert paid == [1, 1, 1, 1]


def test_a_tenant_that_is_erased_keeps_how_it_was_judged_and_no_words(ledger):
    suite = Suite("s", [Case("a"), Case("b")], {"x": lambda output, case: Score(1.0, explanation="because")})
    run(suite, {None: "secret"}.get, run_id="r", ledger=ledger)

    ledger.erase(tenant="default", by="privacy")

    results = load("r", ledger=ledger)
    assert results.passed == 2
    assert {(one.output, one.explanation) for one in results.results} == {(None, None)}


def test_the_ledgers_own_view_counts_as_the_library_does(ledger, sql):
    said = {"p": True, "f": False}
    judges = {"one": lambda output, case: said[output[0]], "two": lambda output, case: said[output[1]]}
    suite = Suite("s", [Case(name, name) for name in ("pp", "pf", "px", "fx", "xx")], judges)
    results = run(suite, str, run_id="r", ledger=ledger)

    seen = sql.execute("select passed, failed, errors, pass_rate from spanledger_v1.eval_runs").fetchone()
    assert seen == (results.passed, results.failed, results.errors, results.pass_rate) == (1, 2, 2, 1 / 3)


# --- going on


def test_a_run_that_is_interrupted_goes_on_with_what_was_not_judged(ledger):
    asked = []

    def target(numbers):
        asked.append(numbers)
        if numbers == [2, 2] and asked.count([2, 2]) == 1:
            raise KeyboardInterrupt
        return sum(numbers)

    suite = Suite("sums", SUMS, [exact])
    with pytest.raises(KeyboardInterrupt):
        run(suite, target, run_id="r", ledger=ledger, concurrency=1)
    assert load("r", ledger=ledger).state == "interrupted"
    results = run(suite, target, run_id="r", ledger=ledger, concurrency=1)

    assert (results.state, results.passed) == ("completed", 3)
    assert asked == [[1, 2], [2, 2], [2, 2], [3, 3]]


def test_a_completed_run_is_not_run_again(ledger):
    suite = Suite("sums", SUMS, [exact])
    first = run(suite, add, run_id="r", ledger=ledger)

    assert run(suite, lambda _: pytest.fail("ran"), run_id="r", ledger=ledger) == first


KILLED = """
import sys, time
from spanledger.evals import Case, Suite, run

def target(n):
    if n == 2:
        print("stuck", flush=True)
        time.sleep(60)
    return n

suite = Suite("s", [Case(str(n), n) for n in range(4)], {"ok": lambda output, case: True})
run(suite, target, run_id="r", concurrency=1)
"""


def test_a_run_whose_process_was_killed_is_interrupted_and_can_be_taken_over(ledger, dsn, sql):
    process = subprocess.Popen([sys.executable, "-c", KILLED], env={**os.environ, "SPANLEDGER_DSN": dsn},
                               stdout=subprocess.PIPE, text=True)  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "stuck\n"
        # Each case is kept before the next is asked.
        assert len(load("r", ledger=ledger).by_case) == 2
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stdout.close()
    suite = Suite("s", [Case(str(n), n) for n in range(4)], {"ok": lambda output, case: True})
    with pytest.raises(CallInProgress, match="it can be taken over in"):
        run(suite, lambda n: n, run_id="r", ledger=ledger)
    sql.execute("update spanledger.eval_run set alive_until = clock_timestamp()")

    assert load("r", ledger=ledger).state == "interrupted"
    asked = []
    results = run(suite, asked.append, run_id="r", ledger=ledger, concurrency=1)
    assert (results.state, results.passed, asked) == ("completed", 4, [2, 3])


def test_whoever_was_taken_over_keeps_nothing_more(ledger, sql):
    def target(n):
        sql.execute("update spanledger.eval_run set runner = gen_random_uuid()")
        return n

    with pytest.raises(ConfigError, match="another process has taken over"):
        run(Suite("s", [Case("c")], {"ok": lambda output, case: True}), target, run_id="r", ledger=ledger)
    assert load("r", ledger=ledger).results == ()


def test_another_suite_is_not_run_under_the_same_id(ledger):
    run(Suite("sums", SUMS, [exact]), add, run_id="r", ledger=ledger)

    for other in (Suite("sums", SUMS[:2], [exact]), Suite("other", SUMS, [exact])):
        with pytest.raises(ConfigError, match="begin a run of another id"):
            run(other, add, run_id="r", ledger=ledger)


def test_whoever_waits_is_told_when_it_has_ended(ledger):
    asked, go = threading.Event(), threading.Event()

    def target(_):
        asked.set()
        return go.wait(30)

    suite = Suite("s", [Case("c")], {"ok": lambda output, case: True})
    thread = threading.Thread(target=run, args=(suite, target), kwargs={"run_id": "r", "ledger": ledger})
    thread.start()
    assert asked.wait(30)
    with pytest.raises(TimeoutError, match="0 of 1 cases are judged"):
        wait("r", timeout_s=0, ledger=ledger)
    go.set()

    assert wait("r", timeout_s=30, ledger=ledger).state == "completed"
    thread.join()


def test_results_wait_for_a_ledger_that_is_away_for_a_while(dsn, ledger, sql):
    given = psycopg.conninfo.conninfo_to_dict(dsn)
    asked = []

    with Proxy(f"{given['host']}/.s.PGSQL.{given.get('port', 5432)}") as proxy:

        def target(numbers):
            asked.append(numbers)
            away = numbers == [2, 2]
            proxy.limits = (lambda: (0, 0)) if away else None
            if away:
                proxy.cut_all()
            return sum(numbers)

        with Ledger(config=Config(dsn=proxy.before(dsn), ledger_timeout_s=1)) as behind:
            results = run(Suite("sums", SUMS, [exact]), target, run_id="r", ledger=behind, concurrency=1)

    assert (results.state, results.passed) == ("completed", 3)
    assert asked == [[1, 2], [2, 2], [3, 3]]


def test_an_async_ledger_will_do(dsn):
    async def main():
        async with AsyncLedger(config=Config(dsn=dsn)) as ledger:
            return await run_async(Suite("sums", SUMS, [exact]), add, ledger=ledger)

    assert asyncio.run(main()).pass_rate == 1


def test_without_a_ledger_nothing_is_run():
    with (
        Ledger(config=Config(dsn="postgresql://nobody@127.0.0.1:1/none", ledger_timeout_s=0.5)) as gone,
        pytest.raises(LedgerUnavailable),
    ):
        run(Suite("sums", SUMS, [exact]), lambda _: pytest.fail("ran"), ledger=gone)


# --- what cannot be


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Suite("", SUMS, [exact]), "has a name"),
        (lambda: Suite("s", [], [exact]), "a case and an evaluator"),
        (lambda: Suite("s", SUMS, []), "a case and an evaluator"),
        (lambda: Suite("s", [*SUMS, SUMS[0]], [exact]), "two cases have the id 'one'"),
        (lambda: Suite("s", SUMS, [exact, exact]), "two evaluators have one name"),
        (lambda: Suite("s", SUMS, {"x": 1}), "callables with a name"),
        (lambda: Case(""), "id of a case"),
        (lambda: Case("a\0"), "id of a case"),
        (lambda: run(Suite("s", SUMS, [exact]), add, concurrency=0), "concurrency is between 1 and 256"),
    ],
)
def test_what_makes_no_sense_is_said(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make()


def test_a_suites_version_is_the_same_in_every_process_and_another_where_something_else_is_asked():
    suite = Suite("s", [Case("a", {"b": 1, "a": object()}), Case("b")], [exact])

    assert suite.version == Suite("s", [Case("b"), Case("a", {"a": object(), "b": 1})], [exact]).version
    assert suite.version != Suite("s", [Case("a"), Case("b")], [exact]).version
    assert suite.version != Suite("s", suite.cases, [exact], passes_at=0.6).version


def test_cases_are_chosen_by_tags():
    suite = Suite("s", [Case("a", tags=("x",)), Case("b", tags=("x", "y")), Case("c")], [exact])

    assert [case.id for case in suite.only("y").cases] == ["b"]
    with pytest.raises(ConfigError, match="a case and an evaluator"):
        suite.only("z")


@pytest.mark.parametrize("run_id", ["r" * 501, "é" * 251, "  ", "r\0"])
def test_a_run_is_called_something_that_the_ledger_can_hold_before_anything_is_asked(ledger, run_id):
    with pytest.raises(ConfigError, match="run_id of a run"):
        run(Suite("sums", SUMS, [exact]), lambda _: pytest.fail("ran"), run_id=run_id, ledger=ledger)


def test_a_suite_is_called_something_that_can_be_found():
    with pytest.raises(ConfigError, match="at most 500 bytes"):
        Suite("s" * 501, SUMS, [exact])


def test_more_results_than_are_taken_at_once_are_kept_one_batch_after_another(ledger):
    """As they have gathered while the ledger was away."""
    store, cases = EvaluationStore(ledger), [Case(f"{n}", n) for n in range(1200)]
    assert store.begin("r", Suite("many", cases, [exact])) == set()

    store.keep("r", [Result(case.id, "exact", "passed", score=1.0, label="pass") for case in cases], "completed")

    results = load("r", ledger=ledger)
    assert (results.state, len(results.results)) == ("completed", 1200)
