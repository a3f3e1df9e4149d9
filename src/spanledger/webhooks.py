"""Telling people over HTTP: a hook for approvals that are needed and for evaluations that failed.

Rules: whoever calls it never waits and never hears of a failure: each notice is sent by a thread of its own, a few
times if need be, and what does not arrive is logged. A program that ends waits for what is under way, so long as its
attempts may take. A redirect is not followed, because what is sent is meant for one address.
"""

from __future__ import annotations

import contextvars
import datetime as dt
import importlib.util
import logging
import os
import threading
import time
from dataclasses import dataclass, field
from typing import Final
from urllib.parse import urlsplit

from spanledger.core.approvals import Approval
from spanledger.core.evaluations import Results
from spanledger.core.notices import Notice, key_of, notice_of, signed
from spanledger.errors import ConfigError

logger = logging.getLogger("spanledger.webhooks")

SECRET_VARIABLE: Final = "SPANLEDGER_WEBHOOK_SECRET"  # noqa: S105 - where it is
UNDER_WAY_MAX: Final = 32
_TOO_MANY, _SERVER_ERRORS, _REDIRECTS = 429, 500, 300

_under_way: set[threading.Thread] = set()
_lock = threading.Lock()
_ours: contextvars.ContextVar[bool] = contextvars.ContextVar("spanledger_webhook", default=False)


@dataclass(frozen=True, slots=True)
class Webhook:
    """Sends notices to one address; `webhook` makes one.

    Attributes:
        url: Where to.
        secret: What signs them; None: SPANLEDGER_WEBHOOK_SECRET, and without that they are not signed.
        timeout_s: How long to wait for a connection, and for an answer.
        attempts_max: How often one is sent at most.
        pause_s: Between the first attempt and the second; each further pause is twice as long.
    """

    url: str
    secret: str | None = field(default=None, kw_only=True, repr=False)
    timeout_s: float = field(default=5.0, kw_only=True)
    attempts_max: int = field(default=3, kw_only=True)
    pause_s: float = field(default=0.5, kw_only=True)

    def __post_init__(self) -> None:
        if not _is_address(self.url):
            raise ConfigError("a webhook has an address, for example https://example.com/hooks/agents")
        if importlib.util.find_spec("requests") is None:
            raise ConfigError("webhooks are sent through requests, which is not installed: pip install requests")
        if self.secret is not None:
            key_of(self.secret)
        if not _is_time(self.timeout_s) or not self.timeout_s or not _is_time(self.pause_s):
            raise ConfigError("timeout_s of a webhook is a number of seconds, more than 0; its pause_s may be 0")
        if type(self.attempts_max) is not int or self.attempts_max < 1:
            raise ConfigError("attempts_max of a webhook is a whole number, 1 or more")

    def __repr__(self) -> str:
        return f"Webhook({self._where!r})"

    def __call__(self, event: Approval | Results) -> None:
        """Send a notice, in the background."""
        try:
            self._begin(notice_of(event))
        except Exception:
            logger.exception("a notice for %s could not be sent", self._where)

    @property
    def _where(self) -> str:
        # Paths of webhooks are often secrets.
        return urlsplit(self.url).hostname or ""

    def _begin(self, notice: Notice) -> None:
        def deliver() -> None:
            try:
                # Nothing of what is around the caller: a call that is guarded, say, whose request this is not.
                contextvars.Context().run(self._deliver, notice)
            finally:
                with _lock:
                    _under_way.discard(threading.current_thread())

        thread = threading.Thread(target=deliver, name="spanledger-webhook", daemon=False)
        with _lock:
            if sum(one.is_alive() for one in _under_way) >= UNDER_WAY_MAX:
                logger.warning("%s for %s is not sent: %d are under way", notice.type, self._where, UNDER_WAY_MAX)
                return
            thread.start()
            _under_way.add(thread)

    def _deliver(self, notice: Notice) -> None:
        body = notice.body(dt.datetime.now(dt.UTC).isoformat())
        for attempt in range(1, self.attempts_max + 1):
            try:
                again, why = self._sent(notice, body)
            except Exception as error:  # noqa: BLE001 - logged
                again, why = True, f"{type(error).__name__}"
            if why is None:
                return
            last = not again or attempt == self.attempts_max
            logger.log(
                logging.WARNING if last else logging.DEBUG,
                "%s for %s did not arrive: %s (attempt %d of %d)",
                notice.type, self._where, why, attempt, self.attempts_max,
            )  # fmt: skip
            if last:
                return
            time.sleep(self.pause_s * 2 ** (attempt - 1))

    def _sent(self, notice: Notice, body: bytes) -> tuple[bool, str | None]:
        """Send it once; tells whether another attempt is worth it, and why it did not arrive."""
        import requests

        secret = self.secret if self.secret is not None else os.environ.get(SECRET_VARIABLE)
        headers = signed(notice.id, int(time.time()), body, secret)
        _ours.set(True)
        with requests.Session() as session:
            # No credentials of this machine's user go along; what is answered is not read.
            session.auth = lambda request: request
            answer = session.post(
                self.url, data=body, headers=headers, timeout=self.timeout_s, allow_redirects=False, stream=True
            )
            status = answer.status_code
        if status < _REDIRECTS:
            return False, None
        return status == _TOO_MANY or status >= _SERVER_ERRORS, f"HTTP status {status}"


def webhook(url: str, *, secret: str | None = None, timeout_s: float = 5.0) -> Webhook:
    """Make a hook that tells people over HTTP: ``Config(on_approval_needed=webhook(url))``, ``Suite(on_failed=…)``.

    What is sent is JSON: ``type`` is ``"approval.requested"`` or ``"eval.failed"``, and ``data`` says of what. It is
    signed as Standard Webhooks say, in the headers webhook-id, webhook-timestamp and webhook-signature.

    Args:
        url: Where to.
        secret: What signs it; None: SPANLEDGER_WEBHOOK_SECRET, and without that it is not signed.
        timeout_s: How long to wait for an answer, each of three times.

    Raises:
        ConfigError: That is no address, no secret or no time.
    """
    return Webhook(url, secret=secret, timeout_s=timeout_s)


def is_sending() -> bool:
    """Tell whether a request is a notice, which the operator has addressed: the program's rules are not about it."""
    return _ours.get()


def flush(timeout_s: float = 20.0) -> bool:
    """Wait for what is under way; False where some of it is still."""
    until_s = time.monotonic() + timeout_s
    with _lock:
        waiting = list(_under_way)
    for thread in waiting:
        thread.join(max(0.0, until_s - time.monotonic()))
    return not any(thread.is_alive() for thread in waiting)


def _is_address(url: object) -> bool:
    if not isinstance(url, str) or not url.isprintable() or " " in url:
        return False
    try:
        parts = urlsplit(url)
        return parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        return False


def _is_time(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < threading.TIMEOUT_MAX
