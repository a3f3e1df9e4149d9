"""SPANLEDGER_REQUIRED: however a program is started, it is guarded before it begins, or it ends."""

from __future__ import annotations

import json
import textwrap
from pathlib import Path

import pytest
from tests.acceptance.conftest import Run

REQUIRED = {"SPANLEDGER_REQUIRED": "1"}
PROGRAM = """
    from opentelemetry import trace

    attributes = {"gen_ai.tool.call.arguments": '{"order_id": "o-1"}'}
    try:
        with trace.get_tracer("mine").start_as_current_span("execute_tool refund", attributes=attributes):
            print("refunded")
    except Exception as error:
        print(type(error).__name__)
"""
RULE = '[[rules]]\nmatch = "refund"\nidentity = "arguments"\n'


@pytest.fixture
def environment(dsn: str, tmp_path: Path) -> dict[str, str]:
    """That of a program that refunds something, beside its rule; it knows nothing of spanledger."""
    (tmp_path / "spanledger.toml").write_text(RULE)
    (tmp_path / "program.py").write_text(textwrap.dedent(PROGRAM))
    return {"SPANLEDGER_DSN": dsn, "SPANLEDGER_WORKFLOW_ID": "order-1"}


@pytest.fixture
def distribution(tmp_path: Path) -> dict[str, str]:
    """A distribution of OpenTelemetry that configures the SDK before anybody else has a say."""
    place = tmp_path / "distribution"
    info = place / "distribution-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: distribution\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[opentelemetry_configurator]\nconfigurator = distribution:Configurator\n")
    (place / "distribution.py").write_text(
        "from opentelemetry.sdk._configuration import _OTelSDKConfigurator\n"
        "class Configurator(_OTelSDKConfigurator): pass\n"
    )
    return {"PYTHONPATH": str(place)}


def runs(run: Run, *command: str | Path, **environment: str) -> list[str]:
    """What the program says when it is run twice."""
    said = []
    for _ in range(2):
        done = run(*command, **environment)
        assert done.returncode == 0, done.stderr
        said.append(done.stdout.strip())
    return said


@pytest.mark.parametrize(
    "command",
    [["python"], ["python", "-I"], ["python", "-E", "-s"], ["opentelemetry-instrument", "python", "-I"]],
    ids=" ".join,
)
def test_a_program_is_guarded_whatever_its_python_is_told(command, run: Run, environment):
    assert runs(run, *command, "program.py", **environment, **REQUIRED) == ["refunded", "CallReplayed"]


def test_without_it_a_program_that_nobody_instruments_runs_as_ever_and_nothing_is_imported(run: Run, environment):
    assert runs(run, "python", "program.py", **environment) == ["refunded"] * 2
    for off in ({}, {"SPANLEDGER_REQUIRED": "0"}, {"SPANLEDGER_REQUIRED": ""}):
        done = run("python", "-c", "import sys; print('spanledger' in sys.modules)", **off)
        assert done.stdout == "False\n"


# And what the doctor says about it.
BROKEN = [
    ({"OTEL_TRACES_EXPORTER": "oltp"}, "there is no trace exporter 'oltp'"),
    ({"OTEL_CONFIG_FILE": "missing.yaml"}, "OTEL_CONFIG_FILE is missing.yaml"),
]


@pytest.mark.parametrize(("broken", "why"), BROKEN)
def test_what_breaks_the_start_of_a_distribution_leaves_a_program_unguarded_and_the_doctor_says_so(
    broken, why, run: Run, run_here: Run, environment, distribution, monkeypatch
):
    environment |= distribution | broken
    assert runs(run, "opentelemetry-instrument", "python", "program.py", **environment) == ["refunded"] * 2

    monkeypatch.syspath_prepend(distribution["PYTHONPATH"])
    found = export_of(run_here("spanledger", "doctor", "--json", **environment))
    assert (found["state"], why in found["says"]) == ("bad", True)
    assert "the program runs unguarded" in found["says"]
    assert "SPANLEDGER_REQUIRED=1" in found["do"]


@pytest.mark.parametrize(("broken", "why"), BROKEN)
@pytest.mark.parametrize("required", [True, False])
def test_where_it_is_required_or_nobody_is_before_us_the_program_is_guarded_and_not_exported(
    broken, why, required, run: Run, run_here: Run, environment, distribution, monkeypatch
):
    environment |= broken
    if required:
        environment |= REQUIRED | distribution
    done = run("opentelemetry-instrument", "python", "program.py", **environment)
    assert (done.stdout, done.returncode) == ("refunded\n", 0)
    assert "OpenTelemetry" in done.stderr, "somebody says that it could not be configured"
    assert runs(run, "opentelemetry-instrument", "python", "program.py", **environment) == ["CallReplayed"] * 2

    if required:
        monkeypatch.syspath_prepend(distribution["PYTHONPATH"])
    found = export_of(run_here("spanledger", "doctor", "--json", **environment))
    assert (found["state"], why in found["says"]) == ("warn", True)


def export_of(done) -> dict:
    return next(found for found in json.loads(done.stdout) if found["about"] == "export")


@pytest.mark.parametrize(
    ("wrong", "why"),
    [
        ({"SPANLEDGER_CONFIG": "missing.toml"}, "cannot read missing.toml"),
        ({"SPANLEDGER_DSN": "", "SPANLEDGER_EMBEDDED": "off"}, "SPANLEDGER_DSN is not set"),
        ({"SPANLEDGER_MODE": "off"}, "SPANLEDGER_REQUIRED is set, and the mode is off"),
    ],
)
@pytest.mark.parametrize("command", [["python"], ["python", "-I"], ["opentelemetry-instrument", "python"]])
def test_where_the_guard_cannot_be_attached_the_program_does_not_begin(wrong, why, command, run: Run, environment):
    done = run(*command, "program.py", **environment | REQUIRED | wrong)

    assert (done.stdout, done.returncode) == ("", 1)
    assert why in done.stderr
    assert "unset SPANLEDGER_REQUIRED" in done.stderr
    assert "Traceback" not in done.stderr


def test_where_spanledger_itself_is_broken_the_program_does_not_begin(run: Run, environment, tmp_path: Path):
    (tmp_path / "wrapt.py").write_text("raise ImportError('a broken installation')")

    done = run("python", "program.py", PYTHONPATH=str(tmp_path), **environment, **REQUIRED)

    assert (done.stdout, done.returncode) == ("", 1)
    assert "spanledger cannot be imported, so this program does not start: ImportError" in done.stderr


def test_functions_beside_the_program_are_found_before_it_begins(run: Run, environment, tmp_path: Path):
    (tmp_path / "spanledger.toml").write_text(RULE + 'probe = "beside:probe"\n')
    (tmp_path / "beside.py").write_text("def probe(call): return None\n")
    assert runs(run, "python", "program.py", **environment, **REQUIRED) == ["refunded", "CallReplayed"]

    # Nor does an isolated Python find them, for its program would not either.
    done = run("python", "-I", "program.py", **environment, **REQUIRED)
    assert done.returncode == 1
    assert "cannot find 'beside:probe'" in done.stderr


def test_our_own_command_says_what_is_wrong_rather_than_end(run: Run, environment):
    done = run("spanledger", "doctor", **environment | REQUIRED | {"SPANLEDGER_CONFIG": "missing.toml"})

    assert "cannot read missing.toml" in done.stdout
    assert "does not start" not in done.stderr


def test_the_doctor_says_whether_it_is_required_and_read(run_here: Run, environment):
    def required(**more: str) -> dict:
        found = json.loads(run_here("spanledger", "doctor", "--json", **environment, **more).stdout)
        return next(finding for finding in found if finding["about"] == "required")

    assert "set SPANLEDGER_REQUIRED=1" in required()["do"]
    found = required(**REQUIRED)
    assert (found["state"], found["do"]) == ("ok", None)
    assert "guarded before they begin, or end; not with python -S" in found["says"]
