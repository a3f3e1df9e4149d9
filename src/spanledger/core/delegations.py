"""Delegation: authority that one agent passes on to another.

Rules: what is passed on is narrower than what it comes from. The ledger decides that when it is made, and at every call
whether it is still in force. A token holds a secret, the proof, of which the ledger keeps the hash: who knows a
delegation's id can do nothing with it.
"""

from __future__ import annotations

import hashlib
import secrets
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from spanledger.core.asking import Ask, Steps
from spanledger.core.authority import Authority, is_number
from spanledger.core.money import Amount, Calls, Money, Tokens
from spanledger.core.outcomes import storable
from spanledger.core.rules import is_permission
from spanledger.errors import ConfigError, NotAuthorized

# Without a word of when it ends, a delegation ends after a day, or with what it comes from.
EXPIRES_IN_S: Final = 86_400.0
EXPIRES_IN_S_MAX: Final = 366 * 86_400.0
PERMISSIONS_MAX: Final = 32
PERMISSIONS_CHARS_MAX: Final = 2_048
AGENT_CHARS_MAX: Final = 128


@dataclass(frozen=True, slots=True)
class Delegation:
    """What is to be passed on, and to whom.

    Attributes:
        to_agent: Name of the agent that may act under it.
        permissions: What it may do: ``"payments:refund"``, ``"payments:*"`` or ``"*"``, each of them no more than
            whoever passes it on may do.
        max_amount: The most that all that is done under it may cost, and under what is passed on from it, together.
        expires_in_s: Seconds, on the database's clock, after which it ends; never later than what it comes from. None:
            a day.
        reason: What for, kept in the ledger.
    """

    to_agent: str
    permissions: tuple[str, ...]
    max_amount: Amount | None = None
    expires_in_s: float | None = None
    reason: str | None = None

    def __init__(
        self,
        to_agent: str,
        permissions: str | Iterable[str],
        max_amount: Amount | None = None,
        expires_in_s: float | None = None,
        reason: str | None = None,
    ) -> None:
        """Say what is to be passed on; the arguments are the attributes.

        Raises:
            ConfigError: That makes no sense.
        """
        if not isinstance(to_agent, str) or not 0 < len(to_agent.strip()) <= len(to_agent) <= AGENT_CHARS_MAX:
            raise ConfigError(
                f"an agent's name is a text of at most {AGENT_CHARS_MAX} characters, not {to_agent!r:.200}"
            )
        if max_amount is not None and (not isinstance(max_amount, Money | Tokens | Calls) or max_amount.steps <= 0):
            raise ConfigError(
                f"max_amount is Money (never a float), Tokens or Calls, and more than nothing, not {max_amount!r}"
            )
        if expires_in_s is not None and not _is_duration(expires_in_s):
            raise ConfigError(
                f"expires_in_s is a number of seconds, at most {EXPIRES_IN_S_MAX:.0f}, not {expires_in_s!r}"
            )
        if reason is not None and not isinstance(reason, str):
            raise ConfigError(f"a reason is a text, not {reason!r:.200}")
        object.__setattr__(self, "to_agent", to_agent)
        object.__setattr__(self, "permissions", _permissions(permissions))
        object.__setattr__(self, "max_amount", max_amount)
        object.__setattr__(self, "expires_in_s", expires_in_s)
        object.__setattr__(self, "reason", reason)


def delegated(
    tenant: str,
    wanted: Delegation,
    whose: Mapping[str, Any],
    above: Authority | None,
    sign: Callable[[Mapping[str, Any]], str],
) -> Steps[str]:
    """Have the ledger make a delegation, and say so in a token.

    Args:
        tenant: Whose ledger it is.
        wanted: What is to be passed on.
        whose: agent and actor who pass it on; workflow_id, trace_id and span_id of where that is.
        above: Under what they act themselves.
        sign: Makes a token of claims.

    Raises:
        NotAuthorized: It would not be narrower, or what it comes from is not in force any more.
    """
    proof = secrets.token_urlsafe(32)
    amount = wanted.max_amount
    item = {
        "id": str(uuid.uuid4()),
        "proof": hashlib.sha256(proof.encode()).hexdigest(),
        "to_agent": wanted.to_agent,
        "permissions": list(wanted.permissions),
        "max": None if amount is None else {"unit": amount.unit, "steps": amount.steps},
        "expires_in_s": EXPIRES_IN_S if wanted.expires_in_s is None else wanted.expires_in_s,
        "reason": None if wanted.reason is None else storable(wanted.reason),
        **whose,
    }
    if above is not None:
        item["delegation"] = above.shown
    said = yield Ask("delegate", tenant, item)
    if "reason" in said:
        raise NotAuthorized(
            f"nothing was delegated to {wanted.to_agent!r}: {said['reason']}",
            reason=said["reason"],
            delegation=said.get("delegation"),
        )
    return sign(
        {
            "aud": tenant,
            "sub": said["agent"],
            "jti": proof,
            "exp": said["expires_at_s"],
            "actor": said["actor"],
            "permissions": said["permissions"],
            "chain": said["chain"],
            "agents": [name or None for name in said["agents"]],
        }
    )


def _permissions(given: object) -> tuple[str, ...]:
    permissions = (given,) if isinstance(given, str) else tuple(given) if isinstance(given, Iterable) else ()
    if not 0 < len(permissions) <= PERMISSIONS_MAX:
        raise ConfigError(f"what is delegated is 1 to {PERMISSIONS_MAX} permissions, such as 'payments:refund'")
    for one in permissions:
        if one != "*" and not (isinstance(one, str) and is_permission(one.removesuffix(":*"))):
            raise ConfigError(
                f"a permission is a name such as 'payments:refund', 'payments:*' or '*', not {one!r:.200}"
            )
    if sum(map(len, permissions)) > PERMISSIONS_CHARS_MAX:
        raise ConfigError(f"permissions that are delegated have at most {PERMISSIONS_CHARS_MAX} characters together")
    return permissions


def _is_duration(value: object) -> bool:
    return is_number(value) and 0 < value <= EXPIRES_IN_S_MAX
