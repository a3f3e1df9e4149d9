"""Where spans begin: a door in `start_span` of every class of tracers.

Rules: it knows no call and no verdict; what happens at a door is given. Every subclass of the API's tracer has a door,
those that vendors define later included, and so has the tracer of an installed provider that is no subclass. A span
that is none of our business passes at the cost of three look-ups. Opening puts back the very functions that were there,
unless somebody has wrapped a door meanwhile; then the door stays and lets everything through.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterator
from typing import Any, Final

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import ProxyTracer, Span, Tracer

from spanledger.telemetry import model_spans, record
from spanledger.telemetry.reading import may_be_tool
from spanledger.telemetry.spans import unshared

logger = logging.getLogger("spanledger.telemetry")

StartSpan = Callable[..., Span]
# Starts the span with a context and attributes.
Start = Callable[[Context | None, Any], Span]
# Given how a span is started, its name, context and attributes.
Through = Callable[[Start, Any, Context | None, Any], Span]

# Where they stand among the arguments.
_CONTEXT: Final = 2
_ATTRIBUTES: Final = 4

# These only hand on to another tracer, which has a door.
_DELEGATING: Final = (Tracer, ProxyTracer)


class Doors:
    """The doors of this process.

    Args:
        through: Starts a span that may be a tool's, or raises.
    """

    def __init__(self, through: Through) -> None:
        self._through = through
        self._closed: dict[type, tuple[StartSpan, StartSpan]] = {}
        self._set_provider: Callable[..., None] | None = None

    def close(self) -> None:
        """Close a door in every class there is and will be; closed ones are left alone."""
        for cls in _subclasses(Tracer):
            self._close(cls)
        if self._set_provider is None:
            self._set_provider = trace._set_tracer_provider  # noqa: SLF001 - whoever imported the public one calls it
            trace._set_tracer_provider = self._provider_set(self._set_provider)  # noqa: SLF001
            Tracer.__init_subclass__ = self._subclassed()  # type: ignore[method-assign]
        self.close_installed()

    def close_installed(self) -> None:
        """Close the door of the provider that is installed, whatever class its tracers are of."""
        try:
            cls = type(trace.get_tracer("spanledger"))
            if not issubclass(cls, Tracer):
                self._close(next(owner for owner in cls.__mro__ if "start_span" in vars(owner)))
        except Exception:
            # Installing a provider is none of our business; whoever attaches the guard has it proven.
            logger.exception("spans of the provider that is installed now are not guarded: it cannot be wrapped")

    def open(self) -> None:
        """Put back what was there."""
        if self._set_provider is not None:
            trace._set_tracer_provider = self._set_provider  # noqa: SLF001 - see close
            del Tracer.__init_subclass__
            self._set_provider = None
        while self._closed:
            cls, (door, start) = self._closed.popitem()
            if vars(cls)["start_span"] is door:
                cls.start_span = start  # type: ignore[attr-defined]

    def _close(self, cls: type) -> None:
        start = vars(cls).get("start_span")
        if start is None or cls in _DELEGATING or start is self._closed.get(cls, (None,))[0]:
            return
        door = _door(start, self._through)
        cls.start_span = door  # type: ignore[attr-defined]
        self._closed[cls] = door, start

    def _subclassed(self) -> Any:
        def close(cls: Any, /, **kwargs: Any) -> None:
            super(Tracer, cls).__init_subclass__(**kwargs)  # type: ignore[misc]
            self._close(cls)

        return classmethod(close)

    def _provider_set(self, set_provider: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(set_provider)
        def set_and_close(*args: Any, **kwargs: Any) -> None:
            set_provider(*args, **kwargs)
            self.close_installed()

        return set_and_close


def _door(start: StartSpan, through: Through) -> StartSpan:
    @functools.wraps(start)
    def start_span(*args: Any, **kwargs: Any) -> Span:
        # As they were given: tracer, name, context, kind, attributes. Nothing is made here, for every span comes here.
        # An empty context is not the same as none: it makes a span a root.
        context = args[_CONTEXT] if len(args) > _CONTEXT else kwargs.get("context")
        if context is not None and record.OWN_SPAN in context:
            return unshared(start(*args, **kwargs))
        name = args[1] if len(args) > 1 else kwargs.get("name")
        attributes = kwargs.get("attributes") or (args[_ATTRIBUTES] if len(args) > _ATTRIBUTES else None)
        shared = model_spans.handed_out(args[0], attributes, context)
        if shared is not None:
            return shared
        if not may_be_tool(name, attributes):
            return model_spans.announced(args[0], name, unshared(start(*args, **kwargs)))
        return through(functools.partial(_started, start, args, kwargs), name, context, attributes)

    return start_span


def _started(
    start: StartSpan, args: tuple[Any, ...], kwargs: dict[str, Any], context: Context | None, attributes: Any
) -> Span:
    if len(args) <= _CONTEXT:  # as the SDK itself gives them, and nearly everybody
        return unshared(start(*args, **{**kwargs, "context": context, "attributes": attributes}))
    placed, named = [*args], {**kwargs}
    placed[_CONTEXT] = context
    if len(placed) > _ATTRIBUTES:
        placed[_ATTRIBUTES] = attributes
    else:
        named["attributes"] = attributes
    return unshared(start(*placed, **named))


def _subclasses(cls: type) -> Iterator[type]:
    subclass: type
    for subclass in cls.__subclasses__():
        yield subclass
        yield from _subclasses(subclass)
