"""Without an OPENAI_API_KEY, the examples talk to a scripted model on loopback instead of OpenAI."""

import os

from spanledger.testing import ModelServer, refund_script

if "OPENAI_API_KEY" not in os.environ:
    model = ModelServer(refund_script()).__enter__()
    os.environ |= {"OPENAI_BASE_URL": model.url, "OPENAI_API_KEY": "offline"}
