"""Results that only whoever has the key can read."""

from __future__ import annotations

import base64
import json
import sys

import pytest

from spanledger import Config, EncryptingCodec
from spanledger.core.payload import SEALED, Kept, opened, sealed
from spanledger.errors import ConfigError, ResultNotKept

TEXT = '{"card":"4111"}'
PLAIN = {"card": "4111"}


def key(key_id: str, byte: int) -> str:
    return f"{key_id}:{base64.b64encode(bytes([byte]) * 32).decode()}"


OLD, NEW = key("k1", 1), key("k2", 2)
CODEC = EncryptingCodec({"*": [OLD]})


def seal(codec: EncryptingCodec = CODEC, tenant: str = "acme", of: str = "00") -> dict[str, str]:
    return json.loads(sealed(TEXT, Kept("refund", tenant, of, codec, 1000)))


def read(tree: object, codec: EncryptingCodec | None = CODEC, tenant: str = "acme", of: str = "00") -> object:
    return opened(tree, codec, tenant=tenant, key=of, name="refund")


def test_what_is_sealed_shows_nothing_and_opens_exactly():
    tree = seal()

    assert "4111" not in str(tree)
    assert read(tree) == PLAIN
    assert seal() != tree, "a nonce of its own each time"


@pytest.mark.parametrize(
    "elsewhere",
    [{"tenant": "other"}, {"of": "01"}, {"codec": EncryptingCodec({"*": [key("k1", 9)]})}],
)
def test_it_opens_for_its_own_tenant_call_and_key_only(elsewhere):
    with pytest.raises(ResultNotKept, match="does not open with key 'k1'"):
        read(seal(), **elsewhere)


def test_a_changed_one_is_no_result():
    kind, key_id, text = seal()[SEALED].split(".")
    raw = bytearray(base64.b64decode(text))
    for place in (0, 12, len(raw) - 1):
        changed = bytes(byte ^ (1 if at == place else 0) for at, byte in enumerate(raw))
        with pytest.raises(ResultNotKept, match="was changed"):
            read({SEALED: ".".join((kind, key_id, base64.b64encode(changed).decode()))})
    for broken in (f"{kind}.{key_id}.{text[:8]}", f"{kind}.{key_id}.*", f"{kind}.{key_id}.", "", "other.k1.AAAA", 7):
        with pytest.raises(ResultNotKept):
            read({SEALED: broken})


def test_keys_are_rotated_by_a_new_one_in_front():
    before = seal()
    rotated = EncryptingCodec({"*": [NEW, OLD]})

    assert read(before, rotated) == PLAIN
    assert seal(rotated)[SEALED].split(".")[1] == "k2"
    with pytest.raises(ResultNotKept, match="key 'k1' of tenant 'acme' is not among"):
        read(before, EncryptingCodec({"*": [NEW]}))


def test_a_tenant_with_keys_of_its_own_uses_no_others():
    codec = EncryptingCodec({"*": [OLD], "acme": [NEW]})

    assert seal(codec)[SEALED].split(".")[1] == "k2"
    assert seal(codec, tenant="other")[SEALED].split(".")[1] == "k1"
    with pytest.raises(ConfigError, match="tenant 'other' has no payload key"):
        EncryptingCodec({"acme": [NEW]}).seal(b"", tenant="other", key="00")


def test_a_plain_result_is_given_back_only_where_that_is_allowed():
    with pytest.raises(ResultNotKept, match="not encrypted"):
        read(PLAIN)
    assert read(PLAIN, EncryptingCodec({"*": [OLD]}, reads_plain=True)) == PLAIN
    assert read(PLAIN, None) == PLAIN


def test_a_sealed_result_without_a_codec_is_not_taken_for_a_value():
    with pytest.raises(ResultNotKept, match="SPANLEDGER_PAYLOAD_KEYS_FILE"):
        read(seal(), None)


@pytest.mark.parametrize(
    "keys",
    [
        {},
        {"*": []},
        {"*": OLD},
        {"*": ["k1"]},
        {"*": ["k1:c2hvcnQ="]},
        {"*": ["k1:***"]},
        {"*": ["a b:" + OLD.partition(":")[2]]},
        {"*": [OLD, OLD]},
        {"*": [7]},
    ],
)
def test_keys_that_cannot_work_are_an_error_that_repeats_none(keys):
    with pytest.raises(ConfigError) as raised:
        EncryptingCodec(keys)

    assert "base64" in str(raised.value)
    assert OLD.partition(":")[2] not in str(raised.value)


def test_the_environment_names_a_file_of_keys(tmp_path):
    (tmp_path / "keys.toml").write_text(f'"*" = ["{NEW}", "{OLD}"]\nreads_plain = true\n')

    codec = Config.from_env({"SPANLEDGER_PAYLOAD_KEYS_FILE": str(tmp_path / "keys.toml")}).payload_codec

    assert codec is not None
    assert read(seal(), codec) == PLAIN
    assert codec.reads_plain
    assert OLD not in repr(Config(payload_codec=codec))


@pytest.mark.parametrize(
    ("text", "words"), [(None, "cannot read"), ('"*" = ["k1:se', "not TOML"), ("reads_plain = 1", "true")]
)
def test_a_file_of_keys_that_cannot_be_read_is_an_error(tmp_path, text, words):
    path = tmp_path / "keys.toml"
    if text is not None:
        path.write_text(text)

    with pytest.raises(ConfigError, match=words):
        Config.from_env({"SPANLEDGER_PAYLOAD_KEYS_FILE": str(path)})


def test_a_configuration_file_names_a_codec_of_ones_own(tmp_path, monkeypatch):
    (tmp_path / "codecs_for_config.py").write_text(
        f'from spanledger import EncryptingCodec\nmade = EncryptingCodec({{"*": ["{OLD}"]}})\ndef make(): return made\n'
    )
    monkeypatch.syspath_prepend(tmp_path)
    for name in ("made", "make"):
        (tmp_path / "spanledger.toml").write_text(f'payload_codec = "codecs_for_config:{name}"')
        assert read(seal(), Config.from_file(tmp_path / "spanledger.toml").payload_codec) == PLAIN
    with pytest.raises(ConfigError, match="payload_codec is an EncryptingCodec"):
        Config(payload_codec="k1")  # type: ignore[arg-type]


def test_without_the_library_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "cryptography.hazmat.primitives.ciphers.aead", None)

    with pytest.raises(ConfigError, match=r"pip install 'spanledger\[encryption\]'"):
        EncryptingCodec({"*": [OLD]})
