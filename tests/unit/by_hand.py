"""Drive the steps of a call by hand: the test answers for the ledger, the probe and the function."""

from __future__ import annotations

from typing import Any

import pytest

from spanledger import Config, Rule
from spanledger.core.asking import Ask, Asking
from spanledger.core.call import Begun, Call, Verdict
from spanledger.core.values import decode, encode

NOW_S = 1_800_000_000.0
CALL = Call("refund", arguments={"order_id": "o-1"}, workflow_id="w-1", call_id="call_a1", opted_in=True)


def asking(rule: Rule | None = None, **config: Any) -> Asking:
    return Config(tenant="acme", rules=(rule,) if rule else (), **config).asking(CALL, attempt_id="a-1")


ASKING = asking()


def begun(verdict: str, **fields: Any) -> Begun:
    values = {"verdict": Verdict(verdict), "key": "k", "attempt": 1, "attempt_id": "a-1", "now_s": NOW_S}
    return Begun(**values | fields)


RUN = begun("run")


class Exact:
    """Keeps what JSON and its tags can say."""

    def encode(self, result: Any) -> Any:
        return encode(result, exact=True)

    def decode(self, tree: Any, call: Call) -> Any:
        return decode(tree)


class Played:
    """Steps, and what they were answered; the test is the driver."""

    def __init__(self, steps: Any, *replies: Any) -> None:
        self.asked: list[Any] = []
        self._steps = steps
        self._replies = list(replies)

    def to_its_end(self) -> Any:
        """Answer every step in turn and return what the steps return."""
        reply: Any = None
        while True:
            try:
                step = self._steps.throw(reply) if isinstance(reply, BaseException) else self._steps.send(reply)
            except StopIteration as stop:
                assert not self._replies, f"these were not asked for: {self._replies}"
                return stop.value
            self.asked.append(step)
            assert self._replies, f"nobody expected {step}"
            reply = self._replies.pop(0)


def played(steps: Any, *replies: Any) -> tuple[list[Any], Any]:
    play = Played(steps, *replies)
    return play.asked, play.to_its_end()


def refused(kind: type[BaseException], steps: Any, *replies: Any) -> tuple[list[Any], Any]:
    play = Played(steps, *replies)
    with pytest.raises(kind) as raised:
        play.to_its_end()
    return play.asked, raised.value


def functions(asked: list[Any]) -> list[str]:
    return [step.function if isinstance(step, Ask) else type(step).__name__ for step in asked]
