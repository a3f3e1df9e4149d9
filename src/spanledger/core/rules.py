"""Which terms apply to a call.

Rules: the first `Rule` whose `match` fits the name of the tool or model counts, like in a firewall. What it
leaves at None is filled from what the developer gave at the tool itself, then from the defaults below. A rule
that only sets a price or a lease changes no identity. Every value is checked when the rule is made.
"""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import lru_cache
from typing import Any

from spanledger.core.approvals import ApprovalRule, is_approval_rule
from spanledger.core.call import EXECUTE_TOOL, Call, Probe
from spanledger.core.frozen import value
from spanledger.core.money import Calls, Money, Tokens
from spanledger.core.redaction import Redact
from spanledger.core.reserving import Reserve
from spanledger.errors import ConfigError, Undescribable

IDENTITIES = ("arguments", "fields", "resource", "call_id", "occurrence", "none")
LEASE_S = 60.0
PROBE_LEASE_S = 30.0
LEASE_S_MIN = 0.2
PERMISSION_CHARACTERS_MAX = 200
WAIT_TIMEOUT_S = 30.0
APPROVAL_TIMEOUT_S = 86400.0

_PERMISSION = re.compile(r"[A-Za-z0-9_.\-/]+(:[A-Za-z0-9_.\-/]+)*")
# Ids that some servers give to every call.
_CONSTANT_CALL_IDS = frozenset({"", "unknown", "none", "null", "call_0"})

_Admits = Callable[[Any], bool]


def _one_of(*choices: str) -> tuple[_Admits, str]:
    return lambda value: value is None or value in choices, f"one of {', '.join(choices)}"


def _seconds(least_s: float) -> tuple[_Admits, str]:
    def admits(value: Any) -> bool:
        return value is None or (
            isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= least_s
        )

    return admits, f"a number of seconds, at least {least_s:g}"


def _is_error_types(value: Any) -> bool:
    return isinstance(value, tuple) and all(isinstance(k, type) and issubclass(k, BaseException) for k in value)


def _is_names(value: Any) -> bool:
    return isinstance(value, tuple) and bool(value) and all(isinstance(name, str) for name in value)


_YES_OR_NO: tuple[_Admits, str] = (lambda value: isinstance(value, bool), "true or false")
_ERROR_TYPES: tuple[_Admits, str] = (_is_error_types, "a list of exception types")

# What every field of a rule may be, and how to say so.
_VALUES: dict[str, tuple[_Admits, str]] = {
    "side_effect": _YES_OR_NO,
    "identity": _one_of(*IDENTITIES),
    "fields": (lambda value: value is None or _is_names(value), "a list of names of arguments"),
    "scope": _one_of("workflow"),
    "replay_for_s": _seconds(0),
    "on_mismatch": _one_of("replay", "refuse"),
    "on_unknown": _one_of("ask", "retry", "probe"),
    "probe": (lambda value: value is None or callable(value), "a callable of call and key"),
    "on_failure": _one_of("retry", "replay"),
    "attempts_max": (lambda value: value is None or (type(value) is int and value >= 1), "a whole number, at least 1"),
    "definite_errors": _ERROR_TYPES,
    "ambiguous_errors": _ERROR_TYPES,
    "approval": (is_approval_rule, "true, false, over(amount) or a plain function of the arguments"),
    "approval_timeout_s": _seconds(1),
    "approval_covers_retries": _YES_OR_NO,
    "self_approval": _YES_OR_NO,
    "permission": (lambda value: value is None or is_permission(value), "a name such as 'payments:refund'"),
    "reserve": (
        lambda value: value is None or isinstance(value, Money | Tokens | Calls) or callable(value),
        "Money (never a float), Tokens, Calls or a callable of the arguments",
    ),
    "lease_s": _seconds(LEASE_S_MIN),
    "run_max_s": _seconds(0),
    "wait_timeout_s": _seconds(0),
    "keep_result": _YES_OR_NO,
    "redact": (
        lambda value: isinstance(value, tuple) and all(isinstance(one, str | Redact) for one in value),
        "a list of JSONPaths, names of keys, or Redact",
    ),
    "on_refusal": _one_of("raise", "tell"),
    "on_ledger_down": _one_of("refuse", "continue"),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """A line of configuration: how calls of one tool or model are treated.

    Attributes:
        match: Name of the tool or model; ``*`` stands for any text.
        side_effect: The tool changes the world: it is not run again on a mere suspicion.
        identity: What makes two calls the same: ``"arguments"``, ``"fields"``, ``"resource"``, ``"call_id"`` (id and
            arguments), ``"occurrence"`` (the n-th identical call of a run, see `Occurrences`), ``"none"`` (recorded,
            never replayed), or None to inherit.
        fields: Names of the identifying arguments; implies ``identity="fields"``.
        scope: ``"workflow"``: a conversation's id is the scope as it is, not narrowed to turn and actor.
        replay_for_s: How long a success is replayed; None for ever. Afterwards the call runs anew.
        on_mismatch: The same key with other arguments: ``"replay"`` or ``"refuse"``. None: refuse for a key of the
            caller's own, else replay.
        on_unknown: A call of unknown outcome: ``"ask"`` a person, ``"retry"``, or ``"probe"``. None: probe where one is
            given, ask where the tool has side effects or opted in, else retry.
        probe: Asks the outside world what became of a call: ``probe(call, key)`` returns a `Resolution` or None.
        on_failure: After a definite failure: ``"retry"`` or ``"replay"`` the failure.
        attempts_max: How many attempts `on_failure="retry"` allows; None any number.
        definite_errors: Exception types that mean the call certainly had no effect.
        ambiguous_errors: Exception types that leave it open.
        approval: A person has to say yes to exactly the arguments that will run: True, `over` an amount that is
            reserved, or a function of the arguments that says so.
        approval_timeout_s: How long a request stays open.
        approval_covers_retries: An approval also covers later attempts with the same arguments.
        self_approval: Who asked, as actor or agent, may approve.
        permission: What a `Grant` in the ledger has to permit, for example ``"payments:refund"``.
        reserve: What a call may cost: an amount, or a callable of the arguments.
        lease_s: How long a running call is believed alive without a sign of life, on the database's clock.
        run_max_s: How long a call may run at most before it counts as lost; None any time.
        wait_timeout_s: How long a caller waits for another worker that runs the same call, or for a person.
        keep_result: Keep results, so that they can be replayed.
        redact: What nobody is to see of arguments, results and errors: `Redact`, or a JSONPath or a key's name to mask.
            A result of which something is hidden is kept only by an encrypting `Config.payload_codec`.
        on_refusal: ``"raise"``, or ``"tell"`` the model where the framework can.
        on_ledger_down: ``"refuse"`` or ``"continue"``. None: refuse where a rule names the tool or it opted in. What a
            person has to approve, or the program's own switch stops, is refused in any case.
    """

    match: str
    side_effect: bool = field(default=True, kw_only=True)
    identity: str | None = field(default=None, kw_only=True)
    fields: tuple[str, ...] | None = field(default=None, kw_only=True)
    scope: str | None = field(default=None, kw_only=True)
    replay_for_s: float | None = field(default=None, kw_only=True)
    on_mismatch: str | None = field(default=None, kw_only=True)
    on_unknown: str | None = field(default=None, kw_only=True)
    probe: Probe | None = field(default=None, kw_only=True)
    on_failure: str | None = field(default=None, kw_only=True)
    attempts_max: int | None = field(default=None, kw_only=True)
    definite_errors: tuple[type[BaseException], ...] = field(default=(), kw_only=True)
    ambiguous_errors: tuple[type[BaseException], ...] = field(default=(), kw_only=True)
    approval: ApprovalRule = field(default=False, kw_only=True)
    approval_timeout_s: float | None = field(default=None, kw_only=True)
    approval_covers_retries: bool = field(default=False, kw_only=True)
    self_approval: bool = field(default=False, kw_only=True)
    permission: str | None = field(default=None, kw_only=True)
    reserve: Reserve | None = field(default=None, kw_only=True)
    lease_s: float | None = field(default=None, kw_only=True)
    run_max_s: float | None = field(default=None, kw_only=True)
    wait_timeout_s: float | None = field(default=None, kw_only=True)
    keep_result: bool = field(default=True, kw_only=True)
    redact: tuple[Redact | str, ...] = field(default=(), kw_only=True)
    on_refusal: str | None = field(default=None, kw_only=True)
    on_ledger_down: str | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        if not isinstance(self.match, str) or not self.match:
            raise ConfigError(f"a rule needs a name to match, not {self.match!r}; '*' matches all")
        where = f"rule {self.match!r}"
        for name, (admits, meant) in _VALUES.items():
            value = getattr(self, name)
            if isinstance(value, list):
                value = tuple(value)
                object.__setattr__(self, name, value)
            if not admits(value):
                raise ConfigError(f"{where}: {name} is {meant}, not {value!r}")
        object.__setattr__(self, "redact", tuple(Redact(one) if isinstance(one, str) else one for one in self.redact))
        if self.fields is not None and self.identity is None:
            object.__setattr__(self, "identity", "fields")
        if (self.identity == "fields") != (self.fields is not None):
            raise ConfigError(f"{where}: identity='fields' and fields go together")
        if self.on_unknown == "probe" and self.probe is None:
            raise ConfigError(f"{where}: on_unknown='probe' needs a probe")


_NO_RULE = Rule("*", side_effect=False)
_TOLD = (
    "rule",
    "rule_version",
    "lease_s",
    "replay_for_s",
    "on_mismatch",
    "on_unknown",
    "on_failure",
    "attempts_max",
    # These matter also where only the ledger's own controls ask for an approval.
    "approval_timeout_s",
    "approval_covers_retries",
    "self_approval",
)


@value
class Terms:
    """What applies to one call: a rule with every blank filled in; the attributes are those of `Rule`.

    Attributes:
        rule: The `match` of the rule that named the call; None where only defaults apply.
        rule_version: A hash of all that the rule says.
        guarded: Somebody asked for this call to be guarded: a rule names it or the developer opted in.
        said: What of it the ledger is told at every call, written once.
    """

    rule: str | None
    rule_version: str | None
    guarded: bool
    identity: str
    fields: tuple[str, ...] | None
    scope: str | None
    replay_for_s: float | None
    on_mismatch: str
    on_unknown: str
    probe: Probe | None
    on_failure: str
    attempts_max: int | None
    approval: ApprovalRule
    approval_timeout_s: float
    approval_covers_retries: bool
    self_approval: bool
    permission: str | None
    definite_errors: tuple[type[BaseException], ...]
    ambiguous_errors: tuple[type[BaseException], ...]
    reserve: Reserve | None
    lease_s: float
    run_max_s: float | None
    wait_timeout_s: float
    keep_result: bool
    redact: tuple[Redact, ...]
    on_refusal: str
    on_ledger_down: str
    said: Mapping[str, Any] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        said = {name: getattr(self, name) for name in _TOLD} | {"probe_lease_s": PROBE_LEASE_S}
        object.__setattr__(self, "said", said)


def terms_for(call: Call, rules: Iterable[Rule], own: Rule | None = None) -> Terms:
    """Find what applies to `call`.

    Args:
        call: The call.
        rules: Configured rules, in order.
        own: What the developer gave at the tool itself.
    """
    named = next((rule for rule in rules if matches(rule.match, call.name)), None)
    rule = _filled(named, own) or _NO_RULE
    cautious = call.opted_in or (named is not None and named.side_effect)
    # A question to a model is never the same question twice, whatever a rule for "*" says of tools.
    identity = (rule.identity if call.operation == EXECUTE_TOOL else None) or _default_identity(call)
    on_unknown = rule.on_unknown or ("probe" if rule.probe else "ask" if cautious else "retry")
    guarded = call.opted_in or named is not None
    return Terms(
        rule=named.match if named else None,
        rule_version=version_of(named) if named else None,
        guarded=guarded,
        identity=identity,
        on_mismatch=rule.on_mismatch or ("refuse" if call.key is not None else "replay"),
        on_unknown=on_unknown,
        on_failure=rule.on_failure or "retry",
        approval_timeout_s=rule.approval_timeout_s or APPROVAL_TIMEOUT_S,
        lease_s=rule.lease_s or LEASE_S,
        wait_timeout_s=_wait_timeout_s(call, rule),
        # What either wants hidden is hidden.
        redact=tuple(one for said in (named, own) if said for one in said.redact if isinstance(one, Redact)),
        on_refusal=rule.on_refusal or "raise",
        on_ledger_down=rule.on_ledger_down or ("refuse" if guarded else "continue"),
        **{name: getattr(rule, name) for name in _TAKEN_OVER},
    )


_TAKEN_OVER = (
    "fields",
    "scope",
    "replay_for_s",
    "probe",
    "attempts_max",
    "approval",
    "approval_covers_retries",
    "self_approval",
    "permission",
    "definite_errors",
    "ambiguous_errors",
    "reserve",
    "run_max_s",
    "keep_result",
)


def reserved_amounts(call: Call, terms: Terms) -> dict[str, int]:
    """Say what the call reserves, as unit → steps; every call counts one in calls.

    Raises:
        Undescribable: The rule's `reserve` could not make an amount of the arguments.
    """
    amount = call.cost
    if amount is None and callable(terms.reserve) and call.operation != EXECUTE_TOOL:
        return {"calls": 1}
    if amount is None and callable(terms.reserve):
        arguments = call.arguments if isinstance(call.arguments, Mapping) else {}
        try:
            amount = terms.reserve(arguments)
        except Exception as error:
            raise Undescribable(
                f"the price of {call.name!r} cannot be read from its arguments: {type(error).__name__}: {error}"
            ) from error
        if not isinstance(amount, Money | Tokens | Calls):
            raise Undescribable(f"reserve of {call.name!r} gave {amount!r}; it has to be Money, Tokens or Calls")
    elif amount is None:
        amount = terms.reserve  # type: ignore[assignment]
    return {"calls": 1} if amount is None else {"calls": 1, amount.unit: amount.steps}


def matches(pattern: str, name: str) -> bool:
    """Tell whether `name` fits `pattern`, in which ``*`` stands for any text."""
    return pattern == name or ("*" in pattern and _compiled(pattern).fullmatch(name) is not None)


def version_of(rule: Rule) -> str:
    """Hash all that a rule says, so that a verdict can be told from one of another version."""
    try:
        return _version(rule)
    except TypeError:  # a callable of its own that cannot be hashed
        return _version.__wrapped__(rule)


@lru_cache(maxsize=1024)
def _version(rule: Rule) -> str:
    said = {f.name: _said(getattr(rule, f.name)) for f in fields(Rule)}
    return hashlib.sha256(repr(said).encode()).hexdigest()[:12]


def is_permission(value: object) -> bool:
    """Tell whether a value names a permission, such as ``"payments:refund"``."""
    return isinstance(value, str) and len(value) <= PERMISSION_CHARACTERS_MAX and bool(_PERMISSION.fullmatch(value))


def usable_call_id(call_id: str | None) -> bool:
    """Tell whether a provider's id can tell two calls apart."""
    return isinstance(call_id, str) and call_id.strip().lower() not in _CONSTANT_CALL_IDS


@lru_cache(maxsize=1024)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, pattern.split("*"))), re.DOTALL)


def _filled(named: Rule | None, own: Rule | None) -> Rule | None:
    if named is None or own is None:
        return named or own
    if named.identity is not None:
        own = replace(own, identity=None, fields=None)
    blanks = {
        f.name: getattr(own, f.name) for f in fields(Rule) if getattr(named, f.name) == f.default and f.name != "match"
    }
    return replace(named, **blanks)


def _wait_timeout_s(call: Call, rule: Rule) -> float:
    if not call.waits:
        return 0.0
    return WAIT_TIMEOUT_S if rule.wait_timeout_s is None else rule.wait_timeout_s


def _default_identity(call: Call) -> str:
    if call.operation != EXECUTE_TOOL:
        return "none"
    if call.opted_in:
        return "arguments"
    # An id alone is not trusted: some providers give the same ones again.
    return "call_id" if usable_call_id(call.call_id) and call.arguments is not None else "none"


def _said(value: Any) -> Any:
    """A field of a rule as text that is the same in every process."""
    if isinstance(value, tuple):
        return [_said(part) for part in value]
    if callable(value) and not hasattr(value, "__dataclass_fields__"):
        return f"{type(value).__module__}:{getattr(value, '__qualname__', type(value).__qualname__)}"
    return repr(value)
