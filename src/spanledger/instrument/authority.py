"""Asking whether something is permitted, in programs that decide by themselves what to do.

Rules: who asks, for whom and in which workflow is what is around the code. `authorize` and `ensure_authorized` ask the
ledger, which keeps the answer. `has_permission` decides nothing: it answers from what the ledger said a while ago, and
a call that needs the permission is decided when it begins. They block; on an event loop, `asyncio.to_thread` takes what
is around the code along.
"""

from __future__ import annotations

import json
import logging
import threading
import time
import uuid
from collections.abc import Mapping
from typing import Any, Final
from weakref import WeakKeyDictionary

from opentelemetry import trace
from opentelemetry.trace import Span

from spanledger._guard import Guard, ambient
from spanledger.config import Config
from spanledger.core.asking import Steps
from spanledger.core.authority import Authority
from spanledger.core.grants import Authorization, asked_item, authorized, denied, permits, permitted, permitted_to
from spanledger.core.money import Amount
from spanledger.core.values import encode
from spanledger.errors import ConfigError, LedgerUnavailable, NotAuthorized
from spanledger.instrument import _runtime
from spanledger.instrument._engine import Engine
from spanledger.instrument.delegating import whose_authority
from spanledger.telemetry import record

logger = logging.getLogger("spanledger.instrument")

KNOWN_FOR_S: Final = 30.0
KNOWN_MAX: Final = 1024
CONTEXT_BYTES_MAX: Final = 4096

_Whose = tuple[str, str | None, str | None, str | None]
# Of an engine that is gone nothing is known: the next one may ask another ledger.
_known: WeakKeyDictionary[Engine, dict[_Whose, tuple[float, list[dict[str, Any]]]]] = WeakKeyDictionary()
_lock = threading.Lock()


def authorize(permission: str, amount: Amount | None = None, **context: Any) -> Authorization:
    """Ask whether the agent around this code may do something.

    Args:
        permission: For example ``"payments:refund"``.
        amount: What it would cost.
        **context: What else people shall read beside the answer, without what any rule redacts. It decides nothing.

    Returns:
        The answer, true where it is granted, with the reason and the grant that decided. In mode "off" all is granted.

    Raises:
        ConfigError: That is no permission or no amount, or a context of more than 4,096 bytes.
        Undescribable: A context that is no JSON.
        LedgerUnavailable: Nobody can say.
    """
    engine = _runtime.engine()
    if engine is None:
        return Authorization(permission, allowed=True)
    span = trace.get_current_span()
    answer = engine.guard.blocking.drive(_asked(engine.guard, permission, amount, span, context))
    record.permission(span, answer)
    return answer


async def authorize_awaiting(permission: str, amount: Amount | None = None, **context: Any) -> Authorization:
    """As `authorize`, awaited."""
    engine = _runtime.engine()
    if engine is None:
        return Authorization(permission, allowed=True)
    span = trace.get_current_span()
    answer = await engine.guard.awaiting.drive(_asked(engine.guard, permission, amount, span, context))
    record.permission(span, answer)
    return answer


def _asked(
    guard: Guard, permission: str, amount: Amount | None, span: Span, context: Mapping[str, Any]
) -> Steps[Authorization]:
    shown = {"context": _shown(guard.config, context)} if context else {}
    try:
        tenant, whose, authority = whose_authority(guard)
    except NotAuthorized as error:
        return Authorization(permission, allowed=False, reason=error.reason)
    around = ambient()
    traced = record.trace_of(span)
    where = {"workflow_id": (around.workflow_id or None) if around else None}
    if traced is not None:
        where |= {"trace_id": traced.trace_id, "span_id": traced.span_id}
    acts = {} if authority is None else {"delegation": authority.shown}
    item = asked_item(str(uuid.uuid4()), permission, amount, whose | where | acts | shown)
    return (yield from authorized(tenant, item))


def _shown(config: Config, context: Mapping[str, Any]) -> str:
    places = tuple(one for rule in config.rules for one in rule.redact)
    text = config.redactor(places).text(json.dumps(encode(dict(context)), ensure_ascii=False))
    if len(text.encode()) > CONTEXT_BYTES_MAX:
        raise ConfigError(
            f"the context of a question is at most {CONTEXT_BYTES_MAX} bytes: tell what people shall read"
        )
    return text


def ensure_authorized(permission: str, amount: Amount | None = None, **context: Any) -> Authorization:
    """As `authorize`, where nothing shall go on without it.

    In mode "shadow" all goes on, also where nobody can say, and what would not is logged.

    Raises:
        NotAuthorized: It is not granted; or only with a person's approval, which is given to a call: guard the function
            that does it, with a rule that names the permission.
        LedgerUnavailable: Nobody can say.
    """
    engine = _runtime.engine()
    shadow = engine is not None and engine.guard.config.mode == "shadow"
    try:
        answer = authorize(permission, amount, **context)
    except LedgerUnavailable as error:
        if not shadow:
            raise
        answer = Authorization(permission, allowed=False, reason=str(error))
    if answer and not answer.approval:
        return answer
    reason = answer.reason or "a person has to approve each call"
    if shadow:
        logger.warning("shadow: %s goes on; enforced, it would be refused: %s", permission, reason)
        return answer
    raise NotAuthorized(f"not permitted: {permission!r}: {reason}", permission=permission, reason=reason,
                        grant=answer.grant, delegation=answer.delegation)  # fmt: skip


def has_permission(permission: str) -> bool:
    """Tell whether something is granted to the agent around this code, whatever it costs, without asking each time.

    What it knows is at most 30 s old. While the ledger does not answer it knows of nothing that is granted.
    """
    engine = _runtime.engine()
    if engine is None:
        return True
    try:
        tenant, whose, authority = whose_authority(engine.guard)
        own = _grants(engine, tenant, whose, None)
        if authority is None:
            return permitted(own[0], permission, own[1])
        given = _grants(engine, tenant, whose, authority)
    except NotAuthorized:
        return False
    except LedgerUnavailable:
        logger.warning("whether %s is granted is not known: the ledger does not answer", permission)
        return False
    held = any(permits(one, permission) for one in authority.permissions)
    return held and permitted(given[0], permission, given[1]) and not denied(own[0], permission, own[1])


def _grants(
    engine: Engine, tenant: str, whose: dict[str, str | None], authority: Authority | None
) -> tuple[list[dict[str, Any]], float]:
    """Return which grants are in force, and how many seconds ago that was so."""
    alike = (tenant, whose["agent"], whose["actor"], authority.id if authority else None)
    with _lock:
        known = _known.setdefault(engine, {})
        at_s, grants = known.get(alike, (0.0, []))
    now_s = time.monotonic()
    if not at_s or now_s - at_s > KNOWN_FOR_S:
        acts = {} if authority is None else {"delegation": authority.shown}
        grants = engine.guard.blocking.drive(permitted_to(tenant, whose | acts))
        with _lock:
            if len(known) >= KNOWN_MAX:
                known.clear()
            known[alike] = (at_s := now_s), grants
    return grants, now_s - at_s
