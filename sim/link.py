"""The link node: the radio channel as a process, with contact times, counters and fault knobs.

It sits on the spacecraft's network with an address of its own, so the ground can read its counters
through the very link, and EPS the transmitter's airtime. With `windows: passes` there is contact
only while the ground station sees the satellite on the mission's orbit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from csp.errors import MisuseError
from csp.guard import Guard
from csp.links.base import Link
from csp.loop import Loop
from csp.param.spec import ParamSpec
from csp.param.table import Parameter, ParamTable
from csp.param.types import Mask, ParamType
from csp.sched import Scheduler
from csp.shaper import Window
from sim.bridge import Bridge, Direction
from sim.clock import MissionClock
from sim.figures import PayloadConfig
from sim.passes import Pass, find_passes
from sim.simnode import SimNode, scheduler_of

_R, _C = Mask.READONLY, Mask.CONF
_U8, _U32, _U64 = ParamType.U8, ParamType.U32, ParamType.U64
_FLOAT, _DOUBLE = ParamType.FLOAT, ParamType.DOUBLE
# A day has all passes of a low orbit; looked for again before the last quarter of it is used up.
_SEARCH_S = 86400.0
_RENEW_S = 64800.0
_FIRST_UP_ID, _FIRST_DOWN_ID = 20, 40

_COMMON = (
    ParamSpec(id=1, name="link_open", type=_U8, mask=_R, help="1 = there is contact now"),
    ParamSpec(
        id=2, name="link_enabled", type=_U8, mask=_C, default=1,
        help="0 = the radio is silent both ways (fault injection)",
    ),
    ParamSpec(
        id=3, name="elevation", type=_FLOAT, mask=_R, unit="deg",
        help="Of the satellite over the horizon of the ground station",
    ),
    ParamSpec(id=4, name="azimuth", type=_FLOAT, mask=_R, unit="deg", help="From north over east"),
    ParamSpec(id=5, name="range", type=_FLOAT, mask=_R, unit="km", help="Station to satellite"),
    ParamSpec(
        id=6, name="pass_rise", type=_U32, mask=_R, unit="s",
        help="Mission time at which the current or next pass begins. 0 = none within a day",
    ),
    ParamSpec(id=7, name="pass_set", type=_U32, mask=_R, unit="s", help="And at which it ends"),
    ParamSpec(
        id=8, name="pass_top", type=_FLOAT, mask=_R, unit="deg", help="And its highest elevation",
    ),
    ParamSpec(
        id=9, name="authentication", type=_U8, mask=_R,
        help="0 = none, as flown. 1 = HMAC. 2 = HMAC and replay window",
    ),
)  # fmt: skip


def _direction_specs(prefix: str, first: int, way: str) -> tuple[ParamSpec, ...]:
    def spec(
        offset: int, name: str, kind: ParamType, help_: str, unit: str = "", mask: Mask = _R
    ) -> ParamSpec:
        return ParamSpec(
            id=first + offset, name=f"{prefix}_{name}", type=kind, mask=mask, unit=unit, help=help_
        )

    return (
        spec(0, "bytes", _U64, f"Bytes of CSP frames that arrived {way}"),
        spec(1, "frames", _U32, f"Frames that arrived {way}"),
        spec(2, "dropped", _U32, "Frames without contact, or with the queue full"),
        spec(3, "lost", _U32, "Frames lost on the air"),
        spec(4, "corrupted", _U32, "Frames that arrived with a wrong byte"),
        spec(5, "airtime_s", _DOUBLE, "Seconds of transmission", "s"),
        spec(6, "backlog", _FLOAT, "Seconds of transmission waiting in the queue", "s"),
        spec(7, "rate", _DOUBLE, "Bits per second", "bit/s", _C),
        spec(8, "loss", _FLOAT, "Probability that a frame is lost, 0..1", "", _C),
        spec(9, "corruption", _FLOAT, "Probability that a byte is changed, 0..1", "", _C),
        spec(10, "unsigned", _U32, "Frames refused: without authentication"),
        spec(11, "forged", _U32, "Frames refused: wrong key, changed, or of the other form"),
        spec(12, "replayed", _U32, "Frames refused: authentic, but received before"),
        spec(13, "damaged", _U32, "Frames refused: checksum. Counted with authentication only"),
    )


SPECS = (
    *_COMMON,
    *_direction_specs("up", _FIRST_UP_ID, "in space"),
    *_direction_specs("down", _FIRST_DOWN_ID, "on the ground"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkGuards:
    """The guards of the two ends; None does not sign and takes everything."""

    space: Guard | None = None
    station: Guard | None = None

    def close(self) -> None:
        """Release what keeps their stamps. Harmless if done twice."""
        for guard in (self.space, self.station):
            if guard is not None:
                guard.close()


class RadioLink:
    """The bridge and its contact times behind a parameter table."""

    def __init__(
        self,
        config: PayloadConfig,
        clock: MissionClock,
        scheduler: Scheduler,
        *,
        ground: Link,
        space: Link,
        version: int = 2,
        guards: LinkGuards | None = None,
    ) -> None:
        guards = guards or LinkGuards()
        self._config = config
        self._clock = clock
        self._scheduler = scheduler
        self._orbit = config.orbit()
        self._passes: tuple[Pass, ...] = ()
        self._searched_unix: float | None = None
        self._by_passes = config.link.windows == "passes"
        self.bridge = Bridge(
            scheduler,
            config.link,
            to_ground=ground.send,
            to_space=space.send,
            windows=() if self._by_passes else None,
            version=version,
            space_guard=guards.space,
            station_guard=guards.station,
        )
        self._ways = (("up", self.bridge.up), ("down", self.bridge.down))
        # Who refuses what comes up, and what comes down.
        self._refusers = {"up": guards.space, "down": guards.station}
        self.table = ParamTable(SPECS)
        self.table["authentication"].set(0 if guards.space is None else guards.space.level)
        self.table.on_write("link_enabled", self._enable)
        for prefix, direction in self._ways:
            shaper = direction.shaper
            self.table[f"{prefix}_rate"].set(shaper.rate_bps or 0.0)
            self.table[f"{prefix}_loss"].set(shaper.loss)
            self.table[f"{prefix}_corruption"].set(shaper.corruption)
            for knob in ("rate", "loss", "corruption"):
                self.table.on_write(f"{prefix}_{knob}", self._turn(direction, knob))

    def update(self, now: float) -> None:
        """Look for passes if due, and publish. Raises ContentError if the orbit is out of range."""
        unix = self._clock.unix(now)
        self._publish_counters(now)
        if self._searched_unix is None or unix - self._searched_unix > _RENEW_S:
            self._search(unix)
        look = self._orbit.look(self._config.station.place, unix)
        values: dict[str, float] = {
            "elevation": look.elevation_deg,
            "azimuth": look.azimuth_deg,
            "range": look.range_km,
        }
        coming = next((one for one in self._passes if one.set_unix > unix), None)
        values["pass_rise"] = int(coming.rise_unix) if coming else 0
        values["pass_set"] = int(coming.set_unix) if coming else 0
        values["pass_top"] = coming.top_elevation_deg if coming else 0.0
        for name, value in values.items():
            self.table[name].set(value)

    def stats(self) -> dict[str, float]:
        """Return all counters by parameter name, for a file or a report."""
        self._publish_counters(self._scheduler.now)
        numbers = {}
        for parameter in self.table:
            value = parameter.get()
            if isinstance(value, (int, float)):
                numbers[parameter.name] = value
        return numbers

    def _search(self, unix: float) -> None:
        passes = find_passes(self._orbit, self._config.station, unix, unix + _SEARCH_S)
        self._passes, self._searched_unix = passes, unix
        if self._by_passes:
            self.bridge.set_windows(
                [
                    Window(
                        start_s=self._clock.monotonic(one.rise_unix),
                        end_s=self._clock.monotonic(one.set_unix),
                    )
                    for one in passes
                ]
            )

    def _publish_counters(self, now: float) -> None:
        table = self.table
        is_open = self.bridge.up.shaper.is_open(now) and self.bridge.up.enabled
        table["link_open"].set(int(is_open))
        for prefix, direction in self._ways:
            counters, shaped = direction.counters, direction.shaper.counters
            table[f"{prefix}_bytes"].set(counters.bytes)
            table[f"{prefix}_frames"].set(counters.frames)
            table[f"{prefix}_dropped"].set(direction.dropped)
            table[f"{prefix}_lost"].set(shaped.lost)
            table[f"{prefix}_corrupted"].set(shaped.corrupted)
            table[f"{prefix}_airtime_s"].set(counters.airtime_s)
            table[f"{prefix}_backlog"].set(direction.shaper.backlog_s(now))
            table[f"{prefix}_damaged"].set(counters.damaged)
            guard = self._refusers[prefix]
            if guard is not None:
                for reason in ("unsigned", "forged", "replayed"):
                    table[f"{prefix}_{reason}"].set(getattr(guard.counters, reason))

    def _enable(self, parameter: Parameter, _: int) -> None:
        for _name, direction in self._ways:
            direction.enabled = bool(parameter.get())
        self._publish_counters(self._scheduler.now)

    @staticmethod
    def _turn(direction: Direction, knob: str) -> Callable[[Parameter, int], None]:
        """Return what a write to a knob does; a value outside its range is put back."""

        def turned(parameter: Parameter, _: int) -> None:
            value = parameter.get()
            shaper = direction.shaper
            if knob == "rate":
                if isinstance(value, float) and 1.0 <= value <= 1e12:
                    shaper.rate_bps = value
                else:
                    parameter.set(shaper.rate_bps or 0.0)
            elif isinstance(value, float) and 0.0 <= value <= 1.0:
                setattr(shaper, knob, value)
            else:
                parameter.set(getattr(shaper, knob))

        return turned


class LinkNode(SimNode):
    """The radio link as a node of the spacecraft's network.

    `ground` and `space` are promiscuous links for the bridge; `attach` then connects the node
    itself. `guards` authenticate what crosses. Raises MisuseError if a link cannot be opened.
    """

    def __init__(
        self,
        loop: Loop | Scheduler,
        config: PayloadConfig,
        clock: MissionClock,
        *,
        ground: Link,
        space: Link,
        seed: int | None = None,
        version: int = 2,
        guards: LinkGuards | None = None,
    ) -> None:
        self._guards = guards or LinkGuards()
        self.model = RadioLink(
            config, clock, scheduler_of(loop),
            ground=ground, space=space, version=version, guards=self._guards,
        )  # fmt: skip
        super().__init__(
            loop,
            clock,
            name="LINK",
            address=config.nodes.link,
            table=self.model.table,
            period_s=config.period_s,
            update=self.model.update,
            seed=seed,
            version=version,
        )
        if config.link.is_ground(config.nodes.link):
            raise MisuseError(f"the link's own address {config.nodes.link} is a ground address")
        self._bridged = (ground, space)
        ground.open(loop, self.model.bridge.from_ground)
        space.open(loop, self.model.bridge.from_space)

    def close(self) -> None:
        """Take down the link and leave the network. Harmless if done twice."""
        for link in self._bridged:
            link.close()
        self._guards.close()
        super().close()
