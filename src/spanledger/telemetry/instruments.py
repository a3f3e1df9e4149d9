"""The metrics we emit, over all calls whatever becomes of their spans; each is declared once.

Rules: an instrument is made from its declaration, in `metrics`. Labels have few values: no actor, no workflow, no key.
"""

from __future__ import annotations

from spanledger.telemetry import semconv
from spanledger.telemetry._declared import metric

# What was called: a tool, or a model.
_CALLED = (semconv.OPERATION_NAME, semconv.TOOL_NAME, semconv.REQUEST_MODEL)

# A call to a provider.
_ASKED = (
    semconv.OPERATION_NAME,
    semconv.PROVIDER_NAME,
    semconv.REQUEST_MODEL,
    semconv.RESPONSE_MODEL,
    semconv.SERVER_ADDRESS,
    semconv.SERVER_PORT,
)

TOKENS = (1, 4, 16, 64, 256, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216, 67108864)
SECONDS_LONG = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24, 20.48, 40.96, 81.92)
SECONDS_SHORT = (0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)

CALLS = metric(
    "spanledger.calls",
    "counter",
    "{call}",
    (*_CALLED, semconv.VERDICT),
    "Guarded calls by their last verdict; each `replay` is a side effect that did not happen twice.",
)
SAVED = metric(
    "spanledger.replays.saved",
    "counter",
    "1",
    (*_CALLED, semconv.UNIT),
    "What replays would have reserved had they run, as far as figures of metrics are exact.",
)
OUTCOMES = metric(
    "spanledger.outcomes",
    "counter",
    "{call}",
    (*_CALLED, semconv.OUTCOME),
    "Guarded calls that ran, by what the ledger keeps of them; `late`: a newer attempt owned the call; "
    "`spooled`: on disk; `lost`: nowhere.",
)
UNGUARDED = metric(
    "spanledger.calls.unguarded",
    "counter",
    "{call}",
    _CALLED,
    "Calls that ran without a verdict, because the ledger did not answer and their rule allows it.",
)
LEDGER_DURATION = metric(
    "spanledger.ledger.duration",
    "histogram",
    "s",
    (semconv.LEDGER_FUNCTION, semconv.ERROR_TYPE),
    "How long the ledger took to answer, as its caller waited.",
    buckets=SECONDS_SHORT,
)
TOOL_DURATION = metric(
    "gen_ai.execute_tool.duration",
    "histogram",
    "s",
    (semconv.OPERATION_NAME, semconv.TOOL_NAME, semconv.ERROR_TYPE),
    "How long guarded tools ran, without the time that the ledger took.",
    buckets=SECONDS_LONG,
)
SOFT_LIMITS = metric(
    "spanledger.budget.soft_limits",
    "counter",
    "{crossing}",
    (semconv.BUDGET_NAME,),
    "Calls that took a budget past its soft limit.",
)

OPERATION_DURATION = metric(
    "gen_ai.client.operation.duration",
    "histogram",
    "s",
    (*_ASKED, semconv.ERROR_TYPE),
    "How long model calls took, until all of the answer was there; those that were refused are not among them.",
    buckets=SECONDS_LONG,
)
TOKEN_USAGE = metric(
    "gen_ai.client.token.usage",
    "histogram",
    "{token}",
    (*_ASKED, semconv.TOKEN_TYPE),
    "Tokens of model calls, as the provider reports them.",
    buckets=TOKENS,
)
TIME_TO_FIRST_CHUNK = metric(
    "gen_ai.client.operation.time_to_first_chunk",
    "histogram",
    "s",
    _ASKED,
    "Seconds from the request to the first chunk of a streamed answer.",
    buckets=SECONDS_LONG,
)

# --- how the ledger stands, read in the background; every program of a tenant reports the same, so take the maximum
BUDGET_LIMIT = metric(
    "spanledger.budget.limit",
    "gauge",
    "1",
    (semconv.BUDGET_NAME, semconv.UNIT),
    "What a budget allows in its present window, top-ups included; the sum of its scopes.",
)
BUDGET_SPENT = metric(
    "spanledger.budget.spent", "gauge", "1", (semconv.BUDGET_NAME, semconv.UNIT), "What has been spent of it."
)
BUDGET_HELD = metric(
    "spanledger.budget.held",
    "gauge",
    "1",
    (semconv.BUDGET_NAME, semconv.UNIT),
    "What calls that run, or whose outcome is unknown, hold of it.",
)
APPROVALS_PENDING = metric(
    "spanledger.approvals.pending", "gauge", "{approval}", (), "Requests that wait for a person."
)
APPROVALS_AGE = metric(
    "spanledger.approvals.oldest_age",
    "gauge",
    "s",
    (),
    "How long the oldest of them has waited; absent where none does.",
)
CALLS_UNKNOWN = metric("spanledger.calls.unknown", "gauge", "{call}", (), "Calls whose outcome nobody knows.")

# --- how this machine stands
SPOOL_ENTRIES = metric(
    "spanledger.spool.entries", "gauge", "{call}", (), "Outcomes on disk that the ledger has not been told yet."
)
SPOOL_AGE = metric(
    "spanledger.spool.oldest_age", "gauge", "s", (), "How long the oldest of them has waited; absent where none does."
)
SPOOL_REFUSED = metric(
    "spanledger.spool.refused",
    "counter",
    "{call}",
    (),
    "Outcomes that could not be kept on disk either; each is in the log.",
)
SPOOL_ASIDE = metric(
    "spanledger.spool.aside",
    "gauge",
    "{call}",
    (),
    "Outcomes that the ledger will never take, or that cannot be read, set aside on disk; each is in the log.",
)

# --- what this process could not tell
TRAIL_LOST = metric(
    "spanledger.trail.lost",
    "counter",
    "{entry}",
    (),
    "Entries of the decision trace that never came to the ledger: too many waited, it refused them, or time was up.",
)
SPANS_FORGOTTEN = metric(
    "spanledger.spans.forgotten",
    "counter",
    "{span}",
    (),
    "Guarded spans whose end nobody waits for any more, because too many are open; their calls count as unknown.",
)
