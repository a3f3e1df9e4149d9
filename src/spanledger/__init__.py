"""AI agents retry. Their side effects shouldn't.

The public names of spanledger, and nothing else. See the README for how they go together.
"""

from spanledger import errors
from spanledger._guard import current_call
from spanledger._setup import GuardrailSpanProcessor, instrument, uninstrument
from spanledger.acting import sending
from spanledger.config import Config
from spanledger.core.approvals import Approval, over
from spanledger.core.budgets import Balance, Budget
from spanledger.core.call import Begun, Call, Codec, Resolution, Resource, ToolCall, Usage, Verdict
from spanledger.core.connectors import Answer, Connector, Credential
from spanledger.core.controls import Rate, Switch
from spanledger.core.delegations import Delegation
from spanledger.core.egress import EgressRule
from spanledger.core.grants import Authorization, Grant
from spanledger.core.money import Calls, Money, Tokens
from spanledger.core.prices import Price
from spanledger.core.redaction import Redact
from spanledger.core.rules import Rule
from spanledger.encryption import EncryptingCodec
from spanledger.instrument._patch import Report
from spanledger.instrument.authority import authorize, ensure_authorized, has_permission
from spanledger.instrument.connecting import (
    connectors,
    invoke,
    invoke_awaiting,
    mint_credential,
    mint_credential_awaiting,
)
from spanledger.instrument.delegating import delegate, delegated
from spanledger.instrument.gateway import guard
from spanledger.instrument.governing import governed_client, tracked_client
from spanledger.instrument.library import Library, Wrap
from spanledger.instrument.recording import record_event, record_llm_call, record_tool_call
from spanledger.instrument.tool import tool, tool_call
from spanledger.ledger._async_ledger import AsyncLedger
from spanledger.ledger._ledger import Ledger
from spanledger.telemetry.carrying import carried, carrier
from spanledger.telemetry.decision import current_workflow, decide, step, workflow
from spanledger.telemetry.sessions import session
from spanledger.webhooks import webhook

__all__ = [
    "Answer",
    "Approval",
    "AsyncLedger",
    "Authorization",
    "Balance",
    "Begun",
    "Budget",
    "Call",
    "Calls",
    "Codec",
    "Config",
    "Connector",
    "Credential",
    "Delegation",
    "EgressRule",
    "EncryptingCodec",
    "Grant",
    "GuardrailSpanProcessor",
    "Ledger",
    "Library",
    "Money",
    "Price",
    "Rate",
    "Redact",
    "Report",
    "Resolution",
    "Resource",
    "Rule",
    "Switch",
    "Tokens",
    "ToolCall",
    "Usage",
    "Verdict",
    "Wrap",
    "authorize",
    "carried",
    "carrier",
    "connectors",
    "current_call",
    "current_workflow",
    "decide",
    "delegate",
    "delegated",
    "ensure_authorized",
    "errors",
    "governed_client",
    "guard",
    "has_permission",
    "instrument",
    "invoke",
    "invoke_awaiting",
    "mint_credential",
    "mint_credential_awaiting",
    "over",
    "record_event",
    "record_llm_call",
    "record_tool_call",
    "sending",
    "session",
    "step",
    "tool",
    "tool_call",
    "tracked_client",
    "uninstrument",
    "webhook",
    "workflow",
]
