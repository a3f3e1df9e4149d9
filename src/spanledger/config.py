"""Configuration: frozen, checked when it is made, from code, a TOML file and the environment.

Rules: the environment wins over the file. An unknown name is an error that lists the known ones, so that a
mistyped guard is never silently absent. `config_file` reads the one, `config_environment` the other.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from spanledger import config_environment, config_file, jsonpaths
from spanledger.core.approvals import Approval, asked_for
from spanledger.core.asking import Asking, Traced
from spanledger.core.budgets import Budget
from spanledger.core.call import EXECUTE_TOOL, Call, ScopeSource
from spanledger.core.connectors import Connector
from spanledger.core.content import Capture, Content, captured, events_said
from spanledger.core.controls import Rate, Switch, approval_controls, stopping, switch_controls
from spanledger.core.egress import EgressRule
from spanledger.core.frozen import changed
from spanledger.core.grants import Grant, permission_controls
from spanledger.core.ids import ID_CHARS_MAX, is_id
from spanledger.core.keys import identify
from spanledger.core.known import KnownTerms
from spanledger.core.payload import Kept, PayloadCodec
from spanledger.core.prices import Price
from spanledger.core.redaction import Redact, Redactor
from spanledger.core.retention import Retention
from spanledger.core.rules import Rule, Terms, reserved_amounts
from spanledger.errors import ConfigError
from spanledger.tokens import Keys

Dsn = str | Callable[[], str]
MODES = ("enforce", "shadow", "off")


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and "\0" not in value


def _is_text_or_none(value: Any) -> bool:
    return value is None or _is_text(value)


def _is_duration(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def _is_size(value: Any) -> bool:
    return type(value) is int and value > 0


# What a field may be, and how to say so; what is given is not repeated, as it may be a secret.
_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    "dsn": (
        lambda value: _is_text_or_none(value) or callable(value),
        "a connection string or a callable that gives one",
    ),
    "tenant": (_is_text, "a text that is not empty"),
    "rules": (lambda value: all(isinstance(rule, Rule) for rule in value), "a list of Rule"),
    "budgets": (lambda value: all(isinstance(budget, Budget) for budget in value), "a list of Budget"),
    "grants": (lambda value: all(isinstance(grant, Grant) for grant in value), "a list of Grant"),
    "egress": (lambda value: all(isinstance(rule, EgressRule) for rule in value), "a list of EgressRule"),
    "connectors": (lambda value: all(isinstance(one, Connector) for one in value), "a list of Connector"),
    "switches": (lambda value: all(isinstance(switch, Switch) for switch in value), "a list of Switch"),
    "rates": (lambda value: all(isinstance(rate, Rate) for rate in value), "a list of Rate"),
    "prices": (lambda value: all(isinstance(price, Price) for price in value), "a list of Price"),
    "output_tokens_max": (lambda value: value is None or _is_size(value), "a whole number, more than 0"),
    "on_approval_needed": (lambda value: value is None or callable(value), "a callable of an Approval"),
    "mode": (lambda value: value in MODES, f"one of {', '.join(MODES)}"),
    "embedded": (_is_text_or_none, "a text that is not empty"),
    "workflow_id": (_is_text_or_none, "a text that is not empty"),
    "agent": (_is_text_or_none, "a text that is not empty"),
    "agent_version": (lambda value: value is None or is_id(value), f"printable text of 1 to {ID_CHARS_MAX} characters"),
    "environment": (lambda value: value is None or is_id(value), f"printable text of 1 to {ID_CHARS_MAX} characters"),
    "trust_baggage": (lambda value: isinstance(value, bool), "true or false"),
    "secret": (_is_text_or_none, "a text that is not empty"),
    "capture_content": (
        lambda value: value is None or isinstance(value, bool) or value in set(Capture),
        f"true, false or one of {', '.join(Capture)}",
    ),
    "model_events": (lambda value: value is None or isinstance(value, bool), "true or false"),
    "payload_codec": (
        lambda value: value is None or all(hasattr(value, name) for name in ("seal", "open", "reads_plain")),
        "an EncryptingCodec, or what else seals and opens",
    ),
    "ledger_timeout_s": (_is_duration, "a number of seconds, more than 0"),
    "arguments_bytes_max": (_is_size, "a whole number, more than 0"),
    "result_bytes_max": (_is_size, "a whole number, more than 0"),
}


@dataclass(frozen=True, slots=True)
class Config:
    """How spanledger works in this process.

    Attributes:
        dsn: Where the ledger is: a Postgres connection string, or a callable that returns one (tokens that
            expire). None: SPANLEDGER_DSN or SPANLEDGER_DSN_FILE, else a private server of this machine.
        tenant: Whose calls these are.
        rules: How calls are treated; the first that matches counts.
        budgets: What may be spent.
        grants: Who may do what, where a rule names a permission.
        egress: Which HTTP requests may leave a guarded tool, and as what; the first rule that matches counts.
        connectors: Places outside that are called with a credential which the program does not have.
        switches: Which tools are stopped.
        rates: What currencies are worth in others.
        prices: What models cost that the public price lists do not know, or price otherwise.
        output_tokens_max: So many tokens are reserved for the answer to a model call that names no maximum, where no
            price says how many its model can write. None: as many as the public lists say it can handle.
        on_approval_needed: Called once for each `Approval` that is asked for, to tell people; its errors are logged.
        mode: ``"enforce"``; ``"shadow"``: everything runs, and what would have been refused or replayed is recorded; or
            ``"off"``: nothing is patched and nothing asked.
        embedded: Which private server: ``"auto"``, ``"system"``, ``"wheel"``, a directory of Postgres binaries, or
            ``"off"``. None is auto.
        workflow_id: The scope of calls that have none of their own.
        agent: Name of the agent, where nothing nearer names it.
        agent_version: Its version; `from_env` finds it in OTEL_RESOURCE_ATTRIBUTES as `service.version` as well.
        environment: Where it runs, for example ``"staging"``; there, it is `deployment.environment.name`.
        trust_baggage: The workflow, the actor and the tenant that a caller's W3C baggage names count where nothing here
            says otherwise. Whoever can send baggage can then have recorded results of another given back.
        secret: Keys all hashes, so that a stolen ledger cannot be searched for guessed arguments.
        capture_content: Where arguments, results and messages are recorded: ``"no_content"``, ``"span_only"`` (or
            True), ``"event_only"`` or ``"span_and_event"``; never what a rule redacts. None: what
            OTEL_INSTRUMENTATION_GENAI_CAPTURE_MESSAGE_CONTENT says, else no content.
        model_events: Each model call is told in an event, with what was said if `capture_content` has that in events.
            None: what OTEL_INSTRUMENTATION_GENAI_EMIT_EVENT says, else where `capture_content` has events.
        payload_codec: Seals results in the ledger, for example `EncryptingCodec`. None: they are plain JSON there.
        delegation_keys: What signs and verifies tokens of delegations, as `Keys` says; the first signs.
        ledger_timeout_s: How long to wait for a connection to the ledger.
        arguments_bytes_max: Longer arguments are not copied for people to read.
        result_bytes_max: Larger results are not kept.
        governs: Something here may be about calls that nobody asked to guard at the call itself.
        content_capture: `capture_content`, as it was understood.
        tells_model_calls: Whether each model call is told in an event.
        retention: How long `prune` keeps what is over, for example ``{"calls": "90d", "trail": "30d"}``.
    """

    dsn: Dsn | None = None
    tenant: str = "default"
    rules: tuple[Rule, ...] = ()
    budgets: tuple[Budget, ...] = ()
    grants: tuple[Grant, ...] = ()
    egress: tuple[EgressRule, ...] = ()
    connectors: tuple[Connector, ...] = ()
    switches: tuple[Switch, ...] = ()
    rates: tuple[Rate, ...] = ()
    prices: tuple[Price, ...] = ()
    output_tokens_max: int | None = None
    on_approval_needed: Callable[[Approval], Any] | None = None
    mode: str = "enforce"
    embedded: str | None = None
    workflow_id: str | None = None
    agent: str | None = None
    agent_version: str | None = None
    environment: str | None = None
    trust_baggage: bool = False
    secret: str | None = dataclasses.field(default=None, repr=False)
    capture_content: bool | str | None = None
    model_events: bool | None = None
    # Made anew by whoever reads the same settings again.
    payload_codec: PayloadCodec | None = dataclasses.field(default=None, repr=False, compare=False)
    delegation_keys: Keys = dataclasses.field(default=Keys(), repr=False)
    ledger_timeout_s: float = 10.0
    arguments_bytes_max: int = 1_048_576
    result_bytes_max: int = 1_048_576
    retention: Retention = dataclasses.field(default=Retention())
    governs: bool = dataclasses.field(init=False, repr=False, compare=False)
    content_capture: Capture = dataclasses.field(init=False, repr=False, compare=False)
    tells_model_calls: bool = dataclasses.field(init=False, repr=False, compare=False)
    _known_terms: KnownTerms = dataclasses.field(init=False, repr=False, compare=False)
    # By whether what comes of a call is read from documents.
    _contents: tuple[Content, Content] = dataclasses.field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name in ("rules", "budgets", "grants", "egress", "connectors", "switches", "rates", "prices"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, (admits, meant) in _VALUES.items():
            if not admits(getattr(self, name)):
                raise ConfigError(f"{name} is {meant}")
        object.__setattr__(self, "delegation_keys", Keys.of(self.delegation_keys))
        object.__setattr__(self, "retention", Retention.of(self.retention))
        object.__setattr__(self, "_known_terms", KnownTerms(self.rules))
        capture = captured(self.capture_content, os.environ)
        object.__setattr__(self, "capture_content", capture)
        object.__setattr__(self, "content_capture", capture)
        if self.model_events is None:
            object.__setattr__(self, "model_events", events_said(os.environ))
        tells = capture.on_events if self.model_events is None else self.model_events
        object.__setattr__(self, "tells_model_calls", tells)
        object.__setattr__(self, "governs", bool(self.rules or self.budgets or self.switches))
        redactor = self.redactor(())
        contents = tuple(Content(redactor, capture, documents) for documents in (False, True))
        object.__setattr__(self, "_contents", contents)
        for redact in [rule.redact for rule in self.rules] + [rule.redact for rule in self.egress]:
            self.redactor(redact)
        for kind in ("budgets", "connectors"):
            names = [one.name for one in getattr(self, kind)]
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ConfigError(f"two {kind} are named {twice[0]!r}")

    @classmethod
    def from_env(cls, environ: Mapping[str, str] | None = None) -> Config:
        """Read the environment, and the file SPANLEDGER_CONFIG names or spanledger.toml here or beside the program.

        Args:
            environ: Instead of the process's environment.

        Raises:
            ConfigError: Something in it cannot work.
        """
        environ = os.environ if environ is None else environ
        path = config_file.find(environ)
        config = cls(capture_content=False) if path is None else cls._from_file(path, environ)
        return config_environment.applied(config, environ)

    @classmethod
    def from_file(cls, path: str | Path) -> Config:
        """Read a TOML file; the environment is not looked at.

        Raises:
            ConfigError: The file is missing or something in it cannot work.
        """
        return cls._from_file(path, {})

    @classmethod
    def _from_file(cls, path: str | Path, environ: Mapping[str, str]) -> Config:
        data = config_file.read(path)
        try:
            with config_file.looking_beside(Path(path)):
                values = {"capture_content": False} | config_file.values(data)
            # Rules that hash what they redact cannot be made without it.
            if environ.get("SPANLEDGER_SECRET"):
                values["secret"] = environ["SPANLEDGER_SECRET"]
            return config_file.made(cls, values, "the file")
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    def covers(self, call: Call) -> bool:
        """Tell whether the ledger has to be asked about a call that is neither a tool's nor opted in."""
        if not (self.governs or call.opted_in):
            return False
        stopped = stopping(self.switches, call.name) is not None
        return stopped or any(b.covers(call) for b in self.budgets) or self.terms(call).guarded

    def about_tools(self) -> bool:
        """Tell whether anything here is about tools, so that none may run unseen."""
        budgets = any(b.operations is None or EXECUTE_TOOL in b.operations for b in self.budgets)
        return bool(self.rules or self.switches or budgets)

    def controls(self) -> dict[str, list[dict[str, Any]]]:
        """What of this configuration lives in the ledger, as its `apply` takes it."""
        return {
            "budgets": [budget.control() for budget in self.budgets],
            "approvals": approval_controls(self.rules),
            "permissions": permission_controls(self.rules),
            "grants": [grant.control() for grant in self.grants],
            "switches": switch_controls(self.switches),
            "rates": [rate.control() for rate in self.rates],
        }

    def terms(self, call: Call, own: Rule | None = None) -> Terms:
        """Say what applies to a call.

        Args:
            call: The call.
            own: What the developer gave at the tool itself.
        """
        return self._known_terms.of(call, own)

    def content(self, call: Call, own: Rule | None = None) -> Content:
        """Say what may be seen of a call, and where it is recorded; the arguments are those of `terms`.

        Raises:
            ConfigError: The tool's own rule redacts in a way that cannot work here.
        """
        content = self._contents[call.documents]
        redact = self.terms(call, own).redact if own is not None or self._known_terms.redact else ()
        if not redact:
            return content
        return changed(content, redactor=self.redactor(redact).knowing(call.arguments))

    @property
    def message_capture(self) -> Capture:
        """Where messages are recorded."""
        capture = self.content_capture
        return capture if self.tells_model_calls else capture.but_events

    def kept(self, name: str, tenant: str, key: str) -> Kept:
        """Say how the result of a call is kept."""
        return Kept(name, tenant, key, self.payload_codec, self.result_bytes_max)

    def redactor(self, redact: tuple[Redact | str, ...]) -> Redactor:
        """Make what leaves places out.

        Raises:
            ConfigError: One of them cannot be looked up here, or not hashed.
        """
        places = tuple(one for one in redact if isinstance(one, Redact))
        jsonpaths.check(places)
        return Redactor(places, jsonpaths.find, None if self.secret is None else self.secret.encode())

    def asking(self, call: Call, *, attempt_id: str, own: Rule | None = None, trace: Traced | None = None) -> Asking:
        """Put together all that the ledger needs to know of one call.

        Args:
            call: The call.
            attempt_id: A new UUID.
            own: What the developer gave at the tool itself.
            trace: Where the span around the call is.

        Raises:
            Undescribable: The call cannot be identified or priced as its rule says.
            NotAuthorized: The token of its delegation cannot be read, or is for another tenant.
        """
        call, authority = self._completed(call, trace), None
        tenant = call.tenant or self.tenant
        if call.delegation is not None:
            authority = self.delegation_keys.read(call.delegation, tenant)
            call = changed(call, agent=call.agent or authority.agent, actor=call.actor or authority.actor)
        terms = self.terms(call, own)
        content = self.content(call, own)
        secret = None if self.secret is None else self.secret.encode()
        identity, reserve, approval = content.described(
            call,
            lambda: (
                identify(call, terms, tenant=tenant, nonce=attempt_id, secret=secret),
                reserved_amounts(call, terms),
                asked_for(call, terms.approval),
            ),
        )
        return Asking(
            call=call,
            terms=terms,
            identity=identity,
            tenant=tenant,
            attempt_id=attempt_id,
            reserve=reserve,
            approval=approval,
            stopped=stopping(self.switches, call.name),
            on_approval_needed=self.on_approval_needed,
            shadow=self.mode == "shadow",
            arguments=content.arguments(identity.arguments, self.arguments_bytes_max),
            content=content,
            payload_codec=self.payload_codec,
            result_bytes_max=self.result_bytes_max,
            traced=trace,
            authority=authority,
        )

    def _completed(self, call: Call, trace: Traced | None) -> Call:
        scope, source = call.workflow_id, call.workflow_source
        if self.workflow_id and not (scope and source is ScopeSource.GIVEN):
            scope, source = self.workflow_id, ScopeSource.ENVIRONMENT
        if not scope:
            scope, source = trace.trace_id if trace else "", ScopeSource.TRACE
        if (scope, source) == (call.workflow_id, call.workflow_source) and (call.agent or not self.agent):
            return call
        return changed(call, agent=call.agent or self.agent, workflow_id=scope, workflow_source=source)


def checked(config: object) -> Config:
    """Return a configuration as it is; a ConfigError where it is none."""
    if not isinstance(config, Config):
        raise ConfigError(f"a configuration is a Config, not {config!r}; Config.from_file() reads a file")
    return config


def shown(config: Config) -> str:
    """Describe a configuration in a line, without what is secret."""
    where = "embedded ledger" if config.dsn is None else "ledger by DSN"
    names = json.dumps([rule.match for rule in config.rules])
    return f"mode {config.mode}, {where}, tenant {config.tenant}, rules {names}, {len(config.budgets)} budget(s)"
