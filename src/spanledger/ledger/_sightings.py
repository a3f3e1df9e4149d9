"""Agents that this process has seen, so that the ledger hears of each once.

Rules: whoever begins a call pays for a look into a set, and the first time for an entry of the trail, which is told in
the background. A ledger is told from another by its name, so that many `Ledger` objects of one process tell an agent
once. So many are remembered and no more; who was forgotten is told again, which changes nothing.
"""

from __future__ import annotations

from typing import Final

from spanledger.core.asking import Ask
from spanledger.core.trail import Entry, Tells

SEEN_MAX: Final = 10_000

_seen: set[tuple[str, str, str]] = set()


def saw(ask: Ask, ledger: str, sink: Tells) -> None:
    """Take note of the agent of a call that begins.

    Args:
        ask: The call's begin.
        ledger: Name of the ledger that is asked.
        sink: Where an agent is told that was not seen before.
    """
    agent = ask.item.get("agent")
    if not agent or (seen := (ledger, ask.tenant, agent)) in _seen:
        return
    if len(_seen) >= SEEN_MAX:
        _seen.clear()
    _seen.add(seen)
    sink.tell(Entry("agent", tenant=ask.tenant, agent=agent))
