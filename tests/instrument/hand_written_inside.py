"""A hand-written span of the refund, for nesting."""

from __future__ import annotations

import json
from contextlib import AbstractContextManager
from typing import Any

from opentelemetry import trace


def SPAN(order_id: str) -> AbstractContextManager[Any]:
    attributes = {
        "gen_ai.operation.name": "execute_tool",
        "gen_ai.tool.name": "refund",
        "gen_ai.tool.call.arguments": json.dumps({"order_id": order_id}),
    }
    return trace.get_tracer("inside").start_as_current_span("execute_tool refund", attributes=attributes)
