"""What the gates of all web frameworks share: what a request is asked about, and what a refusal is answered with.

Rules: nothing that a request says of itself is believed. Who acts, for which tenant and under which delegation comes
from callables that the application gives; `trusted_header` is one, for a header that a proxy in front sets and nobody
else can, and `bearer_token` another, for a token that speaks for itself. A gate fails closed: what cannot be decided is
answered 503, who is nobody 401. No status of the 2xx or 3xx says that something waits for a person: no client takes for
done what has not happened. In mode "shadow" everything passes, and what would not have is logged; in mode "off" nothing
is asked.
"""

from __future__ import annotations

import contextlib
import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from typing import Any, Final, TypedDict

from spanledger._guard import ambient, put_around
from spanledger.core.grants import Authorization
from spanledger.core.money import Amount, Calls, Money, Tokens
from spanledger.core.rules import is_permission
from spanledger.errors import (
    CallFailed,
    CallPending,
    CallRefused,
    ConfigError,
    LedgerUnavailable,
    NotAuthorized,
    OutcomeUnknown,
    ResultNotKept,
    SpanledgerError,
)
from spanledger.instrument import _runtime
from spanledger.instrument.delegating import delegated
from spanledger.placing import Ambient

logger = logging.getLogger("spanledger.web")

OBLIGATIONS: Final = ("refuse", "inside")
RETRY_AFTER_S: Final = 1
UNAVAILABLE: Final = 503

_STATUS: Final[tuple[tuple[tuple[type[SpanledgerError], ...], int], ...]] = (
    ((LedgerUnavailable,), UNAVAILABLE),
    ((CallRefused,), 403),
    ((CallPending, OutcomeUnknown, CallFailed, ResultNotKept), 409),
)
# What an error carries that helps whoever asked.
_TOLD: Final = ("key", "permission", "grant", "approval_id", "budget")


@dataclass(frozen=True, slots=True)
class TrustedHeader:
    """A header that a proxy in front of the application sets, whatever the client has sent.

    Attributes:
        name: Its name.
    """

    name: str

    def __call__(self, request: Any) -> str | None:
        """Return the header's text; None where it is missing, or stands there more than once: then nobody knows.

        Some servers fold several into one, with commas; so one with a comma in it is none.
        """
        values = request.headers.getlist(self.name)
        return (values[0].strip() or None) if len(values) == 1 and "," not in values[0] else None


def trusted_header(name: str) -> TrustedHeader:
    """Take a header at its word: only where a proxy in front sets it itself and drops what the client has sent.

    Args:
        name: For example ``"X-Authenticated-User"``.
    """
    return TrustedHeader(name)


def bearer_token(request: Any) -> str | None:
    """Return the token of ``Authorization: Bearer …``, for `delegation`; None where there is none, or more than one."""
    values = request.headers.getlist("Authorization")
    # Some servers fold several into one, with commas.
    scheme, _, token = values[0].partition(" ") if len(values) == 1 and "," not in values[0] else ("", "", "")
    return token.strip() or None if scheme.lower() == "bearer" else None


class Asks(TypedDict, total=False):
    """What else `require_permission` takes, in every framework.

    Attributes:
        amount: What the request would cost, or a callable of it.
        actor: A callable of the request: for whom it is. What calls inside do is done for them. None: no actor.
        tenant: A callable of the request: whose ledger it is. None: the configured tenant.
        delegation: A callable of the request, for example `bearer_token`: the token of the delegation under which it
            acts. None: none.
        obligations: Where a grant asks for a person's approval or redacts something: ``"refuse"``, or ``"inside"``: the
            request passes, because a guarded call in it needs the same permission, and sees to it itself.
    """

    amount: Amount | Callable[[Any], Any] | None
    actor: Callable[[Any], Any] | None
    tenant: Callable[[Any], Any] | None
    delegation: Callable[[Any], Any] | None
    obligations: str


@dataclass(frozen=True, slots=True)
class Gate:
    """What a gate asks for: a permission such as ``"payments:refund"``, and the rest as in `Asks`."""

    permission: str
    amount: Amount | Callable[[Any], Any] | None = None
    actor: Callable[[Any], Any] | None = None
    tenant: Callable[[Any], Any] | None = None
    delegation: Callable[[Any], Any] | None = None
    obligations: str = "refuse"

    def __post_init__(self) -> None:
        if not is_permission(self.permission):
            raise ConfigError(f"a permission is a name such as 'payments:refund', not {self.permission!r}")
        if not (self.amount is None or isinstance(self.amount, Money | Tokens | Calls) or callable(self.amount)):
            raise ConfigError(f"the amount is Money (never a float), Tokens, Calls or a callable, not {self.amount!r}")
        for name in ("actor", "tenant", "delegation"):
            value = getattr(self, name)
            if value is not None and not callable(value):
                raise ConfigError(f"{name} is a callable of the request, for example trusted_header('X-User'), "
                                  f"not {value!r}")  # fmt: skip
        if self.obligations not in OBLIGATIONS:
            raise ConfigError(f"obligations is one of {', '.join(OBLIGATIONS)}, not {self.obligations!r}")

    def questions(self) -> dict[str, Callable[[Any], Any]]:
        """What is asked of a request, by name."""
        asked = {name: getattr(self, name) for name in ("amount", "actor", "tenant", "delegation")}
        return {name: ask for name, ask in asked.items() if callable(ask)}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a request is answered with instead of what it asked for.

    Attributes:
        status: HTTP.
        body: JSON.
        headers: Further ones.
    """

    status: int
    body: Mapping[str, Any]
    headers: Mapping[str, str] = field(default_factory=dict)


class Refused(Exception):
    """A request does not pass."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(answer.body["error"])
        self.answer = answer


@contextlib.contextmanager
def acting(gate: Gate, said: Mapping[str, Any]) -> Iterator[Amount | None]:
    """Put who acts around a request; gives what it would cost.

    Args:
        gate: What was asked of the request.
        said: What the callables said, by name.

    Raises:
        Refused: Nobody knows who acts.
        NotAuthorized: The token cannot be read, or is over.
    """
    who = {name: said[name] for name in ("actor", "tenant", "delegation") if name in said}
    unknown = [name for name, value in who.items() if not (isinstance(value, str) and value)]
    if unknown and _enforces():
        reason = f"the request does not say its {unknown[0]}"
        raise Refused(Answer(401, {"error": "unauthenticated", "permission": gate.permission, "reason": reason}))
    token = said.get("delegation") if "delegation" not in unknown else None
    before = ambient()
    put_around(replace(before or Ambient(""), **{name: who[name] for name in who.keys() - {"delegation", *unknown}}))
    try:
        with _under(token):
            yield said.get("amount", gate.amount)
    finally:
        put_around(before)


def passes(gate: Gate, answer: Authorization) -> Authorization:
    """Let a request pass, or not.

    Raises:
        Refused: It is not granted; or on conditions, and no call in the request sees to them.
    """
    obliges: dict[str, Any] = {"approval": True} if answer.approval else {}
    if answer.redact:
        obliges |= {"redact": [one.said for one in answer.redact]}
    if answer and (not obliges or gate.obligations == "inside"):
        return answer
    unmet = "a person has to approve each call" if answer.approval else "its grant redacts, which a request cannot"
    reason = answer.reason or unmet
    if not _enforces():
        logger.warning("shadow: a request passes; enforced, it would be refused: %s: %s", gate.permission, reason)
        return answer
    body = {
        "error": "not_authorized",
        "permission": answer.permission,
        "reason": reason,
        "grant": answer.grant,
        "version": answer.version,
        "limit": None if answer.limit is None else str(answer.limit),
        "delegation": answer.delegation,
        "obligations": obliges,
    }
    raise Refused(Answer(403, {name: value for name, value in body.items() if value is not None}))


@contextlib.contextmanager
def refusing(gate: Gate) -> Iterator[None]:
    """Turn errors of ours, of the gate or of a guarded call inside, into what the request is answered with.

    Raises:
        Refused: Instead of such an error; one that is the application's own mistake comes as it is.
    """
    try:
        yield
    except SpanledgerError as error:
        status = next((status for kinds, status in _STATUS if isinstance(error, kinds)), None)
        if status is None:
            raise
        raise Refused(_answered(error, status, gate)) from error


def _answered(error: SpanledgerError, status: int, gate: Gate) -> Answer:
    told = {name: value for name in _TOLD if isinstance(value := getattr(error, name, None), str)}
    name = re.sub("(?<!^)(?=[A-Z])", "_", type(error).__name__).lower()
    reason = getattr(error, "reason", None) or ("the ledger does not answer" if status == UNAVAILABLE else str(error))
    body = {"permission": gate.permission} | told | {"error": name, "reason": reason}
    return Answer(status, body, {"Retry-After": str(RETRY_AFTER_S)} if status == UNAVAILABLE else {})


def unanswered(gate: Gate, error: LedgerUnavailable) -> Authorization:
    """Let a request pass although the ledger does not answer: in mode "shadow" only.

    Raises:
        LedgerUnavailable: The error.
    """
    if _enforces():
        raise error
    logger.warning("shadow: a request passes; whether %s is granted is not known: %s", gate.permission, error)
    return Authorization(gate.permission, allowed=False, reason="the ledger does not answer")


def _under(token: str | None) -> AbstractContextManager[Any]:
    if token is None:
        return contextlib.nullcontext()
    try:
        return delegated(token)
    except NotAuthorized as error:
        if _enforces():
            raise
        logger.warning("shadow: a request passes; enforced, it would be refused: %s", error)
        return contextlib.nullcontext()


def _enforces() -> bool:
    engine = _runtime.engine()
    return engine is not None and engine.guard.config.mode == "enforce"
