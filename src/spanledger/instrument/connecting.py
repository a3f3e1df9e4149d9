"""Calling places outside with a credential that the program does not have: `connectors`, `invoke`, `mint_credential`.

Rules: a call of a connector is a guarded call like any other, under the connector's name and permission, and what it
sends goes by the egress rules. The credential is read when all that is decided and recorded, and goes to the wire from
there. What an answer leaves open is an unknown outcome; what only reads, or makes a credential that nobody has got,
can be made again whatever became of it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import importlib.util
import time
from dataclasses import dataclass, field
from typing import Any, Final

from spanledger._guard import current_call
from spanledger.core.connectors import EXPIRES_IN_S, Answer, Connector, Credential, is_number, leaves_open
from spanledger.core.egress import SAFE_METHODS, Request
from spanledger.core.money import Amount
from spanledger.core.outcomes import no_coroutine
from spanledger.errors import ConfigError, EgressRefused, ResultNotKept
from spanledger.instrument import _runtime
from spanledger.instrument._wire import answered
from spanledger.instrument.gateway import guard
from spanledger.telemetry import outgoing

EXPIRES_IN_S_MAX: Final = 86_400.0


def connectors() -> tuple[Connector, ...]:
    """Return the connectors that the configuration declares; none of them shows its credential."""
    return _runtime.config().connectors


def invoke(
    connector: str, method: str, path: str, *, amount: Amount | None = None, key: str | None = None, **sent: Any
) -> Answer:
    """Call a connector: once, if it is permitted, within budgets, and with a credential that only it sees.

    The same call in the same workflow is made once; whoever makes it again is given the recorded answer. Egress rules
    count for it, and what may change something carries an ``Idempotency-Key``.

    Args:
        connector: Its name.
        method: Of HTTP.
        path: Below the connector's base.
        amount: What the call costs at most, for budgets and limits of grants.
        key: An idempotency key of your own.
        **sent: ``params``, a mapping for the query; and ``json``, a JSON value, or ``data``, a mapping for a form.

    Returns:
        The answer. A status from 400 on has failed: the same call is made again. Not so 408 and those from 500 on to
        a method that may change something: a gateway may have given up on what took effect, so the outcome is unknown,
        as after a timeout, and the same call raises `OutcomeUnknown` unless its rule says otherwise.

    Raises:
        SpanledgerError: It is not made; the kind of error says why: `EgressRefused` where the connector is not for
            that, `ConfigError` where it is not known, has no credential, or what is sent cannot be.
        Exception: The connection failed, as urllib3 says it; so does an answer that takes longer than ``timeout_s`` or
            is larger than 16 MiB.
    """
    calling = _calling(connector, method, path, sent)
    return guard(connector, calling.arguments, calling.answer, key=key, **calling.rule(amount))


async def invoke_awaiting(
    connector: str, method: str, path: str, *, amount: Amount | None = None, key: str | None = None, **sent: Any
) -> Answer:
    """As `invoke`, awaited: the request is made in a thread."""
    calling = _calling(connector, method, path, sent)
    return await guard(connector, calling.arguments, calling.answer_awaiting, key=key, **calling.rule(amount))


def mint_credential(
    connector: str,
    *,
    permission: str | None = None,
    amount: Amount | None = None,
    expires_in_s: float = EXPIRES_IN_S,
) -> Credential:
    """Have a connector make a credential that is good for a short while, for what cannot be called through `invoke`.

    That is a guarded call of its own, ``NAME.mint``, and made anew each time. What was decided is recorded, and the
    credential is not.

    Args:
        connector: Its name.
        permission: What it is for: the connector's own permission, or one below that. None: the connector's own.
        amount: What may be spent with it at most, for budgets and limits of grants.
        expires_in_s: Seconds for which it is to be good, at most a day; whoever makes it sees to that.

    Raises:
        SpanledgerError: It is not made; the kind of error says why. What `mint` raises comes as it is.
        ConfigError: The connector is not known or makes none, or the permission is not below its own.
    """
    minting = _Minting(_door(connector), permission, amount, expires_in_s)
    guard(minting.name, minting.arguments, minting.make, **minting.rule)
    return minting.made()


async def mint_credential_awaiting(
    connector: str,
    *,
    permission: str | None = None,
    amount: Amount | None = None,
    expires_in_s: float = EXPIRES_IN_S,
) -> Credential:
    """As `mint_credential`, awaited: `mint` is called in a thread."""
    minting = _Minting(_door(connector), permission, amount, expires_in_s)
    await guard(minting.name, minting.arguments, minting.make_awaiting, **minting.rule)
    return minting.made()


def _door(name: str) -> Connector:
    known = {one.name: one for one in connectors()}
    if not isinstance(name, str) or name not in known:
        raise ConfigError(f"there is no connector {name!r:.80}; there are {', '.join(known) or 'none'}")
    return known[name]


def _needs(permission: str, amount: Amount | None) -> dict[str, Any]:
    return {"permission": permission} | ({} if amount is None else {"reserve": amount})


def _calling(connector: str, method: str, path: str, sent: dict[str, Any]) -> _Calling:
    calling = _Calling(_door(connector), {"method": method, "path": path, **sent})
    if importlib.util.find_spec("urllib3") is None:
        raise ConfigError("connectors call through urllib3, which is not installed: pip install urllib3")
    try:
        calling.request(calling.arguments)  # before people are asked about what cannot be sent
    except EgressRefused as error:
        outgoing.refused(error, None)
        raise
    return calling


@dataclass(frozen=True, slots=True)
class _Calling:
    """One call of a connector.

    Attributes:
        door: The connector.
        arguments: What it is called with.
    """

    door: Connector
    arguments: dict[str, Any]

    def request(self, arguments: dict[str, Any]) -> Request:
        """Make the request of arguments."""
        sent = dict(arguments)
        return self.door.sent(sent.pop("method"), sent.pop("path"), sent)

    def rule(self, amount: Amount | None) -> dict[str, Any]:
        """Say what is asked of the call."""
        safe = str(self.arguments["method"]).upper() in SAFE_METHODS
        return _needs(self.door.permission, amount) | ({"on_unknown": "retry"} if safe else {})

    def answer(self, arguments: dict[str, Any]) -> Answer:
        """Send the request, and return what it was answered."""
        request = self.request(arguments)
        answer = answered(self.door, request)
        if leaves_open(request.method, answer.status):
            current_call().inside.doubtful = True
        return answer

    async def answer_awaiting(self, arguments: dict[str, Any]) -> Answer:
        """As `answer`, in a thread."""
        return await asyncio.to_thread(self.answer, arguments)


@dataclass(slots=True)
class _Minting:
    """One credential that is made."""

    door: Connector
    permission: str | None
    amount: Amount | None
    expires_in_s: float
    _made: Credential | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        own, where = self.door.permission, f"connector {self.door.name!r}"
        self.permission = own if self.permission is None else self.permission
        if self.door.mint is None:
            raise ConfigError(f"{where} makes no credentials: it has no mint")
        if not isinstance(self.permission, str) or not f"{self.permission}:".startswith(f"{own}:"):
            raise ConfigError(
                f"{where}: a credential is for {own!r} or for what is below it, not {self.permission!r:.80}"
            )
        if not is_number(self.expires_in_s) or not 0 < self.expires_in_s <= EXPIRES_IN_S_MAX:
            raise ConfigError(f"{where}: expires_in_s is a number of seconds, at most {EXPIRES_IN_S_MAX:.0f}")

    @property
    def name(self) -> str:
        """The tool's name of the call."""
        return f"{self.door.name}.mint"

    @property
    def arguments(self) -> dict[str, Any]:
        """What the call is made with, for people."""
        amount = None if self.amount is None else str(self.amount)
        return {"permission": self.permission, "amount": amount, "expires_in_s": self.expires_in_s}

    @property
    def rule(self) -> dict[str, Any]:
        """What is asked of the call: what was made before is not kept, so it is made anew."""
        return {"replay_for_s": 0, "on_unknown": "retry", **_needs(str(self.permission), self.amount)}

    def make(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Have it made; what is returned is what may be recorded."""
        assert self.door.mint is not None  # noqa: S101 - see __post_init__
        expires_at_s = time.time() + self.expires_in_s
        made = self.door.mint(permission=self.permission, amount=self.amount, expires_in_s=self.expires_in_s)
        value = made if isinstance(no_coroutine(self.name, made), str) else ""
        del made  # an error shows its frames, and what was made may be a credential all the same
        if not value:
            raise ConfigError(f"{self.name} returned no text that is a credential")
        self._made = Credential(value, self.door.name, str(self.permission), expires_at_s)
        return {"expires_at": dt.datetime.fromtimestamp(expires_at_s, dt.UTC).isoformat()}

    async def make_awaiting(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """As `make`, in a thread."""
        return await asyncio.to_thread(self.make, arguments)

    def made(self) -> Credential:
        """Return what was made."""
        if self._made is None:
            raise ResultNotKept(f"{self.name} was made before, and credentials are not kept: leave replay_for_s at 0")
        return self._made
