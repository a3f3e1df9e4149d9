"""The egress gate: what leaves from inside a guarded tool, through any HTTP client.

Rules: it fails closed. A request that cannot be read is refused where a rule could be about it. One request is decided
once, however many clients it passes on its way down, and anew wherever it is redirected to. What was refused is
remembered by the call that runs here. After the request was sent nothing of ours raises. The blocking and the awaiting
form are alike but for `await`.
"""

from __future__ import annotations

import contextlib
import functools
import logging
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass, replace
from typing import Any, Final

from spanledger import webhooks
from spanledger._guard import RunningCall, current_call
from spanledger.core.egress import KEY_HEADER, Change, EgressRule, Request, Target, decided, refusal, target_of
from spanledger.core.leaving import CannotRedact, Redacted, redacted
from spanledger.core.outgoing import Issued, takes_key
from spanledger.errors import EgressRefused, SpanledgerError
from spanledger.instrument._engine import Engine
from spanledger.instrument._held import held
from spanledger.instrument._job import Job
from spanledger.instrument.library import Arguments, Egress
from spanledger.telemetry import model_spans, outgoing

logger = logging.getLogger("spanledger.instrument")


@dataclass(slots=True)
class _Whole:
    """One request of the program, from its first hop to its last."""

    client: Any
    call: RunningCall
    numbered: bool = False
    issued: Issued | None = None


UNREADABLE: Final = Request("?", "")

_whole: ContextVar[_Whole | None] = ContextVar("spanledger_request", default=None)
# What was decided for the request that is being sent here, which passes other clients on its way down.
_decided: ContextVar[_Sent | None] = ContextVar("spanledger_egress", default=None)


def sending(engine: Engine, egress: Egress, *, awaiting: bool, everywhere: bool = False) -> Callable[..., Any]:
    """Make the wrapper of a function that sends; with `everywhere`, all rules count outside of tools as well."""

    def send(wrapped: Any, client: Any, args: Arguments, kwargs: dict[str, Any]) -> Any:
        passage = Passage(engine, egress, client, everywhere=everywhere)
        if not passage.matters:
            return wrapped(*args, **kwargs)
        with passage.within():
            given, named = passage.opened(args, kwargs)
            return passage.over(passage.run(lambda: wrapped(*given, **named)))

    async def send_awaiting(wrapped: Any, client: Any, args: Arguments, kwargs: dict[str, Any]) -> Any:
        passage = Passage(engine, egress, client, everywhere=everywhere)
        if not passage.matters:
            return await wrapped(*args, **kwargs)
        with passage.within():
            given, named = passage.opened(args, kwargs)
            return passage.over(await passage.run_awaiting(lambda: wrapped(*given, **named)))

    return send_awaiting if awaiting else send


# What a request is about, its query and its body.
_Sent = tuple[Target, str, bytes | None]


def _sent(request: Request, target: Target, change: Change | None = None) -> _Sent:
    """Say what a client below will be given to send."""
    url, body = request.url, request.body
    if change is not None:
        url, body = change.url or url, body if change.body is None else change.body
    return target, url.partition("#")[0].partition("?")[2], body


class Passage:
    """One request on its way through one function of a client.

    Attributes:
        matters: A rule, or a call that runs here, has something to do with what leaves.
    """

    def __init__(self, engine: Engine, egress: Egress, client: Any, *, everywhere: bool = False) -> None:
        self._engine = engine
        self._egress = egress
        self._client = client
        self._rules = engine.guard.config.egress
        self._shadow = engine.guard.config.mode == "shadow"
        self._call: RunningCall = current_call()
        self._inside = self._call.key is not None
        self._counts = self._inside or everywhere
        self._status: int | None = None
        self._changes = False
        self._held: Job | None = None
        everywhere = any(rule.everywhere for rule in self._rules)
        self.matters = (self._counts or everywhere) and not webhooks.is_sending()

    @contextlib.contextmanager
    def within(self) -> Iterator[None]:
        """Be what is on its way here; the request is over when the block is left."""
        outer, how = _whole.get(), self._egress.whole
        redirected = how == "outer" and outer is not None and outer.client is self._client
        joins = how == "never" or redirected or (how == "alone" and outer is not None)
        whole = outer if joins else _Whole(self._client, self._call)
        if whole is not None:
            self._call = whole.call  # also where the call that runs here is but the one that a person has approved
        # What is sent from inside another request, by a hook of it say, was not decided with it.
        token, decided_before = _whole.set(whole), _decided.set(_decided.get() if joins else None)
        try:
            yield
        finally:
            _decided.reset(decided_before)
            _whole.reset(token)
            if whole is not None and whole is not outer and whole.issued is not None:
                self._call.inside.sends().over(whole.issued, self._status)

    def opened(self, args: Arguments, kwargs: Mapping[str, Any]) -> tuple[Arguments, Mapping[str, Any]]:
        """Decide about a request.

        Returns:
            The arguments with which it is sent.

        Raises:
            EgressRefused: It must not leave.
        """
        egress = self._egress
        if egress.read is None:
            return args, kwargs
        try:
            request = egress.read(self._client, args, kwargs)
            target = target_of(request)
        except Exception:
            logger.warning("a request of %s cannot be read", type(self._client).__qualname__, exc_info=True)
            # Nothing is known of it, so a rule that denies anything is about it.
            self._decide(UNREADABLE, target_of(UNREADABLE), "it cannot be read")
            return args, kwargs
        if _decided.get() == _sent(request, target):
            return args, kwargs  # by a client above
        rule = self._decide(request, target)
        change = self._change(request, target, rule)
        if egress.hop:
            change = self._about_to_leave(request, target, rule, change)
            _decided.set(_sent(request, target, change))
        if not change or egress.write is None:
            return args, kwargs
        try:
            return egress.write(self._client, args, kwargs, change)
        except Exception:
            if change.without_key or change.url is not None or change.body is not None:
                raise
            logger.warning("a request of %s is sent without a key", type(self._client).__qualname__, exc_info=True)
            return args, kwargs

    def run(self, function: Callable[[], Any]) -> Any:
        """Send a request, once a person has approved it where a rule holds it."""
        if self._held is None:
            return self._leaves(function)
        try:
            return self._engine.run(self._held, functools.partial(self._leaves, function))
        except SpanledgerError as error:
            self._remember(error)
            raise

    async def run_awaiting(self, function: Callable[[], Awaitable[Any]]) -> Any:
        """Send a request, once a person has approved it where a rule holds it."""
        if self._held is None:
            return await self._leaves(function)
        try:
            return await self._engine.run_awaiting(self._held, functools.partial(self._leaves, function))
        except SpanledgerError as error:
            self._remember(error)
            raise

    def _leaves(self, function: Callable[[], Any]) -> Any:
        if self._changes:
            self._call.inside.sends().changed = True
        return function()

    def over(self, result: Any) -> Any:
        """Look at how the request ended."""
        try:
            self._status = self._egress.status(result)
        except Exception:
            logger.warning("how a request ended cannot be told", exc_info=True)
        return result

    def _decide(self, request: Request, target: Target, why: str | None = None) -> EgressRule | None:
        """Find the rule of a request; where it is about to leave, see to it that it may."""
        rule = decided(self._rules, target, inside=self._counts)
        if self._egress.hop and rule is not None and (rule.action == "deny" or (why and rule.restricts)):
            self._refuse(refusal(rule, request, target, why))
        return rule

    def _refuse(self, error: EgressRefused) -> None:
        if self._shadow:
            logger.info("shadow: %s %s is sent; enforced, it would be refused: %s", error.method, error.host, error)
            outgoing.refused(error, self._call.key, would_have=True)
            return
        self._remember(error)
        outgoing.refused(error, self._call.key)
        raise error

    def _remember(self, error: SpanledgerError) -> None:
        if self._inside:
            self._call.inside.sends().refused = error

    def _change(self, request: Request, target: Target, rule: EgressRule | None) -> Change:
        """Say what becomes of a request: it gets a key when it is first seen, and loses it where it changes origin."""
        whole = _whole.get()
        if not self._inside or self._shadow or whole is None:
            return Change()
        sends, carried = self._call.inside.sends(), request.header(KEY_HEADER)
        ours = sends.issued_as(carried)
        if whole.numbered:
            if self._egress.bare and whole.issued and whole.issued.origin == target.origin:
                again = carried is None and takes_key(request, target)
                return Change(key=whole.issued.key if again else None)
            return Change(without_key=ours is not None and ours.origin != target.origin)
        whole.numbered = True
        wanted = rule is None or rule.idempotency_key
        with_key = wanted and (carried is None or ours is not None) and takes_key(request, target)
        with_key = with_key and not model_spans.is_inside()
        whole.issued = sends.issue(self._call.key or "", request, target, with_key=with_key)
        return Change(key=whole.issued.key if whole.issued else None)

    def _about_to_leave(self, request: Request, target: Target, rule: EgressRule | None, change: Change) -> Change:
        """Hold a request or redact it, as its rule says, and say on the span that it leaves."""
        whole, made = _whole.get(), Redacted(Change(), 0)
        if rule is not None and rule.redact:
            try:
                made = redacted(request, self._engine.guard.config.redactor(rule.redact))
            except CannotRedact as error:
                self._refuse(refusal(rule, request, target, f"it cannot be redacted: {error}"))
        if rule is not None and rule.action == "hold":
            self._hold(request, target, rule, whole.issued if whole else None)
        if not self._inside:
            return Change() if self._shadow else made.change
        self._changes = takes_key(request, target)
        key = whole.issued.key if whole and whole.issued and not change.without_key else None
        outgoing.left(request, target, rule, key, 0 if self._shadow else made.places)
        return change if self._shadow else replace(change, url=made.change.url, body=made.change.body)

    def _hold(self, request: Request, target: Target, rule: EgressRule, issued: Issued | None) -> None:
        """Make the request a call of its own, which a person has to approve."""
        if not self._inside:
            self._refuse(refusal(rule, request, target, "a person can be asked only inside a guarded tool"))
        elif self._shadow:
            logger.info("shadow: %s %s is sent; enforced, a person would be asked", request.method, target.host)
        elif issued is None:
            self._refuse(refusal(rule, request, target, "it cannot be read, so nobody can approve it"))
        else:
            self._held = held(request, target, rule, self._call.key or "", issued, status=self._egress.status)
