"""The A53 node in virtual time, with and without a box."""

from __future__ import annotations

from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.testing import Network
from sim import config
from sim.a53 import A53Node
from sim.clock import MissionClock
from sim.sleep import A53State

_CONFIG = config.load()
_A53 = _CONFIG.nodes.a53
_CLOCK = MissionClock(epoch_unix=_CONFIG.mission.epoch_unix)


class _FakeBox:
    """Counts what is asked of it."""

    def __init__(self) -> None:
        self.frozen = 0
        self.faults = 0
        self.calls: list[str] = []

    def freeze(self) -> None:
        self.frozen = 3
        self.calls.append("freeze")

    def thaw(self) -> None:
        self.frozen = 0
        self.calls.append("thaw")


def _rig() -> tuple[Network, RemoteTable, A53Node, _FakeBox]:
    network, box = Network(), _FakeBox()
    node = A53Node(network.scheduler, _CONFIG, _CLOCK, box=box, seed=1)
    node.attach(network.link(_A53))
    return network, RemoteTable(ParamClient(network.add(4))), node, box


def test_plan_of_the_paper_suspends_and_wakes_over_the_bus() -> None:
    network, plan, node, box = _rig()
    assert network.run(plan.get(_A53, "a53_status")) == 1
    network.run(plan.set(_A53, "suspend_a53", 1))
    assert network.run(plan.get(_A53, "a53_state")) == A53State.SUSPENDING
    assert box.calls == []
    network.wait(0.5)
    assert network.run(plan.get(_A53, "a53_state")) == A53State.SUSPENDED
    assert network.run(plan.get(_A53, "suspend_a53")) == 0
    assert network.run(plan.get(_A53, "box_frozen")) == 3
    network.run(plan.set(_A53, "wake_a53", 1))
    assert network.run(plan.get(_A53, "a53_status")) == 0
    assert box.frozen == 3
    network.wait(0.9)
    assert network.run(plan.get(_A53, "a53_status")) == 1
    assert box.frozen == 0
    counts = [node.table[n].get() for n in ("boot_count", "wake_count", "suspend_count")]
    assert counts == [1, 1, 1]


def test_any_write_to_wake_wakes_but_only_a_non_zero_one_suspends() -> None:
    network, plan, node, _ = _rig()
    network.run(plan.set(_A53, "suspend_a53", 0))
    assert node.model.machine.state is A53State.RUNNING
    network.run(plan.set(_A53, "suspend_a53", 1))
    network.wait(1.0)
    network.run(plan.set(_A53, "wake_a53", 0))
    network.wait(1.0)
    assert node.model.machine.state is A53State.RUNNING


def test_box_is_frozen_again_on_every_beat_while_asleep() -> None:
    network, plan, _, box = _rig()
    network.run(plan.set(_A53, "suspend_a53", 1))
    network.wait(5.0)
    assert box.calls.count("freeze") >= 4
    assert "thaw" not in box.calls


def test_closing_a_sleeping_node_continues_the_box() -> None:
    network, plan, node, box = _rig()
    network.run(plan.set(_A53, "suspend_a53", 1))
    network.wait(1.0)
    assert box.frozen
    node.close()
    assert not box.frozen
    assert network.scheduler.next_deadline() is None or box.calls[-1] == "thaw"
    network.wait(3.0)
    assert box.calls[-1] == "thaw"


def test_temperature_and_time_in_state_are_published() -> None:
    network, _, node, _ = _rig()
    network.wait(90.5)
    assert 30 < node.table["a53_temp"].get() < 40
    assert node.table["a53_since"].get() == 90
