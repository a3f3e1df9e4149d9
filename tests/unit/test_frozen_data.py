"""Frozen data is copied as `dataclasses.replace` copies it, and ids are UUIDs."""

from __future__ import annotations

import copy
import pickle
import uuid
from dataclasses import replace

import mypy.api
import pytest

from spanledger.core.call import Call, Identity, ScopeSource
from spanledger.core.frozen import changed
from spanledger.core.ids import new_id

CALL = Call("refund", arguments={"amount": 1}, call_id="call_1", sent=True)


@pytest.mark.parametrize("changes", [{}, {"agent": None}, {"workflow_id": "w", "workflow_source": ScopeSource.GIVEN}])
def test_a_changed_copy_is_what_replace_makes(changes):
    assert changed(CALL, **changes) == replace(CALL, **changes)


def test_what_was_copied_stays_as_it_was():
    assert changed(CALL, name="pay").name == "pay"
    assert CALL.name == "refund"


def test_a_field_that_is_none_is_an_error():
    with pytest.raises(AttributeError, match="amount"):
        changed(CALL, amount=1)


def test_what_is_made_on_the_way_of_a_call_can_be_compared_hashed_copied_and_sent():
    identity = Identity("key", "arguments", None, "w")

    assert identity == Identity("key", "arguments", None, "w") != Identity("other", "arguments", None, "w")
    assert hash(identity) == hash(copy.copy(identity))
    assert copy.deepcopy(CALL) == pickle.loads(pickle.dumps(CALL)) == CALL
    assert not hasattr(CALL, "__dict__")


TYPED = """
from dataclasses import replace
from spanledger.core.call import Call
from spanledger.core.frozen import changed

call = replace(changed(Call("refund"), name="pay"), agent="support")
call.name = "pay"
changed(call, amount=1)
replace(call, name=1)
"""


def test_a_type_checker_forbids_what_costs_too_much_to_forbid_at_run_time(tmp_path):
    told, _, _ = mypy.api.run(["--config-file=", "--cache-dir", str(tmp_path), "-c", TYPED])

    wrong = [line for line in told.splitlines() if ": error:" in line]
    assert [line.split(":")[1] for line in wrong] == ["7", "8", "9"], told


def test_an_id_is_a_random_uuid_in_its_usual_form():
    ids = [new_id() for _ in range(200)]

    assert len(set(ids)) == len(ids)
    for one in ids:
        parsed = uuid.UUID(one)
        assert (str(parsed), parsed.version, parsed.variant) == (one, 4, uuid.RFC_4122)
