"""Prove the gate on tracers of vendors, each installed from the package index in an environment of its own.

    python -m tests.vendors

Rules: these are heavy, and pull in much that the suite does not need. A vendor's tracer begins spans without the SDK. A
refused span does not run its body, a replayed one gives back its result, and the vendor's own spans stay as they are.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import textwrap
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
RUN_MAX_S = 600.0
# What to install, how its provider is made, and its settings: nothing is to leave this machine.
VENDORS = {
    "ddtrace": (
        "from ddtrace.opentelemetry import TracerProvider",
        {
            "DD_TRACE_OTEL_ENABLED": "true",
            "DD_TRACE_AGENT_URL": "http://127.0.0.1:9",
            "DD_INSTRUMENTATION_TELEMETRY_ENABLED": "false",
            "DD_REMOTE_CONFIGURATION_ENABLED": "false",
        },
    ),
}
PROGRAM = """
    import json
    from opentelemetry import trace
    import spanledger
    from spanledger import Budget, Calls, Config, Rule, errors, workflow

    {provider}
    GUARD = Config(rules=[Rule("refund", identity="arguments")], budgets=[Budget("two", Calls(2))])
    if {late}:
        spanledger.instrument(GUARD, libraries=[])
    trace.set_tracer_provider(TracerProvider())
    if not {late}:
        spanledger.instrument(GUARD, libraries=[])
    tracer = trace.get_tracer("test")
    assert not type(tracer).__module__.startswith("opentelemetry"), type(tracer)

    def refund(number):
        attributes = {{"gen_ai.tool.call.arguments": json.dumps({{"number": number}})}}
        try:
            with tracer.start_as_current_span("execute_tool refund", attributes=attributes) as span:
                span.set_attribute("gen_ai.tool.call.result", json.dumps(number))
                with tracer.start_as_current_span("inside"):
                    return "ran"
        except errors.CallReplayed as replayed:
            return f"replayed {{replayed.result}}"
        except errors.BudgetExceeded:
            return "refused"

    with workflow("w"):
        said = [refund(number) for number in (1, 1, 2, 3)]
    assert said == ["ran", "replayed 1", "ran", "refused"], said
    print("guarded")
"""


def main() -> int:
    """Try each; 1 if one is not guarded."""
    return max([proven(name) for name in VENDORS])


def proven(name: str) -> int:
    """Install a vendor's package and run the program on its provider, installed before the guard and after it."""
    provider, settings = VENDORS[name]
    with tempfile.TemporaryDirectory() as place:
        venv.create(place, with_pip=True)
        python = Path(place, "bin", "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[embedded]", name], check=True)
        for late in (False, True):
            environment = os.environ | settings | {"SPANLEDGER_STATE_DIR": str(Path(place, f"state-{late}"))}
            program = textwrap.dedent(PROGRAM).format(provider=provider, late=late)
            done = subprocess.run(
                [python, "-c", program], env=environment, capture_output=True, text=True, check=False, timeout=RUN_MAX_S
            )
            when = "after" if late else "before"
            print(f"{name}, its provider set {when} the guard: {done.stdout.strip() or done.stderr}", flush=True)
            if done.returncode != 0:
                return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
