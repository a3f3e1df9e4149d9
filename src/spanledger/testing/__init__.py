"""The outside world of an agent, on loopback: a model, a payment provider, a telemetry backend.

Rules: every server speaks its real protocol, so that unmodified clients talk to it; each binds to
127.0.0.1 on a free port, lives inside a `with` block and never hangs on the way out. What a server saw is
read as snapshots of frozen data. Nothing here imports the rest of spanledger, and importing this package
loads the standard library only.

    with ModelServer(lambda request: Say("hello")) as model, PaymentProvider() as payments:
        client = OpenAI(base_url=model.url, api_key="offline")

On a command line, `python -m spanledger.testing COMMAND` runs a program against them.
"""

from spanledger.testing.model_server import CallTool, Counted, Fail, ModelServer, Raw, Say, call_tool_once
from spanledger.testing.otlp import OtlpGrpcReceiver, OtlpReceiver, ReceivedSpan
from spanledger.testing.payments import PaymentProvider, Refund
from spanledger.testing.refunds import refund_script

__all__ = [
    "CallTool",
    "Counted",
    "Fail",
    "ModelServer",
    "OtlpGrpcReceiver",
    "OtlpReceiver",
    "PaymentProvider",
    "Raw",
    "ReceivedSpan",
    "Refund",
    "Say",
    "call_tool_once",
    "refund_script",
]
