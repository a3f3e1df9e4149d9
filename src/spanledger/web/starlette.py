"""A gate for routes of Starlette: `@require_permission("payments:refund")` on a function that takes the request.

Rules: the loop is never blocked: the ledger is awaited, and callables that are no coroutine functions run in a thread,
but for `trusted_header` and `bearer_token`. A plain endpoint runs in a thread as without the gate.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, Unpack

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from spanledger.core.grants import Authorization
from spanledger.core.money import Amount
from spanledger.errors import LedgerUnavailable
from spanledger.instrument.authority import authorize_awaiting
from spanledger.web._gate import (
    Asks,
    Gate,
    Refused,
    TrustedHeader,
    acting,
    bearer_token,
    passes,
    refusing,
    trusted_header,
    unanswered,
)

__all__ = ["bearer_token", "require_permission", "trusted_header"]

Endpoint = Callable[[Request], Any]


def require_permission(
    permission: str, **asks: Unpack[Asks]
) -> Callable[[Endpoint], Callable[[Request], Awaitable[Response]]]:
    """Let requests through that are granted a permission; others are answered with JSON that says why not.

    Args:
        permission: For example ``"payments:refund"``.
        **asks: What is asked of a request, and what becomes of obligations: see `Asks`.

    Raises:
        ConfigError: A value that cannot be.
    """
    gate = Gate(permission, **asks)

    def decorate(endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
        awaits = inspect.iscoroutinefunction(endpoint)
        respond: Endpoint = endpoint if awaits else functools.partial(run_in_threadpool, endpoint)  # type: ignore[call-arg]

        @functools.wraps(endpoint)
        async def gated(request: Request) -> Response:
            try:
                async with passing(gate, request):
                    return await respond(request)  # type: ignore[no-any-return]
            except Refused as refused:
                answer = refused.answer
                return JSONResponse(answer.body, answer.status, answer.headers)

        return gated

    return decorate


@contextlib.asynccontextmanager
async def passing(gate: Gate, request: Request) -> AsyncIterator[Authorization]:
    """Decide about a request, and put who acts around what is done for it.

    Raises:
        Refused: It does not pass, or a guarded call inside was refused.
    """
    said = {name: await _asked(question, request) for name, question in gate.questions().items()}
    with refusing(gate), acting(gate, said) as amount:
        yield passes(gate, await _authorized(gate, amount))


async def _authorized(gate: Gate, amount: Amount | None) -> Authorization:
    try:
        return await authorize_awaiting(gate.permission, amount)
    except LedgerUnavailable as error:
        return unanswered(gate, error)


async def _asked(question: Callable[[Request], Any], request: Request) -> Any:
    if isinstance(question, TrustedHeader) or question is bearer_token:
        return question(request)
    if inspect.iscoroutinefunction(question) or inspect.iscoroutinefunction(type(question).__call__):
        return await question(request)
    return await run_in_threadpool(question, request)
