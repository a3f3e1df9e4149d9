"""The OpenAI client: chat and text completions, responses, decisions and embeddings.

Rules: sync, async, streamed, parsed and with raw response alike. Helpers for streams and tool runners go through
`create`. Azure and Bedrock use the same classes. Left alone are realtime and other sessions on a websocket, images,
audio, batches, fine-tuning, and what the provider runs by itself, as assistants and agents.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from spanledger.instrument import _raw
from spanledger.instrument.libraries import _openai_chats as chats
from spanledger.instrument.libraries import _openai_decisions as decisions
from spanledger.instrument.libraries import _openai_embeddings as embeddings
from spanledger.instrument.libraries import _openai_responses as responses
from spanledger.instrument.libraries import _openai_texts as texts
from spanledger.instrument.libraries import _openai_tools as tools
from spanledger.instrument.library import Library, Wrap


def _wraps(shape: Wrap, cls: str, *methods: str, versions: str = "") -> Iterator[Wrap]:
    module, _, name = cls.partition(":")
    for method in methods:
        for prefix in ("", "Async"):
            target = f"openai.resources.{module}:{prefix}{name}.{method}"
            yield replace(shape, target=target, parsed=_raw.parsed, versions=versions)


LIBRARY = Library(
    name="openai",
    requires="openai>=2,<4",
    wraps=(
        *_wraps(chats.WRAP, "chat.completions.completions:Completions", "create", "parse"),
        *_wraps(texts.WRAP, "completions:Completions", "create"),
        *_wraps(responses.WRAP, "responses.responses:Responses", "create", "parse"),
        *_wraps(responses.WRAP, "responses.responses:Responses", "compact", versions=">=2.9"),
        *_wraps(responses.WRAP, "beta.responses.responses:Responses", "create", "compact", versions=">=2.45"),
        *_wraps(responses.WRAP, "decisions:Decisions", "create", versions=">=3.27"),
        *tools.WRAPS,
        *decisions.WRAPS,
        *_wraps(embeddings.WRAP, "embeddings:Embeddings", "create"),
    ),
)
