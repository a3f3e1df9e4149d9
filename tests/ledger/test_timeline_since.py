"""What is new in a ledger is found without reading what is old."""

from __future__ import annotations

import contextlib
import datetime as dt
import json

from spanledger import ToolCall

OLD = """
    insert into spanledger.call (tenant, key, state, attempt, attempts, attempt_id, tool, operation, workflow_id,
        key_source, created_at, started_at, ended_at)
    select 'default', sha256(i::text::bytea), 'succeeded', 1, 1, gen_random_uuid(), 'refund', 'execute_tool', 'old',
        'arguments', m.at, m.at, m.at
    from generate_series(1, 20000) i cross join lateral (select now() - interval '30 days' + i * interval '1 s' as at) m
"""


def rows_read(plan: dict) -> int:
    """Rows of the table of calls that a plan has looked at."""
    own = (plan["Actual Rows"] + plan.get("Rows Removed by Filter", 0)) * plan["Actual Loops"]
    own += plan.get("Rows Removed by Index Recheck", 0)
    inner = sum(rows_read(one) for one in plan.get("Plans", ()))
    return inner + (own if plan.get("Relation Name") == "call" else 0)


def test_what_is_new_is_found_among_what_is_old(ledger, sql):
    sql.execute(OLD)
    sql.execute("vacuum analyze spanledger.call")
    since = dt.datetime.now(dt.UTC) - dt.timedelta(hours=1)
    ledger.run(ToolCall("refund", {"order_id": "o-1"}, workflow_id="new"), lambda: "done")
    entries = ledger.timeline(None, since=since)
    assert [(entry["workflow_id"], entry["what"]) for entry in entries] == [("new", "run"), ("new", "succeeded")]
    query = "select * from spanledger_v1.timeline v where tenant = 'default' and at >= %s and touched_at >= %s"
    ((plans,),) = sql.execute(f"explain (analyze, format json) {query}", (since, since)).fetchall()
    plans = json.loads(plans) if isinstance(plans, str) else plans
    assert rows_read(plans[0]["Plan"]) < 4000


def test_every_entry_was_touched_when_it_happened_or_later(ledger, sql):
    for outcome in (ValueError, None):
        call = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w")

        def body(outcome=outcome) -> str:
            if outcome:
                raise outcome
            return "done"

        with contextlib.suppress(ValueError):
            ledger.run(call, body)
    rows = sql.execute("select what, at, touched_at from spanledger_v1.timeline").fetchall()
    assert {what for what, _, _ in rows} >= {"run", "failed", "succeeded"}
    assert all(at <= touched_at for _, at, touched_at in rows)
