"""Rules of egress: what they may say, how TOML says it, and what is remembered of what leaves."""

from __future__ import annotations

from pathlib import Path

import pytest

from spanledger import Config, EgressRule
from spanledger.core import egress, outgoing
from spanledger.core.call import Ended
from spanledger.errors import ConfigError, EgressRefused


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"host": ""}, "host is a name"),
        ({"host": 7}, "host is a name"),
        ({"host": "https://api.stripe.com"}, "leave scheme and path out"),
        ({"host": "api.stripe.com/v1"}, "leave scheme and path out"),
        ({"host": "*.stripe.com/v1"}, "leave scheme and path out"),
        ({"host": "a..b"}, "no host"),
        ({"host": "h", "action": "block"}, "action is one of"),
        ({"host": "h", "methods": "POST"}, "methods is a list"),
        ({"host": "h", "methods": ()}, "methods is a list"),
        ({"host": "h", "methods": ("PO ST",)}, "methods is a list"),
        ({"host": "h", "path": "v1"}, "path begins with"),
        ({"host": "h", "everywhere": 1}, "everywhere is true or false"),
        ({"host": "h", "on_refusal": "swallow"}, "on_refusal is"),
    ],
)
def test_a_rule_that_cannot_work_says_what_to_write(fields, says):
    with pytest.raises(ConfigError, match=says):
        EgressRule(**fields)


def test_a_file_has_a_table_for_each_rule(tmp_path: Path):
    file = tmp_path / "spanledger.toml"
    file.write_text('[[egress]]\nhost = "*.internal"\naction = "deny"\nmethods = ["POST"]\n')
    assert Config.from_file(file).egress == (EgressRule("*.internal", "deny", ("POST",)),)
    file.write_text('[[egress]]\nhost = "h"\nhosts = "h"\n')
    with pytest.raises(ConfigError, match="egress rule for 'h' has 'hosts', which is not known"):
        Config.from_file(file)


def test_a_rule_has_a_name_by_which_people_find_it():
    assert EgressRule("*.internal", "deny", ("post",), "/v1*").name == "deny POST *.internal/v1*"
    assert EgressRule("h", name="mine").name == "mine"


def post(url: str = "https://h.example/a", body: bytes | None = b"{}", **headers: str) -> egress.Request:
    return egress.Request("POST", url, tuple(headers.items()), body)


def issue(sent: outgoing.Outgoing, request: egress.Request) -> outgoing.Issued | None:
    return sent.issue("k", request, egress.target_of(request))


def test_equal_requests_on_their_way_at_once_have_keys_of_their_own():
    sent = outgoing.Outgoing()
    assert issue(sent, post()).key != issue(sent, post()).key


def test_what_failed_first_is_retried_first():
    sent = outgoing.Outgoing()
    first, second = issue(sent, post()), issue(sent, post())
    sent.over(second, 500)
    sent.over(first, None)
    assert [issue(sent, post()).number for _ in range(3)] == [1, 2, 3]


def test_a_body_that_cannot_be_read_gets_no_key():
    assert issue(outgoing.Outgoing(), post(body=None)) is None


def test_after_so_many_requests_no_more_get_a_key(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(outgoing, "REQUESTS_MAX", 2)
    sent = outgoing.Outgoing()
    assert [issue(sent, post(body=b"%d" % n)) is None for n in range(4)] == [False, False, True, True]


@pytest.mark.parametrize(
    ("method", "url", "headers", "takes"),
    [
        ("POST", "https://api.stripe.com/v1/charges", {}, True),
        ("delete", "https://api.stripe.com/v1/charges/7", {}, True),
        ("get", "https://api.stripe.com/v1/charges", {}, False),
        ("POST", "https://api.openai.com/v1/responses", {}, False),
        ("POST", "https://API.OpenAI.com./v1/responses", {}, False),
        ("POST", "https://api.anthropic.com/v1/messages", {}, False),
        ("POST", "https://mine.openai.azure.com/openai/responses", {}, False),
        ("POST", "https://bedrock-runtime.eu-west-1.amazonaws.com/model/x/invoke", {}, False),
        ("PUT", "https://bucket.s3.amazonaws.com/a", {"Authorization": "AWS4-HMAC-SHA256 Credential=x"}, False),
    ],
)
def test_keys_are_for_what_changes_something_and_never_for_models(method, url, headers, takes):
    request = egress.Request(method, url, tuple(headers.items()))
    assert outgoing.takes_key(request, egress.target_of(request)) is takes


def test_a_refusal_behind_another_error_is_what_the_call_ended_with():
    sent = outgoing.Outgoing()
    sent.refused = EgressRefused("no", rule="r")
    sent.refused._on_refusal = "tell"
    wrapped, other = ConnectionError("no answer"), TimeoutError()
    wrapped.__cause__ = sent.refused

    ended = sent.told_by(Ended(error=wrapped)).error

    assert (type(ended), ended.rule, ended._on_refusal, ended.__cause__) == (EgressRefused, "r", "tell", wrapped)
    assert sent.told_by(Ended(error=other)).error is other
    assert sent.told_by(Ended(error=ExceptionGroup("some", [wrapped]))).error.rule == "r"


def test_a_rule_for_an_address_does_not_name_the_hosts_that_lead_there():
    assert not EgressRule("127.0.0.1", "deny").covers(egress.target_of(post("https://localhost/")))


def test_a_target_that_is_sent_instead_of_the_path_counts_as_well():
    request = egress.Request("GET", "https://h.example/ok", targets=("/admin",))
    assert EgressRule("*", "deny", path="/admin").covers(egress.target_of(request))
    strange = egress.Request("GET", "https://h.example/ok", targets=("http://other/admin",))
    assert EgressRule("*", "deny", path="/admin").covers(egress.target_of(strange))


def test_a_target_that_is_a_whole_url_is_where_the_request_goes():
    given = egress.Request("GET", "http://localhost:8080/a", targets=("http://127.0.0.1/e",))
    deny = [EgressRule("127.0.0.1", "deny", path="/e")]
    assert egress.decided(deny, egress.target_of(given), inside=True) is deny[0]
    allow = [EgressRule("localhost", "allow", path="/*"), EgressRule("*", "deny")]
    assert egress.decided(allow, egress.target_of(given), inside=True) is allow[1]
