"""A telemetry backend that keeps the spans it is sent, for a test to look at.

Rules: OTLP over HTTP or gRPC, with protobuf, as the exporters send it, compressed or not. Only traces are kept;
logs and metrics are taken and dropped, so that an exporter of all three is content. A span is shown
as the wire had it: ids in hexadecimal, times in nanoseconds since 1970, enums by their names.
"""

from __future__ import annotations

import gzip
import threading
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent import futures
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final, Self

from spanledger.testing._http import BadRequestError, LoopbackServer, Reply, Request, json_reply

_PROTOBUF: Final = "application/x-protobuf"
_GRPC_THREADS: Final = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceivedSpan:
    """One span as it arrived.

    Attributes:
        name: The span's name.
        trace_id: 32 hexadecimal digits in lower case.
        span_id: 16 hexadecimal digits in lower case.
        parent_span_id: Of the parent; None for a root.
        kind: ``"INTERNAL"``, ``"SERVER"``, ``"CLIENT"``, ``"PRODUCER"``, ``"CONSUMER"`` or ``"UNSPECIFIED"``.
        attributes: Read-only; arrays are tuples.
        events: A name and attributes each, in order.
        links: Trace id, span id and attributes each, in order.
        status_code: ``"UNSET"``, ``"OK"`` or ``"ERROR"``.
        status_message: Empty where none was set.
        scope: The name of the instrumentation scope (the tracer).
        resource: Attributes of the process that sent it.
        start_ns: Nanoseconds since 1970.
        end_ns: Nanoseconds since 1970.
    """

    name: str
    trace_id: str
    span_id: str
    parent_span_id: str | None
    kind: str
    attributes: Mapping[str, Any]
    events: tuple[tuple[str, Mapping[str, Any]], ...]
    links: tuple[tuple[str, str, Mapping[str, Any]], ...]
    status_code: str
    status_message: str
    scope: str
    resource: Mapping[str, Any]
    start_ns: int
    end_ns: int


class Received:
    """Keeps the spans that arrive."""

    def __init__(self) -> None:
        self._arrived = threading.Condition()
        self._spans: list[ReceivedSpan] = []

    @property
    def spans(self) -> tuple[ReceivedSpan, ...]:
        """Every span received so far, in order of arrival."""
        with self._arrived:
            return tuple(self._spans)

    def wait_for(self, predicate: Callable[[ReceivedSpan], bool], timeout_s: float = 10.0) -> ReceivedSpan:
        """Wait until a span that satisfies the predicate is there, and return the first one.

        Args:
            predicate: Asked about each span, received before or from now on; must be quick.
            timeout_s: How long to wait, in seconds.

        Raises:
            TimeoutError: No such span arrived in time; the text names those that did.
        """
        with self._arrived:
            found = self._arrived.wait_for(
                lambda: next((span for span in self._spans if predicate(span)), None), timeout_s
            )
            if found is None:
                names = ", ".join(span.name for span in self._spans) or "none"
                raise TimeoutError(f"no such span within {timeout_s} s; arrived: {names}")
            return found

    def _keep(self, body: bytes) -> None:
        spans = _spans(body)
        with self._arrived:
            self._spans.extend(spans)
            self._arrived.notify_all()


class OtlpReceiver(Received, LoopbackServer):
    """Receives OTLP/HTTP on loopback and keeps the spans.

    Point a program at it with ``OTEL_EXPORTER_OTLP_ENDPOINT=<receiver.endpoint>`` and
    ``OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf``.
    """

    @property
    def endpoint(self) -> str:
        """The base URL for ``OTEL_EXPORTER_OTLP_ENDPOINT``; traces go to ``/v1/traces`` below it."""
        return self.url

    def answer(self, request: Request) -> Reply:
        """Take one export request; an empty protobuf message means that all was accepted."""
        if request.method != "POST" or request.path not in {"/v1/traces", "/v1/logs", "/v1/metrics"}:
            return _error(404, f"no {request.method} {request.path} here")
        if request.headers.get("content-type", "").partition(";")[0].strip() != _PROTOBUF:
            return _error(415, f"send {_PROTOBUF}: set OTEL_EXPORTER_OTLP_PROTOCOL=http/protobuf")
        encoding = request.headers.get("content-encoding", "identity")
        if encoding not in {"gzip", "identity"}:
            return _error(415, f"content encoding {encoding!r} is not known: send gzip or identity")
        if request.path == "/v1/traces":
            try:
                self._keep(gzip.decompress(request.body) if encoding == "gzip" else request.body)
            except (BadRequestError, OSError, EOFError, zlib.error) as error:
                return _error(400, str(error))
        return Reply(200, content_type=_PROTOBUF)


class OtlpGrpcReceiver(Received):
    """Receives OTLP/gRPC on loopback and keeps the spans.

    Point a program at it with ``OTEL_EXPORTER_OTLP_ENDPOINT=<receiver.endpoint>`` and
    ``OTEL_EXPORTER_OTLP_PROTOCOL=grpc``.
    """

    def __init__(self) -> None:
        super().__init__()
        self._server: Any = None
        self._port = 0

    @property
    def endpoint(self) -> str:
        """The URL for ``OTEL_EXPORTER_OTLP_ENDPOINT``."""
        return f"http://127.0.0.1:{self._port}"

    def __enter__(self) -> Self:
        # Imported here, as protobuf is.
        import grpc

        self._server = grpc.server(futures.ThreadPoolExecutor(_GRPC_THREADS))
        for signal in ("trace", "logs", "metrics"):
            service = f"opentelemetry.proto.collector.{signal}.v1.{signal.capitalize()}Service"
            handler = grpc.unary_unary_rpc_method_handler(self._keep_trace if signal == "trace" else _taken)
            self._server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        self._port = self._server.add_insecure_port("127.0.0.1:0")
        self._server.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._server.stop(grace=None).wait()

    def _keep_trace(self, body: bytes, context: Any) -> bytes:
        import grpc

        try:
            self._keep(body)
        except BadRequestError as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return b""


def _taken(_body: bytes, _context: Any) -> bytes:
    return b""


def _error(status: int, message: str) -> Reply:
    return json_reply(status, {"message": message})


def _spans(body: bytes) -> list[ReceivedSpan]:
    # Imported here: whoever imports the package for its other servers should not pay for protobuf.
    from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
    )

    try:
        message = ExportTraceServiceRequest.FromString(body)
    except DecodeError as error:
        raise BadRequestError(f"not an OTLP trace request: {error}") from error
    return [
        _span(span, group.scope.name, _attributes(resource_group.resource.attributes))
        for resource_group in message.resource_spans
        for group in resource_group.scope_spans
        for span in group.spans
    ]


def _span(span: Any, scope: str, resource: Mapping[str, Any]) -> ReceivedSpan:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

    return ReceivedSpan(
        name=span.name,
        trace_id=span.trace_id.hex(),
        span_id=span.span_id.hex(),
        parent_span_id=span.parent_span_id.hex() or None,
        kind=Span.SpanKind.Name(span.kind).removeprefix("SPAN_KIND_"),
        attributes=_attributes(span.attributes),
        events=tuple((event.name, _attributes(event.attributes)) for event in span.events),
        links=tuple((link.trace_id.hex(), link.span_id.hex(), _attributes(link.attributes)) for link in span.links),
        status_code=Status.StatusCode.Name(span.status.code).removeprefix("STATUS_CODE_"),
        status_message=span.status.message,
        scope=scope,
        resource=resource,
        start_ns=span.start_time_unix_nano,
        end_ns=span.end_time_unix_nano,
    )


def _attributes(pairs: Iterable[Any]) -> Mapping[str, Any]:
    return MappingProxyType({pair.key: _value(pair.value) for pair in pairs})


def _value(value: Any) -> Any:
    """Turn an OTLP `AnyValue` into what the program set."""
    match value.WhichOneof("value"):
        case None:
            return None
        case "array_value":
            return tuple(_value(item) for item in value.array_value.values)
        case "kvlist_value":
            return _attributes(value.kvlist_value.values)
        case name:
            return getattr(value, name)
