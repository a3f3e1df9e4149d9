"""Write the page of conventions, CONVENTIONS.md beside this file, from what `semconv` declares.

Rules: the page holds nothing that is not declared. `python -m spanledger.telemetry.conventions` writes it; a test fails
where it is stale.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from spanledger.telemetry import instruments, proposals, semconv
from spanledger.telemetry._declared import ATTRIBUTES, EVENTS, METRICS

PAGE = Path(__file__).with_name("CONVENTIONS.md")

_HEAD = f"""\
# What spanledger emits

Every attribute, event and metric, made from `{Path(semconv.__file__).name}`, `{Path(instruments.__file__).name}`
and `{Path(proposals.__file__).name}` by `python -m spanledger.telemetry.conventions`. Names outside of
`spanledger.*` are those of the OpenTelemetry semantic conventions and mean what they mean there.
*development*: the name or its meaning may still change, which the notes of a release say.
Amounts are texts with their unit, exact to the last digit.
"""


def page() -> str:
    """Return the page as it should be."""
    ours = [a for a in ATTRIBUTES.values() if a.name.startswith("spanledger.")]
    others = [a for a in ATTRIBUTES.values() if not a.name.startswith("spanledger.")]
    attributes = ("attribute", "type", "on", "meaning", "example", "stability")
    parts = [_HEAD]
    for title, some in (("Attributes of our own", ours), ("Attributes of the conventions", others)):
        rows = ((f"`{a.name}`", a.type, a.when, a.meaning, f"`{a.example}`", a.stability) for a in some)
        parts += [f"\n## {title}\n\n", *_table(attributes, rows)]
    events = ((f"`{e.name}`", e.when, e.meaning, _names(e.attributes), e.stability) for e in EVENTS.values())
    parts += ["\n## Events\n\n", *_table(("event", "where", "meaning", "attributes", "stability"), events)]
    metrics = (
        (f"`{m.name}`", m.kind, f"`{m.unit}`", m.meaning, _names(m.attributes), m.stability) for m in METRICS.values()
    )
    parts += ["\n## Metrics\n\n", *_table(("metric", "kind", "unit", "meaning", "labels", "stability"), metrics)]
    switch = f"`{proposals.VARIABLE}={proposals.SWITCH}`"
    parts.append(
        f"\n## Open proposals\n\nEmitted beside our own names with {switch}; they may change or be dropped.\n\n"
    )
    mapping = ((f"`{ours}`", f"`{theirs}`", where, how) for ours, theirs, where, how in proposals.MAPPING)
    parts += _table(("ours", "proposed", "proposal", "how"), mapping)
    return "".join(parts)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> Iterator[str]:
    yield f"| {' | '.join(head)} |\n|{'---|' * len(head)}\n"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in row)} |\n"


def _names(names: tuple[str, ...]) -> str:
    return ", ".join(f"`{name}`" for name in names)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
