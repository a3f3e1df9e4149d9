"""Runs of agents, as the spans that their model and tool calls hang under.

Rules: nothing is decided here, and nothing changes for the caller. A run takes one of five forms: a function, a
coroutine function, a generator, an asynchronous one, or an asynchronous context manager. The span of a generator is
current only while the generator works, not while whoever reads from it does. What the agent was asked and answered is
read only where it is recorded, which is on spans: the events of the conventions are about model calls.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Generator, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

from opentelemetry.trace import Span

from spanledger.config import Config
from spanledger.core.content import Capture
from spanledger.instrument._job import Job, pauses
from spanledger.instrument._messages import Overheard
from spanledger.telemetry import inference, record
from spanledger.telemetry.quiet import quietly

T = TypeVar("T")

_END = object()


class AgentRuns:
    """Traces runs of agents in this process."""

    def __init__(self, config: Config) -> None:
        self._config = config

    def way(self, original: Callable[..., Any]) -> Callable[[Job, Callable[[], Any]], Any]:
        """Return how to trace a function of the form of `original`."""
        if inspect.isgeneratorfunction(original):
            return self._generate
        if inspect.isasyncgenfunction(original):
            return self._generate_awaiting
        plain = inspect.unwrap(original)
        if inspect.isasyncgenfunction(plain):
            return self._within
        return self._run_awaiting if inspect.iscoroutinefunction(plain) else self._run

    def _run(self, job: Job, function: Callable[[], Any]) -> Any:
        with self._span(job) as (span, heard), _working(job, span):
            return heard.came(function())

    async def _run_awaiting(self, job: Job, function: Callable[[], Awaitable[Any]]) -> Any:
        with self._span(job) as (span, heard), _working(job, span):
            return heard.came(await function())

    def _generate(self, job: Job, function: Callable[[], Generator[Any, None, None]]) -> Iterator[Any]:
        with self._span(job) as (span, heard), contextlib.closing(function()) as inner:
            while (item := _next(job, span, inner)) is not _END:
                heard.gather(item)
                yield item

    async def _generate_awaiting(
        self, job: Job, function: Callable[[], AsyncGenerator[Any, None]]
    ) -> AsyncIterator[Any]:
        with self._span(job) as (span, heard):
            async with contextlib.aclosing(function()) as inner:
                while (item := await _next_awaiting(job, span, inner)) is not _END:
                    heard.gather(item)
                    yield item

    @contextlib.asynccontextmanager
    async def _within(self, job: Job, function: Callable[[], AbstractAsyncContextManager[Any]]) -> AsyncIterator[Any]:
        with self._span(job) as (span, heard), _working(job, span):
            async with function() as run:
                yield heard.came(run)

    @contextlib.contextmanager
    def _span(self, job: Job) -> Iterator[tuple[Span, _Heard]]:
        with record.ending(record.start(job.call)) as span:
            heard, ended = _Heard(job, span, self._config), False
            try:
                yield span, heard
                ended = True
            finally:
                heard.tell(ended=ended)


class _Heard:
    """What is said in a run, if anybody takes it."""

    def __init__(self, job: Job, span: Span, config: Config) -> None:
        self._job = job
        self._span = span
        self._config = config
        self._heard: Overheard | None = None
        conversation = job.wrap.conversation if job.wrap else None
        if (
            conversation is not None
            and job.given is not None
            and config.message_capture.on_spans
            and span.is_recording()
        ):
            self._heard = Overheard(conversation, job.given)

    def gather(self, item: Any) -> None:
        if self._heard is not None:
            self._heard.gather(item)

    def came(self, result: T) -> T:
        """What came of the run, which the caller gets as it is."""
        if self._heard is not None:
            self._heard.result(result)
        return result

    @quietly
    def tell(self, *, ended: bool) -> None:
        if self._heard is not None:
            said = self._heard.said(self._job.call, self._config, ended=ended)
            inference.told(self._span, self._job.call, {}, said, Capture.SPAN_ONLY, event=False)


def _next(job: Job, span: Span, inner: Iterator[Any]) -> Any:
    with _working(job, span):
        return next(inner, _END)


async def _next_awaiting(job: Job, span: Span, inner: AsyncIterator[Any]) -> Any:
    with _working(job, span):
        return await anext(inner, _END)


@contextlib.contextmanager
def _working(job: Job, span: Span) -> Iterator[None]:
    """Make a span current, and record what is raised unless it is the framework's way to go on elsewhere."""
    try:
        with record.current(span):
            yield
    except BaseException as error:
        if not pauses(job.wrap, error):
            record.failed(span, error)
        raise
