"""Values as JSON: how arguments are compared and how results are kept.

Rules:
* `encode` turns a Python value into a JSON tree and `decode` turns it back; what JSON lacks is tagged, for
  example ``{"$decimal": "1.10"}``. A dict key that begins with ``$`` gets a second one, so no value of the
  user's can pass for a tag.
* A tree never names something to construct beyond the fixed tags: dataclasses and pydantic models come back
  only where the annotation of the function names their type. A row of the ledger cannot create objects.
* `canonical`, for identity, is RFC 8785, except that integers are exact beyond 2^53. 1 and 1.0 are the same number.
  `serialize`, for results, keeps what that loses.
* Loose encoding (for identity) ignores differences that a retry may bring about: list or tuple, record or
  dict. Exact encoding (for results) keeps them.
"""

from __future__ import annotations

import base64
import dataclasses
import enum
import json
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

from spanledger.core.money import EXACT, Money

DEPTH_MAX = 64

# Where ECMAScript turns to exponents: beyond so many digits, or zeros after the point.
_DIGITS_MAX = 21
_ZEROS_MAX = 6


class NotShown:
    """What a call returned whose end was seen, but not its result."""


NOT_SHOWN = NotShown()

_quoted = json.encoder.encode_basestring

_TEXT = frozenset({str})
_PLAIN = _TEXT | {int, bool, type(None)}


def _writer(*, sort_keys: bool = False) -> Callable[[Any], bytes]:
    """Make what writes trees, without spaces.

    `json.dumps` makes an encoder at every call, and an encoder makes the one that does the work, which takes three
    times as long as the work.
    """
    encoder = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"), sort_keys=sort_keys)
    make = getattr(json.encoder, "c_make_encoder", None)
    parts: Callable[[Any, int], Iterable[str]]
    if make is None:  # Python's own, where there is no other

        def parts(tree: Any, _level: int) -> Iterable[str]:
            return encoder.iterencode(tree)
    else:
        parts = make(None, encoder.default, _quoted, None, ":", ",", sort_keys, False, False)

    def write(tree: Any) -> bytes:
        try:
            return "".join(parts(tree, 0)).encode()
        except ValueError as error:
            raise _not_json(error) from None

    return write


_TAGS_OUT: dict[type, tuple[str, Callable[[Any], Any]]] = {
    Decimal: ("$decimal", EXACT.to_sci_string),
    datetime: ("$datetime", lambda v: (v.astimezone(UTC) if v.tzinfo else v).isoformat()),
    date: ("$date", date.isoformat),
    time: ("$time", time.isoformat),
    timedelta: ("$seconds", lambda v: str(Decimal(v // timedelta(microseconds=1)).scaleb(-6, EXACT))),
    UUID: ("$uuid", str),
    Path: ("$path", str),
    bytes: ("$bytes", lambda v: base64.b64encode(v).decode("ascii")),
    NotShown: ("$not_shown", lambda _: True),
}


def _not_shown(_body: Any) -> Any:
    raise NotJsonError("whoever did the work has not shown it")


_TAGS_IN: dict[str, Callable[[Any], Any]] = {
    "$decimal": Decimal,
    "$datetime": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$time": time.fromisoformat,
    "$seconds": lambda v: timedelta(microseconds=int(Decimal(v).scaleb(6, EXACT))),
    "$uuid": UUID,
    "$path": Path,
    "$bytes": base64.b64decode,
    "$tuple": lambda v: tuple(map(decode, v)),
    "$set": lambda v: set(map(decode, v)),
    "$frozenset": lambda v: frozenset(map(decode, v)),
    "$pairs": lambda v: {decode(k): decode(item) for k, item in v},
    "$record": lambda v: decode(v[1]),
    "$enum": lambda v: decode(v[1]),
    "$not_shown": _not_shown,
}


class NotJsonError(ValueError):
    """A value has no JSON form that could be compared or given back."""


def encode(value: Any, *, exact: bool = False, depth: int = 0) -> Any:
    """Turn `value` into a JSON tree; what is plain JSON already is its own tree, and no copy of it is made.

    Args:
        value: What to encode.
        exact: Keep the difference between list and tuple, record and dict.
        depth: How deep this value lies in another.

    Raises:
        NotJsonError: A type without a JSON form, a float that is no number, or nesting beyond `DEPTH_MAX`.
    """
    if type(value) in _PLAIN or (depth == 0 and _is_plain(value)):
        return value
    # By a tuple: a union would be made anew each time.
    if isinstance(value, (str, int)) and not isinstance(value, enum.Enum):
        return value
    if depth > DEPTH_MAX:
        raise NotJsonError(f"nested deeper than {DEPTH_MAX} levels")
    if isinstance(value, float) and not isinstance(value, enum.Enum):
        if not math.isfinite(value):
            raise NotJsonError(f"{value!r} is not a number JSON knows")
        return value
    return _encode_object(value, lambda item: encode(item, exact=exact, depth=depth + 1), exact=exact)


def exactly(value: Any) -> Any:
    """Turn `value` into a JSON tree that `decode` turns back into an equal value.

    Raises:
        NotJsonError: There is none.
    """
    tree = encode(value, exact=True)
    if decode(tree) != value:
        raise NotJsonError(f"a {type(value).__qualname__} would not come back equal")
    return tree


def decode(tree: Any) -> Any:
    """Turn a tree of `encode` back; records come back as dicts, enums as their values."""
    if isinstance(tree, list):
        return [decode(item) for item in tree]
    if not isinstance(tree, dict):
        return tree
    if len(tree) == 1:
        ((key, body),) = tree.items()
        if key in _TAGS_IN:
            return _TAGS_IN[key](body)
    return {unescaped(key): decode(item) for key, item in tree.items()}


def decode_as(tree: Any, annotation: Any) -> Any:
    """Turn a tree back into what `annotation` says: dataclasses, pydantic models, enums, and containers of them.

    Args:
        tree: What `encode` gave.
        annotation: A resolved type annotation; None or `Any` give what `decode` gives.
    """
    if annotation is None or annotation is Any:
        return decode(tree)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return decode_as(tree, _arm_for(tree, arguments))
    if origin is typing.Annotated:
        return decode_as(tree, arguments[0])
    tag, body = _tag_of(tree)
    if tag == "$record" and isinstance(annotation, type):
        return _build(annotation, body[1])
    if tag == "$enum" and isinstance(annotation, type) and issubclass(annotation, enum.Enum):
        return annotation(decode(body[1]))
    if not arguments:
        return decode(tree)
    if origin is list and isinstance(tree, list):
        return [decode_as(item, arguments[0]) for item in tree]
    if origin is tuple and tag == "$tuple":
        kinds = [arguments[0]] * len(body) if arguments[1:] == (...,) else arguments
        return tuple(decode_as(item, kind) for item, kind in zip(body, kinds, strict=True))
    if origin is dict and isinstance(tree, dict) and tag is None:
        return {unescaped(key): decode_as(item, arguments[1]) for key, item in tree.items()}
    return decode(tree)


def canonical(tree: Any) -> bytes:
    """Serialize a JSON tree by RFC 8785, with exact integers.

    Raises:
        NotJsonError: A string that is not valid Unicode, or an integer too long to be written.
    """
    try:
        return _canonical(tree).encode()
    except ValueError as error:
        raise _not_json(error) from None


def canonical_of(value: Any) -> bytes:
    """Write a value in canonical form: `canonical(encode(value))`, in a fraction of the time where it is plain JSON.

    Raises:
        NotJsonError: As `encode` and `canonical`.
    """
    return _plain_json(value) if _is_plain(value) else canonical(encode(value))


def serialize(tree: Any) -> bytes:
    """Write a JSON tree so that it is read back as it was: 1.0 stays a float, and keys keep their order.

    Raises:
        NotJsonError: A string that is not valid Unicode, or an integer too long to be written.
    """
    return _kept_json(tree)


def _not_json(error: ValueError) -> NotJsonError:
    halves = isinstance(error, UnicodeEncodeError)
    return NotJsonError("a string holds half of a surrogate pair" if halves else str(error))


_kept_json = _writer()
_plain_json = _writer(sort_keys=True)


def _is_plain(value: Any, levels: int = DEPTH_MAX) -> bool:
    """Tell whether a value is its own tree, and the standard library's encoder writes just what `canonical` would.

    That is ten times as fast.

    It does for most arguments, as they came as JSON; not for floats, nor for keys that UTF-16 may order differently.
    """
    kind = type(value)
    if kind is dict:
        if not _TEXT.issuperset(map(type, value)):
            return False
        # One look at all of them; of a dollar sign inside a key `encode` knows that it is no tag.
        keys = "".join(value)
        if not keys.isascii() or "$" in keys:
            return False
        value = value.values()
    elif kind is not list:
        return kind in _PLAIN
    if levels == 0:
        return False
    # Without a loop of Python's where nothing is nested, as in most arguments.
    return _PLAIN.issuperset(map(type, value)) or all(_is_plain(item, levels - 1) for item in value)


def _encode_object(value: Any, inner: Callable[[Any], Any], *, exact: bool) -> Any:
    if isinstance(value, enum.Enum):
        tagged = {"$enum": [type(value).__name__, inner(value.value)]}
        return tagged if exact or not isinstance(value, str | int | float) else inner(value.value)
    if isinstance(value, Mapping):
        return _encode_mapping(value, inner)
    if isinstance(value, list | tuple) and not hasattr(value, "_fields"):
        items = [inner(item) for item in value]
        return {"$tuple": items} if exact and isinstance(value, tuple) else items
    if isinstance(value, set | frozenset):
        tag = "$frozenset" if isinstance(value, frozenset) else "$set"
        return {tag: sorted((inner(item) for item in value), key=canonical)}
    if exact and isinstance(value, datetime):
        return {"$datetime": value.isoformat()}  # at its own hour, which may be of another day
    for kind, (tag, write) in _TAGS_OUT.items():
        if isinstance(value, kind):
            return {tag: _written(write, value)}
    fields = _fields_of(value)
    if fields is None:
        raise NotJsonError(f"{type(value).__qualname__} has no JSON form")
    tree = inner(fields)
    return {"$record": [type(value).__name__, tree]} if exact else tree


def _encode_mapping(value: Mapping[Any, Any], inner: Callable[[Any], Any]) -> Any:
    if all(isinstance(key, str) for key in value):
        return {"$" + key if key.startswith("$") else key: inner(item) for key, item in value.items()}
    return {"$pairs": sorted(([inner(k), inner(v)] for k, v in value.items()), key=canonical)}


def _written(write: Callable[[Any], Any], value: Any) -> Any:
    try:
        return write(value)
    except OverflowError:
        raise NotJsonError(f"{value!r} is out of range in UTC") from None


def unescaped(key: str) -> str:
    """Give a key of a tree back as it was before it was escaped."""
    return key[1:] if key.startswith("$$") else key


def _fields_of(value: Any) -> dict[str, Any] | None:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in dataclasses.fields(value) if f.init}
    if hasattr(type(value), "_asdict"):
        return dict(value._asdict())
    if hasattr(type(value), "model_fields"):
        # What a model allows beyond its fields is as much a part of it.
        return {name: getattr(value, name) for name in type(value).model_fields} | (value.model_extra or {})
    return None


def _tag_of(tree: Any) -> tuple[str | None, Any]:
    if isinstance(tree, dict) and len(tree) == 1:
        ((key, body),) = tree.items()
        if key in _TAGS_IN:
            return key, body
    return None, None


def _arm_for(tree: Any, arms: tuple[Any, ...]) -> Any:
    tag, body = _tag_of(tree)
    if tag in ("$record", "$enum"):
        named = [arm for arm in arms if getattr(arm, "__name__", None) == body[0]]
        return named[0] if named else None
    shape = list if isinstance(tree, list) else tuple if tag == "$tuple" else dict
    shaped = [arm for arm in arms if typing.get_origin(arm) is shape]
    return shaped[0] if shaped and isinstance(tree, list | dict) else None


def _build(cls: type, fields: dict[str, Any]) -> Any:
    if cls.__name__ and hasattr(cls, "model_validate"):
        hints = {name: field.annotation for name, field in cls.model_fields.items()}  # type: ignore[attr-defined]
        values = {unescaped(k): decode_as(v, hints.get(unescaped(k))) for k, v in fields.items()}
        # Aliases would be asked for by name; the kept fields go by attribute name.
        return cls.model_validate(values, by_name=True, by_alias=False)
    if not (dataclasses.is_dataclass(cls) or hasattr(cls, "_fields")):
        return decode(fields)
    if cls is Money:  # it is made of what it is, not of its fields
        return Money.of_micros(**fields)
    hints = typing.get_type_hints(cls, include_extras=True)
    return cls(**{unescaped(k): decode_as(v, hints.get(unescaped(k))) for k, v in fields.items()})


def _canonical(tree: Any) -> str:
    if tree is None or tree is True or tree is False:
        return {None: "null", True: "true", False: "false"}[tree]
    if isinstance(tree, str):
        return _quoted(tree)
    if isinstance(tree, int):
        return int.__repr__(tree)
    if isinstance(tree, float):
        return _number(tree)
    if isinstance(tree, list):
        return f"[{','.join(map(_canonical, tree))}]"
    members = sorted(tree.items(), key=lambda member: member[0].encode("utf-16-be"))
    return f"{{{','.join(f'{_canonical(key)}:{_canonical(item)}' for key, item in members)}}}"


def _number(value: float) -> str:
    """Write a float as ECMAScript does: RFC 8785 section 3.2.2.3."""
    if value == 0:
        return "0"
    sign, digits, exponent = Decimal(float.__repr__(value)).normalize(EXACT).as_tuple()
    text = "".join(map(str, digits))
    point = len(text) + int(exponent)
    if 0 < point <= _DIGITS_MAX:
        body = text.ljust(point, "0") if point >= len(text) else f"{text[:point]}.{text[point:]}"
    elif -_ZEROS_MAX < point <= 0:
        body = f"0.{'0' * -point}{text}"
    else:
        fraction = f".{text[1:]}" if len(text) > 1 else ""
        body = f"{text[0]}{fraction}e{'+' if point > 0 else '-'}{abs(point - 1)}"
    return f"-{body}" if sign else body
