"""How two runs of one suite compare, case by case.

Rules: pure. A case that nobody could judge is not known, and what is not known any more is worse than before.
"""

from __future__ import annotations

from dataclasses import dataclass

from spanledger.core.evaluations import ERROR, PASSED, Results
from spanledger.errors import ConfigError


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


def _judged(results: Results) -> dict[str, str]:
    return {case: outcome for case, outcome in results.by_case.items() if outcome != ERROR}
