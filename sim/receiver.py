"""A GNSS receiver as a model: when it has a fix, and what it then reports.

Pure: driven by mission time and the true orbit state. After power-up or a reset it searches for
`cold_start_s` knowing nothing, not even the time; when the signal comes back after an outage it
needs `reacquire_s`. Once it knew the time it keeps it, and it goes on reporting the last place
with a growing age, as the flown parser does. Source: dish.md 12.
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import ConfigError
from sim.nmea import Fix
from sim.orbit import OrbitState


@dataclass(frozen=True, slots=True, kw_only=True)
class ReceiverFigures:
    """Durations in mission seconds; `satellites` is how many a fix uses."""

    cold_start_s: float = 35.0
    reacquire_s: float = 2.0
    satellites: int = 9

    def __post_init__(self) -> None:
        if self.cold_start_s < 0 or self.reacquire_s < 0:
            raise ConfigError("gnss: start times must not be negative")
        if not 4 <= self.satellites <= 99:
            raise ConfigError(f"gnss: a fix needs 4 to 99 satellites, not {self.satellites}")


class Receiver:
    """One receiver, powered up at `unix`."""

    def __init__(self, figures: ReceiverFigures, unix: float) -> None:
        self._figures = figures
        self._fix_from = unix + figures.cold_start_s
        self._blocked = False
        self.last: OrbitState | None = None
        self.has_fix = False

    @property
    def knows_time(self) -> bool:
        """Whether it ever had a fix since the last reset."""
        return self.last is not None

    def reset(self, unix: float) -> None:
        """Forget everything and start cold."""
        self._fix_from = unix + self._figures.cold_start_s
        self.last, self.has_fix = None, False

    def block(self, blocked: bool, unix: float) -> None:
        """Take the signal away or give it back."""
        if self._blocked and not blocked:
            self._fix_from = max(self._fix_from, unix + self._figures.reacquire_s)
        self._blocked = blocked

    def update(self, truth: OrbitState) -> Fix:
        """Take in the true state of an instant; return what the receiver says then."""
        self.has_fix = not self._blocked and truth.unix >= self._fix_from
        if not self.has_fix:
            return Fix(unix=truth.unix, place=None)
        self.last = truth
        return Fix(
            unix=truth.unix,
            place=truth.place,
            speed_m_s=truth.speed_m_s,
            course_deg=truth.course_deg,
            satellites=self._figures.satellites,
        )

    def age_s(self, unix: float) -> float | None:
        """Return mission seconds since the last fix, None if there was none."""
        return None if self.last is None else max(0.0, unix - self.last.unix)
