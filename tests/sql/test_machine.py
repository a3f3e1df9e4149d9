"""The SQL functions against a model of them, in any order that Hypothesis can think of.

`LEDGER_EXAMPLES=2000 pytest tests/sql/test_machine.py` searches longer, and differently every time.
"""

from __future__ import annotations

import os
import uuid
from typing import Any

import hypothesis.strategies as st
import psycopg
from hypothesis import HealthCheck, note, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from model import BUDGETS, STOPPABLE, Account, Model
from protocol import Protocol, item, key_of

EXAMPLES = os.environ.get("LEDGER_EXAMPLES")
SETTINGS = settings(
    max_examples=int(EXAMPLES or 60),
    derandomize=EXAMPLES is None,
    stateful_step_count=30,
    deadline=None,
    database=None,
    print_blob=True,
    suppress_health_check=list(HealthCheck),
)
# A tool goes with its call: another tool is another key.
TOOLS = {"a": "refund", "b": "mail_send", "c": "refund", "m": "gpt"}
RATES = [1.5, 2]
ACTORS = ["u_1", "u_2"]
FAILURES_COST = [{}, {"EUR": 7}, {"GBP": 7}, {"tokens": 3}]

amounts = st.dictionaries(st.sampled_from(["EUR", "tokens", "GBP", "USD"]), st.sampled_from([0, 1, 20, 60]), max_size=1)
calls = st.builds(
    lambda name, reserve, differs, terms: (name, {"reserve": {"calls": 1} | reserve, "differs": differs} | terms),
    st.sampled_from(sorted(TOOLS)),
    amounts,
    st.integers(0, 3).map(lambda n: n == 0),
    st.fixed_dictionaries(
        {
            "replay_for_s": st.sampled_from([None, None, 0]),
            "on_mismatch": st.sampled_from(["replay", "refuse"]),
            "on_unknown": st.sampled_from(["ask", "retry", "probe"]),
            "on_failure": st.sampled_from(["retry", "retry", "replay"]),
            "attempts_max": st.sampled_from([None, 1, 3]),
            "actor": st.sampled_from(ACTORS),
            "approval": st.sampled_from([False, False, True, {"unit": "EUR", "steps": 20}]),
            "approval_covers_retries": st.booleans(),
            "self_approval": st.booleans(),
        }
    ),
)
tenants = st.integers(0, 1)


class LedgerMachine(RuleBasedStateMachine):
    """Two tenants with four calls each, one of them to a model, against budgets in money, tokens and calls."""

    def __init__(self, connection: psycopg.Connection) -> None:
        super().__init__()
        self.sides = [(Protocol(connection, f"tenant-{n}-{uuid.uuid4()}"), Model(RATES[0])) for n in (0, 1)]
        for protocol, _ in self.sides:
            protocol.rate("GBP", "EUR", str(RATES[0]))
            for name, (unit, limit, match, per) in BUDGETS.items():
                protocol.budget(name, limit, unit, match=match, per=per)
        # Everything that ever ran, as (tenant, name, attempt_id); what was begun; when it ran and settled.
        self.ran: list[tuple[int, str, str]] = []
        self.begun: list[tuple[int, str, dict[str, Any]]] = []
        self.attempts: dict[tuple[int, str], int] = {}
        self.owner: dict[tuple[int, str], str] = {}
        self.since_owner: dict[tuple[int, str], set[str]] = {}

    # what may happen

    @rule(tenant=tenants, batch=st.lists(calls, min_size=1, max_size=3))
    def begin(self, tenant: int, batch: list[tuple[str, dict[str, Any]]]) -> None:
        self._begin(tenant, [name for name, _ in batch], [self._item(name, terms) for name, terms in batch])

    @precondition(lambda self: self.begun)
    @rule(data=st.data())
    def begin_again(self, data: st.DataObject) -> None:
        """An answer was lost, so the same is asked again."""
        tenant, name, asked = data.draw(st.sampled_from(self.begun[-6:]))
        self._begin(tenant, [name], [asked])

    @rule(tenant=tenants, call=calls)
    def give_back_what_was_not_answered(self, tenant: int, call: tuple[str, dict[str, Any]]) -> None:
        """A begin is under way when whoever sent it has gone."""
        asked = self._item(*call)
        self._compared("fail", tenant, [asked | {"not_invoked": True}])
        self.begun.append((tenant, call[0], asked))

    def _begin(self, tenant: int, names: list[str], items: list[dict[str, Any]]) -> None:
        protocol, model = self.sides[tenant]
        answers, expected = protocol.ask("begin", items), model.begin(items)
        note(f"{answers}")
        for name, asked, answer, wanted in zip(names, items, answers, expected, strict=True):
            assert answer | wanted == answer
            self.begun.append((tenant, name, asked))
            if answer.get("requested") and answer["verdict"] == "awaiting_approval":
                request = model.calls[asked["key"]].request
                assert request.id in (None, answer["approval_id"])
                request.id = answer["approval_id"]
            ran = (tenant, name, asked["attempt_id"])
            if answer["verdict"] == "run" and ran not in self.ran:
                self.ran.append(ran)
                self.since_owner.setdefault((tenant, name), set()).add(asked["attempt_id"])
                self._admitted_within_limits(tenant, answer)

    def _admitted_within_limits(self, tenant: int, answer: dict[str, Any]) -> None:
        for budget in answer["budgets"]:
            if budget["reserved"]:
                assert budget["remaining"] >= 0

    @precondition(lambda self: self.ran)
    @rule(
        data=st.data(),
        size=st.integers(1, 3),
        cost=st.sampled_from([{}, {"EUR": 15}, {"EUR": 90}, {"GBP": 15}, {"tokens": 5}]),
    )
    def settle(self, data: st.DataObject, size: int, cost: dict[str, int]) -> None:
        """Workers settle: current ones, late ones, ones that settled before."""
        tenant, chosen = self._some_that_ran(data, size)
        items = [self._ended(name, id_) | {"cost": cost, "result": f'"{id_}"'} for name, id_ in chosen]
        for (name, id_), answer in zip(chosen, self._compared("settle", tenant, items), strict=True):
            call = (tenant, name)
            if answer["owned"] and self.owner.get(call) != id_:
                # It began after the last one that settled as owner, so that no two ran for one effect.
                assert id_ in self.since_owner[call]
                self.owner[call], self.since_owner[call] = id_, set()

    @precondition(lambda self: self.begun)
    @rule(data=st.data(), cost=st.sampled_from([{}, {"EUR": 15}, {"EUR": 90}, {"GBP": 15}]))
    def settle_what_may_not_run(self, data: st.DataObject, cost: dict[str, int]) -> None:
        """Whoever was refused, or is to wait, says that it ran all the same."""
        tenant, name, asked = data.draw(st.sampled_from(self.begun[-6:]))
        ran, model = (tenant, name, asked["attempt_id"]), self.sides[tenant][1]
        if ran in self.ran:
            return
        said = self._ended(name, asked["attempt_id"]) | {"cost": cost, "result": '"ran"', "admitted": False}
        (answer,) = self._compared("settle", tenant, [said])
        if answer["owned"]:
            self.owner[tenant, name], self.since_owner[tenant, name] = asked["attempt_id"], set()
        if asked["attempt_id"] in model.attempts:
            self.ran.append(ran)

    @precondition(lambda self: self.ran)
    @rule(data=st.data(), size=st.integers(1, 3), how=st.sampled_from(["definite", "unknown", "not_invoked"]))
    def fail(self, data: st.DataObject, size: int, how: str) -> None:
        tenant, chosen = self._some_that_ran(data, size)
        flags = {"outcome_unknown": how == "unknown", "not_invoked": how == "not_invoked"}
        items = [self._ended(name, id_) | flags | self._failure(id_, how) for name, id_ in chosen]
        self._compared("fail", tenant, items)

    @rule(
        tenant=tenants,
        name=st.sampled_from(sorted(TOOLS)),
        outcome=st.sampled_from(["succeeded", "failed", "retry", "unknown"]),
        behind=st.sampled_from([None, 0, 0, 1]),
    )
    def resolve(self, tenant: int, name: str, outcome: str, behind: int | None) -> None:
        """A person, or a probe that says which attempt it looked at."""
        call = self.sides[tenant][1].calls.get(key_of(name))
        attempt = None if behind is None or call is None else call.attempt - behind
        found = {"result": '"found"', "result_kept": True} if outcome == "succeeded" else {}
        self._compared(
            "resolve", tenant, [{"key": key_of(name), "outcome": outcome, "attempt": attempt, "by": "ops"} | found]
        )

    @precondition(lambda self: any(model.requests for _, model in self.sides))
    @rule(
        data=st.data(),
        size=st.integers(1, 2),
        function=st.sampled_from(["approve", "approve", "deny"]),
        by=st.sampled_from(["boss", "boss", *ACTORS]),
    )
    def answer(self, data: st.DataObject, size: int, function: str, by: str) -> None:
        """A person answers requests, also those that nobody waits for any more."""
        tenant = data.draw(st.sampled_from([n for n, (_, model) in enumerate(self.sides) if model.requests]))
        some = st.lists(st.sampled_from(self.sides[tenant][1].requests[-4:]), min_size=1, max_size=size)
        items = [{"id": request.id, "by": by, "key": request.key} for request in data.draw(some)]
        self._compared(function, tenant, items)

    @rule(tenant=tenants, name=st.sampled_from(sorted(TOOLS)))
    def cancel(self, tenant: int, name: str) -> None:
        self._compared("cancel", tenant, [{"key": key_of(name), "by": "ops"}])

    @rule(tenant=tenants, name=st.sampled_from(sorted(TOOLS)))
    def time_passes(self, tenant: int, name: str) -> None:
        """The lease of a running call is over, and that of a probe."""
        protocol, model = self.sides[tenant]
        protocol.lease_over(name)
        if key_of(name) in model.calls:
            call = model.calls[key_of(name)]
            call.lease_over, call.prober = True, None

    @rule(tenant=tenants, name=st.sampled_from(sorted(TOOLS)))
    def nobody_answers(self, tenant: int, name: str) -> None:
        """The time is over in which a person could have."""
        protocol, model = self.sides[tenant]
        protocol.answer_due(name)
        for request in model.requests:
            request.due = request.due or (request.key == key_of(name) and request.state == "pending")

    @rule(tenant=tenants)
    def prune(self, tenant: int) -> None:
        """Much time passes for whatever is over, and an operator removes it."""
        protocol, model = self.sides[tenant]
        before = set(model.calls)
        assert protocol.prune() == model.prune()
        for key in before - set(model.calls):
            self.attempts.pop((tenant, key), None)

    @precondition(lambda self: self.ran)
    @rule(data=st.data(), size=st.integers(0, 2))
    def renew(self, data: st.DataObject, size: int) -> None:
        """Signs of life, from whoever lives."""
        tenant, chosen = self._some_that_ran(data, max(size, 1))
        items = [self._ended(name, id_) | {"lease_s": 60} for name, id_ in chosen[:size]]
        protocol, model = self.sides[tenant]
        protocol.renew(*items)
        model.renew(items)

    @rule(tenant=tenants, budget=st.sampled_from(sorted(BUDGETS)), actor=st.sampled_from(ACTORS), steps=st.just(50))
    def top_up(self, tenant: int, budget: str, actor: str, steps: int) -> None:
        protocol, model = self.sides[tenant]
        unit, limit, _, per = BUDGETS[budget]
        assert protocol.top_up(budget, unit, steps, {"actor": actor} if per else {})
        model.accounts.setdefault((budget, actor if per else ""), Account(unit, limit)).limit += steps

    @rule(tenant=tenants, stopped=st.booleans(), rate=st.sampled_from(RATES))
    def an_operator_changes_controls(self, tenant: int, stopped: bool, rate: float) -> None:
        protocol, model = self.sides[tenant]
        protocol.apply(switches=[{"match": STOPPABLE, "allowed": not stopped}])
        protocol.rate("GBP", "EUR", str(rate))
        model.stopped, model.rate = stopped, rate

    # what always holds

    @invariant()
    def the_ledger_is_what_the_model_says(self) -> None:
        for protocol, model in self.sides:
            rows = protocol.sql.execute(
                "select budget, coalesce(nullif(scope, '')::jsonb ->> 'actor', ''), spent, held, topped_up "
                "from spanledger.account where tenant = %s",
                (protocol.tenant,),
            ).fetchall()
            assert {row[:2]: row[2:] for row in rows} == {
                holder: (account.spent, account.held, account.limit - BUDGETS[holder[0]][1])
                for holder, account in model.accounts.items()
            }
            rows = protocol.sql.execute(
                "select encode(key, 'hex'), state, attempt, attempts, attempt_id::text, result "
                "from spanledger.call where tenant = %s",
                (protocol.tenant,),
            ).fetchall()
            assert {row[0]: row[1:] for row in rows} == {
                key: (call.state, call.attempt, call.attempts, call.attempt_id, call.result)
                for key, call in model.calls.items()
            }
            rows = protocol.sql.execute(
                "select id::text, state, by_name from spanledger.approval where tenant = %s", (protocol.tenant,)
            ).fetchall()
            assert {row[0]: row[1:] for row in rows} == {r.id: (r.state, r.by) for r in model.requests}

    @invariant()
    def what_is_held_is_held_by_calls_that_may_have_an_effect(self) -> None:
        for protocol, _ in self.sides:
            rows = protocol.sql.execute(
                "select a.budget, a.held, coalesce(sum(h.amount), 0), coalesce(sum(h.amount) filter ("
                "where c.state not in ('in_flight', 'unknown', 'reopened')), 0) from spanledger.account a "
                "left join (spanledger.call c cross join lateral unnest(c.accounts, c.held) h (id, amount)) "
                "on h.id = a.id where a.tenant = %s group by a.id",
                (protocol.tenant,),
            ).fetchall()
            for _, held, by_calls, by_ended_calls in rows:
                assert (held, by_ended_calls) == (by_calls, 0)

    @invariant()
    def when_nothing_is_open_all_money_is_spent_by_somebody(self) -> None:
        for _, model in self.sides:
            if any(call.state in ("in_flight", "unknown", "reopened") for call in model.calls.values()):
                continue
            spent = sum(attempt.spent for attempt in model.attempts.values())
            assert (model.accounts["count", ""].spent if model.attempts else 0) == spent
            assert all(account.held == 0 for account in model.accounts.values())

    @invariant()
    def nothing_runs_with_arguments_that_nobody_approved(self) -> None:
        for protocol, _ in self.sides:
            assert not protocol.sql.execute(
                "select from spanledger.approval a join spanledger.call c on c.tenant = a.tenant and c.key = a.key "
                "where a.tenant = %s and a.consumed_by = c.attempt_id and a.fingerprint <> c.fingerprint",
                (protocol.tenant,),
            ).fetchall()

    @invariant()
    def the_fencing_number_never_falls(self) -> None:
        for tenant, (_, model) in enumerate(self.sides):
            for key, call in model.calls.items():
                assert call.attempt >= self.attempts.get((tenant, key), 0)
                self.attempts[tenant, key] = call.attempt

    # helpers

    def _item(self, name: str, terms: dict[str, Any]) -> dict[str, Any]:
        print_of = key_of(f"{name}, other arguments" if terms["differs"] else name)
        given = {k: v for k, v in terms.items() if k != "differs"}
        if name == "m":
            given |= {"operation": "chat", "approval": False}
        return item(name, tool=TOOLS[name], fingerprint=print_of, **given)

    def _some_that_ran(self, data: st.DataObject, size: int) -> tuple[int, list[tuple[str, str]]]:
        recent = self.ran[-8:]
        tenant = data.draw(st.sampled_from(recent))[0]
        chosen = data.draw(st.lists(st.sampled_from([r for r in recent if r[0] == tenant]), min_size=1, max_size=size))
        return tenant, [(name, id_) for _, name, id_ in chosen]

    def _ended(self, name: str, attempt_id: str) -> dict[str, Any]:
        return {"key": key_of(name), "attempt_id": attempt_id, "result_kept": True}

    def _failure(self, attempt_id: str, how: str) -> dict[str, Any]:
        """What an attempt says of its failure, however often it says it."""
        cost = FAILURES_COST[int(attempt_id[0], 16) % len(FAILURES_COST)]
        return {"cost": {}} if how == "not_invoked" else {"cost": cost, "error": {"type": "E", "message": "no"}}

    def _compared(self, function: str, tenant: int, items: list[dict[str, Any]]) -> list[dict[str, Any]]:
        protocol, model = self.sides[tenant]
        answers = protocol.ask(function, items)
        note(f"{answers}")
        expected = [None] * len(items)
        for i in sorted(range(len(items)), key=lambda i: (items[i]["key"], i)):
            expected[i] = getattr(model, function)(items[i])
        assert answers == expected
        return answers


def test_the_functions_do_what_the_model_says(shared: psycopg.Connection) -> None:
    run_state_machine_as_test(lambda: LedgerMachine(shared), settings=SETTINGS)
