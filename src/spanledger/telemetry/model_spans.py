"""One span for one call to a provider, whoever else makes spans of it.

Rules: the client itself and other instrumentations may see the same call. Those inside it are told by the ambient keys
they know not to make a span; a span they start all the same is ours, handed out once more, so that what they know lands
on it and nothing ends it but us. Where one of theirs is around the call already, it is the span, and we end nothing;
so it is where a framework's callback has announced the call, and made its span without making it the current one; one
that says nothing of itself yet is known by who announces it.
A span around is the span of one call: the next call inside it has its own. What asks a model in the midst of a call is
that call, on its way through another function; but where the library says that its functions send what they are asked
themselves, it is another one, such as a middleware makes.
"""

from __future__ import annotations

import contextlib
import itertools
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, Protocol, cast

import wrapt
from opentelemetry import context as otel_context
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.instrumentation.utils import suppress_instrumentation
from opentelemetry.trace import Span, StatusCode

from spanledger.config import Config
from spanledger.core.call import Call
from spanledger.telemetry import record, semconv
from spanledger.telemetry.redacting import RedactingSpan

# Under it, the model call that runs here.
INSIDE: Final = otel_context.create_key("spanledger-model-call")
# Under it, the API has the current span: setting it at once with the others saves two copies of a context.
_CURRENT_SPAN: Final = next(iter(trace.set_span_in_context(trace.INVALID_SPAN, Context())))
# What others look at before they make a span of a model call.
_SUPPRESS: Final = "suppress_language_model_instrumentation"
_UTIL_GENAI: Final = "opentelemetry.util.genai.invocation"
_UTIL_GENAI_DATA: Final = (
    ("CLIENT_INFERENCE_CONTEXT_KEY", "InferenceData"),
    ("CLIENT_EMBEDDING_CONTEXT_KEY", "EmbeddingData"),
)
_EMBEDDINGS: Final = "embeddings"
_SAYS_EMBEDDINGS: Final = frozenset({_EMBEDDINGS, "EMBEDDING"})
_OPERATIONS: Final = frozenset({"chat", "text_completion", "generate_content", _EMBEDDINGS})
# Instrumentations of the clients that we instrument, by the beginning of their scope.
_SCOPES: Final = (
    "com.anthropic.sdk.python",
    "openinference.instrumentation.anthropic",
    "openinference.instrumentation.openai",
    "opentelemetry.instrumentation.anthropic",
    "opentelemetry.instrumentation.genai.",
    "opentelemetry.instrumentation.openai",
    "opentelemetry.util.genai",
)
# Those of them that record metrics of tokens as well.
_COUNTING: Final = "opentelemetry."
_KINDS: Final = frozenset({"LLM", "EMBEDDING"})
_TAKEN: Final = "_spanledger_taken"
# Who makes spans of models' runs in callbacks of LangChain, and so ends their names.
_ANNOUNCING: Final = "opentelemetry.instrumentation.langchain"
_ANNOUNCED_NAMES: Final = (".chat", ".completion")
# Those of runs that go on here, which may be runs inside of runs: the latest first.
_Announced = tuple[tuple[Span, str | None], ...]
_announced: ContextVar[tuple[_Announced, ...]] = ContextVar("spanledger_announced", default=())


class Running(Protocol):
    """A model call that runs.

    Attributes:
        shown: Its span, as others see it.
        request: What is asked, by keyword.
    """

    shown: Span
    request: dict[str, Any]

    @property
    def direct(self) -> bool:
        """What asks a model in the midst of it makes a call of its own."""
        ...

    @property
    def is_over(self) -> bool:
        """It has ended, and what was begun in the midst of it goes on."""
        ...


def start(call: Call, context: Context) -> Span:
    """Start the span of a model call, or take the one that somebody has made of it.

    Args:
        call: The call.
        context: The current context.
    """
    theirs = _of_others(call, context)
    if theirs is not None:
        with contextlib.suppress(AttributeError):  # a span that takes no attributes of ours
            setattr(theirs, _TAKEN, True)
            attributes = record.start_attributes(call)
            theirs.set_attributes({name: value for name, value in attributes.items() if value is not None})
            return cast("Span", _Shared(theirs))
    return record.start(call, context)


def is_theirs(span: Span) -> bool:
    """Tell whether somebody else has made a span, and ends it."""
    # By its type: asking a proxy for its class answers with that of the span, and costs more.
    return cast("type[Any]", type(span)) is _Shared


def is_counted(span: Span) -> bool:
    """Tell whether somebody else has made a span, and counts in metrics what it says."""
    if not is_theirs(span):
        return False
    scope = getattr(span, "instrumentation_scope", None)
    return getattr(scope, "name", "").startswith(_COUNTING)


def is_inside() -> bool:
    """Tell whether a model call runs here."""
    return _running(otel_context.get_current()) is not None


def is_part(context: Context, request: Mapping[str, Any]) -> bool:
    """Tell whether what is asked here is the call that runs here, on its way through another function.

    Args:
        context: The current context.
        request: The function's keyword arguments.
    """
    around = _running(context)
    if around is None or not around.direct:
        return around is not None
    # A function that is wrapped under two names passes on the very same.
    asked = around.request
    return asked.keys() == request.keys() and all(request[name] is value for name, value in asked.items())


def _running(context: Context) -> Running | None:
    around = cast("Running | None", context.get(INSIDE))
    return None if around is None or around.is_over else around


def for_others(span: Span, call: Call, config: Config) -> Span:
    """Return the span of a model call as it is handed out: nothing is written there that the model's rule redacts."""
    redactor = config.content(call).redactor
    return cast("Span", RedactingSpan(span, redactor)) if redactor.redact else span


def enter(call: Running, context: Context) -> Any:
    """Make a model call the one that runs here, its span the current one, and tell others that there is one.

    Args:
        call: The call.
        context: The current context.

    Returns:
        What `leave` takes, whatever happens in between: a context manager would cost as much again.
    """
    told = {**context, INSIDE: call, _SUPPRESS: True, _CURRENT_SPAN: call.shown}
    if _UTIL_GENAI in sys.modules:
        told |= _keys()
    return otel_context.attach(Context(told))


def leave(entered: Any) -> None:
    """Make what was current before current again."""
    try:  # noqa: SIM105 - costs less, at every call
        otel_context.detach(entered)
    except Exception:  # noqa: BLE001, S110 - it is another thread's, or loop's
        pass


@contextlib.contextmanager
def unseen() -> Iterator[None]:
    """Where a request is only prepared, of which others would make a span: they do not see it."""
    token = otel_context.attach(otel_context.set_value(_SUPPRESS, value=True))
    try:
        with suppress_instrumentation():
            yield
    finally:
        with contextlib.suppress(Exception):
            otel_context.detach(token)


def handed_out(tracer: Any, attributes: Mapping[str, Any] | None, context: Context | None) -> Span | None:
    """Return our span where somebody starts another one of the same model call; None where it is none."""
    if context is None:
        context = otel_context.get_current()
    around = _running(context)
    if around is None or record.OWN_SPAN in context:
        return None
    if not (_says_model(attributes) or _scope_of(tracer).startswith(_SCOPES)):
        return None
    shared = _Shared(around.shown)
    if attributes:
        shared.set_attributes(attributes)
    return cast("Span", shared)


def announced(tracer: Any, name: Any, span: Span) -> Span:
    """Remember a started span where a callback has made it of a model call that comes next; return it."""
    if isinstance(name, str) and name.endswith(_ANNOUNCED_NAMES) and _scope_of(tracer) == _ANNOUNCING:
        latest, *earlier = _announced.get() or ((),)
        _announced.set(_going_on((*latest, (span, None)), *earlier))
    return span


def announce(spans: Iterable[tuple[Span, str | None]]) -> None:
    """Have the model calls that come next here be these spans, in their order, before any that were announced earlier.

    Args:
        spans: Each with the model that it is about; None: any.
    """
    _announced.set(_going_on(tuple(spans), *_announced.get()))


def _going_on(*groups: _Announced) -> tuple[_Announced, ...]:
    left = (tuple(one for one in group if one[0].is_recording()) for group in groups)
    return tuple(group for group in left if group)


def _keys() -> dict[str, Any]:
    keys: dict[str, Any] = {}
    genai = sys.modules[_UTIL_GENAI]
    for key, data in _UTIL_GENAI_DATA:
        with contextlib.suppress(AttributeError, TypeError):  # it is not stable yet
            keys[getattr(genai, key)] = getattr(genai, data)()
    return keys


def _of_others(call: Call, context: Context) -> Span | None:
    """Find the span that somebody has made of the model call that begins."""
    # What a chat has embedded first, to look into a cache for example, is not the chat.
    embeds = call.operation == _EMBEDDINGS
    inside = cast("Running | None", context.get(INSIDE))
    if inside is None and not embeds:
        for span, model in itertools.chain.from_iterable(_announced.get()):
            if model in (None, call.name) and _is_free(span):
                return span
    around: Any = context.get(_CURRENT_SPAN)
    said: Mapping[str, Any] = getattr(around, "attributes", None) or {}
    if not _says_model(said) or _says_embeddings(said) is not embeds or not _is_free(around):
        return None
    # Ours is handed out to others, and goes on for a while when its call is over.
    if inside is not None and inside.shown is (around.__wrapped__ if is_theirs(around) else around):
        return None
    return cast("Span", around)


def _is_free(span: Span) -> bool:
    """Tell whether a span goes on, and is not that of a call yet."""
    return span.is_recording() and not hasattr(span, _TAKEN)


def _says_model(attributes: Mapping[str, Any] | None) -> bool:
    if not attributes:
        return False
    operation = attributes.get(semconv.OPERATION_NAME)
    if operation is not None:
        return operation in _OPERATIONS
    return attributes.get("openinference.span.kind") in _KINDS or attributes.get("llm.request.type") == "chat"


def _says_embeddings(attributes: Mapping[str, Any]) -> bool:
    return attributes.get(semconv.OPERATION_NAME, attributes.get("openinference.span.kind")) in _SAYS_EMBEDDINGS


def _scope_of(tracer: Any) -> str:
    return getattr(getattr(tracer, "_instrumentation_scope", None), "name", None) or ""


if TYPE_CHECKING:
    _Proxy = wrapt.ObjectProxy[Span]
else:  # only its stub is generic
    _Proxy = wrapt.ObjectProxy


class _Shared(_Proxy):
    """A span that somebody else ends; what comes after that is not heard."""

    def end(self, end_time: int | None = None) -> None:
        """Leave the span to whoever ends it."""

    def __exit__(self, *_error: object) -> None:
        """Leave the span to whoever ends it."""

    def set_attribute(self, key: str, value: Any) -> None:
        """Set an attribute while the span goes on."""
        if self.__wrapped__.is_recording():
            self.__wrapped__.set_attribute(key, value)

    def set_attributes(self, attributes: Mapping[str, Any]) -> None:
        """Set attributes while the span goes on."""
        if self.__wrapped__.is_recording():
            self.__wrapped__.set_attributes(attributes)

    def add_event(self, *args: Any, **kwargs: Any) -> None:
        """Add an event while the span goes on."""
        if self.__wrapped__.is_recording():
            self.__wrapped__.add_event(*args, **kwargs)

    def record_exception(self, *args: Any, **kwargs: Any) -> None:
        """Record an exception while the span goes on."""
        if self.__wrapped__.is_recording():
            self.__wrapped__.record_exception(*args, **kwargs)

    def set_status(self, status: Any, description: str | None = None) -> None:
        """Set the status while the span goes on; OK would be final, and is not theirs to say."""
        if self.__wrapped__.is_recording() and getattr(status, "status_code", status) is not StatusCode.OK:
            self.__wrapped__.set_status(status, description)

    def update_name(self, name: str) -> None:
        """Keep the name the span has."""
