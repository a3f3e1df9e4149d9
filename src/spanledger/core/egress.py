"""Which HTTP requests may leave, and as what: rules by method, host and path.

Rules: pure. The first rule that matches decides, and what none matches may leave. A rule that denies,
holds or redacts matches where any reading of a request fits it, one that only allows where every reading does, so that
no spelling of a place gets around a rule. Hosts are compared by name: whoever wants to keep an address from being
reached names it and its names.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, MutableMapping
from dataclasses import dataclass, field
from typing import Any, Final

from spanledger.core.redaction import Redact
from spanledger.core.rules import APPROVAL_TIMEOUT_S, WAIT_TIMEOUT_S, matches
from spanledger.core.spelling import Readings, hosts, methods, paths, split_url
from spanledger.errors import ConfigError, EgressRefused

ACTIONS: Final = ("allow", "deny", "hold")
# A longer body is not read: it cannot be redacted or approved, and its request gets no idempotency key.
BODY_BYTES_MAX: Final = 50 * 1024 * 1024
KEY_HEADER: Final = "Idempotency-Key"
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})

_OVERRIDES: Final = frozenset({"x-http-method-override", "x-http-method", "x-method-override"})
_METHOD: Final = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_PORT: Final = re.compile(r"(?P<host>\[[^\]]*\]|[^:]*):(?P<port>[0-9]{1,5})")


@dataclass(frozen=True, slots=True)
class EgressRule:
    """What becomes of HTTP requests to a place, made from inside a guarded tool.

    Attributes:
        host: A name or an address, ``*`` in it standing for any text: ``"api.stripe.com"``, ``"*.internal"``, ``"*"``;
            with a port, ``"localhost:8080"``, of that port alone.
        action: ``"allow"``; ``"deny"``; or ``"hold"`` for a person's approval, which is for exactly this request.
        methods: Which methods, for example ``("POST", "DELETE")``. None: any.
        path: Which paths, ``*`` standing for any text: ``"/v1/refunds*"``. The query is no part of it.
        redact: Places in the query and in the JSON or form of the body that are not sent. A body in which nobody can
            look for them is refused: compressed, streamed, of another type, longer than `BODY_BYTES_MAX`.
        name: By which traces, errors and approvals speak of the rule. None: made of the fields above.
        reason: Why, for whoever is refused.
        idempotency_key: Requests that may change something get an ``Idempotency-Key`` made from the call, unless they
            have one or ask a model provider.
        everywhere: It counts outside of guarded tools as well; nobody can be asked there, so ``"hold"`` denies.
        on_refusal: As in `Rule`: ``"raise"``, or ``"tell"`` the model.
        approval_timeout_s: How long a request for approval stays open.
        wait_timeout_s: How long a held request waits for a person before `ApprovalPending`.
    """

    host: str
    action: str = "allow"
    methods: tuple[str, ...] | None = None
    path: str = "*"
    redact: tuple[Redact | str, ...] = ()
    name: str | None = None
    reason: str | None = None
    idempotency_key: bool = True
    everywhere: bool = False
    on_refusal: str = "raise"
    approval_timeout_s: float = APPROVAL_TIMEOUT_S
    wait_timeout_s: float = WAIT_TIMEOUT_S
    _hosts: tuple[str, ...] = field(init=False, repr=False, compare=False)
    _port: int | None = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.action not in ACTIONS:
            raise ConfigError(f"egress rule: action is one of {', '.join(ACTIONS)}, not {self.action!r}")
        if self.on_refusal not in ("raise", "tell"):
            raise ConfigError(f"egress rule: on_refusal is 'raise' or 'tell', not {self.on_refusal!r}")
        if not isinstance(self.path, str) or not self.path.startswith(("/", "*")):
            raise ConfigError(f"egress rule: path begins with '/' or '*', not as {self.path!r}")
        for flag in ("idempotency_key", "everywhere"):
            if not isinstance(getattr(self, flag), bool):
                raise ConfigError(f"egress rule: {flag} is true or false")
        self._read_methods()
        redact = tuple(one if isinstance(one, Redact) else Redact(one) for one in self.redact)
        object.__setattr__(self, "redact", redact)
        named, port = _host_patterns(self.host)
        object.__setattr__(self, "_hosts", named)
        object.__setattr__(self, "_port", port)
        if self.name is None:
            which = f"{','.join(self.methods)} " if self.methods else ""
            object.__setattr__(self, "name", f"{self.action} {which}{self.host}{'' if self.path == '*' else self.path}")

    def _read_methods(self) -> None:
        if self.methods is None:
            return
        given: Any = self.methods
        given = () if isinstance(given, str) else tuple(given)
        if not given or not all(isinstance(method, str) and _METHOD.fullmatch(method) for method in given):
            raise ConfigError(f"egress rule: methods is a list such as ['POST', 'DELETE'], not {self.methods!r}")
        object.__setattr__(self, "methods", tuple(method.upper() for method in given))

    @property
    def restricts(self) -> bool:
        """Whether it takes something away, so that it matches where any reading of a request does."""
        return self.action != "allow" or bool(self.redact)

    def covers(self, target: Target) -> bool:
        """Tell whether a request is one that this rule is about."""
        decide = any if self.restricts else all
        return (
            self._covers(target.methods, lambda method: self.methods is None or method in self.methods)
            and decide(self._port in (None, port) for port in target.ports)
            and self._covers(target.hosts, lambda host: any(matches(pattern, host) for pattern in self._hosts))
            and self._covers(target.paths, self._has_path)
        )

    def _covers(self, readings: Readings, fits: Any) -> bool:
        if readings is None:
            # Nobody can tell: a pattern for everything fits all the same.
            return self.restricts or bool(fits(""))
        return any(map(fits, readings)) if self.restricts else all(map(fits, readings))

    def _has_path(self, path: str) -> bool:
        if matches(self.path, path):
            return True
        # Some servers read either case alike, and with or without the last slash.
        folded = self.path.casefold()
        return self.restricts and any(matches(folded, p.casefold()) for p in (path, path.rstrip("/")))


@dataclass(frozen=True, slots=True)
class Request:
    """A request, as it is about to be sent.

    Attributes:
        method: As given.
        url: The whole URL.
        headers: Names and values.
        body: What is sent; None where it cannot be read without using it up, or is longer than `BODY_BYTES_MAX`.
        targets: Paths that are sent instead of the URL's.
    """

    method: str
    url: str
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes | None = b""
    targets: tuple[str, ...] = ()

    def header(self, name: str) -> str | None:
        """Return the value of a header; None where there is none."""
        return next(iter(self.all_of({name.lower()})), None)

    def all_of(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the values of headers, whose names are in lower case."""
        return tuple(value for name, value in self.headers if name.lower() in names)


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about, in all its readings.

    Attributes:
        methods: What is to be done.
        hosts: Where.
        ports: On which ports.
        paths: To what.
    """

    methods: frozenset[str]
    hosts: Readings
    ports: frozenset[int | None]
    paths: Readings

    @property
    def origin(self) -> str:
        """Who is asked, as text to compare."""
        named = "?" if self.hosts is None else ",".join(sorted(self.hosts))
        return f"{named}:{','.join(map(str, sorted(self.ports, key=str)))}"

    @property
    def host(self) -> str:
        """The host in the form in which people and traces are told of it."""
        return "(unreadable)" if not self.hosts else min(self.hosts)


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of a request before it is sent.

    Attributes:
        key: Its idempotency key.
        without_key: The key it carries was made for another origin.
        url: Instead of its own.
        body: Instead of its own.
    """

    key: str | None = None
    without_key: bool = False
    url: str | None = None
    body: bytes | None = None

    def __bool__(self) -> bool:
        return self.key is not None or self.without_key or self.url is not None or self.body is not None

    def on(self, headers: MutableMapping[str, str]) -> None:
        """Change headers, in which names are compared without case."""
        if self.without_key:
            headers.pop(KEY_HEADER, None)
        if self.key is not None:
            headers[KEY_HEADER] = self.key
        if self.body is not None:
            headers.pop("Transfer-Encoding", None)
            headers["Content-Length"] = str(len(self.body))


def target_of(request: Request) -> Target:
    """Read what a request is about."""
    said = methods(request.method, request.all_of(_OVERRIDES))
    places = [split_url(request.url), *map(_of_header, request.all_of({"host", ":authority"}))]
    # A target may be a whole URL, as a proxy is given it.
    whole = [split_url(target) for target in request.targets if not target.startswith("/")]
    places += whole
    if any(place is None for place in places):
        return Target(said, None, frozenset({None}), None)
    known = [place for place in places if place is not None]
    scheme, _, port, path = known[0]
    relative = [target for target in request.targets if target.startswith("/")]
    by_scheme = split_url(f"{scheme}://h") if scheme else None
    default = by_scheme[2] if by_scheme else port
    return Target(
        said,
        _all(hosts(place[1]) for place in known),
        frozenset({port, *(place[2] or default for place in known[1:])}),
        _all(paths(one) for one in (path, *(place[3] for place in whole if place), *relative)),
    )


def decided(rules: Iterable[EgressRule], target: Target, *, inside: bool) -> EgressRule | None:
    """Find the rule that decides about a request; None: it may leave.

    Args:
        rules: The first that matches counts.
        target: What the request is about.
        inside: It is made inside a guarded tool.
    """
    return next((rule for rule in rules if (inside or rule.everywhere) and rule.covers(target)), None)


def refusal(rule: EgressRule, request: Request, target: Target, why: str | None = None) -> EgressRefused:
    """Make the error of a request that a rule keeps from leaving."""
    reason = why or rule.reason
    error = EgressRefused(
        f"{request.method.upper()} {target.host} was not sent: refused by egress rule {rule.name!r}"
        f"{f': {reason}' if reason else ''}",
        rule=rule.name,
        method=request.method.upper(),
        host=target.host,
        path=rule.path,
        reason=reason,
    )
    error._on_refusal = rule.on_refusal  # noqa: SLF001 - our own class
    return error


def _all(each: Iterable[Readings]) -> Readings:
    known = list(each)
    return None if any(one is None for one in known) else frozenset().union(*(one for one in known if one is not None))


def _of_header(value: str) -> tuple[str, str, int | None, str] | None:
    return None if "/" in value else split_url(f"//{value}")


@functools.lru_cache(maxsize=1024)
def _host_patterns(pattern: str) -> tuple[tuple[str, ...], int | None]:
    """Read the host of a rule: its forms, and its port."""
    if not isinstance(pattern, str) or not pattern:
        raise ConfigError(f"egress rule: host is a name such as 'api.stripe.com' or '*', not {pattern!r}")
    with_port = _PORT.fullmatch(pattern)
    host, port = (with_port["host"], int(with_port["port"])) if with_port else (pattern, None)
    if "*" not in host:
        found = hosts(host)
        if found is None or "://" in pattern or "/" in pattern:
            raise ConfigError(f"egress rule: {pattern!r} is no host; leave scheme and path out")
        return tuple(sorted(found)), port
    pieces = host.split("*")
    if any(not set(piece).isdisjoint("/?#@\\ ") for piece in pieces):
        raise ConfigError(f"egress rule: {pattern!r} is no host; leave scheme and path out")
    # Whole labels are encoded; of a label with a star in it only the case can be evened out.
    labels = [label if "*" in label or not label else min(hosts(label) or {label}) for label in host.lower().split(".")]
    return (".".join(labels).rstrip("."),), port
