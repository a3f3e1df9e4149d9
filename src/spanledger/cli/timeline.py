"""The timeline of the ledger in words that a person can read.

Rules: pure; rows in, text out. What models and callers wrote is shown as text that cannot steer a terminal. Every line
says when, what, of which call, and by whom or what it was decided. What is not known is said to be unknown.
"""

from __future__ import annotations

import datetime as dt
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from spanledger.cli.common import shown
from spanledger.core.money import amount_of

Row = Mapping[str, Any]

WIDTH: Final = 110
ARGUMENTS_CHARS_MAX: Final = 300
_SAID: Final = {
    "inner": "workflow",
    "decision": "decided",
    "replay": "replayed",
    "lease_over": "unknown",
    "soft_limit": "budget",
    "unconverted": "budget",
    "late_success": "late",
    "late_failure": "late",
    "failure_spent": "spent",
    "passed_over": "shadow",
    "not_authorized": "refused",
    "not_delegated": "refused",
    "not_invoked": "released",
}
_COUNTED: Final = {
    "run": "ran",
    "replay": "replayed",
    "refused": "refused",
    "asked": "asked of a person",
    "unknown": "of unknown outcome",
}


def lines(rows: Iterable[Row], *, workflows: bool = False) -> Iterator[str]:
    """Write rows as lines, each day under its date.

    Args:
        rows: In order.
        workflows: Say of each whose it is.
    """
    day = None
    for row in rows:
        at = dt.datetime.fromisoformat(row["at"]).astimezone()
        if at.date() != day:
            day = at.date()
            yield f"{day}"
        yield from line(row, at, workflow=workflows)


def line(row: Row, at: dt.datetime, *, workflow: bool = False) -> Iterator[str]:
    """Write one row."""
    of = f"{shown(row['tool'])} {row['key'][:8]}  " if row["tool"] and row["key"] else ""
    whose = f"[{shown(row['workflow_id'])}]  " if workflow else ""
    start = f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}  {_SAID.get(row['what'], shown(row['what'])):<10} "
    yield from textwrap.wrap(
        f"{whose}{of}{said(row)}".rstrip() or "-",
        WIDTH,
        initial_indent=start,
        subsequent_indent=" " * len(start),
        break_on_hyphens=False,
    )


def said(row: Row) -> str:
    """Say what a row is about, besides when and of which call."""
    detail = row["detail"] or {}
    words = _WORDS.get(row["what"])
    text = words(row, detail) if words else _plain(detail)
    if detail.get("pruned_at"):
        text = f"{text} (pruned: with what, by whom and why is not known any more)".lstrip()
    by = f"by {shown(row['by_name'])}" if row["by_name"] else ""
    return ": ".join(part for part in (by, text) if part)


def runs(rows: Iterable[Row]) -> list[dict[str, Any]]:
    """Say of every run of the workflow who it was, what for, and how it ended; None where that was never told."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row["what"] == "started":
            found[row["run_id"]] = {
                "run_id": row["run_id"],
                "goal": row["detail"].get("goal"),
                "agent": row["agent"],
                "actor": row["actor"],
                "trace_id": row["trace_id"],
                "started_at": row["at"],
                "ended_at": None,
                "status": None,
            }
        elif row["what"] == "ended" and row["run_id"] in found:
            found[row["run_id"]] |= {"ended_at": row["at"], "status": row["detail"].get("status")}
    return list(found.values())


def totals(rows: Iterable[Row]) -> dict[str, Any]:
    """Add up what happened, and what it cost by unit."""
    counts: Counter[str] = Counter()
    cost: Counter[str] = Counter()
    resolved = 0
    for row in rows:
        what = "unknown" if row["what"] == "lease_over" else row["what"]
        counts[what] += 1
        resolved += row["what"] == "resolved" and row["detail"].get("outcome") in ("succeeded", "failed")
        if row["what"] == "succeeded":
            cost.update(_cost(row["detail"]))
    counts["unknown"] = max(0, counts["unknown"] - resolved)
    return {name: counts[name] for name in _COUNTED} | {
        "cost": [str(amount_of(unit, steps)) for unit, steps in sorted(cost.items())]
    }


def traces(rows: Iterable[Row]) -> list[str]:
    """List the traces that it is in, in order."""
    return list(dict.fromkeys(row["trace_id"] for row in rows if row["trace_id"]))


def summary(rows: list[Row]) -> Iterator[str]:
    """Write what a timeline comes to."""
    total = totals(rows)
    counted = ", ".join(f"{total[name]} {text}" for name, text in _COUNTED.items() if total[name])
    yield f"calls   {counted or 'none'}"
    if total["cost"]:
        yield f"cost    {', '.join(total['cost'])}"
    for number, trace_id in enumerate(traces(rows)):
        yield f"{'' if number else 'traces':<8}{shown(trace_id)}"
    for run in runs(rows):
        if run["status"] is None:
            yield f"A run of {_at(run['started_at'])} has told no end: it still runs, or its process died."


def _at(text: str) -> str:
    return f"{dt.datetime.fromisoformat(text).astimezone():%Y-%m-%d %H:%M:%S}"


def _plain(detail: Mapping[str, Any]) -> str:
    return ", ".join(f"{shown(name)} {shown(value)}" for name, value in detail.items() if name not in _PLACES)


def _started(row: Row, detail: Mapping[str, Any]) -> str:
    who = " for ".join(shown(name) for name in (row["agent"], row["actor"]) if name)
    goal = shown(detail["goal"]) if detail.get("goal") else ""
    within = f"(inside workflow {shown(detail['within'])})" if detail.get("within") else ""
    return " ".join(part for part in (": ".join(part for part in (who, goal) if part), within) if part)


def _decision(_row: Row, detail: Mapping[str, Any]) -> str:
    others = [shown(one) for one in detail.get("options") or () if one != detail.get("chosen")]
    text = f"{shown(detail.get('name', '-'))}: {shown(detail.get('chosen', '-'))}"
    text += f", not {' or '.join(others)}" if others else ""
    text += f", because {shown(detail['because'])}" if detail.get("because") else ""
    return text + (f" (confidence {shown(detail['confidence'])})" if detail.get("confidence") is not None else "")


def _event(_row: Row, detail: Mapping[str, Any]) -> str:
    said = detail.get("detail") or {}
    return f"{shown(detail.get('name', '-'))}{f': {_plain(said)}' if said else ''}"


def _run(row: Row, detail: Mapping[str, Any]) -> str:
    attempt = f" (attempt {row['attempt']})" if (row["attempt"] or 0) > 1 else ""
    consent = f" (consent {detail['approval_id'][:8]})" if detail.get("approval_id") else ""
    return f"{_arguments(detail)}{attempt}{consent}".strip()


def _asked(_row: Row, detail: Mapping[str, Any]) -> str:
    asked_by = detail.get("control") or detail.get("rule")
    why = f", asked for by {shown(asked_by)}" if asked_by else ""
    return f"a person has to allow it{why}: {_arguments(detail)} (approval {shown(detail.get('approval_id', '-'))[:8]})"


def _refused(row: Row, detail: Mapping[str, Any]) -> str:
    refusal = detail.get("refusal") or detail
    rule = f" (rule {shown(detail['rule'])})" if detail.get("rule") else ""
    text = _refusal(refusal)
    arguments = f" {_arguments(detail)}" if row["source"] == "call" and detail.get("arguments") else ""
    return f"{text}{rule}{arguments}"


def _refusal(refusal: Mapping[str, Any]) -> str:
    reason = f": {shown(refusal['reason'])}" if refusal.get("reason") else ""
    if "budget" in refusal:
        asked, left, limit = (amount_of(refusal["unit"], refusal[n]) for n in ("requested", "remaining", "limit"))
        return f"budget {shown(refusal['budget'])} has {left} left of {limit}, {asked} requested{reason}"
    if "switch" in refusal:
        by = f" by {shown(refusal['by'])}" if refusal.get("by") else ""
        return f"stopped{by}, switch {shown(refusal['switch'])}{reason}"
    if refusal.get("verdict"):
        return f"{shown(refusal['verdict'])}{reason}"
    grant = f" (grant {shown(refusal['grant'])})" if refusal.get("grant") else ""
    return f"{reason.removeprefix(': ') or 'not permitted'}{grant}"


def _authorized(_row: Row, detail: Mapping[str, Any]) -> str:
    said = detail.get("said") or {}
    why = f": {shown(said['reason'])}" if said.get("reason") else ""
    person = ", with a person's approval of each call" if said.get("approval") else ""
    by = f" (grant {shown(said['grant'])})" if said.get("grant") else ""
    context = f" {shown(detail['context'])}" if detail.get("context") else ""
    return f"{shown(detail.get('permission', '-'))}{context}{why}{person}{by}"


def _delegated(_row: Row, detail: Mapping[str, Any]) -> str:
    what = ", ".join(map(shown, detail.get("permissions") or ()))
    why = f": {shown(detail['reason'])}" if detail.get("reason") else ""
    return f"{what} to {shown(detail.get('to_agent', '-'))}{why}"


def _succeeded(_row: Row, detail: Mapping[str, Any]) -> str:
    costs = [str(amount_of(unit, steps)) for unit, steps in _cost(detail).items()]
    return f"cost {', '.join(costs)}" if costs else ""


def _failed(_row: Row, detail: Mapping[str, Any]) -> str:
    error = detail.get("error") or {}
    return ": ".join(shown(error[name]).removeprefix("builtins.") for name in ("type", "message") if error.get(name))


def _unknown(row: Row, detail: Mapping[str, Any]) -> str:
    why = _failed(row, detail) or "it ran, and nobody has said how it ended; its process may have died"
    return f"{why}. Find out, then: spanledger resolve {row['key'][:8]}"


def _replay(_row: Row, detail: Mapping[str, Any]) -> str:
    where = (detail.get("original") or {}).get("trace_id")
    return f"given the result of attempt {shown(detail.get('attempt', '-'))}" + (
        f" in trace {shown(where)[:8]}" if where else ""
    )


def _ended(_row: Row, detail: Mapping[str, Any]) -> str:
    return " with ".join(shown(detail[name]) for name in ("status", "error") if detail.get(name))


def _inner(_row: Row, detail: Mapping[str, Any]) -> str:
    goal = f": {shown(detail['goal'])}" if detail.get("goal") else ""
    return f"{shown(detail.get('workflow_id', '-'))} inside this one{goal}"


def _consent(_row: Row, detail: Mapping[str, Any]) -> str:
    return shown(detail["note"]) if detail.get("note") else ""


def _resolved(_row: Row, detail: Mapping[str, Any]) -> str:
    reason = f", {shown(detail['reason'])}" if detail.get("reason") else ""
    return f"{shown(detail.get('outcome', '-'))}{reason}"


def _soft_limit(_row: Row, detail: Mapping[str, Any]) -> str:
    left = amount_of(detail["unit"], detail["remaining"]) if "unit" in detail else "-"
    return f"{shown(detail.get('name', '-'))} is past its soft limit, {left} left"


def _unconverted(_row: Row, detail: Mapping[str, Any]) -> str:
    cost = " + ".join(str(amount_of(unit, steps)) for unit, steps in (detail.get("cost") or {}).items())
    counted = amount_of(detail["unit"], detail["counted"]) if "unit" in detail else "-"
    return f"{shown(detail.get('budget', '-'))} has no rate for {cost or '-'} that it cost, and counts {counted}"


def _unguarded(_row: Row, _detail: Mapping[str, Any]) -> str:
    return "it had run while the ledger did not answer; how it ended was told later"


def _arguments(detail: Mapping[str, Any]) -> str:
    text = shown(detail.get("arguments") or "")
    return text if len(text) <= ARGUMENTS_CHARS_MAX else f"{text[: ARGUMENTS_CHARS_MAX - 1]}…"


def _cost(detail: Mapping[str, Any]) -> dict[str, int]:
    """What it cost: what was reserved, but for what is known better."""
    cost = (detail.get("reserved") or {}) | (detail.get("cost") or {})
    return {unit: steps for unit, steps in cost.items() if unit != "calls" and steps}


_PLACES: Final = ("trace_id", "span_id", "accounts", "held", "units", "fingerprint")
_WORDS: Final = {
    "started": _started,
    "ended": _ended,
    "inner": _inner,
    "step": lambda _row, detail: shown(detail.get("text", "")),
    "decision": _decision,
    "event": _event,
    "replay": _replay,
    "run": _run,
    "asked": _asked,
    "authorized": _authorized,
    "not_authorized": _authorized,
    "delegated": _delegated,
    "not_delegated": _delegated,
    "refused": _refused,
    "succeeded": _succeeded,
    "failed": _failed,
    "unknown": _unknown,
    "lease_over": _unknown,
    "approved": _consent,
    "denied": _consent,
    "expired": lambda _row, _detail: "nobody answered in time",
    "released": lambda _row, _detail: "it never ran",
    "not_invoked": lambda _row, _detail: "whoever asked had gone before the answer came",
    "resolved": _resolved,
    "soft_limit": _soft_limit,
    "unconverted": _unconverted,
    "unguarded": _unguarded,
}
