"""Connectors: places outside that are called with a credential which neither the agent nor its program ever has.

Rules: pure. A connector is one door: one origin, one credential, one permission, and the methods and paths for which
the credential is good; what is not named is not sent, in no mode. Whoever needs several permissions at one provider
makes several connectors. Nothing here holds a secret but a `Credential`, which shows it to who asks for `value` alone.
"""

from __future__ import annotations

import base64
import html
import itertools
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from spanledger.core.egress import SAFE_METHODS, EgressRule, Request, refusal, target_of
from spanledger.core.redaction import MASK
from spanledger.core.rules import is_permission
from spanledger.core.spelling import hosts, split_url
from spanledger.errors import ConfigError

SENT: Final = ("params", "json", "data")
EXPIRES_IN_S: Final = 900.0
TIMEOUT_S: Final = 30.0
BASE64_CHARS_MIN: Final = 6

_REQUEST_TIMEOUT, _SERVER_ERRORS = 408, 500
# They say where a request goes and where it ends, and are the connection's own.
_FRAMING: Final = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "keep-alive", "te", "trailer", "upgrade", "expect"}
)
_FORM: Final = "application/x-www-form-urlencoded"
# How the last two characters of both alphabets may be written, in JSON and URLs as well.
_BASE64: Final = {"+": r"(?:[-+]|%2[Bb]|\\u002[Bb])", "/": r"(?:_|\\{0,3}/|%2[Ff]|\\u002[Ff])"}
_BASE64_ANY: Final = rf"[A-Za-z0-9]|{_BASE64['+']}|{_BASE64['/']}"
_BASE64_PADDING: Final = r"(?:=|%3[Dd]|\\u003[Dd]){0,2}"
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Connector:
    """A place that tools call through `invoke`, which adds the credential after everything was decided.

    Attributes:
        name: The tool's name of its calls, by which rules, budgets and switches find them.
        base_url: Where it is, for example ``"https://api.stripe.com"``; without TLS on this machine only.
        permission: What whoever calls it needs.
        credential: Where the credential comes from, read for each request: a callable that returns it;
        credential_env: or the name of an environment variable;
        credential_file: or a file.
        header: How it is sent, with ``{}`` in its place.
        headers: What else is sent with each request; a ``Content-Type`` among them says what JSON is sent as.
        methods: Which methods may be used, for example ``("GET", "POST")``.
        paths: Which paths below the base, ``*`` standing for any text: ``("/v1/refunds*",)``.
        mint: Makes a credential that is good for a short while, for `mint_credential`: called with ``permission``,
            ``amount`` and ``expires_in_s``, and returns it.
        timeout_s: How long it may take to be connected and to be answered, together.
    """

    name: str
    base_url: str
    permission: str
    credential: Callable[[], str] | None = field(default=None, kw_only=True, repr=False)
    credential_env: str | None = field(default=None, kw_only=True)
    credential_file: str | Path | None = field(default=None, kw_only=True)
    header: str = field(default="Authorization: Bearer {}", kw_only=True)
    headers: Mapping[str, str] = field(default_factory=dict, kw_only=True)
    methods: tuple[str, ...] = field(default=(), kw_only=True)
    paths: tuple[str, ...] = field(default=(), kw_only=True)
    mint: Callable[..., str] | None = field(default=None, kw_only=True, repr=False)
    timeout_s: float = field(default=TIMEOUT_S, kw_only=True)
    _doors: tuple[EgressRule, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        where = f"connector {self.name!r:.80}"
        if not isinstance(self.name, str) or not self.name.strip():
            raise ConfigError(f"{where}: a name is a text that is not empty")
        if not isinstance(self.permission, str) or not is_permission(self.permission):
            raise ConfigError(f"{where}: a permission is a name such as 'payments:refund', not {self.permission!r:.80}")
        base = _checked_base(self.base_url, where)
        object.__setattr__(self, "base_url", base)
        given = [one for one in (self.credential, self.credential_env, self.credential_file) if one is not None]
        if len(given) > 1 or not (given or self.mint):
            raise ConfigError(f"{where}: give one of credential, credential_env and credential_file, or mint")
        for called in (self.credential, self.mint):
            if called is not None and not callable(called):
                raise ConfigError(f"{where}: credential and mint are callables, in a file 'module:function'")
        if not is_number(self.timeout_s) or not 0 < self.timeout_s < math.inf:
            raise ConfigError(f"{where}: timeout_s is a number of seconds, more than 0")
        self._check_headers(where)
        if given and not (self.methods and self.paths):
            raise ConfigError(f"{where}: its credential is good for nothing: name methods and paths")
        if not all(isinstance(path, str) and path.startswith("/") for path in self.paths):
            raise ConfigError(f"{where}: paths is a list such as ['/v1/refunds*']")
        prefix = urlsplit(base).path
        doors = tuple(
            EgressRule(_authority(base), methods=self.methods, path=prefix + path, name=self.name)
            for path in self.paths
        )
        object.__setattr__(self, "_doors", doors)

    def _check_headers(self, where: str) -> None:
        name, colon, value = self.header.partition(":") if isinstance(self.header, str) else ("", "", "")
        if not (colon and value.count("{}") == 1 and _is_name(name) and is_plain(value)):
            raise ConfigError(f"{where}: header is such as 'Authorization: Bearer {{}}'")
        if not isinstance(self.headers, Mapping) or not all(map(_is_name, self.headers)):
            raise ConfigError(f"{where}: headers are texts by their names")
        own = {named.lower() for named in self.headers}
        if len(own) < len(self.headers):
            raise ConfigError(f"{where}: two headers have one name")
        if name.lower() in own | _FRAMING or own & _FRAMING:
            raise ConfigError(f"{where}: header and headers name others, and none of {', '.join(sorted(_FRAMING))}")
        if not all(is_plain(said) for said in self.headers.values()):
            raise ConfigError(f"{where}: headers are texts of plain characters")

    def sent(self, method: str, path: str, sent: Mapping[str, Any]) -> Request:
        """Make a request, without the credential.

        Args:
            method: Of HTTP.
            path: Below the base, beginning with a slash and without a query.
            sent: ``params`` for the query, and ``json`` or ``data``, a form.

        Raises:
            ConfigError: That is no request.
            EgressRefused: The connector is not for that.
        """
        if not _is_name(method):
            raise ConfigError(f"connector {self.name!r}: a method is such as 'POST', not {method!r:.80}")
        if not isinstance(path, str) or not path.startswith("/") or not is_plain(path) or set(path) & set("?#\\ "):
            raise ConfigError(f"connector {self.name!r}: a path begins with '/' and has no query; that goes in params")
        unknown = sorted(sent.keys() - set(SENT))
        if unknown or {"json", "data"} <= sent.keys():
            raise ConfigError(f"connector {self.name!r}: what is sent is params, and json or data, not {sorted(sent)}")
        try:
            query = urlencode(sent["params"], doseq=True) if sent.get("params") else ""
            body, kind = _body(sent)
        except (TypeError, ValueError) as error:
            raise ConfigError(f"connector {self.name!r}: what is sent is no JSON, query or form: {error}") from None
        url = f"{self.base_url}{path}{'?' if query else ''}{query}"
        request = Request(method.upper(), url, self._headers_of(kind), body)
        target = target_of(request)
        if not any(door.covers(target) for door in self._doors):
            only = f"{', '.join(self.methods)} of {', '.join(self.paths)}" if self._doors else "nothing that is sent"
            rule = EgressRule("*", "deny", name=f"connector {self.name}", reason=f"the connector is for {only}")
            raise refusal(rule, request, target)
        return request

    def _headers_of(self, kind: str | None) -> tuple[tuple[str, str], ...]:
        own = {name: value for name, value in self.headers.items() if kind != _FORM or name.lower() != "content-type"}
        said = kind is None or "content-type" in map(str.lower, own)
        return (*own.items(), *(() if said else (("Content-Type", kind),)))

    def credential_header(self, secret: str) -> tuple[str, str]:
        """Return the header that carries a credential."""
        name, _, value = self.header.partition(":")
        return name, value.strip().replace("{}", secret)


@dataclass(frozen=True, slots=True)
class Answer:
    """What a connector was answered.

    Attributes:
        status: Of HTTP; from 400 on the call has failed, or nobody knows: see `leaves_open`.
        headers: By name in lower case, without cookies.
        content: The body.
    """

    status: int
    headers: dict[str, str]
    content: bytes

    @property
    def text(self) -> str:
        """The body as text."""
        return self.content.decode(errors="replace")

    def json(self) -> Any:
        """Return the body as the JSON value that it is."""
        return json.loads(self.content)


class Credential:
    """A credential that was made for a short while; it shows itself to nobody but who asks for `value`.

    Attributes:
        connector: Whose it is.
        permission: What it was made for.
        expires_at_s: Seconds since 1970 until which it was asked for.
    """

    __slots__ = ("_value", "connector", "expires_at_s", "permission")

    def __init__(self, value: str, connector: str, permission: str, expires_at_s: float) -> None:
        self._value = value
        self.connector = connector
        self.permission = permission
        self.expires_at_s = expires_at_s

    @property
    def value(self) -> str:
        """The credential itself: keep it out of logs, prompts and results of tools."""
        return self._value

    def __repr__(self) -> str:
        return f"<credential of {self.connector} for {self.permission}>"

    def __reduce__(self) -> Any:
        raise TypeError("a credential is not pickled: it would lie about wherever that goes")


class Hidden:
    """Finds a secret in what came back: as it is, as JSON, a URL or HTML would write it, and in Base64.

    In Base64 it may stand alone or inside of something, a user before it for example; both alphabets are known, padded
    or not. A secret shorter than `BASE64_CHARS_MIN` is not looked for in it: too much else would be taken for it.
    """

    __slots__ = ("_spelled",)

    def __init__(self, secret: str) -> None:
        secret = secret.strip()
        runs = itertools.groupby(secret, key=lambda character: character == "\\")
        plain = "".join(_spellings(list(run)) for _, run in runs)
        self._spelled = tuple(map(re.compile, (plain, *_in_base64(secret))))

    def masked(self, text: str) -> str:
        """Return a text without it."""
        for spelled in self._spelled:
            text = spelled.sub(MASK, text)
        return text

    def is_in(self, text: str) -> bool:
        """Tell whether a text holds it."""
        return any(spelled.search(text) is not None for spelled in self._spelled)


def _spellings(run: list[str]) -> str:
    """Write a pattern of some characters: of backslashes only, which an escape repeats, or of none."""
    if run[0] != "\\":
        return "".join(f"(?:{'|'.join([re.escape(one), *_escapes(one)])})" for one in run)
    count = len(run)
    return rf"(?:\\{{{count},{4 * count}}}|(?:{'|'.join(_escapes(run[0]))}){{{count}}})"


def _escapes(character: str) -> list[str]:
    """Write patterns of what may stand for a character; none has two ways to match the same text."""
    code = "".join(f"[{one}{one.upper()}]" if one.isalpha() else one for one in f"{ord(character):02x}")
    ways = [rf"\\{{1,3}}u00{code}", f"%(?:25){{0,2}}{code}"]
    if not character.isalnum():
        ways += [f"&#0{{0,4}}{ord(character)};", f"&#[xX]0{{0,4}}{code};"]
        ways += [] if character == "\\" else [rf"\\{{1,3}}{re.escape(character)}"]
    if html.escape(character) != character:
        ways += [re.escape(html.escape(character))]
    return [*ways, r"\+"] if character == " " else ways


def _in_base64(secret: str) -> Iterator[str]:
    """Write patterns of a secret in Base64: three, because three bytes are written together, and it begins with any.

    Of what is written, only those characters are looked for that the secret alone decides. One after them that tells
    some bits of it goes with them; one before them that does stays, because what begins with a letter is found fast.
    """
    if len(secret) < BASE64_CHARS_MIN:
        return
    for before in range(3):
        written = base64.b64encode(bytes(before) + secret.encode()).decode()
        alone = written[-(-before * 8 // 6) : (before + len(secret)) * 8 // 6]
        ends = f"(?:{_BASE64_ANY})?" if (before + len(secret)) % 3 else ""
        yield "".join(_BASE64.get(one, one) for one in alone) + ends + _BASE64_PADDING


def leaves_open(method: str, status: int) -> bool:
    """Tell whether a request may have taken effect although its answer says that it failed.

    Who answers with 408 or 5xx may be a gateway on the way, which gave up waiting for what goes on behind it.
    """
    return method.upper() not in SAFE_METHODS and (status == _REQUEST_TIMEOUT or status >= _SERVER_ERRORS)


def is_number(value: object) -> bool:
    """Tell whether a value is a number, and no truth."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def is_plain(text: object) -> bool:
    """Tell whether a text can be part of a header or a path as it stands."""
    return isinstance(text, str) and bool(text) and text.isascii() and text.isprintable()


def _is_name(name: object) -> bool:
    return isinstance(name, str) and name.isascii() and name.replace("-", "").replace("_", "").isalnum()


def _checked_base(base_url: object, where: str) -> str:
    whole = is_plain(base_url) and split_url(str(base_url)) is not None
    parts = urlsplit(str(base_url) if whole else "")
    if not parts.hostname or hosts(parts.hostname) is None or parts.username is not None:
        raise ConfigError(f"{where}: base_url is such as 'https://api.stripe.com', without a user")
    if parts.query or parts.fragment or "?" in str(base_url):
        raise ConfigError(f"{where}: base_url has no query")
    if parts.scheme != "https" and not (parts.scheme == "http" and parts.hostname in _LOOPBACK):
        raise ConfigError(f"{where}: base_url begins with https://, or everybody on the way reads the credential")
    return str(base_url).rstrip("/")


def _authority(base: str) -> str:
    parts = urlsplit(base)
    host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else str(parts.hostname)
    return f"{host}:{parts.port or (443 if parts.scheme == 'https' else 80)}"


def _body(sent: Mapping[str, Any]) -> tuple[bytes, str | None]:
    if "json" in sent:
        return json.dumps(sent["json"], allow_nan=False).encode(), "application/json"
    return (urlencode(sent["data"], doseq=True).encode(), _FORM) if "data" in sent else (b"", None)
