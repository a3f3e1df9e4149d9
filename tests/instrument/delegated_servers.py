"""Servers in processes of their own that refund under the delegation they are sent: `python delegated_servers.py http`.

The other one is ``a2a``. The fields of the `Config` come as JSON in `SERVER_CONFIG`; the port is printed.
"""

from __future__ import annotations

import json
import os
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import spanledger
from spanledger import Config, Money, Rule, carried, errors, tool, workflow


@tool
def refund(order_id: str, amount: int) -> str:
    return f"refunded {amount}"


RULE = Rule("refund", permission="payments:refund", reserve=lambda arguments: Money(arguments["amount"], "EUR"))


def answered(headers: dict[str, Any], asked: dict[str, Any]) -> dict[str, Any]:
    """Refund what is asked for, as the agent refunds."""
    try:
        with carried(headers), workflow("order-1", agent="refunds"):
            return {"result": refund(**asked)}
    except errors.NotAuthorized as error:
        return {"refused": error.reason}
    except errors.BudgetExceeded as error:
        return {"over": str(error.remaining)}


class Handler(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["content-length"])))
        text = json.dumps(answered(dict(self.headers), asked)).encode()
        self.send_response(200)
        self.send_header("content-length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)

    def log_message(self, *_: Any) -> None:
        pass


def serve_a2a() -> None:
    import socket

    import uvicorn
    from a2a.helpers.proto_helpers import new_text_message
    from a2a.server.agent_execution import AgentExecutor, RequestContext
    from a2a.server.events import EventQueue
    from a2a.server.request_handlers import DefaultRequestHandler
    from a2a.server.routes import create_agent_card_routes, create_jsonrpc_routes
    from a2a.server.tasks import InMemoryTaskStore
    from a2a.types import AgentCapabilities, AgentCard, AgentInterface
    from starlette.applications import Starlette

    class Refunds(AgentExecutor):
        async def execute(self, context: RequestContext, event_queue: EventQueue) -> None:
            import asyncio

            headers = context.call_context.state["headers"]
            said = await asyncio.to_thread(answered, headers, json.loads(context.get_user_input()))
            await event_queue.enqueue_event(new_text_message(json.dumps(said)))

        async def cancel(self, context: RequestContext, event_queue: EventQueue) -> None:
            raise NotImplementedError

    listening = socket.create_server(("127.0.0.1", 0))
    url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    card = AgentCard(
        name="refunds",
        description="refunds orders",
        version="1",
        capabilities=AgentCapabilities(streaming=False),
        default_input_modes=["text/plain"],
        default_output_modes=["text/plain"],
        supported_interfaces=[AgentInterface(url=url, protocol_binding="JSONRPC", protocol_version="1.0")],
    )
    handler = DefaultRequestHandler(Refunds(), InMemoryTaskStore(), card)
    app = Starlette(routes=[*create_agent_card_routes(card), *create_jsonrpc_routes(handler, "/")])
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets=[listening])


if __name__ == "__main__":
    spanledger.instrument(Config(**json.loads(os.environ["SERVER_CONFIG"]), rules=[RULE]), libraries=[])
    if sys.argv[1] == "a2a":
        serve_a2a()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    print(server.server_port, flush=True)
    server.serve_forever()
