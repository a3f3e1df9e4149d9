"""The nouns: what is asked of the ledger, what it answers, what became of a call.

Rules: all frozen. A `Call` says what an agent is about to do; nothing in it came from the ledger. A `Begun` is
the ledger's answer; nothing in it came from the agent.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from spanledger.core.frozen import value
from spanledger.core.money import Amount, Calls, Money, Tokens
from spanledger.core.occurrences import FIRST, Occurrence

EXECUTE_TOOL = "execute_tool"
INVOKE_AGENT = "invoke_agent"
# Those that the ledger is asked about; a run of an agent is made of them.
OPERATIONS = (EXECUTE_TOOL, "chat", "text_completion", "generate_content", "embeddings", "retrieval")
# Those that the ledger keeps apart; cached and written ones are among the input, reasoning among the output.
TOKEN_KINDS = ("input_tokens", "output_tokens", "cached_tokens", "cache_written_tokens", "reasoning_tokens")


class Verdict(enum.StrEnum):
    """The ledger's answer to a call that wants to begin."""

    RUN = "run"
    REPLAY = "replay"
    IN_PROGRESS = "in_progress"
    AWAITING_APPROVAL = "awaiting_approval"
    DENIED = "denied"
    EXPIRED = "expired"
    UNAUTHORIZED = "unauthorized"
    BUDGET_EXCEEDED = "budget_exceeded"
    KEY_REUSED = "key_reused"
    OUTCOME_UNKNOWN = "outcome_unknown"
    FAILED = "failed"
    CANCELLED = "cancelled"


class ScopeSource(enum.StrEnum):
    """Where the workflow id of a call came from; the first that is known counts."""

    GIVEN = "given"
    ENVIRONMENT = "environment"
    FRAMEWORK = "framework"
    CONVERSATION = "conversation"
    BAGGAGE = "baggage"
    TRACE = "trace"
    PROCESS = "process"


@dataclass(frozen=True, slots=True)
class Resource:
    """What a call acts on, as an identity that survives other wordings of the arguments.

    Attributes:
        namespace: For example ``"stripe"``.
        type: For example ``"charge"``.
        id: What identifies it: a text or a mapping of JSON values.

    Raises:
        ValueError: It has no id: calls about different things would be taken for one.
    """

    namespace: str
    type: str
    id: Any

    def __post_init__(self) -> None:
        if self.id is None or (isinstance(self.id, str | Mapping) and not self.id):
            raise ValueError(f"a resource needs an id, and not {self.id!r}")


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call as a user of `Ledger` words it.

    Attributes:
        tool: The tool's name.
        arguments: What the tool is called with; JSON values, and what `spanledger.core.values` tags.
        workflow_id: The scope of idempotency: retries and resumes of one piece of work share it.
        tenant: Whose ledger it is; the configured tenant if None.
        call_id: The id a model provider gave to this call.
        key: An idempotency key of your own; it stands for the arguments.
        fields: Names of the arguments that identify the call; the others may differ.
        resource: What identifies the call instead of its arguments.
        agent: Name of the agent.
        actor: On whose behalf it acts.
        cost: What to reserve against budgets of that unit.
        delegation: The token of the delegation that it acts under.

    Raises:
        ValueError: It has no tool or no workflow, its fields name nothing or the same twice, or something that it is
            told apart by is empty or of the wrong kind.
    """

    tool: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    workflow_id: str = field(kw_only=True)
    tenant: str | None = field(default=None, kw_only=True)
    call_id: str | None = field(default=None, kw_only=True)
    key: str | None = field(default=None, kw_only=True)
    fields: tuple[str, ...] | None = field(default=None, kw_only=True)
    resource: Resource | None = field(default=None, kw_only=True)
    agent: str | None = field(default=None, kw_only=True)
    actor: str | None = field(default=None, kw_only=True)
    cost: Amount | None = field(default=None, kw_only=True)
    delegation: str | None = field(default=None, kw_only=True, repr=False)

    def __post_init__(self) -> None:
        # Without a workflow of its own, one customer's call would be taken for another's.
        for name in ("tool", "workflow_id"):
            if not isinstance(given := getattr(self, name), str) or not given:
                raise ValueError(f"a call needs a {name}, a text that is not empty, and not {given!r}")
        for name in ("tenant", "key"):
            if getattr(self, name) == "":
                raise ValueError(f"the {name} of {self.tool!r} is a text that is not empty, or None")
        fields = self.fields
        if fields is not None and (not fields or isinstance(fields, str) or len(set(fields)) < len(fields)):
            raise ValueError(f"the fields of {self.tool!r} are names of arguments, each once, or None: {fields!r}")
        if self.resource is not None and not isinstance(self.resource, Resource):
            raise ValueError(f"the resource of {self.tool!r} is a Resource, not {self.resource!r}")
        if self.cost is not None and not isinstance(self.cost, Money | Tokens | Calls):
            raise ValueError(f"the cost of {self.tool!r} is Money (never a float), Tokens or Calls, not {self.cost!r}")


@value
class Call:
    """One request to a model or a tool, as a library file describes it.

    Attributes:
        name: The tool's or model's name.
        operation: A GenAI operation name: ``"execute_tool"``, ``"chat"``, …
        arguments: What the tool is called with: a mapping, or text that is no JSON object. None: unknown.
        call_id: The id the model provider gave to this call.
        workflow_id: The scope, where the library knows one.
        workflow_source: Where `workflow_id` came from.
        turn: What narrows a derived scope to the turn of the conversation, stable when the turn is resumed.
        tenant: Whose ledger it is; the configured tenant if None.
        agent: Name of the agent.
        actor: On whose behalf it acts.
        key: An idempotency key of the user's own.
        fields: Names of the arguments that identify the call.
        resource: What identifies the call instead of its arguments.
        cost: What to reserve.
        opted_in: The developer asked for the guard: `tool`, `tool_call()` or `Ledger`.
        sent: It is seen on its way to a server, or where it arrives; whoever makes it may have asked already.
        waits: Whoever makes it can wait for another worker or for a person, where its rule lets it.
        documents: What comes of it is read from text that stands for JSON, as on a span.
        attributes: Further attributes for the span's start.
        run_id: The run of the workflow that makes it.
        passed_on: Whoever makes it can leave something out of its arguments.
        delegation: The token of the delegation that it acts under.
        occurrence: Which of the equal calls of its execution it is, where its rule tells them apart by that.
        memo: What others have worked out of it, by their own names; a library may describe many calls by one.
    """

    name: str
    operation: str = EXECUTE_TOOL
    arguments: Mapping[str, Any] | str | None = None
    call_id: str | None = None
    workflow_id: str | None = None
    workflow_source: ScopeSource = ScopeSource.GIVEN
    turn: str | None = None
    tenant: str | None = None
    agent: str | None = None
    actor: str | None = None
    key: str | None = None
    fields: tuple[str, ...] | None = None
    resource: Resource | None = None
    cost: Amount | None = None
    opted_in: bool = False
    sent: bool = False
    waits: bool = True
    documents: bool = False
    attributes: Mapping[str, Any] = field(default_factory=dict)
    run_id: str | None = None
    passed_on: bool = False
    delegation: str | None = field(default=None, repr=False)
    occurrence: Occurrence = FIRST
    memo: dict[str, Any] = field(default_factory=dict, init=False, repr=False, compare=False)


@value
class Usage:
    """What a model call used, as its provider reported it.

    Attributes:
        model: The model that answered.
        response_id: The provider's id of the answer.
        finish_reasons: Why generation ended, one per choice.
        input_tokens: Tokens read, those from a cache included.
        output_tokens: Tokens written.
        cached_tokens: Input tokens that came from the provider's cache.
        reasoning_tokens: Output tokens spent on reasoning.
        tool_calls: Names of the tools the model asked for.
        cache_written_tokens: Input tokens that were put into the provider's cache.
        cache_written_1h_tokens: Those of them that stay there for an hour, where that has a price of its own.
    """

    model: str | None = None
    response_id: str | None = None
    finish_reasons: tuple[str, ...] = ()
    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None
    tool_calls: tuple[str, ...] = ()
    cache_written_tokens: int | None = None
    cache_written_1h_tokens: int | None = None

    @property
    def reported(self) -> bool:
        """The provider has said what was used."""
        return self.input_tokens is not None or self.output_tokens is not None

    @property
    def tokens(self) -> int:
        """Tokens in sum."""
        return (self.input_tokens or 0) + (self.output_tokens or 0)

    @property
    def by_kind(self) -> dict[str, int]:
        """Kind → tokens, of the kinds that were reported."""
        found = {kind: getattr(self, kind) for kind in TOKEN_KINDS}
        return {kind: tokens for kind, tokens in found.items() if tokens is not None}


@dataclass(frozen=True, slots=True)
class Resolution:
    """What a probe found out about a call of unknown outcome.

    Attributes:
        outcome: ``"succeeded"``, ``"failed"`` (it certainly had no effect) or ``"retry"`` (run it again).
        result: Where it succeeded: what the tool would have returned.
        reason: Kept in the ledger.
    """

    outcome: str
    result: Any = None
    reason: str | None = None


class Codec(Protocol):
    """How the results of one library are kept and given back."""

    def encode(self, result: Any) -> Any:
        """Turn a result into a JSON tree; raise if it cannot be given back equal."""
        ...

    def decode(self, tree: Any, call: Call) -> Any:
        """Turn a kept tree into a result for `call`."""
        ...


@value
class Identity:
    """Which call it is.

    Attributes:
        key: SHA-256 as hexadecimal text.
        source: Which rule of identity made the key.
        fingerprint: SHA-256 of tool and arguments; None where the arguments are unknown.
        scope: The workflow id, narrowed where it was derived.
        arguments: The arguments in canonical form, which is made once for hash and readers; None where there is none.
    """

    key: str
    source: str
    fingerprint: str | None
    scope: str
    arguments: bytes | None = field(default=None, repr=False)


class Holder:
    """Lives as long as somebody holds the answer it belongs to, through copies of that answer as well."""

    __slots__ = ("__weakref__",)


@value
class Begun:
    """The ledger's answer to `begin`.

    Attributes:
        verdict: What may happen now.
        key: The idempotency key, hexadecimal.
        attempt: The fencing number of this attempt.
        attempt_id: The attempt's own id, made by the caller so that a lost answer can be asked for again.
        tool: Name of the tool or model.
        tenant: Whose ledger it is.
        key_source: Which rule of identity made the key.
        now_s: The database's clock, seconds since 1970.
        attempts: Attempts so far, this one included; attempts that provably did not start do not count.
        result: For a replay: the kept JSON tree.
        result_kept: Whether there is one.
        arguments_differ: The same key was used with other arguments.
        reason: Why not, in words.
        details: Further fields of the answer: the budget's figures, the recorded error, the original's trace.
        budgets: The budgets this attempt reserved from: name, unit, reserved and remaining steps; soft, the steps of
            the soft limit that this attempt went past.
        reserved: Unit → steps that this attempt reserved.
        unguarded: The ledger did not answer and the rule says to run all the same.
        approval_id: The request a person has to answer; None where no rule asks for one.
        would_have: In mode "shadow": the verdict that was passed over. The call runs, and the ledger keeps no outcome.
        holder: While it lives, somebody means to say how the call ended.
    """

    verdict: Verdict
    key: str
    attempt: int
    attempt_id: str
    tool: str = ""
    tenant: str = ""
    key_source: str = "none"
    now_s: float = 0.0
    attempts: int = 1
    result: Any = None
    result_kept: bool = False
    arguments_differ: bool = False
    reason: str | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    budgets: tuple[Mapping[str, Any], ...] = ()
    reserved: Mapping[str, int] = field(default_factory=dict)
    unguarded: bool = False
    approval_id: str | None = None
    would_have: str | None = None
    holder: Holder = field(default_factory=Holder, repr=False, compare=False)


@value
class Ended:
    """How the wrapped function ended.

    Attributes:
        value: What it returned.
        error: What it raised instead.
        failure: The function returned, and what it returned says that it failed.
        hidden: What the function raised, where its framework has made the value of it.
        doubtful: Whatever the function said, something inside it may have taken effect.
        paused: `error` is a framework's way to suspend a run; the function will be called again from its start.
        cost: Unit → steps it cost in the end, where that is known; else what was reserved.
        usage: Kind → tokens, as a model's provider reported them.
    """

    value: Any = None
    error: BaseException | None = None
    failure: str | None = None
    hidden: BaseException | None = None
    doubtful: bool = False
    paused: bool = False
    cost: Mapping[str, int] = field(default_factory=dict)
    usage: Mapping[str, int] = field(default_factory=dict)


@value
class Outcome:
    """How one guarded call ended, for the caller and for the trace.

    Attributes:
        begun: The ledger's answer.
        ended: How the function ended; for a replay, with the recorded value.
        replayed: The function did not run; its recorded value was given back.
        recorded: What the ledger keeps now: ``"succeeded"``, ``"failed"``, ``"unknown"``. If it did not answer:
            ``"spooled"``, kept on disk and told later; None, not kept anywhere.
        late: A newer attempt owns the call; this outcome was recorded as late.
        result_kept: Whether a later call can be given the result.
        queued: The ledger is told within moments; nobody knows yet whether it is late, or the result kept.
    """

    begun: Begun
    ended: Ended
    replayed: bool = False
    recorded: str | None = None
    late: bool = False
    result_kept: bool = False
    queued: bool = False


Probe = Callable[[Call, str], Resolution | None]
