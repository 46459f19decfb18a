"""The values a power prediction needs, and the port through which a spacecraft gives them. Pure.

Theory of operation: this package knows how to walk a plan and how to fill and empty a battery; it
knows no orbit, no panels and no node numbers. Those come from a `PowerModel`, which the launcher
hands to the node (`DishConfig.power`, `dish serve --power MODULE:FACTORY`). A port and not a shared
package, because the orbit mathematics (SGP4 and its tables of panels) belong to the spacecraft
around the board: a flight computer would take them from its attitude system, the emulator takes
them from `sim.forecast`, and a test uses three lines of arithmetic. So `dish` still imports `csp`
only. Times are Unix seconds of the mission, durations mission seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import NamedTuple, Protocol

from dish.errors import MisuseError


class Place(NamedTuple):
    """A parameter of a node."""

    node: int
    parameter: str


class Action(Enum):
    """What writing a parameter does to a load.

    ON: any write switches it on. OFF: a write of anything but 0 switches it off. SWITCH: as the
    value says. PULSE: a write of anything but 0 costs energy once.
    """

    ON = auto()
    OFF = auto()
    SWITCH = auto()
    PULSE = auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What a plan causes by writing `place`.

    A pulse costs `joules` times a count: the value of `count_of` if the plan wrote it, or the
    number after `count_key=` in a text, else 1. The parameter then reads what was written for
    `busy_s`, and 0 afterwards.
    """

    place: Place
    action: Action
    load: str = ""
    joules: float = 0.0
    busy_s: float = 0.0
    count_of: Place | None = None
    count_key: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Something that takes `on_w` watts while it is on, else `off_w`.

    The parameters `status` read 1 from `delay_s` after it was switched on, else 0. `is_on` is its
    state when nothing tells.
    """

    name: str
    on_w: float
    off_w: float = 0.0
    is_on: bool = True
    delay_s: float = 0.0
    status: tuple[Place, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class BatteryModel:
    """What the battery holds, and the parts of the energy that arrive and leave."""

    capacity_wh: float
    charge_efficiency: float = 1.0
    discharge_efficiency: float = 1.0

    def __post_init__(self) -> None:
        parts = (self.charge_efficiency, self.discharge_efficiency)
        if self.capacity_wh <= 0 or not all(0 < part <= 1 for part in parts):
            raise MisuseError("a battery needs a capacity above 0 and efficiencies in (0, 1]")


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFigures:
    """Everything about the spacecraft that does not change with time.

    `own` is the number of the node that runs plans. `clock` are parameters that read Unix time,
    `position` those that read an attribute of `Sky`. `rate` is mission seconds per second of the
    node's clock: 1 but in an emulation run fast.
    """

    own: int
    battery: BatteryModel
    loads: tuple[Load, ...]
    rules: tuple[Rule, ...]
    clock: frozenset[Place] = frozenset()
    position: Mapping[Place, str] = field(default_factory=dict)
    rate: float = 1.0


class Sky(NamedTuple):
    """What the orbit gives at one instant: power of the panels, and the place below."""

    solar_w: float
    lat_deg: float = 0.0
    lon_deg: float = 0.0
    alt_m: float = 0.0


class PowerModel(Protocol):
    """A spacecraft: its figures, and the sky along its orbit. `sky` must be a pure function."""

    @property
    def figures(self) -> PowerFigures:
        """Battery, loads and rules."""

    def sky(self, unix: float) -> Sky:
        """Return generation and place at an instant. Raises DishError if it cannot be known."""
