"""The EPS node in virtual time: what it publishes, and how it learns what the others do."""

from __future__ import annotations

import pytest

from csp.node import CspNode
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from csp.services import Identity
from csp.testing import Network
from sim import config
from sim.a53 import A53Node
from sim.clock import MissionClock
from sim.eps import Eps, EpsNode
from sim.figures import PayloadConfig
from sim.probe import CountSteps, Probe

_CONFIG = config.load()
_EPOCH = _CONFIG.mission.epoch_unix
_EPS = _CONFIG.nodes.eps


def _eps(rate: float = 1.0, cfg: PayloadConfig = _CONFIG) -> Eps:
    return Eps(cfg, MissionClock(epoch_unix=_EPOCH, rate=rate), 0.0)


def test_first_values_are_those_of_the_start() -> None:
    eps = _eps()
    eps.update(0.0)
    table = eps.table
    assert table["battery_percent"].get() == pytest.approx(80.0)
    assert table["battery_wh"].get() == pytest.approx(33.6)
    assert 7.7 < table["battery_voltage"].get() < 7.9
    assert table["sunlight"].get() == 1.0
    assert table["mission_unix"].get() == int(_EPOCH)


def test_loads_add_up_and_the_balance_is_published() -> None:
    eps = _eps()
    eps.update(10.0)
    table = eps.table
    loads = [table[f"load_{channel.name}"].get() for channel in _CONFIG.eps.channels]
    assert table["load_w"].get() == pytest.approx(sum(loads), rel=1e-6)
    assert table["load_w"].get() == pytest.approx(1.1 + 0.25 + 0.9 + 3.2 + 0.35, rel=1e-6)
    surplus = table["solar_w"].get() - table["load_w"].get()
    assert table["battery_w"].get() == pytest.approx(surplus * 0.95, rel=1e-5)
    assert table["bus_current"].get() == pytest.approx(
        5.8 / table["battery_voltage"].get(), rel=1e-5
    )


def test_states_switches_and_single_energies_change_the_load() -> None:
    eps = _eps()
    eps.set_state("a53", "suspended")
    eps.table["switch_gnss"].write(0)
    eps.add_energy("camera", 22.0)
    eps.update(10.0)
    assert eps.table["load_a53"].get() == pytest.approx(0.12)
    assert eps.table["load_gnss"].get() == 0.0
    assert eps.table["load_camera"].get() == pytest.approx(0.35 + 2.2)
    eps.update(20.0)
    assert eps.table["load_camera"].get() == pytest.approx(0.35)


def test_a_switched_off_channel_wastes_what_it_would_have_used() -> None:
    eps = _eps()
    eps.table["switch_camera"].write(0)
    eps.add_energy("camera", 22.0)
    eps.update(10.0)
    eps.table["switch_camera"].write(1)
    eps.update(20.0)
    assert eps.table["load_camera"].get() == pytest.approx(0.35)


def test_the_bus_cannot_be_switched_off() -> None:
    assert "switch_bus" not in _eps().table


def test_three_orbits_conserve_energy_and_see_the_shadow() -> None:
    eps = _eps(rate=60.0)
    light = []
    for second in range(285):
        eps.update(float(second))
        light.append(eps.table["sunlight"].get())
    tally = eps.battery.tally
    assert tally.imbalance_wh == pytest.approx(0.0, abs=1e-9)
    assert eps.battery.stored_wh - 33.6 == pytest.approx(tally.stored_gain_wh)
    assert light.count(0.0) / len(light) == pytest.approx(0.36, abs=0.03)
    assert eps.table["solar_wh"].get() == pytest.approx(tally.solar_wh, rel=1e-6)


def test_one_big_step_is_as_good_as_many_small_ones() -> None:
    big, small = _eps(), _eps()
    big.update(3000.0)
    for second in range(0, 3001, 5):
        small.update(float(second))
    assert big.battery.stored_wh == pytest.approx(small.battery.stored_wh, abs=0.01)


def test_a_low_battery_is_announced() -> None:
    text = "eps: {initial_charge: 0.2, channels: [{name: bus, watts: {'on': 1}}]}"
    low = config.parse(text, config._shipped)
    eps = _eps(cfg=low)
    eps.update(1.0)
    assert eps.table["low_battery"].get() == 1


def _rig() -> tuple[Network, EpsNode, RemoteTable]:
    network = Network()
    node = EpsNode(network.scheduler, _CONFIG, MissionClock(epoch_unix=_EPOCH), seed=1)
    node.attach(network.link(_EPS))
    return network, node, RemoteTable(ParamClient(network.add(20)))


def test_the_sleep_of_the_a53_is_seen_in_its_load() -> None:
    network, node, ground = _rig()
    a53 = A53Node(network.scheduler, _CONFIG, node.clock, seed=2)
    a53.attach(network.link(_CONFIG.nodes.a53))
    network.wait(3.0)
    network.run(ground.set(_CONFIG.nodes.a53, "suspend_a53", 1))
    network.wait(5.0)
    assert network.run(ground.get(_EPS, "load_a53")) == pytest.approx(0.12)
    network.run(ground.set(_CONFIG.nodes.a53, "wake_a53", 1))
    network.wait(5.0)
    assert network.run(ground.get(_EPS, "load_a53")) == pytest.approx(3.2)
    # The node disappears: its last state counts.
    network.remove(_CONFIG.nodes.a53)
    network.wait(20.0)
    assert network.run(ground.get(_EPS, "load_a53")) == pytest.approx(3.2)
    node.close()


def test_pictures_cost_energy_and_silent_nodes_only_a_counter() -> None:
    network, node, ground = _rig()
    table = ParamTable([ParamSpec(id=1, name="images_total", type=ParamType.U32)])
    identity = Identity(hostname="CAM", model="", revision="", date="", time="")
    camera = CspNode(
        network.scheduler, address=_CONFIG.nodes.camera, identity=identity, table=table, seed=3
    )
    camera.attach(network.link(_CONFIG.nodes.camera))
    table["images_total"].set(7)
    network.wait(10.0)
    used = node.model.battery.tally.served_wh
    start = node.model._unix
    table["images_total"].set(1007)
    network.wait(10.0)
    watts = sum(channel.watts[channel.state] for channel in _CONFIG.eps.channels)
    expected_wh = watts * (node.model._unix - start) / 3600 + 1000 * 2.2 / 3600
    assert node.model.battery.tally.served_wh - used == pytest.approx(expected_wh, rel=1e-6)
    assert network.run(ground.get(_EPS, "probe_faults")) > 0


@pytest.mark.parametrize(
    ("readings", "steps"),
    [
        ([5], []),
        ([5, 5], []),
        ([5, 7, 7, 8], [2, 1]),
        ([5, 2], [2]),
        ([0, 1e9], []),
        ([5, 0, 1], [1]),
    ],
)
def test_steps_of_a_counter(readings: list[float], steps: list[float]) -> None:
    seen: list[float] = []
    counter = CountSteps(seen.append)
    for value in readings:
        counter.reading(value)
    assert seen == steps


def test_a_probe_of_a_parameter_that_is_not_a_number_asks_seldom() -> None:
    network = Network()
    table = ParamTable([ParamSpec(id=1, name="text", type=ParamType.STRING, array_size=8)])
    identity = Identity(hostname="X", model="", revision="", date="", time="")
    node = CspNode(network.scheduler, address=9, identity=identity, table=table, seed=3)
    node.attach(network.link(9))
    remote = RemoteTable(ParamClient(network.add(8)))
    seen: list[float] = []
    text = Probe(network.scheduler, remote, 9, "text", 1.0, seen.append)
    absent = Probe(network.scheduler, remote, 9, "absent", 1.0, seen.append)
    network.wait(100.0)
    assert seen == []
    assert text.faults == 4
    assert absent.faults == 4
    text.stop()
    absent.stop()
