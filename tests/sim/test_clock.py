"""Mission time: one linear function, the same for every process that knows three numbers."""

from __future__ import annotations

import math

import pytest

from sim.clock import MissionClock
from sim.errors import ConfigError


def test_mission_time_runs_at_its_rate_from_its_start() -> None:
    clock = MissionClock(epoch_unix=1_744_407_764.0, rate=60.0, start_monotonic=100.0)
    assert clock.unix(100.0) == 1_744_407_764.0
    assert clock.unix(101.0) == 1_744_407_824.0
    assert clock.unix(99.0) == 1_744_407_704.0
    assert clock.monotonic(1_744_407_824.0) == 101.0
    assert clock.real_s(120.0) == 2.0
    assert clock.mission_s(2.0) == 120.0


@pytest.mark.parametrize("rate", [0.0, -1.0, math.nan, math.inf])
def test_an_impossible_rate_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError):
        MissionClock(epoch_unix=0.0, rate=rate)
