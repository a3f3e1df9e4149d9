"""What the token of a delegation says: under what its bearer acts.

Rules: that is for people, for spans and for `has_permission`, which decides nothing; the ledger goes by what it has
written itself. Who has signed the token, `spanledger.tokens` says.
"""

from __future__ import annotations

import math
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeGuard


@dataclass(frozen=True, slots=True)
class Authority:
    """What a token says: under what its bearer acts.

    Attributes:
        id: Of the delegation, in the ledger.
        tenant: Whose ledger that is.
        agent: Name of the agent that it is for.
        actor: For whom it may be used; None for anybody.
        permissions: What may be done under it.
        chain: The ids of all delegations that it comes from, the first of them first, and its own.
        agents: Who passed it on to whom, the first of them first; None for one without a name.
        expires_at_s: Seconds since 1970, on the database's clock.
        proof: What its bearer shows to the ledger.
        token: The token itself.
    """

    id: str
    tenant: str
    agent: str
    actor: str | None
    permissions: tuple[str, ...]
    chain: tuple[str, ...]
    agents: tuple[str | None, ...]
    expires_at_s: float
    proof: str = field(repr=False)
    token: str = field(default="", repr=False, compare=False)

    @property
    def shown(self) -> dict[str, str]:
        """What an item says that acts under it."""
        return {"id": self.id, "proof": self.proof}


def authority(claims: Mapping[str, Any], token: str) -> Authority:
    """Read what a token says.

    Raises:
        ValueError: It is no token of a delegation.
    """
    agent, actor, proof = claims.get("sub"), claims.get("actor"), claims.get("jti")
    ids, agents, permissions = claims.get("chain"), claims.get("agents"), claims.get("permissions")
    texts = (agent, proof, claims.get("aud"), *_list(ids), *_list(permissions))
    if not ids or not all(isinstance(text, str) and text for text in texts) or not is_number(claims.get("exp")):
        raise ValueError("it is no token of a delegation")
    if not all(name is None or isinstance(name, str) for name in (actor, *_list(agents))):
        raise ValueError("it is no token of a delegation")
    return Authority(
        id=str(uuid.UUID(ids[-1])),
        tenant=claims["aud"],
        agent=claims["sub"],
        actor=actor,
        permissions=tuple(_list(permissions)),
        chain=tuple(_list(ids)),
        agents=tuple(_list(agents)),
        expires_at_s=float(claims["exp"]),
        proof=claims["jti"],
        token=token,
    )


def is_number(value: object) -> TypeGuard[int | float]:
    """Tell whether a value is a number that can be counted with."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else [None]
