"""`SpanledgerInstrumentor` is one of OpenTelemetry's instrumentors, and does no more where the guard is attached."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
from opentelemetry.instrumentation.instrumentor import BaseInstrumentor

import spanledger
from spanledger import Config, Rule, errors
from spanledger import _setup as setup
from spanledger.instrumentor import SpanledgerInstrumentor


@pytest.fixture
def instrumentor():
    made = SpanledgerInstrumentor()
    yield made
    made.uninstrument()


def test_opentelemetry_finds_it_under_our_own_name():
    (found,) = entry_points(group="opentelemetry_instrumentor", name="spanledger")

    assert found.load() is SpanledgerInstrumentor
    assert issubclass(SpanledgerInstrumentor, BaseInstrumentor)


def test_it_attaches_the_guard_and_takes_it_off(instrumentor, dsn):
    config = Config(dsn=dsn, rules=[Rule("refund")])
    instrumentor.instrument(config=config, libraries=[])
    assert setup._installed is not None
    assert instrumentor.is_instrumented_by_opentelemetry

    instrumentor.uninstrument()
    assert setup._installed is None


def test_a_guard_that_is_attached_is_left_as_it_is(instrumentor, dsn):
    spanledger.instrument(Config(dsn=dsn, rules=[Rule("refund")]), libraries=[])
    attached = setup._installed
    instrumentor.instrument()

    assert setup._installed is attached


def test_a_configuration_that_cannot_work_is_an_error_and_nothing_is_attached(instrumentor):
    with pytest.raises(errors.ConfigError):
        instrumentor.instrument(config=Config(dsn="host=127.0.0.1"), libraries=["no-such-library"])

    assert setup._installed is None


def test_every_library_is_looked_for_by_itself(instrumentor):
    assert not instrumentor.instrumentation_dependencies()
