"""An application as servers run it, which knows nothing of spanledger: one refund a request.

    gunicorn refunding:wsgi    uvicorn refunding:asgi    uwsgi --module refunding:wsgi    celery -A refunding worker
    python refunding.py fork ORDER ...

What is asked for twice is refunded once, so the answer is "refunded" or the name of what the span raised.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from opentelemetry import trace

DONE = Path(__file__).with_name("refunds.jsonl")


def refund(order_id: str) -> str:
    attributes = {"gen_ai.tool.name": "refund", "gen_ai.tool.call.arguments": json.dumps({"order_id": order_id})}
    tracer = trace.get_tracer("refunding")
    try:
        with tracer.start_as_current_span("execute_tool refund", attributes=attributes) as span:
            with DONE.open("a") as done:
                done.write(json.dumps({"order_id": order_id, "pid": os.getpid()}) + "\n")
            span.set_attribute("gen_ai.tool.call.result", json.dumps({"refunded": order_id}))
    except Exception as error:
        return type(error).__name__
    return "refunded"


def wsgi(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
    start_response("200 OK", [("content-type", "text/plain")])
    return [refund(environ["PATH_INFO"][1:]).encode()]


async def asgi(scope: dict[str, Any], receive: Any, send: Any) -> None:
    while scope["type"] == "lifespan":
        message = await receive()
        await send({"type": f"{message['type']}.complete"})
        if message["type"] == "lifespan.shutdown":
            return
    body = refund(scope["path"][1:]).encode()
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": body})


try:
    from celery import Celery
except ImportError:
    pass
else:
    broker = {"data_folder_in": "queue", "data_folder_out": "queue"}
    app = Celery("refunding", broker="filesystem://")
    app.conf.update(broker_transport_options=broker, worker_hijack_root_logger=False, broker_connection_retry=False)
    app.task(name="refund")(refund)


def every(orders: list[str], answer: str) -> None:
    if {refund(order) for order in orders} != {answer}:
        sys.exit(9)


def main(method: str, orders: list[str]) -> int:
    """Each half of the orders in a process of its own, and then again."""
    context = multiprocessing.get_context(method)
    for answer in ("refunded", "CallReplayed"):
        workers = [context.Process(target=every, args=(orders[half::2], answer)) for half in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        if any(worker.exitcode for worker in workers):
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
