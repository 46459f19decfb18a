"""The configuration: the shipped file, and the exact complaint about every kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from sim import config
from sim.errors import ConfigError, ContentError
from sim.power import panel_watts

_TLE = (Path(__file__).parents[2] / "configs" / "orbits.tle").read_text("ascii")


def _parse(text: str) -> config.PayloadConfig:
    return config.parse(text, lambda name: _TLE)


def test_shipped_file_loads_and_says_what_the_listing_says() -> None:
    shipped = config.load()
    nodes = shipped.nodes
    assert (nodes.dish, nodes.a53, nodes.dipp, nodes.camera) == (4, 161, 162, 163)
    assert shipped.mission.elements.name == "DISCO-2-LIKE"
    assert shipped.link.uplink.rate_bps == 9600
    assert shipped.link.downlink.rate_bps == 1_000_000


def test_shipped_scalars_are_the_defaults() -> None:
    shipped, empty = config.load(), _parse("")
    for name in ("mission", "nodes", "station", "gnss", "a53", "radio", "link", "period_s"):
        assert getattr(shipped, name) == getattr(empty, name), name
    assert shipped.eps.battery == empty.eps.battery
    assert shipped.eps.initial_charge == empty.eps.initial_charge


def test_shipped_power_system_lives_through_an_orbit_with_the_a53_awake() -> None:
    shipped = config.load()
    orbit = shipped.orbit()
    start = shipped.mission.epoch_unix
    states = [orbit.state(start + orbit.period_s * i / 200) for i in range(200)]
    average = sum(panel_watts(shipped.eps.panels, s) for s in states) / len(states)
    load = sum(channel.watts[channel.state] for channel in shipped.eps.channels)
    assert load < average < 3 * load


def test_a_file_and_the_elements_beside_it(tmp_path: Path) -> None:
    (tmp_path / "own.tle").write_text(_TLE.replace("ISS-LIKE", "MINE"))
    file = tmp_path / "mission.yaml"
    file.write_text("mission: {orbit_file: own.tle, satellite: MINE, rate: 60}\n")
    assert config.load(file).mission.elements.name == "MINE"
    file.write_text("mission: {satellite: ISS-LIKE}\n")
    assert config.load(file).mission.elements.name == "ISS-LIKE"
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(tmp_path / "absent.yaml")


_MISTAKES = [
    ("a: [", "payload.yaml is not YAML"),
    ("- 1", "payload.yaml must be a section"),
    ("misson: {}", "payload.yaml: misson is not a setting; known here: a53, camera"),
    ("mission: 5", "payload.yaml: mission must be a section"),
    ("mission: {rat: 2}", "payload.yaml: mission.rat is not a setting; known here: epoch_unix"),
    ("mission: {rate: 0}", "payload.yaml: mission.rate must be 0.001 to 100000, not 0"),
    ("mission: {rate: fast}", "payload.yaml: mission.rate must be a number, not 'fast'"),
    ("mission: {rate: true}", "payload.yaml: mission.rate must be a number, not True"),
    ("mission: {rate: .nan}", "payload.yaml: mission.rate must be"),
    ("nodes: {dipp: 4}", "payload.yaml: nodes.dipp: dish has the number 4 too"),
    ("nodes: {dipp: 4.5}", "payload.yaml: nodes.dipp must be a whole number, not 4.5"),
    ("nodes: {dipp: 99999}", "payload.yaml: nodes.dipp must be 1 to 16382, not 99999"),
    ("a53: {starts_running: 1}", "payload.yaml: a53.starts_running must be true or false, not 1"),
    ("link: {windows: never}", "payload.yaml: link.windows must be one of always, passes, not"),
    ("link: {uplink: {rate_bps: -1}}", "payload.yaml: link.uplink.rate_bps must be 1 or more"),
    ("link: {ground_addresses: [5]}", "payload.yaml: link.ground_addresses must be a list of tex"),
    ("link: {ground_addresses: ['9..5']}", "payload.yaml: link.ground_addresses: '9..5' is not L"),
    ("ground_station: {name: 7}", "payload.yaml: ground_station.name must be text, not 7"),
    ("eps: {battery: {capacity_wh: 0}}", "battery: capacity must be above 0"),
    ("eps: {battery: {volts: 7}}", "payload.yaml: eps.battery.volts must be a list of numbers"),
    ("eps: {panels: 1}", "payload.yaml: eps.panels must be a list, not 1"),
    ("eps: {panels: [{watts: 1}]}", r"payload.yaml: eps.panels\[0\].normal is missing"),
    (
        "eps: {panels: [{name: x, watts: 1, normal: [0, 0, 0]}]}",
        r"payload.yaml: eps.panels\[0\].normal must be three numbers, not all zero",
    ),
    (
        "eps: {channels: [{name: x, watts: {'on': 1}, count_source: camera}]}",
        r"payload.yaml: eps.channels\[0\].count_source must be NODE.PARAMETER",
    ),
    (
        "eps: {channels: [{name: x, watts: {'on': 1}, count_source: moon.rocks}]}",
        "no node is called 'moon'; there are: dish, eps",
    ),
    ("eps: {channels: [{name: x, watts: {on: 1}}]}", r"eps.channels\[0\].watts must be a section"),
    ("eps: {channels: [{name: 'a b', watts: {}}]}", r"eps.channels\[0\].name must be 1 to 20"),
    ("eps: {channels: [{name: x, watts: {}}]}", r"eps.channels\[0\].state is missing"),
    (
        "eps: {channels: [{name: x, watts: {a: 1}}, {name: x, watts: {a: 1}}]}",
        "eps.channels: at most 16, each with its own name",
    ),
]


@pytest.mark.parametrize(("text", "complaint"), _MISTAKES)
def test_every_mistake_is_named_with_its_place(text: str, complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        _parse(text)


def test_a_broken_element_file_is_named() -> None:
    with pytest.raises(ContentError, match=r"orbits.tle: no element set"):
        config.parse("", lambda name: "")
    with pytest.raises(ContentError, match=r"orbits.tle: no satellite named 'X'"):
        _parse("mission: {satellite: X}")
    with pytest.raises(ConfigError, match=r"no file 'absent.tle'"):
        config.parse("mission: {orbit_file: absent.tle}", config._shipped)


def test_rate_and_epoch_can_be_overridden() -> None:
    changed = _parse("").with_mission(rate=60.0, epoch_unix=5.0)
    assert changed.clock(10.0).unix(11.0) == 65.0
    assert _parse("").with_mission().mission == _parse("").mission


def test_ground_addresses() -> None:
    link = _parse("").link
    assert [a for a in range(70) if link.is_ground(a)] == [*range(20, 32), *range(40, 64)]


def test_an_authenticated_link_is_off_unless_there_is_a_key() -> None:
    assert config.load().link.authentication.key_file is None
    wanted = _parse(
        "link: {authentication: {key_file: /etc/csp.key, replay_window: false, by: programs}}"
    ).link.authentication
    assert (wanted.key_file, wanted.replay_window, wanted.by) == (
        Path("/etc/csp.key"), False, "programs",
    )  # fmt: skip


def test_nobody_else_can_sign() -> None:
    with pytest.raises(ConfigError, match=r"authentication\.by"):
        _parse("link: {authentication: {by: everybody}}")
