"""How the spans of other instrumentations are stopped: one table, a line for each that is not like a hand-written one.

Rules: a span is stopped by an exception that leaves `start_span`, and what comes of it depends on who opened the span.
Most hand it on, which stops the run. Some tell the model of it. Some swallow it and run the tool all the same: these
are stopped by what is no `Exception`, which elsewhere makes a loop endless, hangs a run or kills a server, so it is
used nowhere else. And some swallow that as well: their tools cannot be stopped, which is said, and their spans are
left alone, because a span that is refused while its tool runs would lie.

Who opened a span is its instrumentation scope. Where that is not known (nothing records the span, or the scope is of
a toolbox that many use), it is the module that called `start_span`. Nothing is imported here.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import logging
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from types import FrameType
from typing import Any, Final

from opentelemetry.trace import Span

from spanledger.errors import CallRefused, CallReplayed, CallStopped, SpanledgerError

logger = logging.getLogger("spanledger.telemetry")

_GENAI, _OPENINFERENCE = "opentelemetry.instrumentation.genai.", "openinference.instrumentation."
_TRACELOOP = "opentelemetry.instrumentation."
FRAMES_MAX = 30
# What stands between `start_span` and who wanted it.
_BETWEEN: Final = (
    "contextlib",
    "opentelemetry.sdk",
    "opentelemetry.trace",
    "opentelemetry.util",
    "spanledger.",
    "wrapt",
)
# `_opener` itself, `scope_of` and `decide`.
_OURS: Final = 3
_REFUSED_CODE = -32001

Fits = Callable[[SpanledgerError], BaseException]


class Says(Enum):
    """What a span says of its call when it starts."""

    ARGUMENTS = "its call id and arguments"
    CALL_ID = "its call id"
    NAME = "its name"


def _itself(error: SpanledgerError) -> BaseException:
    return error


def _stopped(error: SpanledgerError) -> BaseException:
    return CallStopped(error)


def _theirs(module: str, name: str, make: Callable[[Any, Any], BaseException]) -> Fits:
    """Make an exception of theirs; where this version has none, it is ours."""

    def fits(error: SpanledgerError) -> BaseException:
        cls = getattr(sys.modules.get(module), name, None)
        return error if cls is None else make(cls, error)

    return fits


def _with_text(module: str, name: str) -> Fits:
    return _theirs(module, name, lambda cls, error: cls(str(error)))


@dataclass(frozen=True, slots=True)
class Scope:
    """One instrumentation.

    Attributes:
        name: Its instrumentation scope.
        modules: The module, or the package of the modules, that starts its spans.
        says: What its spans say when they start.
        stop: What makes an exception that stops the run, or at least the tool, of why the call does not run.
        tell: Likewise, for the model to read.
        replay: Likewise of a call that succeeded before.
        gives_back: `replay` hands over the recorded result.
        unstoppable: Its tools run whatever is raised.
        unseen: Its spans do not say, when they start, that they are a tool's, so they pass as any other span.
        library: The library of ours that wraps the same tools, and asks for them where it is attached.
    """

    name: str
    modules: str
    says: Says = Says.NAME
    stop: Fits = _itself
    tell: Fits = _itself
    replay: Fits = _itself
    gives_back: bool = False
    unstoppable: bool = False
    unseen: bool = False
    library: str | None = None


def _swallowing(name: str, library: str) -> Scope:
    unseen = name.startswith(_OPENINFERENCE)
    return Scope(name, name, stop=_stopped, tell=_stopped, replay=_stopped, unseen=unseen, library=library)


def _unstoppable(name: str) -> Scope:
    return Scope(name, name, unstoppable=True, library="llama_index")


_ENDS_RUN = _with_text("agent_framework", "MiddlewareFailure")
_MCP_ERROR = _theirs("mcp.shared.exceptions", "MCPError", lambda cls, error: cls(_REFUSED_CODE, str(error)))
SCOPES: Final = (
    Scope(
        "pydantic-ai", "pydantic_ai", Says.ARGUMENTS, gives_back=True, library="pydantic_ai",
        tell=_with_text("pydantic_ai.exceptions", "ToolFailed"),
        replay=_theirs("pydantic_ai.exceptions", "SkipToolExecution", lambda cls, error: cls(error.result)),
    ),
    # Told to the model as "Function failed", which would be a lie about a call that succeeded.
    Scope("agent_framework", "agent_framework", Says.CALL_ID, stop=_ENDS_RUN, replay=_ENDS_RUN),
    # These tell the model, whatever is raised; what is no Exception hangs autogen.
    Scope("semantic_kernel.functions.kernel_function", "semantic_kernel", Says.CALL_ID),
    Scope("autogen-core", "autogen_core", Says.CALL_ID),
    Scope("gcp.vertex.agent", "google.adk"),
    # What is no Exception makes it ask the model for ever.
    Scope("strands.telemetry.tracer", "strands"),
    # What is no Exception kills the server; any other Exception is "Internal server error" to the client.
    Scope("mcp-python-sdk", "mcp", stop=_MCP_ERROR, tell=_MCP_ERROR, replay=_MCP_ERROR, library="mcp"),
    *(_swallowing(prefix + "langchain", "langchain") for prefix in (_GENAI, _TRACELOOP, _OPENINFERENCE)),
    *(_swallowing(prefix + "openai_agents", "openai_agents") for prefix in (_GENAI, _TRACELOOP, _OPENINFERENCE)),
    *map(_unstoppable, (_GENAI + "llama_index", _TRACELOOP + "llamaindex", _OPENINFERENCE + "llama_index")),
)  # fmt: skip
_HAND_WRITTEN: Final = Scope("", "", Says.ARGUMENTS)
_BY_NAME: Final = {scope.name: scope for scope in SCOPES}
_MODULES: Final = frozenset(scope.modules for scope in SCOPES)

# Exceptions by which a tool says, before it has done anything, that it will be called again or not at all.
_PAUSES: Final = {
    "pydantic_ai.exceptions.ApprovalRequired",
    "pydantic_ai.exceptions.CallDeferred",
    "pydantic_ai.exceptions.SkipToolExecution",
}

_wrapped: frozenset[str] = frozenset()


def leave_to(libraries: Iterable[str]) -> None:
    """Leave the spans alone whose tools are wrapped by these libraries of ours, which ask themselves."""
    global _wrapped  # noqa: PLW0603 - as there is one gate
    _wrapped = frozenset(libraries)


def installed() -> Iterator[Scope]:
    """Say which of the scopes may open spans here; their packages are looked for and not imported."""
    for scope in SCOPES:
        with contextlib.suppress(ImportError, ValueError):  # a package above it is not there, or is no package
            if importlib.util.find_spec(scope.modules) is not None:
                yield scope


def scope_of(span: Span) -> Scope:
    """Say who opened a span; called while it starts."""
    recorded = getattr(getattr(span, "instrumentation_scope", None), "name", None)
    if isinstance(recorded, str) and recorded in _BY_NAME:
        return _BY_NAME[recorded]
    # A module that opens spans is imported: where none of the table's is, no frame needs to be looked at.
    return _HAND_WRITTEN if sys.modules.keys().isdisjoint(_MODULES) else _of_module(_opener())


def is_of(span: Span, marks: Iterable[str]) -> bool:
    """Tell whether the scope of a span, or else the module that opened it, is one of these; called while it starts."""
    recorded = getattr(getattr(span, "instrumentation_scope", None), "name", None)
    names = scope_of(span).name, recorded if isinstance(recorded, str) else _opener()
    return any(f"{name}.".startswith(f"{mark}.") for name in names for mark in marks)


def is_ours_to_decide(scope: Scope) -> bool:
    """Tell whether the spans of a scope are to be decided; says once why not, where nobody else decides."""
    if scope.library in _wrapped:
        return False
    if scope.unstoppable:
        _warn(scope)
    return not scope.unstoppable


def fitting(error: SpanledgerError, scope: Scope, *, tell: bool = False) -> BaseException:
    """Make the exception that keeps a call from running in a scope.

    Args:
        error: Why it does not run.
        scope: Who opened the span.
        tell: The rule wants the model to be told of a refusal.
    """
    if isinstance(error, CallReplayed):
        return scope.replay(error)
    return scope.tell(error) if tell and isinstance(error, CallRefused) else scope.stop(error)


def pauses(error: BaseException) -> bool:
    """Tell whether an exception says that the tool has done nothing yet."""
    return f"{type(error).__module__}.{type(error).__qualname__}" in _PAUSES


def _opener() -> str:
    # Beginning with who asks whoever decides; both are ours, and every frame that is looked at costs half a µs.
    frame: FrameType | None = sys._getframe(_OURS)  # noqa: SLF001 - nothing else knows
    for _ in range(FRAMES_MAX):
        if frame is None:
            break
        module = frame.f_globals.get("__name__") or ""
        if not module.startswith(_BETWEEN):
            return str(module)
        frame = frame.f_back
    return ""


@functools.lru_cache(maxsize=1024)
def _of_module(module: str) -> Scope:
    return next((scope for scope in SCOPES if f"{module}.".startswith(f"{scope.modules}.")), _HAND_WRITTEN)


@functools.lru_cache(maxsize=len(SCOPES))
def _warn(scope: Scope) -> None:
    logger.warning(
        "spans of %s are not guarded: whatever they raise is swallowed and the tool runs; guard its tools with "
        "@spanledger.tool, or by instrument(libraries=[%r]) where that is known",
        scope.name,
        scope.library,
    )
