"""A TOML file as the values of a configuration.

Rules: an unknown name is an error that lists the known ones, so that a mistyped guard is never silently absent.
Amounts are text, callables are ``"module:function"``, and a hook may be the address of a webhook.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import inspect
import sys
import tomllib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from spanledger.core.approvals import ApprovalRule, over
from spanledger.core.budgets import Budget
from spanledger.core.connectors import Connector
from spanledger.core.controls import Rate, Switch
from spanledger.core.egress import EgressRule
from spanledger.core.grants import Grant
from spanledger.core.money import Amount, parse_amount
from spanledger.core.prices import Price
from spanledger.core.redaction import Redact
from spanledger.core.reserving import ArgumentAmount
from spanledger.core.rules import Rule
from spanledger.errors import ConfigError
from spanledger.webhooks import webhook

M = TypeVar("M")
FILE_NAME = "spanledger.toml"


def read(path: str | Path) -> dict[str, Any]:
    """Read a file as plain data.

    Raises:
        ConfigError: The file is missing or is not TOML.
    """
    try:
        with Path(path).open("rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}") from None


def find(environ: Mapping[str, str]) -> Path | None:
    """Find the file: the one SPANLEDGER_CONFIG names, else spanledger.toml here or beside the program."""
    if environ.get("SPANLEDGER_CONFIG"):
        return Path(environ["SPANLEDGER_CONFIG"])
    program = Path(sys.argv[0]).parent if getattr(sys, "argv", None) else Path()
    return next((path for path in (Path(FILE_NAME), program / FILE_NAME) if path.is_file()), None)


@contextlib.contextmanager
def looking_beside(file: Path) -> Iterator[None]:
    """Find modules that a file names also beside it and beside the program, which may not have begun yet."""
    program = Path(sys.argv[0]).parent if getattr(sys, "argv", None) else Path()
    places = [] if sys.flags.safe_path else [str(place.resolve()) for place in (file.parent, program)]
    added = [place for place in dict.fromkeys(places) if place not in sys.path]
    sys.path += added
    try:
        yield
    finally:
        for place in added:
            with contextlib.suppress(ValueError):
                sys.path.remove(place)


def values(data: Mapping[str, Any]) -> dict[str, Any]:
    """Turn the data of a file into fields of a configuration; names that are not known are left as they are.

    Raises:
        ConfigError: Something in it cannot work.
    """
    tables: dict[str, Callable[[dict[str, Any]], Any]] = {
        "rules": _rule,
        "budgets": _budget,
        "grants": _grant,
        "egress": _egress,
        "connectors": _connector,
        "switches": _switch,
        "rates": _rate,
        "prices": _price,
    }
    made_of: dict[str, Any] = {name: tuple(make(item) for item in _tables(data, name)) for name, make in tables.items()}
    if isinstance(data.get("on_approval_needed"), str):
        hook = data["on_approval_needed"]
        made_of |= {"on_approval_needed": webhook(hook) if hook.startswith(("http://", "https://")) else named(hook)}
    if isinstance(data.get("payload_codec"), str):
        codec = named(data["payload_codec"])
        made_of |= {"payload_codec": codec() if inspect.isroutine(codec) or inspect.isclass(codec) else codec}
    return dict(data) | made_of


def _tables(data: Mapping[str, Any], name: str) -> list[dict[str, Any]]:
    items = data.get(name, [])
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ConfigError(f"{name} is a list of tables: write [[{name}]]")
    return items


def _rule(item: dict[str, Any]) -> Rule:
    where = f"rule {item.get('match')!r}"
    for name in ("definite_errors", "ambiguous_errors"):
        if isinstance(item.get(name), list):
            item = item | {name: tuple(named(text) for text in item[name])}
    if isinstance(item.get("probe"), str):
        item = item | {"probe": named(item["probe"])}
    item = _redacts(item, where)
    if "reserve" in item:
        item = item | {"reserve": _reserve(item["reserve"], where)}
    if "approval" in item:
        item = item | {"approval": _approval(item["approval"], where)}
    return made(Rule, item, where)


def _approval(value: Any, where: str) -> ApprovalRule:
    if isinstance(value, bool):
        return value
    if not isinstance(value, str) or not (value.startswith("over ") or ":" in value):
        raise ConfigError(f"{where}: approval is true, false, 'over 100.00 EUR' or 'module:function', not {value!r}")
    if value.startswith("over "):
        return over(_amount(value.removeprefix("over "), where))
    found: ApprovalRule = named(value)
    return found


def _redacts(item: dict[str, Any], where: str) -> dict[str, Any]:
    if not isinstance(item.get("redact"), list):
        return item
    return item | {"redact": tuple(_redact(one, where) for one in item["redact"])}


def _redact(value: Any, where: str) -> Any:
    return made(Redact, value, f"{where}, redact") if isinstance(value, dict) else value


def _reserve(value: Any, where: str) -> Any:
    if isinstance(value, dict):
        return made(ArgumentAmount, value, f"{where}, reserve")
    return named(value) if ":" in str(value) else _amount(value, where)


def _budget(item: dict[str, Any]) -> Budget:
    where = f"budget {item.get('name')!r}"
    if "limit" in item:
        item = item | {"limit": _amount(item["limit"], where)}
    if isinstance(item.get("soft"), str):
        item = item | {"soft": _amount(item["soft"], where)}
    return made(Budget, item, where)


def _grant(item: dict[str, Any]) -> Grant:
    where = f"grant {item.get('permission')!r}"
    item = _redacts(item, where)
    if "limit" in item:
        item = item | {"limit": _amount(item["limit"], where)}
    if "approval" in item:
        item = item | {"approval": _approval(item["approval"], where)}
    return made(Grant, item, where)


def _egress(item: dict[str, Any]) -> EgressRule:
    where = f"egress rule for {item.get('host')!r}"
    if isinstance(item.get("redact"), list):
        item = item | {"redact": tuple(_redact(one, where) for one in item["redact"])}
    return made(EgressRule, item, where)


def _connector(item: dict[str, Any]) -> Connector:
    where = f"connector {item.get('name')!r}"
    given = {name: item[name] for name in ("credential", "mint") if isinstance(item.get(name), str)}
    called: dict[str, Any] = {}
    # What stands there may be the credential itself: no error repeats it, nor comes of one that does.
    with contextlib.suppress(ConfigError):
        called = {name: named(text) for name, text in given.items()}
    if called.keys() != given.keys():
        raise ConfigError(f"{where}: credential or mint is no 'module:function' that can be found")
    return made(Connector, item | called, where)


def _switch(item: dict[str, Any]) -> Switch:
    return made(Switch, item, f"switch {item.get('match')!r}")


def _rate(item: dict[str, Any]) -> Rate:
    return made(Rate, item, f"rate from {item.get('source')!r} to {item.get('target')!r}")


def _price(item: dict[str, Any]) -> Price:
    where = f"price of {item.get('match')!r}"
    amounts = {name: _amount(item[name], where) for name in ("input", "output", "cached_input") if name in item}
    return made(Price, item | amounts, where)


def _amount(value: object, where: str) -> Amount:
    if not isinstance(value, str):
        raise ConfigError(f"{where}: write an amount as text, for example '500.00 EUR', not {value!r}")
    try:
        return parse_amount(value)
    except ConfigError as error:
        raise ConfigError(f"{where}: {error}") from error


def made(cls: type[M], values: Mapping[str, Any], where: str) -> M:
    """Make a dataclass of named values.

    Raises:
        ConfigError: A name is not known, or one that is needed is missing.
    """
    fields = [field for field in dataclasses.fields(cls) if field.init]  # type: ignore[arg-type]
    known = [field.name for field in fields]
    unknown = sorted(values.keys() - set(known))
    if unknown:
        raise ConfigError(f"{where} has {unknown[0]!r}, which is not known; known are {', '.join(known)}")
    required = [
        f.name for f in fields if f.default is f.default_factory is dataclasses.MISSING and f.name not in values
    ]
    if required:
        raise ConfigError(f"{where} lacks {', '.join(required)}")
    return cls(**{name: tuple(v) if isinstance(v, list) else v for name, v in values.items()})


def named(text: object) -> Any:
    """Find what ``"module:function"`` names.

    Raises:
        ConfigError: It is not there.
    """
    module, _, name = str(text).partition(":")
    try:
        return getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError(f"cannot find {text!r}: {error}; write 'module:function'") from error
