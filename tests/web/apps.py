"""One application in each of the frameworks: a route that refunds, behind a gate, and one that says it is there."""

from __future__ import annotations

from typing import Any

from spanledger import Money, tool


@tool("refund", permission="payments:refund", wait_timeout_s=0, reserve=lambda a: Money(a["amount"], "EUR"))
def refund(order_id: str, amount: int) -> str:
    return f"refunded {order_id}"


def cost(request: Any) -> Money:
    """The amount that the query says."""
    return Money((getattr(request, "query_params", None) or request.args)["amount"], "EUR")


def fastapi_app(**gate: Any) -> Any:
    from fastapi import Depends, FastAPI

    from spanledger.web.fastapi import require_permission

    app = FastAPI()
    permitted = Depends(require_permission("payments:refund", **gate))

    @app.post("/refunds/{order_id}", dependencies=[permitted])
    async def refunds(order_id: str, amount: int) -> dict:
        return {"done": refund(order_id, amount)}

    @app.post("/plain/{order_id}", dependencies=[permitted])
    def plain(order_id: str, amount: int) -> dict:
        return {"done": refund(order_id, amount)}

    @app.get("/ping")
    async def ping() -> str:
        return "pong"

    return app


def starlette_app(**gate: Any) -> Any:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from spanledger.web.starlette import require_permission

    permitted = require_permission("payments:refund", **gate)

    def done(request: Request) -> JSONResponse:
        amount = int(request.query_params["amount"])
        return JSONResponse({"done": refund(request.path_params["order_id"], amount)})

    @permitted
    async def refunds(request: Request) -> JSONResponse:
        return done(request)

    @permitted
    def plain(request: Request) -> JSONResponse:
        return done(request)

    async def ping(_: Request) -> JSONResponse:
        return JSONResponse("pong")

    return Starlette(
        routes=[
            Route("/refunds/{order_id}", refunds, methods=["POST"]),
            Route("/plain/{order_id}", plain, methods=["POST"]),
            Route("/ping", ping),
        ]
    )


def flask_app(**gate: Any) -> Any:
    from flask import Flask, request

    from spanledger.web.flask import require_permission

    app = Flask(__name__)

    @app.post("/refunds/<order_id>")
    @require_permission("payments:refund", **gate)
    def refunds(order_id: str) -> dict:
        return {"done": refund(order_id, int(request.args["amount"]))}

    app.add_url_rule("/plain/<order_id>", "plain", refunds, methods=["POST"])

    @app.get("/ping")
    def ping() -> list:
        return ["pong"]

    return app


APPS = {"fastapi": fastapi_app, "starlette": starlette_app, "flask": flask_app}
