"""Frozen data is copied as `dataclasses.replace` copies it, and ids are UUIDs."""

from __future__ import annotations

import uuid
from dataclasses import replace

import pytest

from spanledger.core.call import Call, ScopeSource
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
    with pytest.raises(TypeError, match="Call has no amount"):
        changed(CALL, amount=1)


def test_an_id_is_a_random_uuid_in_its_usual_form():
    ids = [new_id() for _ in range(200)]

    assert len(set(ids)) == len(ids)
    for one in ids:
        parsed = uuid.UUID(one)
        assert (str(parsed), parsed.version, parsed.variant) == (one, 4, uuid.RFC_4122)
