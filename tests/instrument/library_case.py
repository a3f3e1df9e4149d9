"""What the author of one more library supplies for the tests that every library passes: a `Case` of a dozen lines.

Rules: a case lives in `library_cases/NAME.py` and is called `CASE`; it says how to make a tool and how to have the
framework run it, or how its client asks a model, and tests nothing. The tests are in `test_every_library.py` and
`test_every_model.py`. The tool is always "refund"; its function takes an order id and an amount. A list `NEEDS` of
requirements at the top of the file names what must be installed besides the library itself. The case of a library that
another package publishes lies in a folder `library_cases` of that package's own, whose parent is on `PYTHONPATH`.
"""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from spanledger.instrument import _registry
from spanledger.testing import ModelServer

CASES = Path(__file__).with_name("library_cases")
REFUND: Mapping[str, Any] = {"order_id": "o-1", "amount": 10}


@dataclass(frozen=True)
class Asked:
    """The model asks for one refund.

    Attributes:
        call_id: The id that the model gives to the call.
        arguments: What it asks for; text where it is no JSON.
    """

    call_id: str
    arguments: Mapping[str, Any] | str = field(default_factory=lambda: dict(REFUND))


@dataclass(frozen=True)
class Answer:
    """What the framework has made of one call, for the model to read.

    Attributes:
        text: What the model reads.
        value: The object that the framework made.
        call_id: The id under which it is answered; None where the framework has none.
    """

    text: str
    value: Any = None
    call_id: str | None = None


@dataclass(frozen=True)
class Way:
    """One way in which the framework runs tools.

    Attributes:
        run: (tool, what one turn of a model asks for, id of the conversation or None) → answers, in the order asked.
            It is called in a thread without an event loop. What the framework raises, it raises.
        bodies: The kinds of functions it can run as tools: "plain", "coroutine".
        cancels: Where one of several calls raises, the others are cancelled.
        pauses: Where a person has to approve a call, the framework suspends the run, which has no answers then.
        libraries: Further libraries that have to be instrumented, for a way through several.
    """

    run: Callable[[Any, Sequence[Asked], str | None], Sequence[Answer]]
    bodies: tuple[str, ...] = ("plain", "coroutine")
    cancels: bool = False
    pauses: bool = False
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Ask:
    """One way in which a client asks a model.

    Attributes:
        run: A server → the answer, an awaitable of it, or what its chunks are read from: an iterator of either kind. It
            lets the client repeat nothing, and a generator can close what it opened.
        streamed: The answer comes in chunks.
        libraries: Further libraries that have to be instrumented, for a way through several.
    """

    run: Callable[[Any], Any]
    streamed: bool = False
    libraries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Case:
    """One library in the tests that every library passes.

    Attributes:
        library: Its name in the registry.
        tool: A function, plain or coroutine, → the framework's tool "refund" that runs it. None: it runs no tools.
        ways: Name → a way to have tools run.
        asks: Name → a way to ask a model.
        server: A script → a server of that model on loopback, as `spanledger.testing.ModelServer` is one: it says what
            `Say` and `Fail` mean, and has the `requests` that it was sent.
        call_ids: The framework passes on the model's id of a call.
        threads: The framework knows an id of the conversation.
        text_arguments: Arguments of the model that are no JSON reach the tool's funnel.
        told_error: The exception by which a tool tells the model of a failure without stopping the run.
        warns: Filters, in pytest's words, for warnings that the framework itself gives; all others are errors.
        copied: A tool → objects of the framework that programs copy and pickle; by default, the tool.
    """

    library: str
    tool: Callable[[Callable[..., Any]], Any] | None = None
    ways: Mapping[str, Way] = field(default_factory=dict)
    asks: Mapping[str, Ask] = field(default_factory=dict)
    server: Callable[[Any], AbstractContextManager[Any]] = ModelServer
    call_ids: bool = True
    threads: bool = False
    text_arguments: bool = False
    told_error: Callable[[str], BaseException] | None = None
    warns: tuple[str, ...] = ()
    copied: Callable[[Any], Sequence[Any]] = lambda tool: [tool]


Asking = tuple[Case, Ask]
Entry = tuple[Case, Way | None, str | None]


def cased() -> list[str]:
    """Names of the libraries that have a case."""
    return sorted(path.stem for path in CASES.glob("[!_]*.py"))


def place(name: str) -> Path:
    """Return the file of a case.

    Raises:
        LookupError: Nobody has written it.
    """
    found = importlib.util.find_spec(f"library_cases.{name}")
    if found is None or found.origin is None:
        wanted = f"tests/instrument/library_cases/{name}.py"
        if name not in _registry.LIBRARIES:
            wanted = f"library_cases/{name}.py in a folder on PYTHONPATH"
        raise LookupError(f"the library {name!r} has no case: write {wanted}")
    return Path(found.origin)


def needs(name: str) -> list[str]:
    """What has to be installed for a case besides the library, read without importing it."""
    for node in ast.parse(place(name).read_text()).body:
        if isinstance(node, ast.Assign) and [getattr(t, "id", None) for t in node.targets] == ["NEEDS"]:
            return list(ast.literal_eval(node.value))
    return []


def lacking(name: str) -> str | None:
    """Say what is not installed of what a case needs; None: nothing."""
    requires = _registry.load(name).requires
    for wanted in [*([requires] if requires else []), *needs(name)]:
        requirement = Requirement(wanted)
        try:
            version = importlib.metadata.version(requirement.name)
        except importlib.metadata.PackageNotFoundError:
            return f"{requirement.name} is not installed"
        if not requirement.specifier.contains(version, prereleases=True):
            return f"{requirement.name} {version} is installed, not {wanted}"
    return None


def load(name: str) -> Case:
    """Return the case of a library that is installed."""
    case: Case = importlib.import_module(f"library_cases.{name}").CASE
    return case


def entries(name: str, *, all_ways: bool) -> dict[str, Entry]:
    """Return the case of a library; where wanted with each way of its tools, with functions of both kinds."""
    case = load(name)
    if not all_ways:
        return {name: (case, None, None)}
    return {f"{name}: {title}, {body}": (case, way, body) for title, way in case.ways.items() for body in way.bodies}


def asks(name: str) -> dict[str, Asking]:
    """Return the case of a library with each of its ways to ask a model."""
    case = load(name)
    return {f"{name}: {title}": (case, ask) for title, ask in case.asks.items()}


def parameters(asked_for: Sequence[str], entries_of: Callable[[str], Mapping[str, Any]]) -> Iterator[Any]:
    """What a test is made with for each library, of which those that are asked for have to be installed.

    Args:
        asked_for: Their names; none: all that have a case.
        entries_of: A name → title → parameter, whose first item is the case.
    """
    for name in asked_for or cased():
        missing = lacking(name)
        if missing:
            assert not asked_for, missing
            yield pytest.param(None, id=name, marks=pytest.mark.skip(reason=missing))
            continue
        for title, entry in entries_of(name).items():
            # A framework may give warnings of its own.
            yield pytest.param(entry, id=title, marks=[pytest.mark.filterwarnings(w) for w in entry[0].warns])
