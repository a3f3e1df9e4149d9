"""`spanledger prune`, as an operator types it, and what the other commands say afterwards."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.aging import age

from spanledger import Config, Ledger, ToolCall
from spanledger.core.retention import Retention
from spanledger.doctor.keeping import of_retention
from spanledger.errors import ConfigError, ResultNotKept

CALL = ToolCall("refund", {"card": "4111"}, workflow_id="order-1", actor="u_42")
OTHER = ToolCall("refund", {"card": "4222"}, workflow_id="order-2")


@pytest.fixture
def old(ledger: Ledger, sql) -> Ledger:
    """A ledger with a call that ended a hundred days ago, and one that ended just now."""
    ledger.run(CALL, lambda: "4111")
    age(sql)
    ledger.run(OTHER, lambda: "4222")
    return ledger


def test_an_operator_prunes_what_is_older_than_that(typed, old):
    code, out, _ = typed("prune", "--older-than", "90d", "--by", "ops@example.com")

    assert code == 0
    assert out.startswith("removed: calls that ended before ")
    assert out.splitlines()[3].split(maxsplit=1) == [
        "1", "calls: what they were made with and what came of them; their keys stay"]  # fmt: skip
    with pytest.raises(ResultNotKept):
        old.run(CALL, lambda: pytest.fail("ran"))
    assert old.run(OTHER, lambda: pytest.fail("ran")) == "4222"
    assert {row["by_name"] for row in old.prunings()} == {"ops@example.com"}

    assert "nothing is that old" in typed("prune", "--older-than", "90d")[1]


def test_a_dry_run_says_what_would_go_and_leaves_it(typed, old):
    out = typed("prune", "--older-than", "90d", "--dry-run")[1]
    assert out.startswith("would go: calls")

    counted = json.loads(typed("prune", "--older-than", "13w", "--dry-run", "--json", "--tenant", "default")[1])
    assert counted.keys() == {"counts", "before", "dry_run"}
    assert {kind: count for kind, count in counted["counts"].items() if count} == {"calls": 1}
    assert old.run(CALL, lambda: pytest.fail("ran")) == "4111"
    assert old.prunings() == []


def test_keys_are_forgotten_only_where_that_was_confirmed(typed, old):
    code, _, complaint = typed("prune", "--older-than", "90d", "--forget-keys")
    assert (code, "run again" in complaint, "--yes" in complaint) == (2, True, True)
    assert typed("prune", "--older-than", "90d", "--forget-keys", "--dry-run")[0] == 0
    assert old.run(CALL, lambda: pytest.fail("ran")) == "4111"

    assert typed("prune", "--older-than", "90d", "--forget-keys", "--yes")[0] == 0

    assert old.run(CALL, lambda: "again") == "again"


def test_how_long_may_stand_in_the_file(typed, old):
    code, _, complaint = typed("prune")
    assert (code, "--older-than" in complaint or "retention" in complaint) == (2, True)
    Path("spanledger.toml").write_text('[retention]\ncalls = "90d"\ntrail = "30d"\n')

    pruned = json.loads(typed("prune", "--json")[1])

    assert pruned["before"].keys() == {"calls", "trail"}
    assert pruned["counts"]["calls"] == 1


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("--older-than", "90"), "an age like '90d'"),
        (("--older-than", "30m"), "at least an hour"),
        (("--older-than", "90d", "--by", ""), "it is empty"),
        (("--older-than", "90d", "--tenant", ""), "it is empty"),
    ],
)
def test_a_mistyped_age_prunes_nothing(typed, old, words, complaint):
    code, _, said = typed("prune", *words)

    assert (code, complaint in said) == (2, True), said
    assert old.run(CALL, lambda: pytest.fail("ran")) == "4111"


def test_whoever_looks_is_told_what_was_pruned(typed, old):
    typed("prune", "--older-than", "90d", "--by", "ops")
    pruned = "was pruned by ops; the keys of tools are kept"

    listed = typed("calls")[1]
    assert listed.count("order-") == 2
    assert pruned in listed.splitlines()[-1]
    assert pruned not in typed("calls", "--since", "7d")[1]
    assert len(json.loads(typed("calls", "--json")[1])) == 2

    shown = typed("show", old.key(CALL)[:8])[1]
    assert "pruned_at" in shown
    assert "4111" not in shown
    assert pruned in typed("show", "ffffffff")[2]

    told = typed("trace", "order-1")[1]
    assert "(pruned: with what, by whom and why is not known any more)" in told
    assert pruned in told
    assert json.loads(typed("trace", "order-1", "--json")[1])["pruned"]
    code, _, complaint = typed("trace", "nowhere")
    assert (code, pruned in complaint) == (1, True)


def test_the_past_is_judged_by_what_is_left_of_it(typed, old):
    typed("prune", "--older-than", "90d", "--by", "ops")
    Path("new.toml").write_text('[[rules]]\nmatch = "refund"\npermission = "payments:refund"\n')

    told = typed("replay", "--config", "new.toml", "--since", "200d")[1]
    assert "1  ran, and would have been refused" in told
    assert "not looked at: what ended before" in told
    recent = json.loads(typed("replay", "--config", "new.toml", "--since", "7d", "--json")[1])
    assert (recent["attempts"], recent["pruned"]) == (1, None)


# --- what a file may say, and what the doctor does about it


@pytest.mark.parametrize("value", ['"90"', '"0d"', "0", "true", '"59m"', "[]", '"ever"', "nan"])
def test_a_file_says_an_age_or_is_an_error(tmp_path, value):
    path = tmp_path / "spanledger.toml"
    path.write_text(f"[retention]\ncalls = {value}\n")
    with pytest.raises(ConfigError, match="retention of calls is"):
        Config.from_file(path)


def test_a_mistyped_part_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ConfigError, match="retention has 'call', which is not known; known are calls, trail, evaluat"):
        Config(retention={"call": "90d"})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="retention says how long"):
        Config(retention="90d")  # type: ignore[arg-type]


def test_ages_are_read_with_their_units():
    given = Retention.of({"calls": "90d", "trail": "2w", "evaluations": 7200})

    assert given == Retention(90 * 86400.0, 14 * 86400.0, 7200.0)
    assert Retention.of(given) == given
    assert Config(retention=given).retention.ages_s == {
        "calls": 7776000.0, "trail": 1209600.0, "evaluations": 7200.0}  # fmt: skip
    assert Config().retention.ages_s == {}


def test_the_doctor_says_how_far_back_the_ledger_goes(typed, old, sql):
    def said() -> dict[str, str]:
        (finding,) = [one for one in json.loads(typed("doctor", "--json")[1]) if one["about"] == "retention"]
        return finding

    assert (said()["state"], "calls since" in said()["says"]) == ("ok", True)
    age(sql, 100)
    assert said()["state"] == "warn"
    assert 'calls = "90d"' in said()["do"]
    Path("spanledger.toml").write_text('[retention]\ncalls = "90d"\n')
    assert (said()["state"], "calls should have gone" in said()["says"]) == ("warn", True)
    typed("prune")
    assert said()["state"] == "ok"


def test_the_doctor_advises_where_the_ledger_is_large_and_says_so_where_it_may_not_ask():
    large = of_retention(Config(), {"calls": None, "trail": None, "tables": {"call": 2_000_000_000, "trail": 1_000}})

    assert (large.state, "2.0 GB (call 2.0 GB, trail 0.0 MB)" in large.says) == ("warn", True)
    assert of_retention(Config(), None).state == "ok"
