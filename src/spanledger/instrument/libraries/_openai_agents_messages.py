"""What is said in runs of the OpenAI Agents SDK, whose items are those of responses.

Rules: instructions that a function makes anew are not known. An output that is no text is what the model has written
of it. A run that is resumed was asked before. Of one that ends in an error nobody is shown all that was said.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from spanledger.core.messages import Asked, Message, listed
from spanledger.instrument.libraries import _openai_response_messages as responses
from spanledger.instrument.library import Conversation


def asked(_runner: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Asked:
    """Read what an agent is asked."""
    agent = args[0] if args else kwargs["starting_agent"]
    given = args[1] if len(args) > 1 else kwargs.get("input", kwargs.get("starting_input"))
    return responses.asked({"input": given, "instructions": agent.instructions})


def followed(_runner: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> list[Message] | None:
    """Read what was said in a run; one that is streamed returns nothing, and is told its result to fill it in."""
    came = kwargs.get("streamed_result", result)
    items = getattr(came, "new_items", None)
    return None if items is None else [responses.read_item(item.raw_item) for item in listed(items)]


CONVERSATION = Conversation(asked, followed)
