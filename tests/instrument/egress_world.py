"""Two real servers on loopback, which are two origins, and every HTTP client that is governed."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from spanledger import tool


@dataclass
class Seen:
    """A request that arrived."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    @property
    def key(self) -> str | None:
        return self.headers.get("Idempotency-Key")


@dataclass
class Server:
    """What one server has seen, and where it redirects to."""

    url: str = ""
    there: str = ""
    seen: list[Seen] = field(default_factory=list)
    failures: int = 0
    fails_with: int = 500

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def keys(self) -> list[str | None]:
        return [seen.key for seen in self.seen]


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """Serve: /here and /there redirect, /flaky fails as often as `failures` says, /echo tells the headers."""
    server = Server()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            if self.headers.get("Transfer-Encoding") == "chunked":
                while size := int(self.rfile.readline(), 16):
                    body += self.rfile.read(size + 2)[:-2]
                self.rfile.readline()
            server.seen.append(Seen(self.command, self.path, dict(self.headers), body))
            place = {"/here": "/arrived", "/there": f"{server.there}/arrived"}.get(self.path)
            failing = self.path.startswith("/flaky") and server.failures > 0
            server.failures -= failing
            self.send_response(server.fails_with if failing else 307 if place else 200)
            if place:
                self.send_header("Location", place)
            self.send_header("Content-Type", "application/json")
            said = json.dumps(dict(self.headers)).encode() if self.path.startswith("/echo") else b"{}"
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, *args: Any) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as running:
        running.daemon_threads = True
        server.url = f"http://127.0.0.1:{running.server_port}"
        thread = threading.Thread(target=running.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield server
        finally:
            running.shutdown()
            thread.join()


Request = tuple[str, str, dict[str, Any]]
Put = Callable[[Any], Any]


def bare(client: Any) -> Any:
    """Put nothing around a client."""
    return client


def by_httpx(requests: list[Request], put: Put = bare) -> list[int]:
    import httpx

    with httpx.Client(follow_redirects=True, trust_env=False) as client:
        put(client)
        return [client.request(method, url, **more).status_code for method, url, more in requests]


async def by_httpx_awaiting(requests: list[Request], put: Put = bare) -> list[int]:
    import httpx

    async with httpx.AsyncClient(follow_redirects=True, trust_env=False) as client:
        put(client)
        return [(await client.request(method, url, **more)).status_code for method, url, more in requests]


def by_httpx2(requests: list[Request], put: Put = bare) -> list[int]:
    import httpx2

    with httpx2.Client(follow_redirects=True, trust_env=False) as client:
        put(client)
        return [client.request(method, url, **more).status_code for method, url, more in requests]


async def by_httpx2_awaiting(requests: list[Request], put: Put = bare) -> list[int]:
    import httpx2

    async with httpx2.AsyncClient(follow_redirects=True, trust_env=False) as client:
        put(client)
        return [(await client.request(method, url, **more)).status_code for method, url, more in requests]


def by_requests(requests: list[Request], put: Put = bare) -> list[int]:
    from requests import Session

    with Session() as session:
        put(session)
        session.trust_env = False
        return [session.request(method, url, **more).status_code for method, url, more in requests]


def by_urllib3(requests: list[Request], put: Put = bare) -> list[int]:
    import urllib3

    with urllib3.PoolManager(retries=urllib3.Retry(redirect=3)) as pools:
        put(pools)
        return [pools.request(method, url, **more).status for method, url, more in requests]


async def by_aiohttp(requests: list[Request], put: Put = bare) -> list[int]:
    import aiohttp

    async with aiohttp.ClientSession() as session:
        put(session)
        statuses = []
        for method, url, more in requests:
            async with session.request(method, url, **more) as response:
                statuses.append(response.status)
        return statuses


CLIENTS: dict[str, Callable[..., Any]] = {
    function.__name__: function
    for function in (
        *(by_httpx, by_httpx_awaiting, by_httpx2, by_httpx2_awaiting),
        *(by_requests, by_urllib3, by_aiohttp),
    )
}


def in_tool(send: Callable[[list[Request]], Any], *requests: Request, name: str = "act", **rule: Any) -> Any:
    """Send requests one after the other from inside a guarded tool; what they were answered with."""
    if asyncio.iscoroutinefunction(send):

        @tool(name, **rule)
        async def acting(count: int) -> list[int]:
            return await send(list(requests))

        return asyncio.run(acting(len(requests)))

    @tool(name, **rule)
    def act(count: int) -> list[int]:
        return send(list(requests))

    return act(len(requests))
