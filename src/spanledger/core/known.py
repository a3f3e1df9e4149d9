"""The terms of calls, found once for all that are alike.

Rules: what is remembered is what `terms_for` gives, which depends on nothing but the rules and a few facts of the call;
whoever makes `terms_for` look at another one adds it to those here. A model may make names up, so it is bounded.
"""

from __future__ import annotations

from typing import Any

from spanledger.core.call import Call
from spanledger.core.rules import Rule, Terms, terms_for, usable_call_id

KNOWN_MAX = 1024


class KnownTerms:
    """What `terms_for` finds among some rules, found once for all calls that it treats alike.

    Args:
        rules: Configured rules, in order.

    Attributes:
        redact: Some of the rules redact.
    """

    def __init__(self, rules: tuple[Rule, ...]) -> None:
        self._rules = rules
        self.redact = any(rule.redact for rule in rules)
        # By all of a call that `terms_for` looks at, with `own`: as it is kept here, no other can come to have its id.
        self._known: dict[tuple[Any, ...], tuple[Rule | None, Terms]] = {}

    def of(self, call: Call, own: Rule | None = None) -> Terms:
        """Find what applies to `call`; the arguments are those of `terms_for`."""
        if not isinstance(call.name, str):  # an error of the caller's, which is told later, and perhaps no key
            return terms_for(call, self._rules, own)
        alike = (
            call.name,
            call.operation,
            call.opted_in,
            call.key is None,
            usable_call_id(call.call_id),
            call.arguments is None,
            call.waits,
            id(own),
        )
        known = self._known.get(alike)
        if known is None or known[0] is not own:
            if len(self._known) >= KNOWN_MAX:
                self._known.clear()
            known = self._known[alike] = (own, terms_for(call, self._rules, own))
        return known[1]
