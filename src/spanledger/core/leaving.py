"""A request without what its rule redacts, as it is sent.

Rules: pure, and it fails closed: what cannot be read to its end is not sent. What is redacted is what a rule names, in
the query and in bodies of JSON or of a form; everything else keeps its bytes, numbers their digits. A field of a form
is a place in the tree that its brackets make: ``card[number]`` is ``$.card.number``, and has the names card and number.
What a path says of other places than its own (a filter, an index from the end, a slice) no single field can answer:
with such a path no query and no form is sent. A JSON text inside a field is looked into as well.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import quote_plus, unquote_plus

from spanledger.core.egress import Change, Request
from spanledger.core.redaction import MASK, Location, Redactor

# Longer lists in the names of a form's fields are looked up by name alone.
INDEX_MAX: Final = 1000

_REMOVED: Final = object()
_JSON: Final = re.compile(r"application/(json|[\w.+-]+\+json)")
_FORM: Final = "application/x-www-form-urlencoded"
_PARTS: Final = re.compile(r"[^\[\].]+")
_BRACKETS: Final = re.compile(r"\[([^\[\]]*)\]")
_QUOTED: Final = re.compile(r"'[^']*'|\"[^\"]*\"")
_OF_OTHERS: Final = re.compile(r"[?:]|[\[,]\s*-")
_INDEX: Final = re.compile(r"[\[,]\s*\d")


class CannotRedact(ValueError):
    """Something of a request cannot be read, so nobody can tell whether it holds what is redacted."""


@dataclass(frozen=True, slots=True)
class Redacted:
    """What is sent instead of a request.

    Attributes:
        change: The URL and the body, where they differ.
        places: How many places were redacted.
    """

    change: Change
    places: int


def redacted(request: Request, redactor: Redactor) -> Redacted:
    """Redact a request.

    Raises:
        CannotRedact: Something of it cannot be read.
    """
    sent = _Sent(redactor)
    try:
        url = sent.url(request.url)
        body = sent.body(request)
    except RecursionError:
        raise CannotRedact("it is nested too deep") from None
    change = Change(
        url=None if url == request.url else url,
        body=None if body == request.body else body,
    )
    return Redacted(change, sent.places)


class _Float(float):
    """A number that is written as it was read."""

    text: str


class _Sent:
    """One way through one request."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self.places = 0

    def url(self, url: str) -> str:
        """Redact the query of a URL."""
        rest, mark, fragment = url.partition("#")
        path, question, query = rest.partition("?")
        try:
            return path + question + self.pairs(query) + mark + fragment
        except CannotRedact:
            raise
        except ValueError as error:
            raise CannotRedact("its query holds what cannot be read") from error

    def body(self, request: Request) -> bytes:
        """Redact the body of a request."""
        body = request.body
        if body is None:
            raise CannotRedact("its body is a stream, or too long to be read")
        if not body:
            return body
        if any(value.strip().lower() not in ("", "identity") for value in request.all_of({"content-encoding"})):
            raise CannotRedact("its body is compressed")
        read = self._reader(request.all_of({"content-type"}))
        try:
            text = body.decode()
            changed = read(text)
        except CannotRedact:
            raise
        except (ValueError, UnicodeError) as error:
            raise CannotRedact("its body is not what its content type says") from error
        return body if changed == text else changed.encode()

    def _reader(self, said: tuple[str, ...]) -> Callable[[str], str]:
        if len(said) != 1:
            raise CannotRedact("its body has no content type, or several")
        kind, *parameters = (part.strip().lower() for part in said[0].split(";"))
        charset = next((part.partition("=")[2].strip('"') for part in parameters if part.startswith("charset")), "")
        if charset not in ("", "utf-8", "utf8", "us-ascii"):
            raise CannotRedact(f"its body is in {charset}")
        if _JSON.fullmatch(kind):
            return self.document
        if kind == _FORM:
            return self.pairs
        raise CannotRedact(f"its body is {kind or 'of no type'}, not JSON or a form")

    def document(self, text: str) -> str:
        """Redact a JSON document."""
        before = self.places
        seen = self._tree(_read(text))
        return text if self.places == before else _written(None if seen is _REMOVED else seen)

    def pairs(self, text: str) -> str:
        """Redact names and values as a query or a form has them."""
        if not text:
            return text
        paths = [_QUOTED.sub("", one.path) for one in self._redactor.redact if one.is_path]
        if any(_OF_OTHERS.search(path) for path in paths):
            raise CannotRedact("a path that is redacted cannot be told from single fields")
        if "[]" in unquote_plus(text) and any(_INDEX.search(path) for path in paths):
            raise CannotRedact("a path that is redacted counts, and fields of it have no number")
        # Some servers take a semicolon for an ampersand.
        pieces = re.split("([&;])", text)
        kept: list[str] = []
        for piece, after in zip(pieces[::2], [*pieces[1::2], ""], strict=True):
            seen = self._pair(piece) if piece else piece
            if seen is not None:
                kept += [seen, after]
        changed = "".join(kept)
        return changed if changed == text else changed.rstrip("&;")

    def _pair(self, piece: str) -> str | None:
        written, equals, value = piece.partition("=")
        try:
            name, plain = (unquote_plus(part, errors="strict") for part in (written, value))
        except UnicodeError:
            raise CannotRedact("a field of it is no text") from None
        action = self._action_of(name)
        if action is None:
            inner = self._inner(plain)
            return piece if inner == plain else f"{written}{equals}{quote_plus(inner)}"
        done = self._done(plain, action)
        return None if done is _REMOVED else f"{written}={quote_plus(done)}"

    def _action_of(self, name: str) -> str | None:
        """Say what is done with a field of a form."""
        for part in (name, *_PARTS.findall(name)):
            if named := self._redactor.named(part):
                return named
        steps = [name.partition("[")[0], *_BRACKETS.findall(name)]
        for place, tree in (_placed(steps, lists=False), _placed(steps, lists=True)):
            for location, action in self._redactor.located(tree).items():
                if location == place[: len(location)]:
                    return action
        return None

    def _tree(self, tree: Any) -> Any:
        return self._rebuilt(tree, (), self._redactor.located(tree))

    def _rebuilt(self, node: Any, at: Location, actions: Mapping[Location, str]) -> Any:
        if at in actions:
            return self._done(node, actions[at])
        if isinstance(node, dict):
            items = ((key, self._member(key, item, (*at, key), actions)) for key, item in node.items())
            return {key: seen for key, seen in items if seen is not _REMOVED}
        if isinstance(node, list):
            seen = [self._rebuilt(item, (*at, number), actions) for number, item in enumerate(node)]
            return [item for item in seen if item is not _REMOVED]
        return self._inner(node) if isinstance(node, str) else node

    def _member(self, key: str, item: Any, at: Location, actions: Mapping[Location, str]) -> Any:
        named = None if at in actions else self._redactor.named(key)
        return self._done(item, named) if named else self._rebuilt(item, at, actions)

    def _inner(self, text: str) -> str:
        """Redact a JSON text that is the value of a field; other text is none of our business."""
        if text.lstrip("\ufeff \t\r\n")[:1] not in ("{", "["):
            return text
        plain = text.lstrip("\ufeff \t\r\n")
        try:
            seen = self.document(plain)
        except json.JSONDecodeError:
            return text
        return text if seen == plain else seen

    def _done(self, node: Any, action: str) -> Any:
        self.places += 1
        if action == "remove":
            return _REMOVED
        return self._redactor.hashed(node) if action == "hmac" else MASK


def _placed(steps: list[str], *, lists: bool) -> tuple[Location, Any]:
    """Make the tree that a field's name stands for, and where in it the field is."""
    tree: Any = "value"
    place: list[str | int] = []
    for step in reversed(steps):
        index = int(step or 0) if lists and (not step or step.isdecimal()) and len(step) <= 4 else None  # noqa: PLR2004
        if index is not None and index <= INDEX_MAX and step is not steps[0]:
            tree, place = [None] * index + [tree], [index, *place]
        else:
            tree, place = {step: tree}, [step, *place]
    return tuple(place), tree


def _read(text: str) -> Any:
    def number(digits: str) -> _Float:
        read = _Float(digits)
        read.text = digits
        return read

    def doubles(members: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(members)
        if len(found) != len(members):
            raise ValueError("a name stands twice: one of its values would not be looked at")
        return found

    def constant(name: str) -> Any:
        raise ValueError(f"{name} is no JSON")

    return json.loads(text, object_pairs_hook=doubles, parse_float=number, parse_constant=constant)


def _written(node: Any) -> str:
    if isinstance(node, dict):
        return "{" + ",".join(f"{json.dumps(key)}:{_written(item)}" for key, item in node.items()) + "}"
    if isinstance(node, list):
        return "[" + ",".join(map(_written, node)) + "]"
    return node.text if isinstance(node, _Float) else json.dumps(node)
