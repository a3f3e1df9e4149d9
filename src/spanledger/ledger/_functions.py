"""Steps as SQL, and answers as values.

Rules: one statement a step. The functions take a tenant and a JSON array of items and give an array of answers in
the same order. What the database says when it cannot is turned into the errors of `spanledger.errors` here and
nowhere else.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import field, replace
from typing import Any

import psycopg
import psycopg_pool

from spanledger.config import Config
from spanledger.core.asking import Ask
from spanledger.core.call import Begun, Verdict
from spanledger.core.frozen import value
from spanledger.core.money import amount_of
from spanledger.errors import ConfigError, LedgerUnavailable

# Text and name; those that every call asks are worth preparing.
_ASKED = {
    function: (
        f"select spanledger_v1.{function}($1, $2::jsonb)".encode(),
        f"spanledger_{function}".encode() if function in {"begin", "settle", "fail"} else None,
    )
    for function in (
        "begin",
        "shadow",
        "settle",
        "fail",
        "resolve",
        "probed",
        "cancel",
        "approve",
        "deny",
        "peek",
        "authorize",
        "permissions",
        "controlled",
        "delegate",
    )
}
_OLD_SCHEMA = (
    psycopg.errors.UndefinedFunction,
    psycopg.errors.InvalidSchemaName,
    psycopg.errors.UndefinedTable,
)
_AMOUNTS = ("limit", "spent", "held", "remaining", "requested")

ROWS_MAX = 10_000


class Prefix(str):
    """A text that a column begins with; of hexadecimal digits, so that nothing in it needs escaping."""

    __slots__ = ()


class Since(str):
    """A moment that a column is not before."""

    __slots__ = ()


@value
class Read:
    """Read rows of a view of `spanledger_v1`.

    Attributes:
        view: The view's name.
        where: Column → value that it equals, or a `Prefix` or `Since`; None is no condition.
        order: An ORDER BY clause of our own.
        rows_max: At most so many.
    """

    view: str
    where: Mapping[str, Any] = field(default_factory=dict)
    order: str = "1"
    rows_max: int = ROWS_MAX


@value
class Run:
    """Call a function of `spanledger_v1` that an operator uses.

    Attributes:
        function: Its name.
        arguments: Its arguments, in order; a dict or list goes as JSON.
    """

    function: str
    arguments: tuple[Any, ...]


Query = Ask | Read | Run


@value
class Question:
    """A statement as libpq takes it.

    Attributes:
        text: The SQL, with ``$1``, ``$2``, … for the parameters.
        parameters: Texts, and what `str` makes of other values; None is NULL.
        name: Of a statement that is worth preparing; None of the others.
    """

    text: bytes
    parameters: tuple[Any, ...]
    name: bytes | None = None


def applying(config: Config, by: str, tenant: str | None = None) -> Run:
    """Write the controls of a configuration into the ledger of its tenant, or of another."""
    return Run("apply", (tenant or config.tenant, config.controls(), by))


def starting(config: Config) -> Run | None:
    """Write the controls of a configuration with which a program starts; None where it has none.

    A program that starts lets nothing go on that an operator has stopped, takes away no approval and no need of a
    permission, and gives back no grant that was revoked: that takes `apply`, `resume` or `grants add`.
    """
    config = replace(config, switches=tuple(switch for switch in config.switches if not switch.allowed))
    controls = config.controls()
    controls["approvals"] = [control for control in controls["approvals"] if control["approval"] is not False]
    controls["permissions"] = [control for control in controls["permissions"] if control["permission"] is not None]
    controls["new_grants"] = controls.pop("grants")
    return Run("apply", (config.tenant, controls, "process")) if any(controls.values()) else None


def question(query: Read | Run) -> Question:
    """Return the statement of a step."""
    if isinstance(query, Run):
        marks = (f"${n}{'::jsonb' if isinstance(a, dict | list) else ''}" for n, a in enumerate(query.arguments, 1))
        values = tuple(json.dumps(a) if isinstance(a, dict | list) else a for a in query.arguments)
        return Question(f"select spanledger_v1.{query.function}({', '.join(marks)})".encode(), values)
    wanted = {column: value for column, value in query.where.items() if value is not None}
    where = " and ".join(_condition(*one, n) for n, one in enumerate(wanted.items(), 1))
    view = f"spanledger_v1.{query.view} v where {where or 'true'}"
    text = f"select to_jsonb(v) from {view} order by {query.order} limit ${len(wanted) + 1}"  # noqa: S608 - names are ours
    return Question(text.encode(), (*wanted.values(), query.rows_max))


def _condition(column: str, value: Any, n: int) -> str:
    match value:
        case Prefix():
            return f"starts_with({column}, ${n})"
        case Since():
            return f"{column} >= ${n}"
        case _:
            return f"{column} = ${n}"


def together(function: str, tenant: str, items: Iterable[str]) -> Question:
    """Return the statement that asks a function about many items, each JSON text."""
    text, name = _ASKED[function]
    return Question(text, (tenant, f"[{','.join(items)}]"), name)


def asked_of(connection: psycopg.Connection[Any], query: Read | Run) -> list[tuple[Any, ...]]:
    """Ask over a connection of one's own."""
    asked = question(query)
    return psycopg.RawCursor(connection).execute(asked.text, asked.parameters).fetchall()


def answer(query: Read | Run, rows: list[tuple[Any, ...]]) -> Any:
    """Turn the rows of `question(query)` into what the step is answered with."""
    return [row[0] for row in rows] if isinstance(query, Read) else rows[0][0]


def answer_of(ask: Ask, value: Any) -> Any:
    """Turn what a function said of one item into what the step is answered with."""
    return _begun(ask, value) if ask.begins else value


def translated(error: psycopg.Error) -> Exception:
    """Turn an error of the database into one of ours."""
    if isinstance(error, _OLD_SCHEMA):
        return ConfigError("the ledger's schema is missing or too old: run `spanledger migrate`")
    if error.sqlstate in ("SL001", "22023"):  # ours, and a time zone that the database does not know
        return ConfigError(str(error.diag.message_primary))
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return ConfigError(
            f"the database role may not do this: {error.diag.message_primary}; "
            "`spanledger role` says who may, `spanledger doctor` what this role may"
        )
    words = str(error).strip() or type(error).__name__
    too_large = (error.sqlstate or "").startswith("54")
    if too_large or isinstance(error, psycopg.DataError | psycopg.IntegrityError):
        # It is there and will say so every time; a rule for when it is down does not apply.
        # The primary message, because the rest may show the row.
        return ConfigError(f"the ledger cannot take this: {error.diag.message_primary or words}")
    return LedgerUnavailable(f"the ledger did not answer: {words}", asked=_was_asked(error))


def dsn_text(dsn: object) -> str:
    """Return a connection string as it is; a ConfigError where it is no text."""
    if not isinstance(dsn, str):
        raise ConfigError(f"the ledger's DSN is a text, and the callable gave {type(dsn).__name__}")
    return dsn


def bad_dsn(error: psycopg.Error) -> ConfigError:
    """Say that a connection string is none, and not what it holds: libpq repeats the part that may be a password."""
    said = str(error).strip()
    if not said.startswith(("invalid connection option", "invalid URI query parameter")):
        said = re.sub(r'".*"', "…", said, flags=re.DOTALL)
    return ConfigError(
        f"SPANLEDGER_DSN is not a Postgres connection string: {said}; write it as postgresql://user@host:5432/database"
    )


def no_connection() -> LedgerUnavailable:
    """Say that there was no connection to be had in time."""
    return LedgerUnavailable(
        "the ledger did not answer in time: no connection; is SPANLEDGER_DSN right and the server up?"
    )


def no_answer(timeout_s: float) -> LedgerUnavailable:
    """Say that something was asked and no answer came in time."""
    return LedgerUnavailable(
        f"the ledger did not answer within {timeout_s:g} s; is the server overloaded or frozen?", asked=True
    )


def undecided(error: Exception) -> bool:
    """Tell whether what was asked may be answered if it is asked again.

    The answer was lost with the connection; or the schema is older than this program, which may just have been changed:
    functions that are being replaced while they run do not find each other.
    """
    cause = error.__cause__
    return isinstance(cause, _OLD_SCHEMA) or (isinstance(cause, psycopg.Error) and _was_asked(cause))


@contextlib.contextmanager
def asked_before() -> Iterator[None]:
    """Where a question is asked again because its answer was lost: it may have reached the ledger the first time."""
    try:
        yield
    except LedgerUnavailable as error:
        error.asked = True
        raise


def _was_asked(error: psycopg.Error) -> bool:
    unconnected = isinstance(
        error, psycopg.errors.ConnectionTimeout | psycopg_pool.PoolTimeout | psycopg_pool.PoolClosed
    )
    return error.pgconn is None and not unconnected


def _begun(ask: Ask, answer: dict[str, Any]) -> Begun:
    details = answer
    if "budget" in answer:
        details = answer | {name: amount_of(answer["unit"], answer[name]) for name in _AMOUNTS}
    result = answer.get("result")
    return Begun(
        verdict=Verdict(answer["verdict"]),
        key=ask.item["key"],
        attempt=answer["attempt"],
        attempt_id=ask.item["attempt_id"],
        tool=ask.item["tool"],
        tenant=ask.tenant,
        key_source=ask.item["key_source"],
        now_s=float(answer["now_s"]),
        attempts=answer["attempts"],
        result=None if result is None else json.loads(result),
        result_kept=bool(answer.get("result_kept")),
        arguments_differ=bool(answer.get("arguments_differ")),
        reason=answer.get("reason") or _reason(details),
        details=details,
        budgets=tuple(answer.get("budgets") or ()),
        reserved=ask.item["reserve"],
        approval_id=answer.get("approval_id"),
    )


def _reason(details: Mapping[str, Any]) -> str | None:
    if details.get("pruned_at"):
        return f"its result was pruned on {details['pruned_at'][:10]}"
    if "budget" not in details:
        return None
    return (
        f"budget {details['budget']!r} has {details['remaining']} left of {details['limit']} "
        f"({details['spent']} spent, {details['held']} held), {details['requested']} requested"
    )
