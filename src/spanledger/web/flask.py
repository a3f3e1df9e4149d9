"""A gate for views of Flask: `@require_permission("payments:refund")` below the route.

Rules: it blocks, as Flask does. A coroutine function is run as Flask would run it. A refusal is answered with JSON.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any, Unpack

from flask import Response, current_app, jsonify, request

from spanledger.core.grants import Authorization
from spanledger.core.money import Amount
from spanledger.errors import LedgerUnavailable
from spanledger.instrument.authority import authorize
from spanledger.web._gate import Asks, Gate, Refused, acting, bearer_token, passes, refusing, trusted_header, unanswered

__all__ = ["bearer_token", "require_permission", "trusted_header"]

View = Callable[..., Any]


def require_permission(permission: str, **asks: Unpack[Asks]) -> Callable[[View], View]:
    """Let requests through that are granted a permission; others are answered with JSON that says why not.

    Args:
        permission: For example ``"payments:refund"``.
        **asks: What is asked of a request, and what becomes of obligations: see `Asks`.

    Raises:
        ConfigError: A value that cannot be.
    """
    gate = Gate(permission, **asks)

    def decorate(view: View) -> View:
        @functools.wraps(view)
        def gated(*args: Any, **kwargs: Any) -> Any:
            try:
                with _passing(gate):
                    return current_app.ensure_sync(view)(*args, **kwargs)
            except Refused as refused:
                return _response(refused)

        return gated

    return decorate


@contextlib.contextmanager
def _passing(gate: Gate) -> Iterator[Authorization]:
    said = {name: question(request) for name, question in gate.questions().items()}
    with refusing(gate), acting(gate, said) as amount:
        yield passes(gate, _authorized(gate, amount))


def _authorized(gate: Gate, amount: Amount | None) -> Authorization:
    try:
        return authorize(gate.permission, amount)
    except LedgerUnavailable as error:
        return unanswered(gate, error)


def _response(refused: Refused) -> Response:
    answer = refused.answer
    response = jsonify(dict(answer.body))
    response.status_code = answer.status
    response.headers.update(answer.headers)
    return response
