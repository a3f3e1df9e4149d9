"""Bring the schema up to date.

Rules: numbered migrations run once, in order, and are never edited once released; functions and views are
applied again when their text changed. All of it is one transaction under an advisory lock, so that any number
of programs may start at once. A migration whose first line is ``-- breaking`` shuts out programs that do not
know it; any other newer schema is accepted, because `spanledger_v1` only grows.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from importlib.resources.abc import Traversable

import psycopg

from spanledger.errors import ConfigError

LOCK = 0x5370616E  # "Span"

_BOOTSTRAP = """
create schema if not exists spanledger;
create table if not exists spanledger.migration (
    version integer primary key,
    name text not null,
    sha256 text not null,
    breaking boolean not null,
    applied_at timestamptz not null default clock_timestamp()
);
create table if not exists spanledger.module (
    name text primary key,
    sha256 text not null,
    applied_at timestamptz not null default clock_timestamp()
);
"""

_DONE = "insert into spanledger.migration (version, name, sha256, breaking) values (%s, %s, %s, %s)"
_APPLIED = (
    "insert into spanledger.module (name, sha256) values (%s, %s)"
    " on conflict (name) do update set sha256 = excluded.sha256, applied_at = clock_timestamp()"
)
_EXPECTED = """
do $$
begin
    if (select coalesce(max(version), 0) from spanledger.migration) <> {since} then
        raise exception 'this is for a schema at version {since}, and it is at %',
            (select coalesce(max(version), 0) from spanledger.migration);
    end if;
end
$$;
""".strip()


@dataclass(frozen=True, slots=True)
class Script:
    """A file of SQL.

    Attributes:
        name: Its name without the ending.
        text: The SQL.
    """

    name: str
    text: str

    @property
    def version(self) -> int:
        """The number a migration begins with."""
        return int(self.name.partition("_")[0])

    @property
    def breaking(self) -> bool:
        """Programs that do not know this migration must not go on."""
        return self.text.startswith("-- breaking")

    @property
    def statements(self) -> str:
        """The text, as it can stand before other statements."""
        return f"{self.text.rstrip().removesuffix(';')};"

    @property
    def sha256(self) -> str:
        """Hash of the text."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrations() -> list[Script]:
    """All migrations this program knows, in order."""
    return _scripts("migrations")


def modules() -> list[Script]:
    """All functions and views, in an order in which they can be created."""
    # A function of language sql is checked when it is made; the others only name each other in their bodies.
    return sorted(_scripts("functions"), key=lambda script: "language sql" not in script.text) + _scripts("views")


def migrate(connection: psycopg.Connection) -> list[str]:
    """Apply what is missing.

    Args:
        connection: Of a role that may create schemas.

    Returns:
        Names of what was applied; empty where all was up to date.

    Raises:
        ConfigError: The schema is newer than this program and marked as breaking, or a migration was edited.
    """
    applied: list[str] = []
    with connection.transaction():
        connection.execute("select pg_advisory_xact_lock(%s)", (LOCK,))
        connection.execute(_BOOTSTRAP)
        check_version(connection)
        done: dict[int, str] = dict(connection.execute("select version, sha256 from spanledger.migration").fetchall())
        for script in migrations():
            if script.version not in done:
                connection.execute(script.text)
                connection.execute(_DONE, (script.version, script.name, script.sha256, script.breaking))
                applied.append(script.name)
            elif done[script.version] != script.sha256:
                raise ConfigError(f"migration {script.name} was edited after it had been applied; restore the file")
        # An older program must not put older functions over a newer schema's.
        if max(done, default=0) <= migrations()[-1].version:
            applied += _apply_modules(connection)
            connection.execute("select spanledger.grant_rights()")
    return applied


def script(since: int = 0) -> str:
    """Write down what `migrate` would do, for somebody who lets no program change a schema.

    Args:
        since: The version that the schema is at; 0 for a database without a ledger.

    Returns:
        One transaction. It does nothing, and says so, where the schema is at another version.

    Raises:
        ConfigError: No schema that this program knows is at `since`.
    """
    if since not in (0, *(known.version for known in migrations())):
        raise ConfigError(f"there is no version {since} of the schema; the newest is {migrations()[-1].version}")
    parts = [
        f"-- The schema of a spanledger ledger, from version {since} to {migrations()[-1].version}.",
        f"begin;\nselect pg_advisory_xact_lock({LOCK});",
        _BOOTSTRAP.strip(),
        _EXPECTED.format(since=since),
    ]
    for new in migrations():
        if new.version > since:
            parts += [new.statements, _written(_DONE, new.version, new.name, new.sha256, new.breaking)]
    for module in modules():
        parts += [module.statements, _written(_APPLIED, module.name, module.sha256)]
    return "\n\n".join([*parts, "select spanledger.grant_rights();\ncommit;\n"])


def check_version(connection: psycopg.Connection) -> None:
    """Make sure this program can work with the schema.

    Raises:
        ConfigError: It is too new for this program. (Too old shows at the first call, or here as a missing table.)
    """
    row = connection.execute("select max(version) from spanledger.migration where breaking").fetchone()
    _refuse_newer(row[0] if row else None)


def check_schema(connection: psycopg.Connection) -> None:
    """Make sure the schema is there, not older than this program needs and not too new for it.

    Raises:
        ConfigError: It is not.
    """
    missing = "run `spanledger migrate` with a role that may create schemas"
    try:
        # A view, because a role that is bound to a tenant sees no table.
        row = connection.execute("select version, breaking from spanledger_v1.version").fetchone()
    except (psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName):
        raise ConfigError(f"this database holds no ledger yet: {missing}") from None
    version, breaking = row or (None, None)
    _refuse_newer(breaking)
    needed = migrations()[-1].version
    if (version or 0) < needed:
        raise ConfigError(
            f"the ledger's schema is at version {version or 0}, this spanledger needs {needed}: {missing}"
        )


def _refuse_newer(breaking: int | None) -> None:
    known = migrations()[-1].version
    if breaking is not None and breaking > known:
        raise ConfigError(
            f"the ledger's schema is at version {breaking}, this spanledger knows {known}: upgrade spanledger here"
        )


def _apply_modules(connection: psycopg.Connection) -> list[str]:
    done: dict[str, str] = dict(connection.execute("select name, sha256 from spanledger.module").fetchall())
    applied = []
    for script in modules():
        if done.get(script.name) != script.sha256:
            connection.execute(script.text)
            connection.execute(_APPLIED, (script.name, script.sha256))
            applied.append(script.name)
    return applied


def _written(statement: str, *values: object) -> str:
    """A statement with its values, for no server in particular."""
    return f"{statement % tuple(psycopg.sql.Literal(value).as_string(None) for value in values)};"


def _scripts(folder: str) -> list[Script]:
    files: list[Traversable] = list((resources.files("spanledger.ledger") / "sql" / folder).iterdir())
    found = [Script(f.name.removesuffix(".sql"), f.read_text("utf-8")) for f in files if f.name.endswith(".sql")]
    return sorted(found, key=lambda script: script.name)
