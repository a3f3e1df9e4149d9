"""An MCP server in a process of its own, guarded by the ledger of its client: `python mcp_guarded_shop.py FILE [http]`.

The fields of its `Config` come as JSON in `SHOP_CONFIG`, the identity of refunds in `SHOP_IDENTITY`. Of each refund it
writes down the order, the trace, the key of the call, and the workflow that its client says it acts for. The order
"o-killed" kills it after that. With "http" it says on which port it listens.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn
from opentelemetry import baggage, trace

import spanledger
from spanledger import Config, Rule, current_call

try:
    from mcp.server.mcpserver import MCPServer
except ImportError:
    from mcp.server.fastmcp import FastMCP as MCPServer

server = MCPServer("shop")


@server.tool()
def refund(order_id: str, amount: int) -> dict:
    """Refund an order."""
    trace_id = trace.format_trace_id(trace.get_current_span().get_span_context().trace_id)
    with Path(sys.argv[1]).open("a") as file:
        file.write(f"{order_id} {trace_id} {current_call().key} {baggage.get_baggage('spanledger.workflow.id')}\n")
    if order_id == "o-killed":
        os.kill(os.getpid(), signal.SIGKILL)
    return {"order": order_id, "amount": amount}


def guard() -> None:
    """Guard this process as its environment says."""
    rule = Rule("refund", identity=os.environ.get("SHOP_IDENTITY", "arguments"))
    spanledger.instrument(Config(**json.loads(os.environ["SHOP_CONFIG"]), rules=[rule]))


def listen() -> None:
    """Answer over streamable HTTP."""
    listening = socket.create_server(("127.0.0.1", 0))
    print(listening.getsockname()[1], flush=True)
    uvicorn.Server(uvicorn.Config(server.streamable_http_app(), log_config=None)).run(sockets=[listening])


if __name__ == "__main__":
    guard()
    listen() if sys.argv[2:] == ["http"] else server.run("stdio")
