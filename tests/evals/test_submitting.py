"""An evaluation was run elsewhere, and its results are handed in: each once, and none loses its neighbours."""

from __future__ import annotations

import json
import threading

import psycopg
import pytest

from spanledger import Config, Ledger
from spanledger.errors import ConfigError, LedgerUnavailable, SpanledgerError
from spanledger.evals import Case, Submission, Suite, compare, latest, load, run, submit, wait

# As provenant's SDK words them.
THEIRS = [
    {"caseId": "a", "actualOutput": {"answer": 3}, "score": 90, "passed": True, "latencyMs": 120, "tokenCount": 40},
    {"caseId": "b", "actualOutput": "no", "score": 20, "passed": False, "metadata": {"model": "m"}},
    {"caseId": "c", "error": "timed out"},
]


def outcomes(results):
    return {(one.case_id, one.evaluator): one.outcome for one in results.results}


def results_in(measured):
    return [event for event in measured.events() if event.event_name == "gen_ai.evaluation.result"]


def test_what_another_system_calls_results_is_kept_as_it_was_judged_there(ledger):
    submission = Submission("refunds", "r", agent="support", agent_version="1.4", environment="staging")

    done = submit(submission, THEIRS, ledger=ledger)

    assert (done.created, done.known, done.rejected) == (3, 0, ())
    results = done.results
    assert results == load("r", ledger=ledger)
    assert (results.state, results.cases, results.passed, results.failed, results.errors) == ("completed", 3, 1, 2, 0)
    assert (results.agent, results.agent_version, results.environment, results.elsewhere) == (
        *("support", "1.4", "staging"),
        True,
    )
    assert (results.pass_rate, results.mean_score) == (1 / 3, 55)
    a, b, c = results.results
    assert (a.output, a.duration_s, a.tokens, a.label) == ('{"answer":3}', 0.12, 40, "pass")
    assert (b.metadata, b.label) == ({"model": "m"}, "fail")
    assert (c.outcome, c.error) == ("failed", {"type": "error", "message": "timed out"})


def test_what_is_handed_in_again_is_there_once_and_as_it_was_first(ledger, measured):
    submission = Submission("refunds", "r")
    submit(submission, THEIRS[:2], complete=False, ledger=ledger)

    again = [{"caseId": "a", "passed": False}, *THEIRS]
    done = submit(submission, again, ledger=ledger)

    assert (done.created, done.known) == (1, 3)
    assert done.results.by_case == {"a": "passed", "b": "failed", "c": "failed"}
    assert submit(submission, THEIRS, ledger=ledger).known == 3
    assert len(results_in(measured)) == 3


def test_results_come_in_parts_and_whoever_waits_is_told_at_the_last(ledger):
    submission = Submission("refunds", "r", passes_at=0.5)
    submit(submission, [{"case_id": "a", "score": 0.5}], complete=False, ledger=ledger)
    with pytest.raises(TimeoutError, match="1 of 1 cases are judged"):
        wait("r", timeout_s=0, ledger=ledger)

    submit(submission, [{"case_id": "b", "score": 0.4}], ledger=ledger)

    assert wait("r", timeout_s=30, ledger=ledger).by_case == {"a": "passed", "b": "failed"}


def test_a_run_that_is_completed_takes_no_case_more(ledger):
    submit(Submission("refunds", "r"), THEIRS, ledger=ledger)

    done = submit(Submission("refunds", "r"), [*THEIRS, {"case_id": "d", "passed": True}], ledger=ledger)

    assert (done.created, done.known, [one.n for one in done.rejected]) == (0, 3, [3])
    assert "completed" in done.rejected[0].why
    assert done.results.passed == 1


GOOD = {"case_id": "good", "passed": True}


class Unreadable(dict):
    def items(self):
        raise RuntimeError("it went away")


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ({}, "of which case"),
        ({"case_id": "  ", "passed": True}, "of which case"),
        ({"case_id": "x"}, "says whether it passed"),
        ({"case_id": "x", "score": 0.9}, "says whether it passed"),
        ({"case_id": "x", "passed": "yes"}, "passed is true or false"),
        ({"case_id": "x", "passed": 1}, "passed is true or false"),
        ({"case_id": "x", "score": float("nan")}, "finite number"),
        ({"case_id": "x", "passed": True, "score": "high"}, "finite number"),
        ({"case_id": "x", "passed": True, "score": 1.5e308}, "finite number"),
        ({"case_id": "x", "passed": True, "score": 10**400}, "finite number"),
        ({"case_id": "x", "passed": True, "weight": 1e308}, "finite number"),
        ({"case_id": "x", "passed": True, "weight": 1e-300}, "a weight is more than 0"),
        ({"case_id": "x", "passed": True, "duration_s": -1}, "a duration is not less than 0"),
        ({"case_id": "x", "passed": True, "latencyMs": float("-inf")}, "finite number"),
        ({"case_id": "x" * 8_000, "passed": True}, "case_id has at most 1000 bytes"),
        ({"case_id": "x", "passed": True, "evaluator": "é" * 300}, "evaluator has at most 500 bytes"),
        ({"case_id": 10**5_000, "passed": True}, "integer string conversion"),
        (Unreadable(case_id="x"), "it went away"),
        ({"case_id": "x", "passed": True, "weight": 0}, "a weight is more than 0"),
        ({"case_id": "x", "passed": True, "tokens": -1}, "tokens_check"),
        ({"case_id": "x", "passed": True, "tags": "slow"}, "tags are a list"),
        ({"case_id": "x", "passed": True, "trace_id": "here"}, "hexadecimal digits"),
        ({"case_id": "x", "passed": True, "verdict": "good"}, "'verdict' is not known"),
        ("x passed", "an object of names and values"),
        (None, "an object of names and values"),
        (ValueError("it is not JSON"), "it is not JSON"),
    ],
)
def test_one_bad_result_never_loses_its_neighbours(ledger, bad, why):
    done = submit(Submission("s", "r"), [GOOD, bad, GOOD | {"case_id": "also good"}], ledger=ledger)

    assert (done.created, [one.n for one in done.rejected]) == (2, [1])
    assert why in done.rejected[0].why
    assert done.results.by_case == {"also good": "passed", "good": "passed"}


@pytest.mark.parametrize("odd", ["\0\ud800", object(), float("inf"), {1: {2, 3}}, "x" * 300_000, b"\xff", [10**2_000]])
def test_whatever_a_target_answered_is_kept_in_some_way(ledger, odd):
    given = GOOD | {"output": odd, "metadata": {"odd": odd}, "explanation": odd, "error": odd}

    done = submit(Submission("s", "r"), [given], ledger=ledger)

    assert done.created == 1
    (result,) = done.results.results
    assert (result.outcome, 0 < len(result.output or "") <= 100_001) == ("passed", True)


def test_an_integer_that_python_does_not_write_in_decimal_is_kept_in_some_way(ledger):
    done = submit(Submission("s", "r"), [GOOD | {"metadata": {"x": 10**5_000}, "output": 10**5_000}], ledger=ledger)

    assert (done.created, (done.results.results[0].metadata or {})["x"][:2]) == (1, "0x")


def test_an_error_of_a_named_evaluator_is_one_of_theirs(ledger):
    given = [
        {"case_id": "a", "evaluator": "judge", "error": "no idea"},
        {"case_id": "a", "evaluator": "exact", "passed": True},
    ]

    results = submit(Submission("s", "r"), given, ledger=ledger).results

    assert outcomes(results) == {("a", "judge"): "error", ("a", "exact"): "passed"}
    assert (results.errors, results.pass_rate) == (1, None)


def test_many_results_go_in_parts_and_each_keeps_its_place(ledger):
    given = [{"case_id": str(n), "passed": True} if n % 7 else {"case_id": str(n)} for n in range(1_100)]

    done = submit(Submission("s", "r"), given, ledger=ledger)

    assert [one.n for one in done.rejected] == [n for n in range(1_100) if n % 7 == 0]
    assert (done.created, done.results.passed, done.results.state) == (942, 942, "completed")


def test_no_results_complete_a_run_as_well(ledger):
    results = submit(Submission("s", "r"), [], ledger=ledger).results

    assert (results.state, results.cases, results.pass_rate) == ("completed", 0, None)


def test_a_suite_says_what_its_cases_weigh_and_what_passes(ledger):
    cases = [Case("a", weight=3, tags=("refund",)), Case("b"), Case("c")]
    suite = Suite("s", cases, {"judge": lambda output, case: True}, passes_at=0.8, agent="support")
    given = [
        {"case_id": "a", "score": 0.9},
        {"case_id": "b", "score": 0.7},
        {"case_id": "other", "score": 0.8, "weight": 2},
    ]

    results = submit(Submission(suite, "r"), given, ledger=ledger).results

    assert {one.case_id: (one.weight, one.tags) for one in results.results} == {
        "a": (3, ("refund",)), "b": (1, ()), "other": (2, ()),
    }  # fmt: skip
    assert (results.cases, results.suite_version, results.agent) == (3, suite.version, "support")
    assert (results.pass_rate, results.weighted_pass_rate) == (2 / 3, 5 / 6)
    assert results.mean_score == pytest.approx(0.8)
    assert results.weighted_mean_score == pytest.approx((3 * 0.9 + 0.7 + 2 * 0.8) / 6)
    assert results.only("refund").pass_rate == 1


def test_the_ledgers_own_view_counts_by_weight_as_the_library_does(ledger, sql):
    given = [
        {"case_id": "a", "evaluator": "x", "passed": True, "score": 1, "weight": 3},
        {"case_id": "a", "evaluator": "y", "passed": True, "score": 0.5, "weight": 3},
        {"case_id": "b", "evaluator": "x", "passed": False, "score": 0, "weight": 1.5},
        {"case_id": "c", "evaluator": "x", "error": "no idea", "weight": 9},
    ]
    results = submit(Submission("s", "r"), given, ledger=ledger).results

    seen = sql.execute(
        "select cases, passed, failed, errors, pass_rate, weighted_pass_rate, mean_score, weighted_mean_score"
        " from spanledger_v1.eval_runs"
    ).fetchone()
    names = (
        "cases",
        "passed",
        "failed",
        "errors",
        "pass_rate",
        "weighted_pass_rate",
        "mean_score",
        "weighted_mean_score",
    )
    assert seen == pytest.approx([getattr(results, name) for name in names])
    assert seen == pytest.approx((3, 1, 1, 1, 0.5, 3 / 4.5, 0.375, 2.25 / 4.5))


def test_a_run_of_our_own_knows_the_weights_of_its_cases(ledger):
    cases = [Case("a", 1, weight=4, tags=("x",)), Case("b", 0)]
    suite = Suite("s", cases, {"judge": lambda output, case: float(output)})

    results = run(suite, lambda n: n, ledger=ledger)

    assert (results.pass_rate, results.weighted_pass_rate, results.only("x").passed) == (0.5, 0.8, 1)


BIG = 1.5e308


@pytest.mark.parametrize(("score", "weight"), [(BIG, 1), (-BIG, 1), (1, BIG), (1e-320, 1e-320), (float("nan"), 1)])
def test_a_figure_that_is_there_from_before_there_was_a_bound_breaks_no_run(ledger, sql, typed, score, weight):
    given = [{"case_id": case, "passed": True, "score": 0.5} for case in "abc"]
    submit(Submission("s", "sound"), given, ledger=ledger)
    submit(Submission("s", "odd"), given, ledger=ledger)
    sql.execute("update spanledger.eval_result set score = %s, weight = %s where run_id = 'odd'", (score, weight))

    code, out, _ = typed("evals")

    assert code == 0
    assert "sound" in out
    assert typed("evals", "show", "odd")[0] == 0
    means = sql.execute(
        "select weighted_pass_rate, mean_score, weighted_mean_score from spanledger_v1.eval_runs where id = 'odd'"
    ).fetchone()
    results = load("odd", ledger=ledger)
    assert means == pytest.approx((results.weighted_pass_rate, results.mean_score, results.weighted_mean_score))
    assert results.weighted_pass_rate == 1


# --- whose run it is


@pytest.mark.parametrize(
    "other",
    [
        Submission("another", "r"),
        Submission("s", "r", agent="billing"),
        Submission("s", "r", agent_version="2"),
        Submission("s", "r", environment="prod"),
        Submission(Suite("s", [Case("a")], {"x": bool}), "r"),
    ],
)
def test_results_of_something_else_are_not_filed_under_a_run(ledger, other):
    submit(Submission("s", "r", agent="support", agent_version="1"), [GOOD], complete=False, ledger=ledger)

    with pytest.raises(ConfigError, match="hand in under another id"):
        submit(other, [GOOD], ledger=ledger)
    assert load("r", ledger=ledger).state == "running"


def test_what_was_said_of_a_run_is_not_said_again(ledger):
    submit(Submission("s", "r", agent="support"), [], complete=False, ledger=ledger)

    assert submit(Submission(None, "r"), [GOOD], ledger=ledger).results.agent == "support"
    with pytest.raises(ConfigError, match="who begins it says of which suite it is"):
        submit(Submission(None, "another"), [GOOD], ledger=ledger)


def test_a_run_that_was_made_here_takes_nothing_from_elsewhere_nor_the_other_way_round(ledger):
    suite = Suite("s", [Case("a", 1)], {"judge": lambda output, case: True})
    run(suite, str, run_id="here", ledger=ledger)
    submit(Submission(suite, "there"), [GOOD], ledger=ledger)

    with pytest.raises(ConfigError, match="was made here"):
        submit(Submission(suite, "here"), [GOOD], ledger=ledger)
    with pytest.raises(ConfigError, match="begin a run of another id"):
        run(suite, str, run_id="there", ledger=ledger)


def test_processes_that_hand_in_at_once_lose_nothing(ledger):
    def hand_in(part):
        mine = [{"case_id": f"{part}-{n}", "passed": True} for n in range(50)]
        with Ledger(config=ledger.config) as own:
            submit(Submission("s", "r"), [*mine, GOOD], complete=False, ledger=own)

    threads = [threading.Thread(target=hand_in, args=(part,)) for part in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert submit(Submission("s", "r"), [], ledger=ledger).results.passed == 201


def test_a_run_of_which_nothing_more_is_heard_is_interrupted_and_goes_on_when_more_comes(ledger, sql):
    submit(Submission("s", "r"), [GOOD], complete=False, ledger=ledger)
    sql.execute("update spanledger.eval_run set alive_until = clock_timestamp()")
    assert load("r", ledger=ledger).state == "interrupted"

    submit(Submission("s", "r"), [GOOD | {"case_id": "more"}], complete=False, ledger=ledger)

    assert load("r", ledger=ledger).state == "running"


def test_without_a_ledger_whoever_hands_in_is_told():
    with (
        Ledger(config=Config(dsn="postgresql://nobody@127.0.0.1:1/none", ledger_timeout_s=0.5)) as gone,
        pytest.raises(LedgerUnavailable),
    ):
        submit(Submission("s", "r"), [GOOD], ledger=gone)


def test_versions_and_environments_come_from_the_configuration(ledger_with):
    ledger = ledger_with(agent_version="2.0", environment="prod")
    suite = Suite("s", [Case("a", 1)], {"judge": lambda output, case: True})

    ran = run(suite, str, ledger=ledger)
    handed_in = submit(Submission("s", "r"), [GOOD], ledger=ledger).results

    assert {(one.agent_version, one.environment) for one in (ran, handed_in)} == {("2.0", "prod")}


def test_the_newest_run_by_a_version_is_found(ledger):
    for run_id, version in (("r1", "1.0"), ("r2", "2.0"), ("r3", "1.0")):
        submit(Submission("s", run_id, agent_version=version), [GOOD], ledger=ledger)
    submit(Submission("s", "r4", agent_version="1.0"), [GOOD], complete=False, ledger=ledger)

    assert latest("s", ledger=ledger).run_id == "r3"
    assert latest("s", agent_version="2.0", ledger=ledger).run_id == "r2"
    assert compare(latest("s", agent_version="1.0", ledger=ledger), load("r2", ledger=ledger)).change == 0
    with pytest.raises(SpanledgerError, match=r"no run of suite 's' by agent version 3\.0 is completed"):
        latest("s", agent_version="3.0", ledger=ledger)


# --- events


def test_an_event_names_the_span_that_was_judged_and_who_judged_it(ledger, measured):
    where = {"trace_id": "0af7651916cd43dd8448eb211c80319c", "span_id": "b7ad6b7169203331"}
    given = [{"case_id": "a", "passed": True, "score": 0.9, "explanation": "it adds up", **where}]

    submit(Submission("s", "r"), given, ledger=ledger)

    (event,) = results_in(measured)
    assert (f"{event.trace_id:032x}", f"{event.span_id:016x}") == tuple(where.values())
    assert dict(event.attributes) == {
        "gen_ai.evaluation.name": "submitted",
        "gen_ai.evaluation.score.value": 0.9,
        "gen_ai.evaluation.score.label": "pass",
        "gen_ai.evaluation.explanation": "it adds up",
        "spanledger.eval.suite": "s",
        "spanledger.eval.case": "a",
        "spanledger.eval.run": "r",
        "spanledger.eval.outcome": "passed",
    }


# --- from another language


def test_another_language_hands_in_by_a_function_of_sql(ledger, sql):
    results = [
        {"case_id": "a", "score": 0.9, "output": {"answer": [1]}, "error": None},
        {"case_id": "b", "error": "no answer"},
        {"case_id": "c", "passed": "perhaps"},
        7,
        {"case_id": "d" * 8_000, "passed": True},
        {"case_id": "e", "passed": True, "evaluator": "e" * 501},
        {"case_id": "f", "score": 1.5e308},
        {"case_id": "f", "score": "NaN"},
        {"case_id": "f", "passed": True, "weight": 1e16},
        {"case_id": "f", "passed": True, "duration_s": "NaN"},
        {"case_id": "f", "passed": True, "duration_s": "-Infinity"},
    ]
    item = {"id": "r", "suite": "s", "passes_at": 0.5, "results": results, "complete": True}

    (said,) = sql.execute("select spanledger_v1.eval_submit('default', %s)", (json.dumps(item),)).fetchone()

    assert said["kept"] == [
        {"n": 0, "outcome": "passed", "label": "pass"},
        {"n": 1, "outcome": "failed", "label": "fail"},
    ]
    assert (said["state"], said["ended"], [one["n"] for one in said["rejected"]]) == (
        *("completed", True),
        list(range(2, 11)),
    )
    found = load("r", ledger=ledger)
    assert (found.by_case, found.results[0].output) == ({"a": "passed", "b": "failed"}, '{"answer": [1]}')


RUN = {"id": "r", "suite": "s", "suite_version": "1", "cases": 1, "runner": "0" * 32, "lease_s": 60}


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"id": "r" * 501}, "the id of a run of evaluations, and the name of its suite, have 1 to 500 bytes"),
        ({"id": " "}, "the id of a run of evaluations, and the name of its suite, have 1 to 500 bytes"),
        ({"suite": "s" * 501}, "the id of a run of evaluations, and the name of its suite, have 1 to 500 bytes"),
        ({"agent": "a" * 513}, "agent, agent_version and environment have at most 512 characters"),
        ({"cases": 0}, "a suite has 1 to 1000000 cases"),
        ({"cases": 1_000_001}, "a suite has 1 to 1000000 cases"),
        ({"results": [{"case_id": "a", "passed": True}] * 501}, "at most 500 results are kept at once, not 501"),
        ({"results": {"case_id": "a"}}, "results are a list"),
    ],
)
@pytest.mark.parametrize("function", ["eval_begin", "eval_submit", "eval_record"])
def test_what_a_program_in_another_language_says_of_a_run_has_bounds(ledger, sql, function, said, why):
    if function == "eval_record":
        sql.execute("select spanledger_v1.eval_begin('default', %s)", (json.dumps(RUN),))
    if (function == "eval_record" and "results" not in said) or (function == "eval_begin" and "results" in said):
        pytest.skip("it does not take that")

    with pytest.raises(psycopg.DataError, match=why):
        sql.execute(f"select spanledger_v1.{function}('default', %s)", (json.dumps(RUN | said),))


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ({"case_id": ""}, "a result says by case_id of which case it is"),
        ({"case_id": "a" * 1001}, "a case_id has at most 1000 bytes, and the name of an evaluator 500"),
        ({"evaluator": "e" * 501}, "a case_id has at most 1000 bytes, and the name of an evaluator 500"),
        ({"score": 1.5e308}, "a score is a finite number"),
        ({"score": "NaN"}, "a score is a finite number"),
        ({"weight": 0}, "a weight is more than 0"),
        ({"duration_s": "NaN"}, "a duration is a finite number"),
    ],
)
def test_a_result_of_a_run_here_has_the_bounds_of_one_from_elsewhere(ledger, sql, said, why):
    sql.execute("select spanledger_v1.eval_begin('default', %s)", (json.dumps(RUN),))
    result = {"case_id": "a", "evaluator": "e", "outcome": "passed"} | said

    with pytest.raises(psycopg.DataError, match=why):
        sql.execute("select spanledger_v1.eval_record('default', %s)", (json.dumps(RUN | {"results": [result]}),))


def test_an_answer_of_any_length_is_cut_where_a_run_here_is_recorded(ledger, sql):
    sql.execute("select spanledger_v1.eval_begin('default', %s)", (json.dumps(RUN),))
    result = {"case_id": "a", "evaluator": "e", "outcome": "passed", "output": "x" * 200_000}
    sql.execute("select spanledger_v1.eval_record('default', %s)", (json.dumps(RUN | {"results": [result]}),))

    assert sql.execute("select length(output) from spanledger.eval_result").fetchone() == (100_001,)


def test_only_an_evaluator_hands_in_and_only_to_a_run_that_it_began(dsn, sql):
    for kind in ("agent", "evaluator"):
        sql.execute(f"create role {kind}_{id(dsn)} login")
        sql.execute("select spanledger_v1.bind_role(%s, %s, 'default', 'test')", (f"{kind}_{id(dsn)}", kind))
    item = json.dumps({"id": "r", "suite": "s", "results": [GOOD]})
    asks = "select spanledger_v1.eval_submit('default', %s)"
    try:
        with psycopg.connect(dsn, user=f"evaluator_{id(dsn)}", autocommit=True) as evaluator:
            assert evaluator.execute(asks, (item,)).fetchone()[0]["known"] == 0
        with (
            psycopg.connect(dsn, user=f"agent_{id(dsn)}", autocommit=True) as agent,
            pytest.raises(psycopg.errors.InsufficientPrivilege),
        ):
            agent.execute(asks, (item,))
    finally:
        for kind in ("agent", "evaluator"):
            sql.execute(f"drop owned by {kind}_{id(dsn)}")
            sql.execute(f"drop role {kind}_{id(dsn)}")


# --- at the command line


@pytest.mark.parametrize("lines", [True, False])
def test_a_file_is_handed_in(tmp_path, typed, lines):
    file = tmp_path / "results"
    text = "\n".join(json.dumps(one) for one in THEIRS) if lines else json.dumps(THEIRS)
    file.write_text(text)

    code, out, _ = typed("evals", "submit", str(file), "--suite", "refunds", "--run", "r", "--agent-version", "1.4")

    assert code == 0
    assert out.splitlines()[:4] == [
        "3 new, 0 known before, 0 rejected",
        "refunds  run r  completed  33.3% passed",
        "run elsewhere, version 1.4",
        "3 of 3 cases: 1 passed, 2 failed, 0 not judged",
    ]
    assert typed("evals", "submit", str(file), "--suite", "refunds", "--run", "r")[1].startswith(
        "0 new, 3 known before"
    )
    assert "version 1.4" in typed("evals")[1]


def test_a_file_may_say_what_was_run(tmp_path, typed):
    file = tmp_path / "run.json"
    file.write_text(json.dumps({"suite": "refunds", "run_id": "r", "agent": "support", "results": THEIRS}))

    code, out, _ = typed("evals", "submit", str(file), "--json")

    said = json.loads(out)
    assert (code, said["created"], said["suite"], said["run_id"], said["agent"]) == (0, 3, "refunds", "r", "support")


def test_a_line_that_cannot_be_read_is_said_and_costs_no_other(tmp_path, typed, monkeypatch):
    file = tmp_path / "results.jsonl"
    file.write_text('{"case_id": "a", "passed": true}\n{"case_id": \n{"case_id": "b", "score": 0.1}\n')

    code, out, _ = typed("evals", "submit", str(file), "--suite", "s", "--passes-at", "0.5", "--open")

    assert code == 1
    assert out.startswith("2 new, 0 known before, 1 rejected\n  result 2: it is not JSON")
    assert "running" in out


def test_a_file_of_another_system_may_begin_with_a_mark_and_have_line_separators_in_its_texts(tmp_path, typed):
    file = tmp_path / "results.jsonl"
    file.write_bytes(
        '\ufeff{"case_id": "a", "passed": true, "output": "one\u2028two\x85"}\r\n{"case_id": "b", "passed": true}\r\n'
        '{"case_id": "c", "passed": true, "score": 1'.encode()
        + b"0" * 400
        + b"}\r\n"
    )

    code, out, _ = typed("evals", "submit", str(file), "--suite", "s")

    assert code == 1
    assert out.startswith("2 new, 0 known before, 1 rejected\n  result 3: a score, weight")


@pytest.mark.parametrize(
    "passes_at",
    ["0.5", 10**400, 10**5_000, float("inf"), float("nan"), True, 1e16],
    ids=lambda value: type(value).__name__,
)
def test_what_passes_is_a_figure(passes_at):
    for make in (
        lambda: Submission("s", "r", passes_at=passes_at),
        lambda: Suite("s", [Case("a")], {"x": bool}, passes_at=passes_at),
    ):
        with pytest.raises(ConfigError, match="passes_at is a finite number"):
            make()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Submission("s", "r" * 501),
        lambda: Case("é" * 501),
        lambda: Suite("s", [Case("a")], {"x" * 501: bool}),
        lambda: Case("a", weight=10**5_000),
        lambda: Case("a", weight=1e-16),
    ],
)
def test_what_would_not_fit_is_said_at_once(make):
    with pytest.raises(ConfigError, match=r"has at most|more than 0"):
        make()


@pytest.mark.parametrize(("rate", "code"), [("0.3", 0), ("0.4", 1)])
def test_too_few_that_passed_are_an_exit_code(tmp_path, typed, rate, code):
    file = tmp_path / "results.json"
    file.write_text(json.dumps(THEIRS))

    assert typed("evals", "submit", str(file), "--suite", "s", "--run", "r", "--fail-under", rate)[0] == code
    assert typed("evals", "show", "r", "--fail-under", rate)[0] == code


def test_two_versions_are_compared_by_their_newest_runs(ledger, typed):
    for run_id, version, passed in (("r1", "1.0", True), ("r2", "2.0", False)):
        submit(Submission("s", run_id, agent_version=version), [GOOD | {"passed": passed}], ledger=ledger)

    code, out, _ = typed("evals", "compare", "s@1.0", "s@2.0")

    assert (code, out.splitlines()) == (
        1, ["worse: 100.0% to 0.0% passed", "agent version 1.0 to 2.0", "  broken  good: fails now"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["none.json", "--suite", "s"], 1, "cannot read none.json"),
        (["results.json"], 2, "who begins it says of which suite it is"),
        (["results.json", "--suite", "s", "--passes-at", "nan"], 2, "not a number"),
        (["results.json", "--suite", "s", "--webhook", "https://example.com"], 1, "say by --fail-under"),
        (["results.json", "--suite", "s", "--fail-under", "0.5", "--webhook", "nowhere"], 2, "has an address"),
    ],
)
def test_what_makes_no_sense_is_said(tmp_path, typed, monkeypatch, words, code, complaint):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "results.json").write_text(json.dumps(THEIRS))

    said = typed("evals", "submit", *words)

    assert (said[0], said[1]) == (code, "")
    assert complaint in said[2]
