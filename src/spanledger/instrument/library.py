"""All that the author of one more library writes: a `Library` of `Wrap`s.

Rules: a library file only describes. It says which functions run tools or ask models, and how to read a call,
a usage or a chunk; the engine does the rest, for sync and async alike. Extractors are pure. The file is imported when
its library is, and imports it inside functions. A library of another package needs nothing but what `spanledger` and
this module export. Where a function asks a model, "keyword arguments" are all of its arguments, by their names.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from opentelemetry.trace import Span

from spanledger.core.call import EXECUTE_TOOL, INVOKE_AGENT, Call, Codec, ScopeSource, Usage
from spanledger.core.egress import Change, Request
from spanledger.core.messages import Asked, Message
from spanledger.core.prices import Bound
from spanledger.errors import ApprovalPending, SpanledgerError
from spanledger.instrument._bounds import input_tokens
from spanledger.instrument._results import TypedCodec

__all__ = [
    "EGRESS",
    "EXECUTE_TOOL",
    "INVOKE_AGENT",
    "Asked",
    "Bound",
    "Change",
    "Conversation",
    "Egress",
    "Library",
    "Message",
    "Messages",
    "Pause",
    "Request",
    "ScopeSource",
    "TypedCodec",
    "Wrap",
    "also",
    "input_tokens",
    "no_call",
]

Arguments = tuple[Any, ...]
Given = tuple[Arguments, dict[str, Any]]
Describe = Callable[[Any, Arguments, Mapping[str, Any]], Call | None]
Tell = Callable[[Call, Exception], Any]
EGRESS: Final = "egress"
TELL: Final = "tell"
HiddenChunk = Callable[[Any], bool]


@dataclass(frozen=True, slots=True)
class Pause:
    """A framework's own way to suspend a run until a person has spoken.

    Attributes:
        suspend: The pending approval → the framework's exception. The call is asked for again when the run is resumed.
        resumed: Called when the call may run for the first time.
    """

    suspend: Callable[[ApprovalPending], BaseException]
    resumed: Callable[[], None] = lambda: None


@dataclass(frozen=True, slots=True)
class Messages:
    """How to read what a model is asked and what it answers, where somebody wants that recorded.

    Attributes:
        asked: Keyword arguments → what they ask.
        answered: An answer → its messages.
        gather: (what has been gathered of a streamed answer, a chunk); makes of it what `answered` reads.
    """

    asked: Callable[[Mapping[str, Any]], Asked]
    answered: Callable[[Any], list[Message]]
    gather: Callable[[dict[str, Any], Any], None]


@dataclass(frozen=True, slots=True)
class Conversation:
    """How to read what an agent is asked and what is said in its run, where somebody wants that recorded.

    Attributes:
        asked: (instance, args, kwargs) → what it is asked.
        followed: (instance, args, kwargs, what came of it) → all that was said in the run, its answer last; what is of
            the role "system" is what it was told apart. None: not all of it was to be seen. What came of it is what the
            function returned or gave a ``with`` block, or what was gathered.
        gather: (what has been gathered, what the function has yielded); where it is a generator.
    """

    asked: Callable[[Any, Arguments, Mapping[str, Any]], Asked]
    followed: Callable[[Any, Arguments, Mapping[str, Any], Any], list[Message] | None]
    gather: Callable[[dict[str, Any], Any], None] | None = None


@dataclass(frozen=True, slots=True)
class Egress:
    """How a function of an HTTP client shows the requests that leave through it.

    Attributes:
        status: What the function returns → its HTTP status.
        read: (instance, args, kwargs) → the request; its body None where reading would use it up. None: the function
            shows no request yet.
        write: (instance, args, kwargs, change) → arguments with which it sends the changed request. What the caller
            holds stays as it is.
        asked: What `read` reads, of a function that shows a request without its being decided there. None: as `read`.
        whole: One request of the program comes once, however often it is redirected: ``"each"`` call is one;
            ``"outer"``, where the client calls the function itself for redirects; ``"alone"``, where no function above
            has seen it whole; ``"never"``.
        hop: Every request that leaves comes through it, each redirected one too.
        bare: A redirected request is made of what the program gave, without what we have added.
    """

    status: Callable[[Any], int | None]
    read: Callable[[Any, Arguments, Mapping[str, Any]], Request] | None = None
    write: Callable[[Any, Arguments, Mapping[str, Any], Change], tuple[Arguments, Mapping[str, Any]]] | None = None
    asked: Callable[[Any, Arguments, Mapping[str, Any]], Request] | None = None
    whole: str = "each"
    hop: bool = True
    bare: bool = False


def no_call(_instance: Any, _args: Arguments, _kwargs: Mapping[str, Any]) -> None:
    """Describe what is no call of a tool or a model."""


@dataclass(frozen=True, slots=True)
class Wrap:
    """One function to wrap.

    Attributes:
        target: ``"module:Class.method"``.
        describe: (instance, args, kwargs) → the call; None: not a call, let it pass.
        operation: The GenAI operation: ``"execute_tool"`` for tools, else a model's.
        codec: How results are kept. A tool without one is recorded and never replayed.
        codec_of: (instance, args, kwargs) → how the results of this very tool are kept; instead of `codec`.
        failure: A result → why it means failure although nothing was raised: in words, or as the exception that would
            have said so, which also says whether it may have taken effect; None: it does not.
        pauses: Qualified names of exceptions that are the framework's way to go on elsewhere: it suspends the run, or
            has the model ask again. They are neither success nor failure.
        asks_back: A result → whether it only asks for more, so that the call will be made again.
        tell: (call, error) → what to return to the model instead of raising a refusal.
        tell_of: (instance, args, kwargs) → how the model is told by this very tool; instead of `tell`.
        pause: (instance, args, kwargs) → how to suspend the run where a person has to approve the call; None: this run
            cannot be resumed, so that the caller is told by `ApprovalPending`.
        stop: A refusal → the same as an exception that the framework lets through: `also` makes it one of the
            framework's own kind; where every `Exception` is swallowed, `errors.CallStopped` is none. None: it lets
            every one through.
        sends: (keyword arguments, what travels with the call) → changed ones, where the tool may be in another process.
        receives: (instance, args, kwargs) → what travelled with the call from another process.
        hands: (what the target returned, how to guard a coroutine function) → what it returns instead, where the target
            only hands out or registers the function that runs tools; all else said here is about that function.
        gives: (instance, args, kwargs, how to guard a coroutine function, or with ``awaiting=False`` any other) → the
            args and kwargs that it is called with instead, where the target is given the function that runs tools;
            likewise.
        versions: The versions of the package that have the target; "" if all that the library knows.
        prepare: Keyword arguments → changed ones, and which chunks the change adds that the caller must not see.
        parsed: A result → the object to measure, where the library returns something raw.
        measure: A result → what it used.
        held: An error → the answer that it holds, which was not what was wanted; None: it holds none.
        fold: (usage so far, chunk) → usage.
        said: A chunk → what it holds of the model's answer, as text, by which an answer that ends early is charged.
        bound: Keyword arguments → the most that the request can use.
        messages: How to read what is asked and answered; None: that is not recorded.
        conversation: The same for runs of agents.
        egress: How an HTTP client's function shows what leaves; its operation is `EGRESS`, and it describes no call.
        direct: It sends its request itself, and by way of no other function that is wrapped: what asks a model in the
            midst of it, as a middleware or a hook may, makes a call of its own. Else that is the same call.
        announced: (args, kwargs, what the target returned) → the spans that somebody has made of the model calls that
            come next in its caller, each with the model that it is about, or None: each of the calls is its span. The
            target describes no call.
    """

    target: str
    describe: Describe
    operation: str = EXECUTE_TOOL
    codec: Codec | None = None
    codec_of: Callable[[Any, Arguments, Mapping[str, Any]], Codec] | None = None
    failure: Callable[[Any], str | BaseException | None] | None = None
    pauses: tuple[str, ...] = ()
    asks_back: Callable[[Any], bool] | None = None
    tell: Tell | None = None
    tell_of: Callable[[Any, Arguments, Mapping[str, Any]], Tell] | None = None
    pause: Callable[[Any, Arguments, Mapping[str, Any]], Pause | None] | None = None
    stop: Callable[[SpanledgerError], BaseException] | None = None
    sends: Callable[[dict[str, Any], Mapping[str, Any]], dict[str, Any]] | None = None
    receives: Callable[[Any, Arguments, Mapping[str, Any]], Mapping[str, Any]] | None = None
    hands: Callable[[Any, Callable[[Any], Any]], Any] | None = None
    gives: Callable[[Any, Arguments, dict[str, Any], Callable[..., Any]], Given] | None = None
    versions: str = ""
    prepare: Callable[[dict[str, Any]], tuple[dict[str, Any], HiddenChunk | None]] | None = None
    parsed: Callable[[Any], Any] | None = None
    measure: Callable[[Any], Usage] | None = None
    held: Callable[[BaseException], Any] | None = None
    fold: Callable[[Usage, Any], Usage] | None = None
    said: Callable[[Any], str] | None = None
    bound: Callable[[Mapping[str, Any]], Bound] | None = None
    messages: Messages | None = None
    conversation: Conversation | None = None
    egress: Egress | None = None
    direct: bool = False
    announced: Callable[[Arguments, Mapping[str, Any], Any], Iterable[tuple[Span, str | None]]] | None = None

    @property
    def module(self) -> str:
        """The module that holds the target."""
        return self.target.partition(":")[0]

    @property
    def path(self) -> str:
        """The target's path in its module."""
        return self.target.partition(":")[2]


@dataclass(frozen=True, slots=True)
class Library:
    """What is instrumented.

    Attributes:
        name: Name by which people switch it on and off.
        requires: The package it comes in, with the versions whose functions are known, for example ``"openai>=2,<4"``;
            "" where it comes in none, as modules of the program itself.
        wraps: The functions to wrap.
        defers: Targets of functions that only prepare a request and return what will make it; the request is kept on
            that as ``spanledger_request``, where a wrap of the function that makes it finds it.
        hides: Targets of functions that take a tool's exception first and make a value of it for the model.
        tells: Targets of functions that make something else of an exception when the call is over already; of a
            refusal nothing else is made.
        own_spans: How spans are known that the library itself makes of calls that are wrapped: by their instrumentation
            scope (and, where nothing records them, the module that starts them), by an attribute they start with, or by
            how their names begin. They are not decided a second time, and where they are around the wrapped function,
            what we have to say is said on them.

    Raises:
        ValueError: It says by `own_spans` what spans of tools are called everywhere, which would leave all unguarded.
    """

    name: str
    requires: str
    wraps: tuple[Wrap, ...]
    hides: tuple[str, ...] = ()
    tells: tuple[str, ...] = ()
    defers: tuple[str, ...] = ()
    own_spans: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for mark in self.own_spans:
            if f"{EXECUTE_TOOL} ".startswith(mark) or mark.startswith(("gen_ai.tool.", "gen_ai.operation.")):
                raise ValueError(
                    f"own_spans of the library {self.name!r}: {mark!r} is on the spans of everybody's tools, none of "
                    "which would be guarded; name the instrumentation scope of the library's own tracer"
                )


def also(error: SpanledgerError, kind: type[Exception]) -> SpanledgerError:
    """Make an error one of another kind as well, for a framework that lets only its own kind through.

    Args:
        error: The error. It stays what it is, and is pickled as that.
        kind: The framework's kind; it must not need arguments of its own.
    """
    if not isinstance(error, kind):
        error.__class__ = _both(type(error), kind)  # type: ignore[arg-type]
    return error


@functools.cache
def _both(ours: Any, theirs: Any) -> type[SpanledgerError]:
    def plain(error: SpanledgerError) -> Any:
        rebuild, (_, *rest) = ours.__reduce__(error)
        return rebuild, (ours, *rest)

    names = {"__module__": ours.__module__, "__qualname__": ours.__qualname__, "__doc__": ours.__doc__}
    return type(ours.__name__, (ours, theirs), {**names, "__reduce__": plain})
