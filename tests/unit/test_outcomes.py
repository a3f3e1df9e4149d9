"""Did it take effect? What real exceptions of real libraries say."""

from __future__ import annotations

import asyncio
import concurrent.futures
import errno
import http.client
import importlib
import json
import multiprocessing
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import pytest

from spanledger import Rule
from spanledger.core.call import Call
from spanledger.core.outcomes import MESSAGE_CHARS_MAX, describe_error, is_ambiguous
from spanledger.core.rules import Terms, terms_for
from spanledger.errors import BudgetExceeded, LedgerUnavailable


def terms(**rule: Any) -> Terms:
    return terms_for(Call("refund"), [Rule("refund", **rule)])


TERMS = terms()


class ToolError(Exception):
    """What a tool makes of the errors below it."""


# --- single errors


@pytest.mark.parametrize(
    "error",
    [
        TimeoutError(),
        socket.timeout(),  # noqa: UP041 - how it is still written
        asyncio.TimeoutError(),  # noqa: UP041 - likewise
        concurrent.futures.TimeoutError(),
        multiprocessing.TimeoutError(),
        subprocess.TimeoutExpired("stripe", 5),
        ConnectionResetError(),
        ConnectionAbortedError(),
        BrokenPipeError(),
        OSError(errno.ECONNRESET, "reset by peer"),
        EOFError(),
        asyncio.IncompleteReadError(b"", 4),
        asyncio.CancelledError(),
        concurrent.futures.CancelledError(),
        BrokenProcessPool(),
        KeyboardInterrupt(),
        SystemExit(1),
        GeneratorExit(),
        http.client.RemoteDisconnected(),
        http.client.BadStatusLine("x"),
        http.client.IncompleteRead(b""),
        ssl.SSLEOFError(),
    ],
    ids=lambda error: type(error).__qualname__,
)
def test_after_a_timeout_a_broken_connection_or_an_interruption_nobody_knows(error: BaseException) -> None:
    assert is_ambiguous(error, TERMS)


@pytest.mark.parametrize(
    "error",
    [
        ValueError(),
        KeyError("x"),
        AssertionError(),
        PermissionError(),
        FileNotFoundError(),
        MemoryError(),
        StopIteration(),
        ConnectionRefusedError(),
        OSError(errno.ECONNREFUSED, "refused"),
        socket.gaierror(),
        ssl.SSLCertVerificationError(),
        http.client.InvalidURL(),
        json.JSONDecodeError("x", "", 0),
        subprocess.CalledProcessError(1, "stripe"),
        LedgerUnavailable("no answer"),
        BudgetExceeded("no"),
        ToolError(),
    ],
    ids=lambda error: type(error).__qualname__,
)
def test_what_the_tool_itself_says_and_what_was_never_sent_is_definite(error: BaseException) -> None:
    assert not is_ambiguous(error, TERMS)


def _made(module: str, name: str) -> BaseException:
    """Make a real exception of a real library, without caring for its constructor."""
    kind: Any = pytest.importorskip(module)
    for part in name.split("."):
        kind = getattr(kind, part)
    error: BaseException = kind.__new__(kind)
    return error


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("httpx", "ReadTimeout WriteTimeout ReadError WriteError CloseError RemoteProtocolError TimeoutException"),
        ("httpx2", "ReadTimeout WriteTimeout ReadError WriteError CloseError RemoteProtocolError TimeoutException"),
        ("requests", "Timeout ReadTimeout ConnectionError exceptions.ChunkedEncodingError exceptions.ProxyError"),
        ("urllib3", "exceptions.ReadTimeoutError exceptions.ProtocolError exceptions.IncompleteRead"),
        ("aiohttp", "ServerTimeoutError ServerDisconnectedError ClientOSError ClientPayloadError"),
        ("openai", "APIConnectionError APITimeoutError"),
        ("anthropic", "APIConnectionError APITimeoutError"),
        ("grpc", "RpcError aio.AioRpcError"),
        ("botocore.exceptions", "ReadTimeoutError ConnectionClosedError EndpointConnectionError"),
        ("psycopg", "OperationalError errors.AdminShutdown errors.ConnectionFailure errors.QueryCanceled"),
        ("trio", "Cancelled"),
    ],
)
def test_libraries_leave_open_what_became_of_a_request_that_was_sent(module: str, names: str) -> None:
    assert [name for name in names.split() if not is_ambiguous(_made(module, name), TERMS)] == []


@pytest.mark.parametrize(
    ("module", "names"),
    [
        ("httpx", "ConnectError ConnectTimeout PoolTimeout HTTPStatusError UnsupportedProtocol LocalProtocolError"),
        ("httpx2", "ConnectError ConnectTimeout PoolTimeout HTTPStatusError UnsupportedProtocol LocalProtocolError"),
        ("requests", "ConnectTimeout HTTPError exceptions.InvalidURL exceptions.JSONDecodeError"),
        ("urllib3", "exceptions.NewConnectionError exceptions.NameResolutionError exceptions.ConnectTimeoutError"),
        ("aiohttp", "ClientConnectorError ClientConnectorDNSError ConnectionTimeoutError ClientResponseError"),
        ("openai", "BadRequestError RateLimitError InternalServerError"),
        ("anthropic", "BadRequestError RateLimitError"),
        ("psycopg", "errors.UniqueViolation errors.CheckViolation ProgrammingError errors.InsufficientPrivilege"),
    ],
)
def test_libraries_say_so_where_nothing_was_sent_or_an_answer_came(module: str, names: str) -> None:
    assert [name for name in names.split() if is_ambiguous(_made(module, name), TERMS)] == []


def test_a_class_derived_from_one_in_the_table_is_judged_like_it() -> None:
    class PaymentTimeout(TimeoutError):
        pass

    class NeverSent(ConnectionRefusedError):
        pass

    assert is_ambiguous(PaymentTimeout(), TERMS)
    assert not is_ambiguous(NeverSent(), TERMS)


def test_a_class_of_the_users_own_with_a_name_from_the_table_is_not_mistaken_for_it() -> None:
    assert not is_ambiguous(type("TimeoutError", (Exception,), {})(), TERMS)


# --- real failures


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A server that reads one request and hangs up without an answer."""
    with socket.create_server(("127.0.0.1", 0)) as server:

        def hang_up() -> None:
            connection, _ = server.accept()
            with connection:
                connection.recv(65536)

        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            pool.submit(hang_up)
            yield server.getsockname()[1]


@pytest.fixture
def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _with_urllib(url: str) -> None:
    urllib.request.urlopen(url, timeout=5)


def _with(module: str) -> Callable[[str], None]:
    def post(url: str) -> None:
        pytest.importorskip(module).post(url, json={}, timeout=5)

    return post


def _with_urllib3(url: str) -> None:
    importlib.import_module("urllib3").PoolManager().request("POST", url, retries=False)


CLIENTS = [_with_urllib, _with("httpx"), _with("httpx2"), _with("requests"), _with_urllib3]
CLIENT_NAMES = ["urllib", "httpx", "httpx2", "requests", "urllib3"]


@pytest.mark.parametrize("client", CLIENTS, ids=CLIENT_NAMES)
def test_a_server_that_hangs_up_leaves_it_open(client: Callable[[str], None], silent_port: int) -> None:
    with pytest.raises(Exception) as raised:
        client(f"http://127.0.0.1:{silent_port}/refunds")
    assert is_ambiguous(raised.value, TERMS)


@pytest.mark.parametrize("client", [*CLIENTS[:3], CLIENTS[4]], ids=[*CLIENT_NAMES[:3], CLIENT_NAMES[4]])
def test_a_server_that_is_not_there_did_nothing(client: Callable[[str], None], closed_port: int) -> None:
    with pytest.raises(Exception) as raised:
        client(f"http://127.0.0.1:{closed_port}/refunds")
    assert not is_ambiguous(raised.value, TERMS)


def test_a_program_that_did_not_end_in_time_leaves_it_open() -> None:
    with pytest.raises(subprocess.TimeoutExpired) as raised:
        subprocess.run([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, timeout=0, check=True)
    assert is_ambiguous(raised.value, TERMS)


# --- chains


def raised_by(function: Callable[[], Any]) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


def _from(kind: type[BaseException]) -> None:
    try:
        raise kind
    except kind as error:
        raise ToolError from error


def _while_handling(kind: type[BaseException]) -> None:
    try:
        raise kind
    except kind:
        raise ToolError  # noqa: B904 - on purpose


def _from_none(kind: type[BaseException]) -> None:
    try:
        raise kind
    except kind:
        raise ToolError from None


def _twice(kind: type[BaseException]) -> None:
    try:
        _from(kind)
    except ToolError:
        raise RuntimeError  # noqa: B904 - on purpose


def _from_another(kind: type[BaseException]) -> None:
    try:
        raise kind
    except kind:
        raise ToolError from ValueError("what the tool prefers to say")


@pytest.mark.parametrize("wrap", [_from, _while_handling, _from_none, _twice, _from_another])
def test_what_a_tool_wraps_in_its_own_error_stays_ambiguous(wrap: Callable[[Any], None]) -> None:
    assert is_ambiguous(raised_by(lambda: wrap(TimeoutError)), TERMS)
    assert not is_ambiguous(raised_by(lambda: wrap(ValueError)), TERMS)
    assert not is_ambiguous(raised_by(lambda: wrap(ConnectionRefusedError)), TERMS)


def test_the_error_nearest_to_the_caller_that_says_anything_decides() -> None:
    refused_after_timeout = ConnectionRefusedError()
    refused_after_timeout.__cause__ = TimeoutError()
    assert not is_ambiguous(refused_after_timeout, TERMS)
    timeout_after_refusal = TimeoutError()
    timeout_after_refusal.__cause__ = ConnectionRefusedError()
    assert is_ambiguous(timeout_after_refusal, TERMS)


def test_a_ledger_that_did_not_answer_a_call_inside_the_tool_leaves_nothing_open() -> None:
    error = LedgerUnavailable("no answer")
    error.__cause__ = _made("psycopg", "OperationalError")
    assert not is_ambiguous(error, TERMS)


@pytest.mark.parametrize("attribute", ["__cause__", "__context__"])
def test_a_chain_that_bites_its_own_tail_ends(attribute: str) -> None:
    one, other = ToolError(), RuntimeError()
    setattr(one, attribute, other)
    setattr(other, attribute, one)
    assert not is_ambiguous(one, TERMS)
    other.__cause__, other.__context__ = one, TimeoutError()
    assert is_ambiguous(one, TERMS)


def test_an_endless_chain_ends() -> None:
    first = link = ToolError()
    for _ in range(5000):
        link.__cause__ = ToolError()
        link = link.__cause__
    assert not is_ambiguous(first, TERMS)


# --- groups


def test_a_group_is_ambiguous_where_one_of_its_members_is() -> None:
    assert is_ambiguous(ExceptionGroup("two", [ConnectionRefusedError(), TimeoutError()]), TERMS)
    assert is_ambiguous(ExceptionGroup("outer", [ExceptionGroup("inner", [TimeoutError()])]), TERMS)
    assert is_ambiguous(ExceptionGroup("one", [raised_by(lambda: _from(TimeoutError))]), TERMS)
    assert is_ambiguous(BaseExceptionGroup("one", [asyncio.CancelledError()]), TERMS)
    assert not is_ambiguous(ExceptionGroup("two", [ConnectionRefusedError(), ValueError()]), TERMS)


def test_a_real_task_group_is_looked_into() -> None:
    async def pay() -> None:
        raise ConnectionResetError

    async def both() -> None:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(pay())

    assert is_ambiguous(raised_by(lambda: asyncio.run(both())), TERMS)


def test_a_member_raised_again_out_of_its_group_ends_the_search() -> None:
    def again() -> None:
        try:
            raise ExceptionGroup("g", [ToolError()])
        except* ToolError as group:
            raise group.exceptions[0]  # noqa: B904 - on purpose

    assert not is_ambiguous(raised_by(again), TERMS)


# --- what the rule says


def test_the_types_of_the_rule_win_over_the_table() -> None:
    assert not is_ambiguous(TimeoutError(), terms(definite_errors=(TimeoutError,)))
    assert is_ambiguous(ConnectionRefusedError(), terms(ambiguous_errors=(OSError,)))
    assert is_ambiguous(ToolError(), terms(ambiguous_errors=(ToolError,)))
    assert not is_ambiguous(KeyboardInterrupt(), terms(definite_errors=(KeyboardInterrupt,)))


def test_what_the_rule_calls_definite_wins_over_what_it_calls_ambiguous() -> None:
    assert not is_ambiguous(ToolError(), terms(definite_errors=(ToolError,), ambiguous_errors=(Exception,)))


def test_the_types_of_the_rule_end_the_search() -> None:
    hidden = raised_by(lambda: _from(TimeoutError))
    assert not is_ambiguous(hidden, terms(definite_errors=(ToolError,)))
    assert is_ambiguous(raised_by(lambda: _from(ValueError)), terms(ambiguous_errors=(ValueError,)))


# --- in words


def test_an_error_is_described_by_its_full_name_and_message() -> None:
    assert describe_error(ValueError("no such order")) == {"type": "builtins.ValueError", "message": "no such order"}
    assert describe_error(json.JSONDecodeError("x", "", 0))["type"] == "json.decoder.JSONDecodeError"
    assert describe_error(urllib.error.URLError("x"))["type"] == "urllib.error.URLError"


@pytest.mark.parametrize(
    ("message", "kept"),
    [("a\0b", "a\ufffdb"), ("\ud800", "?"), ("é" * 5000, "é" * MESSAGE_CHARS_MAX), ("", "")],
)
def test_a_message_is_made_one_that_postgres_can_hold(message: str, kept: str) -> None:
    assert describe_error(ValueError(message))["message"] == kept


def test_an_error_that_cannot_even_be_printed_is_described() -> None:
    class Unprintable(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert describe_error(Unprintable())["message"] == "(no message: RuntimeError)"
