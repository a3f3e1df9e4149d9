"""What left for the outside, and what was kept from it, on the span that is current.

Rules: telemetry fails open. Nothing of a request is shown but its method, its host and the rule's pattern of paths: no
path as it was, no query, no header, no body. What was refused is a log event as well, sampled or not, and an entry of
the decision trace.
"""

from __future__ import annotations

from collections.abc import Mapping

from opentelemetry import trace

from spanledger.core.egress import EgressRule, Request, Target
from spanledger.errors import EgressRefused
from spanledger.telemetry import events, semconv, trail
from spanledger.telemetry.quiet import quietly


@quietly
def left(request: Request, target: Target, rule: EgressRule | None, key: str | None, places: int) -> None:
    """Record that a request leaves, or waits for a person; without how many places of it."""
    if rule is None and key is None:
        return
    attributes = {
        semconv.HTTP_METHOD: request.method.upper(),
        semconv.SERVER_ADDRESS: target.host,
        semconv.URL_TEMPLATE: None if rule is None else rule.path,
        semconv.EGRESS_RULE: None if rule is None else rule.name,
        semconv.EGRESS_VERDICT: "allow" if rule is None else rule.action,
        semconv.EGRESS_KEY: key,
        semconv.EGRESS_REDACTED: places or None,
    }
    _add(attributes)


@quietly
def refused(error: EgressRefused, key: str | None, *, would_have: bool = False) -> None:
    """Record that a request was kept from leaving; in mode shadow, that it would have been."""
    attributes: dict[str, str | None] = {
        semconv.HTTP_METHOD: error.method,
        semconv.SERVER_ADDRESS: error.host,
        semconv.URL_TEMPLATE: error.path,
        semconv.EGRESS_RULE: error.rule,
        semconv.EGRESS_VERDICT: "would_deny" if would_have else "deny",
        semconv.REASON: error.reason,
    }
    _add(attributes)
    span = trace.get_current_span()
    events.warn(semconv.EVENT_EGRESS, attributes | {semconv.CALL_KEY: key}, str(error), None)
    if not would_have:
        told = {"verdict": "egress_refused", "reason": str(error), "error": type(error).__name__}
        trail.tell("refused", span, told, key=key)


def ended_by(error: BaseException | None) -> dict[str, str]:
    """Say what refusal a call ended by, as attributes of its span."""
    if not isinstance(error, EgressRefused):
        return {}
    return {semconv.EGRESS_RULE: error.rule, semconv.REASON: str(error)}


def _add(attributes: Mapping[str, str | int | None]) -> None:
    shown = {name: value for name, value in attributes.items() if value is not None}
    trace.get_current_span().add_event(semconv.EVENT_EGRESS, shown)
