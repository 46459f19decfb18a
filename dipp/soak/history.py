"""What the event log of a node must never say, and how flat a series must be. Pure.

Theory of operation: the node writes an event when a batch starts and when it has its fate. A kill
may lose the last event, but never make one up: no batch may have two fates, and the clock of the
events may not run backwards. What is counted exactly is the journal's to say. Source:
style-anchors.md Annex A, campaign rules.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from dipp.records import Totals

# Of a series, the part at either end that is compared: the first tenth is warming up.
_WARM, _PART = 0.1, 0.15


@dataclass(slots=True)
class History:
    """Takes events in order; `problems` says what was wrong with them."""

    problems: list[str] = field(default_factory=list)
    fates: dict[int, str] = field(default_factory=dict)
    started: int = 0
    last_t: float = 0.0

    def take(self, events: Iterable[Mapping[str, object]]) -> None:
        """Look at more events."""
        for event in events:
            self._take(event)

    def _take(self, event: Mapping[str, object]) -> None:
        t, batch, name = event.get("t"), event.get("batch"), event.get("event")
        if isinstance(t, float):
            if t < self.last_t:
                self.problems.append(f"the clock went back from {self.last_t} to {t}")
            self.last_t = t
        if name == "start":
            self.started += 1
        if name == "fate" and isinstance(batch, int):
            if batch in self.fates:
                self.problems.append(
                    f"batch {batch} was {self.fates[batch]}, then {event.get('fate')}"
                )
            self.fates[batch] = str(event.get("fate"))


def ledger_problems(totals: Totals, sent: int, stored: int, kept: int) -> Iterator[str]:
    """Yield where journal, ring and quarantine disagree; `sent` batches were announced."""
    fates = totals.delivered + totals.quarantined + totals.dropped
    if totals.taken != fates:
        yield f"{totals.taken} batches taken, {fates} fates"
    if totals.taken != sent:
        yield f"{sent} batches announced, {totals.taken} taken"
    # A failed image may be there as a thumbnail.
    if stored > totals.images + totals.quarantined:
        yield f"{stored} images in the ring, {totals.images} were delivered"
    if kept > totals.quarantined:
        yield f"{kept} batches in the quarantine, the journal knows {totals.quarantined}"


def ends(series: Sequence[float]) -> tuple[float, float]:
    """Return the median at the beginning, after warming up, and at the end. Not empty."""
    size = max(1, int(len(series) * _PART))
    start = min(int(len(series) * _WARM), len(series) - size)
    return median(series[start : start + size]), median(series[-size:])


def growth_problem(name: str, series: Sequence[float], allowed: float) -> str:
    """Say that a series ends more than `allowed` above its beginning; empty if it does not."""
    if len(series) < 2:
        return ""
    first, last = ends(series)
    if last - first <= allowed:
        return ""
    return f"{name} grew from {first:g} to {last:g}, at most {allowed:g} more is allowed"
