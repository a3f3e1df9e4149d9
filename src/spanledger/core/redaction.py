"""What people and telemetry must not see of a call: places named by rules, masked, removed or hashed.

Rules:
* Nothing here decides what is the same call, or what is given back: keys and approvals are bound to the exact
  arguments, and results are kept exactly or not at all. Here are only the copies that somebody may read.
* It fails closed. Text where JSON has to be, and JSON that cannot be read, is masked as a whole; so is other text that
  names a redacted key, or repeats what was redacted in the arguments. Whatever else goes wrong masks the whole value.
* A place is a JSONPath, looked up in the value and in every JSON text inside it, or the plain name of a key, at any
  depth, also as the name of a header in a list of pairs. Names are compared without case, hyphens and underscores.
* The engine of the paths is handed in, because it is a library's.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import hmac
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from spanledger.core.values import canonical, encode, unescaped
from spanledger.errors import ConfigError

MASK: Final = "[redacted]"
ACTIONS: Final = ("mask", "remove", "hmac")
# Shorter ones turn up everywhere by chance.
REPEATED_CHARS_MIN: Final = 4

Location = tuple[str | int, ...]
Find = Callable[[str, Any], Iterable[Location]]

_REMOVED: Final = object()
_SEPARATORS: Final = str.maketrans("", "", "-_")
_LAST_NAME: Final = re.compile(r"(?:\.([^\W\d]\w*)|\[(?:'([^'\\]+)'|\"([^\"\\]+)\")\])\s*$")
_LABELS: Final = ("name", "key")


@dataclass(frozen=True, slots=True)
class Redact:
    """A place that nobody is to see; it may be in arguments, results and errors.

    Attributes:
        path: A JSONPath (RFC 9535), for example ``"$.card.number"``, or the name of a key at any depth, in which ``*``
            stands for any text: ``"password"``, ``"*token"``.
        action: ``"mask"``; ``"remove"`` it; or ``"hmac"``: a hash keyed by SPANLEDGER_SECRET, so that equal values can
            be told to be equal.
    """

    path: str
    action: str = "mask"

    def __post_init__(self) -> None:
        if not isinstance(self.path, str) or not _plain(self.path):
            raise ConfigError(f"redact takes a JSONPath such as '$.card' or the name of a key, not {self.path!r}")
        if self.action not in ACTIONS:
            raise ConfigError(f"redact {self.path!r}: action is one of {', '.join(ACTIONS)}, not {self.action!r}")

    @property
    def is_path(self) -> bool:
        """Whether it is a JSONPath."""
        return self.path.startswith("$")

    @property
    def said(self) -> dict[str, str]:
        """The place as the ledger keeps it."""
        return {"path": self.path, "action": self.action}


def redacted_by(said: Iterable[Mapping[str, str]]) -> tuple[Redact, ...]:
    """Read places as the ledger keeps them, each once."""
    return tuple(dict.fromkeys(Redact(one["path"], one["action"]) for one in said))


class Redactor:
    """Makes the copies of what belongs to one call that people and telemetry may see."""

    def __init__(self, redact: tuple[Redact, ...] = (), find: Find | None = None, secret: bytes | None = None) -> None:
        """Prepare for values.

        Args:
            redact: The places; of two that name the same one, the first counts.
            find: Looks a JSONPath up in a JSON tree.
            secret: Keys the hashes.

        Raises:
            ConfigError: A hash is asked for and there is no secret.
        """
        if secret is None and any(one.action == "hmac" for one in redact):
            raise ConfigError("redacting by hmac needs SPANLEDGER_SECRET, so that nobody can try values out")
        self.redact = redact
        self._find = find
        self._secret = secret or b""
        self._names = [(_name_pattern(one.path), one.action) for one in redact if not one.is_path]
        self._mentions = _mentions(redact)
        self._repeated: frozenset[str] = frozenset()

    def of(self, redact: tuple[Redact, ...], arguments: Any) -> Redactor:
        """Make one of other places, in the same way; it knows these arguments, as `knowing` says.

        Where there is no secret, what is to be hashed is masked.
        """
        if not self._secret:
            redact = tuple(Redact(one.path) if one.action == "hmac" else one for one in redact)
        return Redactor(redact, self._find, self._secret or None).knowing(arguments)

    def knowing(self, arguments: Any) -> Redactor:
        """Make one that also masks text in which something turns up that is redacted in these arguments."""
        if not self.redact or arguments is None:
            return self
        knowing = Redactor(self.redact, self._find, self._secret or None)
        if isinstance(arguments, str) and self.text(arguments) == MASK:
            # Nobody can tell what repeats something of them: any text may.
            knowing._mentions = re.compile("")
            return knowing
        try:
            knowing._repeated = frozenset(_Pass(self).taken_from(_tree(arguments)))
        except Exception:  # noqa: BLE001 - what cannot be read is masked as a whole when it is shown
            return knowing
        return knowing

    def tree(self, value: Any) -> Any:
        """Make a JSON tree of a value as it may be seen.

        Raises:
            NotJsonError: Nothing is redacted, and the value has no JSON form.
        """
        if not self.redact:
            return encode(value)
        try:
            return _Pass(self).document(_tree(value))
        except Exception:  # noqa: BLE001 - fails closed
            return MASK

    def document(self, tree: Any) -> Any:
        """Make what may be seen of what is a JSON tree already."""
        if not self.redact:
            return tree
        try:
            return _Pass(self).document(tree)
        except Exception:  # noqa: BLE001 - fails closed
            return MASK

    def taken(self, tree: Any) -> frozenset[str]:
        """Return the single values that are redacted in a JSON tree, those long enough to be told again."""
        if not self.redact:
            return frozenset()
        try:
            return frozenset(_Pass(self).taken_from(tree))
        except Exception:  # noqa: BLE001 - what cannot be read is masked as a whole when it is shown
            return frozenset()

    def text(self, text: str) -> str:
        """Make what may be seen of a text that stands for a JSON document; one that is none is masked."""
        if not self.redact or not text:
            return text
        try:
            parsed = _parsed(text)
            return _Pass(self).again(text, parsed) if isinstance(parsed, dict | list) else MASK
        except Exception:  # noqa: BLE001 - fails closed
            return MASK

    def hides(self, value: Any) -> bool:
        """Tell whether something of a value is not to be seen."""
        if not self.redact:
            return False
        try:
            tree = _tree(value)
            return bool(_Pass(self).document(tree) != tree)
        except Exception:  # noqa: BLE001 - fails closed
            return True

    def attributes(self, attributes: Mapping[str, Any], documents: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Make what may be seen of attributes of a span.

        Args:
            attributes: Names and values, which stay values that a span can have.
            documents: Names of those whose text is a JSON document.
        """
        if not self.redact:
            return dict(attributes)
        return {
            name: seen
            for name, value in attributes.items()
            if (seen := self._attribute(name, value, document=name in documents)) is not None
        }

    def _attribute(self, name: str, value: Any, *, document: bool) -> Any:
        if document:
            return self.text(value) if isinstance(value, str) else MASK
        try:
            # A name of an attribute has the name of a key at its end: http.request.header.authorization.
            key = name.rpartition(".")[2]
            return _Pass(self).document({key: list(value) if isinstance(value, tuple) else value}).get(key)
        except Exception:  # noqa: BLE001 - fails closed
            return MASK

    def named(self, key: str) -> str | None:
        """Return what is done with what has this name."""
        plain = _plain(key)
        return next((action for pattern, action in self._names if pattern.fullmatch(plain)), None)

    def located(self, tree: Any) -> dict[Location, str]:
        """Return the places in a tree that paths name, and what is done with each."""
        found: dict[Location, str] = {}
        for one in self.redact:
            if one.is_path and self._find is not None:
                for location in self._find(one.path, tree):
                    found.setdefault(tuple(location), one.action)
        return found

    def speaks_of(self, text: str) -> bool:
        """Tell whether a text that is no JSON names a redacted key or repeats a redacted value."""
        if self._mentions is not None and self._mentions.search(_plain(text)):
            return True
        return any(value in text for value in self._repeated)

    def hashed(self, tree: Any) -> str:
        """Hash a value."""
        message = b"spanledger redaction\0" + canonical(tree)
        return f"hmac:{hmac.new(self._secret, message, hashlib.sha256).hexdigest()[:32]}"


class _Pass:
    """One way through one value."""

    def __init__(self, redactor: Redactor) -> None:
        self._redactor = redactor
        self._taken: list[Any] = []

    def document(self, tree: Any) -> Any:
        """Redact a JSON document."""
        seen = self._rebuilt(tree, (), self._redactor.located(tree))
        return None if seen is _REMOVED else seen

    def again(self, text: str, parsed: Any) -> str:
        """Redact a document and write it; as it was where nothing is redacted."""
        seen = self.document(parsed)
        return text if seen == parsed else json.dumps(seen, ensure_ascii=False)

    def taken_from(self, tree: Any) -> Iterable[str]:
        """Return the single values that are redacted in a tree, those long enough to be told again."""
        self.document(tree)
        texts = (str(value) for taken in self._taken for value in _leaves(taken))
        return (text for text in texts if len(text) >= REPEATED_CHARS_MIN)

    def _rebuilt(self, node: Any, at: Location, actions: Mapping[Location, str]) -> Any:
        action = actions.get(at)
        if action is not None:
            return self._done(node, action)
        if isinstance(node, dict):
            return self._members(node, at, actions)
        if isinstance(node, list):
            return self._items(node, at, actions)
        if isinstance(node, str):
            return self._inner(node)
        if isinstance(node, int | float) and not isinstance(node, bool) and self._redactor.speaks_of(str(node)):
            return MASK
        return node

    def _members(self, node: dict[str, Any], at: Location, actions: Mapping[Location, str]) -> Any:
        if node.keys() == {"$bytes"}:
            return self._bytes(node)
        label = next((node[name] for name in _LABELS if isinstance(node.get(name), str)), None)
        labelled = None if label is None else self._redactor.named(label)
        seen = {}
        for key, item in node.items():
            named = labelled if labelled and key == "value" else self._redactor.named(key)
            place = (*at, key)
            kept = self._rebuilt(item, place, {place: named} if named and place not in actions else actions)
            if kept is not _REMOVED:
                seen[key] = kept
        return seen

    def _items(self, node: list[Any], at: Location, actions: Mapping[Location, str]) -> Any:
        if len(node) == 2 and isinstance(node[0], str):  # noqa: PLR2004 - a name and what it is of
            named = self._redactor.named(node[0])
            if named == "remove":
                return self._done(node[1], named)
            if named:
                return [node[0], self._done(node[1], named)]
        seen = [self._rebuilt(item, (*at, number), actions) for number, item in enumerate(node)]
        return [item for item in seen if item is not _REMOVED]

    def _inner(self, text: str) -> str:
        first = text.lstrip()[:1]
        if first and first in '{["':
            try:
                return self.again(text, _parsed(text))
            except ValueError:
                if first != '"':
                    return MASK
        return MASK if self._redactor.speaks_of(text) else text

    def _bytes(self, node: dict[str, Any]) -> Any:
        try:
            text = base64.b64decode(node["$bytes"]).decode()
        except (ValueError, TypeError):
            return MASK
        return node if self._inner(text) == text else MASK

    def _done(self, node: Any, action: str) -> Any:
        self._taken.append(node)
        match action:
            case "remove":
                return _REMOVED
            case "hmac":
                return self._redactor.hashed(node)
            case _:
                return MASK


def _parsed(text: str) -> Any:
    """Read JSON; a name that stands twice in an object is an error: one of its values would not be looked at."""
    return json.loads(text, object_pairs_hook=_without_doubles)


def _without_doubles(members: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(members)
    if len(found) != len(members):
        raise ValueError("a name stands twice")
    return found


def _tree(value: Any) -> Any:
    """Make the tree in which places are looked up: keys are as they were before they were escaped."""
    return _with_plain_keys(encode(value))


def _with_plain_keys(tree: Any) -> Any:
    if isinstance(tree, list):
        return [_with_plain_keys(item) for item in tree]
    if isinstance(tree, dict):
        return {unescaped(key): _with_plain_keys(item) for key, item in tree.items()}
    return tree


def _plain(name: str) -> str:
    return name.casefold().translate(_SEPARATORS)


@functools.lru_cache(maxsize=1024)
def _name_pattern(name: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, _plain(name).split("*"))), re.DOTALL)


def _mentions(redact: Iterable[Redact]) -> re.Pattern[str] | None:
    """Make the pattern of texts that name one of the places."""
    names = []
    for one in redact:
        last = _LAST_NAME.search(one.path) if one.is_path else None
        name = next(filter(None, last.groups()), None) if last else None if one.is_path else one.path
        if name:
            before, after = ("" if name.startswith("*") else r"(?<!\w)"), ("" if name.endswith("*") else r"(?!\w)")
            inner = r"\w*".join(map(re.escape, _plain(name).strip("*").split("*")))
            names.append(before + inner + after)
    return re.compile("|".join(names)) if names else None


def _leaves(tree: Any) -> Iterable[Any]:
    if isinstance(tree, dict | list):
        for item in tree.values() if isinstance(tree, dict) else tree:
            yield from _leaves(item)
    elif isinstance(tree, str | int | float) and not isinstance(tree, bool):
        yield tree
