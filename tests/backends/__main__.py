"""See what a real backend makes of our traces.

    python -m tests.backends phoenix|mlflow [--home DIRECTORY]

It installs the backend from the package index into an environment of its own under DIRECTORY (hundreds of megabytes,
kept for the next time), starts it on loopback, runs the example's agent under `opentelemetry-instrument` three times in
one conversation (the refund runs, is replayed, is refused), asks the backend, and prints what it answers. It ends with
an error where something is not shown as what it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from tests.backends.servers import BACKENDS, Backend, Phoenix, Seen

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
ARRIVAL_MAX_S = 120.0
RUN_MAX_S = 180.0
EXPORT_MAX_S = 60
# The first refund uses up the budget; the second, of another order, is refused.
CONFIG = """
[[rules]]
match = "refund"
identity = "arguments"
reserve = { argument = "amount", currency = "EUR" }

[[budgets]]
name = "refunds"
match = "refund"
limit = "10.00 EUR"
"""
RUNS = (("order-1", "run"), ("order-1", "replay"), ("order-2", "budget_exceeded"))
# A run: the agent, a model call, the tool, and a model call again unless the tool was refused.
SPANS = 4 + 4 + 3


def main(arguments: list[str]) -> int:
    """Check one backend."""
    parser = argparse.ArgumentParser(prog="python -m tests.backends")
    parser.add_argument("backend", choices=BACKENDS)
    parser.add_argument("--home", type=Path, default=Path(tempfile.gettempdir()) / "spanledger-backends")
    options = parser.parse_args(arguments)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory() as directory:
        server_directory = Path(directory) / "server"
        server_directory.mkdir()
        backend = BACKENDS[options.backend](options.home.absolute(), server_directory)
        version = backend.install()
        with backend.running():
            for protocol, settings in backend.protocols().items():
                thread = f"chat over {protocol}"
                print(f"\n{backend.package} {version}, OTLP {protocol}", flush=True)
                run_agent(Path(directory) / protocol.partition("/")[0], thread, settings | of(protocol))
                seen = arrived(backend, thread)
                show(seen)
                wrong += [f"{protocol}: {what}" for what in complaints(backend, seen, thread)]
    print("\n" + ("\n".join(f"WRONG {what}" for what in wrong) or "all as it should be"))
    return 1 if wrong else 0


def of(protocol: str) -> dict[str, str]:
    """Settings of the exporter."""
    timeout = {"OTEL_EXPORTER_OTLP_TIMEOUT": str(EXPORT_MAX_S)}
    return {"OTEL_EXPORTER_OTLP_PROTOCOL": protocol, "OTEL_TRACES_EXPORTER": "otlp"} | timeout


def run_agent(directory: Path, thread: str, settings: dict[str, str]) -> None:
    """Let the agent refund, be replayed and be refused, with a private ledger."""
    directory.mkdir()
    (directory / "spanledger.toml").write_text(CONFIG)
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("OTEL_", "SPANLEDGER_", "OPENAI_"))}
    for workflow_id, verdict in RUNS:
        environment = kept | settings | {
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT / "examples"),
            "THREAD": thread,
            "SPANLEDGER_WORKFLOW_ID": workflow_id,
            "SPANLEDGER_STATE_DIR": str(directory / "state"),
        }  # fmt: skip
        done = subprocess.run(
            ["opentelemetry-instrument", "python", ROOT / "tests" / "backends" / "agent.py"],
            cwd=directory, env=environment, capture_output=True, text=True, timeout=RUN_MAX_S, check=False,
        )  # fmt: skip
        if (done.returncode == 0) != (verdict != "budget_exceeded"):
            raise RuntimeError(f"the agent ended with {done.returncode} where {verdict} was due:\n{done.stderr}")


def arrived(backend: Backend, thread: str) -> list[Seen]:
    """Wait until the backend shows all spans of a conversation."""
    deadline_s = time.monotonic() + ARRIVAL_MAX_S
    while True:
        every = backend.spans()
        traces = {span.trace for span in every if span.session == thread}
        seen = [span for span in every if span.trace in traces]
        if len(seen) >= SPANS or time.monotonic() > deadline_s:
            return seen
        time.sleep(1)


def show(seen: list[Seen]) -> None:
    """Print what the backend answered."""
    for span in seen:
        verdict = span.attributes.get("spanledger.verdict", "")
        print(f"  {span.trace[-8:]} {span.kind:<11} {span.name:<22} session={span.session!r} tokens={span.tokens} "
              f"status={span.status} {verdict}")  # fmt: skip


def complaints(backend: Backend, seen: list[Seen], thread: str) -> Iterator[str]:
    """Say what is not shown as what it is."""
    if len(seen) != SPANS:
        yield f"{len(seen)} spans arrived instead of {SPANS}"
    if len({span.trace for span in seen}) != len(RUNS):
        yield "a run is not one trace"
    kinds = {"execute_tool": backend.tool, "invoke_agent": backend.agent, "chat": backend.model}
    for span in seen:
        if span.kind != kinds[span.name.split()[0]]:
            yield f"{span.name} is shown as {span.kind}"
    verdicts = sorted(span.attributes["spanledger.verdict"] for span in seen if span.kind == backend.tool)
    if verdicts != sorted(verdict for _, verdict in RUNS):
        yield f"the verdicts are {verdicts}"
    refused = [span for span in seen if span.attributes.get("spanledger.verdict") == "budget_exceeded"]
    if any("ERR" not in span.status for span in refused):
        yield "the refusal is not shown as an error"
    yield from _of_tokens(backend, seen)
    if isinstance(backend, Phoenix) and backend.sessions().get(thread) != len(RUNS):
        yield f"the conversation has {backend.sessions().get(thread)} traces"


def _of_tokens(backend: Backend, seen: list[Seen]) -> Iterator[str]:
    sent = ("gen_ai.usage.input_tokens", "gen_ai.usage.output_tokens")
    for trace in {span.trace for span in seen}:
        models = [span for span in seen if span.trace == trace and span.kind == backend.model]
        told = tuple(sum(int(span.attributes[name]) for span in models) for name in sent)
        counted = [span.tokens or (0, 0) for span in models]
        # Phoenix counts by span, MLflow by trace.
        total = tuple(map(sum, zip(*counted, strict=True))) if isinstance(backend, Phoenix) else counted[0]
        if total != told or 0 in told:
            yield f"{told} tokens were sent and {total} are counted"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
