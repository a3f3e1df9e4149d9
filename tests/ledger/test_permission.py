"""What programs may do, as the ledger's grants say; on a real ledger."""

from __future__ import annotations

import datetime as dt
import pickle

import psycopg
import pytest

from spanledger import AsyncLedger, Config, Grant, Ledger, Money, Rule, ToolCall, over
from spanledger.cli.timeline import line
from spanledger.errors import ApprovalPending, ConfigError, LedgerUnavailable, NotAuthorized

NOW = dt.datetime.now(dt.UTC)
REFUND = Rule("refund", permission="payments:refund", reserve=lambda arguments: Money(arguments["amount"], "EUR"))


def refund(amount: str = "10", agent: str | None = "support", actor: str | None = "u_42") -> ToolCall:
    return ToolCall("refund", {"amount": amount}, workflow_id=f"order-{amount}", agent=agent, actor=actor)


def test_a_tool_whose_rule_names_a_permission_runs_only_where_it_is_granted(ledger_with):
    ledger = ledger_with(rules=[REFUND])
    with pytest.raises(NotAuthorized, match="it needs 'payments:refund': nobody has granted it") as refused:
        ledger.run(refund(), lambda: pytest.fail("ran"))
    assert (refused.value.permission, refused.value.grant, refused.value.reason) == (
        *("payments:refund", None, "nobody has granted it"),
    )

    ledger.grant(Grant("payments:*", agent="support", limit=Money("280", "EUR")), by="ops")

    assert ledger.run(refund("280"), lambda: "paid") == "paid"
    with pytest.raises(
        NotAuthorized, match=r"'payments:\* to agent support' of at most 280\.00 EUR decides"
    ) as refused:
        ledger.run(refund("280.01"), lambda: pytest.fail("ran"))
    assert pickle.loads(pickle.dumps(refused.value)).grant == "payments:* to agent support"
    with pytest.raises(NotAuthorized):
        ledger.run(refund("5", agent="sales"), lambda: pytest.fail("ran"))


def test_the_grants_of_a_programs_file_are_given_when_it_starts_and_what_was_revoked_stays_so(ledger_with):
    grants = [Grant("payments:refund", agent="support")]
    first = ledger_with(rules=[REFUND], grants=grants)
    assert first.run(refund("1"), lambda: "paid") == "paid"
    assert first.revoke("payments:refund", agent="support", by="ops")
    assert not first.revoke("payments:refund", agent="support", by="ops")
    with pytest.raises(NotAuthorized, match="the grant of payments:refund to agent support was revoked"):
        first.run(refund("2"), lambda: pytest.fail("ran"))

    restarted = ledger_with(rules=[REFUND], grants=grants)
    with pytest.raises(NotAuthorized):
        restarted.run(refund("2"), lambda: pytest.fail("ran"))

    restarted.apply(restarted.config)
    assert restarted.run(refund("2"), lambda: "paid") == "paid"


def test_a_program_whose_own_file_names_no_permission_needs_it_where_an_operator_said_so(ledger_with):
    ledger_with().apply(Config(rules=[Rule("refund", permission="payments:refund")]))
    ledger = ledger_with(rules=[Rule("refund")])
    with pytest.raises(NotAuthorized, match="payments:refund"):
        ledger.run(ToolCall("refund", {}, workflow_id="w"), lambda: pytest.fail("ran"))
    # Starting a program whose rule names none takes nothing away; that is an operator's.
    with pytest.raises(NotAuthorized):
        ledger_with(rules=[Rule("refund")]).run(ToolCall("refund", {}, workflow_id="w"), lambda: pytest.fail("ran"))


def test_a_grant_may_ask_for_a_persons_approval_over_an_amount(ledger_with):
    ledger = ledger_with(rules=[Rule("refund", permission="payments:refund", reserve=REFUND.reserve, wait_timeout_s=0)])
    ledger.grant(Grant("payments:refund", approval=over(Money(100, "EUR"))), by="ops")
    assert ledger.run(refund("100"), lambda: "paid") == "paid"
    with pytest.raises(ApprovalPending) as pending:
        ledger.run(refund("101"), lambda: pytest.fail("ran"))
    ledger.approve(pending.value.approval_id, by="boss")
    assert ledger.run(refund("101"), lambda: "paid") == "paid"


def test_a_call_that_needs_a_permission_does_not_run_while_nobody_can_say_whether_it_is_granted():
    config = Config(
        dsn="postgresql://nobody@127.0.0.1:1/none",
        rules=[Rule("refund", permission="payments:refund", on_ledger_down="continue")],
    )
    with Ledger(config=config) as ledger, pytest.raises(LedgerUnavailable):
        ledger.run(ToolCall("refund", {}, workflow_id="w"), lambda: pytest.fail("ran"))


def test_authorize_says_why_and_by_which_grant_and_is_kept_in_history(ledger: Ledger, sql: psycopg.Connection):
    ledger.grant(Grant("payments:*", limit=Money(280, "EUR"), approval=over(Money(100, "EUR"))), by="ops")
    given = ledger.authorize("payments:refund", Money(200, "EUR"), agent="support", workflow_id="order-1")
    assert given
    assert (given.grant, given.version, given.approval, given.reason) == ("payments:*", 1, True, None)
    refused = ledger.authorize("payments:refund", Money(300, "EUR"))
    assert not refused
    assert (refused.reason, refused.limit) == ("it costs more than was granted", Money(280, "EUR"))
    assert not ledger.authorize("mail:send")
    kept = sql.execute(
        "select event, detail ->> 'permission', detail ->> 'workflow_id' from spanledger_v1.history "
        "where event like '%authorized' order by id"
    ).fetchall()
    assert kept == [
        ("authorized", "payments:refund", "order-1"),
        ("not_authorized", "payments:refund", None),
        ("not_authorized", "mail:send", None),
    ]
    (asked,) = ledger.timeline("order-1")
    assert (asked["what"], asked["agent"]) == ("authorized", "support")
    assert "".join(line(asked, NOW)).endswith(
        "authorized payments:refund, with a person's approval of each call (grant payments:*)"
    )
    refused = ledger.authorize("mail:send", workflow_id="order-2")
    assert not refused
    (asked,) = ledger.timeline("order-2")
    assert "".join(line(asked, NOW)).endswith(f"refused    mail:send: {refused.reason}")


async def _in_a_loop(dsn: str) -> None:
    async with AsyncLedger(config=Config(dsn=dsn, rules=[REFUND])) as ledger:
        assert not await ledger.authorize("payments:refund")
        await ledger.grant(Grant("payments:refund"), by="ops")
        assert await ledger.authorize("payments:refund")
        assert await ledger.run(refund(), _paid) == "paid"
        assert [row["state"] for row in await ledger.grants()] == ["granted"]
        assert await ledger.revoke("payments:refund", by="ops")
        assert not await ledger.revoke("payments:refund", by="ops")
        assert [row["state"] for row in await ledger.grants()] == ["revoked"]


async def _paid() -> str:
    return "paid"


def test_in_a_loop_it_is_the_same(dsn):
    import asyncio

    asyncio.run(_in_a_loop(dsn))


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Grant("pay ments"), "a permission is a name such as"),
        (lambda: Grant(""), "a permission is a name such as"),
        (lambda: Grant("payments:*:refund"), "a permission is a name such as"),
        (lambda: Grant("pay*"), "a permission is a name such as"),
        (lambda: Grant("a" * 201), "a permission is a name such as"),
        (lambda: Grant("p", agent=""), "agent is a text that is not empty"),
        (lambda: Grant("p", limit=10.5), "the limit is Money"),
        (lambda: Grant("p", approval="yes"), "approval is true, false or over"),
        (lambda: Grant("p", allowed=None), "allowed is true or false"),
        (lambda: Grant("p", expires_at="soon"), "is no date or time"),
        (lambda: Grant("p", hours="office"), "grant 'p': hours are a text"),
        (lambda: Grant("p", expires_at=12), "expires_at is a date or a time"),
        (lambda: Rule("refund", permission="payments:*"), "permission is a name such as"),
        (lambda: Config(grants=["payments:*"]), "grants is a list of Grant"),
    ],
)
def test_what_cannot_be_granted_is_said(make, complaint):
    with pytest.raises(ConfigError, match=complaint):
        make()


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [(("payments:*",), "a permission is a name"), (("payments:refund", 10.0), "the amount is Money")],
)
def test_what_cannot_be_asked_is_said(ledger: Ledger, asked, complaint):
    with pytest.raises(ConfigError, match=complaint):
        ledger.authorize(*asked)


def test_grants_of_a_file_are_read(tmp_path):
    file = tmp_path / "spanledger.toml"
    file.write_text(
        "[[rules]]\nmatch = 'refund'\npermission = 'payments:refund'\n"
        "[[grants]]\npermission = 'payments:*'\nagent = 'support'\nlimit = '280.00 EUR'\n"
        "approval = 'over 100.00 EUR'\nexpires_at = 2027-01-01\nhours = '09:00-17:00'\n"
        "[[grants]]\npermission = '*'\nallowed = false\nreason = 'audit'\n"
    )
    config = Config.from_file(file)
    assert config.rules[0].permission == "payments:refund"
    assert config.grants == (
        Grant(
            "payments:*",
            agent="support",
            limit=Money(280, "EUR"),
            approval=over(Money(100, "EUR")),
            expires_at=dt.datetime(2027, 1, 1, tzinfo=dt.UTC),
            hours="09:00-17:00",
        ),
        Grant("*", allowed=False, reason="audit"),
    )
