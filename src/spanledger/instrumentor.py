"""`SpanledgerInstrumentor`: the guard as one of OpenTelemetry's instrumentors, for whoever handles all of them alike.

Rules: it does what `spanledger.instrument()` does, and nothing where that has been done: under
`opentelemetry-instrument` the guard is attached before the first instrumentor, because one that fails ends the rest.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from opentelemetry.instrumentation.instrumentor import BaseInstrumentor  # type: ignore[attr-defined]

from spanledger import _setup


class SpanledgerInstrumentor(BaseInstrumentor):  # type: ignore[misc]
    """Guards this process.

    `instrument(config=None, libraries=None)` takes what `spanledger.instrument` takes, and `uninstrument()` takes it
    back, whoever attached it. Providers are those that are installed, whatever is given here.
    """

    def instrumentation_dependencies(self) -> Collection[str]:
        """Name what has to be installed: nothing, because every library is looked for by itself."""
        return ()

    def _instrument(self, **kwargs: Any) -> None:
        if not _setup.is_attached():
            _setup.instrument(kwargs.get("config"), libraries=kwargs.get("libraries"))

    def _uninstrument(self, **_: Any) -> None:
        _setup.uninstrument()
