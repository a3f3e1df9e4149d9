"""Functions of the shapes that libraries have: streams that are generators or objects, tools that yield."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import inspect
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from opentelemetry import trace
from settled import until_nothing_is_held

import spanledger
from spanledger import Budget, Call, Config, Library, Rule, Tokens, Usage, Wrap, errors
from spanledger.instrument._under_way import UnderWay
from spanledger.instrument.library import Bound, TypedCodec, input_tokens

# --- a client of a model

SAID = ["one", "two", "three"]
IN, OUT, MOST = 10, 5, 20


class Stream:
    """A stream of a client that keeps what it reads from somewhere of its own."""

    def __init__(self, source: Any) -> None:
        self.source = source
        self.closed = False

    def __iter__(self) -> Any:
        return self

    def __aiter__(self) -> Any:
        return self

    def __next__(self) -> str:
        try:
            return next(self.source)
        except StopIteration:
            self.close()
            raise

    async def __anext__(self) -> str:
        try:
            return await anext(self.source)
        except StopAsyncIteration:
            self.close()
            raise

    def close(self) -> None:
        self.closed = True


class Client:
    """A client of a model, whose requests are counted; a request fails where it is told to."""

    def __init__(self) -> None:
        self.sent = 0
        self.fails: Exception | None = None
        self.around: list[Any] = []

    def _chunks(self) -> Iterator[str]:
        self.sent += 1
        if self.fails:
            raise self.fails
        for text in SAID:
            self.around.append(trace.get_current_span())
            yield text

    async def _chunks_awaiting(self) -> Any:
        for text in self._chunks():
            await asyncio.sleep(0)
            yield text

    def generator(self, prompt: str, most: int) -> Iterator[str]:
        yield from self._chunks()

    async def generator_awaiting(self, prompt: str, most: int) -> Any:
        async for text in self._chunks_awaiting():
            yield text

    def gives_generator(self, prompt: str, most: int) -> Iterator[str]:
        return self._chunks()

    async def gives_generator_awaiting(self, prompt: str, most: int) -> Any:
        return self._chunks_awaiting()

    def talks(self, prompt: str, most: int) -> Any:
        self.sent += 1
        heard, told = [], SAID[0]
        try:
            while told != SAID[-1]:
                try:
                    told = yield told
                except KeyError as error:
                    told = str(error.args[0])
                heard.append(told)
        finally:
            self.around.append("over")
        return heard

    def gives_talk(self, prompt: str, most: int) -> Any:
        return Client._talks(self, prompt, most)

    _talks = talks

    def gives_stream(self, prompt: str, most: int) -> Stream:
        return Stream(self._chunks())

    async def gives_stream_awaiting(self, prompt: str, most: int) -> Stream:
        return Stream(self._chunks_awaiting())


BLOCKING = ["generator", "gives_generator", "gives_stream"]
AWAITING = [f"{name}_awaiting" for name in BLOCKING]
EVERY = BLOCKING + AWAITING
TALKS = ["talks", "gives_talk"]
ASKED: list[dict[str, Any]] = []


def fold(usage: Usage, chunk: str) -> Usage:
    return replace(usage, input_tokens=IN, output_tokens=OUT) if chunk == SAID[-1] else usage


def bound(kwargs: Any) -> Bound:
    ASKED.append(dict(kwargs))
    return Bound(input_tokens({"prompt": kwargs["prompt"]}), kwargs.get("most"))


MODEL = Wrap("", lambda *_: Call("m", "chat"), "chat", fold=fold, said=lambda chunk: chunk, bound=bound)
CLIENT = Library("client", "", tuple(replace(MODEL, target=f"{__name__}:Client.{name}") for name in EVERY + TALKS))


@pytest.fixture
def client(dsn: str) -> Client:
    spanledger.instrument(Config(dsn=dsn, budgets=[Budget("b", Tokens(1000))]), libraries=[CLIENT])
    return Client()


async def begun(stream: Any) -> Any:
    return await stream if inspect.iscoroutine(stream) else stream


def read(stream: Any, most: int = 99, between: Callable[[], Any] = lambda: None) -> list[str]:
    """Read so many chunks at most, and then let go of the stream."""

    def reading(chunks: Any) -> list[str]:
        found: list[str] = []
        for chunk in chunks:
            found.append(chunk)
            between()
            if len(found) == most:
                break
        return found

    async def reading_awaiting() -> list[str]:
        found: list[str] = []
        chunks = await begun(stream)
        async for chunk in chunks:
            found.append(chunk)
            between()
            if len(found) == most:
                if hasattr(chunks, "aclose"):
                    await chunks.aclose()
                break
        return found

    awaiting = inspect.iscoroutine(stream) or inspect.isasyncgen(stream)
    return asyncio.run(reading_awaiting()) if awaiting else reading(stream)


@pytest.mark.parametrize("name", EVERY)
def test_a_stream_of_any_shape_is_one_span_that_ends_with_what_was_used(name, client, spans, ledger):
    assert read(getattr(client, name)("hello", MOST)) == SAID
    (span,) = spans.all()
    assert (span.attributes["gen_ai.usage.input_tokens"], span.attributes["gen_ai.usage.output_tokens"]) == (IN, OUT)
    assert "gen_ai.response.time_to_first_chunk" in span.attributes
    balance = ledger.budget("b")
    assert (balance.spent, balance.held) == (Tokens(IN + OUT), Tokens(0))


@pytest.mark.parametrize("name", EVERY)
def test_a_stream_is_of_the_type_that_the_library_gives(name, client):
    stream = getattr(client, name)("hello", MOST)
    kind = {"gives_stream": Stream, "generator": Iterator, "gives_generator": Iterator}.get(name)
    if kind is not None:
        assert isinstance(stream, kind)
        assert type(stream).__name__ in ("Stream", "generator")
    else:
        assert inspect.iscoroutine(stream) or inspect.isasyncgen(stream)
    assert read(stream) == SAID


@pytest.mark.parametrize("name", EVERY)
def test_a_stream_that_is_left_in_the_middle_costs_what_was_seen_of_it(name, client, spans, ledger):
    assert read(getattr(client, name)("hello", MOST), most=1) == SAID[:1]
    gc.collect()
    balance = until_nothing_is_held(lambda: ledger.budget("b"))
    assert 0 < balance.spent.steps < 1000
    assert len(spans.all()) == 1


@pytest.mark.parametrize("name", ["gives_generator", "gives_stream"])
def test_a_stream_that_nobody_reads_holds_nothing(name, client, ledger):
    stream = getattr(client, name)("hello", MOST)
    del stream
    gc.collect()
    until_nothing_is_held(lambda: ledger.budget("b"))
    assert client.sent == 0


def test_a_generator_that_never_begins_was_never_asked_about(client, spans):
    stream = client.generator("hello", MOST)
    del stream
    gc.collect()
    assert (client.sent, spans.all()) == (0, [])


@pytest.mark.parametrize("name", [n for n in EVERY if "stream" not in n])
def test_a_stream_that_fails_before_it_says_anything_costs_nothing(name, client, spans, ledger):
    client.fails = ValueError("no such model")
    with pytest.raises(ValueError, match="no such model"):
        read(getattr(client, name)("hello", MOST))
    assert (ledger.budget("b").spent, ledger.budget("b").held) == (Tokens(0), Tokens(0))
    (span,) = spans.all()
    assert span.attributes["error.type"] == "ValueError"


@pytest.mark.parametrize("name", EVERY)
def test_beyond_a_budget_a_stream_of_any_shape_sends_nothing(name, dsn):
    spanledger.instrument(Config(dsn=dsn, budgets=[Budget("b", Tokens(1))]), libraries=[CLIENT])
    client = Client()
    with pytest.raises(errors.BudgetExceeded):
        read(getattr(client, name)("hello", MOST))
    assert client.sent == 0


@pytest.mark.parametrize("name", EVERY)
def test_a_stream_works_inside_its_span_and_whoever_reads_it_is_outside(name, client, spans):
    outside: list[Any] = []
    read(getattr(client, name)("hello", MOST), between=lambda: outside.append(trace.get_current_span()))
    assert {span.get_span_context().span_id for span in client.around} == {span.context.span_id for span in spans.all()}
    assert set(outside) == {trace.INVALID_SPAN}


@pytest.mark.parametrize("name", EVERY)
def test_what_is_given_by_position_is_counted_by_its_name(name, client):
    ASKED.clear()
    read(getattr(client, name)("hello", MOST))
    assert ASKED == [{"prompt": "hello", "most": MOST}]


def test_a_stream_that_is_closed_is_over_at_once(client, spans):
    stream = client.gives_stream("hello", MOST)
    assert next(stream) == SAID[0]
    stream.close()
    assert stream.closed
    assert len(spans.all()) == 1


@pytest.mark.parametrize("name", TALKS)
def test_a_generator_hears_what_it_is_sent_and_says_what_it_returns(name, client, spans):
    talk = getattr(client, name)("hello", MOST)
    assert [next(talk), talk.send("uno"), talk.throw(KeyError("due"))] == [SAID[0], "uno", "due"]
    assert (client.around, spans.all()) == ([], [])
    with pytest.raises(StopIteration) as over:
        talk.send(SAID[-1])
    assert over.value.value == ["uno", "due", SAID[-1]]
    assert client.around == ["over"]
    assert len(spans.all()) == 1


@pytest.mark.parametrize("name", TALKS)
def test_a_generator_that_is_closed_is_over_at_once(name, client, spans, ledger):
    talk = getattr(client, name)("hello", MOST)
    next(talk)
    talk.close()
    assert client.around == ["over"]
    until_nothing_is_held(lambda: ledger.budget("b"))
    assert len(spans.all()) == 1


class Picky(Stream):
    """A stream that is told why it is closed, and takes no attributes but its own."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name.startswith("_") and name != "__class__":
            raise AttributeError(name)
        object.__setattr__(self, name, value)

    def close(self, code: int = 1000) -> None:
        super().close()
        self.code = code


def test_a_stream_that_cannot_be_watched_is_read_as_ever(client, monkeypatch, ledger):
    monkeypatch.setitem(globals(), "Stream", Picky)
    stream = client.gives_stream("hello", MOST)
    assert list(stream) == SAID
    assert ledger.budget("b").held == Tokens(0)


def test_what_a_stream_is_closed_with_is_passed_on(client, monkeypatch, spans):
    monkeypatch.setattr(Picky, "__setattr__", object.__setattr__)
    monkeypatch.setitem(globals(), "Stream", Picky)
    stream = client.gives_stream("hello", MOST)
    stream.close(1001)
    assert (stream.code, len(spans.all())) == (1001, 1)


def test_a_stream_that_another_thread_closes_while_it_is_read_is_over_at_once(client, spans):
    waits, goes_on = threading.Event(), threading.Event()

    def slow() -> Iterator[str]:
        yield SAID[0]
        waits.set()
        goes_on.wait(20)

    stream = client.gives_stream("hello", MOST)
    stream.source = slow()
    reader = threading.Thread(target=list, args=(stream,))
    reader.start()
    assert waits.wait(20)
    stream.close()
    ended = len(spans.all())
    goes_on.set()
    reader.join()
    assert (ended, len(spans.all())) == (1, 1)


def test_a_stream_that_another_task_closes_while_it_is_read_is_over_at_once(client, spans):
    async def main() -> int:
        waits, goes_on = asyncio.Event(), asyncio.Event()

        async def slow() -> Any:
            yield SAID[0]
            waits.set()
            await goes_on.wait()

        async def reading() -> None:
            async for _ in stream:
                pass

        stream = await client.gives_stream_awaiting("hello", MOST)
        stream.source = slow()
        reader = asyncio.create_task(reading())
        await waits.wait()
        stream.close()
        ended = len(spans.all())
        goes_on.set()
        await reader
        return ended

    assert (asyncio.run(main()), len(spans.all())) == (1, 1)


def test_a_stream_that_two_threads_end_at_once_ends_once(client, spans, ledger, caplog):
    stream = client.gives_stream("hello", MOST)
    next(stream)
    together = threading.Barrier(2)

    def step(frame: Any, event: str, _arg: Any) -> Any:
        if frame.f_code is not UnderWay.end.__code__:
            return None
        if event == "line":
            with contextlib.suppress(threading.BrokenBarrierError):
                together.wait(0.5)
        return step

    def close() -> None:
        sys.settrace(step)
        stream.close()

    threads = [threading.Thread(target=close) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert "ended span" not in caplog.text
    assert len(spans.all()) == 1
    assert ledger.budget("b").held == Tokens(0)


# --- a framework whose tools yield


class Desk:
    """A framework that runs every tool through one generator, whose last event is the result."""

    def __init__(self) -> None:
        self.ran: list[str] = []
        self.kept: list[str] = []
        self.fails: Exception | None = None
        self.ended: list[str] = []

    async def call(self, name: str, order_id: str, call_id: str) -> Any:
        self.ran.append(order_id)
        try:
            yield "looking"
            await asyncio.sleep(0)
            if self.fails:
                raise self.fails
            yield "paying"
            self.kept.append(f"refund {len(self.ran)}")
            yield self.kept[-1]
        finally:
            self.ended.append(order_id)

    async def silent(self, name: str) -> Any:
        for event in ():
            yield event


def describe(_desk: Desk, args: Any, _kwargs: Any) -> Call:
    name, order_id, call_id = args
    return Call(name, arguments={"order_id": order_id}, call_id=call_id)


def tell_of(desk: Desk, _args: Any, _kwargs: Any) -> Callable[[Call, Exception], str]:
    return lambda call, error: desk.kept.append(f"{call.call_id}: not done") or desk.kept[-1]


TOOL = Wrap(f"{__name__}:Desk.call", describe, codec=TypedCodec(), tell_of=tell_of)
SILENT = Wrap(f"{__name__}:Desk.silent", lambda _desk, args, _kwargs: Call(args[0], arguments={}), codec=TypedCodec())
DESK = Library("desk", "", (TOOL, SILENT))
BY_ARGUMENTS = Rule("refund", identity="arguments")


@pytest.fixture
def desk(dsn: str) -> Callable[..., Desk]:
    def made(**fields: Any) -> Desk:
        spanledger.instrument(Config(**{"dsn": dsn, "rules": [BY_ARGUMENTS]} | fields), libraries=[DESK])
        return Desk()

    return made


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_yields_runs_once_and_a_replay_yields_its_result(desk, spans, ledger):
    framework = desk()
    assert read(framework.call("refund", "o-1", "c-1")) == ["looking", "paying", "refund 1"]
    assert read(framework.call("refund", "o-1", "c-2")) == ["refund 1"]
    assert framework.ran == ["o-1"]
    assert [span.attributes["spanledger.verdict"] for span in spans.all()] == ["run", "replay"]
    assert [row["state"] for row in ledger.calls()] == ["succeeded"]


@pytest.mark.usefixtures("in_workflow")
def test_who_reads_what_a_tool_yields_is_not_inside_its_call(desk, spans):
    framework, around, seen = desk(), trace.get_current_span(), []
    read(framework.call("refund", "o-1", "c-1"), between=lambda: seen.append(trace.get_current_span()))
    assert seen == [around] * 3


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_yields_and_then_raises_has_failed(desk, ledger):
    framework = desk()
    framework.fails = ValueError("card expired")
    with pytest.raises(ValueError, match="card expired"):
        read(framework.call("refund", "o-1", "c-1"))
    assert [row["state"] for row in ledger.calls()] == ["failed"]


@pytest.mark.usefixtures("in_workflow")
def test_whoever_stops_reading_a_tool_leaves_its_outcome_unknown(desk, ledger):
    framework = desk()
    assert read(framework.call("refund", "o-1", "c-1"), most=1) == ["looking"]
    assert framework.ended == ["o-1"]
    assert [row["state"] for row in ledger.calls()] == ["unknown"]


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_yields_can_be_refused_and_the_model_told_where_the_framework_keeps_results(desk):
    framework = desk(rules=[Rule("refund", on_refusal="tell")], budgets=[Budget("few", spanledger.Calls(0))])
    assert read(framework.call("refund", "o-1", "c-1")) == ["c-1: not done"]
    assert (framework.ran, framework.kept) == ([], ["c-1: not done"])


@pytest.mark.usefixtures("in_workflow")
def test_a_refusal_of_a_tool_that_yields_is_raised_when_it_begins(desk):
    framework = desk(budgets=[Budget("few", spanledger.Calls(0))])
    with pytest.raises(errors.BudgetExceeded):
        read(framework.call("refund", "o-1", "c-1"))
    assert framework.ran == []


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_is_cancelled_while_it_yields_is_of_unknown_outcome(desk, ledger):
    framework = desk()

    async def main() -> None:
        task = asyncio.current_task()
        async for _ in framework.call("refund", "o-1", "c-1"):
            task.cancel()
            await asyncio.sleep(5)

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    assert [row["state"] for row in ledger.calls()] == ["unknown"]


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_yields_and_never_begins_is_no_call(desk, ledger):
    framework = desk()
    events = framework.call("refund", "o-1", "c-1")
    del events
    gc.collect()
    assert (framework.ran, ledger.calls()) == ([], [])


@pytest.mark.usefixtures("in_workflow")
def test_a_tool_that_yields_nothing_yields_nothing(desk):
    assert read(desk().silent("look")) == []
