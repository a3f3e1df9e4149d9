"""Libraries that are not as we know them, and libraries of other packages."""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import subprocess
import sys
import typing
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from opentelemetry import trace

import spanledger
from spanledger import Budget, Call, Calls, Config, Library, Rule, Wrap, errors, workflow
from spanledger.instrument import _registry
from spanledger.instrument import library as library_module

FRAMEWORK = '''
class Desk:
    """A framework: it runs its tools by `call`."""

    def __init__(self):
        self.refunded = []

    def call(self, name, arguments):
        self.refunded.append(arguments["order_id"])
        return f"refund {len(self.refunded)}"
'''
LIBRARY = """
from spanledger import Call, Library, Wrap

class Plain:
    def encode(self, result):
        return result

    def decode(self, tree, call):
        return tree

DESK = Library(
    "desk",
    "desk-framework>=1,<2",
    (Wrap("desk_framework:Desk.call", lambda desk, args, kwargs: Call(args[0], arguments=args[1]), codec=Plain()),),
)
NO_LIBRARY = "something else"
GONE_FROM_THERE = Library("moved", "", (Wrap("desk_framework:Desk.gone", lambda *_: None, "chat"),))
NO_TARGET = Library("dotted", "", (Wrap("desk_framework.Desk.call", lambda *_: None),))
"""


PUBLISHED = """
[project.entry-points.spanledger_library]
desk = "spanledger_desk:DESK"
gone = "spanledger_desk:GONE"
other = "spanledger_desk:NO_LIBRARY"
renamed = "spanledger_desk:DESK"
moved = "spanledger_desk:GONE_FROM_THERE"
dotted = "spanledger_desk:NO_TARGET"
ends = "spanledger_desk_ending:DESK"
openai = "spanledger_desk:DESK"
"""


class Plain:
    def encode(self, result):
        return result

    def decode(self, tree, call):
        return tree


def describe(desk, args, kwargs):
    return Call(args[0], arguments=args[1])


def library(target: str = "desk_framework:Desk.call", **fields: str) -> Library:
    return Library("desk", "desk-framework>=1,<2", (Wrap(target, describe, codec=Plain(), **fields),))


@pytest.fixture
def framework(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], None]]:
    """Put a version of the framework where Python finds it."""

    def put(version: str) -> None:
        (tmp_path / "desk_framework.py").write_text(FRAMEWORK)
        info = tmp_path / f"desk_framework-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: desk-framework\nVersion: {version}\n")
        monkeypatch.syspath_prepend(str(tmp_path))

    yield put
    sys.modules.pop("desk_framework", None)


# --- not as we know them


@pytest.mark.parametrize("version", ["1.0", "9.9.dev1"])
def test_a_version_never_seen_is_guarded_where_its_functions_are_as_before_and_said_to_be_unknown(
    version, framework, dsn, caplog
):
    framework(version)
    with caplog.at_level(logging.WARNING, "spanledger"):
        report = spanledger.instrument(
            Config(dsn=dsn, rules=[Rule("refund", identity="arguments")]), libraries=[library()]
        )
    desk = importlib.import_module("desk_framework").Desk()
    with workflow("w"):
        assert [desk.call("refund", {"order_id": "o-1"}) for _ in range(2)] == ["refund 1"] * 2
    assert (desk.refunded, report.attached, report.missing) == (["o-1"], ("desk",), ())
    assert ("is not known to spanledger" in caplog.text) == (version != "1.0")


MOVED = ["desk_framework:Desk.run", "desk_framework:Counter.call", "desk_framework.tools:Desk.call"]


@pytest.mark.parametrize("target", MOVED)
def test_a_function_that_has_moved_is_reported_and_the_program_goes_on_where_no_rule_is_about_tools(
    target, framework, dsn, caplog
):
    framework("1.0")
    desk = importlib.import_module("desk_framework").Desk()
    with caplog.at_level(logging.WARNING, "spanledger"):
        report = spanledger.instrument(
            Config(dsn=dsn, budgets=[Budget("tokens", Calls(1), operations=("chat",))]), libraries=[library(target)]
        )
    assert report.missing == (target,)
    assert "its tools run unguarded" in caplog.text
    assert desk.call("refund", {"order_id": "o-1"}) == "refund 1"


@pytest.mark.parametrize("target", MOVED)
@pytest.mark.parametrize("about", [{"rules": [Rule("refund")]}, {"budgets": [Budget("few", Calls(1))]}])
def test_a_function_that_has_moved_stops_the_start_where_a_rule_or_a_budget_is_about_tools(
    target, about, framework, dsn
):
    framework("1.0")
    importlib.import_module("desk_framework")
    with pytest.raises(errors.WrapMissing, match="tools would run past your rules"):
        spanledger.instrument(Config(dsn=dsn, **about), libraries=[library(target)])


def test_where_the_framework_is_imported_later_its_import_stops(framework, dsn):
    framework("1.0")
    spanledger.instrument(Config(dsn=dsn, rules=[Rule("refund")]), libraries=[library("desk_framework:Desk.run")])
    with pytest.raises(errors.WrapMissing):
        importlib.import_module("desk_framework")


def test_what_another_version_has_is_not_missed(framework, dsn):
    framework("1.0")
    importlib.import_module("desk_framework")
    rules = [Rule("refund")]
    report = spanledger.instrument(
        Config(dsn=dsn, rules=rules), libraries=[library("desk_framework:Desk.run", versions=">=1.5")]
    )
    assert report.missing == ()


def test_a_function_of_a_model_that_has_moved_stops_nobody(framework, dsn):
    framework("1.0")
    importlib.import_module("desk_framework")
    report = spanledger.instrument(
        Config(dsn=dsn, rules=[Rule("refund")]), libraries=[library("desk_framework:Model.ask", operation="chat")]
    )
    assert report.missing == ("desk_framework:Model.ask",)


def test_a_library_of_a_package_that_is_not_there_is_left_out(dsn):
    assert spanledger.instrument(Config(dsn=dsn), libraries=[library()]).attached == ()


@pytest.mark.parametrize(
    ("module", "there"),
    [("json", True), ("json.decoder", True), ("json.no_such", False), ("no_such", False), ("no_such.part", False)],
)
def test_whether_a_module_is_there_is_found_without_importing_it(module, there):
    assert _registry.has_module(module) is there


# --- of other packages


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a framework and, of another package, libraries for it: built and installed as from an index."""
    project, target = tmp_path_factory.mktemp("project"), tmp_path_factory.mktemp("installed")
    for name, module, text, more in [
        ("desk-framework", "desk_framework", FRAMEWORK, ""),
        (
            "spanledger-desk",
            "spanledger_desk",
            LIBRARY,
            PUBLISHED,
        ),
    ]:
        folder = project / name
        folder.mkdir()
        (folder / f"{module}.py").write_text(text)
        (folder / f"{module}_ending.py").write_text("raise SystemExit(3)")
        (folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'
            f'[project]\nname = "{name}"\nversion = "1.0"\n{more}'
            f'[tool.hatch.build.targets.wheel]\ninclude = ["{module}*.py"]\n'
        )
        pip = [sys.executable, "-m", "pip", "install", "-q", "--no-index", "--no-deps", "--no-build-isolation"]
        subprocess.run([*pip, "--target", str(target), str(folder)], check=True, capture_output=True)
    return target


PROGRAM = """
import json, sys, spanledger
from spanledger import Config, Rule, workflow
config = Config(dsn=sys.argv[1], rules=[Rule("refund", identity="arguments")])
report = spanledger.instrument(config, libraries=LIBRARIES)
from desk_framework import Desk
desk = Desk()
with workflow("w"):
    said = [desk.call("refund", {"order_id": "o-1"}) for _ in range(2)]
print(json.dumps([said, desk.refunded, report.attached, report.broken]))
"""


def run(program: str, dsn: str, published: Path) -> list:
    done = subprocess.run(
        [sys.executable, "-c", program, dsn],
        env={"PYTHONPATH": str(published), "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("libraries", ["None", '["desk"]'])
def test_a_library_that_another_package_publishes_guards(libraries, dsn, published):
    said, refunded, attached, _ = run(PROGRAM.replace("LIBRARIES", libraries), dsn, published)
    assert (said, refunded) == (["refund 1", "refund 1"], ["o-1"])
    assert "desk" in attached


WHY = {
    "has no attribute 'GONE'": "gone",
    "spanledger_desk:NO_LIBRARY is no spanledger.Library but a str": "other",
    "is named 'desk': name its entry point so": "renamed",
    "a target is 'module:Class.method'": "dotted",
    "would end the program": "ends",
}


def test_broken_libraries_of_other_packages_are_reported_and_harm_nobody(dsn, published):
    _, _, attached, broken = run(PROGRAM.replace("LIBRARIES", "None"), dsn, published)
    said = {words.partition(":")[0]: words for words in broken}
    assert {name: next((why for why in WHY if why in words), words) for name, words in said.items()} == {
        name: why for why, name in WHY.items()
    }
    assert all("published by spanledger-desk" in words for words in broken)
    assert not set(attached) & said.keys()


def test_the_doctor_names_them(dsn, published, tmp_path):
    done = subprocess.run(
        [Path(sys.executable).with_name("spanledger"), "doctor", "--json"],
        env={"PYTHONPATH": str(published), "PATH": "", "SPANLEDGER_DSN": dsn, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    says = [found["says"] for found in json.loads(done.stdout) if found["about"] == "libraries"]
    assert any(words.startswith("desk 1.0: 1 functions guarded or traced, 0 of them private") for words in says)
    assert any(words.startswith("cannot be used: gone") for words in says)
    assert "moved: desk_framework:Desk.gone is not where it should be" in says
    assert "openai: that of spanledger-desk is not used, because spanledger itself has one of the same name" in says


def test_the_example_of_a_new_library_sends_one_parcel(dsn, tmp_path):
    example = Path(__file__).parents[2] / "examples" / "add_a_library.py"
    done = subprocess.run(
        [sys.executable, str(example)],
        env={"SPANLEDGER_DSN": dsn, "PATH": "", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.count("a parcel of o-1 leaves the house") == 1
    assert done.stdout.count("o-1 is on its way") == 2


# --- what they may say


@pytest.mark.parametrize("mark", ["execute_tool", "execute_tool ", "", "gen_ai.tool.name", "gen_ai.operation.name"])
def test_no_library_can_take_the_spans_of_everybody_s_tools_for_its_own(mark):
    with pytest.raises(ValueError, match="name the instrumentation scope"):
        Library("desk", "", (), own_spans=(mark,))


@pytest.mark.parametrize("tracer", [lambda: trace.get_tracer("desk.tracer"), trace.NoOpTracer], ids=["sdk", "none"])
def test_spans_of_a_scope_that_a_library_names_are_not_decided_a_second_time_and_others_are(
    tracer, dsn, ledger, spans, monkeypatch
):
    monkeypatch.setitem(globals(), "__name__", "desk.tracer")  # who opens a span that nothing records
    spanledger.instrument(
        Config(dsn=dsn, rules=[Rule("refund", identity="arguments")]),
        libraries=[Library("desk", "", (), own_spans=("desk.tracer",))],
    )
    attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": "refund"}
    with tracer().start_as_current_span("execute_tool refund", attributes=attributes):
        assert ledger.calls() == []
    monkeypatch.undo()
    with (
        pytest.raises(errors.Undescribable),
        trace.get_tracer("mine").start_as_current_span("execute_tool refund", attributes=attributes),
    ):
        pass


def test_all_that_a_library_is_made_of_is_public():
    exported = [getattr(library_module, name) for name in library_module.__all__]
    public = {one for one in (*vars(spanledger).values(), *vars(errors).values(), *exported) if isinstance(one, type)}
    needed = {kind for one in exported if isinstance(one, type) for kind in kinds_in(one)}
    assert {kind.__name__ for kind in needed - public} == set()


def kinds_in(described: type) -> Iterator[type]:
    """The classes of ours that the fields of a class are annotated with."""
    left = list(typing.get_type_hints(described).values()) if dataclasses.is_dataclass(described) else []
    while left:
        hint = left.pop()
        left += [*typing.get_args(hint), *(hint if isinstance(hint, list) else ())]
        if isinstance(hint, type) and hint.__module__.startswith("spanledger."):
            yield hint


def test_a_tool_that_a_library_describes_as_something_else_than_a_call_is_refused_and_a_model_call_goes_on(
    framework, dsn, caplog
):
    framework("1.0")
    desk = importlib.import_module("desk_framework").Desk()
    target = "desk_framework:Desk.call"
    for operation, refused in (("execute_tool", True), ("chat", False)):
        wrong = Library("desk", "", (Wrap(target, lambda *_: "refund", operation),))
        spanledger.instrument(Config(dsn=dsn), libraries=[wrong])
        if refused:
            with pytest.raises(errors.Undescribable, match="describes it as a str, which is no"):
                desk.call("refund", {"order_id": "o-1"})
        else:
            assert desk.call("refund", {"order_id": "o-1"}) == "refund 1"


def test_the_conversation_that_a_library_names_gives_way_to_the_programs_own_workflow(framework, dsn, ledger):
    framework("1.0")
    desk = importlib.import_module("desk_framework").Desk()
    talks = Wrap(
        "desk_framework:Desk.call", lambda _desk, args, _kwargs: Call(args[0], arguments=args[1], workflow_id="talk-1")
    )
    spanledger.instrument(Config(dsn=dsn), libraries=[Library("desk", "", (talks,))])
    desk.call("refund", {"order_id": "o-1"})
    with workflow("order-1"):
        desk.call("refund", {"order_id": "o-1"})
    assert sorted(row["workflow_id"] for row in ledger.calls()) == ["order-1", "talk-1"]
