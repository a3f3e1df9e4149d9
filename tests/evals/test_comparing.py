"""Two runs are compared: by a library call, at the command line, in pytest."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tests.acceptance.conftest import ROOT

from spanledger.errors import ConfigError
from spanledger.evals import Case, Score, Suite, compare, run

CASES = [Case(name) for name in "abcd"]


def judge(output, case):
    """A letter in capitals passes, a question mark cannot be judged."""
    if output == "?":
        raise LookupError("what?")
    return Score(1.0 if output.isupper() else 0.2, explanation=f"it is {output}")


@pytest.fixture
def told(ledger):
    """Run the suite so that its cases are answered with these letters."""

    def told(run_id, answers, cases=CASES):
        answers = dict(zip("abcd", answers, strict=False))
        return run(
            Suite("letters", [Case(c.id, c.id) for c in cases], [judge]), answers.get, run_id=run_id, ledger=ledger
        )

    return told


def test_cases_that_broke_were_fixed_or_lost_are_told_apart(told):
    said = compare(told("old", "AbCD"), told("new", "aBC?"))

    assert (said.broken, said.fixed, said.lost, said.added) == (("a",), ("b",), ("d",), ())
    assert said.change == pytest.approx(2 / 3 - 3 / 4)


@pytest.mark.parametrize(
    ("old", "new", "than", "worse"),
    [
        ("ABCD", "ABCD", 0.0, False),
        ("ABCD", "ABCd", 0.0, True),
        ("ABCD", "ABCd", 0.25, False),
        ("ABCD", "ABcd", 0.25, True),
        ("abcd", "ABCD", 0.0, False),
        ("AbCD", "aBCD", 0.0, False),
        ("ABCD", "ABC?", 0.5, True),  # nobody knows any more
        ("ABC?", "ABCD", 0.0, False),
        ("????", "????", 0.0, False),
    ],
)
def test_it_is_worse_where_the_pass_rate_fell_by_more_or_something_is_not_known_any_more(told, old, new, than, worse):
    assert compare(told("old", old), told("new", new)).worse(than) is worse


def test_runs_of_different_suites_are_not_compared(told, ledger):
    other = run(Suite("other", CASES, {"ok": lambda output, case: True}), lambda _: "x", ledger=ledger)

    with pytest.raises(ConfigError, match="different suites"):
        compare(told("old", "ABCD"), other)


# --- at the command line


def test_runs_are_listed_the_newest_first(told, typed):
    assert typed("evals") == (0, "no suite was run\n", "")
    told("first", "ABCd")
    told("second", "AB?D")

    code, out, _ = typed("evals")
    assert code == 0
    assert [line[16:] for line in out.splitlines()] == [
        "  100%  letters  second  3 of 3 passed, 1 not judged",
        "   75%  letters  first  3 of 4 passed",
    ]
    rows = json.loads(typed("evals", "--json", "--suite", "letters")[1])
    assert [(row["id"], row["passed"], row["failed"], row["errors"], row["pass_rate"]) for row in rows] == [
        ("second", 3, 0, 1, 1.0),
        ("first", 3, 1, 0, 0.75),
    ]
    assert typed("evals", "--suite", "none")[1] == "no suite was run\n"


def test_a_run_is_shown_with_what_failed_first(told, typed):
    results = told("first", "Ab?D")

    code, out, _ = typed("evals", "show", "fir")

    assert code == 0
    lines = out.splitlines()
    assert lines[:2] == [
        "letters  run first  completed  66.7% passed",
        "4 of 4 cases: 2 passed, 1 failed, 1 not judged",
    ]
    assert lines[2].startswith("  failed  b  judge 0.2: it is b")
    assert lines[3].startswith("  error   c  judge: LookupError: what?")
    assert lines[-1] == "mean of judge: 0.733"
    data = json.loads(typed("evals", "show", "first", "--json")[1])
    assert (data["passed"], data["errors"], len(data["results"])) == (results.passed, 1, 4)


def test_a_comparison_that_got_worse_exits_with_one(told, typed):
    told("old", "ABCD")
    told("new", "ABCd")

    code, out, _ = typed("evals", "compare", "old", "new")
    assert code == 1
    assert out.splitlines() == [
        "worse: 100.0% to 75.0% passed",
        "  broken  d: fails now",
        "  mean of judge: 1.000 to 0.800",
    ]
    assert typed("evals", "compare", "old", "new", "--worse-by", "0.25")[0] == 0
    assert typed("evals", "compare", "new", "old")[1].splitlines()[:2] == [
        "not worse: 75.0% to 100.0% passed",
        "  fixed  d: passes now",
    ]
    code, out, _ = typed("evals", "compare", "old", "new", "--json")
    assert (code, json.loads(out)["worse"], json.loads(out)["broken"]) == (1, True, ["d"])


@pytest.mark.parametrize(
    ("words", "code", "complaint"),
    [
        (["show", "none"], 1, "no run of evaluations has the id none"),
        (["show", "r"], 1, "more than one run"),
        (["compare", "r1", "none"], 1, "no run of evaluations has the id none"),
        (["compare", "r1", "r2", "--worse-by", "25%"], 2, "not a number between 0 and 1"),
        (["show", "r1", "--wait", "ages"], 2, "not a number of seconds"),
        (["show", " "], 2, "empty"),
    ],
)
def test_what_makes_no_sense_is_said(told, typed, words, code, complaint):
    told("r1", "ABCD")
    told("r2", "ABCD")

    said = typed("evals", *words)

    assert (said[0], said[1]) == (code, "")
    assert complaint in said[2]


def test_waiting_for_a_run_that_does_not_complete_exits_with_one(told, typed, sql):
    told("r", "ABCD")
    assert typed("evals", "show", "r", "--wait", "1")[0] == 0
    sql.execute("update spanledger.eval_run set state = 'running', ended_at = null")
    assert typed("evals", "show", "r", "--wait", "0.05")[0] == 1
    sql.execute("update spanledger.eval_run set alive_until = clock_timestamp()")

    code, out, _ = typed("evals", "show", "r", "--wait", "1")

    assert code == 1
    assert "interrupted" in out


# --- in pytest

README = (ROOT / "README.md").read_text()
PLUGIN = 'pytest_plugins = ["spanledger.pytest_plugin"]'
TESTS = """
import pytest
from spanledger.evals import Case, Suite

SUITE = Suite("sums", [Case("one", [1, 2], expected=3), Case("two", [2, 2], expected=4)],
              {"exact": lambda output, case: output == case.expected})

def test_good(evaluate):
    assert evaluate(SUITE, sum).pass_rate == 1

def test_good_enough(evaluate):
    assert evaluate(SUITE, lambda numbers: 3, pass_rate=0.5, run_id="half").passed == 1

def test_bad(evaluate):
    evaluate(SUITE, lambda numbers: 3)

def test_not_judged(evaluate):
    evaluate(Suite("odd", [Case("c")], {"broken": lambda output, case: 1 / 0}), lambda _: 0, pass_rate=0)
"""


def test_a_suite_is_a_test_of_pytest(dsn, tmp_path: Path, monkeypatch, typed):
    assert PLUGIN in README
    (tmp_path / "conftest.py").write_text(PLUGIN)
    (tmp_path / "test_agent.py").write_text(TESTS)
    monkeypatch.setenv("SPANLEDGER_DSN", dsn)

    without = [word for name in ("randomly", "xdist", "cacheprovider") for word in ("-p", f"no:{name}")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *without, "."],
        cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 1, done.stdout + done.stderr
    assert "2 failed, 2 passed" in done.stdout
    assert "spanledger evals" in done.stdout
    assert "sums: 1 of 2 passed, 0 not judged, run half" in done.stdout
    assert "two: exact failed: 3" in done.stdout
    assert "c: broken error: ZeroDivisionError: division by zero" in done.stdout
    assert len(json.loads(typed("evals", "--json")[1])) == 4


def test_loading_the_plugin_opens_no_ledger():
    code = "import sys, spanledger.pytest_plugin; print([name for name in sys.modules if name == 'spanledger.evals'])"

    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
