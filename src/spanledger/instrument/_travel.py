"""What travels with a call to a tool in another process, and what it says there.

Rules: it is the trace, the workflow and the delegation that is sent along, as `carrier` writes them, and which call the
sender has asked for. Nobody is believed because he says so: whether the call that is named runs, with these arguments
and by the attempt whose id only its maker knows, the ledger says. So a server on the same ledger does not ask a second
time for what its client has asked, nor waits for it; a server on another ledger asks its own. Where nothing can be sent
or read, the call goes on without.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

from spanledger._guard import RunningCall, current_call
from spanledger._inside import Inside
from spanledger.core.asking import Ask, Asking, Steps
from spanledger.errors import SpanledgerError
from spanledger.instrument.library import Wrap
from spanledger.telemetry.carrying import carried, carrier

logger = logging.getLogger("spanledger.instrument")

CLAIM = "spanledger/claim"
# The key as we write it, and a uuid: whoever sends something else must not spoil the question for others.
_CLAIM = re.compile("[0-9a-f]{64} [0-9a-f-]{36}")


def sent(wrap: Wrap, kwargs: dict[str, Any]) -> dict[str, Any]:
    """Put what travels with the call that is running here into its keyword arguments."""
    if wrap.sends is None:
        return kwargs
    try:
        travels: dict[str, Any] = {**carrier()}
        call = current_call()
        if call.attempt_id is not None:
            travels[CLAIM] = {"key": call.key, "attempt_id": call.attempt_id}
        return wrap.sends(kwargs, travels)
    except Exception:
        logger.warning("nothing can be sent with a call of %s", wrap.target, exc_info=True)
        return kwargs


def received(wrap: Wrap, instance: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
    """Read what travelled with a call."""
    if wrap.receives is None:
        return {}
    try:
        return wrap.receives(instance, args, kwargs)
    except Exception:
        logger.warning("what came with a call of %s cannot be read", wrap.target, exc_info=True)
        return {}


def within(travelled: Mapping[str, Any]) -> AbstractContextManager[None]:
    """Go on with the sender's trace and workflow, under the delegation that was sent."""
    return carried(travelled) if travelled else contextlib.nullcontext()


def asked_before(asking: Asking, travelled: Mapping[str, Any]) -> Steps[Asking | Inside | RunningCall]:
    """Find out whether the sender has asked for this very call.

    Returns:
        What to ask; or the sender's call, which runs and stands for this one.
    """
    claim = travelled.get(CLAIM)
    if not isinstance(claim, Mapping) or not _CLAIM.fullmatch(f"{claim.get('key')} {claim.get('attempt_id')}"):
        return asking
    item = {
        "key": claim["key"],
        "attempt_id": claim["attempt_id"],
        "tool": asking.call.name,
        "fingerprint": asking.identity.fingerprint,
    }
    try:
        runs = (yield Ask("peek", asking.tenant, item))["runs"]
    except SpanledgerError:
        # Asking for the call itself will say what is wrong with the ledger.
        return asking
    if not runs:
        return asking
    return RunningCall(
        key=item["key"],
        attempt_id=item["attempt_id"],
        name=asking.call.name,
        call_id=asking.call.call_id,
        fingerprint=asking.identity.fingerprint,
        source=asking.identity.source,
    )
