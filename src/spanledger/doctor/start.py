"""How a program here comes to be guarded and traced before it begins, and what may keep it from that.

Rules: a guard that starts with a program depends on how it is started; what is not enforced is said. What breaks
OpenTelemetry's own start keeps `opentelemetry-instrument` from attaching us, unless something attaches us before it.
"""

from __future__ import annotations

import importlib.metadata
import os
import site
from collections.abc import Iterator
from pathlib import Path

from spanledger.config import Config
from spanledger.doctor.finding import BAD, OK, WARN, Finding

# As the wheel has it, beside the packages.
PTH_NAME = "zz_spanledger_required.pth"


def of_required(_: Config) -> Iterator[Finding]:
    """Say whether programs that are started in any other way than by `opentelemetry-instrument` are guarded."""
    from spanledger._setup import is_required

    if is_required() and _reads_pth():
        guarded = "SPANLEDGER_REQUIRED is set: programs of this environment are guarded before they begin, or end"
        yield Finding("required", OK, f"{guarded}; not with python -S, which reads no {PTH_NAME}")
    elif is_required():
        nowhere = f"SPANLEDGER_REQUIRED is set, and nothing reads it: no {PTH_NAME} in {', '.join(_places())}"
        yield Finding("required", BAD, nowhere, "install spanledger by pip into this environment")
    else:
        only = "a program is guarded only where opentelemetry-instrument starts it, or it says so itself"
        yield Finding("required", OK, only, "set SPANLEDGER_REQUIRED=1, so that Python guards every program or ends it")


def of_export(_: Config) -> Iterator[Finding]:
    """Say where spans go."""
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        yield Finding("export", WARN, "OTEL_SDK_DISABLED is true: calls are guarded, no span is exported")
        return
    if os.environ.get("OTEL_CONFIG_FILE"):
        yield _of_config_file(Path(os.environ["OTEL_CONFIG_FILE"]))
        return
    wanted = [name.strip() for name in os.environ.get("OTEL_TRACES_EXPORTER", "otlp").split(",") if name.strip()]
    for name in wanted:
        if name != "none" and not importlib.metadata.entry_points(group="opentelemetry_traces_exporter", name=name):
            yield _broken(f"there is no trace exporter {name!r}", "install it or correct OTEL_TRACES_EXPORTER")
    if "otlp" in wanted:
        endpoint = os.environ.get("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") or os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
        unset = None if endpoint else "set OTEL_EXPORTER_OTLP_ENDPOINT to your backend's"
        yield Finding("export", OK, f"traces go by OTLP to {endpoint or 'a collector on this machine'}", unset)


def _of_config_file(path: Path) -> Finding:
    try:
        from opentelemetry.configuration import load_config_file  # type: ignore[import-not-found,unused-ignore]
    except ImportError:
        missing = f"OTEL_CONFIG_FILE is {path}, and opentelemetry-configuration is not installed"
        return _broken(missing, "pip install opentelemetry-configuration")
    try:
        load_config_file(str(path))
    except Exception as error:  # noqa: BLE001 - whatever it is, OpenTelemetry stumbles over it too
        return _broken(f"OTEL_CONFIG_FILE is {path}: {error}", "correct it")
    return Finding("export", OK, f"OpenTelemetry is configured by {path}, which can be read")


def _broken(says: str, do: str) -> Finding:
    """OpenTelemetry stumbles over it: we go on, unless a distribution configures the SDK and so stumbles before us."""
    from spanledger._setup import is_required

    before_us = bool(importlib.metadata.entry_points(group="opentelemetry_configurator"))
    if before_us and not (is_required() and _reads_pth()):
        unguarded = "opentelemetry-instrument attaches nothing like this, and the program runs unguarded"
        return Finding("export", BAD, f"{says}: {unguarded}", f"{do}; SPANLEDGER_REQUIRED=1 guards it all the same")
    return Finding("export", WARN, f"{says}: programs are guarded, and their spans are not exported", do)


def _reads_pth() -> bool:
    return any((Path(place) / PTH_NAME).is_file() for place in _places())


def _places() -> list[str]:
    return [*site.getsitepackages(), *([site.getusersitepackages()] if site.ENABLE_USER_SITE else [])]
