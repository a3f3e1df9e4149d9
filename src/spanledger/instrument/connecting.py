"""Calling places outside with a credential that the program does not have: `connectors`, `invoke`, `mint_credential`.

Rules: a call of a connector is a guarded call like any other, under the connector's name and permission, and what it
sends goes by the egress rules. The credential is read when all that is decided and recorded; the connection itself
puts it on the wire, below every client and whatever watches one, and it is masked in what comes back. A redirect is an
answer and is not followed, so it goes to no other origin. A request has a connection of its own: none has gone stale,
which would leave it unknown whether it arrived. Errors lose their tracebacks, whose frames know what was sent.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from spanledger.core.connectors import EXPIRES_IN_S, Answer, Connector, Credential, is_plain
from spanledger.core.egress import Request
from spanledger.core.money import Amount
from spanledger.core.outcomes import links, no_coroutine
from spanledger.core.redaction import MASK
from spanledger.errors import ConfigError, EgressRefused, ResultNotKept
from spanledger.instrument import _runtime
from spanledger.instrument.gateway import guard
from spanledger.instrument.governing import governed_client
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
        The answer. A status from 400 on has failed: the same call is made again.

    Raises:
        SpanledgerError: It is not made; the kind of error says why: `EgressRefused` where the connector is not for
            that, `ConfigError` where it is not known, has no credential, or what is sent cannot be.
        Exception: The connection failed, as urllib3 says it.
    """
    calling = _calling(connector, method, path, sent)
    return guard(connector, calling.arguments, calling.answer, key=key, **_needs(calling.door.permission, amount))


async def invoke_awaiting(
    connector: str, method: str, path: str, *, amount: Amount | None = None, key: str | None = None, **sent: Any
) -> Answer:
    """As `invoke`, awaited: the request is made in a thread."""
    calling = _calling(connector, method, path, sent)
    needs = _needs(calling.door.permission, amount)
    return await guard(connector, calling.arguments, calling.answer_awaiting, key=key, **needs)


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
    if name not in known:
        raise ConfigError(f"there is no connector {name!r:.80}; there are {', '.join(known) or 'none'}")
    return known[name]


def _needs(permission: str, amount: Amount | None) -> dict[str, Any]:
    return {"permission": permission} | ({} if amount is None else {"reserve": amount})


def _calling(connector: str, method: str, path: str, sent: dict[str, Any]) -> _Calling:
    calling = _Calling(_door(connector), {"method": method, "path": path, **sent})
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

    def answer(self, arguments: dict[str, Any]) -> Answer:
        """Send the request, and return what it was answered."""
        request = self.request(arguments)
        try:
            return _Line(self.door).answer(request)
        except Exception as error:  # noqa: BLE001 - raised again
            for one in links(error):
                one.__traceback__ = None
            raise error.with_traceback(None)  # noqa: B904 - it is the same

    async def answer_awaiting(self, arguments: dict[str, Any]) -> Answer:
        """As `answer`, in a thread."""
        return await asyncio.to_thread(self.answer, arguments)


class _Line:
    """A connection for one request, which puts the credential on the wire."""

    def __init__(self, door: Connector) -> None:
        import urllib3

        secret, base = credential_of(door), urlsplit(door.base_url)
        kind = urllib3.HTTPSConnectionPool if base.scheme == "https" else urllib3.HTTPConnectionPool
        pool: Any = kind(str(base.hostname), base.port, timeout=door.timeout_s)
        pool.ConnectionCls = _carrying(pool.ConnectionCls, door.credential_header(secret))
        self._pool: Any = governed_client(pool)
        self._masked: Callable[[str], str] = lambda text: text.replace(secret, MASK)

    def answer(self, request: Request) -> Answer:
        """Send a request and read what it is answered."""
        target = "/" + request.url.split("/", 3)[3]
        with self._pool as pool:
            got = pool.urlopen(
                request.method, target, request.body or None, dict(request.headers), retries=False, redirect=False
            )
        shown = {name.lower(): self._masked(value) for name, value in got.headers.items()}
        shown.pop("set-cookie", None)
        # Bytes that are no text come back as they were.
        content = self._masked(got.data.decode("latin-1")).encode("latin-1")
        return Answer(got.status, shown, content)


def _carrying(kind: Any, header: tuple[str, str]) -> Callable[..., Any]:
    """Make connections that send one header more than anybody has told them to."""

    def connection(*args: Any, **kwargs: Any) -> Any:
        made = kind(*args, **kwargs)
        plain = made.endheaders

        def endheaders(*args: Any, **kwargs: Any) -> Any:
            made.putheader(*header)
            return plain(*args, **kwargs)

        made.endheaders = endheaders
        return made

    return connection


def credential_of(door: Connector) -> str:
    """Read a credential; what is wrong with it is said without it."""
    said: object = None
    if door.credential is not None:
        said = door.credential()
    elif door.credential_env is not None:
        said = os.environ.get(door.credential_env)
    elif door.credential_file is not None:
        try:
            said = Path(door.credential_file).read_text("utf-8").strip()
        except (OSError, UnicodeError) as error:
            raise ConfigError(
                f"connector {door.name!r}: its credential cannot be read: {type(error).__name__}"
            ) from None
    if not isinstance(said, str) or not is_plain(said):
        raise ConfigError(f"connector {door.name!r}: its credential is missing, or is no text of plain characters")
    return said


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
        if self.permission != own and not self.permission.startswith(f"{own}:"):
            raise ConfigError(
                f"{where}: a credential is for {own!r} or for what is below it, not {self.permission!r:.80}"
            )
        if isinstance(self.expires_in_s, bool) or not 0 < self.expires_in_s <= EXPIRES_IN_S_MAX:
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
        return {"replay_for_s": 0, **_needs(str(self.permission), self.amount)}

    def make(self, _arguments: dict[str, Any]) -> dict[str, Any]:
        """Have it made; what is returned is what may be recorded."""
        assert self.door.mint is not None  # noqa: S101 - see __post_init__
        expires_at_s = time.time() + self.expires_in_s
        value = self.door.mint(permission=self.permission, amount=self.amount, expires_in_s=self.expires_in_s)
        if not isinstance(no_coroutine(self.name, value), str) or not value:
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
