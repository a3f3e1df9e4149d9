"""Applications behind real servers on loopback: uvicorn for ASGI, Flask's own for WSGI."""

from __future__ import annotations

import contextlib
import importlib.util
import socket
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

import spanledger
from spanledger import Config, Ledger

TIMEOUT_S = 60.0
collect_ignore = [] if all(map(importlib.util.find_spec, ("fastapi", "flask"))) else ["test_web.py", "test_gunicorn.py"]


@contextlib.contextmanager
def _uvicorn(app: Any) -> Iterator[str]:
    import uvicorn

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(TIMEOUT_S)
        listening.close()


@contextlib.contextmanager
def _werkzeug(app: Any) -> Iterator[str]:
    from werkzeug.serving import make_server

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join(TIMEOUT_S)
        server.server_close()


@pytest.fixture(params=["fastapi", "starlette", "flask"])
def framework(request: Any) -> str:
    return request.param


@pytest.fixture
def serve(framework: str) -> Iterator[Callable[..., httpx.Client]]:
    """Serve the application of a framework, with a gate of the given options; gives a client of it."""
    from apps import APPS

    with contextlib.ExitStack() as stack:

        def serving(**gate: Any) -> httpx.Client:
            app = APPS[framework](**gate)
            url = stack.enter_context(_werkzeug(app) if framework == "flask" else _uvicorn(app))
            return stack.enter_context(httpx.Client(base_url=url, timeout=TIMEOUT_S, trust_env=False))

        yield serving


@pytest.fixture
def governed(dsn: str, ledger: Ledger) -> Iterator[Ledger]:
    """A process that is instrumented, and its ledger. A request that is made again is the same work, in any trace."""
    spanledger.instrument(Config(dsn=dsn, agent="web", workflow_id="w"), libraries=[])
    yield ledger
    spanledger.uninstrument()
