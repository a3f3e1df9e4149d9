"""The attributes and events we emit, each declared once with its meaning.

Rules: `gen_ai.*` names are those of the GenAI semantic conventions, written here as strings because the Python
constants for them are deprecated in place. Ours live under `spanledger.*`; all of them have stability
*development*. Idempotency keys are hashes and stay in our namespace: the conventions forbid them in theirs. A name that
is only read, from other instrumentations, is not declared here. Metrics are declared in `instruments`. The page
CONVENTIONS.md is made from both; after a change write it anew: `python -m spanledger.telemetry.conventions`.
"""

# ruff: noqa: F403, F405  names of other conventions are shown here as well: one place to read names from
from __future__ import annotations

from spanledger.telemetry._declared import attribute, event
from spanledger.telemetry._evaluated import *
from spanledger.telemetry._genai import *
from spanledger.telemetry._leaving import *

# --- ours: what the ledger said
VERDICT = attribute(
    "spanledger.verdict",
    "string",
    "every guarded span",
    "run",
    "The ledger's answer: `run`, `replay`, `budget_exceeded`, …",
)
REASON = attribute(
    "spanledger.verdict.reason", "string", "refusals", "budget 'refunds' has 5.00 EUR left", "Why not, in words."
)
CALL_KEY = attribute(
    "spanledger.call.key",
    "string",
    "every guarded span, and the link of a replay",
    "7f3b0c…",
    "The idempotency key, a hash; finds the ledger's row.",
)
KEY_SOURCE = attribute(
    "spanledger.call.key_source",
    "string",
    "every guarded span",
    "arguments",
    "What made the key: `arguments`, `fields`, `resource`, `call_id`, `occurrence`, `explicit` or `none`.",
)
OCCURRENCE = attribute(
    "spanledger.call.occurrence",
    "int",
    "guarded spans of key source `occurrence`",
    "2",
    "Which of the identical calls of its run it is, from 1.",
)
ATTEMPT = attribute(
    "spanledger.call.attempt",
    "int",
    "guarded spans that ran or were replayed",
    "1",
    "The fencing number of this attempt; of a replay, the attempt that ran.",
)
OUTCOME = attribute(
    "spanledger.call.outcome",
    "string",
    "guarded spans that ran",
    "succeeded",
    "What the ledger keeps: `succeeded`, `failed` or `unknown`; `spooled`: on disk, and told later.",
)
QUEUED = attribute(
    "spanledger.call.queued",
    "boolean",
    "guarded spans that ended on an event loop",
    "true",
    "True where the ledger is told the outcome within moments, after the span has ended.",
)
RESULT_KEPT = attribute(
    "spanledger.call.result_kept",
    "boolean",
    "guarded spans that succeeded",
    "true",
    "Whether a later call can be given this result.",
)
LATE = attribute(
    "spanledger.call.late",
    "boolean",
    "guarded spans that settled late",
    "true",
    "True where a newer attempt owned the call by the time this one settled.",
)
ARGUMENTS_DIFFER = attribute(
    "spanledger.call.arguments_differ",
    "boolean",
    "replays",
    "true",
    "True where a replay was first asked for with other arguments.",
)
PROBED = attribute(
    "spanledger.call.probed",
    "string",
    "guarded spans whose rule has a probe that was asked",
    "succeeded",
    "What a probe found out about an earlier attempt of unknown outcome.",
)
RULE = attribute("spanledger.rule", "string", "guarded spans", "refund", "The `match` of the rule that named the call.")
UNGUARDED = attribute(
    "spanledger.unguarded",
    "boolean",
    "spans that ran without a verdict",
    "true",
    "True where the ledger did not answer and the rule let the call run.",
)

# --- ours: the workflow around
WORKFLOW_ID = attribute(
    "spanledger.workflow.id", "string", "guarded spans and workflows", "order-123", "The scope of idempotency."
)
WORKFLOW_SOURCE = attribute(
    "spanledger.workflow.source",
    "string",
    "guarded spans",
    "given",
    "Where the id came from: `given`, `environment`, `framework`, `conversation`, `baggage`, `trace` or `process`.",
)
WORKFLOW_GOAL = attribute(
    "spanledger.workflow.goal", "string", "spans of workflows", "refund order 123", "What for, as `workflow` was told."
)
CALLER = attribute(
    "spanledger.workflow.caller", "string", "workflows called from elsewhere", "order-123", "Whom the caller acts for."
)
ACTOR = attribute(
    "spanledger.actor", "string", "guarded spans and workflows", "u_42", "On whose behalf the agent acts."
)

# --- ours: budgets and cost
BUDGETS = attribute(
    "spanledger.budget.names",
    "string[]",
    "guarded spans that a budget covers",
    '["refunds"]',
    "Budgets this call reserved from, or the one that refused it.",
)
BUDGETS_BEFORE = attribute(
    "spanledger.budget.before",
    "string[]",
    "guarded spans that a budget covers",
    '["500.00 EUR"]',
    "What each had left.",
)
BUDGETS_REMAINING = attribute(
    "spanledger.budget.remaining", "string[]", "calls that a budget covers", '["490.00 EUR"]', "What each has left."
)
BUDGET_LIMIT = attribute(
    "spanledger.budget.limit",
    "string",
    "calls over budget",
    "500.00 EUR",
    "The limit of the budget that refused the call.",
)
BUDGET_REQUESTED = attribute(
    "spanledger.budget.requested", "string", "calls over budget", "600.00 EUR", "What the refused call asked for."
)
BUDGET_PROJECTED = attribute(
    "spanledger.budget.projected",
    "string",
    "calls over budget",
    "610.00 EUR",
    "Where the budget would have stood with the refused call: spent, held and requested together.",
)
BUDGET_NAME = attribute(
    "spanledger.budget.name",
    "string",
    "the event and the metrics of budgets",
    "refunds",
    "The budget an event or a metric is about.",
)
BUDGET_SOFT_LIMIT = attribute(
    "spanledger.budget.soft_limit", "string", "the event of the same name", "400.00 EUR", "Its soft limit."
)
BUDGET_REMAINING = attribute(
    "spanledger.budget.left",
    "string",
    "the event of a soft limit",
    "90.00 EUR",
    "What the budget has left after the call.",
)
RESERVED = attribute(
    "spanledger.reserved", "string[]", "guarded spans that run", '["10.00 EUR"]', "What the call reserved."
)
COST = attribute(
    "spanledger.cost",
    "string[]",
    "spans whose cost is known",
    '["0.000125 USD"]',
    "What the call was charged or priced at.",
)

# --- ours: approvals
APPROVAL_ID = attribute(
    "spanledger.approval.id",
    "string",
    "guarded spans that need a person",
    "6d1c9c9e-…",
    "The request for a person's consent that this call waits for, or ran by.",
)
APPROVER = attribute(
    "spanledger.approval.approver", "string", "calls that a person decided", "ops@example.com", "Who said no, or yes."
)
WOULD_HAVE = attribute(
    "spanledger.shadow.verdict",
    "string",
    "calls that were passed over in mode shadow",
    "budget_exceeded",
    "The verdict that the call would have had; it ran.",
)
PERMISSIONS = attribute(
    "spanledger.permission.needed",
    "string[]",
    "guarded spans that need a permission",
    '["payments:refund"]',
    "What a grant has to permit.",
)
GRANTS = attribute(
    "spanledger.permission.grants",
    "string[]",
    "guarded spans whose permission a grant decided",
    '["payments:* to agent support (version 2)"]',
    "Which grants decided, in the order of the permissions.",
)
PERMISSION = attribute(
    "spanledger.permission", "string", "the event of a question", "payments:refund", "What was asked for."
)
PERMITTED = attribute("spanledger.permission.allowed", "boolean", "the event of a question", "true", "The answer.")
DELEGATION_ID = attribute(
    "spanledger.delegation.id",
    "string",
    "guarded spans of calls that act under a delegation",
    "6d1c9c9e-…",
    "The delegation, in the ledger.",
)
DELEGATION_CHAIN = attribute(
    "spanledger.delegation.chain",
    "string[]",
    "guarded spans of calls that act under a delegation",
    '["0f6a…", "6d1c9c9e-…"]',
    "All delegations that it comes from, the first of them first, and itself.",
)
DELEGATION_AGENTS = attribute(
    "spanledger.delegation.agents",
    "string[]",
    "guarded spans of calls that act under a delegation",
    '["support", "billing", "refunds"]',
    "Who passed it on to whom, the first of them first; empty for an agent without a name.",
)

# --- ours: the decision trace
STEP_TEXT = attribute(
    "spanledger.step.text", "string", "the event of a step", "the customer is entitled", "What the agent thought."
)
DECISION_NAME = attribute(
    "spanledger.decision.name", "string", "the event of a decision", "method", "What was to be decided."
)
DECISION_OPTIONS = attribute(
    "spanledger.decision.options", "string[]", "the event of a decision", '["card", "voucher"]', "Among what."
)
DECISION_CHOSEN = attribute(
    "spanledger.decision.chosen", "string", "the event of a decision", "card", "What was chosen."
)
DECISION_BECAUSE = attribute(
    "spanledger.decision.because", "string", "the event of a decision that says why", "paid by card", "Why."
)
DECISION_CONFIDENCE = attribute(
    "spanledger.decision.confidence",
    "double",
    "the event of a decision that has such a figure",
    "0.9",
    "Between 0 and 1.",
)

# --- ours: what is said
MESSAGES_CUT = attribute(
    "spanledger.messages.cut",
    "string[]",
    "spans and events of model calls whose messages are too long to be recorded whole",
    '["gen_ai.input.messages"]',
    "The attributes of which something is missing: of long texts the end, of many messages the first ones.",
)

# --- ours: what a program has recorded by itself
RECORDED = attribute(
    "spanledger.recorded",
    "boolean",
    "spans of calls that were recorded after they were made",
    "true",
    "True where nothing was decided: the call was recorded, not guarded.",
)
EVENT_NAME = attribute(
    "spanledger.event.name", "string", "events of the program's own", "escalated", "What happened, in its own words."
)
EVENT_DETAIL = attribute(
    "spanledger.event.detail", "string", "events of the program's own", '{"to": "ada"}', "What else it says, as JSON."
)

# --- ours: labels of metrics alone
UNIT = attribute(
    "spanledger.unit", "string", "metrics of amounts", "EUR", "What is counted: a currency, `tokens` or `calls`."
)
TOKEN_TYPE = attribute(
    "gen_ai.token.type", "string", "the metric of tokens", "input", "Which tokens are counted: `input` or `output`."
)
LEDGER_FUNCTION = attribute(
    "spanledger.ledger.function", "string", "the metric of the ledger", "begin", "What the ledger was asked."
)

# --- events
EVENT_STEP = event("spanledger.step", "on the span of a workflow", (STEP_TEXT,), "A step of reasoning.")
EVENT_DECISION = event(
    "spanledger.decision",
    "on the span of a workflow",
    (DECISION_NAME, DECISION_OPTIONS, DECISION_CHOSEN, DECISION_BECAUSE, DECISION_CONFIDENCE),
    "What the agent chose, among what, and why.",
)
EVENT_EVENT = event(
    "spanledger.event",
    "on the span of a workflow, else on the span around it",
    (EVENT_NAME, EVENT_DETAIL),
    "The program has recorded an event of its own.",
)
EVENT_PERMISSION = event(
    "spanledger.permission",
    "on the span around the question",
    (PERMISSION, PERMITTED, GRANTS, REASON),
    "The program asked whether something is permitted.",
)
USAGE_SOURCE = attribute(
    "spanledger.usage.source",
    "string",
    "spans of model calls that reserved something, once they are answered",
    "reported",
    "Where the cost comes from: `reported` by the provider; `estimated` from what was seen, because the call ended "
    "early; `reserved`: no usage was reported, so what was reserved stays spent.",
)
EVENT_SOFT_LIMIT = event(
    "spanledger.budget.soft_limit",
    "on the span of the call",
    (BUDGET_NAME, BUDGET_SOFT_LIMIT, BUDGET_REMAINING),
    "This call took a budget past its soft limit.",
)

EVENT_CONTENT = event(
    "spanledger.call.content",
    "a log record where events with content are asked for: one when a tool is called, one when it has returned",
    (TOOL_NAME, TOOL_CALL_ID, TOOL_CALL_ARGUMENTS, TOOL_CALL_RESULT, CALL_KEY),
    "What a tool is called with, or what it has returned, without what its rule redacts.",
)
EVENT_REFUSED = event(
    "spanledger.call.refused",
    "a log record of severity WARN, sampled or not",
    (OPERATION_NAME, TOOL_NAME, REQUEST_MODEL, VERDICT, REASON, CALL_KEY, WORKFLOW_ID, RULE, ERROR_TYPE),
    "A call was not let run, or not yet.",
)
EVENT_OUTCOME_UNKNOWN = event(
    "spanledger.call.outcome_unknown",
    "a log record of severity WARN, sampled or not",
    (OPERATION_NAME, TOOL_NAME, REQUEST_MODEL, CALL_KEY, OUTCOME, ATTEMPT),
    "A call may have taken effect and nobody knows.",
)
EVENT_INFERENCE = event(
    "gen_ai.client.inference.operation.details",
    "a log record where events are asked for, one for each model call",
    (
        *(OPERATION_NAME, PROVIDER_NAME, AGENT_NAME, CONVERSATION_ID, SERVER_ADDRESS, SERVER_PORT, ERROR_TYPE, COST),
        *(REQUEST_MODEL, REQUEST_STREAM, REQUEST_MAX_TOKENS, REQUEST_TEMPERATURE, REQUEST_TOP_P),
        *(RESPONSE_MODEL, RESPONSE_ID, RESPONSE_FINISH_REASONS, RESPONSE_TIME_TO_FIRST_CHUNK),
        *(USAGE_INPUT_TOKENS, USAGE_OUTPUT_TOKENS, USAGE_REASONING_TOKENS),
        *(USAGE_CACHE_READ_TOKENS, USAGE_CACHE_WRITE_TOKENS),
        *(INPUT_MESSAGES, OUTPUT_MESSAGES, SYSTEM_INSTRUCTIONS, TOOL_DEFINITIONS, MESSAGES_CUT),
    ),
    "How a model call went, and where content is captured in events, what was said, without what rules redact.",
)

# --- ours: what leaves
EVENT_EGRESS = event(
    "spanledger.egress",
    "on the span that is current where an HTTP request leaves a guarded tool; a refusal is a log record of severity "
    "WARN as well, sampled or not",
    (HTTP_METHOD, SERVER_ADDRESS, URL_TEMPLATE, EGRESS_RULE, EGRESS_VERDICT, EGRESS_KEY, EGRESS_REDACTED, REASON,
     CALL_KEY),
    "A request leaves, or was kept from it.",
)  # fmt: skip
