"""The EPS node: battery, panels and switched channels, fed by the orbit and by the other nodes.

It learns what the others do by pulling a parameter of each once per period (`Probe`), with a
timeout and a back-off, one task each: a sleeping A53 box costs nothing but a counter. Until a state
is known, and while its node is silent, the last known one counts.
"""

from __future__ import annotations

from collections.abc import Callable

from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType
from csp.sched import Scheduler
from sim.clock import MissionClock
from sim.config import MAX_CHANNELS
from sim.figures import PayloadConfig
from sim.power import Battery, Channel, Source, panel_watts
from sim.probe import CountSteps, Probe
from sim.simnode import SimNode, scheduler_of

_R, _C = Mask.READONLY, Mask.CONF
_U8, _U32, _FLOAT = ParamType.U8, ParamType.U32, ParamType.FLOAT
_SPECS = (
    ParamSpec(id=1, name="battery_voltage", type=_FLOAT, mask=_R, unit="V", help="At its clamps"),
    ParamSpec(id=2, name="battery_wh", type=_FLOAT, mask=_R, unit="Wh", help="Energy stored"),
    ParamSpec(id=3, name="battery_percent", type=_FLOAT, mask=_R, unit="%", help="State of charge"),
    ParamSpec(
        id=4, name="battery_w", type=_FLOAT, mask=_R, unit="W",
        help="Power into the battery; negative while it discharges",
    ),
    ParamSpec(id=5, name="solar_w", type=_FLOAT, mask=_R, unit="W", help="Power of the panels"),
    ParamSpec(id=6, name="load_w", type=_FLOAT, mask=_R, unit="W", help="Power of all channels"),
    ParamSpec(id=7, name="bus_current", type=_FLOAT, mask=_R, unit="A", help="Of all channels"),
    ParamSpec(
        id=8, name="sunlight", type=_FLOAT, mask=_R,
        help="Visible part of the Sun's disk: 0 in the Earth's shadow, 1 in full light",
    ),
    ParamSpec(id=9, name="shunted_w", type=_FLOAT, mask=_R, unit="W", help="Battery full: unused"),
    ParamSpec(
        id=10, name="unserved_w", type=_FLOAT, mask=_R, unit="W",
        help="Battery empty: power that the loads did not get",
    ),
    ParamSpec(id=11, name="low_battery", type=_U8, mask=_R, help="1 = below the warning level"),
    ParamSpec(id=12, name="solar_wh", type=_FLOAT, mask=_R, unit="Wh", help="Since start"),
    ParamSpec(id=13, name="used_wh", type=_FLOAT, mask=_R, unit="Wh", help="By the loads"),
    ParamSpec(id=14, name="lost_wh", type=_FLOAT, mask=_R, unit="Wh", help="In the battery"),
    ParamSpec(
        id=15, name="probe_faults", type=_U32, mask=_R,
        help="Failed attempts to learn the state of another node",
    ),
    ParamSpec(
        id=16, name="mission_unix", type=_U32, mask=_R, unit="s",
        help="Mission time these values are for",
    ),
)  # fmt: skip
_FIRST_LOAD_ID, _FIRST_SWITCH_ID = 32, 32 + MAX_CHANNELS
# The Sun sets within 8 s of mission time in low orbit: longer steps would smear its edge.
_STEP_S = 10.0
# Bounds the work after the process was stopped for long: the steps then get longer.
_MAX_STEPS = 2000
_PROBE_TIMEOUT_S = 0.5


def channel_specs(channels: tuple[Channel, ...]) -> tuple[ParamSpec, ...]:
    """Return `load_NAME` of every channel and `switch_NAME` of those that can be switched."""
    specs = []
    for number, channel in enumerate(channels):
        states = ", ".join(f"{state} {watts:g}" for state, watts in channel.watts.items())
        specs.append(
            ParamSpec(
                id=_FIRST_LOAD_ID + number,
                name=f"load_{channel.name}",
                type=_FLOAT,
                mask=_R,
                unit="W",
                help=f"Power of this channel. Model: {states}"[:149],
            )
        )
    for number, channel in enumerate(channels):
        if channel.switchable:
            specs.append(
                ParamSpec(
                    id=_FIRST_SWITCH_ID + number,
                    name=f"switch_{channel.name}",
                    type=_U8,
                    mask=_C,
                    default=1,
                    help="1 = on, 0 = off. Switches the modelled load, not the process",
                )
            )
    return tuple(specs)


class Eps:
    """The power system behind its parameter table."""

    def __init__(self, config: PayloadConfig, clock: MissionClock, now: float) -> None:
        figures = config.eps
        self._figures = figures
        self._clock = clock
        self._orbit = config.orbit()
        self._unix = clock.unix(now)
        self._states = {channel.name: channel.state for channel in figures.channels}
        self._extra_j = {channel.name: 0.0 for channel in figures.channels}
        self.battery = Battery(
            figures.battery, figures.battery.capacity_wh * figures.initial_charge
        )
        self.table = ParamTable((*_SPECS, *channel_specs(figures.channels)))

    def set_state(self, channel: str, state: str) -> None:
        """Say in which state a channel's load is from now on."""
        self._states[channel] = state

    def add_energy(self, channel: str, joules: float) -> None:
        """Let a channel take this much energy in the next step, besides its state's power."""
        self._extra_j[channel] += joules

    def is_on(self, channel: Channel) -> bool:
        """Tell whether a channel is switched on."""
        return not channel.switchable or bool(self.table[f"switch_{channel.name}"].get())

    def update(self, now: float) -> None:
        """Integrate up to now and publish. Raises ContentError if the orbit is out of range."""
        stop = self._clock.unix(now)
        duration = stop - self._unix
        if duration <= 0:
            self._publish(self._orbit.state(stop).sunlight)
            return
        loads = self._loads(duration)
        load_w = sum(loads.values())
        steps = min(_MAX_STEPS, int(duration / _STEP_S) + 1)
        step_s = duration / steps
        sunlight = 0.0
        for number in range(steps):
            middle = self._orbit.state(self._unix + (number + 0.5) * step_s)
            sunlight = middle.sunlight
            self.battery.step(step_s, panel_watts(self._figures.panels, middle), load_w)
        self._unix = stop
        for name, watts in loads.items():
            self.table[f"load_{name}"].set(watts)
        self._publish(sunlight)

    def _loads(self, duration_s: float) -> dict[str, float]:
        """Return the average power of each channel over a step; its extra energy is used up."""
        loads = {}
        for channel in self._figures.channels:
            watts = 0.0
            if self.is_on(channel):
                watts = channel.watts[self._states[channel.name]]
                watts += self._extra_j[channel.name] / duration_s
            self._extra_j[channel.name] = 0.0
            loads[channel.name] = watts
        return loads

    def _publish(self, sunlight: float) -> None:
        battery, flow, tally = self.battery, self.battery.flow, self.battery.tally
        values = {
            "battery_voltage": battery.volts,
            "battery_wh": battery.stored_wh,
            "battery_percent": 100 * battery.charge,
            "battery_w": flow.battery_w,
            "solar_w": flow.solar_w,
            "load_w": flow.load_w,
            "bus_current": battery.bus_amps,
            "sunlight": sunlight,
            "shunted_w": flow.shunted_w,
            "unserved_w": flow.unserved_w,
            "low_battery": int(battery.charge < self._figures.low_charge),
            "solar_wh": tally.solar_wh,
            "used_wh": tally.served_wh,
            "lost_wh": tally.lost_wh,
            "mission_unix": int(self._unix),
        }
        for name, value in values.items():
            self.table[name].set(value)


class EpsNode(SimNode):
    """The EPS as a node of the network, with one probe per source."""

    def __init__(
        self,
        loop: Loop | Scheduler,
        config: PayloadConfig,
        clock: MissionClock,
        *,
        seed: int | None = None,
        version: int = 2,
    ) -> None:
        self._config = config
        self.model = Eps(config, clock, scheduler_of(loop).now)
        super().__init__(
            loop,
            clock,
            name="EPS",
            address=config.nodes.eps,
            table=self.model.table,
            period_s=config.period_s,
            update=self._update,
            seed=seed,
            version=version,
        )
        self._remote = RemoteTable(
            ParamClient(self.node.stack, timeout_s=_PROBE_TIMEOUT_S, pull_attempts=1)
        )
        self._probes = [probe for one in config.eps.channels for probe in self._probes_of(one)]

    def close(self) -> None:
        """Stop probing and updating, leave the network. Harmless if done twice."""
        for probe in self._probes:
            probe.stop()
        super().close()

    def _update(self, now: float) -> None:
        self.table["probe_faults"].set(sum(probe.faults for probe in self._probes))
        self.model.update(now)

    def _probes_of(self, channel: Channel) -> list[Probe]:
        probes = []
        if channel.state_source is not None:
            probes.append(
                self._probe(
                    channel.state_source,
                    lambda value: self.model.set_state(
                        channel.name, channel.state_name(int(value))
                    ),
                )
            )
        if channel.count_source is not None:
            steps = CountSteps(
                lambda step: self.model.add_energy(channel.name, step * channel.joules_per_count)
            )
            probes.append(self._probe(channel.count_source, steps.reading))
        return probes

    def _probe(self, source: Source, on_value: Callable[[float], None]) -> Probe:
        return Probe(
            self.scheduler,
            self._remote,
            self._config.nodes.number(source.node),
            source.parameter,
            self._config.period_s,
            on_value,
        )
