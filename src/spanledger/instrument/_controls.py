"""Which model calls the ledger's own controls may be about, as far as this process knows.

Rules: operators' switches, permissions and budgets count for model calls as they do for tools, and a model call that
they are about is asked about as if the configuration were. Of all others, which are most, the ledger is not asked each
time: what it said is at most `KNOWN_FOR_S` old. The call that finds it older asks, for one round trip, and those that
come meanwhile go by what is known; before anything is known, all ask.

* While the ledger does not answer, what it said last counts. Where it has said nothing yet, nothing is known, and model
  calls run, as tools do that no rule names. That is logged once, and asked again soon.
* No private server is started to find out: one that nobody has used here has nothing to say.
* Kept by tenant, since each has controls of its own. No lock and no thread, so that a fork takes it along as it is.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from time import monotonic
from typing import Any, Final

from spanledger._guard import Guard, ambient
from spanledger.core.asking import Ask, Steps
from spanledger.core.call import Call
from spanledger.core.controls import may_be_about
from spanledger.errors import LedgerUnavailable
from spanledger.placing import Ambient, placed_in

logger = logging.getLogger("spanledger.instrument")

KNOWN_FOR_S: Final = 30.0
AGAIN_S: Final = 1.0
TENANTS_MAX: Final = 1024
NAMES_MAX: Final = 1024


@dataclass(slots=True)
class _Known:
    """What is known of a tenant.

    Attributes:
        controls: What may be about model calls.
        until_s: When to ask again, on the clock of `time.monotonic`.
        heard: The ledger has said so; else it has said nothing yet.
        covered: Whether any is about calls of a name and operation, found once.
    """

    controls: list[dict[str, Any]]
    until_s: float
    heard: bool
    covered: dict[tuple[str, str], bool] = field(default_factory=dict)


class LedgerControls:
    """The controls of the ledger that may be about model calls of this process.

    Args:
        guard: Asks the ledger.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._known: dict[str, _Known] = {}
        # Until then nothing is about calls of the configured tenant.
        self._quiet_until_s = 0.0
        self._said: str | None = None

    def cover(self, call: Call) -> bool | None:
        """Tell whether the ledger has to be asked about a call; None where first `asked` has to be carried out."""
        around = ambient()
        if monotonic() < self._quiet_until_s and call.tenant is None and (around is None or around.tenant is None):
            return False
        known = self._known.get(self._tenant(call, around))
        return None if known is None or monotonic() >= known.until_s else _covers(known, call)

    def asked(self, call: Call) -> Steps[bool]:
        """Ask what there is, and tell whether the ledger has to be asked about a call."""
        tenant, now_s = self._tenant(call, ambient()), monotonic()
        known = self._known.get(tenant)
        controls, heard = ([], False) if known is None else (known.controls, known.heard)
        until_s = now_s + AGAIN_S
        if self._guard.is_there():
            if known is not None:
                self._keep(tenant, controls, until_s, heard=heard)
            try:
                controls, until_s, heard = (yield Ask("controlled", tenant, {})), now_s + KNOWN_FOR_S, True
                self._answered()
            except Exception as error:  # noqa: BLE001 - whatever is wrong there, most calls are none of its business
                # An outage may be over soon; a schema that is missing or too old is not.
                until_s = monotonic() + (AGAIN_S if isinstance(error, LedgerUnavailable) else KNOWN_FOR_S)
                self._not_answered(error, heard=heard)
        return _covers(self._keep(tenant, controls, until_s, heard=heard), call)

    def _keep(self, tenant: str, controls: list[dict[str, Any]], until_s: float, *, heard: bool) -> _Known:
        if len(self._known) >= TENANTS_MAX:
            self._known.clear()
        known = self._known[tenant] = _Known(controls, until_s, heard)
        config = self._guard.config
        if tenant == config.tenant:
            self._quiet_until_s = 0.0 if controls or config.trust_baggage else until_s
        return known

    def _tenant(self, call: Call, around: Ambient | None) -> str:
        config = self._guard.config
        if config.trust_baggage:
            call = placed_in(call, around, trust_baggage=True)
        return call.tenant or (None if around is None else around.tenant) or config.tenant

    def _answered(self) -> None:
        if self._said is not None:
            logger.warning("the ledger says again which model calls its controls are about")
        self._said = None

    def _not_answered(self, error: Exception, *, heard: bool) -> None:
        said = "what it said last counts" if heard else "they run unguarded"
        if self._said != said:
            # In words: the error holds the frames of the caller, and whoever keeps the record would, too.
            words = str(error)
            logger.warning("the ledger does not say which model calls its controls are about, so %s: %s", said, words)
        self._said = said


def _covers(known: _Known, call: Call) -> bool:
    alike = (str(call.name), call.operation)
    found = known.covered.get(alike)
    if found is None:
        if len(known.covered) >= NAMES_MAX:
            known.covered.clear()
        found = known.covered[alike] = may_be_about(known.controls, *alike)
    return found
