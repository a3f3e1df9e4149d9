"""Agents that act under what another one has passed on to them, on a real ledger."""

from __future__ import annotations

import asyncio
import contextvars
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from opentelemetry import trace

import spanledger
from spanledger import Config, Delegation, Grant, Ledger, Money, Rule, ToolCall, delegate, delegated, tool, workflow
from spanledger.errors import BudgetExceeded, ConfigError, LedgerUnavailable, NotAuthorized
from spanledger.instrument import authority

KEYS = ("k1:AQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQEBAQE=",)
RULE = Rule("refund", permission="payments:refund", reserve=lambda arguments: Money(arguments["amount"], "EUR"))


@pytest.fixture
def governed(dsn):
    """A process that is instrumented, and a ledger in which support may do everything with payments."""
    spanledger.instrument(Config(dsn=dsn, rules=[RULE], delegation_keys=KEYS), libraries=[])
    with Ledger(config=Config(dsn=dsn, delegation_keys=KEYS)) as ledger:
        ledger.grant(Grant("payments:*", agent="support"), by="ops")
        yield ledger
    spanledger.uninstrument()


@tool
def refund(order_id: str, amount: int) -> str:
    return f"refunded {amount}"


@tool("refund")
async def refund_awaiting(order_id: str, amount: int) -> str:
    return f"refunded {amount}"


def passed_on(**given) -> str:
    """What support passes on to billing."""
    with workflow("order-1", agent="support", actor=given.pop("actor", None)):
        return delegate("billing", ["payments:refund"], **given)


def test_a_call_under_a_delegation_runs_and_its_span_and_row_show_the_chain(governed, spans):
    first = passed_on(max_amount=Money(100, "EUR"), reason="refunds of today")
    with workflow("order-1", agent="billing"), delegated(first):
        second = delegate("refunds", "payments:refund", expires_in_s=60)
    with workflow("order-1", agent="refunds"), delegated(second) as held:
        assert refund("o-1", 10) == "refunded 10"

    span = spans.one("execute_tool refund").attributes
    assert span["spanledger.delegation.id"] == held.id
    assert span["spanledger.delegation.chain"] == held.chain
    assert span["spanledger.delegation.agents"] == ("support", "billing", "refunds")
    (call,) = governed.calls(tool="refund")
    assert call["delegation"] == held.id
    rows = governed.delegations.all()
    assert [(row["by_agent"], row["to_agent"], row["state"]) for row in rows] == [
        ("support", "billing", "active"),
        ("billing", "refunds", "active"),
    ]
    assert (rows[0]["spent_steps"], rows[0]["reason"], rows[0]["workflow_id"]) == (
        10_000_000,
        "refunds of today",
        "order-1",
    )


def test_without_the_token_the_agent_may_nothing_and_after_the_block_neither(governed):
    token = passed_on()
    with workflow("order-1", agent="billing"):
        with delegated(token):
            refund("o-1", 10)
        with pytest.raises(NotAuthorized, match="nobody has granted it"):
            refund("o-2", 10)


def test_an_agent_that_nothing_names_is_the_one_that_the_token_is_for(governed):
    with delegated(passed_on(actor="u_42")), workflow("order-1"):
        refund("o-1", 10)
    (call,) = governed.calls(tool="refund")
    assert (call["agent"], call["actor"]) == ("billing", "u_42")


def test_another_agent_and_another_actor_are_refused(governed):
    token = passed_on(actor="u_42")
    sales = workflow("order-1", agent="sales")
    with pytest.raises(NotAuthorized, match="is not for agent sales") as refused, sales, delegated(token):
        refund("o-1", 10)
    assert refused.value.delegation == delegated(token).authority.id
    other = workflow("order-1", agent="billing", actor="u_43")
    with pytest.raises(NotAuthorized, match="is for u_42, and not for u_43"), delegated(token), other:
        refund("o-2", 10)


def test_the_agent_that_the_process_is_must_be_the_one_that_the_token_is_for(governed, dsn):
    token = passed_on()
    spanledger.uninstrument()
    spanledger.instrument(Config(dsn=dsn, rules=[RULE], delegation_keys=KEYS, agent="sales"), libraries=[])
    with pytest.raises(NotAuthorized, match="is not for agent sales"), delegated(token), workflow("order-1"):
        refund("o-1", 10)


def test_revoked_it_stops_the_next_call_and_all_below(governed, spans):
    token = passed_on()
    with workflow("order-1", agent="billing"), delegated(token) as held:
        below = delegate("refunds", "payments:refund")
        refund("o-1", 10)
        ended = governed.delegations.revoke(held.id, by="ops@example.com", reason="leaked")
        with pytest.raises(NotAuthorized, match=r"was revoked by ops@example\.com: leaked") as refused:
            refund("o-2", 10)
        with pytest.raises(NotAuthorized, match="was revoked"):
            delegate("refunds", "payments:refund")
    with workflow("order-1", agent="refunds"), delegated(below) as last, pytest.raises(NotAuthorized, match="leaked"):
        refund("o-3", 10)
    assert ended == [held.id, last.id]
    assert refused.value.delegation == held.id
    assert governed.delegations.revoke(held.id, by="ops@example.com") == []
    assert spans.all("execute_tool refund")[-1].attributes["spanledger.delegation.id"] == last.id
    assert {row["state"] for row in governed.delegations.all()} == {"revoked"}


def test_a_recorded_result_is_not_given_to_who_may_no_longer_act(governed):
    token = passed_on()
    with workflow("order-1", agent="billing"), delegated(token) as held:
        assert refund("o-1", 10) == refund("o-1", 10)
        governed.delegations.revoke(held.id, by="ops")
        with pytest.raises(NotAuthorized, match="was revoked"):
            refund("o-1", 10)


def test_one_that_has_expired_a_second_ago_is_over_by_the_ledgers_clock(governed, sql):
    token = passed_on(expires_in_s=60)
    sql.execute("update spanledger.delegation set expires_at = clock_timestamp() - interval '1 s'")
    with delegated(token), workflow("order-1"), pytest.raises(NotAuthorized, match="has expired"):
        refund("o-1", 10)


@pytest.mark.parametrize("permission", ["payments:payout", "payments:*", "*", "mail:send"])
def test_nothing_wider_is_passed_on(governed, permission):
    with delegated(passed_on()), workflow("order-1"), pytest.raises(NotAuthorized, match="has only payments:refund"):
        delegate("refunds", [permission])
    with workflow("order-1", agent="nobody"), pytest.raises(NotAuthorized, match="nobody has granted it"):
        delegate("refunds", [permission])


def test_all_that_is_below_shares_one_pool(governed):
    first = passed_on(max_amount=Money(100, "EUR"))
    with delegated(first), workflow("order-1"):
        left, right = (delegate(name, "payments:refund") for name in ("left", "right"))
    with delegated(left), workflow("order-1"):
        refund("o-1", 70)
    with delegated(right), workflow("order-1"):
        with pytest.raises(BudgetExceeded, match=r"30\.00 EUR") as refused:
            refund("o-2", 40)
        refund("o-3", 30)
    assert refused.value.remaining == Money(30, "EUR")


def test_a_model_call_that_no_rule_covers_is_asked_about_under_a_delegation(governed):
    tracer = trace.get_tracer("by hand")
    token = passed_on()

    def chat() -> None:
        with tracer.start_as_current_span("execute_tool search", attributes={"gen_ai.operation.name": "execute_tool"}):
            pass

    with workflow("order-1", agent="billing"), delegated(token) as held:
        chat()
        governed.delegations.revoke(held.id, by="ops")
        with pytest.raises(NotAuthorized, match="was revoked"):
            chat()


def test_a_token_that_is_none_refuses_at_the_block(governed):
    token = passed_on()
    head, claims, signature = token.split(".")
    for hostile in (f"{head}.{claims}.{signature[::-1]}", f"{head}.{claims}.", "", "x", token + "x" * 9000):
        with pytest.raises(NotAuthorized, match="the token"), delegated(hostile):
            pytest.fail("acted")


def test_a_token_of_another_tenant_is_none_here(governed):
    token = passed_on()
    theirs = workflow("order-1", tenant="acme")
    with pytest.raises(NotAuthorized, match="is for tenant 'default' and not for 'acme'"), delegated(token), theirs:
        refund("o-1", 10)
    with delegated(token), workflow("order-1", tenant="acme"):
        assert not spanledger.authorize("payments:refund")
        assert not spanledger.has_permission("payments:refund")
        with pytest.raises(NotAuthorized, match="is for tenant"):
            delegate("refunds", "payments:refund")


def test_a_right_signature_without_the_proof_is_no_delegation(governed):
    keys = Config(delegation_keys=KEYS).delegation_keys
    held = keys.read(passed_on())
    forged = keys.sign({
        "aud": held.tenant, "sub": "billing", "jti": "guessed", "exp": held.expires_at_s, "actor": None,
        "permissions": ["*"], "chain": list(held.chain), "agents": list(held.agents),
    })  # fmt: skip
    with delegated(forged), workflow("order-1"), pytest.raises(NotAuthorized, match="knows of no such delegation"):
        refund("o-1", 10)


def test_async_code_acts_under_it_as_well(governed):
    token = passed_on()

    async def act() -> list[str]:
        async with workflow("order-1", agent="billing"), delegated(token):
            return await asyncio.gather(refund_awaiting("o-1", 1), asyncio.to_thread(refund, "o-2", 2))

    assert asyncio.run(act()) == ["refunded 1", "refunded 2"]
    assert {row["delegation"] is not None for row in governed.calls(tool="refund")} == {True}


def test_executors_and_copied_contexts_take_it_along_and_threads_of_ones_own_do_not(governed):
    token, seen = passed_on(), []
    with ThreadPoolExecutor(1) as pool, delegated(token):
        assert pool.submit(refund, "o-1", 1).result() == "refunded 1"
        context = contextvars.copy_context()
    thread = threading.Thread(target=lambda: seen.append(context.run(refund, "o-2", 2)))
    thread.start()
    thread.join()
    assert seen == ["refunded 2"]
    with ThreadPoolExecutor(1) as pool, pytest.raises(NotAuthorized):
        pool.submit(refund, "o-3", 3).result()


def test_two_tasks_act_under_their_own(governed):
    tokens = dict.fromkeys(("left", "right"))
    with workflow("order-1", agent="support"):
        for name in tokens:
            tokens[name] = delegate(name, "payments:refund")

    async def act(name: str) -> None:
        with delegated(tokens[name]):
            await refund_awaiting(name, 1)

    async def both() -> None:
        async with workflow("order-1"):
            await asyncio.gather(*map(act, tokens))

    asyncio.run(both())
    assert {row["agent"] for row in governed.calls(tool="refund")} == {"left", "right"}


def test_questions_are_answered_under_it(governed, monkeypatch):
    monkeypatch.setattr(authority, "KNOWN_FOR_S", -1.0)
    with delegated(passed_on()) as held:
        assert spanledger.authorize("payments:refund").delegation == held.id
        assert spanledger.authorize("payments:payout").reason.endswith("has only payments:refund")
        with pytest.raises(NotAuthorized, match="has only") as refused:
            spanledger.ensure_authorized("payments:payout")
        assert refused.value.delegation == held.id
        assert [spanledger.has_permission(f"payments:{what}") for what in ("refund", "payout")] == [True, False]
        governed.grant(Grant("payments:refund", agent="billing", allowed=False), by="ops")
        assert not spanledger.has_permission("payments:refund")
        assert not spanledger.authorize("payments:refund")
        governed.revoke("payments:refund", by="ops", agent="billing")
        assert spanledger.has_permission("payments:refund")
        governed.delegations.revoke(held.id, by="ops")
        assert not spanledger.has_permission("payments:refund")
    assert not spanledger.has_permission("payments:refund")


def test_in_mode_shadow_a_bad_token_is_told_and_the_call_runs(governed, dsn, caplog):
    token = passed_on()
    spanledger.uninstrument()
    spanledger.instrument(Config(dsn=dsn, rules=[RULE], mode="shadow", delegation_keys=KEYS), libraries=[])
    with delegated(token), workflow("order-1", tenant="acme"):
        assert refund("o-1", 10) == "refunded 10"
    assert "enforced, it would be refused" in caplog.text


@pytest.fixture
def looking(governed, dsn):
    """Make the process one that only looks, on a ledger of one's choice."""

    def make(**fields) -> None:
        spanledger.uninstrument()
        given = {"dsn": dsn, "rules": [RULE], "mode": "shadow", "delegation_keys": KEYS}
        spanledger.instrument(Config(**given | fields), libraries=[])

    return make


def test_in_mode_shadow_no_block_is_refused_and_what_is_in_it_acts_as_before(looking, caplog):
    looking()
    for hostile in ("x", "", "none", 7):
        with delegated(hostile) as held, workflow("order-1", agent="support"):
            assert held is None
            assert refund("o-1", 10) == "refunded 10"
    told = [
        record.message for record in caplog.records if "what would act under a delegation goes on" in record.message
    ]
    assert len(told) == 4
    assert "enforced, it would be refused: not permitted: the token cannot be read" in told[0]


def test_in_mode_shadow_nothing_wider_is_passed_on_and_the_program_goes_on(governed, looking, caplog):
    looking()
    with workflow("order-1", agent="sales"):
        token = delegate("billing", "payments:refund")
        with delegated(token), delegated(delegate("refunds", "payments:refund")):
            assert refund("o-1", 10) == "refunded 10"
    assert governed.delegations.all() == []
    assert "nothing is delegated to 'billing', and the program goes on; enforced, it would be refused" in caplog.text
    assert "payments:refund: nobody has granted it" in caplog.text
    with workflow("order-1", agent="support"), delegated(delegate("billing", "payments:refund")) as held:
        assert held.agent == "billing"


def test_in_mode_shadow_a_ledger_that_is_down_stops_nobody_who_passes_authority_on(looking, caplog):
    looking(dsn="postgresql://nobody@127.0.0.1:1/none")
    with workflow("order-1", agent="support"), delegated(delegate("billing", "payments:refund")):
        assert refund("o-1", 10) == "refunded 10"
        assert not spanledger.ensure_authorized("payments:refund")
    assert "nothing is delegated to 'billing'" in caplog.text


def test_in_mode_shadow_what_can_never_be_right_is_said_all_the_same(looking):
    looking(delegation_keys=())
    with pytest.raises(ConfigError, match="there is no key to sign a delegation with"):
        delegate("billing", "payments:refund")
    with pytest.raises(ConfigError, match="a permission is a name"):
        delegate("billing", "pay ments")


def test_in_mode_off_nothing_is_asked_and_nothing_looked_at(dsn):
    spanledger.instrument(Config(dsn="postgresql://nobody@127.0.0.1:1/none", mode="off"), libraries=[])
    with delegated(delegate("billing", "payments:refund")) as held:
        assert held is None
        assert refund("o-1", 10) == "refunded 10"


def test_without_a_key_there_is_no_delegation(dsn):
    spanledger.instrument(Config(dsn=dsn), libraries=[])
    with pytest.raises(ConfigError, match="openssl rand -base64 32"):
        delegate("billing", "payments:refund")


def test_a_ledger_that_is_down_lets_nothing_run_under_a_delegation(governed):
    token = passed_on()
    spanledger.uninstrument()
    down = Config(
        dsn="postgresql://nobody@127.0.0.1:1/none",
        delegation_keys=KEYS,
        rules=[Rule("refund", on_ledger_down="continue")],
    )
    spanledger.instrument(down, libraries=[])
    with workflow("order-1"):
        assert refund("o-1", 10) == "refunded 10"
        with delegated(token), pytest.raises(LedgerUnavailable):
            refund("o-2", 10)


def test_by_hand_blocking_and_awaiting(governed, dsn):
    token = governed.delegations.give(Delegation("billing", "payments:refund", Money(50, "EUR")), agent="support")
    below = governed.delegations.give(Delegation("refunds", "payments:refund"), under=token)

    async def act() -> tuple[str, list[str]]:
        async with spanledger.AsyncLedger(config=Config(dsn=dsn, rules=[RULE], delegation_keys=KEYS)) as ledger:
            last = await ledger.delegations.give(Delegation("cards", "payments:refund"), under=below)
            call = ToolCall("refund", {"amount": 10}, workflow_id="w", delegation=last)
            result = await ledger.run(call, lambda: "done")
            rows = await ledger.delegations.all("active")
            return result, await ledger.delegations.revoke(rows[1]["id"], by="ops")

    result, ended = asyncio.run(act())
    rows = governed.delegations.all()
    assert result == "done"
    assert ended == [rows[1]["id"], rows[2]["id"]]
    assert [row["state"] for row in rows] == ["active", "revoked", "revoked"]
    assert [row["state"] for row in governed.delegations.all(delegation_id=rows[0]["id"][:8])] == ["active"]
    with pytest.raises(ConfigError, match="is not a delegation's id"):
        governed.delegations.revoke("x", by="ops")
    with pytest.raises(ConfigError, match="has no delegation"):
        governed.delegations.revoke("00000000-0000-0000-0000-000000000000", by="ops")
    with pytest.raises(ConfigError, match="by is who revokes"):
        governed.delegations.revoke(rows[0]["id"], by=" ")
