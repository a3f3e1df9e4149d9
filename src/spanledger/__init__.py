"""AI agents retry. Their side effects shouldn't.

The public names of spanledger, and nothing else. See the README for how they go together.
"""

from spanledger import errors
from spanledger._setup import GuardrailSpanProcessor, instrument, uninstrument
from spanledger.config import Config
from spanledger.core.budgets import Balance, Budget
from spanledger.core.call import Begun, Call, Codec, Resolution, Resource, ToolCall, Usage, Verdict
from spanledger.core.money import Calls, Money, Tokens
from spanledger.core.rules import Rule
from spanledger.guard import current_call
from spanledger.instrument._patch import Report
from spanledger.instrument.library import Library, Wrap
from spanledger.instrument.tool import tool, tool_call
from spanledger.ledger._ledger import AsyncLedger, Ledger
from spanledger.telemetry.decision import current_workflow, decide, step, workflow

__all__ = [
    "AsyncLedger",
    "Balance",
    "Begun",
    "Budget",
    "Call",
    "Calls",
    "Codec",
    "Config",
    "GuardrailSpanProcessor",
    "Ledger",
    "Library",
    "Money",
    "Report",
    "Resolution",
    "Resource",
    "Rule",
    "Tokens",
    "ToolCall",
    "Usage",
    "Verdict",
    "Wrap",
    "current_call",
    "current_workflow",
    "decide",
    "errors",
    "instrument",
    "step",
    "tool",
    "tool_call",
    "uninstrument",
    "workflow",
]
