"""What holds for the tools of every library; its author writes a `Case`, and no test."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import importlib.metadata
import json
import pickle
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import library_case
import pytest
import wrapt
from library_case import REFUND, Answer, Asked, Case, Entry, Way
from opentelemetry.trace import StatusCode
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import spanledger
from spanledger import Budget, Calls, Config, Ledger, Rule, errors, workflow
from spanledger.instrument import _registry

BY_ARGUMENTS = Rule("refund", identity="arguments")
WAIT_S = 20


def only(applies: Callable[[Case, Way | None, str | None], bool]) -> Callable[[Any], Any]:
    """Have a test made only for the libraries, ways and functions that it is about."""
    return lambda test: setattr(test, "applies", applies) or test


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Every library; where a test asks for a world, every way of every tool, with functions of both kinds."""
    if "entry" not in metafunc.fixturenames:
        return
    applies = getattr(metafunc.function, "applies", lambda *_entry: True)
    all_ways = "world" in metafunc.fixturenames

    def entries_of(name: str) -> dict[str, Entry]:
        entries = library_case.entries(name, all_ways=all_ways)
        return {title: entry for title, entry in entries.items() if applies(*entry)}

    parameters = list(library_case.parameters(metafunc.config.getoption("library"), entries_of))
    metafunc.parametrize("entry", parameters)


@dataclass
class World:
    """The tool's world, and how to have it run there.

    Attributes:
        refunded: The orders refunded, the first one first.
        raises: What the next refunds raise, after they were done.
        during: Called with each order while it is refunded.
    """

    case: Case
    way: Way
    body: str
    refunded: list[str] = field(default_factory=list)
    raises: list[BaseException] = field(default_factory=list)
    during: Callable[[str], Any] = lambda _order_id: None

    def refund(self, order_id: str, amount: int) -> dict[str, Any]:
        """Refund an order."""
        self.refunded.append(order_id)
        count = len(self.refunded)
        self.during(order_id)
        if self.raises:
            raise self.raises.pop(0)
        return {"receipt": f"refund {count}", "amount": amount}

    @property
    def function(self) -> Callable[..., Any]:
        """The tool's function, of the kind that this test is about."""

        def refund(order_id: str, amount: int) -> dict[str, Any]:
            """Refund an order."""
            return self.refund(order_id, amount)

        async def refund_awaiting(order_id: str, amount: int) -> dict[str, Any]:
            """Refund an order."""
            await asyncio.sleep(0)
            return self.refund(order_id, amount)

        refund_awaiting.__name__ = "refund"
        return refund if self.body == "plain" else refund_awaiting

    def turn(self, *asked: Asked, function: Any = None, thread: str | None = None) -> Sequence[Answer]:
        """One turn of an agent whose model asks for these refunds; a framework's tool is made anew."""
        assert self.case.tool
        return self.way.run(self.case.tool(function or self.function), asked, thread)

    def ask(self, call_id: str = "call_a", **arguments: Any) -> Answer:
        """One turn of an agent whose model asks for one refund."""
        (answer,) = self.turn(Asked(call_id, **({"arguments": arguments} if arguments else {})))
        return answer


@pytest.fixture
def case(entry: Entry) -> Case:
    return entry[0]


@pytest.fixture
def world(entry: Entry) -> World:
    return World(*entry)


@pytest.fixture
def instrument(entry: Entry, dsn: str) -> Callable[..., Any]:
    """Instrument the library with the given fields of `Config`."""
    case, way, _ = entry
    libraries = [case.library, *(way.libraries if way else ())]
    return lambda **fields: spanledger.instrument(Config(**{"dsn": dsn} | fields), libraries=libraries)


@pytest.fixture
def in_workflow() -> Iterator[None]:
    with workflow("w"):
        yield


def decided(spans: Any) -> list[Any]:
    """The spans of refunds that the ledger was asked about, in whichever process's half of a call."""
    found = [span for span in spans.all() if span.attributes.get("gen_ai.tool.name") == "refund"]
    return [span for span in found if "spanledger.verdict" in span.attributes]


def chain_of(error: BaseException) -> Iterator[BaseException]:
    """An error and all that it came from; with some frameworks that goes in a circle."""
    found, left = set(), [error]
    while left:
        link = left.pop(0)
        if id(link) not in found:
            found.add(id(link))
            yield link
            inner = (*getattr(link, "exceptions", ()), link.__cause__, link.__context__)
            left += [one for one in inner if one is not None]


@contextlib.contextmanager
def stopped_by(kind: type[BaseException]) -> Iterator[list[BaseException]]:
    """The run inside is stopped by an error of a kind, in whatever the framework wraps it."""
    found: list[BaseException] = []
    try:
        yield found
    except BaseException as error:
        found += [link for link in chain_of(error) if isinstance(link, kind)]
        if not found:
            raise
        return
    pytest.fail(f"the run was not stopped by {kind.__name__}")


def ending(turn: Callable[[], Answer]) -> Answer | BaseException:
    """What a turn of one call ended with."""
    try:
        return turn()
    except BaseException as error:
        return error


def refused(world: World, kind: type[BaseException], *asked: Asked) -> str:
    """Have a run stopped by a refusal; return its words."""
    with stopped_by(kind) as found:
        world.turn(*(asked or [Asked("call_r")]))
    return str(found[0])


# --- it runs once


@pytest.mark.usefixtures("in_workflow")
def test_a_repeated_call_gets_the_same_value_under_its_own_id_and_does_not_run(world, instrument, spans, ledger):
    instrument(rules=[BY_ARGUMENTS])
    first, second = world.ask("call_a"), world.ask("call_b")
    assert "refund 1" in first.text
    assert (second.text, type(second.value)) == (first.text, type(first.value))
    assert world.refunded == ["o-1"]
    if world.case.call_ids:
        assert [first.call_id, second.call_id] == ["call_a", "call_b"]
    ran, replayed = decided(spans)
    assert [s.attributes["spanledger.verdict"] for s in (ran, replayed)] == ["run", "replay"]
    (row,) = ledger.calls()
    assert (row["state"], row["attempts"], json.loads(row["arguments"])) == ("succeeded", 1, REFUND)


@pytest.mark.usefixtures("in_workflow")
def test_calls_asked_for_at_once_run_once_each(world, instrument):
    instrument(rules=[BY_ARGUMENTS])
    other = {"order_id": "o-2", "amount": 1}
    first, again, another = world.turn(Asked("call_a"), Asked("call_b"), Asked("call_c", other))
    assert first.text == again.text != another.text
    assert sorted(world.refunded) == ["o-1", "o-2"]


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_whose_function_is_guarded_too_is_one_call(world, instrument, ledger, spans):
    instrument(rules=[BY_ARGUMENTS])
    for call_id in ("call_a", "call_b"):
        world.turn(Asked(call_id), function=spanledger.tool(world.function))
    assert world.refunded == ["o-1"]
    (row,) = ledger.calls()
    assert row["attempts"] == 1


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_made_before_is_covered_and_instrumenting_twice_is_harmless(world, instrument, spans, ledger):
    tool = world.case.tool(world.function)
    for _ in range(2):
        instrument(rules=[BY_ARGUMENTS])
    for call_id in ("call_a", "call_b"):
        world.way.run(tool, [Asked(call_id)], None)
    assert world.refunded == ["o-1"]
    assert len(decided(spans)) == 2


def test_after_uninstrument_nothing_is_guarded(world, instrument):
    instrument(rules=[BY_ARGUMENTS])
    spanledger.uninstrument()
    with workflow("w"):
        world.ask("call_a")
        world.ask("call_b")
    assert world.refunded == ["o-1", "o-1"]


# --- which calls are the same


@pytest.mark.usefixtures("in_workflow")
def test_without_a_rule_the_model_s_id_and_the_arguments_tell(world, instrument, ledger):
    instrument()
    world.ask("call_a")
    world.ask("call_a")
    world.ask("call_a", order_id="o-2", amount=10)
    world.ask("call_b")
    if world.case.call_ids:
        assert world.refunded == ["o-1", "o-2", "o-1"]
        assert {(row["key_source"], row["call_id"]) for row in ledger.calls()} == {
            ("call_id", "call_a"),
            ("call_id", "call_b"),
        }
    else:
        assert world.refunded == ["o-1", "o-1", "o-2", "o-1"]
        assert {row["key_source"] for row in ledger.calls()} == {"none"}


@pytest.mark.usefixtures("in_workflow")
def test_a_call_whose_id_tells_nothing_runs_each_time_and_breaks_nothing(world, instrument):
    instrument()
    for _ in range(2):
        assert "refund" in world.ask("unknown").text
    assert world.refunded == ["o-1", "o-1"]


@only(lambda case, way, body: case.threads)
def test_the_framework_s_conversation_is_the_scope(world, instrument, ledger):
    instrument(rules=[Rule("refund", identity="arguments", scope="workflow")])
    for thread in ("t-1", "t-1", "t-2"):
        world.turn(Asked(f"call_{thread}"), thread=thread)
    assert {row["workflow_id"] for row in ledger.calls()} == {"t-1", "t-2"}
    assert world.refunded == ["o-1", "o-1"]


@only(lambda case, way, body: case.text_arguments)
@pytest.mark.usefixtures("in_workflow")
def test_arguments_that_are_no_json_neither_run_the_tool_nor_break_the_guard(world, instrument, ledger):
    instrument(rules=[BY_ARGUMENTS])
    with contextlib.suppress(Exception):  # frameworks tell the model, or stop; ours to see is that nothing ran
        world.turn(Asked("call_a", '{"order_id": "o-1", "amou'))
    assert world.refunded == []
    assert "refund 1" in world.ask("call_b").text
    assert [row["state"] for row in ledger.calls(state="succeeded")] == ["succeeded"]


# --- refusals


@pytest.mark.usefixtures("in_workflow")
def test_a_refusal_is_raised_and_nothing_runs(world, instrument, spans):
    instrument(rules=[BY_ARGUMENTS], budgets=[Budget("few", Calls(0), match="refund")])
    assert "few" in refused(world, errors.BudgetExceeded)
    assert world.refunded == []
    (span,) = decided(spans)
    assert span.attributes["spanledger.verdict"] == "budget_exceeded"
    assert span.status.status_code is StatusCode.ERROR


@pytest.mark.usefixtures("in_workflow")
def test_a_refusal_is_told_to_the_model_where_the_rule_says_so(world, instrument):
    instrument(rules=[Rule("refund", on_refusal="tell")], budgets=[Budget("few", Calls(0), match="refund")])
    answer = world.ask("call_a")
    assert "few" in answer.text
    assert answer.call_id == ("call_a" if world.case.call_ids else None)
    assert world.refunded == []


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_named_by_a_rule_does_not_run_while_no_ledger_answers(world, instrument):
    instrument(dsn="host=/nowhere", ledger_timeout_s=0.1, rules=[BY_ARGUMENTS])
    refused(world, errors.LedgerUnavailable)
    assert world.refunded == []


@pytest.mark.usefixtures("in_workflow")
def test_who_waits_for_a_person_goes_on_when_they_say_yes(world, instrument, dsn):
    with Ledger(config=Config(dsn=dsn)) as operator:

        def say_yes(approval: Any) -> None:
            threading.Thread(target=operator.approve, args=(approval.id,), kwargs={"by": "ops"}).start()

        rule = Rule("refund", identity="arguments", approval=True, wait_timeout_s=WAIT_S)
        instrument(rules=[rule], on_approval_needed=say_yes)
        assert "refund 1" in world.ask("call_a").text
    assert world.refunded == ["o-1"]


@pytest.mark.usefixtures("in_workflow")
def test_who_does_not_wait_is_stopped_and_runs_once_when_asked_again_after_a_yes(world, instrument, ledger):
    instrument(rules=[Rule("refund", identity="arguments", approval=True, wait_timeout_s=0)])
    if world.way.pauses:
        assert world.turn(Asked("call_r")) == []
    else:
        refused(world, errors.ApprovalPending)
    assert world.refunded == []
    (approval,) = ledger.approvals()
    ledger.approve(approval.id, by="ops")
    assert "refund 1" in world.ask("call_b").text
    assert world.ask("call_c").text == world.ask("call_d").text
    assert world.refunded == ["o-1"]


# --- what goes wrong inside


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_raises_has_failed_whatever_the_framework_makes_of_it_and_the_next_call_runs(
    world, instrument, ledger, spans
):
    instrument(rules=[BY_ARGUMENTS])
    world.raises = [ValueError("card expired")]
    said = ending(lambda: world.ask("call_a"))
    assert isinstance(said, Answer) or any(isinstance(link, ValueError) for link in chain_of(said))
    assert [row["state"] for row in ledger.calls()] == ["failed"]
    assert decided(spans)[0].status.status_code is StatusCode.ERROR
    assert "refund 2" in world.ask("call_b").text
    assert [(row["state"], row["attempts"]) for row in ledger.calls()] == [("succeeded", 2)]


@only(lambda case, way, body: case.told_error)
@pytest.mark.usefixtures("in_workflow")
def test_a_failure_that_is_told_to_the_model_is_no_result_to_be_replayed(world, instrument, ledger):
    instrument(rules=[BY_ARGUMENTS])
    world.raises = [world.case.told_error("card expired")]
    assert "card expired" in world.ask("call_a").text
    assert "refund 2" in world.ask("call_b").text
    assert [(row["state"], row["attempts"]) for row in ledger.calls()] == [("succeeded", 2)]


@only(lambda case, way, body: way.cancels and body == "coroutine")
@pytest.mark.usefixtures("in_workflow")
def test_a_call_cancelled_because_its_sibling_failed_is_not_run_again_unasked(world, instrument, ledger):
    instrument(rules=[BY_ARGUMENTS])
    begun: list[asyncio.Event] = []

    async def refund(order_id: str, amount: int) -> dict[str, Any]:
        """Refund an order."""
        world.refunded.append(order_id)
        if order_id == "o-1":
            begun[0].set()
            await asyncio.sleep(WAIT_S)
        await begun[0].wait()
        raise ValueError(order_id)

    begun.append(asyncio.Event())
    with contextlib.suppress(ValueError, ExceptionGroup):
        world.turn(Asked("call_a"), Asked("call_b", {"order_id": "o-2", "amount": 1}), function=refund)
    states = {json.loads(row["arguments"])["order_id"]: row["state"] for row in ledger.calls()}
    assert states == {"o-1": "unknown", "o-2": "failed"}
    refused(world, errors.OutcomeUnknown, Asked("call_c"))
    assert sorted(world.refunded) == ["o-1", "o-2"]


# --- the library itself


def targets(library: spanledger.Library) -> dict[str, Any]:
    version = importlib.metadata.version(Requirement(library.requires).name)
    wrapped = [wrap.target for wrap in library.wraps if SpecifierSet(wrap.versions).contains(version)]
    return {t: wrapt.resolve_path(t.partition(":")[0], t.partition(":")[2]) for t in (*wrapped, *library.hides)}


def test_all_targets_are_there_and_uninstrument_puts_back_the_very_same(case, instrument):
    library = _registry.load(case.library)
    before = targets(library)
    held = {target: name in vars(owner) for target, (owner, name, _) in before.items()}
    report = instrument()
    assert report.attached == (case.library,)
    assert report.missing == ()
    for target, (_, _, wrapped) in targets(library).items():
        assert wrapped is not before[target][2], target
    spanledger.uninstrument()
    after = targets(library)
    for target, (owner, name, original) in before.items():
        assert after[target][2] is original, target
        assert (name in vars(owner)) == held[target], target


@only(lambda case, way, body: case.tool)
def test_what_could_be_copied_and_pickled_still_can(case, instrument):
    objects = case.copied(case.tool(plain_refund))
    plain = [(_works(copy.deepcopy, o), _works(pickle.dumps, o)) for o in objects]
    instrument()
    assert [(_works(copy.deepcopy, o), _works(pickle.dumps, o)) for o in objects] == plain


def test_a_method_that_is_wrapped_can_be_copied_and_pickled_where_it_is_looked_up_at_its_class(case, instrument):
    library = _registry.load(case.library)
    owners = [(owner, name) for owner, name, _ in targets(library).values() if isinstance(owner, type)]

    def found() -> list[Any]:
        held = [getattr(owner, name) for owner, name in owners]
        return [(_works(copy.deepcopy, one), _works(pickle.dumps, one)) for one in held]

    plain = found()
    instrument()
    assert found() == plain
    again = [pickle.loads(pickle.dumps(getattr(owner, name))) for owner, name in owners]
    assert again == [getattr(owner, name) for owner, name in owners]


def plain_refund(order_id: str, amount: int) -> str:
    """Refund an order."""
    return f"{order_id}: {amount}"


def _works(function: Callable[[Any], Any], value: Any) -> bool:
    try:
        function(value)
    except Exception:
        return False
    return True


def test_every_file_of_a_library_is_registered():
    folder = Path(spanledger.__file__).parent / "instrument" / "libraries"
    files = sorted(path.stem for path in folder.glob("[!_]*.py"))
    assert files == sorted(_registry.LIBRARIES), "add a line to src/spanledger/instrument/_registry.py"


def test_every_registered_library_has_a_case():
    assert library_case.cased() == sorted(_registry.LIBRARIES), "write tests/instrument/library_cases/NAME.py"


def test_a_library_that_asks_models_shows_how(case):
    asking = [wrap.target for wrap in _registry.load(case.library).wraps if wrap.measure or wrap.fold]
    assert bool(case.asks) == bool(asking), "write `asks` in its case"
