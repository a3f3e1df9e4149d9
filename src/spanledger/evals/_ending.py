"""What is done when a run has ended.

Rules: the run and its results stand, whatever becomes of the hook.
"""

from __future__ import annotations

import logging

from spanledger.core.evaluations import Results, Suite
from spanledger.core.submitting import Submission

logger = logging.getLogger("spanledger.evals")


def tell(of: Suite | Submission, results: Results) -> None:
    """Call the hook where a run that has just been completed has failed; its errors are logged."""
    if of.fail_under is None or of.on_failed is None or not results.failed_under(of.fail_under):
        return
    try:
        of.on_failed(results)
    except Exception:
        logger.exception("on_failed failed for run %s; its results stand", results.run_id)
