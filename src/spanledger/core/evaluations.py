"""Evaluations: what is asked of an agent, and how its answers are judged.

Rules: pure. Nothing here is random. A case has passed where everybody who judged it says so. Whoever could not judge,
because they raised, is an error of theirs: such a case counts neither as passed nor as failed.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from spanledger.core.figures import (
    CASE_ID_BYTES_MAX,
    FIGURE_MAX,
    NAME_BYTES_MAX,
    bounded,
    check_passes_at,
    fits,
    is_figure,
    is_weight,
    said_of,
)
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
        weight: How much it counts in rates and means that are weighted, more than 0; between 1e-15 and 1e15.
    """

    id: str
    input: Any = None
    expected: Any = field(default=None, kw_only=True)
    tags: tuple[str, ...] = field(default=(), kw_only=True)
    weight: float = field(default=1.0, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.id, str) or not self.id.strip() or self.id != storable(self.id):
            raise ConfigError(f"the id of a case is a text that is not empty, not {self.id!r:.80}")
        if not fits(self.id, CASE_ID_BYTES_MAX):
            raise ConfigError(f"the id of a case has at most {CASE_ID_BYTES_MAX} bytes, not as {self.id!r:.80}…")
        if not is_weight(self.weight):
            raise ConfigError(f"the weight of case {self.id!r:.80} is a number, more than 0 and between "
                              f"{1 / FIGURE_MAX:g} and {FIGURE_MAX:g}, not {said_of(self.weight):.80}")  # fmt: skip
        object.__setattr__(self, "tags", tuple(self.tags))


@dataclass(frozen=True, slots=True)
class Score:
    """What an evaluator says.

    Attributes:
        value: The figure, for example between 0 and 1, in size at most 1e15; None where there is none.
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
        fail_under: A run of which fewer cases pass has failed: a pass rate between 0 and 1. None: no run fails.
        on_failed: Called with the `Results` of a run that has failed, once; its errors are logged. See `webhook`.
    """

    name: str
    cases: tuple[Case, ...]
    evaluators: Mapping[str, Evaluator] | Iterable[Evaluator]
    passes_at: float = field(default=0.5, kw_only=True)
    agent: str | None = field(default=None, kw_only=True)
    fail_under: float | None = field(default=None, kw_only=True)
    on_failed: Callable[[Results], Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "cases", tuple(self.cases))
        check_end(self.fail_under, self.on_failed)
        named = self.evaluators
        if not isinstance(named, Mapping):
            listed = tuple(named)
            named = {_name_of(one): one for one in listed}
            if len(named) < len(listed):
                raise ConfigError(f"suite {self.name!r}: two evaluators have one name; give a mapping of names")
        object.__setattr__(self, "evaluators", dict(named))
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"a suite has a name, not {self.name!r}")
        if not fits(self.name, NAME_BYTES_MAX):
            raise ConfigError(f"the name of a suite has at most {NAME_BYTES_MAX} bytes, not as {self.name!r:.80}…")
        if not self.cases or not named:
            raise ConfigError(f"suite {self.name!r} needs a case and an evaluator at least")
        if not all(name and isinstance(name, str) and callable(one) for name, one in named.items()):
            raise ConfigError(f"suite {self.name!r}: evaluators are callables with a name")
        if not all(fits(name, NAME_BYTES_MAX) for name in named):
            raise ConfigError(f"suite {self.name!r}: the name of an evaluator has at most {NAME_BYTES_MAX} bytes")
        check_passes_at(self.passes_at)
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
        weight: How much its case counts in what is weighted.
        tags: Those of its case.
        tokens: So many the target used, where whoever handed it in said so.
        metadata: What else they said.
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
    weight: float = 1.0
    tags: tuple[str, ...] = ()
    tokens: int | None = None
    metadata: Mapping[str, Any] | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "tags", tuple(self.tags))
        for name in ("score", "duration_s"):
            if isinstance(getattr(self, name), str):  # as the ledger writes "NaN", which it once took
                object.__setattr__(self, name, float(getattr(self, name)))


@dataclass(frozen=True, slots=True)
class Results:
    """A run of a suite.

    Attributes:
        run_id: Its id.
        suite: The suite's name.
        suite_version: Runs of one version were asked the same.
        state: ``"running"``, ``"completed"`` or ``"interrupted"``.
        cases: How many cases the suite has; of a run elsewhere, if nobody said so, how many were handed in.
        results: How they were judged, by case and evaluator.
        agent: Name of the agent that was judged.
        agent_version: Its version.
        environment: Where it runs, for example ``"staging"``.
        elsewhere: It was run elsewhere, and its results were handed in.
    """

    run_id: str
    suite: str
    suite_version: str
    state: str
    cases: int
    results: tuple[Result, ...]
    agent: str | None = None
    agent_version: str | None = None
    environment: str | None = None
    elsewhere: bool = False

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

    @property
    def weighted_pass_rate(self) -> float | None:
        """As `pass_rate`, each case by its weight."""
        weights, by_case = self._weights(), self.by_case
        judged = math.fsum(weights[case] for case, outcome in by_case.items() if outcome != ERROR)
        return (
            math.fsum(weights[case] for case, outcome in by_case.items() if outcome == PASSED) / judged
            if judged
            else None
        )

    @property
    def mean_score(self) -> float | None:
        """Mean over the cases that have a score, of the mean of what each was given."""
        scores = self._scores()
        return _mean(scores.values()) if scores else None

    @property
    def weighted_mean_score(self) -> float | None:
        """As `mean_score`, each case by its weight."""
        weights, scores = self._weights(), self._scores()
        if not scores:
            return None
        return math.fsum(weights[c] * score for c, score in scores.items()) / math.fsum(weights[c] for c in scores)

    def _weights(self) -> dict[str, float]:
        return {
            one.case_id: max(bounded(one.weight), 1 / FIGURE_MAX)
            for one in sorted(self.results, key=lambda one: one.weight)
        }

    def _scores(self) -> dict[str, float]:
        given: dict[str, list[float]] = {}
        for one in self.results:
            if one.score is not None:
                given.setdefault(one.case_id, []).append(bounded(one.score))
        return {case: _mean(scores) for case, scores in given.items()}

    def only(self, *tags: str) -> Results:
        """Return the results of the cases that have one of these tags, as if there were no others."""
        chosen = tuple(one for one in self.results if set(tags) & set(one.tags))
        return replace(self, results=chosen, cases=len({one.case_id for one in chosen}))

    def failed_under(self, pass_rate: float) -> bool:
        """Tell whether fewer of the cases passed, or none could be judged."""
        return self.pass_rate is None or self.pass_rate < pass_rate - 1e-9

    def means(self) -> dict[str, float]:
        """Evaluator → mean of its scores."""
        scores: dict[str, list[float]] = {}
        for one in self.results:
            if one.evaluator is not None and one.score is not None:
                scores.setdefault(one.evaluator, []).append(bounded(one.score))
        return {name: _mean(found) for name, found in sorted(scores.items())}


def judged(suite: Suite, answer: Any) -> tuple[str, Score]:
    """Read what an evaluator returned: the outcome, and the score with every blank filled in.

    Raises:
        TypeError: It is no score.
    """
    if isinstance(answer, bool):
        answer = Score(1.0 if answer else 0.0, passed=answer)
    elif isinstance(answer, int | float):
        answer = Score(float(answer) if is_figure(answer) else answer)
    if not isinstance(answer, Score):
        raise TypeError(f"an evaluator returns True, False, a number or a Score, not {answer!r}")
    if answer.value is not None and not is_figure(answer.value):
        raise TypeError(
            f"a score is a finite number of at most {FIGURE_MAX:g} in size, not {said_of(answer.value):.80}"
        )
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
    """Write what a target answered as it is kept: as JSON, or in the words of its `repr` where it is none.

    Nothing is raised, also where it has no `repr`.
    """
    try:
        text = serialize(encode(value)).decode()
    except (NotJsonError, TypeError, ValueError, RecursionError):
        text = serialize(storable(said_of(value))).decode()
    return text if len(text) <= OUTPUT_CHARS_MAX else text[:OUTPUT_CHARS_MAX] + "…"


def check_end(fail_under: object, on_failed: object) -> None:
    """Check what is said about the end of a run.

    Raises:
        ConfigError: It makes no sense.
    """
    number = isinstance(fail_under, int | float) and not isinstance(fail_under, bool)
    if fail_under is not None and not (number and 0 <= fail_under <= 1):  # type: ignore[operator]
        raise ConfigError(f"fail_under is a pass rate between 0 and 1, not {fail_under!r}")
    if on_failed is not None and (fail_under is None or not callable(on_failed)):
        raise ConfigError(
            "on_failed is called with the results of a run that failed: say by fail_under which ones fail"
        )


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)


def _name_of(evaluator: Evaluator) -> str:
    return str(getattr(evaluator, "__name__", type(evaluator).__name__))


def _comparable(value: Any) -> Any:
    try:
        return canonical_of(value).decode()
    except (NotJsonError, TypeError, ValueError, RecursionError):
        return type(value).__qualname__
