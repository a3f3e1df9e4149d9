"""Evaluations: what is asked of an agent, how its answers are judged, and how two runs compare.

Rules: pure. Nothing here is random. A case has passed where everybody who judged it says so. Whoever could not judge,
because they raised, is an error of theirs: such a case counts neither as passed nor as failed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from spanledger.core.outcomes import storable
from spanledger.core.values import NotJsonError, canonical_of, encode, serialize
from spanledger.errors import ConfigError

OUTPUT_CHARS_MAX: Final = 100_000
PASSED, FAILED, ERROR = "passed", "failed", "error"


@dataclass(frozen=True, slots=True)
class Case:
    """One thing that an agent is asked.

    Attributes:
        id: What tells it from the other cases of its suite, in this run and the next.
        input: What the target is called with.
        expected: What evaluators may compare with.
        tags: To choose cases by.
    """

    id: str
    input: Any = None
    expected: Any = field(default=None, kw_only=True)
    tags: tuple[str, ...] = field(default=(), kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip() or self.id != storable(self.id):
            raise ConfigError(f"the id of a case is a text that is not empty, not {self.id!r}")
        object.__setattr__(self, "tags", tuple(self.tags))


@dataclass(frozen=True, slots=True)
class Score:
    """What an evaluator says.

    Attributes:
        value: The figure, for example between 0 and 1; None where there is none.
        passed: Whether that is good enough; None: where the value is at least the suite's `passes_at`.
        label: The same in a word of few, for example ``"relevant"``; None: ``"pass"`` or ``"fail"``.
        explanation: Why, in words.
        response_id: The provider's id of the answer that was judged.
    """

    value: float | None = None
    passed: bool | None = field(default=None, kw_only=True)
    label: str | None = field(default=None, kw_only=True)
    explanation: str | None = field(default=None, kw_only=True)
    response_id: str | None = field(default=None, kw_only=True)


Evaluator = Callable[[Any, Case], Any]


@dataclass(frozen=True, slots=True)
class Suite:
    """Cases that belong together, and who judges the answers.

    Attributes:
        name: The suite's name; runs of one suite can be compared.
        cases: What is asked.
        evaluators: Called with the target's output and the case; they return True or False, a number, or a `Score`, or
            a coroutine of that. Each is called by its own name; a mapping names them otherwise.
        passes_at: The least number that passes.
        agent: Name of the agent that is judged.
    """

    name: str
    cases: tuple[Case, ...]
    evaluators: Mapping[str, Evaluator] | Iterable[Evaluator]
    passes_at: float = field(default=0.5, kw_only=True)
    agent: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cases", tuple(self.cases))
        named = self.evaluators
        if not isinstance(named, Mapping):
            listed = tuple(named)
            named = {_name_of(one): one for one in listed}
            if len(named) < len(listed):
                raise ConfigError(f"suite {self.name!r}: two evaluators have one name; give a mapping of names")
        object.__setattr__(self, "evaluators", dict(named))
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"a suite has a name, not {self.name!r}")
        if not self.cases or not named:
            raise ConfigError(f"suite {self.name!r} needs a case and an evaluator at least")
        if not all(name and callable(one) for name, one in named.items()):
            raise ConfigError(f"suite {self.name!r}: evaluators are callables with a name")
        ids = [case.id for case in self.cases]
        twice = sorted({one for one in ids if ids.count(one) > 1})
        if twice:
            raise ConfigError(f"suite {self.name!r}: two cases have the id {twice[0]!r}")

    def only(self, *tags: str) -> Suite:
        """Return a suite of the same name, of the cases that have one of these tags."""
        return replace(self, cases=tuple(case for case in self.cases if set(tags) & set(case.tags)))

    @property
    def judges(self) -> Mapping[str, Evaluator]:
        """The evaluators by name."""
        assert isinstance(self.evaluators, Mapping)  # noqa: S101 - made one above
        return self.evaluators

    @property
    def version(self) -> str:
        """A hash of what is asked and of the names of who judges: the same in every process."""
        asked = [[case.id, _comparable(case.input), _comparable(case.expected)] for case in self.cases]
        said = canonical_of([self.name, sorted(map(canonical_of, asked)), sorted(self.judges), self.passes_at])
        return hashlib.sha256(said).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Result:
    """How one evaluator judged one case.

    Attributes:
        case_id: The case.
        evaluator: Its name; None: the target itself raised, and nobody was asked to judge.
        outcome: ``"passed"``, ``"failed"``, or ``"error"``: it could not judge.
        score: The figure.
        label: The same in a word.
        explanation: Why, in words.
        error: What was raised, as type and message.
        output: What the target answered, as JSON; cut where it is very long.
        trace_id: Of the span that was judged, hexadecimal.
        span_id: Likewise.
        duration_s: How long the target took.
    """

    case_id: str
    evaluator: str | None
    outcome: str
    score: float | None = None
    label: str | None = None
    explanation: str | None = None
    error: Mapping[str, str] | None = None
    output: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    duration_s: float | None = None


@dataclass(frozen=True, slots=True)
class Results:
    """A run of a suite.

    Attributes:
        run_id: Its id.
        suite: The suite's name.
        suite_version: Runs of one version were asked the same.
        state: ``"running"``, ``"completed"`` or ``"interrupted"``.
        cases: How many cases the suite has.
        results: How they were judged, by case and evaluator.
    """

    run_id: str
    suite: str
    suite_version: str
    state: str
    cases: int
    results: tuple[Result, ...]

    @property
    def by_case(self) -> dict[str, str]:
        """Case → ``"passed"``, ``"failed"`` or ``"error"``."""
        said: dict[str, set[str]] = {}
        for one in self.results:
            said.setdefault(one.case_id, set()).add(one.outcome)
        return {case: next(o for o in (FAILED, ERROR, PASSED) if o in found) for case, found in said.items()}

    @property
    def passed(self) -> int:
        """How many cases passed."""
        return list(self.by_case.values()).count(PASSED)

    @property
    def failed(self) -> int:
        """How many cases failed."""
        return list(self.by_case.values()).count(FAILED)

    @property
    def errors(self) -> int:
        """How many cases could not be judged."""
        return list(self.by_case.values()).count(ERROR)

    @property
    def pass_rate(self) -> float | None:
        """Passed of those that were judged, between 0 and 1; None where none was."""
        judged = self.passed + self.failed
        return self.passed / judged if judged else None

    def means(self) -> dict[str, float]:
        """Evaluator → mean of its scores."""
        scores: dict[str, list[float]] = {}
        for one in self.results:
            if one.evaluator is not None and one.score is not None:
                scores.setdefault(one.evaluator, []).append(one.score)
        return {name: math.fsum(found) / len(found) for name, found in sorted(scores.items())}


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from one run to another.

    Attributes:
        base: The run that is compared with.
        new: The run that is compared.
        broken: Cases that passed and fail now.
        fixed: Cases that failed and pass now.
        lost: Cases that were judged and are not now: not run, or nobody could judge them.
        added: Cases that are judged now and were not.
    """

    base: Results
    new: Results
    broken: tuple[str, ...]
    fixed: tuple[str, ...]
    lost: tuple[str, ...]
    added: tuple[str, ...]

    @property
    def same_suite(self) -> bool:
        """Both runs were asked the same."""
        return (self.base.suite, self.base.suite_version) == (self.new.suite, self.new.suite_version)

    @property
    def change(self) -> float | None:
        """By how much the pass rate rose, between -1 and 1; None where one of them has none."""
        if self.base.pass_rate is None or self.new.pass_rate is None:
            return None
        return self.new.pass_rate - self.base.pass_rate

    def worse(self, than: float = 0.0) -> bool:
        """Tell whether it got worse: a pass rate that fell by more, or cases of which nothing is known any more.

        Args:
            than: By how much the pass rate may fall, between 0 and 1.
        """
        return bool(self.lost) or (self.change is not None and self.change < -than - 1e-9)


def compare(base: Results, new: Results) -> Comparison:
    """Compare two runs, case by case.

    Raises:
        ConfigError: They are runs of different suites.
    """
    if base.suite != new.suite:
        raise ConfigError(f"{base.suite!r} and {new.suite!r} are different suites and cannot be compared")
    before, after = _judged(base), _judged(new)
    both = sorted(before.keys() & after.keys())
    return Comparison(
        base,
        new,
        broken=tuple(case for case in both if before[case] == PASSED != after[case]),
        fixed=tuple(case for case in both if before[case] != PASSED == after[case]),
        lost=tuple(sorted(before.keys() - after.keys())),
        added=tuple(sorted(after.keys() - before.keys())),
    )


def judged(suite: Suite, answer: Any) -> tuple[str, Score]:
    """Read what an evaluator returned: the outcome, and the score with every blank filled in.

    Raises:
        TypeError: It is no score.
    """
    if isinstance(answer, bool):
        answer = Score(1.0 if answer else 0.0, passed=answer)
    elif isinstance(answer, int | float):
        answer = Score(float(answer))
    if not isinstance(answer, Score):
        raise TypeError(f"an evaluator returns True, False, a number or a Score, not {answer!r}")
    if answer.value is not None and not math.isfinite(answer.value):
        raise TypeError(f"a score is a finite number, not {answer.value!r}")
    passed = answer.passed
    if passed is None:
        if answer.value is None:
            raise TypeError("a Score says `passed`, or has a value")
        passed = answer.value >= suite.passes_at
    label = answer.label or ("pass" if passed else "fail")
    return (PASSED if passed else FAILED), replace(answer, passed=passed, label=label)


def error_of(error: BaseException) -> dict[str, str]:
    """Describe what was raised."""
    return {"type": type(error).__name__, "message": words(str(error)) or ""}


def words(text: str | None) -> str | None:
    """Return a text as it is kept."""
    return None if text is None else storable(str(text))


def output_text(value: Any) -> str:
    """Write what a target answered as it is kept: as JSON, or in the words of its `repr` where it is none."""
    try:
        text = serialize(encode(value)).decode()
    except (NotJsonError, TypeError, ValueError, RecursionError):
        text = serialize(storable(repr(value))).decode()
    return text if len(text) <= OUTPUT_CHARS_MAX else text[:OUTPUT_CHARS_MAX] + "…"


def _judged(results: Results) -> dict[str, str]:
    return {case: outcome for case, outcome in results.by_case.items() if outcome != ERROR}


def _name_of(evaluator: Evaluator) -> str:
    return str(getattr(evaluator, "__name__", type(evaluator).__name__))


def _comparable(value: Any) -> Any:
    try:
        return canonical_of(value).decode()
    except (NotJsonError, TypeError, ValueError, RecursionError):
        return type(value).__qualname__
