"""Say what can be made to go wrong in a rehearsal: one row per fault. Pure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from sim.errors import ConfigError

KINDS: dict[str, str] = {
    "a53-stuck": "the A53 does not wake",
    "camera-dead": "the camera does not answer",
    "dipp-hangs": "pipelines do not end while it lasts",
    "dipp-slow": "pipelines take ten times as long",
    "gnss-lost": "the receiver has no fix; its clock stands still",
    "battery-weak": "the battery has half its capacity (whole rehearsal)",
    "panels-weak": "the panels give half (whole rehearsal)",
}
_FAULT = re.compile(
    r"(?P<kind>[a-z0-9-]+?)(?:@(?P<start>\d+(?:\.\d+)?)(?:\.\.(?P<stop>\d+(?:\.\d+)?))?)?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """A fault and the hours of the rehearsal in which it is there."""

    kind: str
    start_h: float = 0.0
    stop_h: float = float("inf")

    def holds(self, now_s: float) -> bool:
        """Tell whether it is there at an instant of the rehearsal."""
        return self.start_h * 3600 <= now_s < self.stop_h * 3600


def parse_fault(text: str) -> Fault:
    """Read `KIND`, `KIND@HOUR` or `KIND@HOUR..HOUR`. Raises ConfigError."""
    match = _FAULT.fullmatch(text)
    if match is None or match["kind"] not in KINDS:
        raise ConfigError(f"fault {text!r}: KIND[@HOUR[..HOUR]] with one of {', '.join(KINDS)}")
    return Fault(
        kind=match["kind"],
        start_h=float(match["start"] or 0),
        stop_h=float(match["stop"] or "inf"),
    )


class Faults:
    """The faults of one rehearsal."""

    def __init__(self, faults: Sequence[Fault] = ()) -> None:
        self._faults = tuple(faults)

    def holds(self, kind: str, now_s: float) -> bool:
        """Tell whether a kind of fault is there at an instant."""
        return any(each.kind == kind and each.holds(now_s) for each in self._faults)

    def has(self, kind: str) -> bool:
        """Tell whether a kind of fault occurs at all."""
        return any(each.kind == kind for each in self._faults)

    def edges(self) -> list[float]:
        """Return the instants at which something changes."""
        hours = (h for each in self._faults for h in (each.start_h, each.stop_h))
        return [hour * 3600 for hour in hours if hour != float("inf")]
