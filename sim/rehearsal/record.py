"""What a rehearsal leaves behind, as values. Times are mission seconds since its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from sim.payload.record import Span


@dataclass(frozen=True, slots=True, kw_only=True)
class Stand:
    """A place of the plan at which it waited: how often and how long altogether."""

    slot: int
    index: int
    source: str
    text: str
    times: int
    total_s: float
    longest_s: float


@dataclass(slots=True, kw_only=True)
class Record:
    """One rehearsal. `outcome` is completed, failed, or running if time was up first."""

    plan: str
    satellite: str
    start_unix: float
    hours: float
    seed: int
    faults: tuple[str, ...]
    outcome: str = "running"
    reason: str = ""
    ended_s: float = 0.0
    executed: int = 0
    spans: list[Span] = field(default_factory=list)
    samples: list[tuple[float, dict[str, float]]] = field(default_factory=list)
    track: list[tuple[float, float, float]] = field(default_factory=list)
    shots: list[tuple[float, float, float]] = field(default_factory=list)
    stands: list[Stand] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    variables: Mapping[str, int | float] = field(default_factory=dict)

    def to_json(self) -> dict[str, object]:
        """Return everything as plain data; the same flight gives the same data."""
        return {
            "plan": self.plan,
            "satellite": self.satellite,
            "start_unix": self.start_unix,
            "hours": self.hours,
            "seed": self.seed,
            "faults": list(self.faults),
            "outcome": self.outcome,
            "reason": self.reason,
            "ended_s": self.ended_s,
            "executed": self.executed,
            "figures": {name: round(value, 3) for name, value in self.figures.items()},
            "variables": dict(self.variables),
            "blocked": [
                {
                    "slot": each.slot, "index": each.index, "source": each.source,
                    "text": each.text, "times": each.times, "total_s": each.total_s,
                    "longest_s": each.longest_s,
                }
                for each in self.stands
            ],
            "timeline": [
                {
                    "lane": each.lane, "start_s": round(each.start_s, 3),
                    "end_s": round(each.end_s, 3), "label": each.label, "kind": each.kind,
                }
                for each in self.spans
            ],
            "samples": [
                {"t_s": t, **{name: round(value, 3) for name, value in values.items()}}
                for t, values in self.samples
            ],
            "pictures": [[round(v, 3) for v in each] for each in self.shots],
            "track": [[round(v, 3) for v in each] for each in self.track],
        }  # fmt: skip
