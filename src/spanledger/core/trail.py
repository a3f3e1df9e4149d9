"""What an agent says of itself, for the ledger to keep.

Rules: frozen, plain data. An entry is made where it happens and told in the background; it says so much and no more
than fits the limits here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from spanledger.core.call import Holder
from spanledger.core.ids import new_id
from spanledger.core.outcomes import storable

OPTIONS_MAX: Final = 50
# Longer ones are not written in decimal, which Python refuses to at some length.
_INT_BITS_MAX: Final = 2048
RUN_LEASE_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Entry:
    """One thing that happened.

    Attributes:
        event: ``"started"`` or ``"ended"`` (a run of a workflow), ``"inner"`` (another one inside it), ``"step"``,
            ``"decision"``, ``"event"``, ``"replay"``, ``"refused"``; or, kept elsewhere than in the trail,
            ``"approval"``: where a request is in the trace, ``"call"``: one that was recorded, and ``"agent"``: one
            that was seen.
        workflow_id: Whose trail it belongs to; None: that of the call, or of this process.
        run_id: One run of the workflow.
        tenant: Whose ledger it is; None: the configured tenant.
        agent: Name of the agent.
        actor: On whose behalf it acts.
        key: Of the call it is about.
        trace_id: Where it is in the trace, hexadecimal.
        span_id: Likewise.
        detail: What else there is to say, JSON.
        session: Of a run that belongs to a session: which, as what, and in which turn; JSON that fits.
        call: Of a call that was recorded: its row, JSON that fits.
        holder: Lives as long as the run that has started; so long the ledger is told that it is alive.
        id: Made here, so that what is told twice is kept once.
    """

    event: str
    workflow_id: str | None = None
    run_id: str | None = None
    tenant: str | None = None
    agent: str | None = None
    actor: str | None = None
    key: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    detail: Mapping[str, Any] = field(default_factory=dict)
    session: Mapping[str, Any] | None = None
    call: Mapping[str, Any] | None = None
    holder: Holder | None = field(default=None, repr=False, compare=False)
    id: str = field(default_factory=new_id)

    def item(self) -> dict[str, Any]:
        """The entry as the ledger takes it; what is None is left out."""
        item: dict[str, Any] = {"id": self.id, "detail": within_limits(self.detail)}
        for name in _TEXTS:
            value = getattr(self, name)
            if value is not None:
                item[name] = storable(str(value))
        if self.session is not None:
            item["session"] = self.session
        if self.call is not None:
            item["call"] = self.call
        return item


class Tells(Protocol):
    """Takes entries and tells them in the background. Never blocks and never raises."""

    def tell(self, entry: Entry, happened_s: float | None = None) -> None:
        """Take one entry, and when it happened by `time.monotonic()`; None: now."""
        ...

    def lose(self, why: str) -> None:
        """Count one that is lost before it could be told."""
        ...


_TEXTS: Final = ("event", "workflow_id", "run_id", "agent", "actor", "key", "trace_id", "span_id")


def within_limits(detail: Mapping[str, Any]) -> dict[str, Any]:
    """Make JSON that fits of what there is to say; what is None is left out."""
    return {storable(str(name)): _bounded(value) for name, value in detail.items() if value is not None}


def _bounded(value: Any) -> Any:
    if isinstance(value, str):
        return storable(value)
    if isinstance(value, Mapping):
        return within_limits(value)
    if isinstance(value, int) and value.bit_length() > _INT_BITS_MAX:
        return storable(hex(value))
    if isinstance(value, bool | int | float):
        return value if not isinstance(value, float) or abs(value) < float("inf") else str(value)
    if isinstance(value, list | tuple):
        return [_bounded(one) for one in value[:OPTIONS_MAX]]
    return storable(str(value))
