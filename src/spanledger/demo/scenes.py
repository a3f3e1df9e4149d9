"""The scenes of the demo: real processes, killed with SIGKILL, against a model and a provider on loopback.

Rules: every scene has an outside world of its own, so that they can play at the same time; all share one ledger. A
process is killed by the outside world at the very moment that matters, not after a guessed delay. What a scene
claims, it has counted at the provider.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from spanledger.testing import ModelServer, OtlpReceiver, PaymentProvider, ReceivedSpan, refund_script

AGENT = Path(__file__).with_name("agent.py")
RUN_MAX_S = 60.0
TENANT = "demo"
LEASE_S = 2.0

CONFIG = f"""\
# The demo's spanledger.toml. The agent's code does not know of it.
tenant = "{TENANT}"

[[rules]]
match = "refund"
identity = "arguments"
reserve = {{ argument = "amount", currency = "EUR" }}
probe = "spanledger.demo.probe:find_refund"
lease_s = {LEASE_S}
on_refusal = "tell"

[[budgets]]
name = "refunds"
match = "refund"
limit = "500.00 EUR"
"""


class DemoFailed(Exception):
    """A process did not do what the scene needs; the text has what it printed."""


@dataclass(frozen=True, slots=True)
class Scene:
    """What happened in a scene.

    Attributes:
        order_id: The order it is about; also its workflow id.
        said: What the agent said last.
        refunds: How many refunds the payment provider paid.
        spans: What the telemetry backend received.
    """

    order_id: str
    said: str
    refunds: int
    spans: tuple[ReceivedSpan, ...] = ()


@dataclass
class World:
    """The outside of one scene's agent.

    Attributes:
        folder: Where the processes run; its spanledger.toml is theirs.
        order_id: The order the customer writes about.
        amount: What they want back.
        guarded: Whether the agent is started with spanledger beside it.
    """

    folder: Path
    order_id: str
    amount: str = "10.00"
    guarded: bool = True
    _agent: subprocess.Popen[str] | None = None
    _kill_when: str | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def __enter__(self) -> Self:
        self._script = refund_script()
        self.model = self._stack.enter_context(ModelServer(self._answer))
        self.payments = self._stack.enter_context(PaymentProvider(lambda _refund: self._reached("paid")))
        self.backend = self._stack.enter_context(OtlpReceiver())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def run(self, *, kill_when: str | None = None) -> str:
        """Start the agent and wait for its end.

        Args:
            kill_when: ``"paid"``: the provider has paid and not answered yet; ``"recorded"``: the tool has returned.

        Returns:
            What the agent said last.

        Raises:
            DemoFailed: It failed, or was not killed although it should have been.
        """
        self._kill_when = kill_when
        with subprocess.Popen(
            self._command(), env=self._environment(), cwd=self.folder, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        ) as self._agent:  # fmt: skip
            out, err = self._agent.communicate(timeout=RUN_MAX_S)
            code = self._agent.returncode
        if (code < 0) != (kill_when is not None) or code > 0:
            raise DemoFailed(f"the agent for {self.order_id} ended with {code}:\n{err[-2000:]}")
        return out.strip().rpartition("\n")[2]

    def scene(self, said: str) -> Scene:
        """Sum up."""
        return Scene(self.order_id, said, len(self.payments.refunds), self.backend.spans)

    def _answer(self, request: dict[str, Any]) -> Any:
        if request["messages"][-1]["role"] == "tool":
            self._reached("recorded")
        return self._script(request)

    def _reached(self, moment: str) -> None:
        if self._kill_when != moment or self._agent is None:
            return
        if moment == "recorded" and self.guarded:
            # Not needed for the ledger; it is there for the span tree below to have something to show.
            self.backend.wait_for(lambda span: span.name == "execute_tool refund")
        self._kill_when = None
        self._agent.kill()

    def _command(self) -> list[str]:
        run = "from opentelemetry.instrumentation.auto_instrumentation import run; run()"
        wrapper = [sys.executable, "-c", run] if self.guarded else []
        return [*wrapper, sys.executable, str(AGENT)]

    def _environment(self) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("OTEL_", "SPANLEDGER_"))}
        return kept | {
            "OPENAI_BASE_URL": self.model.url,
            "OPENAI_API_KEY": "offline",
            "PAYMENTS_URL": self.payments.url,
            "REQUEST": f"Please refund {self.amount} EUR for order {self.order_id}.",
            "SPANLEDGER_WORKFLOW_ID": f"order-{self.order_id}",
            "SPANLEDGER_STATE_DIR": str(self.folder),
            "OTEL_EXPORTER_OTLP_ENDPOINT": self.backend.endpoint,
            "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf",
            "OTEL_BSP_SCHEDULE_DELAY": "50",
        }


def unguarded(folder: Path) -> Scene:
    """Without spanledger: killed after the refund, started again."""
    with World(folder, "o-100", guarded=False) as world:
        world.run(kill_when="recorded")
        return world.scene(world.run())


def killed_after_recording(folder: Path) -> Scene:
    """(a) Killed after the refund was recorded and before the agent finished."""
    with World(folder, "o-101") as world:
        world.run(kill_when="recorded")
        return world.scene(world.run())


def killed_before_recording(folder: Path) -> Scene:
    """(b) Killed after the provider refunded and before it was recorded."""
    with World(folder, "o-102") as world:
        world.run(kill_when="paid")
        return world.scene(world.run())


def over_budget(folder: Path) -> Scene:
    """(c) More than the budget has."""
    with World(folder, "o-103", amount="600.00") as world:
        return world.scene(world.run())


GUARDED: tuple[Callable[[Path], Scene], ...] = (
    killed_before_recording,
    killed_after_recording,
    over_budget,
)
