"""Without an OPENAI_API_KEY, or ANTHROPIC_API_KEY, the examples talk to a scripted model on loopback instead."""

import os

from spanledger.testing import ModelServer, refund_script

model = ModelServer(refund_script()).__enter__()
if "OPENAI_API_KEY" not in os.environ:
    os.environ |= {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "offline", "OPENAI_AGENTS_DISABLE_TRACING": "1"}
if "ANTHROPIC_API_KEY" not in os.environ:
    os.environ |= {"ANTHROPIC_BASE_URL": model.anthropic_url, "ANTHROPIC_API_KEY": "offline"}
