"""The values of a payload configuration: what `sim.config` reads and every node gets. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path

from sim.clock import MissionClock
from sim.errors import ConfigError
from sim.orbit import Orbit
from sim.passes import Station
from sim.power import BatteryFigures, Channel, Panel
from sim.receiver import ReceiverFigures
from sim.sleep import A53Figures
from sim.tle import ElementSet


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeNumbers:
    """CSP addresses. `ground` is the first one of the ground segment."""

    dish: int = 4
    eps: int = 8
    gnss: int = 9
    radio: int = 10
    link: int = 11
    ground: int = 20
    a53: int = 161
    dipp: int = 162
    camera: int = 163

    def number(self, name: str) -> int:
        """Return the address of a node by name. Raises ConfigError."""
        names = self.names()
        if name not in names:
            raise ConfigError(f"no node is called {name!r}; there are: {', '.join(names)}")
        return names[name]

    def names(self) -> dict[str, int]:
        """Return name to address, in the order of the configuration."""
        return {one.name: getattr(self, one.name) for one in fields(self)}


@dataclass(frozen=True, slots=True, kw_only=True)
class MissionFigures:
    """When the mission is, how fast it runs, and on which orbit."""

    epoch_unix: float
    rate: float
    elements: ElementSet


@dataclass(frozen=True, slots=True, kw_only=True)
class EpsFigures:
    """The power system: battery, how full it starts, panels, channels."""

    battery: BatteryFigures
    panels: tuple[Panel, ...]
    channels: tuple[Channel, ...]
    initial_charge: float = 0.8
    low_charge: float = 0.25


@dataclass(frozen=True, slots=True, kw_only=True)
class RadioFigures:
    """The observation store: how much it keeps, and how often it looks at the DIPP ring.

    `dipp_ring_entries` is the size of the table of DIPP's ring, which ground cannot see.
    """

    capacity_bytes: int
    poll_s: float
    timeout_s: float
    dipp_ring_entries: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectionFigures:
    """One direction of the radio link, in real seconds and bits of CSP frames."""

    rate_bps: float
    delay_s: float = 0.0
    loss: float = 0.0
    corruption: float = 0.0
    queue_bytes: int = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkAuthentication:
    """Whether the radio takes everybody's commands (no `key_file`, as flown).

    With a key the satellite's end takes authentic packets only and signs what it sends. `by` says
    who signs on the ground: the `station` for all programs behind it, or the `programs`.
    """

    key_file: Path | None = None
    replay_window: bool = True
    by: str = "station"


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkFigures:
    """The radio link: both directions, who is on the ground, and when there is contact.

    `windows` is `always` or `passes`; then the station's passes on the mission's orbit count.
    """

    uplink: DirectionFigures
    downlink: DirectionFigures
    ground_addresses: tuple[tuple[int, int], ...]
    windows: str = "always"
    seed: int = 1
    authentication: LinkAuthentication = LinkAuthentication()

    def is_ground(self, address: int) -> bool:
        """Tell whether an address belongs to the ground segment."""
        return any(low <= address <= high for low, high in self.ground_addresses)


@dataclass(frozen=True, slots=True, kw_only=True)
class PayloadConfig:
    """Everything of `payload.yaml`. `period_s` is the update period of the nodes, real seconds."""

    mission: MissionFigures
    nodes: NodeNumbers
    station: Station
    gnss: ReceiverFigures
    eps: EpsFigures
    a53: A53Figures
    radio: RadioFigures
    link: LinkFigures
    period_s: float = 1.0
    camera: Mapping[str, object] = field(default_factory=dict)
    demo: Mapping[str, object] = field(default_factory=dict)

    def orbit(self) -> Orbit:
        """Return the propagator of the mission's orbit. Raises ContentError."""
        return Orbit(self.mission.elements)

    def clock(self, start_monotonic: float) -> MissionClock:
        """Return the clock of a mission that starts at a monotonic instant."""
        return MissionClock(
            epoch_unix=self.mission.epoch_unix,
            rate=self.mission.rate,
            start_monotonic=start_monotonic,
        )

    def with_mission(
        self, *, rate: float | None = None, epoch_unix: float | None = None
    ) -> PayloadConfig:
        """Return the same configuration with another mission rate or start."""
        old = self.mission
        mission = replace(
            old,
            rate=old.rate if rate is None else rate,
            epoch_unix=old.epoch_unix if epoch_unix is None else epoch_unix,
        )
        return replace(self, mission=mission)

    def with_windows(self, windows: str) -> PayloadConfig:
        """Return the same configuration with contact `always` or by `passes`."""
        return replace(self, link=replace(self.link, windows=windows))
