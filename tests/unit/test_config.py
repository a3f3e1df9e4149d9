"""Configuration: checked when it is made, the environment over the file, nothing mistyped goes unnoticed."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest

from spanledger import Budget, Calls, Config, Money, Rule, Tokens
from spanledger.config import shown
from spanledger.core.reserving import ArgumentAmount
from spanledger.errors import ConfigError, LedgerUnavailable

EVERYTHING = """
dsn = "postgresql://file/ledger"
tenant = "acme"
mode = "off"
embedded = "wheel"
workflow_id = "w-file"
agent = "support"
secret = "hush"
capture_content = true
ledger_timeout_s = 2.5
arguments_bytes_max = 100
result_bytes_max = 200

[[rules]]
match = "stripe.*"
side_effect = false
fields = ["order_id"]
scope = "workflow"
replay_for_s = 60
on_mismatch = "refuse"
on_unknown = "probe"
probe = "payments_for_config:find"
on_failure = "replay"
attempts_max = 3
definite_errors = ["builtins:KeyError", "payments_for_config:Declined"]
ambiguous_errors = ["builtins:OSError"]
reserve = "40.00 EUR"
lease_s = 5
run_max_s = 600.0
wait_timeout_s = 0
keep_result = false
on_refusal = "tell"
on_ledger_down = "continue"

[[rules]]
match = "refund"
reserve = {argument = "amount", currency = "EUR", scale = 2}

[[rules]]
match = "charge"
reserve = "payments_for_config:price"

[[budgets]]
name = "support"
limit = "500.00 EUR"

[[budgets]]
name = "thinking"
limit = "4000 tokens"
match = "gpt-*"
operations = ["chat"]
"""
PAYMENTS = """
class Declined(Exception): ...
def find(call, key): ...
def price(arguments): ...
"""


@pytest.fixture
def payments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A module of the user's own, which a file can name."""
    (tmp_path / "payments_for_config.py").write_text(PAYMENTS)
    monkeypatch.syspath_prepend(tmp_path)
    yield __import__("payments_for_config")
    del sys.modules["payments_for_config"]


@pytest.fixture
def written(tmp_path: Path) -> Any:
    """Write a file of configuration and read it."""

    def read(text: str) -> Config:
        path = tmp_path / "any.toml"
        path.write_text(text, encoding="utf-8")
        return Config.from_file(path)

    return read


# --- files


def test_a_file_can_say_everything(written: Any, payments: Any) -> None:
    config = written(EVERYTHING)
    assert config == Config(
        dsn="postgresql://file/ledger",
        tenant="acme",
        rules=(
            Rule(
                "stripe.*",
                side_effect=False,
                fields=("order_id",),
                scope="workflow",
                replay_for_s=60,
                on_mismatch="refuse",
                on_unknown="probe",
                probe=payments.find,
                on_failure="replay",
                attempts_max=3,
                definite_errors=(KeyError, payments.Declined),
                ambiguous_errors=(OSError,),
                reserve=Money("40", "EUR"),
                lease_s=5,
                run_max_s=600.0,
                wait_timeout_s=0,
                keep_result=False,
                on_refusal="tell",
                on_ledger_down="continue",
            ),
            Rule("refund", reserve=ArgumentAmount("amount", "EUR", 2)),
            Rule("charge", reserve=payments.price),
        ),
        budgets=(
            Budget("support", Money(500, "EUR")),
            Budget("thinking", Tokens(4000), match="gpt-*", operations=("chat",)),
        ),
        mode="off",
        embedded="wheel",
        workflow_id="w-file",
        agent="support",
        secret="hush",
        capture_content=True,
        ledger_timeout_s=2.5,
        arguments_bytes_max=100,
        result_bytes_max=200,
    )


def test_an_empty_file_is_the_default(written: Any) -> None:
    assert written("") == Config()


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("tennant = 'a'", "the file has 'tennant', which is not known; known are dsn, tenant, rules,"),
        (
            "[[rules]]\nmatch = 'x'\nlease = 5",
            "rule 'x' has 'lease', which is not known; known are match, side_effect,",
        ),
        ("[[budgets]]\nname = 'b'\nlimit = '1 EUR'\nwindows = 'day'", "budget 'b' has 'windows', which is not known"),
        ("[[rules]]\nmatch = 'x'\nreserve = {argument = 'a', money = 'EUR'}", "rule 'x', reserve has 'money', which"),
        ("[[rules]]\nlease_s = 5", "rule None lacks match"),
        ("[[budgets]]\nlimit = '1 EUR'", "budget None lacks name"),
        ("[[budgets]]\nname = 'b'", "budget 'b' lacks limit"),
        ("[[rules]]\nmatch = 'x'\nreserve = {currency = 'EUR'}", "rule 'x', reserve lacks argument"),
        ("[[budgets]]\nname = 'b'\nlimit = 500", "budget 'b': write an amount as text, for example '500.00 EUR'"),
        ("[[budgets]]\nname = 'b'\nlimit = '500'", "budget 'b': unknown currency ''"),
        ("[[budgets]]\nname = 'b'\nlimit = '500 eur'", "budget 'b': .*did you mean EUR"),
        ("[[budgets]]\nname = 'b'\nlimit = '1.5 tokens'", "budget 'b': '1.5 tokens' is not an amount"),
        ("[[budgets]]\nname = 'b'\nlimit = '1 EUR'\noperations = 'chat'", "budget 'b': operations is a list of names"),
        ("[[budgets]]\nname = 'b'\nlimit = '1 EUR'\noperations = 7", "budget 'b': operations is a list of names"),
        ("[[budgets]]\nname = 'b'\nlimit = '1 EUR'\noperations = ['bogus']", "operations is a list of execute_tool"),
        ("[[budgets]]\nname = 'b'\nlimit = '1 EUR'\nmatch = 7", "budget 'b': match is a name"),
        ("[[budgets]]\nname = 7\nlimit = '1 EUR'", "a budget needs a name"),
        ("[[rules]]\nmatch = 'x'\nreserve = 40.0", "rule 'x': write an amount as text, .*not 40.0"),
        ("[[rules]]\nmatch = 'x'\nreserve = '40'", "rule 'x': unknown currency"),
        ("[[rules]]\nmatch = 'x'\nreserve = 'no_such_module:f'", "cannot find 'no_such_module:f': .*module:function"),
        ("[[rules]]\nmatch = 'x'\nreserve = 'json:nothing'", "cannot find 'json:nothing'"),
        ("[[rules]]\nmatch = 'x'\nprobe = 'json'", "cannot find 'json': .*write 'module:function'"),
        ("[[rules]]\nmatch = 'x'\nprobe = 'json:__name__'", "rule 'x': probe is a callable"),
        ("[[rules]]\nmatch = 'x'\nprobe = 5", "rule 'x': probe is a callable"),
        (
            "[[rules]]\nmatch = 'x'\ndefinite_errors = ['json:loads']",
            "rule 'x': definite_errors is a list of exception",
        ),
        ("[[rules]]\nmatch = 'x'\nambiguous_errors = 'builtins:OSError'", "rule 'x': ambiguous_errors is a list"),
        ("[[rules]]\nmatch = 'x'\ndefinite_errors = ['TimeoutError']", "cannot find 'TimeoutError'"),
        ("[[rules]]\nmatch = 'x'\nlease_s = '5'", "rule 'x': lease_s is a number of seconds"),
        ("[[rules]]\nmatch = 'x'\nlease_s = nan", "rule 'x': lease_s is a number of seconds"),
        ("[[rules]]\nmatch = 'x'\nfields = 'order_id'", "rule 'x': fields is a list of names"),
        ("[rules]\nmatch = 'x'", r"rules is a list of tables: write \[\[rules\]\]"),
        ("rules = ['x']", r"rules is a list of tables"),
        ("budgets = 5", r"budgets is a list of tables: write \[\[budgets\]\]"),
        ("mode = 'watch'", "mode is one of enforce, shadow, off"),
        ("tenant = 5", "tenant is a text that is not empty"),
        ("ledger_timeout_s = '10'", "ledger_timeout_s is a number of seconds"),
        ("tenant = ", "is not TOML"),
    ],
)
def test_what_cannot_work_is_refused_by_name_of_file_and_place(written: Any, text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=rf"any\.toml.*{complaint}"):
        written(text)


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"cannot read .*gone\.toml: No such file"):
        Config.from_file(tmp_path / "gone.toml")
    with pytest.raises(ConfigError, match="cannot read"):
        Config.from_env({"SPANLEDGER_CONFIG": str(tmp_path / "gone.toml")})


# --- values


@pytest.mark.parametrize(
    ("field", "value"),
    [(name, bad) for name in ("tenant", "workflow_id", "agent", "secret", "embedded") for bad in ("", "a\0b", 7)]
    + [("tenant", None), ("dsn", 7), ("dsn", ""), ("mode", "on"), ("mode", None), ("capture_content", "true")]
    + [("ledger_timeout_s", bad) for bad in (0, -1, math.nan, math.inf, "1", True)]
    + [(name, bad) for name in ("arguments_bytes_max", "result_bytes_max") for bad in (0, -1, 1.5, "1", True)]
    + [("rules", ["refund"]), ("rules", [Budget("b", Calls(1))]), ("budgets", [Rule("refund")])],
)
def test_a_value_that_cannot_work_is_refused_when_it_is_made(field: str, value: Any) -> None:
    with pytest.raises(ConfigError, match=f"^{field} is "):
        Config(**{field: value})


def test_two_budgets_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigError, match="two budgets are named 'b'"):
        Config(budgets=(Budget("b", Calls(1)), Budget("c", Calls(1)), Budget("b", Calls(2))))


def test_lists_are_kept_as_tuples() -> None:
    config = Config(rules=[Rule("a")], budgets=[Budget("b", Calls(1))])  # type: ignore[arg-type]
    assert (config.rules, config.budgets) == ((Rule("a"),), (Budget("b", Calls(1)),))


def test_what_is_secret_is_never_shown() -> None:
    config = Config(secret="hush", dsn="postgresql://u:hunter2@h/db", rules=(Rule("refund"),))
    assert "hush" not in repr(config)
    assert shown(config) == 'mode enforce, ledger by DSN, tenant default, rules ["refund"], 0 budget(s)'
    with pytest.raises(ConfigError) as refused:
        Config(secret="hush\0")
    assert "hush" not in str(refused.value)


# --- the environment


ENVIRONMENT = {
    "SPANLEDGER_DSN": "postgresql://env/ledger",
    "SPANLEDGER_TENANT": "globex",
    "SPANLEDGER_AGENT": "billing",
    "SPANLEDGER_WORKFLOW_ID": "w-env",
    "SPANLEDGER_MODE": "enforce",
    "SPANLEDGER_EMBEDDED": "off",
    "SPANLEDGER_SECRET": "louder",
}


@pytest.mark.parametrize("with_file", [True, False])
def test_the_environment_wins_over_the_file(tmp_path: Path, payments: Any, with_file: bool) -> None:
    (tmp_path / "file.toml").write_text(EVERYTHING)
    named = {"SPANLEDGER_CONFIG": str(tmp_path / "file.toml")} if with_file else {}
    config = Config.from_env(ENVIRONMENT | named)
    assert config.dsn == "postgresql://env/ledger"
    assert (config.tenant, config.agent, config.workflow_id) == ("globex", "billing", "w-env")
    assert (config.mode, config.embedded, config.secret) == ("enforce", "off", "louder")
    assert len(config.rules) == (3 if with_file else 0)


def test_an_empty_variable_is_as_good_as_none(tmp_path: Path, payments: Any) -> None:
    (tmp_path / "file.toml").write_text(EVERYTHING)
    named = {"SPANLEDGER_CONFIG": str(tmp_path / "file.toml")}
    assert Config.from_env(dict.fromkeys(ENVIRONMENT, "") | named) == Config.from_file(tmp_path / "file.toml")


def test_the_process_environment_is_read_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SPANLEDGER_TENANT", "globex")
    assert Config.from_env().tenant == "globex"


def test_a_variable_that_cannot_work_is_refused() -> None:
    with pytest.raises(ConfigError, match="mode is one of enforce, shadow, off"):
        Config.from_env({"SPANLEDGER_MODE": "on"})


def test_a_dsn_file_is_read_anew_for_every_connection(tmp_path: Path) -> None:
    path = tmp_path / "dsn"
    path.write_text("postgresql://first/ledger\n")
    dsn = Config.from_env({"SPANLEDGER_DSN_FILE": str(path)}).dsn
    assert callable(dsn)
    assert dsn() == "postgresql://first/ledger"
    path.write_text("postgresql://second/ledger\n")
    assert dsn() == "postgresql://second/ledger"


def test_a_dsn_file_that_is_not_there_yet_is_a_ledger_that_does_not_answer(tmp_path: Path) -> None:
    dsn = Config.from_env({"SPANLEDGER_DSN_FILE": str(tmp_path / "dsn")}).dsn
    assert callable(dsn)
    with pytest.raises(LedgerUnavailable, match="cannot read SPANLEDGER_DSN_FILE"):
        dsn()
    (tmp_path / "dsn").write_text("postgresql://now/ledger")
    assert dsn() == "postgresql://now/ledger"


def test_a_dsn_wins_over_a_dsn_file_and_a_dsn_file_over_the_file(tmp_path: Path, payments: Any) -> None:
    (tmp_path / "file.toml").write_text(EVERYTHING)
    (tmp_path / "dsn").write_text("postgresql://dsn-file/ledger")
    environ = {"SPANLEDGER_DSN_FILE": str(tmp_path / "dsn"), "SPANLEDGER_CONFIG": str(tmp_path / "file.toml")}
    dsn = Config.from_env(environ).dsn
    assert callable(dsn)
    assert dsn() == "postgresql://dsn-file/ledger"
    assert Config.from_env(environ | {"SPANLEDGER_DSN": "postgresql://env/l"}).dsn == "postgresql://env/l"


# --- where the file is


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Path]:
    """A working directory and, elsewhere, the directory of the program."""
    here, program = tmp_path / "here", tmp_path / "program"
    here.mkdir()
    program.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setattr(sys, "argv", [str(program / "agent.py")])
    return {"here": here, "program": program}


@pytest.mark.parametrize(
    ("written", "found"),
    [([], "default"), (["here"], "here"), (["program"], "program"), (["here", "program"], "here")],
)
def test_the_file_is_found_here_or_beside_the_program(places: dict[str, Path], written: list[str], found: str) -> None:
    for name in written:
        (places[name] / "spanledger.toml").write_text(f"tenant = '{name}'")
    assert Config.from_env({}).tenant == found


def test_a_file_that_the_environment_names_is_the_only_one(places: dict[str, Path], tmp_path: Path) -> None:
    (places["here"] / "spanledger.toml").write_text("tenant = 'here'\nagent = 'here'")
    (tmp_path / "other.toml").write_text("tenant = 'other'")
    config = Config.from_env({"SPANLEDGER_CONFIG": str(tmp_path / "other.toml")})
    assert (config.tenant, config.agent) == ("other", None)


def test_a_directory_of_that_name_is_no_file(places: dict[str, Path]) -> None:
    (places["here"] / "spanledger.toml").mkdir()
    assert Config.from_env({}) == Config()


def test_a_program_without_a_name_has_no_file_beside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for argv in ([], [""], ["-c"]):
        monkeypatch.setattr(sys, "argv", argv)
        assert Config.from_env({}) == Config()


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({}, (None, None)),
        (
            {"OTEL_RESOURCE_ATTRIBUTES": "service.version=1.2%2B3, deployment.environment.name = prod,x"},
            ("1.2+3", "prod"),
        ),
        ({"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=old"}, (None, "old")),
        ({"OTEL_RESOURCE_ATTRIBUTES": "service.version="}, (None, None)),
        (
            {
                "OTEL_RESOURCE_ATTRIBUTES": "service.version=1",
                "SPANLEDGER_AGENT_VERSION": "2",
                "SPANLEDGER_ENVIRONMENT": "b",
            },
            ("2", "b"),
        ),
    ],
)
def test_version_and_environment_are_those_of_the_resource_unless_said_otherwise(environ, said):
    config = Config.from_env(environ)

    assert (config.agent_version, config.environment) == said


def test_what_the_file_says_of_version_and_environment_counts_before_the_resource(tmp_path):
    file = tmp_path / "spanledger.toml"
    file.write_text('agent_version = "3"\n')
    environ = {"SPANLEDGER_CONFIG": str(file), "OTEL_RESOURCE_ATTRIBUTES": "service.version=1"}

    assert Config.from_env(environ).agent_version == "3"
