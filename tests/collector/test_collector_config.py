"""The Collector configurations hold together, and name only what we emit.

No Collector runs here. What is checked is what a Collector checks first: known keys, declared components, pipelines
that join what belongs together.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from spanledger.core import refusals
from spanledger.core.call import Verdict
from spanledger.telemetry import _declared, semconv

FOLDER = Path(__file__).parents[2] / "collector-config"
NAMES = ("agent", "gateway")
KINDS = ("receivers", "processors", "exporters", "connectors", "extensions")

# What may stand where: a mapping says its keys, a list its items, None anything.
ADDRESS = {"endpoint": None}
SENDING = {
    "endpoint": None,
    "headers": None,
    "tls": {"insecure": None, "ca_file": None, "cert_file": None, "key_file": None},
    "sending_queue": {"queue_size": None, "enabled": None, "num_consumers": None, "storage": None},
    "retry_on_failure": {"max_elapsed_time": None, "enabled": None, "initial_interval": None, "max_interval": None},
}
POLICY = {
    "name": None,
    "type": None,
    "string_attribute": {"key": None, "values": None, "enabled_regex_matching": None, "invert_match": None},
    "boolean_attribute": {"key": None, "value": None},
    "numeric_attribute": {"key": None, "min_value": None, "max_value": None},
    "status_code": {"status_codes": None},
    "ottl_condition": {"error_mode": None, "span": None, "spanevent": None},
    "probabilistic": {"sampling_percentage": None, "hash_salt": None},
}
SCHEMA: dict[str, dict[str, Any]] = {
    "receivers": {"otlp": {"protocols": {"grpc": ADDRESS, "http": ADDRESS}}},
    "processors": {
        "memory_limiter": dict.fromkeys(
            ("check_interval", "limit_percentage", "spike_limit_percentage", "limit_mib", "spike_limit_mib")
        ),
        "redaction": dict.fromkeys(
            (
                "allow_all_keys",
                "allowed_keys",
                "allowed_values",
                "blocked_key_patterns",
                "blocked_values",
                "ignored_keys",
                "ignored_key_patterns",
                "hash_function",
                "summary",
            )
        ),
        "tail_sampling": {
            "decision_wait": None,
            "num_traces": None,
            "expected_new_traces_per_sec": None,
            "decision_cache": {"sampled_cache_size": None, "non_sampled_cache_size": None},
            "policies": [POLICY],
        },
        "batch": dict.fromkeys(("timeout", "send_batch_size", "send_batch_max_size")),
    },
    "exporters": {"otlp": SENDING, "otlphttp": SENDING},
    "connectors": {
        "spanmetrics": {
            "dimensions": [{"name": None, "default": None}],
            "histogram": {"explicit": {"buckets": None}, "exponential": {"max_size": None}, "unit": None},
            "aggregation_cardinality_limit": None,
            "aggregation_temporality": None,
            "exclude_dimensions": None,
            "metrics_flush_interval": None,
            "metrics_expiration": None,
            "namespace": None,
        }
    },
    "extensions": {"health_check": ADDRESS},
}
ATTRIBUTE = re.compile(r"\b(?:spanledger|gen_ai|error)(?:\.[a-z_]+)+\b")


@pytest.fixture(params=NAMES)
def config(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param)


def load(name: str) -> dict[str, Any]:
    return yaml.safe_load((FOLDER / f"{name}.yaml").read_text())


def test_every_key_is_one_that_its_component_knows(config: dict[str, Any]) -> None:
    assert config.keys() <= {*KINDS, "service"}
    unknown = [
        f"{kind}.{name}{where}"
        for kind in KINDS
        for name, given in config.get(kind, {}).items()
        for where in _unknown(given, SCHEMA[kind][name.split("/")[0]])
    ]

    assert not unknown


def test_a_misspelt_key_is_noticed() -> None:
    config = load("agent")
    config["exporters"]["otlp"]["endpont"] = "x"

    assert list(_unknown(config["exporters"]["otlp"], SENDING)) == [".endpont"]


def test_pipelines_join_what_is_declared_and_nothing_is_declared_in_vain(config: dict[str, Any]) -> None:
    pipelines = config["service"]["pipelines"]
    connectors = set(config.get("connectors", {}))
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline.get(kind, [])}
        assert used - connectors == set(config[kind]), kind
    for connector in connectors:
        assert any(connector in pipeline["exporters"] for pipeline in pipelines.values())
        assert any(connector in pipeline["receivers"] for pipeline in pipelines.values())
    assert set(config["service"]["extensions"]) == set(config["extensions"])
    assert {name.split("/")[0] for name in pipelines} == {"traces", "metrics", "logs"}


def test_memory_is_bounded_first_and_batches_are_made_last(config: dict[str, Any]) -> None:
    for name, pipeline in config["service"]["pipelines"].items():
        processors = pipeline["processors"]
        assert processors[0] == "memory_limiter", name
        if set(pipeline["exporters"]) - set(config.get("connectors", {})):
            assert processors[-1] == "batch", name
        if "redaction" in config["processors"] and name != "metrics":
            assert "redaction" in processors, name


def test_spans_are_counted_before_they_are_sampled() -> None:
    pipelines = load("gateway")["service"]["pipelines"].values()

    assert all("tail_sampling" not in p["processors"] for p in pipelines if "spanmetrics" in p["exporters"])


@pytest.mark.parametrize("name", NAMES)
def test_every_attribute_it_names_is_one_that_we_emit(name: str) -> None:
    named = set(_attributes(load(name)))

    assert named
    assert named <= _declared.ATTRIBUTES.keys()


def test_what_is_masked_by_name_covers_what_we_may_carry() -> None:
    redaction = load("agent")["processors"]["redaction"]
    patterns = [re.compile(pattern) for pattern in redaction["blocked_key_patterns"]]

    messages = (semconv.INPUT_MESSAGES, semconv.OUTPUT_MESSAGES, semconv.SYSTEM_INSTRUCTIONS)
    for content in (semconv.TOOL_CALL_ARGUMENTS, semconv.TOOL_CALL_RESULT, *messages):
        assert any(pattern.search(content) for pattern in patterns), content
    assert not any(pattern.search(semconv.TOOL_CALL_ID) for pattern in patterns)


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("4111111111111111", True),
        ("pay with 4111111111111111 now", True),
        ("DE89370400440532013000", True),
        ("Authorization: Bearer abc.def-ghi", True),
        ("sk-abcdefghijklmnop1234", True),
        ("budget 'refunds' has 5.00 EUR left", False),
        ("order 123", False),
        ("2026-11-24T18:00:00Z", False),
    ],
)
def test_what_looks_like_a_secret_is_masked_and_words_are_not(text: str, masked: bool) -> None:
    patterns = load("agent")["processors"]["redaction"]["blocked_values"]

    assert any(re.search(pattern, text) for pattern in patterns) == masked


def test_every_trace_with_a_refusal_is_kept() -> None:
    (refused,) = [p for p in load("gateway")["processors"]["tail_sampling"]["policies"] if p["name"] == "refused"]
    harmless = {str(Verdict.RUN), str(Verdict.REPLAY)}
    said = {str(verdict) for verdict in Verdict} | {str(v) for v in refusals._VERDICTS.values()} | {"refused"}

    assert set(refused["string_attribute"]["values"]) == said - harmless


def test_a_policy_is_of_one_type_and_configures_that_one() -> None:
    for policy in load("gateway")["processors"]["tail_sampling"]["policies"]:
        assert policy.keys() == {"name", "type", policy["type"]}


def test_variables_that_it_reads_are_explained() -> None:
    readme = (FOLDER / "README.md").read_text()

    for name in NAMES:
        for variable in re.findall(r"\$\{env:(\w+)\}", (FOLDER / f"{name}.yaml").read_text()):
            assert f"`{variable}`" in readme


def _unknown(given: Any, known: Any, where: str = "") -> Iterator[str]:
    if known is None or given is None:
        return
    if isinstance(known, list):
        for i, item in enumerate(given):
            yield from _unknown(item, known[0], f"{where}[{i}]")
        return
    for key, value in given.items():
        if key not in known:
            yield f"{where}.{key}"
        else:
            yield from _unknown(value, known[key], f"{where}.{key}")


def _attributes(node: Any) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            if key != "blocked_key_patterns":  # regular expressions, checked by what they match
                yield from _attributes(value)
    elif isinstance(node, list):
        for item in node:
            yield from _attributes(item)
    elif isinstance(node, str):
        yield from ATTRIBUTE.findall(node)
