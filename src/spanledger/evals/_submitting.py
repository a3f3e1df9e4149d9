"""Hand in results of an evaluation that was run elsewhere: by another process, in another language.

Rules: nothing is run and nobody is asked to judge. A result that is handed in again is there once; one that is none
costs no other, and is said. Events are emitted for what is new, once the ledger has it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from typing import Any

from spanledger.core.submitting import Rejected, Submission, Submitted, judged, read
from spanledger.evals import _ending
from spanledger.evals._looking import AnyLedger, opened
from spanledger.telemetry import evaluations


def submit(
    submission: Submission,
    results: Iterable[Mapping[str, Any]],
    *,
    complete: bool = True,
    ledger: AnyLedger | None = None,
) -> Submitted:
    """Hand in results of a run that was made elsewhere, all of them or some.

    A result has a `case_id` and says whether it `passed`, or has a `score` that is compared with what passes, or an
    `error`. It may say `evaluator`, `label`, `explanation`, `output`, `weight`, `tags`, `duration_s`, `tokens`,
    `metadata`, `trace_id` and `span_id`. Of one case and evaluator, the first result stays.

    Args:
        submission: Which run it is.
        results: What is handed in.
        complete: These are the last; a run that is completed takes no more.
        ledger: Where it is kept; None: the environment's.

    Raises:
        ConfigError: The run is of another suite, agent, version or environment, or another database role began it.
        LedgerUnavailable: The ledger does not answer; what it had taken is kept, and handing in again does no harm.
    """
    items, rejected, created, known = dict[int, dict[str, Any]](), list[Rejected](), 0, 0
    for n, one in enumerate(read(results, submission.cases())):
        if isinstance(one, Rejected):
            rejected.append(one)
        else:
            items[n] = one
    places, ended = iter(items), False
    with opened(ledger) as store:
        for batch, answer in store.submit(submission.item(), items.values(), complete=complete):
            at = list(itertools.islice(places, len(batch)))
            for kept in answer["kept"]:
                result = judged(batch[kept["n"]], kept["outcome"], kept["label"])
                evaluations.emit(answer["suite"], submission.run_id, result)
            created += len(answer["kept"])
            known += answer["known"]
            rejected += [Rejected(at[one["n"]], one["why"]) for one in answer["rejected"]]
            ended = bool(answer["ended"])
        found = store.load(submission.run_id)
    if ended:
        _ending.tell(submission, found)
    return Submitted(found, created, known, tuple(sorted(rejected, key=lambda one: one.n)))
