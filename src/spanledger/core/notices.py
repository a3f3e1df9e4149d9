"""What people are told by a webhook, and how they can know that it is from us.

Rules: pure. A notice is JSON that says what happened, when, and the figures; of what agents were asked or answered
nothing but the arguments of an approval, which are shown to people as rules allow. It is signed as Standard Webhooks
say (standardwebhooks.com), so that receivers can use a library for it: the same id each time it is sent, the time of
sending, and the HMAC of both and the body.
"""

from __future__ import annotations

import base64
import dataclasses
import datetime as dt
import hashlib
import hmac
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from spanledger.core.approvals import Approval
from spanledger.core.evaluations import PASSED, Results
from spanledger.errors import ConfigError

CASES_MAX: Final = 100
_SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - what secrets begin with


@dataclass(frozen=True, slots=True)
class Notice:
    """Something that happened.

    Attributes:
        type: ``"approval.requested"`` or ``"eval.failed"``.
        id: The same however often it is sent.
        data: What there is to say, JSON but for times.
    """

    type: str
    id: str
    data: Mapping[str, Any]

    def body(self, at: str) -> bytes:
        """Write it as it is sent.

        Args:
            at: When it happened, in ISO 8601.
        """
        told = {"type": self.type, "timestamp": at, "data": self.data}
        return json.dumps(told, ensure_ascii=False, default=_written).encode("utf-8", "replace")


def notice_of(event: Approval | Results) -> Notice:
    """Make the notice of a request for consent, or of a run of a suite that failed."""
    if isinstance(event, Approval):
        return Notice("approval.requested", f"approval-{event.tenant}-{event.id}", dataclasses.asdict(event))
    if not isinstance(event, Results):
        raise TypeError(f"a webhook tells of an Approval or of Results, not of {event!r:.80}")
    names = ("run_id", "suite", "suite_version", "state", "cases", "agent", "agent_version", "environment", "elsewhere",
             "passed", "failed", "errors", "pass_rate", "weighted_pass_rate", "mean_score")  # fmt: skip
    failed = [case for case, outcome in event.by_case.items() if outcome != PASSED]
    data = {name: getattr(event, name) for name in names} | {"failed_cases": failed[:CASES_MAX]}
    return Notice("eval.failed", f"eval-{event.suite}-{event.run_id}", data)


def signed(notice_id: str, at_s: int, body: bytes, secret: str | None) -> dict[str, str]:
    """Make the headers of a notice that is sent; without a secret it is not signed.

    Args:
        notice_id: The notice's.
        at_s: When it is sent, seconds since 1970.
        body: What is sent.
        secret: What sender and receiver share; base64 where it begins with ``whsec_``, else any text.
    """
    # Ids may be of any script, and headers may not.
    known = hashlib.sha256(notice_id.encode()).hexdigest()[:32]
    headers = {"content-type": "application/json", "webhook-id": known, "webhook-timestamp": str(at_s)}
    if secret:
        told = hmac.new(key_of(secret), f"{known}.{at_s}.".encode() + body, hashlib.sha256).digest()
        headers["webhook-signature"] = f"v1,{base64.b64encode(told).decode()}"
    return headers


def key_of(secret: str) -> bytes:
    """Read a secret.

    Raises:
        ConfigError: It is empty or no text, or begins as base64 would and is none.
    """
    if not isinstance(secret, str) or not secret.isprintable():
        raise ConfigError("the secret of a webhook is printable text")
    try:
        encoded = secret.startswith(_SECRET_PREFIX)
        key = base64.b64decode(secret.removeprefix(_SECRET_PREFIX), validate=True) if encoded else secret.encode()
    except ValueError:
        raise ConfigError(f"the secret of a webhook that begins with {_SECRET_PREFIX} is base64 after it") from None
    if not key:
        raise ConfigError("the secret of a webhook is not empty; leave it out where nothing is to be signed")
    return key


def _written(value: Any) -> str:
    return value.isoformat() if isinstance(value, dt.datetime) else str(value)
