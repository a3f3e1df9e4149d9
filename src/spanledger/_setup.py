"""Build the layers and connect them: the only file that knows every one.

Rules: nothing is opened before it is needed. `instrument()` twice is harmless. Zero code comes through
`pre_instrument`, which OpenTelemetry's auto-instrumentation calls after the SDK is configured and before any other
instrumentation can break the chain, and where SPANLEDGER_REQUIRED is set before that through `required`, when Python
starts. There, a guard that cannot be attached ends the process, because the alternative is a program that looks guarded
and is not. An SDK that cannot be configured ends nothing: the program runs guarded and is not traced.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from opentelemetry import trace
from opentelemetry.instrumentation.environment_variables import OTEL_PYTHON_DISABLED_INSTRUMENTATIONS
from opentelemetry.sdk.trace import TracerProvider

from spanledger._guard import Guard, running
from spanledger.config import Config, checked, shown
from spanledger.core.asking import Asking
from spanledger.core.call import Begun, Ended
from spanledger.errors import ConfigError, SpanledgerError
from spanledger.instrument import _executors, _registry, _runtime
from spanledger.instrument._engine import Engine
from spanledger.instrument._patch import Patches, Report
from spanledger.instrument.library import Library
from spanledger.ledger import _by_hand
from spanledger.ledger._database import Database
from spanledger.ledger._drivers import AwaitingDriver, BlockingDriver, LaterDriver
from spanledger.ledger._opening import open_database
from spanledger.ledger._standing import Standing
from spanledger.ledger._trail import Trail
from spanledger.telemetry import decision, deployment, gate, gauges, scopes, trail
from spanledger.telemetry.exits import flush_at_end
from spanledger.telemetry.metering import metered
from spanledger.telemetry.processor import SpanDecider

logger = logging.getLogger("spanledger")


@dataclass(frozen=True, slots=True)
class _Connected:
    """The ledger of a configuration, and who tells it what agents say of themselves."""

    database: Database
    trail: Trail

    def close(self) -> None:
        """Tell what is left, and close."""
        trail.disconnect(self.trail)
        self.trail.close()
        self.database.close()


@dataclass(slots=True)
class _Installed:
    patches: Patches
    connected: _Connected


_installed: _Installed | None = None
# Of the engine that was made because something was guarded, or recorded, before anybody instrumented the process.
_unasked: _Connected | None = None


class GuardrailSpanProcessor(SpanDecider):
    """Enforces idempotency and budgets for tool spans, whoever opens them.

    Add it to a tracer provider: `provider.add_span_processor(GuardrailSpanProcessor())`. It also closes the start
    gate, so that spans that are not sampled, and tracers of other providers, are decided as well. Several, on one
    provider or on many, decide each span once.
    """

    def __init__(self, config: Config | None = None) -> None:
        """Connect to the ledger, lazily.

        Args:
            config: Rules, budgets and where the ledger is. None: what `instrument()` was given, else the environment.
                In mode "off" the processor does nothing.

        Raises:
            ConfigError: The configuration cannot work, or is another one than that which guards this process already.
            WrapMissing: Spans cannot be refused in this process.
        """
        self._own: _Connected | None = None
        guard: Guard | None = None
        installed = gate.guard()
        if config is None and (engine := _runtime.engine()) is not None:
            guard = engine.guard
        elif config is not None and checked(config).mode != "off":
            if installed is not None and installed.config == config:
                guard = installed
            else:
                guard, self._own = _guard(config)
        super().__init__(guard)
        if guard is not None:
            gate.prove()

    def shutdown(self) -> None:
        """Tell the ledger what it does not know yet, and close the connections that only this processor uses.

        The gate stays closed; a span that starts later is decided on connections of its own.
        """
        super().shutdown()
        if self._own is not None:
            self._own.close()


def instrument(config: Config | None = None, *, libraries: Iterable[str | Library] | None = None) -> Report:
    """Instrument this process: libraries, `@tool`, and every tool span.

    Args:
        config: Rules, budgets and where the ledger is. None: `Config.from_env()`.
        libraries: Names of the libraries to instrument, or libraries of your own. None: all that are known and
            installed, those that other packages publish included.

    Returns:
        What is attached, what was not found, and which libraries of other packages cannot be used.

    Raises:
        ConfigError: The configuration cannot work, or names no ledger.
        WrapMissing: A function that runs tools is not where it should be, or spans cannot be refused here.
    """
    global _installed  # noqa: PLW0603 - one per process
    wanted = _registry.names() if libraries is None else _known(libraries)
    config = Config.from_env() if config is None else checked(config)
    uninstrument()
    if config.mode == "off":
        _runtime.use(None, config)
        return Report()
    guard, connected = _guard(config)
    engine = Engine(guard)
    patches = Patches(engine)
    _installed = _Installed(patches, connected)
    try:
        _executors.install()
        gate.install(guard)
        gate.prove()
        report = patches.attach(wanted)
        if libraries is None:
            for words in _registry.passed_over():
                logger.warning("library %s", words)
    except BaseException:
        uninstrument()
        raise
    _runtime.use(engine, config)
    scopes.leave_to(report.attached)
    logger.info(
        "spanledger guards this process: %s; libraries %s%s%s",
        shown(config),
        ", ".join(report.attached) or "none",
        f"; not where they should be and not traced: {', '.join(report.missing)}" if report.missing else "",
        ""
        if is_required()
        else "; SPANLEDGER_REQUIRED is not set: a program where this line is missing runs unguarded",
    )
    return report


def uninstrument() -> None:
    """Take everything back that `instrument()` did."""
    global _installed, _unasked
    installed, _installed = _installed, None
    unasked, _unasked = _unasked, None
    gate.remove()
    _executors.remove()
    scopes.leave_to(())
    _runtime.forget()
    if installed is not None:
        installed.patches.detach()
        installed.connected.close()
    if unasked is not None:
        unasked.close()


def pre_instrument() -> None:
    """Instrument a process that `opentelemetry-instrument` starts; called by OpenTelemetry.

    Raises:
        SystemExit: The guard cannot be attached.
    """
    if not _attached():
        raise SystemExit(1)
    if _installed is None:
        return  # switched off
    _configure_sdk()
    provider = trace.get_tracer_provider()
    if isinstance(provider, TracerProvider):
        provider.add_span_processor(GuardrailSpanProcessor())
        flush_at_end(provider.force_flush)


def required() -> None:
    """Instrument a process when Python starts, or end it; called by a `.pth` where SPANLEDGER_REQUIRED is set.

    Our own command is let through: it runs no tools, and says what is wrong.
    """
    if sys.orig_argv[1:2] != [str(Path(sys.executable).with_name("spanledger"))] and not _attached():
        # Python would report what is raised here, and go on.
        sys.stderr.flush()
        os._exit(1)


def is_attached() -> bool:
    """Tell whether this process is instrumented."""
    return _installed is not None


def is_required() -> bool:
    """Tell whether SPANLEDGER_REQUIRED is set."""
    return os.environ.get("SPANLEDGER_REQUIRED", "").lower() not in ("", "0", "false", "no", "off")


def _attached() -> bool:
    """Attach the guard, unless it is off; False if that was not possible and was said."""
    try:
        config = Config.from_env()
        disabled = _disabled()
        off = disabled or ("the mode is off" if config.mode == "off" else None)
        if off and is_required():
            raise ConfigError(f"SPANLEDGER_REQUIRED is set, and {off}")  # noqa: TRY301 - said as any other
        if disabled:
            logger.warning("this program runs unguarded: %s", disabled)
        else:
            instrument(config)
    except Exception as error:
        why = str(error) if isinstance(error, SpanledgerError) else f"{type(error).__name__}: {error}"
        unset = "unset SPANLEDGER_REQUIRED, and " if is_required() else ""
        sys.stderr.write(
            f"spanledger: the guard cannot be attached, so this program does not start.\n  {why}\n"
            f"  To run it without a guard: {unset}SPANLEDGER_MODE=off\n"
        )
        logger.debug("the guard cannot be attached", exc_info=True)
        return False
    return True


def _disabled() -> str | None:
    """Say where OpenTelemetry's own variable switches us off."""
    names = os.environ.get(OTEL_PYTHON_DISABLED_INSTRUMENTATIONS, "")
    disabled = not {"spanledger", "*"}.isdisjoint(name.strip() for name in names.split(","))
    return f"{OTEL_PYTHON_DISABLED_INSTRUMENTATIONS} is {names!r}" if disabled else None


def _configure_sdk() -> None:
    """Configure the SDK from OTEL_* where nobody else does: without `opentelemetry-distro`, nobody does."""
    if (
        isinstance(trace.get_tracer_provider(), TracerProvider)
        or os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true"
    ):
        return
    from opentelemetry.sdk._configuration import _OTelSDKConfigurator

    class Configurator(_OTelSDKConfigurator):
        """The SDK's own, which asks to be subclassed."""

    os.environ.setdefault("OTEL_TRACES_EXPORTER", "otlp")
    try:
        Configurator().configure()  # type: ignore[no-untyped-call]
    except Exception:
        logger.exception("OpenTelemetry cannot be configured: this program is guarded, and its spans are not exported")


def _guard(config: Config) -> tuple[Guard, _Connected]:
    database = open_database(config)
    drivers = BlockingDriver(database), AwaitingDriver(database), LaterDriver(database)
    guard = Guard(config, *drivers, is_there=lambda: database.wanted)
    connected = _Connected(database, database.trail or Trail(database, config))
    trail.connect(connected.trail)
    deployment.connect(config)
    gauges.connect(Standing(database, config.tenant, connected.trail))
    return metered(guard), connected


def _known(names: Iterable[str | Library]) -> list[str | Library]:
    if isinstance(names, str):
        raise ConfigError(f"libraries is a list of names, not {names!r}")
    wanted, known = list(names), _registry.names()
    unknown = [name for name in wanted if isinstance(name, str) and name not in known]
    if unknown:
        raise ConfigError(f"library {unknown[0]!r} is not known; known are {', '.join(known)}")
    return wanted


def _default_engine() -> tuple[Engine | None, Config]:
    global _unasked
    config = Config.from_env()
    if config.mode == "off":
        return None, config
    guard, _unasked = _guard(config)
    _executors.install()
    return Engine(guard), config


@contextlib.contextmanager
def _current(asking: Asking, begun: Begun) -> Iterator[_by_hand.Ends]:
    """Make a call of a program's own the current one, while its handler runs."""
    with running(asking, begun) as call:

        def ended(value: object, error: BaseException | None) -> Ended:
            cost, inside = call.cost(succeeded=error is None), call.inside
            return inside.told_by(Ended(value, error=error, doubtful=inside.doubtful, cost=cost))

        yield ended


_by_hand.run_in(_current)
_runtime.made_by(_default_engine)
trail.made_by(_runtime.engine)
decision.carried_by(_executors.install)
