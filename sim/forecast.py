"""The emulated spacecraft as a power model for the DISH node: orbit, panels, battery, loads.

A plug-in of `dish serve`: `--power sim.forecast:model`, with the options `config` (a payload
configuration; the shipped one without) and `rate` (mission seconds per second). It predicts with
the same orbit and figures as the EPS node computes with. Source: dish.power.figures.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from dish.errors import MisuseError
from dish.power.figures import (
    Action,
    BatteryModel,
    Load,
    Place,
    PowerFigures,
    Rule,
    Sky,
)
from sim import config
from sim.errors import SimError
from sim.figures import NodeNumbers, PayloadConfig
from sim.power import Channel, panel_watts

# Assumptions for what depends on the scene: how long a pipeline works on a batch (real seconds),
# and what a finished picture brings to the downlink.
_PIPELINE_S = 3.0
_PICTURE_BYTES = 400_000
# Three days in steps of 10 s and more: a thousand per forecast, kept for the next ones.
_SKIES = 8192


class OrbitPower:
    """A `PowerModel` on the mission's orbit."""

    def __init__(self, settings: PayloadConfig) -> None:
        self._panels = settings.eps.panels
        self._orbit = settings.orbit()
        self._figures = figures_of(settings)
        self._cached = lru_cache(_SKIES)(self._compute)

    @property
    def figures(self) -> PowerFigures:
        """Battery, loads and rules."""
        return self._figures

    def sky(self, unix: float) -> Sky:
        """Return generation and place. Raises MisuseError if the orbit is out of range."""
        return self._cached(unix)

    def _compute(self, unix: float) -> Sky:
        try:
            state = self._orbit.state(unix)
        except SimError as error:
            raise MisuseError(str(error)) from None
        place = state.place
        solar_w = panel_watts(self._panels, state)
        return Sky(solar_w, place.lat_deg, place.lon_deg, 1000 * place.alt_km)


def model(options: Mapping[str, str]) -> OrbitPower:
    """Make the model that `dish serve --power` asks for. Raises MisuseError for wrong options."""
    unknown = options.keys() - {"config", "rate"}
    if unknown:
        raise MisuseError(f"power options are config and rate, not {', '.join(sorted(unknown))}")
    try:
        settings = config.load(Path(options["config"]) if "config" in options else None)
        rate = float(options.get("rate", settings.mission.rate))
        if not (math.isfinite(rate) and rate > 0):
            raise MisuseError(f"rate must be above 0, not {options['rate']}")
        return OrbitPower(settings.with_mission(rate=rate))
    except (SimError, ValueError) as error:
        raise MisuseError(f"power model: {error}") from None


def figures_of(settings: PayloadConfig) -> PowerFigures:
    """Return what a payload configuration says about power."""
    nodes, battery = settings.nodes, settings.eps.battery
    receivers = (nodes.dish, nodes.gnss)
    position = {"gnss_lat": "lat_deg", "gnss_lon": "lon_deg", "gnss_alt": "alt_m"}
    loads = tuple(_load(channel, settings) for channel in settings.eps.channels)
    rules = [rule for channel in settings.eps.channels for rule in _rules(channel, settings)]
    merged: dict[Place, Rule] = {}
    for rule in rules:
        # The first channel that names a parameter has it; a pipeline run has only one cost.
        merged.setdefault(rule.place, rule)
    return PowerFigures(
        own=nodes.dish,
        battery=BatteryModel(
            capacity_wh=battery.capacity_wh,
            charge_efficiency=battery.charge_efficiency,
            discharge_efficiency=battery.discharge_efficiency,
        ),
        loads=loads,
        rules=tuple(merged.values()),
        clock=frozenset(
            {*(Place(node, "gnss_unix") for node in receivers), Place(nodes.eps, "mission_unix")}
        ),
        position={
            Place(node, name): attribute
            for node in receivers
            for name, attribute in position.items()
        },
        rate=settings.mission.rate,
    )


def _is_a53(channel: Channel) -> bool:
    return channel.state_source is not None and channel.state_source.node == "a53"


def _load(channel: Channel, settings: PayloadConfig) -> Load:
    if not _is_a53(channel):
        return Load(name=channel.name, on_w=channel.watts[channel.state])
    nodes, watts = settings.nodes, channel.watts
    return Load(
        name=channel.name,
        on_w=watts.get("running", channel.watts[channel.state]),
        off_w=watts.get("suspended", 0.0),
        is_on=settings.a53.starts_running,
        delay_s=settings.a53.wake_s * settings.mission.rate,
        status=(Place(nodes.dish, "a53_status"), Place(nodes.a53, "a53_status")),
    )


def _rules(channel: Channel, settings: PayloadConfig) -> list[Rule]:
    nodes, name = settings.nodes, channel.name
    if _is_a53(channel):
        return [
            Rule(place=Place(nodes.dish, "wake_a53"), action=Action.ON, load=name),
            Rule(place=Place(nodes.a53, "wake_a53"), action=Action.ON, load=name),
            Rule(place=Place(nodes.a53, "suspend_a53"), action=Action.OFF, load=name),
        ]
    rules = []
    if channel.switchable:
        place = Place(nodes.eps, f"switch_{name}")
        rules.append(Rule(place=place, action=Action.SWITCH, load=name))
    source = channel.count_source.node if channel.count_source is not None else ""
    if source == "camera":
        rules += _captures(nodes, channel.joules_per_count)
    if source == "link":
        airtime_s = 8 * _PICTURE_BYTES / settings.link.downlink.rate_bps
        rules.append(
            Rule(
                place=Place(nodes.dipp, "pipeline_run"),
                action=Action.PULSE,
                joules=airtime_s * channel.joules_per_count,
                busy_s=_PIPELINE_S * settings.mission.rate,
            )
        )
    return rules


def _captures(nodes: NodeNumbers, joules: float) -> list[Rule]:
    return [
        Rule(
            place=Place(nodes.camera, "capture_image"), action=Action.PULSE, joules=joules,
            count_of=Place(nodes.camera, "num_images"),
        ),
        Rule(
            place=Place(nodes.camera, "capture_param"), action=Action.PULSE, joules=joules,
            count_key="NUM_IMAGES",
        ),
    ]  # fmt: skip
