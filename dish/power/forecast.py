"""Fill and empty the battery along the orbit with what plans switch on. Pure.

The horizon is cut at every step of the sky and at every event of a plan, so that switching is exact
and the light is sampled in the middle of its step. The energy balance of a piece is that of
`sim.power.Battery`, which a test holds against it. Units: watts, watt-hours, Unix seconds.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dish.power.figures import PowerModel

# The Sun sets within 8 s in low orbit; three days at this step are still a moment's work.
_MIN_STEP_S = 10.0
_MAX_STEPS = 1000
_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """What a plan does at an instant: switch a load, take energy once, or take power from then."""

    at_unix: float
    load: str = ""
    is_on: bool = False
    joules: float = 0.0
    drain_w: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadProfile:
    """All a run of a plan will do, in order of time, as far as it can be foreseen."""

    events: tuple[Event, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Situation:
    """What is known now: mission time, state of charge (0 to 1), and which loads are on."""

    unix: float
    charge: float
    on: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """The lowest state of charge in percent, when that is, and what is left at the end."""

    min_percent: float
    at_unix: float
    end_percent: float


def step_of(horizon_s: float) -> float:
    """Return the step of the sky, in seconds, for a horizon."""
    return max(_MIN_STEP_S, math.ceil(horizon_s / _MAX_STEPS))


def predict(
    model: PowerModel, now: Situation, profiles: Sequence[LoadProfile], horizon_s: float
) -> Forecast:
    """Return how low the battery gets within the horizon if these plans run."""
    figures, battery = model.figures, model.figures.battery
    stored = battery.capacity_wh * min(1.0, max(0.0, now.charge))
    lowest, lowest_at = stored, now.unix
    on, drain_w = set(now.on), 0.0
    end = now.unix + horizon_s
    events = sorted(
        (event for profile in profiles for event in profile.events),
        key=lambda event: event.at_unix,
    )
    for start, stop, due, solar_w in _pieces(model, now.unix, end, events, step_of(horizon_s)):
        pulse_wh = 0.0
        for event in due:
            drain_w += event.drain_w
            pulse_wh += event.joules / _SECONDS_PER_HOUR
            if event.load:
                (on.add if event.is_on else on.discard)(event.load)
        load_w = drain_w + sum(
            load.on_w if load.name in on else load.off_w for load in figures.loads
        )
        surplus = (solar_w - load_w) * (stop - start) / _SECONDS_PER_HOUR - pulse_wh
        if surplus >= 0:
            stored = min(battery.capacity_wh, stored + surplus * battery.charge_efficiency)
        else:
            stored = max(0.0, stored + surplus / battery.discharge_efficiency)
        if stored < lowest:
            lowest, lowest_at = stored, stop
    scale = 100 / battery.capacity_wh
    return Forecast(min_percent=lowest * scale, at_unix=lowest_at, end_percent=stored * scale)


def _pieces(
    model: PowerModel, start: float, end: float, events: Sequence[Event], step_s: float
) -> Iterator[tuple[float, float, list[Event], float]]:
    """Cut the time into pieces of constant powers: (start, stop, events at the start, solar)."""
    at, position = start, 0
    while at < end:
        # Steps are aligned to multiples, so that forecasts one after the other share their skies.
        cell = math.floor(at / step_s)
        solar_w = model.sky((cell + 0.5) * step_s).solar_w
        cell_end = min(end, (cell + 1) * step_s)
        while at < cell_end:
            due: list[Event] = []
            while position < len(events) and events[position].at_unix <= at:
                due.append(events[position])
                position += 1
            stop = cell_end
            if position < len(events):
                stop = min(stop, events[position].at_unix)
            yield at, stop, due, solar_w
            at = stop
