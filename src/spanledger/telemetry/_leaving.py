"""The names of requests that leave: what an egress rule said of one.

Rules: as in `semconv`, which shows these names as its own; nobody imports this module but it.
"""

from __future__ import annotations

from spanledger.telemetry._declared import attribute

EGRESS_RULE = attribute(
    "spanledger.egress.rule",
    "string",
    "the event of a request that a rule is about, and calls that ended by its refusal",
    "deny *.internal",
    "The name of the egress rule.",
)
EGRESS_VERDICT = attribute(
    "spanledger.egress.verdict",
    "string",
    "the event of a request",
    "deny",
    "`allow`, `deny` or `hold`; `would_deny` in mode shadow.",
)
EGRESS_KEY = attribute(
    "spanledger.egress.idempotency_key",
    "string",
    "the event of a request that carries a key of ours",
    "0d9f6a1c-2b7e-8c11-8f0a-5d2e7c4b9a60",
    "The key, which is made of hashes; the receiver knows the request by it.",
)
EGRESS_REDACTED = attribute(
    "spanledger.egress.redacted", "int", "the event of a request that was redacted", "2", "How many places were."
)
