"""A gate for routes of FastAPI: `Depends(require_permission("payments:refund"))`.

Rules: as those of `spanledger.web.starlette`. A refusal is an `HTTPException`, so that handlers of the application see
it as any other; FastAPI puts what it says under ``detail``. The dependency gives the `Authorization`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from fastapi import HTTPException, Request

from spanledger.core.grants import Authorization
from spanledger.core.money import Amount
from spanledger.web._gate import Gate, Refused, bearer_token, trusted_header
from spanledger.web.starlette import passing

__all__ = ["bearer_token", "require_permission", "trusted_header"]


def require_permission(
    permission: str,
    *,
    amount: Amount | Callable[[Request], Any] | None = None,
    actor: Callable[[Request], Any] | None = None,
    tenant: Callable[[Request], Any] | None = None,
    delegation: Callable[[Request], Any] | None = None,
    obligations: str = "refuse",
) -> Callable[[Request], AsyncIterator[Authorization]]:
    """Make a dependency that lets requests through that are granted a permission.

    Args:
        permission: For example ``"payments:refund"``.
        amount: What the request would cost, or a callable of it.
        actor: A callable of the request: for whom it is. What calls inside do is done for them.
        tenant: A callable of the request: whose ledger it is.
        delegation: A callable of the request, for example `bearer_token`: the token of the delegation under which it
            acts.
        obligations: ``"refuse"`` where a grant asks for a person's approval or redacts something; ``"inside"``: a
            guarded call in the endpoint that needs the same permission sees to it.

    Raises:
        ConfigError: A value that cannot be.
    """
    gate = Gate(permission, amount, actor, tenant, delegation, obligations)

    async def permitted(request: Request) -> AsyncIterator[Authorization]:
        try:
            async with passing(gate, request) as authorization:
                yield authorization
        except Refused as refused:
            answer = refused.answer
            raise HTTPException(answer.status, dict(answer.body), dict(answer.headers)) from refused

    return permitted
