"""The vectors that a client in any language can run against `spanledger_v1`; here ours runs them.

Rules: a vector is written by hand, or its hashes are made by nothing but what its file says. Each file says what it is
about.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import hmac
import json
import time
import uuid
from pathlib import Path
from typing import Any

import psycopg
import pytest

from spanledger import EgressRule, Redact, Rule
from spanledger.core import egress, grants, hours, keys, money
from spanledger.core.call import Call
from spanledger.core.occurrences import Occurrence
from spanledger.core.redaction import Redactor
from spanledger.core.rules import terms_for
from spanledger.core.values import canonical_of
from spanledger.errors import ConfigError
from spanledger.jsonpaths import find

HERE = Path(__file__).parent
FILES = sorted(HERE.glob("*.json"))


def cases(name: str) -> list[Any]:
    return [pytest.param(case, id=str(n)) for n, case in enumerate(json.loads((HERE / name).read_text())["cases"])]


def hashed(parts: list[str], secret: str | None) -> str:
    message = b"".join(len(part.encode()).to_bytes(8, "big") + part.encode() for part in parts)
    if secret is None:
        return hashlib.sha256(message).hexdigest()
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_every_file_says_what_it_is_about_and_is_run(file: Path):
    assert set(json.loads(file.read_text())) == {"about", "cases"}
    assert f'"{file.name}"' in Path(__file__).read_text()


@pytest.mark.parametrize("case", cases("canonical.json"))
def test_values_have_this_canonical_form(case):
    assert canonical_of(json.loads(case["value"])).decode() == case["canonical"]


@pytest.mark.parametrize("case", cases("keys.json"))
def test_keys_are_made_of_these_parts(case):
    secret = case["secret"]
    assert case["key"] == hashed(case["parts"], secret)
    assert keys.digest(tuple(part.encode() for part in case["parts"]), secret and secret.encode()) == case["key"]


@pytest.mark.parametrize("case", [case for case in cases("keys.json") if case.values[0]["parts"][3] == "occurrence"])
def test_occurrences_are_identified_by_these_parts(case):
    tenant, scope, tool, _, number, within, arguments = case["parts"]
    call = Call(tool, arguments=json.loads(arguments), workflow_id=scope, occurrence=Occurrence(int(number), within))
    terms = terms_for(call, [Rule(tool, identity="occurrence")])
    secret = case["secret"] and case["secret"].encode()
    assert keys.identify(call, terms, tenant=tenant, nonce="n", secret=secret).key == case["key"]


@pytest.mark.parametrize("case", cases("fingerprints.json"))
def test_fingerprints_are_of_tool_and_arguments(case):
    assert case["fingerprint"] == hashed([case["tool"], case["canonical"]], case["secret"])


@pytest.mark.parametrize("case", cases("money.json"))
def test_amounts_are_read_as_these_steps(case):
    if case["steps"] is None:
        with pytest.raises(ConfigError):
            money.parse_amount(case["text"])
        return
    amount = money.parse_amount(case["text"])
    assert (amount.unit, amount.steps) == (case["unit"], case["steps"])


@pytest.mark.parametrize("action", ["deny", "allow"])
@pytest.mark.parametrize("case", cases("egress.json"))
def test_requests_are_taken_for_this(case, action):
    host, methods, path = case["rule"]
    rule = EgressRule(host, action, methods and tuple(methods), path)
    headers = tuple((name, value) for name, value in case.get("headers", ()))
    assert rule.covers(egress.target_of(egress.Request(case["method"], case["url"], headers))) == case[action]


@pytest.mark.parametrize("case", cases("redaction.json"))
def test_values_may_be_seen_like_this(case):
    redactor = Redactor(tuple(Redact(path, action) for path, action in case["redact"]), find)
    assert redactor.tree(case["value"]) == case["seen"]


class Tenant:
    """A tenant that has nothing yet."""

    def __init__(self, sql: psycopg.Connection) -> None:
        self.sql = sql
        self.name = f"vector-{uuid.uuid4()}"

    def ask(self, function: str, items: list[Any]) -> list[Any]:
        (answers,) = self.sql.execute(
            f"select spanledger_v1.{function}(%s, %s::jsonb)", (self.name, json.dumps(items))
        ).fetchone()
        return answers

    def apply(self, controls: Any) -> None:
        self.sql.execute("select spanledger_v1.apply(%s, %s::jsonb, 'ops')", (self.name, json.dumps(controls)))

    def balance(self, budget: str) -> tuple[int, int]:
        return self.sql.execute(
            "select spent_steps, held_steps from spanledger_v1.budgets where tenant = %s and name = %s",
            (self.name, budget),
        ).fetchone()


@pytest.fixture
def tenant(sql) -> Tenant:
    return Tenant(sql)


@pytest.mark.parametrize("case", cases("permissions.json"))
def test_the_narrowest_grant_decides(case, tenant):
    names = ("permission", "agent", "actor")
    given = [dict(zip(names, grant, strict=False)) | {"spec": {"allowed": grant[3]}} for grant in case["grants"]]
    whose = {"agent": case.get("agent"), "actor": case.get("actor")}
    tenant.apply({"grants": given})
    asked = {"id": str(uuid.uuid4()), "permission": case["permission"], "reserve": {}, **whose}
    assert ("reason" not in tenant.ask("authorize", [asked])[0]) == case["allowed"]
    assert grants.permitted(tenant.ask("permissions", [whose])[0], case["permission"]) == case["allowed"]


@pytest.mark.parametrize("case", cases("hours.json"))
def test_grants_hold_at_these_hours(case, sql):
    at = dt.datetime.fromisoformat(case["at"])
    assert hours.within(case["hours"], at.timestamp() % hours.DAY_S) == case["within"]
    (said,) = sql.execute("select spanledger.in_hours(%s, %s)", (case["hours"], at)).fetchone()
    assert said == case["within"]


@pytest.mark.parametrize("case", cases("conversion.json"))
def test_amounts_count_in_another_currency(case, tenant):
    rates = [{"from_unit": "USD", "to_unit": "EUR", "rate": r, "valid_from": since} for r, since in case["rates"]]
    budget = {"name": "eur", "unit": "EUR", "limit": 10**9, "match": "*", "operations": None}
    tenant.apply({"rates": rates, "budgets": [budget]})
    item = json.loads((HERE / "verdicts.json").read_text())["cases"][0]["steps"][0]["items"][0]
    (answer,) = tenant.ask("begin", [item | {"reserve": {"calls": 1, "USD": case["steps"]}}])
    if case["converted"] is None:
        assert (answer["verdict"], answer["budget"]) == ("budget_exceeded", "eur")
    else:
        assert answer["budgets"][0]["reserved"] == case["converted"]


@pytest.mark.parametrize("case", cases("verdicts.json"))
def test_the_ledger_answers_step_by_step(case, tenant):
    brought: dict[str, Any] = {}
    for n, step in enumerate(case["steps"]):
        where = f"{case['name']}: step {n}"
        if "sleep_s" in step:
            time.sleep(step["sleep_s"])
        elif "apply" in step:
            tenant.apply(step["apply"])
        elif "budget" in step:
            assert tenant.balance(step["budget"]) == (step["spent"], step["held"]), where
        else:
            items = [{name: brought.get(str(v), v) for name, v in item.items()} for item in step["items"]]
            answers = tenant.ask(step["function"], items)
            for answer, expected in zip(answers, step["answers"], strict=True):
                for name, said in expected.items():
                    stands_for = isinstance(said, str) and said.startswith("$")
                    value = brought.setdefault(said, answer.get(name)) if stands_for else said
                    assert answer.get(name) == value, f"{where}: {name} of {answer}"
