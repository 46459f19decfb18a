"""Mission time as a function of the monotonic clock, the same one for every node of a payload."""

from __future__ import annotations

import math
from dataclasses import dataclass

from sim.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionClock:
    """Mission time: `epoch_unix` at monotonic `start_monotonic`, running `rate` times real time.

    Processes share a mission by sharing these three numbers: the monotonic clock of Linux is one
    for the whole machine. In virtual time `start_monotonic` is the scheduler's start.
    Raises ConfigError for a rate that is not positive or any number that is not finite.
    """

    epoch_unix: float
    rate: float = 1.0
    start_monotonic: float = 0.0

    def __post_init__(self) -> None:
        if not all(map(math.isfinite, (self.epoch_unix, self.rate, self.start_monotonic))):
            raise ConfigError("mission clock: epoch, rate and start must be finite numbers")
        if self.rate <= 0:
            raise ConfigError(f"mission clock: rate must be above 0, not {self.rate:g}")

    def unix(self, now: float) -> float:
        """Return mission time in Unix seconds at monotonic `now`."""
        return self.epoch_unix + (now - self.start_monotonic) * self.rate

    def monotonic(self, unix: float) -> float:
        """Return the monotonic instant at which mission time is `unix`."""
        return self.start_monotonic + (unix - self.epoch_unix) / self.rate

    def real_s(self, mission_s: float) -> float:
        """Return how many real seconds `mission_s` seconds of mission time take."""
        return mission_s / self.rate

    def mission_s(self, real_s: float) -> float:
        """Return how many seconds of mission time pass in `real_s` real seconds."""
        return real_s * self.rate
