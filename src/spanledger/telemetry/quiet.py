"""How telemetry fails: without anybody noticing but the log."""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable
from typing import ParamSpec

from spanledger.core.outcomes import alone

logger = logging.getLogger("spanledger.telemetry")

P = ParamSpec("P")


def quietly(function: Callable[P, None]) -> Callable[P, None]:
    """Let a function of telemetry fail without anybody noticing but the log."""

    @functools.wraps(function)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> None:
        try:
            function(*args, **kwargs)
        except Exception as error:  # noqa: BLE001 - logged
            failed_quietly(function, error)

    return wrapper


def failed_quietly(function: Callable[..., None], error: Exception) -> None:
    """Log that a function of telemetry has failed."""
    logger.error("%s failed; the call is not affected", function.__name__, exc_info=alone(error))
