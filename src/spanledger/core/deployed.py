"""What OpenTelemetry's own variable says of which version of a program runs where.

Rules: pure. As the SDK reads it: pairs with commas between, their values percent-encoded. What cannot be read says
nothing, for it is somebody else's variable.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote

from spanledger.core.ids import is_id

RESOURCE_VARIABLE: Final = "OTEL_RESOURCE_ATTRIBUTES"
# The second of the names is the older one.
_NAMES: Final = {
    "agent_version": ("service.version",),
    "environment": ("deployment.environment.name", "deployment.environment"),
}


def deployed(environ: Mapping[str, str]) -> dict[str, str]:
    """Say the version and the environment that are named, by the names of a configuration's fields."""
    pairs = (pair.partition("=") for pair in environ.get(RESOURCE_VARIABLE, "").split(","))
    said = {name.strip(): unquote(value.strip()) for name, _, value in pairs}
    found = {field: next((said[n] for n in names if said.get(n)), "") for field, names in _NAMES.items()}
    return {field: value for field, value in found.items() if is_id(value)}
