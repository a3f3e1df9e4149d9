"""What a call or a resource cannot be is said where it is made, before anything could run."""

from __future__ import annotations

import pytest

from spanledger import Calls, Money, Resource, ToolCall, workflow


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"tenant": ""}, "the tenant of 'refund' is a text that is not empty"),
        ({"key": ""}, "the key of 'refund' is a text that is not empty"),
        ({"fields": "order_id"}, "names of arguments"),
        ({"resource": "charge"}, "is a Resource, not 'charge'"),
        ({"cost": 3}, r"is Money \(never a float\), Tokens or Calls, not 3"),
        ({"cost": "3 EUR"}, "not '3 EUR'"),
    ],
)
def test_a_call_is_not_told_apart_by_what_is_empty_or_of_another_kind(given, words):
    with pytest.raises(ValueError, match=words):
        ToolCall("refund", {"order_id": "o-1"}, workflow_id="w", **given)


@pytest.mark.parametrize("missing", ["", None, {}])
def test_a_resource_without_an_id_is_not_taken_for_any_other_one(missing):
    with pytest.raises(ValueError, match="a resource needs an id"):
        Resource("stripe", "charge", missing)


def test_what_can_be_is_taken():
    call = ToolCall("refund", workflow_id="w", resource=Resource("stripe", "charge", 0), cost=Money("1", "EUR"))
    assert (call.resource, call.cost) == (Resource("stripe", "charge", 0), Money("1", "EUR"))
    assert ToolCall("refund", workflow_id="w", fields=["order_id"], cost=Calls(1)).tenant is None


@pytest.mark.parametrize("given", [{"workflow_id": 7}, {"workflow_id": None}, {"tenant": ""}, {"tenant": 7}])
def test_a_workflow_and_a_tenant_are_texts(given):
    with pytest.raises(ValueError, match="is a text that is not empty"):
        workflow(**{"workflow_id": "order-1"} | given)
