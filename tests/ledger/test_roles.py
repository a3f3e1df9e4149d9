"""Database roles that may use the ledger for their tenants and for nothing else."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Callable, Iterator

import psycopg
import pytest
from tests.aging import age

from spanledger import Budget, Calls, Config, Delegation, Grant, Ledger, Resolution, Rule, Switch, ToolCall
from spanledger.core.asking import Ask
from spanledger.errors import ApprovalPending, ConfigError, NotAuthorized, OutcomeUnknown
from spanledger.evals import Case, Suite, run
from spanledger.ledger._functions import Run

REFUND = ToolCall("refund", {"order_id": "o-1"}, workflow_id="order-1")
FORBIDDEN = "the database role may not do this"
DELEGATION_KEYS = ("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",)


@pytest.fixture
def as_role(dsn: str, role_dsn: Callable[[str], str], ledger: Ledger) -> Iterator[Callable[..., Ledger]]:
    """Make the ledger of a role that the given kinds and tenants are bound to."""
    role = psycopg.conninfo.conninfo_to_dict(role_dsn(dsn))["user"]
    opened: list[Ledger] = []

    def open_as(*bound: tuple[str, str], **fields: object) -> Ledger:
        for kind, tenant in bound:
            ledger.bind_role(str(role), kind=kind, tenant=tenant, by="owner")
        opened.append(Ledger(config=Config(dsn=role_dsn(dsn), **{"tenant": "acme"} | fields)))  # type: ignore[arg-type]
        return opened[-1]

    yield open_as
    for one in opened:
        one.close()
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(psycopg.sql.SQL("drop owned by {}").format(psycopg.sql.Identifier(str(role))))


def test_an_agents_role_runs_replays_and_reads_for_its_tenant(as_role) -> None:
    agent = as_role(("agent", "acme"))

    assert [agent.run(REFUND, lambda: "paid") for _ in range(2)] == ["paid", "paid"]
    assert [call["state"] for call in agent.calls()] == ["succeeded"]


def test_an_agents_role_records_what_is_over_and_allows_itself_nothing_by_it(as_role, ledger_with, sql) -> None:
    agent = as_role(("agent", "acme"), rules=[Rule("refund", approval=True, wait_timeout_s=0)])
    call = {"tool": "refund", "operation": "execute_tool", "cost": {"EUR": -5}}
    for state, key in (("approved", agent.key(REFUND)), ("in_flight", "01"), ("succeeded", "02")):
        item = {"id": str(uuid.uuid4()), "event": "call", "at_s": 0, "key": key, "call": call | {"state": state}}
        agent._driver.query(Run("record", ("acme", [item])))

    assert {row["state"] for row in agent.calls()} == {"succeeded"}
    assert {row["key_source"] for row in agent.calls()} == {"recorded"}
    with pytest.raises(ApprovalPending):
        agent.run(REFUND, lambda: pytest.fail("ran"))
    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent._driver.query(Run("record", ("other", [])))


def test_an_agents_role_ends_sessions_and_registers_agents_of_its_tenant_alone(as_role) -> None:
    agent = as_role(("agent", "acme"))
    assert agent.get_or_create_agent("support")["name"] == "support"
    assert not agent.end_session("chat-9", by="me")
    other = as_role(("agent", "acme"), tenant="other")
    for forbidden in (lambda: other.get_or_create_agent("x"), lambda: other.end_session("chat-9", by="me")):
        with pytest.raises(ConfigError, match=FORBIDDEN):
            forbidden()
    assert other.agents() == other.sessions() == other.spending() == []


def test_an_agents_role_can_do_nothing_for_another_tenant(as_role, ledger_with) -> None:
    other = ledger_with(tenant="other")
    other.run(REFUND, lambda: "theirs")
    agent = as_role(("agent", "acme"), tenant="other")

    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent.run(REFUND, lambda: pytest.fail("ran"))
    assert agent.calls() == agent.history(other.key(REFUND)) == agent.budgets() == []


def test_an_agents_role_may_ask_what_it_may_do_and_grants_itself_nothing(as_role, ledger_with) -> None:
    ledger_with(tenant="acme").grant(Grant("payments:refund"), by="ops")
    agent = as_role(("agent", "acme"))

    assert agent.authorize("payments:refund")
    for change in (lambda: agent.grant(Grant("*"), by="me"), lambda: agent.revoke("payments:refund", by="me")):
        with pytest.raises(ConfigError, match=FORBIDDEN):
            change()
    assert [row["permission"] for row in agent.grants()] == ["payments:refund"]
    with pytest.raises(ConfigError, match=FORBIDDEN):
        as_role(("agent", "acme"), tenant="other").authorize("payments:refund")


def test_an_agents_role_passes_on_what_it_holds_and_ends_nothing_of_others(as_role, ledger_with) -> None:
    ledger_with(tenant="acme").grant(Grant("payments:*", agent="support"), by="ops")
    agent = as_role(("agent", "acme"), delegation_keys=DELEGATION_KEYS, agent="support")
    token = agent.delegations.give(Delegation("billing", "payments:refund"))
    below = agent.delegations.give(Delegation("refunds", "payments:refund"), under=token)

    with pytest.raises(NotAuthorized, match="nobody has granted it"):
        agent.delegations.give(Delegation("billing", "mail:send"))
    with pytest.raises(NotAuthorized, match="has only payments:refund"):
        agent.delegations.give(Delegation("refunds", "payments:*"), under=token)
    ids = [row["id"] for row in agent.delegations.all()]
    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent.delegations.revoke(ids[0], by="me")
    # Its token is what it takes to end one: who has seen the id alone has not got it.
    assert agent.delegations.withdraw(below, reason="done") == [ids[1]]
    assert [row["state"] for row in agent.delegations.all()] == ["active", "revoked"]
    assert agent.delegations.withdraw(token) == [ids[0]]
    assert {row["revoked_by"] for row in agent.delegations.all()} == {"support"}


def test_an_agents_role_reads_no_proof_and_forges_no_delegation(as_role, ledger_with) -> None:
    ledger_with(tenant="acme").grant(Grant("*", agent="support"), by="ops")
    agent = as_role(("agent", "acme"), delegation_keys=DELEGATION_KEYS, agent="support")
    token = agent.delegations.give(Delegation("billing", "payments:refund"))
    held = agent.config.delegation_keys.read(token)
    claims = {"aud": "acme", "sub": "billing", "jti": "guessed", "exp": held.expires_at_s, "actor": None}
    claims |= {"permissions": ["*"], "chain": list(held.chain), "agents": ["support", "billing"]}
    forged = agent.config.delegation_keys.sign(claims)

    call = ToolCall("payout", {}, workflow_id="w", agent="billing", delegation=forged)
    assert agent.begin(call).reason == "the ledger knows of no such delegation"
    with pytest.raises(ConfigError, match="has no delegation of this token"):
        agent.delegations.withdraw(forged)
    with psycopg.connect(agent.config.dsn) as connection, pytest.raises(psycopg.errors.InsufficientPrivilege):
        connection.execute("select proof from spanledger.delegation")


def test_an_operators_role_ends_delegations_and_makes_none(as_role, ledger_with) -> None:
    owner = ledger_with(tenant="acme", delegation_keys=DELEGATION_KEYS)
    owner.grant(Grant("*", agent="support"), by="ops")
    owner.delegations.give(Delegation("billing", "payments:refund"), agent="support")
    operator = as_role(("operator", "acme"), delegation_keys=DELEGATION_KEYS)

    with pytest.raises(ConfigError, match=FORBIDDEN):
        operator.delegations.give(Delegation("billing", "payments:refund"), agent="support")
    (row,) = operator.delegations.all()
    assert operator.delegations.revoke(row["id"], by="ops@example.com") == [row["id"]]
    with pytest.raises(ConfigError, match=FORBIDDEN):
        as_role(("operator", "acme"), tenant="other").delegations.revoke(row["id"], by="ops@example.com")


def test_an_agents_role_may_look_what_enforcement_would_say(as_role, sql) -> None:
    agent = as_role(("agent", "acme"), mode="shadow", rules=[Rule("refund", approval=True)])

    assert agent.run(REFUND, lambda: "paid") == "paid"
    (said,) = sql.execute("select detail ->> 'verdict' from spanledger_v1.history where event = 'would_have'")
    assert said == ("awaiting_approval",)


def test_an_agents_role_neither_resolves_nor_applies_nor_tops_up(as_role) -> None:
    agent = as_role(("agent", "acme"))
    begun = agent.begin(REFUND)
    agent.fail(begun, TimeoutError())

    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent.resolve(begun.key, by="me", outcome="succeeded")
    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent.erase(by="me", key=begun.key)
    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent.apply(Config(budgets=(Budget("b", Calls(1)),)))
    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent.top_up("b", Calls(1), by="me")
    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent.bind_role("anybody", kind="operator", tenant="acme", by="me")


def test_a_bound_role_touches_no_table(as_role, dsn: str, role_dsn) -> None:
    as_role(("agent", "acme"), ("operator", "acme"))
    with psycopg.connect(role_dsn(dsn), autocommit=True) as connection:
        for table in ("call", "history", "account", "budget", "member", "migration"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(f"select * from spanledger.{table}")
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            connection.execute("update spanledger_v1.history set event = 'resolved'")


def test_a_function_of_a_roles_own_is_shown_no_row_of_another_tenant(as_role, ledger_with, dsn: str, role_dsn) -> None:
    other = ledger_with(tenant="other", rules=(Rule("refund", approval=True),), budgets=(Budget("b", Calls(9)),))
    other.begin(REFUND)
    other.run(ToolCall("lookup", {"card": "4111"}, workflow_id="order-1"), lambda: "theirs")
    as_role(("agent", "acme"))
    seen: list[str | None] = []

    with psycopg.connect(role_dsn(dsn), autocommit=True) as connection:
        connection.add_notice_handler(lambda notice: seen.append(notice.message_primary))
        # So cheap that the planner would like to ask it before it asks whose the row is.
        connection.execute(
            "create function pg_temp.spy(text) returns boolean language plpgsql cost 0.0000001 "
            "as $$ begin raise notice '%', $1; return true; end $$"
        )
        for view in ("approvals", "budgets", "calls", "controls", "history"):
            connection.execute(f"select * from spanledger_v1.{view} v where pg_temp.spy(v.tenant)")

    assert seen == []


def test_an_agents_role_probes_what_it_may_not_resolve(as_role) -> None:
    found = Resolution("succeeded", result="seen at the provider")
    agent = as_role(("agent", "acme"), rules=(Rule("refund", probe=lambda _call, _key: found),))
    agent.fail(agent.begin(REFUND), TimeoutError())

    assert agent.run(REFUND, lambda: pytest.fail("ran")) == "seen at the provider"


def test_a_probe_that_nobody_asked_for_resolves_nothing(as_role, dsn: str, role_dsn) -> None:
    agent = as_role(("agent", "acme"))
    begun = agent.begin(REFUND)
    agent.fail(begun, TimeoutError())
    claim = f'[{{"key": "{begun.key}", "outcome": "succeeded", "probe_id": "{begun.attempt_id}", "by": "probe:mine"}}]'

    with psycopg.connect(role_dsn(dsn), autocommit=True) as connection:
        (answer,) = connection.execute("select spanledger_v1.probed('acme', %s)", (claim,)).fetchone()  # type: ignore[misc]

    assert answer == [{"done": False, "state": None}]
    with pytest.raises(OutcomeUnknown):
        agent.run(REFUND, lambda: pytest.fail("ran"))


def test_an_operators_role_resolves_and_applies_and_runs_nothing(as_role, ledger_with) -> None:
    owner = ledger_with(tenant="acme")
    begun = owner.begin(REFUND)
    owner.fail(begun, TimeoutError())
    operator = as_role(("operator", "acme"))

    operator.apply(Config(tenant="acme", budgets=(Budget("b", Calls(1)),)))
    assert operator.resolve(begun.key, by="ops", outcome="failed")
    assert operator.erase(by="ops", key=begun.key) == 1
    assert operator.history(begun.key)[-1]["by_role"].startswith("role_")
    with pytest.raises(ConfigError, match=FORBIDDEN):
        operator.run(REFUND, lambda: pytest.fail("ran"))


def test_rights_are_taken_back(as_role, ledger: Ledger, dsn: str, role_dsn) -> None:
    agent = as_role(("agent", "acme"), ("agent", "other"))
    role = str(psycopg.conninfo.conninfo_to_dict(role_dsn(dsn))["user"])
    agent.run(REFUND, lambda: "paid")

    assert ledger.unbind_role(role, tenant="acme")
    assert not ledger.unbind_role(role, tenant="acme")

    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent.run(REFUND, lambda: pytest.fail("ran"))
    assert as_role(tenant="other").run(REFUND, lambda: "paid") == "paid"


@pytest.mark.parametrize(
    ("role", "kind", "words"),
    [("nobody-by-that-name", "agent", "create role"), ("x", "admin", "agent, operator, approver or evaluator")],
)
def test_what_cannot_be_bound_is_said(ledger: Ledger, role: str, kind: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ledger.bind_role(role, kind=kind, tenant="acme", by="owner")


def test_budgets_a_role_may_not_apply_are_compared_with_the_ledgers(as_role, ledger_with, caplog) -> None:
    ledger_with(tenant="acme").apply(
        Config(tenant="acme", budgets=(Budget("mails", Calls(9)), Budget("calls", Calls(1))))
    )
    wanted = (Budget("mails", Calls(3)), Budget("calls", Calls(2)), Budget("posts", Calls(5)))

    with caplog.at_level(logging.WARNING, "spanledger"):
        assert as_role(("agent", "acme"), budgets=wanted).run(REFUND, lambda: "paid") == "paid"

    said = " | ".join(record.getMessage() for record in caplog.records)
    assert "budget 'mails' is 9 calls in the ledger and 3 calls here" in said
    assert "the ledger has no budget 'posts'" in said
    assert "'calls'" not in said


def test_an_operators_role_prunes_its_tenant_and_nobody_elses_role_prunes(as_role, ledger_with, sql) -> None:
    for tenant in ("acme", "other"):
        ledger_with(tenant=tenant).run(REFUND, lambda: "paid")
    age(sql)
    others = as_role(("agent", "acme"), ("approver", "acme"), ("evaluator", "acme"))
    with pytest.raises(ConfigError, match=FORBIDDEN):
        others.prune(by="me", older_than_s=86400)
    operator = as_role(("operator", "acme"))

    with pytest.raises(ConfigError, match=FORBIDDEN):
        operator.prune(by="me", older_than_s=86400, tenant="other")
    with pytest.raises(ConfigError, match=FORBIDDEN):
        operator.prune(by="me", older_than_s=86400, tenant="other", dry_run=True)
    assert operator.prune(by="me", older_than_s=86400).counts["calls"] == 1
    assert [row["part"] for row in others.prunings()] == ["calls", "evaluations", "trail"]
    assert sql.execute("select tenant, pruned_at is not null from spanledger.call order by 1").fetchall() == [
        ("acme", True),
        ("other", False),
    ]


def test_an_agents_role_writes_no_marks_and_an_evaluators_only_its_own(as_role, ledger_with) -> None:
    suite = Suite("s", [Case("c")], {"ok": lambda output, case: True})
    run(suite, lambda _: 0, run_id="theirs", ledger=ledger_with(tenant="acme"))
    with pytest.raises(ConfigError, match=FORBIDDEN):
        run(suite, lambda _: pytest.fail("ran"), ledger=as_role(("agent", "acme")))
    evaluator = as_role(("evaluator", "acme"))

    assert run(suite, lambda _: 0, run_id="ours", ledger=evaluator).passed == 1
    with pytest.raises(ConfigError, match="did not begin the run theirs"):
        run(suite, lambda _: 0, run_id="theirs", ledger=evaluator)
    with pytest.raises(ConfigError, match=FORBIDDEN):
        run(suite, lambda _: pytest.fail("ran"), ledger=as_role(tenant="other"))


def test_an_agents_role_hears_what_is_about_models_of_its_tenant_alone(as_role, ledger_with) -> None:
    ledger_with(tenant="acme").apply(Config(switches=[Switch("gpt-*", allowed=False)]), tenant="acme")
    agent = as_role(("agent", "acme"))
    assert agent._driver.query(Ask("controlled", "acme", {})) == [{"match": "gpt-*", "operations": None}]
    with pytest.raises(ConfigError, match=FORBIDDEN):
        agent._driver.query(Ask("controlled", "other", {}))
