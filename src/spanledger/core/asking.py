"""What the steps of a call are made of: questions, waits, and all that is known of a call before it begins.

Rules: frozen, and plain data but for the user's own callables. `spanledger.ledger._drivers` carries the steps out.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import field
from typing import Any, TypeVar

from spanledger.core.approvals import Approval
from spanledger.core.authority import Authority
from spanledger.core.call import Begun, Call, Identity
from spanledger.core.content import NOTHING, Content
from spanledger.core.frozen import changed, value
from spanledger.core.keys import identify
from spanledger.core.occurrences import FIRST, Counted, Occurrence
from spanledger.core.payload import Kept, PayloadCodec
from spanledger.core.redaction import Redact
from spanledger.core.rules import Terms

T = TypeVar("T")


@value
class Ask:
    """Call one function of the ledger with one item.

    Attributes:
        function: One of `spanledger_v1` that takes items, for example ``"begin"``.
        tenant: Whose ledger it is.
        item: The item, JSON.
        shielded: Must be carried out even if the caller is being cancelled.
        run_max_s: For ``"begin"``: signs of life are given for so long at most; None while it runs.
    """

    function: str
    tenant: str
    item: Mapping[str, Any]
    shielded: bool = False
    run_max_s: float | None = None

    @property
    def begins(self) -> bool:
        """It asks whether a call may run, and is answered with a `Begun`."""
        return self.function in ("begin", "shadow")


def is_known(answer: Any) -> bool:
    """Tell whether the ledger has the call that it was told about: one that was restored, or pruned, may not."""
    return not (isinstance(answer, Mapping) and answer.get("known") is False)


@value
class Keep:
    """Keep an outcome on disk that the ledger did not take; answered with whether that was possible.

    Attributes:
        ask: What the ledger is told later.
        begin: What it is told before that, of a call that ran unguarded and that the ledger has never heard of.
    """

    ask: Ask
    begin: Ask | None = None


@value
class Listen:
    """From here on, until the steps end, a change of the call of this key is noticed; answered with who waits."""

    tenant: str
    key: str


@value
class Wait:
    """Wait until the call that `Listen` named may have changed.

    Attributes:
        waiter: What `Listen` was answered with.
        wait_s: At most so long.
        left_s: After so long it changes by itself: its lease is over, or nobody has answered in time.
    """

    waiter: Any
    wait_s: float
    left_s: float | None


@value
class Look:
    """Call a function of the user's, which may block and may be a coroutine function: a probe, or a hook."""

    probe: Callable[[], Any]


@value
class Invoke:
    """Call the wrapped function; the answer is an `Ended`, never an exception."""

    begun: Begun


Step = Ask | Keep | Listen | Wait | Look | Invoke
Steps = Generator[Step, Any, T]


@value
class Traced:
    """Where a call is in the trace.

    Attributes:
        trace_id: Of the span around the call, hexadecimal.
        span_id: Likewise.
        pending: Called with the answer by which a person is asked, before anybody waits for them; must not block.
    """

    trace_id: str
    span_id: str
    pending: Callable[[Asking, Begun], None] | None = None


@value
class Asking:
    """All that `begin` needs to know of one call.

    Attributes:
        call: The call.
        terms: What applies to it.
        identity: Which call it is.
        tenant: Whose ledger it is.
        attempt_id: Made anew for every attempt by the caller.
        reserve: Unit → steps to reserve.
        arguments: The arguments as JSON text, for people to read, without what is redacted; None where they are too
            long or unknown.
        result_bytes_max: Larger results are not kept.
        approval: Whether the rule asks for a person's consent: no, yes, or over an amount, as unit and steps.
        stopped: The switch of the program's own file that stops the call.
        on_approval_needed: The user's hook.
        shadow: Whatever the verdict, the call runs.
        lent: Unit → steps that a call around this one has reserved for both of them.
        alias_of: Key and attempt of the call around, which is this one by another name: what that holds of a budget
            is held for both of them.
        content: What may be seen of it.
        payload_codec: How its result is written into the ledger; None: as JSON.
        traced: Where the call is in the trace.
        authority: Under which delegation it acts.
        obliged: What grants redact, as far as the ledger has said, and this keeps it from everybody; None: whoever asks
            cannot.
        counted: The number that it holds among the equal calls of its execution; None: it has not taken one.
    """

    call: Call
    terms: Terms
    identity: Identity
    tenant: str
    attempt_id: str
    reserve: Mapping[str, int]
    arguments: str | None
    result_bytes_max: int
    approval: bool | Mapping[str, Any] = False
    stopped: Mapping[str, Any] | None = None
    on_approval_needed: Callable[[Approval], Any] | None = None
    shadow: bool = False
    lent: Mapping[str, int] = field(default_factory=dict)
    alias_of: Mapping[str, str] | None = None
    content: Content = NOTHING
    payload_codec: PayloadCodec | None = field(default=None, repr=False)
    traced: Traced | None = None
    authority: Authority | None = None
    obliged: tuple[Redact, ...] | None = None
    counted: Counted | None = field(default=None, repr=False, compare=False)

    @property
    def kept(self) -> Kept:
        """Where its result belongs, and how it is kept."""
        return Kept(self.call.name, self.tenant, self.identity.key, self.payload_codec, self.result_bytes_max)

    def ask(self, wait_s: float | None = None) -> Ask:
        """The question to the ledger; with `wait_s`, whoever asks will wait so long to be woken."""
        item = self.item()
        return Ask(
            "shadow" if self.shadow else "begin",
            self.tenant,
            item if wait_s is None else item | {"wait_s": wait_s},
            run_max_s=self.terms.run_max_s,
        )

    def numbered(self, occurrence: Occurrence, secret: bytes | None) -> Asking:
        """Say which of equal calls it is; it was described as the first."""
        if occurrence == FIRST:
            return self
        call = changed(self.call, occurrence=occurrence)
        identity = identify(call, self.terms, tenant=self.tenant, nonce=self.attempt_id, secret=secret)
        return changed(self, call=call, identity=identity)

    def not_done(self) -> None:
        """Say that the call did not run, or failed: whoever asks for an equal one next makes this one again."""
        if self.counted is not None:
            self.counted.give_back()

    def may_run_unguarded(self) -> bool:
        """Tell whether the call may run where the ledger does not answer: its rule allows it, and asks for no more."""
        if self.terms.on_ledger_down != "continue":
            return False
        asks = self.approval
        if isinstance(asks, Mapping):
            asks = asks["unit"] not in self.reserve or self.reserve[asks["unit"]] > asks["steps"]
        return not (asks or self.stopped or self.terms.permission or self.authority)

    def item(self) -> dict[str, Any]:
        """The item for the ledger's `begin`, without what is None: to the server it is the same, but to read."""
        call, terms = self.call, self.terms
        item: dict[str, Any] = {
            **terms.said,
            "key": self.identity.key,
            "fingerprint": self.identity.fingerprint,
            "key_source": self.identity.source,
            "attempt_id": self.attempt_id,
            "tool": call.name,
            "operation": call.operation,
            "workflow_id": self.identity.scope,
            "workflow": call.workflow_id,
            "call_id": call.call_id,
            "agent": call.agent,
            "actor": call.actor,
            "arguments": self.arguments,
            "trace_id": None if self.traced is None else self.traced.trace_id,
            "span_id": None if self.traced is None else self.traced.span_id,
            "run_id": call.run_id,
            "reserve": dict(self.reserve),
        }
        if self.alias_of is not None:
            item["alias_of"] = dict(self.alias_of)
        if self.approval is not False:
            item["approval"] = self.approval
        if self.stopped is not None:
            item["stopped"] = self.stopped
        if terms.permission is not None:
            item["permission"] = terms.permission
        if self.obliged is not None:
            item["redacts"] = [one.said for one in self.obliged]
        if self.authority is not None:
            item["delegation"] = self.authority.shown
        return {name: known for name, known in item.items() if known is not None}
