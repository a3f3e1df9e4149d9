"""A request that is held, as a call of its own for which a person is asked.

Rules: pure. The call is bound to the call around it, to the very bytes of the request and to which of several equal
ones it is, so that an approval is good for that one, also in another attempt of the call. Its answer is not kept: what
was approved and has succeeded is not sent again. People see what is sent but for what the rule redacts.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from urllib.parse import parse_qsl, urlsplit

from spanledger.core.call import Call
from spanledger.core.egress import EgressRule, Request, Target
from spanledger.core.outgoing import FAILED_FROM_STATUS, Issued, fingerprint_of, key_of
from spanledger.core.rules import Rule
from spanledger.instrument._job import Job, NoCodec
from spanledger.instrument.library import Wrap, no_call


def held(
    request: Request,
    target: Target,
    rule: EgressRule,
    call_key: str,
    issued: Issued,
    *,
    status: Callable[[Any], int | None],
) -> Job:
    """Make the call of a request.

    Args:
        request: The request.
        target: What it is about.
        rule: What holds it.
        call_key: Key of the call around.
        issued: Which of its requests it is.
        status: What sending returns → its HTTP status.
    """
    name = f"egress {rule.name}"
    url = urlsplit(request.url)
    arguments = {
        "method": request.method.upper(),
        "host": target.origin,
        "path": url.path or "/",
        "query": [list(pair) for pair in parse_qsl(url.query, keep_blank_values=True)],
        "body": _shown(request.body or b""),
    }
    key = key_of(call_key, f"held {fingerprint_of(request)}", issued.number)
    own = Rule(
        name,
        approval=True,
        approval_covers_retries=True,
        approval_timeout_s=rule.approval_timeout_s,
        wait_timeout_s=rule.wait_timeout_s,
        redact=rule.redact,
        keep_result=False,
        on_refusal=rule.on_refusal,
    )

    def failure(response: Any) -> str | None:
        answered = status(response)
        return f"HTTP status {answered}" if answered is not None and answered >= FAILED_FROM_STATUS else None

    wrap = Wrap("", describe=no_call, failure=failure)
    return Job(Call(name, arguments=arguments, key=key, opted_in=True), NoCodec(), own, wrap)


def _shown(body: bytes) -> Any:
    """Show a body as people read it."""
    try:
        text = body.decode()
    except UnicodeDecodeError:
        return f"({len(body)} bytes)"
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text
