"""What is sent instead of what a rule redacts, and what is not sent at all because nobody can tell."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from spanledger import Redact, jsonpaths
from spanledger.core import leaving
from spanledger.core.egress import BODY_BYTES_MAX, Request
from spanledger.core.leaving import CannotRedact, redacted
from spanledger.core.redaction import Redactor

FORM, JSON = "application/x-www-form-urlencoded", "application/json"
URL = "https://h.example/a"


def sent(body: bytes | None, kind: str, *redact: str | Redact, url: str = URL, **headers: str) -> tuple[str, bytes]:
    places = tuple(one if isinstance(one, Redact) else Redact(one) for one in redact)
    given = tuple({"Content-Type": kind, **headers}.items()) if kind else ()
    made = redacted(Request("POST", url, given, body), Redactor(places, jsonpaths.find, b"secret"))
    return made.change.url or url, body if made.change.body is None else made.change.body


@pytest.mark.parametrize(
    ("body", "redact", "leaves"),
    [
        ('{"a": 1, "card": {"number": "4242"}}', "$.card.number", '{"a":1,"card":{"number":"[redacted]"}}'),
        ('{"a": 1, "password": "x"}', "password", '{"a":1,"password":"[redacted]"}'),
        ('{"a": 1, "password": "x"}', Redact("password", "remove"), '{"a":1}'),
        ('[{"pin": 1}, {"pin": 2}]', Redact("$[*].pin", "remove"), "[{},{}]"),
        ("[1, 2, 3]", Redact("$[0,1]", "remove"), "[3]"),
        ('{"n": 12345678901234.56789, "big": 123456789012345678901, "pin": 1}', Redact("pin", "remove"),
         '{"n":12345678901234.56789,"big":123456789012345678901}'),
        ('{"payload": "{\\"pin\\": 1}"}', "pin", '{"payload":"{\\"pin\\":\\"[redacted]\\"}"}'),
        # Nothing to redact: every byte is as it was.
        ('{ "a" : 1.50, "note": "{no json} about a pin" }', "pin", '{ "a" : 1.50, "note": "{no json} about a pin" }'),
    ],
)  # fmt: skip
def test_json_leaves_without_what_is_redacted(body, redact, leaves):
    assert sent(body.encode(), f"{JSON}; charset=UTF-8", redact)[1].decode() == leaves
    assert sent(body.encode(), "application/vnd.api+json", redact)[1].decode() == leaves


@pytest.mark.parametrize(
    ("body", "redact", "leaves"),
    [
        ("amount=10&card[number]=4242", "$.card.number", "amount=10&card[number]=%5Bredacted%5D"),
        ("amount=10&card%5Bnumber%5D=4242", "number", "amount=10&card%5Bnumber%5D=%5Bredacted%5D"),
        ("amount=10&card[number]=4242&b=%41", Redact("card", "remove"), "amount=10&b=%41"),
        ("items[0][sku]=a&items[1][sku]=b", "$.items[1].sku", "items[0][sku]=a&items[1][sku]=%5Bredacted%5D"),
        ("items[][sku]=a", "$.items[*].sku", "items[][sku]=%5Bredacted%5D"),
        ("user.password=x&a=1", "password", "user.password=%5Bredacted%5D&a=1"),
        ("a=1;password=x", "password", "a=1;password=%5Bredacted%5D"),
        ("pass%77ord=x", "password", "pass%77ord=%5Bredacted%5D"),
        ("PASSWORD=x", "password", "PASSWORD=%5Bredacted%5D"),
        ("payload=%7B%22pin%22%3A1%7D", Redact("pin", "remove"), "payload=%7B%7D"),
        ("a=1&&b=2&", "password", "a=1&&b=2&"),
    ],
)
def test_forms_and_queries_leave_without_what_is_redacted(body, redact, leaves):
    assert sent(body.encode(), FORM, redact)[1].decode() == leaves
    assert sent(b"", "", redact, url=f"{URL}?{body}#here")[0] == f"{URL}?{leaves}#here"


@pytest.mark.parametrize(
    ("body", "kind", "headers", "why"),
    [
        (None, JSON, {}, "a stream, or too long"),
        (b'{"password": "x"', JSON, {}, "not what its content type says"),
        (b'{"password": "x", "password": "y"}', JSON, {}, "not what its content type says"),
        (b'{"a": NaN}', JSON, {}, "not what its content type says"),
        (b"\xff\xfe{\x00}\x00", JSON, {}, "not what its content type says"),
        (b'{"a": 1}', f"{JSON}; charset=utf-16", {}, "in utf-16"),
        (b'{"a": "{\\"password\\": 1, \\"password\\": 2}"}', JSON, {}, "not what its content type says"),
        (b"[" * 200_000, JSON, {}, "it is nested too deep"),
        (b"password: x", "text/plain", {}, "not JSON or a form"),
        (b"--b\r\n", "multipart/form-data; boundary=b", {}, "not JSON or a form"),
        (b"password=x", "", {}, "no content type"),
        (gzip.compress(b'{"password": "x"}', mtime=0), JSON, {"Content-Encoding": "gzip"}, "compressed"),
        (b"\xff=1", FORM, {}, "not what its content type says"),
        (b"%ff=1", FORM, {}, "no text"),
    ],
    ids=range(14),
)
def test_what_cannot_be_read_to_its_end_is_not_sent(body, kind, headers, why):
    with pytest.raises(CannotRedact, match=re.escape(why)):
        sent(body, kind, "password", **headers)


@pytest.mark.parametrize(
    ("form", "path", "why"),
    [
        ("cards[0][kind]=visa&cards[0][number]=4242", "$.cards[?@.kind=='visa'].number", "from single fields"),
        ("cards[0][cvc]=1&cards[1][cvc]=2", "$.cards[:-1].cvc", "from single fields"),
        ("cards[0][cvc]=1&cards[1][cvc]=2", "$.cards[-2].cvc", "from single fields"),
        ("number=4242", "$[?length(@)==4]", "from single fields"),
        ("cards[][number]=1&cards[][number]=4242", "$.cards[1].number", "have no number"),
        ("cards%5B%5D%5Bnumber%5D=1", "$.cards[1].number", "have no number"),
    ],
)
def test_what_a_path_says_of_other_fields_holds_a_form_and_a_query_back(form, path, why):
    with pytest.raises(CannotRedact, match=why):
        sent(form.encode(), FORM, path)
    with pytest.raises(CannotRedact, match=why):
        sent(b"", "", path, url=f"{URL}?{form}")


def test_a_query_that_cannot_be_read_is_not_sent():
    with pytest.raises(CannotRedact, match="its query holds what cannot be read"):
        sent(b"", "", "password", url=f'{URL}?f={{"a":NaN}}')


def test_a_document_behind_a_byte_order_mark_is_looked_into():
    assert b"secret" not in sent('f=\ufeff{"password":"secret"}'.encode(), FORM, "password")[1]


def test_a_body_of_fifty_megabytes_is_redacted_and_a_longer_one_is_not_read():
    assert BODY_BYTES_MAX == 50 * 1024 * 1024
    long = b'{"password":"x","blob":"' + b"a" * (BODY_BYTES_MAX - 26) + b'"}'
    body = sent(long, JSON, Redact("password", "remove"))[1]
    assert len(body) == len(long) - len(b'"password":"x",')


def test_a_hash_tells_equal_values_to_be_equal():
    one, two = (json.loads(sent(b'{"pin": 7}', JSON, Redact("pin", "hmac"))[1]) for _ in range(2))
    assert one == two
    assert one["pin"].startswith("hmac:")


TREES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["card", "a", "n"]), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(TREES, st.sampled_from(["card", "$..card"]), st.sampled_from(["mask", "remove"]))
def test_nothing_of_a_redacted_place_leaves_however_deep(tree, place, action):
    def planted(node):
        if isinstance(node, dict):
            return {key: "canary-7f3a" if key == "card" else planted(item) for key, item in node.items()}
        return [planted(item) for item in node] if isinstance(node, list) else node

    body = sent(json.dumps({"a": planted(tree)}).encode(), JSON, Redact(place, action))[1]
    assert b"canary" not in body
    json.loads(body)


def test_a_list_in_the_name_of_a_field_costs_no_more_than_it_says():
    body = b"a[99999999999999999999]=1&a[9999]=2"
    assert sent(body, FORM, "$.a[5]")[1] == body
    assert leaving.INDEX_MAX < 9999
