"""A gate for routes of FastAPI: `Depends(require_permission("payments:refund"))`.

Rules: as those of `spanledger.web.starlette`. A refusal is an `HTTPException`, so that handlers of the application see
it as any other; FastAPI puts what it says under ``detail``. The dependency gives the `Authorization`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Unpack

from fastapi import HTTPException, Request

from spanledger.core.grants import Authorization
from spanledger.web._gate import Asks, Gate, Refused, bearer_token, trusted_header
from spanledger.web.starlette import passing

__all__ = ["bearer_token", "require_permission", "trusted_header"]


def require_permission(permission: str, **asks: Unpack[Asks]) -> Callable[[Request], AsyncIterator[Authorization]]:
    """Make a dependency that lets requests through that are granted a permission.

    Args:
        permission: For example ``"payments:refund"``.
        **asks: What is asked of a request, and what becomes of obligations: see `Asks`.

    Raises:
        ConfigError: A value that cannot be.
    """
    gate = Gate(permission, **asks)

    async def permitted(request: Request) -> AsyncIterator[Authorization]:
        try:
            async with passing(gate, request) as authorization:
                yield authorization
        except Refused as refused:
            answer = refused.answer
            raise HTTPException(answer.status, dict(answer.body), dict(answer.headers)) from refused

    return permitted
