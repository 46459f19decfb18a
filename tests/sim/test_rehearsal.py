"""All simulated nodes in one process and in virtual time: an hour of mission in seconds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from csp.errors import NoResponse
from csp.links.memory import MemoryBus
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.sched import Scheduler
from csp.stack import Stack
from sim import config
from sim.a53 import A53Node
from sim.eps import EpsNode
from sim.gnss import GnssNode
from sim.link import LinkNode
from sim.radio import RadioNode
from sim.simnode import SimNode

_LISTING_1_UNIX = config.load().mission.epoch_unix + 64
_GNSS, _A53, _EPS, _LINK = 9, 161, 8, 11


class _Spacecraft:
    def __init__(self, directory: Path) -> None:
        shipped = config.load()
        small = dataclasses.replace(shipped.radio, capacity_bytes=1_000_000)
        slower = dataclasses.replace(shipped, radio=small, period_s=2.0)
        self.config = slower.with_windows("passes")
        self.scheduler = Scheduler()
        self.space, self.earth = MemoryBus(self.scheduler), MemoryBus(self.scheduler)
        clock = self.config.clock(0.0)
        cfg, sch = self.config, self.scheduler
        self.nodes: list[SimNode] = [
            GnssNode(sch, cfg, clock, seed=1),
            EpsNode(sch, cfg, clock, seed=2),
            A53Node(sch, cfg, clock, seed=3),
            RadioNode(sch, cfg, clock, directory=directory, seed=4, durable=False),
            LinkNode(
                sch, cfg, clock,
                ground=self.earth.link("GND"), space=self.space.link("SPC"), seed=5,
            ),
        ]  # fmt: skip
        for node in self.nodes:
            node.attach(self.space.link(node.name))
        self.plan = RemoteTable(ParamClient(self._stack(self.space, 4)))
        self.ground = RemoteTable(ParamClient(self._stack(self.earth, 20), timeout_s=3.0))

    def _stack(self, bus: MemoryBus, address: int) -> Stack:
        stack, link = Stack(self.scheduler), bus.link(f"N{address}")
        interface = stack.add_interface(link.name, address, link.send)
        link.open(self.scheduler, lambda frame: stack.receive(interface, frame))
        return stack

    def close(self) -> None:
        for node in self.nodes:
            node.close()


async def _fly(craft: _Spacecraft) -> dict[str, object]:
    """Sleep until the time of Listing 1, wake, sleep again; the ground looks in the next pass."""
    plan, nap, seen = craft.plan, craft.scheduler.sleep, {}
    await plan.set(_A53, "suspend_a53", 1)
    await nap(3.0)
    seen["asleep_w"] = await plan.get(_EPS, "load_a53")
    while int(await plan.get(_GNSS, "gnss_unix")) < _LISTING_1_UNIX:  # type: ignore[arg-type]
        await nap(1.0)
    seen["woken_at"] = craft.scheduler.now
    await plan.set(_A53, "wake_a53", 1)
    while await plan.get(_A53, "a53_status") != 1:
        await nap(0.1)
    await nap(60.0)
    seen["awake_w"] = await plan.get(_EPS, "load_a53")
    await plan.set(_A53, "suspend_a53", 1)
    try:
        await craft.ground.get(_GNSS, "gnss_lat")
    except NoResponse:
        seen["before_pass"] = "silence"
    rise = int(await plan.get(_LINK, "pass_rise"))  # type: ignore[arg-type]
    await nap(rise - craft.config.mission.epoch_unix - craft.scheduler.now + 5.0)
    seen["rise_lat"] = await craft.ground.get(_GNSS, "gnss_lat")
    await nap(3000.0)
    seen["percent"] = await plan.get(_EPS, "battery_percent")
    return seen


def test_an_hour_of_mission_in_seconds(tmp_path: Path) -> None:
    craft = _Spacecraft(tmp_path)
    task = craft.scheduler.spawn(_fly(craft), "plan")
    seen = craft.scheduler.run_virtual(task, limit_s=30_000.0)
    assert seen["asleep_w"] == pytest.approx(0.12)
    assert seen["awake_w"] == pytest.approx(3.2)
    assert seen["woken_at"] == pytest.approx(65.0, abs=3.0)
    assert seen["before_pass"] == "silence"
    assert 70.0 < float(str(seen["rise_lat"])) < 73.0
    # With the A53 asleep the battery gains, half an orbit of shadow included.
    assert float(str(seen["percent"])) > 80.0
    assert craft.scheduler.orphan_error_count == 0
    assert all(node.ticker.error_count == 0 for node in craft.nodes)
    craft.close()
    assert craft.scheduler.now > 3600.0
