"""The instruments that metrics are recorded with, made from their declarations.

Rules: nothing is made, and nothing costs more than a look, until the program has a meter provider. Labels are bounded:
no actor, no workflow, no key; and of names of tools and models, which a program may make up, the first `NAMES_MAX`.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any, Final

from opentelemetry import metrics
from opentelemetry.environment_variables import OTEL_PYTHON_METER_PROVIDER
from opentelemetry.metrics import MeterProvider, _internal

from spanledger.core.call import EXECUTE_TOOL, INVOKE_AGENT
from spanledger.telemetry import semconv
from spanledger.telemetry._declared import METRICS

SCOPE: Final = "spanledger"
NAMES_MAX: Final = 200
OTHER: Final = "_OTHER"

Label = str | int | None

# What the API gives out where nobody has set a provider.
_NOBODY: Final = "opentelemetry.metrics"
_NAMED: Final = OTEL_PYTHON_METER_PROVIDER in os.environ
_names: set[str] = set()


def recorded() -> bool:
    """Tell whether anybody takes metrics."""
    # Where nobody has set one, the API looks into the environment every time, which costs more than all the rest.
    if not _NAMED and getattr(_internal, "_METER_PROVIDER", metrics) is None:
        return False
    return not type(metrics.get_meter_provider()).__module__.startswith(_NOBODY)


def count(name: str, labels: Mapping[str, Label], amount: float = 1) -> None:
    """Add to a counter.

    Args:
        name: Of the metric, as declared.
        labels: As declared; those that are None are left out.
        amount: How much.
    """
    if recorded():
        _instrument(metrics.get_meter_provider(), name).add(amount, _present(labels))


def measure(name: str, labels: Mapping[str, Label], value: float) -> None:
    """Record a value in a histogram.

    Args:
        name: Of the metric, as declared.
        labels: As declared; those that are None are left out.
        value: In the unit that is declared.
    """
    if recorded():
        _instrument(metrics.get_meter_provider(), name).record(value, _present(labels))


def of_call(operation: str, name: str) -> dict[str, Label]:
    """Return the labels that say what was called."""
    if operation == INVOKE_AGENT:
        return {semconv.OPERATION_NAME: operation, semconv.AGENT_NAME: bounded(name)}
    of = semconv.TOOL_NAME if operation == EXECUTE_TOOL else semconv.REQUEST_MODEL
    return {semconv.OPERATION_NAME: operation, of: bounded(name)}


def bounded(name: str) -> str:
    """Return a name, or `OTHER` where there have been too many: each is a series that somebody pays for."""
    if name in _names:
        return name
    if len(_names) >= NAMES_MAX:
        return OTHER
    _names.add(name)
    return name


def _present(labels: Mapping[str, Label]) -> dict[str, str | int]:
    return {name: value for name, value in labels.items() if value is not None}


@functools.lru_cache(maxsize=256)
def _instrument(provider: MeterProvider, name: str) -> Any:
    declared = METRICS[name]
    meter = provider.get_meter(SCOPE)
    if declared.kind == "counter":
        return meter.create_counter(name, declared.unit, declared.meaning)
    return meter.create_histogram(
        name, declared.unit, declared.meaning, explicit_bucket_boundaries_advisory=declared.buckets or None
    )
