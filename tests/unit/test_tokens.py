"""Tokens of delegations: only what one of the keys here has signed, as that key signs, says anything."""

from __future__ import annotations

import base64
import json
import pickle
import sys
import time
import uuid

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from spanledger import Config, Delegation, Money
from spanledger.errors import ConfigError, NotAuthorized
from spanledger.tokens import TOKEN_CHARS_MAX, Keys

KIND = "spanledger-delegation+jwt"


def text(secret: bytes) -> str:
    return base64.b64encode(secret).decode()


def key(key_id: str, byte: int) -> str:
    return f"{key_id}:{text(bytes([byte]) * 32)}"


OLD, NEW = key("k1", 1), key("k2", 2)
SEED = bytes([3]) * 32
PUBLIC = ed25519.Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
ID = str(uuid.UUID(int=7))
CLAIMS = {
    "aud": "acme",
    "sub": "billing",
    "jti": "proof",
    "exp": time.time() + 3600,
    "actor": None,
    "permissions": ["payments:refund"],
    "chain": [ID],
    "agents": ["support", "billing"],
}
KEYS = Keys.of([NEW, OLD])


def signed(claims=CLAIMS, key=bytes([2]) * 32, algorithm="HS256", kid="k2", typ=KIND, **header) -> str:
    return jwt.encode(dict(claims), key, algorithm, {"kid": kid, "typ": typ} | header)


def refused(token: object, keys: Keys = KEYS, tenant: str = "acme") -> str:
    with pytest.raises(NotAuthorized) as error:
        keys.read(token, tenant)
    assert "proof" not in str(error.value)
    return error.value.reason


def test_a_token_says_what_was_signed():
    authority = KEYS.read(KEYS.sign(CLAIMS), "acme")

    assert (authority.id, authority.agent, authority.tenant, authority.actor) == (ID, "billing", "acme", None)
    assert (authority.permissions, authority.agents) == (("payments:refund",), ("support", "billing"))
    assert authority.shown == {"id": ID, "proof": "proof"}
    assert "proof" not in repr(authority)


def test_a_key_is_rotated_by_its_id():
    before = Keys.of([OLD]).sign(CLAIMS)

    assert jwt.get_unverified_header(before)["kid"] == "k1"
    assert jwt.get_unverified_header(KEYS.sign(CLAIMS))["kid"] == "k2"
    assert KEYS.read(before).id == ID
    assert "not among the delegation keys" in refused(before, Keys.of([NEW]))


def test_another_key_under_the_same_id_does_not_verify():
    assert refused(signed(key=bytes([9]) * 32)) == "the token was changed, or is not what this key has signed"


@pytest.mark.parametrize("part", [0, 1, 2])
def test_a_token_in_which_anything_was_changed_is_none(part):
    parts = KEYS.sign(CLAIMS).split(".")
    parts[part] = parts[part][:-2] + ("AA" if not parts[part].endswith("AA") else "BB")
    assert refused(".".join(parts)).startswith("the token")


def test_a_widened_token_is_none():
    head, _, signature = KEYS.sign(CLAIMS).split(".")
    wider = base64.urlsafe_b64encode(json.dumps(CLAIMS | {"permissions": ["*"]}).encode()).rstrip(b"=").decode()
    assert refused(f"{head}.{wider}.{signature}") == "the token was changed, or is not what this key has signed"


def test_a_token_without_a_signature_is_none():
    unsigned = jwt.encode(CLAIMS, None, "none", {"kid": "k2", "typ": KIND})
    assert refused(unsigned) == "the token is not signed as delegation key 'k2' signs"
    for alg in ("None", "NONE", "nOnE", "", None):
        header = base64.urlsafe_b64encode(json.dumps({"alg": alg, "kid": "k2", "typ": KIND}).encode()).rstrip(b"=")
        assert refused(f"{header.decode()}.{unsigned.split('.')[1]}.").startswith("the token")


def test_a_public_key_is_no_secret_to_sign_with():
    keys = Keys.of([f"k3:ed25519-public:{text(PUBLIC)}"])
    pem = ed25519.Ed25519PublicKey.from_public_bytes(PUBLIC)
    spoken = pem.public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    assert refused(signed(key=spoken, kid="k3"), keys) == "the token is not signed as delegation key 'k3' signs"


def test_a_token_signed_in_another_way_than_its_key_signs_is_none():
    private = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    for token in (
        signed(algorithm="HS512", key=bytes([2]) * 64),
        signed(algorithm="RS256", key=private),
        signed(algorithm="EdDSA", key=ed25519.Ed25519PrivateKey.from_private_bytes(SEED)),
    ):
        assert refused(token) == "the token is not signed as delegation key 'k2' signs"


def test_ed25519_signs_and_its_public_half_verifies_and_does_not_sign():
    private = Keys.of([f"k3:ed25519:{text(SEED)}"])
    public = Keys.of(f"k3:ed25519-public:{text(PUBLIC)}")

    assert public.read(private.sign(CLAIMS)).id == ID
    with pytest.raises(ConfigError, match="'k3' is public and only verifies"):
        public.sign(CLAIMS)


@pytest.mark.parametrize("kid", [None, 7, "", "k9", "../k2", "k2 ", ["k2"]])
def test_a_key_id_that_is_not_here_is_no_key(kid):
    head = base64.urlsafe_b64encode(json.dumps({"alg": "HS256", "kid": kid, "typ": KIND}).encode()).rstrip(b"=")
    _, claims, signature = KEYS.sign(CLAIMS).split(".")
    assert refused(f"{head.decode()}.{claims}.{signature}").startswith("the token")


def test_a_token_of_another_kind_is_none_although_the_key_has_signed_it():
    assert refused(signed(typ="JWT")) == "the token is not signed as delegation key 'k2' signs"


@pytest.mark.parametrize(
    "changed",
    [
        {"chain": []},
        {"chain": ["no uuid"]},
        {"chain": "x"},
        {"sub": None},
        {"sub": ""},
        {"jti": 7},
        {"exp": None},
        {"exp": "soon"},
        {"exp": True},
        {"permissions": "payments:*"},
        {"permissions": [7]},
        {"aud": ["acme"]},
        {"agents": [7]},
        {"actor": 7},
    ],
)
def test_claims_that_say_nothing_are_none(changed):
    try:
        token = signed(CLAIMS | changed)
    except TypeError:
        token = f"{'.'.join(KEYS.sign(CLAIMS).split('.')[:1])}..x"  # the library itself does not sign such a thing
    assert refused(token).startswith("the token")


@pytest.mark.parametrize(
    "token", [None, 7, b"a.b.c", "", ".", "..", "a.b.c", "é.é.é", "a" * (TOKEN_CHARS_MAX + 1), [], {}]
)
def test_what_is_no_token_is_none(token):
    assert refused(token).startswith("the token")


def test_deep_json_is_no_token_and_no_crash():
    deep = base64.urlsafe_b64encode(b"[" * 3000 + b"]" * 3000).rstrip(b"=").decode()
    assert refused(f"{deep}.{'a' * 10}.a").startswith("the token")


def test_a_token_that_is_long_over_is_told_early_also_where_it_was_known_before(monkeypatch):
    keys = Keys.of([NEW])
    token = keys.sign(CLAIMS)
    assert keys.read(token)
    monkeypatch.setattr(time, "time", lambda: CLAIMS["exp"] + 61)
    assert refused(token, keys) == "the token for agent billing has expired"


def test_a_token_is_for_one_tenant():
    assert refused(KEYS.sign(CLAIMS), tenant="other") == "the token is for tenant 'acme' and not for 'other'"
    assert KEYS.read(KEYS.sign(CLAIMS), None)


@pytest.mark.parametrize(
    "bad",
    [
        "",
        "k1",
        "k1:short",
        f"k1:{text(bytes(31))}",
        f"k 1:{text(bytes(32))}",
        f":{text(bytes(32))}",
        f"k1:rsa:{text(bytes(32))}",
        f"k1:ed25519:{text(bytes(33))}",
        7,
    ],
)
def test_a_key_that_cannot_work_is_an_error_that_says_how_to_make_one(bad):
    with pytest.raises(ConfigError, match="openssl rand -base64 32") as error:
        Config(delegation_keys=[NEW, bad] if bad else [NEW, "k9:"])
    assert text(bytes(31)) not in str(error.value)


@pytest.mark.parametrize("bad", [None, 7, {"k1": "x"}])
def test_keys_that_are_no_list_are_an_error(bad):
    with pytest.raises(ConfigError, match="a list of texts"):
        Config(delegation_keys=bad)


def test_two_keys_of_one_id_are_an_error():
    with pytest.raises(ConfigError, match="delegation key 2"):
        Config(delegation_keys=[key("k1", 1), key("k1", 2)])


def test_without_a_key_nothing_is_signed():
    with pytest.raises(ConfigError, match="SPANLEDGER_DELEGATION_KEYS"):
        Keys().sign(CLAIMS)


def test_keys_come_from_the_file_and_the_environment_wins(tmp_path):
    file = tmp_path / "spanledger.toml"
    file.write_text(f'delegation_keys = ["{OLD}"]')

    assert Config.from_file(file).delegation_keys == Keys.of([OLD])
    environ = {"SPANLEDGER_CONFIG": str(file), "SPANLEDGER_DELEGATION_KEYS": f"{NEW}, {OLD}"}
    assert Config.from_env(environ).delegation_keys == KEYS
    assert text(bytes([1]) * 32) not in repr(Config.from_env(environ))


def test_without_pyjwt_nothing_is_signed_and_nothing_is_read(monkeypatch):
    token = KEYS.sign(CLAIMS)
    monkeypatch.setitem(sys.modules, "jwt", None)

    with pytest.raises(ConfigError, match=r"pip install 'spanledger\[delegation\]'"):
        KEYS.sign(CLAIMS)
    assert "spanledger[delegation]" in refused(token, Keys.of([NEW]))


def test_what_is_remembered_of_tokens_is_bounded():
    keys = Keys.of([NEW])
    for n in range(300):
        keys.read(keys.sign(CLAIMS | {"jti": str(n)}))
    assert len(keys._known) <= 256


def test_the_error_survives_pickling():
    with pytest.raises(NotAuthorized) as error:
        KEYS.read(KEYS.sign(CLAIMS), "other")
    again = pickle.loads(pickle.dumps(error.value))
    assert (again.reason, again.delegation) == (error.value.reason, ID)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"to_agent": ""}, "an agent's name"),
        ({"to_agent": "a" * 129}, "an agent's name"),
        ({"to_agent": None}, "an agent's name"),
        ({"permissions": []}, "1 to 32 permissions"),
        ({"permissions": None}, "1 to 32 permissions"),
        ({"permissions": ["a:b"] * 33}, "1 to 32 permissions"),
        ({"permissions": ["pay*"]}, "a permission is a name"),
        ({"permissions": [7]}, "a permission is a name"),
        ({"permissions": [f"{n}:{'x' * 100}" for n in range(30)]}, "2048 characters"),
        ({"max_amount": 10.5}, "never a float"),
        ({"max_amount": Money(0, "EUR")}, "more than nothing"),
        ({"expires_in_s": 0}, "a number of seconds"),
        ({"expires_in_s": float("inf")}, "a number of seconds"),
        ({"expires_in_s": float("nan")}, "a number of seconds"),
        ({"expires_in_s": True}, "a number of seconds"),
        ({"expires_in_s": "60"}, "a number of seconds"),
        ({"reason": 7}, "a reason is a text"),
    ],
)
def test_a_delegation_that_makes_no_sense_is_told_so(given, said):
    with pytest.raises(ConfigError, match=said):
        Delegation(**({"to_agent": "billing", "permissions": ["payments:refund"]} | given))


def test_one_permission_need_not_be_in_a_list():
    assert Delegation("billing", "payments:refund").permissions == ("payments:refund",)
