"""Controls live in the ledger, tenant by tenant: they count at once, and a program's own file can only be stricter."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterator

import psycopg
import pytest

import spanledger
from spanledger import AsyncLedger, Budget, Calls, Config, Ledger, Money, Rate, Rule, Switch, ToolCall, over, workflow
from spanledger.errors import ApprovalPending, BudgetExceeded, ConfigError, NotAuthorized

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="w")
STOPPED = Config(switches=[Switch("refund", allowed=False, reason="the bank is down")])
STRICT = {
    "rules": [Rule("refund", approval=over(Money(100, "EUR")), wait_timeout_s=0), Rule("search", approval=False)],
    "budgets": [Budget("few", Calls(1), match="mail")],
    "switches": [Switch("wire", allowed=False)],
}


def never() -> None:
    pytest.fail("it ran")


def call(tool: str, number: int = 0, **fields) -> ToolCall:
    return ToolCall(tool, {"n": number}, workflow_id="w", **fields)


@pytest.fixture
def agents(dsn: str, role_dsn: Callable[[str], str], ledger: Ledger) -> Iterator[Callable[..., Ledger]]:
    """Make ledgers as programs whose database role is an agent's, for all tenants."""
    role = str(psycopg.conninfo.conninfo_to_dict(role_dsn(dsn))["user"])
    ledger.bind_role(role, kind="agent", tenant="*", by="owner")
    opened: list[Ledger] = []

    def agent(**fields) -> Ledger:
        opened.append(Ledger(config=Config(dsn=role_dsn(dsn), **fields)))
        return opened[-1]

    yield agent
    for one in opened:
        one.close()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("drop owned by {}").format(psycopg.sql.Identifier(role)))


# --- at once


def test_a_change_counts_in_a_running_agent_from_its_next_call_on(ledger_with, ledger: Ledger) -> None:
    agent = ledger_with()
    agent.run(call("refund", 1), lambda: "paid")

    ledger.apply(STOPPED, by="ops")
    with pytest.raises(NotAuthorized, match=r"'refund' was not run: 'refund' is stopped by ops: the bank is down"):
        agent.run(call("refund", 2), never)
    assert agent.run(call("refund", 1), never) == "paid", "what was done is replayed all the same"
    ledger.apply(Config(switches=[Switch("refund", allowed=True)]), by="ops")
    agent.run(call("refund", 2), lambda: "paid")

    ledger.apply(Config(budgets=[Budget("none", Calls(0), match="refund")]))
    with pytest.raises(BudgetExceeded):
        agent.run(call("refund", 3), never)
    ledger.apply(Config(budgets=[Budget("none", Calls(9), match="refund")], rules=[Rule("ref*", approval=True)]))
    with pytest.raises(ApprovalPending):
        ledger_with(rules=[Rule("refund", wait_timeout_s=0)]).run(call("refund", 3), never)


def test_what_runs_when_it_is_stopped_ends_as_it_would(ledger: Ledger) -> None:
    begun = ledger.begin(REFUND)
    ledger.apply(STOPPED)

    assert ledger.settle(begun, "paid")
    assert ledger.run(REFUND, never) == "paid"


def test_a_stop_refuses_also_what_a_person_had_allowed(ledger_with) -> None:
    ledger = ledger_with(rules=[Rule("refund", approval=True, wait_timeout_s=0)])
    with pytest.raises(ApprovalPending) as pending:
        ledger.run(REFUND, never)
    ledger.approve(pending.value.approval_id, by="ops")
    ledger.apply(STOPPED)
    with pytest.raises(NotAuthorized):
        ledger.run(REFUND, never)
    ledger.apply(Config(switches=[Switch("refund", allowed=True)]))
    assert ledger.run(REFUND, lambda: "paid") == "paid", "the consent was kept"


def test_every_change_has_a_version_and_history_keeps_what_was_before(ledger: Ledger) -> None:
    for limit, asks, allowed in ((5, True, False), (5, True, False), (7, over(Money(1, "EUR")), True)):
        ledger.apply(
            Config(
                budgets=[Budget("b", Calls(limit))],
                rules=[Rule("refund", approval=asks)],
                switches=[Switch("wire", allowed=allowed)],
            ),
            by="ops",
        )

    assert {row["kind"]: (row["version"], row["applied_by"]) for row in ledger.controls()} == {
        "approval": (2, "ops"),
        "switch": (2, "ops"),
    }
    # What belongs to no call has no key.
    changes = [(entry["event"], entry["by_name"]) for entry in ledger.history("")]
    assert sorted(set(changes)) == [("approval_changed", "ops"), ("budget_changed", "ops"), ("switch_changed", "ops")]
    (budget,) = [entry["detail"] for entry in ledger.history("") if entry["event"] == "budget_changed"]
    assert (budget["before"]["limit_steps"], budget["after"]["limit"]) == (5, 7)


def test_nothing_is_removed_by_a_file_that_does_not_name_it(ledger: Ledger) -> None:
    ledger.apply(Config(**STRICT))
    ledger.apply(Config())

    assert {(row["kind"], row["match"]) for row in ledger.controls()} == {("approval", "refund"), ("switch", "wire")}
    assert [budget.name for budget in ledger.budgets()] == ["few"]


def test_a_rate_counts_from_its_day_on(ledger_with, ledger: Ledger) -> None:
    agent = ledger_with(budgets=[Budget("eur", Money(10, "EUR"))])
    ledger.apply(Config(rates=[Rate("USD", "EUR", "0.50", "2999-01-01")]))
    with pytest.raises(BudgetExceeded, match="has no rate"):
        agent.run(call("refund", cost=Money(2, "USD")), never)
    ledger.apply(Config(rates=[Rate("USD", "EUR", "0.90", "2026-01-01")]))
    agent.run(call("refund", cost=Money(2, "USD")), lambda: None)
    assert agent.budget("eur").spent == Money("1.80", "EUR")


# --- by tenant


def test_a_call_of_another_tenant_finds_the_same_controls_in_its_own(ledger_with) -> None:
    ledger = ledger_with(**STRICT)
    for tenant in ("default", "acme", "globex"):
        ledger.run(call("mail", 1, tenant=tenant), lambda: "sent")
        with pytest.raises(BudgetExceeded):
            ledger.run(call("mail", 2, tenant=tenant), never)
        with pytest.raises(NotAuthorized):
            ledger.run(call("wire", tenant=tenant), never)
        with pytest.raises(ApprovalPending):
            ledger.run(call("refund", cost=Money(200, "EUR"), tenant=tenant), never)
        assert ledger.budget("few", tenant=tenant).spent == Calls(1)
        assert len(ledger.controls(tenant=tenant)) == 2
        assert [approval.tenant for approval in ledger.approvals(tenant=tenant)] == [tenant]


def test_a_task_of_another_tenant_finds_them_too(dsn: str) -> None:
    async def main() -> None:
        async with AsyncLedger(config=Config(dsn=dsn, **STRICT)) as ledger:
            for tenant in ("default", "acme"):
                await asyncio.gather(
                    *(ledger.run(call("search", n, tenant=tenant), lambda: None) for n in range(5)),
                )
                await ledger.run(call("mail", 1, tenant=tenant), lambda: "sent")
                with pytest.raises(BudgetExceeded):
                    await ledger.run(call("mail", 2, tenant=tenant), never)

    asyncio.run(main())


def test_a_tool_in_a_workflow_of_another_tenant_finds_them_too(dsn: str, ledger: Ledger) -> None:
    spanledger.instrument(Config(dsn=dsn, **STRICT), libraries=[])
    mail = spanledger.tool("mail")(lambda number: number)
    for tenant in ("acme", "globex"):
        with workflow("w", tenant=tenant):
            assert mail(1) == 1
            with pytest.raises(BudgetExceeded):
                mail(2)
    assert ledger.budgets() == ledger.budgets(), "and the configured tenant has its own"


def test_they_are_applied_once_by_each_process_and_tenant(ledger_with, ledger: Ledger) -> None:
    program = ledger_with(**STRICT)
    program.run(call("mail", 1, tenant="acme"), lambda: None)
    ledger.apply(Config(budgets=[Budget("few", Calls(3), match="mail")]), tenant="acme", by="ops")

    program.run(call("mail", 2, tenant="acme"), lambda: None)
    assert program.budget("few", tenant="acme").limit == Calls(3)


def test_a_program_that_starts_takes_no_approval_away(ledger_with, ledger: Ledger) -> None:
    ledger.apply(Config(rules=[Rule("refund", approval=True)]), by="ops")
    program = ledger_with(rules=[Rule("refund", wait_timeout_s=0)])
    with pytest.raises(ApprovalPending):
        program.run(call("refund"), never)


def test_apply_is_for_the_configuration_s_tenant_or_the_one_that_is_named(ledger: Ledger) -> None:
    ledger.apply(Config(tenant="acme", **STRICT))
    ledger.apply(Config(tenant="acme", **STRICT), tenant="globex")

    assert [len(ledger.controls(tenant)) for tenant in ("default", "acme", "globex")] == [0, 2, 2]


# --- roles


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    found = [r.getMessage() for r in caplog.records if r.name == "spanledger.ledger" and r.levelno == logging.WARNING]
    caplog.clear()
    return [text.partition("; an operator has to `spanledger apply`")[0] for text in found]


def test_an_agents_own_file_can_only_be_stricter(agents, ledger: Ledger) -> None:
    ledger.apply(Config(**STRICT), by="ops")
    lax = agents(
        rules=[Rule("refund", approval=False, wait_timeout_s=0)],
        budgets=[Budget("few", Calls(1000), match="mail")],
        switches=[Switch("wire", allowed=True)],
    )
    lax.run(call("mail", 1), lambda: None)
    with pytest.raises(BudgetExceeded):
        lax.run(call("mail", 2), never)
    with pytest.raises(NotAuthorized):
        lax.run(call("wire"), never)
    with pytest.raises(ApprovalPending):
        lax.run(call("refund", cost=Money(200, "EUR")), never)

    strict = agents(rules=[Rule("refund", approval=True, wait_timeout_s=0)], switches=[Switch("post", allowed=False)])
    with pytest.raises(ApprovalPending):
        strict.run(call("refund", 2, cost=Money(1, "EUR")), never)
    with pytest.raises(NotAuthorized, match="'post' is stopped"):
        strict.run(call("post"), never)
    lax.run(call("post"), lambda: None)


def test_where_the_ledger_is_less_strict_than_the_file_of_an_agent_that_is_said_once_a_tenant(
    agents, ledger: Ledger, caplog
) -> None:
    agent = agents(**STRICT)
    for tenant in ("default", "acme"):
        agent.run(call("search", tenant=tenant), lambda: None)
        assert warnings(caplog) == [
            f"tenant {tenant}: the ledger has no budget 'few'",
            f"tenant {tenant}: the ledger asks nobody to approve 'refund' where this program's file does",
            f"tenant {tenant}: the ledger does not stop 'wire', and this program's file does",
        ]
        agent.run(call("search", 2, tenant=tenant), lambda: None)
        assert warnings(caplog) == []
    ledger.apply(Config(**STRICT))
    agents(**STRICT).run(call("search", 3), lambda: None)
    assert warnings(caplog) == []


def test_a_role_of_one_tenant_acts_for_no_other(dsn, role_dsn, ledger: Ledger, caplog) -> None:
    role = str(psycopg.conninfo.conninfo_to_dict(role_dsn(dsn))["user"])
    ledger.bind_role(role, kind="agent", tenant="default", by="owner")
    try:
        with Ledger(config=Config(dsn=role_dsn(dsn), **STRICT)) as agent:
            agent.run(call("search"), lambda: None)
            with pytest.raises(ConfigError, match="the database role may not do this"):
                agent.run(call("search", tenant="acme"), never)
    finally:
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute(psycopg.sql.SQL("drop owned by {}").format(psycopg.sql.Identifier(role)))
