"""Guard the tools of a framework that spanledger does not know: describe its funnel, once, and it is covered."""

from collections.abc import Callable, Mapping
from typing import Any

from spanledger import Call, Config, Library, Wrap, instrument, workflow


class Desk:
    """The framework. It runs every tool of an agent through `call`."""

    def __init__(self, **tools: Callable[..., str]) -> None:
        self.tools = tools

    def call(self, name: str, arguments: Mapping[str, Any], call_id: str) -> str:
        """Run a tool for the call of that id."""
        print(f"{call_id} asks for {name}")
        return self.tools[name](**arguments)


class TextCodec:
    """How a result is kept and given back; what would not come back equal must not be kept."""

    def encode(self, result: Any) -> Any:
        """Refuse everything but texts: the tool's caller gets its result all the same."""
        if type(result) is not str:
            raise TypeError("only texts are kept")
        return result

    def decode(self, tree: Any, _call: Call) -> Any:
        """Give back what was kept; other frameworks write the id of `_call` on it."""
        return tree


def describe(_desk: Any, args: tuple[Any, ...], _kwargs: Mapping[str, Any]) -> Call:
    """Read what the model asked for from a call of `Desk.call`."""
    name, arguments, call_id = args
    return Call(name, arguments=arguments, call_id=call_id)


DESK = Library("desk", requires="", wraps=(Wrap("__main__:Desk.call", describe, codec=TextCodec()),))

instrument(Config.from_env(), libraries=[DESK])


def send_parcel(order_id: str) -> str:
    """Send a parcel."""
    print(f"a parcel of {order_id} leaves the house")
    return f"{order_id} is on its way"


desk = Desk(send_parcel=send_parcel)
with workflow("order-123"):
    for _ in range(2):  # the answer is lost on its way to the model, and the agent tries again
        print(desk.call("send_parcel", {"order_id": "o-1"}, "call_1"))
