"""Commands that show conversations and agents: which there are, how they ended, what they came to.

Rules: everything is read from the ledger's documented views; nothing is changed but by `--end`, which says who did. A
session whose process died is called lost. What is not known, such as the end of what is open, is left blank.
"""

from __future__ import annotations

import argparse
import datetime as dt
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from spanledger.cli.common import Commands, answer, count, decider, name_decider, opened, shown, words
from spanledger.core.money import amount_of
from spanledger.errors import SpanledgerError

STATUSES = ("open", "done", "failed", "interrupted", "lost")


def add_to(commands: Commands) -> None:
    """Add the commands of this group."""
    sessions = commands.add(
        "sessions",
        _sessions,
        "List sessions, the newest first; or show one with its turns.",
        "spanledger sessions --agent support --status failed; spanledger sessions chat-9",
    )
    sessions.add_argument("session", nargs="?", type=words, metavar="ID", help="one session, with its turns")
    for name in ("agent", "actor"):
        sessions.add_argument(f"--{name}", type=words, help=f"only sessions of this {name}")
    sessions.add_argument("--status", choices=STATUSES, help="only sessions that stand so now")
    sessions.add_argument("--limit", type=count, default=100, help="at most so many (100)")
    sessions.add_argument(
        "--end", choices=STATUSES[1:4], metavar="STATUS", help="end the session: done, failed, interrupted"
    )
    sessions.add_argument("--error", type=words, help="with --end: what went wrong")
    name_decider(sessions)
    agents = commands.add(
        "agents", _agents, "List agents; or show what one has spent, and may.", "spanledger agents support"
    )
    agents.add_argument("agent", nargs="?", type=words, metavar="NAME", help="one agent")


def _sessions(arguments: argparse.Namespace) -> int:
    if arguments.session is None and (arguments.end or arguments.error):
        raise SpanledgerError("say which session to end: spanledger sessions ID --end done")
    with opened(arguments) as ledger:
        if arguments.session is None:
            which = {"agent": arguments.agent, "actor": arguments.actor, "status": arguments.status}
            rows = ledger.sessions(limit=arguments.limit, **which)
            answer(arguments, rows, _listed(_SESSIONS, rows) if rows else ["no sessions"])
            return 0
        if arguments.end and not ledger.end_session(
            arguments.session, by=decider(arguments), status=arguments.end, error=arguments.error
        ):
            raise SpanledgerError(f"nothing of session {shown(arguments.session)} is open")
        session = ledger.session(arguments.session)
        if session is None:
            raise SpanledgerError(f"the ledger knows no session {shown(arguments.session)}; see `spanledger sessions`")
        turns = ledger.turns(arguments.session)
    answer(arguments, session | {"turns": turns}, _of_session(session, turns))
    return 0


def _of_session(session: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    whose = " for ".join(shown(name) for name in (session["agent"], session["actor"]) if name)
    yield f"session {shown(session['session_id'])}{f', {whose}' if whose else ''}: {_status(session)}"
    if session["agent_version"] or session["environment"]:
        yield f"ran as  {_ran_as(session)}"
    ended = f", ended {_at(session['ended_at'])}" if session["ended_at"] else ""
    yield f"since   {_at(session['started_at'])}{ended}"
    failed = f", {session['failed_calls']} failed" if session["failed_calls"] else ""
    yield f"calls   {session['calls']} ({session['model_calls']} of models{failed}), {_spent(session)}"
    yield f"tokens  {_kinds(session)}"
    yield f"took    {_took(session['latency_s'])} in turns, {_took(session['model_latency_s'])} of it for models"
    if turns:
        yield ""
        yield from _listed(_TURNS, turns)


def _agents(arguments: argparse.Namespace) -> int:
    with opened(arguments) as ledger:
        if arguments.agent is None:
            spent = {row["agent"]: row for row in ledger.spending()}
            rows = [row | {"spent": spent.get(row["name"])} for row in ledger.agents()]
            answer(arguments, rows, _listed(_AGENTS, rows) if rows else ["no agents"])
            return 0
        agent = ledger.agent(arguments.agent)
        if agent is None:
            raise SpanledgerError(
                f"the ledger has not heard of agent {shown(arguments.agent)}; see `spanledger agents`"
            )
        sessions = ledger.sessions(agent=arguments.agent, limit=10)
        grants = [row for row in ledger.grants() if row["agent"] == arguments.agent]
    answer(arguments, agent | {"last_sessions": sessions, "grants": grants}, _of_agent(agent, sessions, grants))
    return 0


def _of_agent(
    agent: Mapping[str, Any], sessions: Sequence[Mapping[str, Any]], grants: Sequence[Mapping[str, Any]]
) -> Iterator[str]:
    from spanledger.cli.grants import grant_text

    description = f": {shown(agent['description'])}" if agent["description"] else ""
    yield f"agent {shown(agent['name'])}{description}"
    yield f"since     {_at(agent['first_seen_at'])}, {agent['sessions']} sessions"
    spent = agent["spent"]
    yield (
        f"calls     {spent['calls']}, {spent['refused_calls']} refused, {_spent(spent)}" if spent else "calls     none"
    )
    for number, version in enumerate(agent["versions"]):
        ran = f"{_ran_as(version)}: {version['sessions']} sessions, last {_at(version['last_session_at'])}"
        yield f"{'' if number else 'versions':<10}{ran}"
    for number, grant in enumerate(grants):
        yield f"{'' if number else 'grants':<10}{grant_text(grant)}"
    if sessions:
        yield ""
        yield from _listed(_SESSIONS, sessions)


def _status(row: Mapping[str, Any]) -> str:
    by = f" by {shown(row['ended_by'])}" if row["ended_by"] else ""
    error = f" ({shown(row['error'])})" if row["error"] else ""
    return f"{row['status']}{by}{error}"


def _spent(row: Mapping[str, Any]) -> str:
    amounts = [str(amount_of(unit, steps)) for unit, steps in sorted(row["cost"].items())]
    return ", ".join([f"{row['tokens']} tokens", *amounts])


def _kinds(row: Mapping[str, Any]) -> str:
    told = f"{row['input_tokens']} read ({row['cached_tokens']} of them cached), {row['output_tokens']} written"
    return told + (f" ({row['reasoning_tokens']} of them in reasoning)" if row["reasoning_tokens"] else "")


def _ran_as(row: Mapping[str, Any]) -> str:
    said = (("version", row["agent_version"]), ("in", row["environment"]))
    return " ".join(f"{what} {shown(value)}" for what, value in said if value)


def _took(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds:.1f} s"


def _at(text: str | None) -> str:
    return "" if text is None else f"{dt.datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


_SESSIONS = {
    "session": lambda row: shown(row["session_id"]),
    "agent": lambda row: shown(row["agent"] or "-"),
    "status": lambda row: row["status"],
    "turns": lambda row: str(row["turns"]),
    "calls": lambda row: str(row["calls"]),
    "spent": _spent,
    "started": lambda row: _at(row["started_at"]),
}
_TURNS = {
    "turn": lambda row: shown(row["workflow_id"]),
    "status": lambda row: row["status"],
    "calls": lambda row: str(row["calls"]),
    "spent": _spent,
    "in/out": lambda row: f"{row['input_tokens']}/{row['output_tokens']}",
    "took": lambda row: _took(row["latency_s"]),
    "trace": lambda row: (row["trace_id"] or "-")[:8],
    "started": lambda row: _at(row["started_at"]),
}
_AGENTS = {
    "agent": lambda row: shown(row["name"]),
    "sessions": lambda row: str(row["sessions"]),
    "calls": lambda row: str(row["spent"]["calls"] if row["spent"] else 0),
    "spent": lambda row: _spent(row["spent"]) if row["spent"] else "",
    "granted": lambda row: ", ".join(map(shown, row["granted"])),
    "since": lambda row: _at(row["first_seen_at"]),
}


def _listed(columns: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    cells = [list(columns), *([text(row) for text in columns.values()] for row in rows)]
    widths = [max(len(line[n]) for line in cells) + 2 for n in range(len(columns))]
    for line in cells:
        yield "".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
