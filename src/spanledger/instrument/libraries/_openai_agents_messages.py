"""What is said in runs of the OpenAI Agents SDK, whose items are those of responses.

Rules: instructions that a function makes anew are not known. An output that is no text is what the model has written
of it. A run that is resumed was asked before.
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


def followed(_runner: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any], result: Any) -> list[Message]:
    """Read what was said in a run; one that is streamed returns nothing, and is told its result to fill it in."""
    came = kwargs.get("streamed_result", result)
    return [responses.read_item(item.raw_item) for item in listed(getattr(came, "new_items", None))]


CONVERSATION = Conversation(asked, followed)
