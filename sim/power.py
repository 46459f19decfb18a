"""Electrical power: what the panels give, what the subsystems take, what the battery keeps.

Theory of operation: everything is energy. In every step what the panels gave equals what the loads
got, plus what the battery gained, plus what charging and discharging lost, plus what a full battery
had to shunt; `EnergyTally.imbalance_wh` is zero up to rounding, and a test holds it there. What an
empty battery cannot give is counted as unserved. Pure: `Battery.step` takes durations, never a
clock. Units: watts, watt-hours, seconds.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from sim.errors import ConfigError
from sim.frames import Vector
from sim.orbit import OrbitState
from sim.sun import AU_KM

_SECONDS_PER_HOUR = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """A solar panel: power at normal incidence at 1 AU, and where it points.

    `normal` is in the orbit frame of a nadir-pointing satellite: x along the motion, y against
    the orbit normal, z towards the Earth.
    """

    name: str
    watts: float
    normal: Vector


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryFigures:
    """The pack: capacity, what is lost on the way in and out, and its voltage curve.

    `volts` are open-circuit voltages at equally spaced states of charge from empty to full.
    Raises ConfigError for figures outside physics.
    """

    capacity_wh: float
    charge_efficiency: float = 0.95
    discharge_efficiency: float = 0.97
    resistance_ohm: float = 0.05
    volts: tuple[float, ...] = (6.0, 7.0, 7.3, 7.5, 7.8, 8.4)

    def __post_init__(self) -> None:
        if self.capacity_wh <= 0:
            raise ConfigError(f"battery: capacity must be above 0 Wh, not {self.capacity_wh:g}")
        for name in ("charge_efficiency", "discharge_efficiency"):
            if not 0 < getattr(self, name) <= 1:
                raise ConfigError(f"battery: {name} must be in (0, 1], not {getattr(self, name):g}")
        if self.resistance_ohm < 0:
            raise ConfigError("battery: resistance must not be negative")
        rising = all(a <= b for a, b in zip(self.volts, self.volts[1:], strict=False))
        if len(self.volts) < 2 or self.volts[0] <= 0 or not rising:
            raise ConfigError("battery: volts must be two or more positive, rising voltages")


class Flow(NamedTuple):
    """Average powers of one step, watts. `battery_w` is positive while charging."""

    solar_w: float
    load_w: float
    battery_w: float
    shunted_w: float
    unserved_w: float


_STILL = Flow(0.0, 0.0, 0.0, 0.0, 0.0)


@dataclass(slots=True)
class EnergyTally:
    """Energies since the start, watt-hours."""

    solar_wh: float = 0.0
    served_wh: float = 0.0
    lost_wh: float = 0.0
    shunted_wh: float = 0.0
    unserved_wh: float = 0.0
    stored_gain_wh: float = 0.0

    @property
    def imbalance_wh(self) -> float:
        """Energy that came from nowhere (positive) or vanished: zero if the model is right."""
        return self.served_wh + self.lost_wh + self.shunted_wh + self.stored_gain_wh - self.solar_wh


@dataclass(slots=True)
class Battery:
    """A battery with its state: stored energy and the tally of all flows."""

    figures: BatteryFigures
    stored_wh: float
    tally: EnergyTally = field(default_factory=EnergyTally)
    flow: Flow = _STILL

    def __post_init__(self) -> None:
        self.stored_wh = max(0.0, min(self.figures.capacity_wh, self.stored_wh))

    @property
    def charge(self) -> float:
        """State of charge, 0 to 1."""
        return self.stored_wh / self.figures.capacity_wh

    @property
    def volts(self) -> float:
        """Terminal voltage: the open-circuit curve, less the drop over the inner resistance."""
        curve = self.figures.volts
        position = self.charge * (len(curve) - 1)
        low = min(int(position), len(curve) - 2)
        open_volts = curve[low] + (curve[low + 1] - curve[low]) * (position - low)
        # Positive current charges and lifts the voltage. One turn is enough: the drop is small.
        return open_volts + self.flow.battery_w / open_volts * self.figures.resistance_ohm

    @property
    def bus_amps(self) -> float:
        """Current of all loads at the present voltage."""
        return (self.flow.load_w - self.flow.unserved_w) / self.volts

    def step(self, duration_s: float, solar_w: float, load_w: float) -> Flow:
        """Let constant powers flow for a time. Raises ConfigError for a negative or unreal one."""
        if not all(math.isfinite(v) and v >= 0 for v in (duration_s, solar_w, load_w)):
            raise ConfigError("battery: duration and powers must be finite and not negative")
        hours = duration_s / _SECONDS_PER_HOUR
        if hours == 0:
            return self.flow
        surplus_wh = (solar_w - load_w) * hours
        if surplus_wh >= 0:
            gained, shunted, lost = self._charge(surplus_wh)
            unserved = 0.0
        else:
            gained, unserved, lost = self._discharge(-surplus_wh)
            shunted = 0.0
        self.stored_wh += gained
        tally = self.tally
        tally.solar_wh += solar_w * hours
        tally.served_wh += load_w * hours - unserved
        tally.lost_wh += lost
        tally.shunted_wh += shunted
        tally.unserved_wh += unserved
        tally.stored_gain_wh += gained
        self.flow = Flow(solar_w, load_w, gained / hours, shunted / hours, unserved / hours)
        return self.flow

    def _charge(self, surplus_wh: float) -> tuple[float, float, float]:
        """Return (gained, shunted, lost) of a surplus."""
        room = self.figures.capacity_wh - self.stored_wh
        gained = min(room, surplus_wh * self.figures.charge_efficiency)
        taken = gained / self.figures.charge_efficiency
        return gained, max(0.0, surplus_wh - taken), taken - gained

    def _discharge(self, need_wh: float) -> tuple[float, float, float]:
        """Return (gained: negative, unserved, lost) of a need."""
        given = min(self.stored_wh, need_wh / self.figures.discharge_efficiency)
        delivered = given * self.figures.discharge_efficiency
        return -given, max(0.0, need_wh - delivered), given - delivered


def panel_watts(panels: Sequence[Panel], state: OrbitState) -> float:
    """Return the power of all panels of a nadir-pointing satellite at one instant.

    Counts the angle of the Sun on each panel, the shadow of the Earth, and the Sun's distance;
    not the heat of the panels, their age, nor light from the Earth.
    """
    if state.sunlight == 0.0:
        return 0.0
    sun = to_orbit_frame(state.sun_km.minus(state.position_km), state).unit()
    distance_au = state.sun_km.norm() / AU_KM
    direct = sum(panel.watts * max(0.0, panel.normal.unit().dot(sun)) for panel in panels)
    return direct * state.sunlight / distance_au**2


def to_orbit_frame(vector: Vector, state: OrbitState) -> Vector:
    """Turn an inertial direction into x along the motion, y against the orbit normal, z down."""
    down = state.position_km.unit().scaled(-1.0)
    normal = state.position_km.cross(state.velocity_km_s).unit()
    ahead = normal.cross(state.position_km).unit()
    return Vector(vector.dot(ahead), -vector.dot(normal), vector.dot(down))


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A parameter of another node, by the names of the configuration."""

    node: str
    parameter: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Channel:
    """An output of the EPS: its power in each state of what hangs on it, and how that is learnt.

    `states` names the values 0, 1, ... of the parameter `state_source`; until it is known, `state`
    holds. `count_source` is a counter that costs `joules_per_count` each time it goes up by one:
    pictures taken, seconds of transmission.
    """

    name: str
    watts: Mapping[str, float]
    state: str
    states: tuple[str, ...] = ()
    state_source: Source | None = None
    count_source: Source | None = None
    joules_per_count: float = 0.0
    switchable: bool = True

    def __post_init__(self) -> None:
        for state in (self.state, *self.states):
            if state not in self.watts:
                raise ConfigError(f"channel {self.name}: no power is given for state {state!r}")
        if min(self.watts.values()) < 0 or self.joules_per_count < 0:
            raise ConfigError(f"channel {self.name}: powers must not be negative")

    def state_name(self, value: int) -> str:
        """Return the state a parameter value stands for; the default one for an unknown value."""
        return self.states[value] if 0 <= value < len(self.states) else self.state
