"""What a script lets the model say, and one answer of the model before any protocol has written it.

Rules: an answer is the same whatever the protocol: text or tool calls, cut off where the request's limit is, with
figures computed from the text alone, so a repeated run costs the same. Ids are new each time. Nothing here knows HTTP.
"""

from __future__ import annotations

import json
import re
import secrets
import string
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

_CHARS_PER_TOKEN = 4
# The provider's own rule for prompt caching: whole blocks, from a minimum on.
_CACHED_TOKENS_MIN = 1024
_CACHED_TOKENS_BLOCK = 128


@dataclass(frozen=True, slots=True)
class Counted:
    """What a provider says a call used.

    Attributes:
        input_tokens: Tokens read, those from and for a cache included.
        output_tokens: Tokens written, reasoning included.
        cached_tokens: Input tokens that came from a cache.
        cache_written_tokens: Input tokens that were put into one.
        reasoning_tokens: Output tokens spent on reasoning.
    """

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0
    cache_written_tokens: int = 0
    reasoning_tokens: int = 0


@dataclass(frozen=True, slots=True)
class Say:
    """The model answers with text.

    Attributes:
        text: The text; what exceeds the request's limit of output tokens is cut off, as elsewhere.
        used: The figures of the answer, where they are not to be computed from its text.
        reports_usage: False: the answer has no figures at all, as from some servers.
    """

    text: str
    used: Counted | None = None
    reports_usage: bool = True


@dataclass(frozen=True, slots=True)
class CallTool:
    """The model asks for a tool; a list of these asks for several at once.

    Attributes:
        name: The tool.
        arguments: Its arguments; a text is sent as it is, which need not be JSON.
        id: The id of the call, as it is: a run that is resumed from a checkpoint sees the same again. None: new each
            time, as from a provider.
    """

    name: str
    arguments: Mapping[str, Any] | str
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Fail:
    """The provider answers with an error.

    Attributes:
        status: The HTTP status, for example 429. Clients repeat some of them by themselves.
        message: What the client's exception will say.
    """

    status: int
    message: str


@dataclass(frozen=True, slots=True)
class Raw:
    """The provider answers with these very bytes, whatever the protocol wants.

    Attributes:
        body: The body, or its pieces; where making a piece raises, the server hangs up in the middle.
        content_type: What it says it is.
    """

    body: bytes | Iterable[bytes]
    content_type: str = "text/event-stream; charset=utf-8"


Script = Callable[[dict[str, Any]], Say | CallTool | Sequence[CallTool] | Fail | Raw]


@dataclass(frozen=True, slots=True)
class Asked:
    """One tool call of an answer; its id is new each time, unless the script gives one."""

    name: str
    arguments: str
    given_id: str | None = None
    id: str = field(default_factory=lambda: random_id(24))

    def id_as(self, prefix: str) -> str:
        """The id as a provider writes it: new ones begin with its prefix."""
        return self.given_id or prefix + self.id


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of the model, before a protocol writes it whole or in pieces.

    Attributes:
        model: The model asked for, by the name in the request.
        text: What it says; None where it asks for tools.
        asked: The tools it asks for.
        used: The figures; None where the provider reports none.
        cut: The text was cut off at the request's limit.
        choices: How many answers were asked for; all are alike.
    """

    model: str
    text: str | None
    asked: tuple[Asked, ...]
    used: Counted | None
    cut: bool = False
    choices: int = 1
    id: str = field(default_factory=lambda: random_id(29))
    created: int = field(default_factory=lambda: int(time.time()))

    def dated(self, date: str) -> str:
        """The model's name as providers give it back: with its date."""
        return self.model if re.search(r"-\d{4}-?\d\d-?\d\d(@|$)", self.model) else f"{self.model}-{date}"

    @property
    def words(self) -> list[str]:
        """The text in pieces that give it back when they are joined."""
        return re.findall(r"\s*\S+|\s+", self.text or "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What a request asks for that matters to any answer.

    Attributes:
        model: The model.
        prompt: All that it reads, as text.
        output_tokens_max: After so many tokens the answer is cut off.
        choices: How many answers.
    """

    model: str
    prompt: str
    output_tokens_max: int | None = None
    choices: int = 1


def answered(wish: Wish, said: Say | CallTool | Sequence[CallTool]) -> Answer:
    """Make an answer of what a script said.

    Raises:
        TypeError: It is nothing that a script returns.
    """
    text, limit = said.text if isinstance(said, Say) else None, wish.output_tokens_max
    cut = text is not None and limit is not None and tokens(text) > limit
    if text is not None and limit is not None and cut:
        text = text[: limit * _CHARS_PER_TOKEN]
    asked = _asked(said)
    written = text or "".join(to_json({"name": call.name, "arguments": call.arguments}) for call in asked)
    used = said.used if isinstance(said, Say) and said.used else _counted(wish, written)
    reported = not isinstance(said, Say) or said.reports_usage
    return Answer(
        model=wish.model,
        text=text,
        asked=asked,
        used=used if reported else None,
        cut=cut,
        choices=wish.choices,
    )


def tokens(text: str) -> int:
    """Count the tokens of a text, as this model has them."""
    return max(1, -(-len(text) // _CHARS_PER_TOKEN))


def to_json(value: Any) -> str:
    """Write JSON as providers do: letters as they are."""
    return json.dumps(value, ensure_ascii=False)


def random_id(length_chars: int) -> str:
    """Make an id that has not been there before."""
    return "".join(secrets.choice(string.ascii_letters + string.digits) for _ in range(length_chars))


def _asked(said: Say | CallTool | Sequence[CallTool]) -> tuple[Asked, ...]:
    if isinstance(said, Say):
        return ()
    calls = (said,) if isinstance(said, CallTool) else tuple(said) if isinstance(said, Sequence) else ()
    if not calls or not all(isinstance(call, CallTool) for call in calls):
        raise TypeError(f"a script returns Say, CallTool, a list of CallTool, Fail or Raw, not {said!r}")
    return tuple(
        Asked(
            call.name,
            call.arguments if isinstance(call.arguments, str) else to_json(dict(call.arguments)),
            call.id,
        )
        for call in calls
    )


def _counted(wish: Wish, written: str) -> Counted:
    read = tokens(wish.prompt)
    cached = read - read % _CACHED_TOKENS_BLOCK if read >= _CACHED_TOKENS_MIN else 0
    return Counted(read, tokens(written) * wish.choices, cached_tokens=cached)
