"""Test that a model call is one span beside the instrumentations of others, and says what OpenTelemetry's own say.

    python -m tests.others

Rules: an environment holds spanledger, the clients, and the instrumentations that others make of them, at their newest.
Nothing may be skipped there. What they warn of is no news of ours.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]
WANTED = (
    *("openai", "anthropic", "langchain-openai", "pytest", "pytest-randomly", "pytest-xdist"),
    *("opentelemetry-instrumentation-genai-openai", "opentelemetry-instrumentation-genai-anthropic"),
    "opentelemetry-instrumentation-genai-langchain",
    *(f"opentelemetry-instrumentation-{name}" for name in ("openai", "anthropic", "langchain")),
    *(f"openinference-instrumentation-{name}" for name in ("openai", "anthropic", "langchain")),
)


def main() -> int:
    """Run it; 1 if something went wrong."""
    with tempfile.TemporaryDirectory(prefix="spanledger-") as folder:
        venv.create(folder, with_pip=True)
        python = str(Path(folder) / "bin" / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", "-e", f"{ROOT}[embedded]", *WANTED], check=True)
        tests = [f"tests/instrument/test_{name}.py" for name in ("one_span", "same_messages")]
        command = [python, "-m", "pytest", "-q", "-n", "0", "-W", "default", *tests]
        tested = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(tested.stdout, tested.stderr)
    return int(tested.returncode != 0 or re.search(r"\d+ skipped", tested.stdout) is not None)


if __name__ == "__main__":
    sys.exit(main())
