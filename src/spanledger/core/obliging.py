"""What grants redact, beside what rules do: kept from telemetry and people, and from whoever is called.

Rules: the ledger says it when a call asks, and lets it begin once the caller has said that it keeps it. What a rule
redacts is not to be seen, and the tool has it; what a grant redacts the tool does not have either. So arguments in
which something of it stands are passed on without it, by whoever can, and by nobody else. Where that cannot be done,
the caller says that it cannot, and the ledger refuses, and keeps that.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from spanledger.core.asking import Asking
from spanledger.core.call import Begun
from spanledger.core.content import Content
from spanledger.core.frozen import changed
from spanledger.core.redaction import Redact, redacted_by
from spanledger.errors import SpanledgerError


def obligations(begun: Begun) -> tuple[Redact, ...]:
    """Return what grants redact of a call, as the ledger's answer says."""
    details = begun.details
    if not ("grants" in details or "redact" in details or "obliges" in details):
        return ()
    granted = [one for grant in details.get("grants") or () for one in grant.get("redact", ())]
    return redacted_by([*granted, *details.get("redact", ()), *details.get("obliges", ())])


def obliged(asking: Asking, begun: Begun) -> Asking:
    """Make the question, or what is known of the call, such that it keeps what grants redact."""
    held = asking.obliged or ()
    more = tuple(one for one in obligations(begun) if one not in held)
    if not more:
        return asking
    content = also(asking.content, more, asking.call.arguments)
    copy, canonical = asking.arguments, asking.identity.arguments
    if copy is not None and canonical is not None:
        copy = content.arguments(canonical, len(canonical))
    return changed(asking, content=content, arguments=copy, obliged=(*held, *more))


def asking_again(asking: Asking, begun: Begun) -> Asking:
    """Make the question that follows an answer which obliges; where that cannot be kept, one that will be refused."""
    held = obliged(asking, begun)
    return changed(asking, obliged=None) if passed_on(held) is None else held


def passed_on(asking: Asking) -> Mapping[str, Any] | None:
    """Return the arguments that whoever is called may have; None where these cannot be given to them."""
    call = asking.call
    if not isinstance(call.arguments, Mapping):
        return None
    redactor = asking.content.redactor.of(asking.obliged or (), call.arguments)
    if not redactor.hides(call.arguments):
        return call.arguments
    # What JSON cannot say would come out as something else.
    if not call.passed_on or not _is_json(call.arguments):
        return None
    seen = redactor.tree(call.arguments)
    return seen if isinstance(seen, dict) else None


def also(content: Content, redact: tuple[Redact, ...], arguments: Any) -> Content:
    """Make what may be seen of a call of which grants redact more."""
    if not redact:
        return content
    return changed(content, redactor=content.redactor.of((*redact, *content.redactor.redact), arguments))


def answered(error: SpanledgerError, asking: Asking, begun: Begun) -> SpanledgerError:
    """Say with a refusal what grants redact: until the ledger has answered, nobody knows what may be seen."""
    error._redact = tuple(dict.fromkeys([*(asking.obliged or ()), *obligations(begun)]))  # noqa: SLF001 - our own class
    return error


def _is_json(value: Any) -> bool:
    try:
        return bool(json.loads(json.dumps(value)) == value)
    except (TypeError, ValueError, RecursionError):
        return False
