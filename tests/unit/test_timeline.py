"""What the timeline says of an entry in words."""

from __future__ import annotations

from spanledger.cli.timeline import said


def test_what_no_budget_could_count_is_said_with_what_was_counted_instead() -> None:
    detail = {"budget": "eur", "scope": "", "unit": "EUR", "cost": {"CHF": 7_000_000}, "counted": 800_000}
    assert (
        said({"what": "unconverted", "detail": detail, "by_name": None})
        == "eur has no rate for 7.00 CHF that it cost, and counts 0.80 EUR"
    )
