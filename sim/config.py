"""Read `configs/payload.yaml`, the one place for node numbers and the figures of all models.

`load` checks the whole file before any node starts. A setting that is not there has the default
given here, which is also what the shipped file says (only panels and channels have none). Sections
`camera` and `demo` are handed on unread to their own readers. Raises ConfigError with the full name
of the setting that is wrong, ContentError for a broken element file.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from pathlib import Path

import yaml

from dipp.ringindex import FLOWN_ENTRIES
from sim import tle
from sim.errors import ConfigError, ContentError
from sim.figures import (
    DirectionFigures,
    EpsFigures,
    LinkAuthentication,
    LinkFigures,
    MissionFigures,
    NodeNumbers,
    PayloadConfig,
    RadioFigures,
)
from sim.frames import Geodetic, Vector
from sim.passes import Station
from sim.power import BatteryFigures, Channel, Panel, Source
from sim.receiver import ReceiverFigures
from sim.section import Section
from sim.sleep import A53Figures

DEFAULT_NAME = "payload.yaml"
WINDOWS = ("always", "passes")
SIGNERS = ("station", "programs")
# Ids are reserved for this many channels in the EPS table; the EPS of a CubeSat has 6 to 16.
MAX_CHANNELS = 16
# EPS parameter names are built from channel names; a parameter name holds 35 characters.
_MAX_CHANNEL_NAME = 20
_MAX_ADDRESS = 16382
_MEGABYTE = 1024 * 1024

ReadFile = Callable[[str], str]


def load(path: Path | None = None) -> PayloadConfig:
    """Read a configuration file; the shipped one if there is no path.

    An element file it names is looked for beside it, then among the shipped ones.
    """
    if path is None:
        return parse(_shipped(DEFAULT_NAME), _shipped)
    beside = path.parent

    def read(name: str) -> str:
        return _read(beside / name) if (beside / name).is_file() else _shipped(name)

    return parse(_read(path), read, name=path.name)


def parse(text: str, read_file: ReadFile, name: str = DEFAULT_NAME) -> PayloadConfig:
    """Return the configuration in a text. `read_file` gives the text of a file it names."""
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigError(f"{name} is not YAML: {error}") from error
    with Section(document, name) as top:
        nodes = _nodes(top.section("nodes"))
        return PayloadConfig(
            mission=_mission(top.section("mission"), read_file),
            nodes=nodes,
            station=_station(top.section("ground_station")),
            gnss=_gnss(top.section("gnss")),
            eps=_eps(top.section("eps"), nodes),
            a53=_a53(top.section("a53")),
            radio=_radio(top.section("radio")),
            link=_link(top.section("link")),
            period_s=top.number("update_period_s", 1.0, low=0.01, high=3600.0),
            camera=top.raw("camera"),
            demo=top.raw("demo"),
        )


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read {path}: {error}") from error


def _shipped(name: str) -> str:
    file = resources.files("configs").joinpath(name)
    if not file.is_file():
        raise ConfigError(f"no file {name!r} beside the configuration or among the shipped ones")
    return file.read_text("utf-8")


def _mission(section: Section, read_file: ReadFile) -> MissionFigures:
    with section:
        file_name = section.text("orbit_file", "orbits.tle")
        satellite = section.text("satellite", "DISCO-2-LIKE")
        try:
            elements = tle.select(tle.parse(read_file(file_name)), satellite)
        except ContentError as error:
            raise ContentError(f"{file_name}: {error}") from error
        return MissionFigures(
            epoch_unix=section.number("epoch_unix", 1_744_407_700, low=0, high=2**32 - 1),
            rate=section.number("rate", 1.0, low=0.001, high=100_000),
            elements=elements,
        )


def _nodes(section: Section) -> NodeNumbers:
    with section:
        numbers = {
            name: section.integer(name, default, low=1, high=_MAX_ADDRESS)
            for name, default in NodeNumbers().names().items()
        }
    owners: dict[int, str] = {}
    for name, number in numbers.items():
        if number in owners:
            raise ConfigError(
                f"{section.where(name)}: {owners[number]} has the number {number} too"
            )
        owners[number] = name
    return NodeNumbers(**numbers)


def _station(section: Section) -> Station:
    with section:
        return Station(
            name=section.text("name", "Aarhus"),
            place=Geodetic(
                lat_deg=section.number("lat_deg", 56.17, low=-90, high=90),
                lon_deg=section.number("lon_deg", 10.19, low=-180, high=180),
                alt_km=section.number("alt_m", 50.0, low=-500, high=9000) / 1000,
            ),
            mask_deg=section.number("mask_deg", 5.0, low=-5, high=89),
        )


def _gnss(section: Section) -> ReceiverFigures:
    with section:
        return ReceiverFigures(
            cold_start_s=section.number("cold_start_s", 5.0, low=0),
            reacquire_s=section.number("reacquire_s", 2.0, low=0),
            satellites=section.integer("satellites", 9, low=4, high=99),
        )


def _a53(section: Section) -> A53Figures:
    with section:
        return A53Figures(
            wake_s=section.number("wake_s", 0.8, low=0, high=600),
            suspend_s=section.number("suspend_s", 0.4, low=0, high=600),
            starts_running=section.boolean("starts_running", True),
            cold_c=section.number("cold_c", 12.0, low=-100, high=100),
            hot_c=section.number("hot_c", 46.0, low=-100, high=150),
            warm_up_s=section.number("warm_up_s", 90.0, low=0.1, high=86400),
        )


def _eps(section: Section, nodes: NodeNumbers) -> EpsFigures:
    with section:
        channels = tuple(_channel(one, nodes) for one in section.sections("channels"))
        names = [channel.name for channel in channels]
        if len(set(names)) < len(names) or len(names) > MAX_CHANNELS:
            raise ConfigError(
                f"{section.where('channels')}: at most {MAX_CHANNELS}, each with its own name"
            )
        return EpsFigures(
            battery=_battery(section.section("battery")),
            panels=tuple(_panel(one) for one in section.sections("panels")),
            channels=channels,
            initial_charge=section.number("initial_charge", 0.8, low=0, high=1),
            low_charge=section.number("low_charge", 0.25, low=0, high=1),
        )


def _battery(section: Section) -> BatteryFigures:
    with section:
        return BatteryFigures(
            capacity_wh=section.number("capacity_wh", 42.0),
            charge_efficiency=section.number("charge_efficiency", 0.95),
            discharge_efficiency=section.number("discharge_efficiency", 0.97),
            resistance_ohm=section.number("resistance_ohm", 0.05),
            volts=section.numbers("volts", (6.0, 7.0, 7.3, 7.5, 7.8, 8.4)),
        )


def _panel(section: Section) -> Panel:
    with section:
        normal = section.numbers("normal")
        if len(normal) != 3 or not any(normal):
            raise ConfigError(f"{section.where('normal')} must be three numbers, not all zero")
        return Panel(
            name=section.text("name"),
            watts=section.number("watts", low=0),
            normal=Vector(*normal),
        )


def _channel(section: Section, nodes: NodeNumbers) -> Channel:
    with section:
        name = section.text("name")
        if not (name.isascii() and name.isidentifier()) or len(name) > _MAX_CHANNEL_NAME:
            raise ConfigError(
                f"{section.where('name')} must be 1 to {_MAX_CHANNEL_NAME} letters, digits or _,"
                f" not {name!r}"
            )
        powers = section.section("watts")
        watts = {state: powers.number(state, low=0) for state in powers.names()}
        return Channel(
            name=name,
            watts=watts,
            state=section.text("state", next(iter(watts), None)),
            states=section.texts("states", ()),
            state_source=_source(section, "state_source", nodes),
            count_source=_source(section, "count_source", nodes),
            joules_per_count=section.number("joules_per_count", 0.0, low=0),
            switchable=section.boolean("switchable", True),
        )


def _source(section: Section, name: str, nodes: NodeNumbers) -> Source | None:
    """Read `NODE.PARAMETER`."""
    if not section.has(name):
        return None
    node, dot, parameter = section.text(name).partition(".")
    if not dot or not parameter:
        raise ConfigError(f"{section.where(name)} must be NODE.PARAMETER, such as a53.a53_state")
    nodes.number(node)
    return Source(node=node, parameter=parameter)


def _radio(section: Section) -> RadioFigures:
    with section:
        return RadioFigures(
            capacity_bytes=_MEGABYTE * section.integer("capacity_mb", 256, low=1, high=950),
            poll_s=section.number("poll_s", 1.0, low=0.05, high=3600),
            timeout_s=section.number("timeout_s", 2.0, low=0.1, high=600),
            dipp_ring_entries=section.integer("dipp_ring_entries", FLOWN_ENTRIES, low=2),
        )


def _link(section: Section) -> LinkFigures:
    with section:
        return LinkFigures(
            uplink=_direction(section.section("uplink"), 9600.0, 16),
            downlink=_direction(section.section("downlink"), 1e6, 256),
            ground_addresses=_ranges(section, "ground_addresses", ("20..31", "40..63")),
            windows=section.text("windows", "always", of=WINDOWS),
            seed=section.integer("seed", 1, low=0),
            authentication=_authentication(section.section("authentication")),
        )


def _authentication(section: Section) -> LinkAuthentication:
    with section:
        key_file = section.text("key_file", "")
        return LinkAuthentication(
            key_file=Path(key_file).expanduser() if key_file else None,
            replay_window=section.boolean("replay_window", True),
            by=section.text("by", "station", of=SIGNERS),
        )


def _direction(section: Section, rate_bps: float, queue_kb: int) -> DirectionFigures:
    with section:
        return DirectionFigures(
            rate_bps=section.number("rate_bps", rate_bps, low=1),
            delay_s=section.number("delay_s", 0.005, low=0, high=60),
            loss=section.number("loss", 0.0, low=0, high=1),
            corruption=section.number("corruption", 0.0, low=0, high=1),
            queue_bytes=section.integer("queue_kb", queue_kb, low=3, high=1_000_000) * 1024,
        )


def _ranges(section: Section, name: str, default: tuple[str, ...]) -> tuple[tuple[int, int], ...]:
    """Read a list of `LOW..HIGH`."""
    ranges = []
    for text in section.texts(name, default):
        low, dots, high = text.partition("..")
        if not (dots and low.isdecimal() and high.isdecimal() and int(low) <= int(high)):
            raise ConfigError(f"{section.where(name)}: {text!r} is not LOW..HIGH, such as 20..31")
        ranges.append((int(low), int(high)))
    return tuple(ranges)
