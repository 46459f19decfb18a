"""Passes of a satellite over a ground station: rise, set and highest elevation.

Theory of operation: elevation over time is sampled at a step during which a low orbit cannot rise,
culminate and set unseen more than a degree or so; a local maximum between samples is then found by
golden section, so even a pass of a few seconds over the mask is not missed, and its two crossings
of the mask by bisection.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from sim.errors import ConfigError
from sim.frames import Geodetic
from sim.orbit import Orbit

_STEP_S = 30.0
_PRECISION_S = 0.01
_GOLDEN = (math.sqrt(5) - 1) / 2
# A month at the step above is 86400 samples, under a second of work; more is a mistake.
_MAX_SAMPLES = 200_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Station:
    """A ground station and the elevation below which it hears nothing."""

    name: str
    place: Geodetic
    mask_deg: float = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Pass:
    """One pass in Unix seconds. Rise and set are cut to the searched interval."""

    rise_unix: float
    set_unix: float
    top_unix: float
    top_elevation_deg: float

    @property
    def duration_s(self) -> float:
        """How long the satellite is above the mask."""
        return self.set_unix - self.rise_unix


def find_passes(
    orbit: Orbit, station: Station, start_unix: float, stop_unix: float
) -> tuple[Pass, ...]:
    """Return the passes between two instants, in order.

    Raises ConfigError for an interval of more than 69 days, ContentError if the satellite decays.
    """
    if (stop_unix - start_unix) / _STEP_S > _MAX_SAMPLES:
        raise ConfigError("pass search: more than 69 days in one search")

    def height(unix: float) -> float:
        return orbit.look(station.place, unix).elevation_deg - station.mask_deg

    return tuple(
        Pass(
            rise_unix=_crossing(height, left, top),
            set_unix=_crossing(height, right, top),
            top_unix=top,
            top_elevation_deg=height(top) + station.mask_deg,
        )
        for left, top, right in _hills(height, start_unix, stop_unix)
        if height(top) > 0
    )


def _hills(
    height: Callable[[float], float], start: float, stop: float
) -> Iterator[tuple[float, float, float]]:
    """Yield (valley or start, top, valley or stop) of every maximum in the interval."""
    count = max(2, math.ceil((stop - start) / _STEP_S) + 1)
    times = [start + (stop - start) * i / (count - 1) for i in range(count)]
    values = [height(t) for t in times]
    left, best = 0, 0
    for i in range(1, count):
        if values[i] > values[best]:
            best = i
        falling_ends = i == count - 1 or (values[i + 1] > values[i] < values[i - 1])
        if falling_ends:
            top = _maximum(height, times[max(best - 1, 0)], times[min(best + 1, count - 1)])
            yield times[left], top, times[i]
            left = best = i


def _maximum(height: Callable[[float], float], low: float, high: float) -> float:
    """Return where the function is highest between two instants that enclose one maximum."""
    while high - low > _PRECISION_S:
        a, b = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
        if height(a) < height(b):
            low = a
        else:
            high = b
    return (low + high) / 2


def _crossing(height: Callable[[float], float], outside: float, inside: float) -> float:
    """Return where the function crosses 0 between an instant below and one above it."""
    if height(outside) >= 0:
        return outside
    while abs(inside - outside) > _PRECISION_S:
        middle = (inside + outside) / 2
        if height(middle) > 0:
            inside = middle
        else:
            outside = middle
    return inside
