"""Carry the workflow, the running call and the span along to the threads of executors.

Rules: what is carried is ours and OpenTelemetry's context, and no other context variable: what a pool's initializer has
set for its threads stays. Each job carries what was around when it was handed in, and leaves nothing behind in the
thread. Others wrap the same function, before us or after us, and carry less. A `threading.Thread` of one's own is left
alone: it may live for many workflows, and none is the right one.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import wrapt

from spanledger.telemetry import decision

_active = False


def install() -> None:
    """Begin to carry."""
    global _active  # noqa: PLW0603 - one per process, as there is one `ThreadPoolExecutor`
    _active = True
    if not _is_wrapped():
        wrapt.wrap_function_wrapper("concurrent.futures", "ThreadPoolExecutor.submit", _submit)


def remove() -> None:
    """Carry no more, and put back what was there; what others have put around it since stays, and finds nothing."""
    global _active  # noqa: PLW0603 - see install
    _active = False
    wrapped = ThreadPoolExecutor.__dict__["submit"]
    if isinstance(wrapped, wrapt.FunctionWrapper) and getattr(wrapped, "_self_wrapper", None) is _submit:
        ThreadPoolExecutor.submit = wrapped.__wrapped__  # type: ignore[method-assign]


def _is_wrapped() -> bool:
    """Tell whether ours is among those around it."""
    wrapped = ThreadPoolExecutor.__dict__["submit"]
    while wrapped is not None and getattr(wrapped, "_self_wrapper", None) is not _submit:
        wrapped = getattr(wrapped, "__wrapped__", None)
    return wrapped is not None


def _submit(wrapped: Callable[..., Any], _pool: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    within = decision.surroundings() if _active and args else None
    if within is None:
        return wrapped(*args, **kwargs)
    job = args[0]

    def carried(*job_args: Any, **job_kwargs: Any) -> Any:
        with within():
            return job(*job_args, **job_kwargs)

    return wrapped(carried, *args[1:], **kwargs)
