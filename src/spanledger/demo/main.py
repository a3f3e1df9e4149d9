"""Play the scenes and tell what happened.

Rules: nothing is asked of the user and nothing is left behind: the ledger, its server and every process end with the
demo. No network beyond loopback, no API key. It fails loudly if a count is not what it tells.
"""

from __future__ import annotations

import contextlib
import importlib.util
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from spanledger.config import Config
from spanledger.demo import scenes
from spanledger.demo.scenes import DemoFailed, Scene
from spanledger.errors import ConfigError
from spanledger.ledger._embedded import EmbeddedPostgres
from spanledger.ledger._ledger import Ledger
from spanledger.terminal import paint, rows, tree

# A laptop has at least two cores, and starting an agent is mostly importing its framework.
AT_ONCE = 2


def main() -> int:
    """Run the demo and return an exit code."""
    missing = [name for name in ("langgraph", "openai") if importlib.util.find_spec(name) is None]
    if missing:
        raise ConfigError(f"the demo's agent needs {', '.join(missing)}: pip install 'spanledger[demo]'")
    print(paint("AI agents retry. Their side effects shouldn't.", "bold"))
    print("Four customers want money back; the agent is killed with SIGKILL at the worst moments. One moment …\n")
    with tempfile.TemporaryDirectory(prefix="spanledger-demo-") as folder, contextlib.ExitStack() as stack:
        home = Path(folder)
        pool = stack.enter_context(ThreadPoolExecutor(AT_ONCE))
        unguarded = pool.submit(scenes.unguarded, home)  # needs no ledger, so it does not wait for the server
        (home / "spanledger.toml").write_text(scenes.CONFIG)
        server = EmbeddedPostgres(home, linger_s=0.0)
        stack.callback(server.release)
        ledger = stack.enter_context(Ledger(config=Config(dsn=server.dsn(), tenant=scenes.TENANT)))
        ledger.migrate()
        before, after, over = pool.map(lambda scene: scene(home), scenes.GUARDED)
        without = unguarded.result()
        _tell(without, after, before, over)
        _check(without, after, before, over)
        print(paint("\nThe ledger", "bold"))
        print("\n".join(rows(sorted(ledger.calls(), key=lambda call: str(call["workflow_id"])))))
        balance = ledger.budget("refunds")
        print(f"budget refunds: {balance.spent} spent, {balance.held} held, {balance.remaining} left")
    print(paint("\nNext", "bold"))
    print("  1. Name your own tools in a spanledger.toml (examples/spanledger.toml is a start).")
    print("  2. opentelemetry-instrument python your_agent.py      # nothing in your code changes")
    print("  3. SPANLEDGER_DSN=postgresql://…                      # one ledger for all your workers")
    return 0


def _tell(without: Scene, after: Scene, before: Scene, over: Scene) -> None:
    print(paint("Without spanledger", "bold"))
    print(f"  The refund of order {without.order_id} is made, then the process is killed before the agent is done.")
    print("  It is started again, asks the model again, and gets a new tool-call id.")
    print(f"  The provider paid {_refunds(without)}.\n")
    print(paint("(a) Killed after the refund was recorded, before the agent was done", "bold"))
    print(f"  The provider paid {_refunds(after)}.")
    print("\n".join(f"  {line}" for line in tree(after.spans)), "\n")
    print(paint("(b) Killed after the provider paid, before anybody could record it", "bold"))
    print(f"  The provider paid {_refunds(before)}.")
    print("  Nobody knows the outcome when the lease is over, so the probe asks the provider.")
    print("\n".join(f"  {line}" for line in tree(before.spans)), "\n")
    print(paint("(c) 600.00 EUR from a budget of 500.00 EUR", "bold"))
    print(f"  The provider paid {_refunds(over)}. The agent told the customer: “{over.said.partition(': ')[2][:70]}…”")
    print("\n".join(f"  {line}" for line in tree(over.spans)))


def _refunds(scene: Scene) -> str:
    words = "1 refund" if scene.refunds == 1 else f"{scene.refunds} refunds"
    return paint(words, "red" if scene.refunds > 1 else "green")


def _check(*played: Scene) -> None:
    counts = [scene.refunds for scene in played]
    if counts != [2, 1, 1, 0]:
        raise DemoFailed(f"the provider paid {counts} refunds instead of [2, 1, 1, 0]")
