"""What one running call has sent to the outside, and which idempotency key each request carries.

Rules: a key is made of the call's own key and of the request, so that another attempt of the call sends the same ones
in the same order. The same request sent again after it failed is a retry and carries the same key; after it succeeded,
or while it is on its way, it is another one. Keys that were issued are known by whom they were for. What was refused is
remembered, whatever is made of the error on the way.
"""

from __future__ import annotations

import copy
import threading
import uuid
from dataclasses import dataclass, replace
from typing import Final

from spanledger.core.call import Ended
from spanledger.core.egress import SAFE_METHODS, Request, Target
from spanledger.core.keys import digest
from spanledger.core.outcomes import links
from spanledger.core.rules import matches
from spanledger.errors import SpanledgerError

# Further ones get no key.
REQUESTS_MAX: Final = 10_000
FAILED_FROM_STATUS: Final = 400

# Hosts of model providers, as patterns: they take no such key, and a model call changes nothing.
MODEL_HOSTS: Final = (
    "api.openai.com",
    "*.openai.azure.com",
    "*.services.ai.azure.com",
    "api.anthropic.com",
    "generativelanguage.googleapis.com",
    "*aiplatform.googleapis.com",
    "bedrock-runtime*.amazonaws.com",
    "api.mistral.ai",
    "api.groq.com",
    "api.cohere.com",
    "api.cohere.ai",
    "api.together.xyz",
    "api.fireworks.ai",
    "api.deepseek.com",
    "api.x.ai",
    "api.perplexity.ai",
    "api.cerebras.ai",
    "openrouter.ai",
    "router.huggingface.co",
)


@dataclass(frozen=True, slots=True)
class Issued:
    """A request that was given a key, or a number without one.

    Attributes:
        fingerprint: Of the request.
        number: Which of the equal requests of its call it is, from 1.
        key: What it carries; None where it is to carry none.
        origin: Whom it is for.
    """

    fingerprint: str
    number: int
    key: str | None
    origin: str


class Outgoing:
    """What one running call has sent; threads may share it.

    Attributes:
        refused: The error of the request that was refused last, or is held.
        changed: A request left that may have changed something.
    """

    def __init__(self) -> None:
        self.refused: SpanledgerError | None = None
        self.changed = False
        # How each of the equal requests ended: True well, False not, None not yet.
        self._ended: dict[str, list[bool | None]] = {}
        self._issued: dict[str, Issued] = {}
        self._count = 0
        self._lock = threading.Lock()

    def issue(self, call_key: str, request: Request, target: Target, *, with_key: bool = True) -> Issued | None:
        """Number a request that is about to be sent.

        Args:
            call_key: Key of the running call.
            request: The request, as the program made it.
            target: What it is about.
            with_key: It is to carry a key.

        Returns:
            None where nobody can tell whether two such requests are the same.
        """
        fingerprint = fingerprint_of(request)
        if fingerprint is None:
            return None
        with self._lock:
            if self._count >= REQUESTS_MAX:
                return None
            ended = self._ended.setdefault(fingerprint, [])
            if False in ended:
                number = ended.index(False) + 1
                ended[number - 1] = None
            else:
                ended.append(None)
                number = len(ended)
                self._count += 1
            key = key_of(call_key, fingerprint, number) if with_key else None
            issued = Issued(fingerprint, number, key, target.origin)
            if key is not None:
                self._issued[key] = issued
        return issued

    def over(self, issued: Issued, status: int | None) -> None:
        """Say how a request ended: with which status; None: with an error."""
        well = status is not None and status < FAILED_FROM_STATUS
        with self._lock:
            self._ended[issued.fingerprint][issued.number - 1] = well

    def issued_as(self, key: str | None) -> Issued | None:
        """Return the request that a key was made for here; None where it is not one of ours."""
        return None if key is None else self._issued.get(key)

    def told_by(self, ended: Ended) -> Ended:
        """Say how the call ended, where a request was refused in it and somebody may have made something else of that.

        An error that came of the refusal is that refusal. A tool that returned all the same has done what it was to do
        only if some other request left that may have changed something.
        """
        refused, error = self.refused, ended.error
        if refused is None or error is refused:
            return ended
        if error is not None:
            return replace(ended, error=_again(refused, error)) if comes_of(error, refused) else ended
        if ended.hidden is not None and not comes_of(ended.hidden, refused):
            return ended
        if ended.failure is None and (self.changed or ended.paused):
            return ended
        return replace(ended, failure=ended.failure or str(refused), hidden=refused)


def comes_of(error: BaseException, refused: SpanledgerError) -> bool:
    """Tell whether an error was raised because of another, or while it was handled."""
    return any(link is refused for link in links(error))


def _again(refused: SpanledgerError, cause: BaseException) -> SpanledgerError:
    again = copy.copy(refused)
    again._on_refusal = refused._on_refusal  # noqa: SLF001 - our own class
    again.__cause__ = cause
    return again


def fingerprint_of(request: Request) -> str | None:
    """Hash a request; None where its body is not to be read: two that differ would be taken for one."""
    if request.body is None:
        return None
    parts = (request.method.upper().encode(), request.url.partition("#")[0].encode(), request.body)
    return digest(tuple(parts), None)


def key_of(call_key: str, fingerprint: str, number: int) -> str:
    """Make the idempotency key of a request, in the form of a UUID, which every provider takes."""
    made = digest((b"egress", call_key.encode(), fingerprint.encode(), str(number).encode()), None)
    return str(uuid.UUID(made[:12] + "8" + made[13:16] + "8" + made[17:32]))


def takes_key(request: Request, target: Target) -> bool:
    """Tell whether a request is to carry a key: it may change something, and does not ask a model provider."""
    if request.method.upper() in SAFE_METHODS:
        return False
    if (request.header("authorization") or "").startswith("AWS4-"):
        return False  # it was signed with the headers it has
    return not any(matches(pattern, host) for host in target.hosts or () for pattern in MODEL_HOSTS)
