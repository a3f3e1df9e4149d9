"""The text completions of the OpenAI client, which some servers still answer: a prompt, and what follows it.

Rules: a prompt is a text or the numbers of its tokens, or a list of such; each is answered on its own. A stream reports
its usage as that of a chat does.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from spanledger.core import parts
from spanledger.core.call import Call, Usage
from spanledger.core.frozen import changed
from spanledger.core.messages import Asked, Message, Pieces, field, listed, worded
from spanledger.core.prices import Bound
from spanledger.instrument import _bounds
from spanledger.instrument.libraries._asked import sent
from spanledger.instrument.libraries._figures import most
from spanledger.instrument.libraries._openai_chats import KINDS, counts, prepare
from spanledger.instrument.libraries._openai_common import call_of
from spanledger.instrument.library import Messages, Wrap


def describe(instance: Any, _args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Call:
    """Read a call of `Completions.create`."""
    kwargs = sent(kwargs)
    return call_of(instance, kwargs, "text_completion", kwargs.get("max_tokens"))


def bound(kwargs: Mapping[str, Any]) -> Bound:
    """Say the most that a request can use: the best of several answers is one of as many that were written."""
    asked = dict(sent(kwargs))
    # A name that elsewhere refers to what is kept at the provider.
    prompt = asked["text"] = asked.pop("prompt", None)
    several = isinstance(prompt, list) and prompt and not isinstance(prompt[0], int)
    answers = max(most(asked.get("n")) or 1, most(asked.get("best_of")) or 1) * (len(prompt) if several else 1)
    written = most(asked.get("max_tokens"))
    return Bound(_bounds.input_tokens(asked), None if written is None else written * answers, answers)


def measure(completion: Any) -> Usage:
    """Read what a completion used."""
    return fold(Usage(), completion)


def fold(usage: Usage, chunk: Any) -> Usage:
    """Add a chunk of a stream, which is as a completion."""
    reported: Iterable[tuple[str, Any]] = zip(KINDS, counts(chunk.usage), strict=True)
    reasons = tuple([choice.finish_reason for choice in chunk.choices or () if choice.finish_reason])
    return changed(
        usage,
        model=chunk.model or usage.model,
        response_id=chunk.id or usage.response_id,
        finish_reasons=usage.finish_reasons + reasons,
        **{kind: tokens for kind, tokens in reported if tokens is not None},
    )


def said(chunk: Any) -> str:
    """Return what a chunk holds of the answer."""
    return "".join([choice.text or "" for choice in chunk.choices or ()])


def asked(kwargs: Mapping[str, Any]) -> Asked:
    """Read what a request asks; tokens are no words."""
    prompt = kwargs.get("prompt")
    texts = [prompt] if worded(prompt) else listed(prompt)
    return Asked(input=[parts.message("user", [parts.text(text)]) for text in texts if worded(text)])


def answered(completion: Any) -> list[Message]:
    """Read what a completion answers."""
    found = field(completion, "choices")
    choices = found.values() if isinstance(found, dict) else listed(found)
    return [
        parts.message("assistant", [parts.text(field(one, "text"))], finish_reason=worded(field(one, "finish_reason")))
        for one in choices
    ]


def gather(answer: dict[str, Any], chunk: Any) -> None:
    """Add a chunk of a stream."""
    choices = answer.setdefault("choices", {})
    for choice in listed(field(chunk, "choices")):
        kept = choices.setdefault(field(choice, "index"), {"text": Pieces()})
        kept["text"].add(field(choice, "text"))
        kept["finish_reason"] = field(choice, "finish_reason") or kept.get("finish_reason")


WRAP = Wrap(
    *("", describe, "text_completion"),
    direct=True,
    prepare=prepare,
    measure=measure,
    fold=fold,
    said=said,
    bound=bound,
    messages=Messages(asked, answered, gather),
)
