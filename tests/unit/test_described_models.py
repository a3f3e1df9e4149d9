"""What a model call says of its request: described once for each way to ask, and never as another was."""

from __future__ import annotations

import openai
import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import Decision, StaticSampler

from spanledger.instrument.libraries import _asked
from spanledger.instrument.libraries import _openai_chats as chats
from spanledger.instrument.libraries._openai_common import provider_of
from spanledger.telemetry import record


@pytest.fixture
def client():
    with openai.OpenAI(api_key="offline", base_url="http://provider:8080/v1") as client:
        yield client


def described(client, **asked):
    return chats.describe(client.chat.completions, (), {"model": "gpt-5", "messages": [], **asked})


def test_who_asks_in_the_same_way_is_described_once(client):
    assert described(client, temperature=0.5) is described(client, temperature=0.5, user="another")


class Marking(StaticSampler):
    """A sampler that writes into what it is given."""

    def should_sample(self, parent_context, trace_id, name, kind=None, attributes=None, *more, **others):
        attributes["marks"] = attributes.get("marks", 0) + 1
        return super().should_sample(parent_context, trace_id, name, kind, attributes, *more, **others)


def test_what_a_sampler_writes_for_one_call_is_not_said_of_another(client, monkeypatch):
    marking = TracerProvider(sampler=Marking(Decision.RECORD_AND_SAMPLE), shutdown_on_exit=False)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: marking)
    for _ in range(2):
        span = record.start(described(client))
        assert (span.attributes["marks"], span.attributes["gen_ai.request.model"]) == (1, "gpt-5")
        span.end()
    record.start_attributes(described(client))["marks"] = 1
    assert "marks" not in record.start_attributes(described(client))


def test_a_figure_is_said_as_it_was_given(client):
    for given in (1, 1.0, 1, 1.0):
        said = described(client, temperature=given).attributes["gen_ai.request.temperature"]
        assert type(said) is type(given)
    assert "gen_ai.request.temperature" not in described(client, temperature=True).attributes
    assert "gen_ai.request.stream" not in described(client, stream=1).attributes
    assert described(client, stream=True).attributes["gen_ai.request.stream"] is True


def test_what_is_no_figure_is_not_said_and_does_no_harm(client):
    call = described(client, temperature=[0.5], top_p={"p": 1}, max_tokens=openai.NOT_GIVEN)
    assert call == described(client)


def test_a_client_that_is_sent_elsewhere_says_so(client):
    assert described(client).attributes["server.port"] == 8080
    client.base_url = "https://elsewhere/v1"
    there = described(client).attributes
    assert there["server.address"] == "elsewhere"
    assert "server.port" not in there


def test_an_azure_client_of_the_same_address_is_azure_s(client):
    with openai.AzureOpenAI(api_key="offline", base_url=client.base_url, api_version="1") as azure:
        azure._base_url = client._base_url
        assert described(client).attributes["gen_ai.provider.name"] == "openai"
        assert described(azure).attributes["gen_ai.provider.name"] == "azure.ai.openai"


CLIENTS = [
    (openai.OpenAI, "openai"),
    (openai.AsyncAzureOpenAI, "azure.ai.openai"),
    (getattr(openai, "BedrockOpenAI", openai.OpenAI), "aws.bedrock" if hasattr(openai, "BedrockOpenAI") else "openai"),
]


@pytest.mark.parametrize(("cls", "provider"), CLIENTS)
def test_a_client_of_one_s_own_asks_whom_its_base_class_asks(cls, provider):
    ours = type("Ours", (cls,), {})
    # Made of nothing: each wants keys of its own.
    assert provider_of(cls.__new__(cls)) == provider_of(ours.__new__(ours)) == provider


GIVEN = {
    "bedrock": ({"region": "eu-central-1", "api_key": "offline"}, "aws.bedrock"),
    "vertex": ({"token_provider": lambda: "offline"}, "gcp.vertex_ai"),
}


@pytest.mark.parametrize("name", GIVEN)
def test_a_client_that_was_given_a_provider_asks_that_one(name):
    providers = pytest.importorskip(f"openai.providers.{name}", reason="a release that knows it not")
    settings, provider = GIVEN[name]
    given = getattr(providers, name)(base_url="http://provider:8080/v1", **settings)
    with openai.OpenAI(provider=given) as client, client.with_options(max_retries=0) as copied:
        for asking in (client, copied):
            call = described(asking)
            assert call.attributes["gen_ai.provider.name"] == provider
            assert call.attributes["server.port"] == 8080


def test_what_a_caller_adds_to_the_body_is_what_is_asked(client):
    added = {"model": "gpt-5-pro", "max_tokens": 9}
    call = described(client, max_tokens=4, extra_body=added)
    assert call == described(client, model="gpt-5-pro", max_tokens=9)


def test_servers_are_remembered_up_to_a_number(client):
    for number in range(_asked._SERVERS_MAX + 5):
        client.base_url = f"http://provider:{8000 + number}/v1"
        assert described(client).attributes["server.port"] == 8000 + number
    assert len(_asked._servers) <= _asked._SERVERS_MAX
