"""OpenAI's tool runner: `openai.lib.responses_tool_runner`.

Rules: what a function raises ends the run, as an error of the runner's own that does not say why; a refusal ends it as
what it is. A run with a ledger of the SDK's own has an id, which is the scope; a replayed result goes to the id that
asks now.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.call import Call
from spanledger.core.values import decode, exactly
from spanledger.instrument.library import TELL, Wrap, no_call

_RUNNER = "openai.lib.responses_tool_runner"


def describe(_runner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `_execute_function`."""
    given = {**dict(zip(("run", "item"), args, strict=False)), **kwargs}
    run, item = given["run"], given["item"]
    run_id = None if run.ledger is None else run.ledger.run_id
    return Call(
        name=item.name,
        arguments=run.arguments[item.call_id],
        call_id=item.call_id,
        workflow_id=run_id,
    )


def tell(call: Call, error: Exception) -> Any:
    """Make the output that tells the model of a refusal."""
    return {"type": "function_call_output", "call_id": call.call_id, "output": f"Not done: {error}"}


class OutputCodec:
    """Keeps the output of a function; the id is that of whoever asks."""

    def encode(self, result: Any) -> Any:
        """Turn an output item into a JSON tree."""
        return exactly(result["output"])

    def decode(self, tree: Any, call: Call) -> Any:
        """Turn a tree, or what a probe found out, into an output item."""
        value = decode(tree)
        output = value if isinstance(value, str | list) else str(value)
        return {"type": "function_call_output", "call_id": call.call_id, "output": output}


WRAPS = (
    *(
        Wrap(f"{_RUNNER}:{cls}._execute_function", describe, codec=OutputCodec(), tell=tell, versions=">=3.31")
        for cls in ("ResponsesToolRunner", "AsyncResponsesToolRunner")
    ),
    Wrap(f"{_RUNNER}:_Run.error", no_call, TELL, versions=">=3.31"),
)
