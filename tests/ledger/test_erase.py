"""Erasing: what calls were made with and what came of them is forgotten, that they happened is not."""

from __future__ import annotations

import asyncio
import json

import psycopg
import pytest

from spanledger import AsyncLedger, Config, Ledger, Resolution, Rule, ToolCall
from spanledger.core.asking import Ask
from spanledger.core.call import Call, ScopeSource
from spanledger.errors import ApprovalPending, CallFailed, ConfigError, OutcomeUnknown, ResultNotKept
from spanledger.ledger import _requests as requests
from spanledger.ledger._drivers import BlockingDriver

CANARY = "canary-7f3a9c"
CONTENT = "call.arguments call.result call.error approval.arguments approval.note history.detail".split()
SQL_TEXT = """
select c.table_schema || '.' || c.table_name, c.column_name from information_schema.columns c
join information_schema.tables t using (table_schema, table_name)
where c.table_schema = 'spanledger' and t.table_type = 'BASE TABLE'"""


def call(order: str = "o-1", *, workflow: str = "w", actor: str | None = "u_42", tool: str = "refund") -> ToolCall:
    return ToolCall(tool, {"order_id": order, "note": CANARY}, workflow_id=workflow, actor=actor)


def left_in(sql: psycopg.Connection, words: str = CANARY) -> list[str]:
    """The columns of the ledger's tables in which something is found."""
    columns = sql.execute(SQL_TEXT).fetchall()
    return [
        f"{table}.{column}"
        for table, column in columns
        if sql.execute(f"select 1 from {table} where {column}::text like %s", (f"%{words}%",)).fetchone()  # type: ignore[arg-type]
    ]


@pytest.fixture
def rules() -> tuple[Rule, ...]:
    return (Rule("pay", approval=True, wait_timeout_s=0), Rule("fail", on_failure="replay"))


@pytest.fixture
def filled(ledger_with, rules) -> Ledger:
    """A ledger with content wherever content can be."""
    ledger = ledger_with(rules=rules, tenant="acme")
    ledger.run(call(), lambda: {"said": CANARY})
    with pytest.raises(ValueError, match=CANARY):
        ledger.run(call(tool="fail"), lambda: fail(ValueError(CANARY)))
    with pytest.raises(TimeoutError):
        ledger.run(call(tool="lost"), lambda: fail(TimeoutError(CANARY)))
    for _ in range(2):  # superseded: an attempt that failed, and the next
        with pytest.raises(ValueError, match=CANARY):
            ledger.run(call(tool="again"), lambda: fail(ValueError(CANARY)))
    for order in ("o-1", "o-2"):
        with pytest.raises(ApprovalPending):
            ledger.run(call(order, tool="pay"), lambda: None)
    approvals = ledger.approvals()
    ledger.approve(approvals[0].id, by="ops", note=CANARY)
    ledger.deny(approvals[1].id, by="ops", reason=CANARY)
    begun = ledger.begin(call(tool="cancelled"))
    ledger.fail(begun, TimeoutError(CANARY))
    ledger.cancel(begun.key, by="ops", reason=CANARY)
    return ledger


def fail(error: Exception) -> None:
    raise error


def test_nothing_of_what_was_said_is_left_and_that_it_happened_is(filled, sql):
    before = filled.calls()
    assert set(left_in(sql)) >= {f"spanledger.{column}" for column in CONTENT}

    assert filled.erase(by="dpo@example.com", workflow_id="w") == len(before)

    assert left_in(sql) == []
    after = {row["key"]: row for row in filled.calls()}
    for row in before:
        kept = after[row["key"]]
        assert [kept[name] for name in ("state", "actor", "attempts", "created_at", "cost")] == [
            row[name] for name in ("state", "actor", "attempts", "created_at", "cost")
        ]
        assert kept["erased_at"]
        (erased,) = [entry for entry in filled.history(row["key"]) if entry["event"] == "erased"]
        assert erased["by_name"] == "dpo@example.com"


def test_an_erased_call_is_not_run_again(filled):
    filled.erase(by="dpo", workflow_id="w")

    with pytest.raises(ResultNotKept):
        filled.run(call(), lambda: pytest.fail("ran"))
    with pytest.raises(CallFailed) as failed:
        filled.run(call(tool="fail"), lambda: pytest.fail("ran"))
    assert failed.value.error == {"type": "builtins.ValueError"}
    with pytest.raises(OutcomeUnknown):
        filled.run(call(tool="lost"), lambda: pytest.fail("ran"))


def test_only_what_is_meant_is_erased(ledger_with):
    acme, other = ledger_with(tenant="acme"), ledger_with(tenant="other")
    mine, theirs = call("o-1", actor="me"), call("o-2", actor="them")
    elsewhere = call("o-3", workflow="v", actor="me")
    for ledger in (acme, other):
        for one in (mine, theirs, elsewhere):
            ledger.run(one, lambda: CANARY)

    def erased(ledger: Ledger) -> set[str]:
        return {row["key"] for row in ledger.calls() if row["erased_at"]}

    assert acme.erase(by="dpo", workflow_id="w", actor="me") == 1
    assert erased(acme) == {acme.key(mine)}
    assert acme.erase(by="dpo", key=acme.key(theirs)) == 1
    assert erased(acme) == {acme.key(mine), acme.key(theirs)}
    assert acme.erase(by="dpo", actor="nobody") == 0
    assert acme.erase(by="dpo", tenant="acme") == 3
    assert erased(other) == set()
    assert other.run(mine, lambda: pytest.fail("ran")) == CANARY


def test_the_calls_of_a_conversation_are_those_of_its_workflow(ledger_with, sql):
    ledger = ledger_with()
    asked = Call("refund", arguments={"note": CANARY}, workflow_id='thread "1"', workflow_source=ScopeSource.FRAMEWORK,
                 turn="t-1", opted_in=True)  # fmt: skip
    asking = ledger.config.asking(asked, attempt_id="00000000-0000-0000-0000-000000000001")
    BlockingDriver(ledger._database).query(asking.ask())

    assert ledger.erase(by="dpo", workflow_id="thread") == 0
    assert ledger.erase(by="dpo", workflow_id='thread "1"') == 1
    assert left_in(sql) == []


def test_many_calls_are_erased_part_by_part(ledger, sql):
    sql.execute(
        "insert into spanledger.call (tenant, key, state, attempt, attempts, attempt_id, tool, operation, workflow_id, "
        "key_source, arguments, created_at, started_at) select 'default', decode(lpad(to_hex(n), 8, '0'), 'hex'), "
        "'succeeded', 1, 1, gen_random_uuid(), 'refund', 'execute_tool', 'w', 'arguments', %s, now(), now() "
        "from generate_series(1, 1200) n",
        (CANARY,),
    )

    assert ledger.erase(by="dpo", workflow_id="w") == 1200
    assert left_in(sql) == []


def test_what_a_call_that_ran_meanwhile_brings_is_not_kept(ledger, sql):
    begun, failing = ledger.begin(call()), ledger.begin(call("o-2"))

    ledger.erase(by="dpo", workflow_id="w")

    assert ledger.settle(begun, {"said": CANARY})
    assert ledger.fail(failing, ValueError(CANARY))
    assert left_in(sql) == []
    assert ledger.get(failing.key)["error"] == {"type": "builtins.ValueError"}
    with pytest.raises(ResultNotKept):
        ledger.run(call(), lambda: pytest.fail("ran"))


def test_nor_is_what_a_worker_brings_that_was_thought_dead(ledger, sql):
    lost = [ledger.begin(call(order)) for order in ("o-1", "o-2")]
    for begun in lost:
        ledger.fail(begun, TimeoutError())
        ledger.resolve(begun.key, by="ops", outcome="retry")
    ledger.erase(by="dpo", workflow_id="w")
    newer = ledger.begin(ToolCall("refund", {"order_id": "o-1", "note": CANARY}, workflow_id="w"))
    assert newer.key == lost[0].key

    assert not ledger.settle(lost[0], {"said": "canary of the older"})
    assert ledger.settle(lost[1], {"said": "canary of the older"})
    assert left_in(sql, "canary of the older") == []
    assert ledger.settle(newer, {"said": CANARY})
    assert ledger.run(call(), lambda: pytest.fail("ran")) == {"said": CANARY}


def test_a_probe_brings_nothing_back(ledger_with, sql):
    ledger = ledger_with(rules=[Rule("refund", probe=lambda _call, _key: Resolution("succeeded", CANARY, CANARY))])
    ledger.fail(ledger.begin(call()), TimeoutError(CANARY))
    ledger.erase(by="dpo", workflow_id="w")

    with pytest.raises(ResultNotKept):
        ledger.run(call(), lambda: pytest.fail("ran"))
    assert left_in(sql) == []


def test_what_waits_on_disk_is_erased_as_well(ledger, dsn):
    begun, other = ledger.begin(call()), ledger.begin(call("o-2", workflow="v"))
    spool = ledger._database.spool
    for one in (begun, other):
        assert spool.keep(requests.settle(ledger.config, one, {"said": CANARY}, None))

    ledger.erase(by="dpo", workflow_id="w")

    files = [path.read_text() for path in spool.waiting()]
    assert [CANARY in text for text in files] == [False, True]
    with pytest.raises(ResultNotKept):
        ledger.run(call(), lambda: pytest.fail("ran"))
    assert ledger.run(call("o-2", workflow="v"), lambda: pytest.fail("ran")) == {"said": CANARY}


@pytest.mark.parametrize(("actor", "left"), [("u_42", False), ("u_43", True)])
def test_so_is_what_the_ledger_has_not_heard_of_yet(actor, left, ledger, sql):
    asking = requests.asking(ledger.config, call())
    sql.execute("select 1")
    ledger.calls()
    spool = ledger._database.spool
    item = {"key": asking.identity.key, "attempt_id": asking.attempt_id, "cost": {}, "tool": "refund",
            "result": json.dumps(CANARY), "result_kept": True}  # fmt: skip
    assert spool.keep(Ask("settle", "default", item), begin=asking.ask())

    ledger.erase(by="dpo", actor=actor)

    (path,) = spool.waiting()
    assert (CANARY in path.read_text()) is left


@pytest.mark.parametrize("which", [{}, {"key": "xyz"}, {"actor": ""}])
def test_what_to_erase_has_to_be_said(ledger, which):
    with pytest.raises(ConfigError, match=r"erase|no key"):
        ledger.erase(by="dpo", **which)


def test_who_erases_has_to_be_said(ledger):
    with pytest.raises(ConfigError, match="by is who erases"):
        ledger.erase(by=" ", actor="u_42")


async def erase_awaiting(dsn: str) -> int:
    async with AsyncLedger(config=Config(dsn=dsn)) as ledger:
        await ledger.run(call(), lambda: CANARY)
        return await ledger.erase(by="dpo", actor="u_42")


def test_the_other_ledger_erases_too(dsn, sql):
    assert asyncio.run(erase_awaiting(dsn)) == 1
    assert left_in(sql) == []
