"""Results of evaluations that were run elsewhere, as they are handed in.

Rules: pure. What is read may come from any program, so each result is read by itself, and one that cannot be read costs
no other. The names of other systems are understood, those in camelCase as well. How a result was judged is said by the
ledger, which is asked from other languages as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from spanledger.core.evaluations import Case, Result, Results, Suite, check_end, output_text
from spanledger.core.figures import (
    CASE_ID_BYTES_MAX,
    FIGURE_MAX,
    NAME_BYTES_MAX,
    check_passes_at,
    check_run_id,
    fits,
    is_figure,
)
from spanledger.core.outcomes import storable
from spanledger.core.trail import within_limits
from spanledger.errors import ConfigError

# Who is said to have judged where nobody is named.
SUBMITTED: Final = "submitted"

# As others call it → as we do.
_NAMES: Final = {
    "caseId": "case_id",
    "actualOutput": "output",
    "actual_output": "output",
    "latencyMs": "duration_ms",
    "latency_ms": "duration_ms",
    "tokenCount": "tokens",
    "token_count": "tokens",
    "traceId": "trace_id",
    "spanId": "span_id",
}


@dataclass(frozen=True, slots=True)
class Submission:
    """A run of an evaluation that was made elsewhere.

    Attributes:
        suite: The suite, or its name; None where the run has been begun. A suite says what its cases weigh, their tags,
            and what passes.
        run_id: What the run is called; results are handed in under it any number of times.
        agent: Name of the agent that was judged; None: the suite's.
        agent_version: Its version; None: the configured one.
        environment: Where it ran; None: the configured one.
        passes_at: The least score that passes, of results that do not say so themselves; None: the suite's.
        fail_under: A run of which fewer cases pass has failed: a pass rate between 0 and 1. None: as the suite says.
        on_failed: Called with the `Results` of a run that has failed, once, when it is completed.
    """

    suite: Suite | str | None
    run_id: str
    agent: str | None = field(default=None, kw_only=True)
    agent_version: str | None = field(default=None, kw_only=True)
    environment: str | None = field(default=None, kw_only=True)
    passes_at: float | None = field(default=None, kw_only=True)
    fail_under: float | None = field(default=None, kw_only=True)
    on_failed: Callable[[Results], Any] | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        name = self.suite.name if isinstance(self.suite, Suite) else self.suite
        for what, text in (("the suite", name), ("agent", self.agent),
                           ("agent_version", self.agent_version), ("environment", self.environment)):  # fmt: skip
            if text is None:
                continue
            if not isinstance(text, str) or not text.strip() or text != storable(text):
                raise ConfigError(f"{what} of a submission is a text that is not empty, not {text!r:.80}")
        check_run_id(self.run_id, "a submission")
        if name is not None and not fits(name, NAME_BYTES_MAX):
            raise ConfigError(f"the suite of a submission has at most {NAME_BYTES_MAX} bytes, not as {name!r:.80}…")
        if self.passes_at is not None:
            check_passes_at(self.passes_at)
        if isinstance(self.suite, Suite) and self.fail_under is None:
            object.__setattr__(self, "fail_under", self.suite.fail_under)
            object.__setattr__(self, "on_failed", self.on_failed or self.suite.on_failed)
        check_end(self.fail_under, self.on_failed)

    def item(self) -> dict[str, Any]:
        """What the ledger is told of the run."""
        suite = self.suite if isinstance(self.suite, Suite) else None
        said = {
            "id": self.run_id,
            "suite": suite.name if suite else self.suite,
            "suite_version": suite.version if suite else None,
            "cases": len(suite.cases) if suite else None,
            "agent": self.agent or (suite.agent if suite else None),
            "agent_version": self.agent_version,
            "environment": self.environment,
            "passes_at": suite.passes_at if suite and self.passes_at is None else self.passes_at,
        }
        return {name: value for name, value in said.items() if value is not None}

    def cases(self) -> Mapping[str, Case]:
        """The cases of the suite by their ids, as far as they are known."""
        return {case.id: case for case in self.suite.cases} if isinstance(self.suite, Suite) else {}


@dataclass(frozen=True, slots=True)
class Rejected:
    """A result that was not kept.

    Attributes:
        n: Its place among those that were handed in, from 0.
        why: In words.
    """

    n: int
    why: str


@dataclass(frozen=True, slots=True)
class Submitted:
    """What became of results that were handed in.

    Attributes:
        results: The run as it stands now.
        created: So many are new.
        known: So many had been handed in before; what was kept first stays.
        rejected: Those that are no results, in their order.
    """

    results: Results
    created: int
    known: int
    rejected: tuple[Rejected, ...] = ()


def read(given: Iterable[Any], cases: Mapping[str, Case]) -> Iterator[dict[str, Any] | Rejected]:
    """Read results, each as the ledger takes it, or why it cannot.

    Args:
        given: Mappings, or whatever somebody took for one; `ValueError` where not even that could be read.
        cases: What is known of the cases by their ids.
    """
    for n, one in enumerate(given):
        try:
            yield _read(one, cases)
        except Exception as error:  # noqa: BLE001 - whatever reading somebody's object raises, the others are read
            yield Rejected(n, str(error) or type(error).__name__)


def judged(item: Mapping[str, Any], outcome: str, label: str | None) -> Result:
    """Make the result of what was handed in, once the ledger has said how it was judged."""
    error = item.get("error")
    return Result(
        item["case_id"],
        item.get("evaluator", SUBMITTED),
        outcome,
        score=item.get("score"),
        label=label,
        explanation=item.get("explanation"),
        error={"type": "error", "message": error} if isinstance(error, str) else error,
        trace_id=item.get("trace_id"),
        span_id=item.get("span_id"),
    )


def _read(one: Any, cases: Mapping[str, Case]) -> dict[str, Any]:
    if isinstance(one, ValueError):
        raise one
    if not isinstance(one, Mapping):
        raise TypeError(f"a result is an object of names and values, not {one!r:.80}")
    said = {_NAMES.get(str(name), str(name)): value for name, value in one.items() if value is not None}
    unknown = sorted(said.keys() - _READERS.keys())
    if unknown:
        raise ValueError(f"{unknown[0]!r} is not known; a result has {', '.join(_READERS)}")
    item: dict[str, Any] = {}
    case = cases.get(str(said.get("case_id")))
    if case is not None:
        item |= {"weight": case.weight, "tags": list(case.tags)}
    for name, value in said.items():
        into, reader = _READERS[name]
        item[into] = reader(value)
    return item


def _text(value: Any) -> str:
    return storable(str(value))


def _name(what: str, bytes_max: int) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        # Not cut: two that begin alike are not the same.
        if not fits(str(value), bytes_max):
            raise ValueError(f"{what} has at most {bytes_max} bytes, not as {value!r:.80}…")
        return _text(value)

    return read


def _hexadecimal(digits: int) -> Callable[[Any], str]:
    def read(value: Any) -> str:
        if re.fullmatch(f"[0-9a-f]{{{digits}}}", str(value).lower()) is None:
            raise ValueError(f"the ids of a trace and a span are 32 and 16 hexadecimal digits, not {value!r:.80}")
        return str(value).lower()

    return read


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"passed is true or false, not {value!r:.80}")
    return value


def _number(value: Any) -> Any:
    if not is_figure(value):
        raise ValueError(f"a score, weight, duration or number of tokens is a finite number of at most {FIGURE_MAX:g} "
                         f"in size, not {value!r:.80}")  # fmt: skip
    return value


def _duration(value: Any) -> Any:
    if _number(value) < 0:
        raise ValueError(f"a duration is not less than 0, as {value!r:.80} is")
    return value


def _error(error: Any) -> Any:
    if isinstance(error, Mapping):
        return {name: storable(str(error.get(name, default))) for name, default in (("type", "error"), ("message", ""))}
    return storable(error if isinstance(error, str) else json.dumps(error, default=str))


def _tags(tags: Any) -> list[str]:
    if isinstance(tags, str) or not isinstance(tags, Iterable):
        raise TypeError(f"tags are a list of texts, not {tags!r:.80}")
    return [storable(str(tag)) for tag in tags]


def _metadata(metadata: Any) -> dict[str, Any]:
    return within_limits(metadata if isinstance(metadata, Mapping) else {"metadata": metadata})


# What a result may have → under which name the ledger takes it, and how it is read.
_READERS: Final[Mapping[str, tuple[str, Callable[[Any], Any]]]] = {
    "case_id": ("case_id", _name("case_id", CASE_ID_BYTES_MAX)),
    "evaluator": ("evaluator", _name("evaluator", NAME_BYTES_MAX)),
    "passed": ("passed", _flag),
    "score": ("score", _number),
    "label": ("label", _text),
    "explanation": ("explanation", _text),
    "error": ("error", _error),
    "output": ("output_json", output_text),
    "weight": ("weight", _number),
    "tags": ("tags", _tags),
    "duration_s": ("duration_s", _duration),
    "duration_ms": ("duration_s", lambda value: _duration(value) / 1000),
    "tokens": ("tokens", _number),
    "metadata": ("metadata", _metadata),
    "trace_id": ("trace_id", _hexadecimal(32)),
    "span_id": ("span_id", _hexadecimal(16)),
}
