"""The GNSS node: the receiver on the bus, as parameters and as NMEA sentences.

Names, ids, units and the marks for "invalid" are those of the flown scheduler's table, so DISH can
copy them one to one. Source: dish.md 12.
"""

from __future__ import annotations

from csp.loop import Loop
from csp.param.spec import ParamSpec
from csp.param.table import Parameter, ParamTable
from csp.param.types import Mask, ParamType
from csp.sched import Scheduler
from sim import nmea
from sim.clock import MissionClock
from sim.figures import PayloadConfig
from sim.orbit import OrbitState
from sim.receiver import Receiver
from sim.simnode import SimNode, scheduler_of

INVALID_ANGLE = 1000.0
INVALID_SPEED = -1.0
INVALID_HEIGHT = 1_000_000.0
INVALID_AGE = 0xFFFFFFFF
_MAX_AGE_MS = INVALID_AGE - 1

_R, _C = Mask.READONLY, Mask.CONF
_U8, _U32, _FLOAT, _STRING = ParamType.U8, ParamType.U32, ParamType.FLOAT, ParamType.STRING

# Ids 24 to 31 as in the M7 table, which leaves 32 to 40 free.
SPECS = (
    ParamSpec(
        id=24, name="gnss_lat", type=_FLOAT, mask=_R, unit="deg", default=INVALID_ANGLE,
        help="Latitude, north positive. 1000 = invalid",
    ),
    ParamSpec(
        id=25, name="gnss_lon", type=_FLOAT, mask=_R, unit="deg", default=INVALID_ANGLE,
        help="Longitude, east positive. 1000 = invalid",
    ),
    ParamSpec(
        id=26, name="gnss_age", type=_U32, mask=_R, unit="ms", default=INVALID_AGE,
        help="Mission time since the last fix. 0xFFFFFFFF = no fix yet",
    ),
    ParamSpec(
        id=27, name="gnss_date", type=_U32, mask=_R, unit="DDMMYY",
        help="Date as a decimal number. 0 = not known",
    ),
    ParamSpec(
        id=28, name="gnss_time", type=_U32, mask=_R, unit="HHMMSScc",
        help="Time of day as a decimal number. Not Unix time: see gnss_unix",
    ),
    ParamSpec(
        id=29, name="gnss_speed", type=_FLOAT, mask=_R, unit="km/h", default=INVALID_SPEED,
        help="Horizontal speed over the turning Earth. -1 = invalid",
    ),
    ParamSpec(
        id=30, name="gnss_alt", type=_FLOAT, mask=_R, unit="m", default=INVALID_HEIGHT,
        help="Height over the WGS84 ellipsoid. 1000000 = invalid",
    ),
    ParamSpec(id=31, name="gnss_course", type=_FLOAT, mask=_R, unit="deg", help="Course, north 0"),
    ParamSpec(
        id=32, name="gnss_unix", type=_U32, mask=_R, unit="s",
        help="Mission time as Unix time. 0 = not known",
    ),
    ParamSpec(id=33, name="gnss_fix", type=_U8, mask=_R, help="1 = the receiver has a fix now"),
    ParamSpec(id=34, name="gnss_sats", type=_U8, mask=_R, help="Satellites in the fix"),
    ParamSpec(
        id=35, name="gnss_rmc", type=_STRING, array_size=nmea.MAX_LENGTH + 1, mask=_R,
        help="Last GPRMC sentence, without CR LF",
    ),
    ParamSpec(
        id=36, name="gnss_gga", type=_STRING, array_size=nmea.MAX_LENGTH + 1, mask=_R,
        help="Last GPGGA sentence, without CR LF",
    ),
    ParamSpec(
        id=37, name="gnss_reset", type=_U8, mask=_C,
        help="Write 1: forget everything and start cold. Reads 0 afterwards",
    ),
    ParamSpec(
        id=38, name="gnss_blocked", type=_U8, mask=_C,
        help="1 = no signal reaches the antenna (fault injection)",
    ),
)  # fmt: skip


class Gnss:
    """The receiver behind its parameter table. `update` is called at the node's period."""

    def __init__(self, config: PayloadConfig, clock: MissionClock, now: float) -> None:
        self._clock = clock
        self._orbit = config.orbit()
        self._now = now
        self.receiver = Receiver(config.gnss, clock.unix(now))
        self.table = ParamTable(SPECS)
        self.sentences: tuple[str, str] = ("", "")
        self.table.on_write("gnss_reset", self._reset)
        self.table.on_write("gnss_blocked", self._block)

    def update(self, now: float) -> None:
        """Measure and publish. Raises ContentError if the orbit model is out of its range."""
        self._now = now
        unix = self._clock.unix(now)
        fix = self.receiver.update(self._orbit.state(unix))
        table = self.table
        table["gnss_fix"].set(int(self.receiver.has_fix))
        table["gnss_sats"].set(fix.satellites)
        if self.receiver.last is not None:
            self._publish_place(self.receiver.last)
        age_s = self.receiver.age_s(unix)
        if age_s is not None:
            table["gnss_age"].set(min(int(age_s * 1000), _MAX_AGE_MS))
        known = self.receiver.knows_time
        table["gnss_unix"].set(int(unix) if known else 0)
        table["gnss_date"].set(nmea.date_number(unix) if known else 0)
        table["gnss_time"].set(nmea.time_number(unix) if known else 0)
        self.sentences = (nmea.encode_rmc(fix), nmea.encode_gga(fix)) if known else ("", "")
        table["gnss_rmc"].set(self.sentences[0].rstrip())
        table["gnss_gga"].set(self.sentences[1].rstrip())

    def _publish_place(self, state: OrbitState) -> None:
        table = self.table
        table["gnss_lat"].set(state.place.lat_deg)
        table["gnss_lon"].set(state.place.lon_deg)
        table["gnss_alt"].set(state.place.alt_km * 1000)
        table["gnss_speed"].set(state.speed_m_s * 3.6)
        table["gnss_course"].set(state.course_deg)

    def _reset(self, parameter: Parameter, _: int) -> None:
        if parameter.get():
            self.receiver.reset(self._clock.unix(self._now))
            for spec in SPECS:
                if spec.mask & _R:
                    empty: int | float | str = "" if spec.type is _STRING else 0
                    self.table[spec.name].set(empty if spec.default is None else spec.default)
        parameter.set(0)

    def _block(self, parameter: Parameter, _: int) -> None:
        self.receiver.block(bool(parameter.get()), self._clock.unix(self._now))


class GnssNode(SimNode):
    """The GNSS receiver as a node of the network."""

    def __init__(
        self,
        loop: Loop | Scheduler,
        config: PayloadConfig,
        clock: MissionClock,
        *,
        seed: int | None = None,
        version: int = 2,
    ) -> None:
        self.model = Gnss(config, clock, scheduler_of(loop).now)
        super().__init__(
            loop,
            clock,
            name="GNSS",
            address=config.nodes.gnss,
            table=self.model.table,
            period_s=config.period_s,
            update=self.model.update,
            seed=seed,
            version=version,
        )
