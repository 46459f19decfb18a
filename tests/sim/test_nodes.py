"""The nodes as real processes on two hubs with the radio link between: ground to A53 and back."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from csp.errors import CspError
from csp.hub import Hub
from csp.links.zmq import ZmqLink
from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.stack import Stack
from sim import nodes

T = TypeVar("T")
_ROOT = Path(__file__).parents[2]


def _hub_text(hub: Hub) -> str:
    return f"127.0.0.1:{hub.sub_port}:{hub.pub_port}"


class _Mission:
    """Processes of nodes on a space hub, and a ground stack on a hub of its own."""

    def __init__(self, stack: contextlib.ExitStack, directory: Path) -> None:
        self.space, self.ground_hub = stack.enter_context(Hub()), stack.enter_context(Hub())
        self._stack, self._directory = stack, directory
        self.start = time.monotonic()
        self.loop = Loop()
        stack.callback(self.loop.close)
        self.ground = Stack(self.loop.scheduler)
        link = ZmqLink(
            address=20, sub_port=self.ground_hub.sub_port, pub_port=self.ground_hub.pub_port
        )
        interface = self.ground.add_interface("ZMQ", 20, link.send)
        link.open(self.loop, lambda frame: self.ground.receive(interface, frame))
        stack.callback(link.close)
        self.params = RemoteTable(ParamClient(self.ground, timeout_s=1.0))

    def run_node(self, name: str, *extra: str) -> subprocess.Popen[bytes]:
        log = self._stack.enter_context((self._directory / f"{name}.log").open("wb"))
        process = subprocess.Popen(
            [
                sys.executable, "-m", "sim.nodes", name, "--hub", _hub_text(self.space),
                "--start-monotonic", str(self.start), *extra,
            ],
            cwd=_ROOT, stdout=log, stderr=log,
        )  # fmt: skip
        self._stack.callback(process.wait)
        self._stack.callback(process.kill)
        return process

    def until(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until(self.loop.scheduler.spawn(work, "test"), 30.0)

    async def eventually(self, node: int, name: str, wanted: object) -> None:
        """Wait until a parameter has a value; the node may still be starting."""
        while True:
            with contextlib.suppress(CspError):
                if await self.params.get(node, name) == wanted:
                    return
            await self.loop.scheduler.sleep(0.05)


@pytest.fixture
def mission(tmp_path: Path) -> Iterator[_Mission]:
    with contextlib.ExitStack() as stack:
        yield _Mission(stack, tmp_path)


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def test_ground_suspends_and_wakes_the_box_over_the_radio(
    mission: _Mission, tmp_path: Path
) -> None:
    sleeper = subprocess.Popen(["sleep", "60"])
    mission._stack.callback(sleeper.wait)
    mission._stack.callback(sleeper.kill)
    pids, stats = tmp_path / "box.json", tmp_path / "link.json"
    pids.write_text(json.dumps({"dipp": sleeper.pid}))
    a53 = mission.run_node("a53", "--box-pids", str(pids))
    link = mission.run_node(
        "link", "--ground-hub", _hub_text(mission.ground_hub), "--stats", str(stats)
    )
    mission.until(mission.eventually(161, "a53_status", 1))
    mission.until(mission.params.set(161, "suspend_a53", 1))
    mission.until(mission.eventually(161, "box_frozen", 1))
    assert _state(sleeper.pid) == "T"
    mission.until(mission.params.set(161, "wake_a53", 1))
    mission.until(mission.eventually(161, "a53_status", 1))
    assert _state(sleeper.pid) == "S"
    mission.until(mission.params.set(161, "suspend_a53", 1))
    mission.until(mission.eventually(161, "box_frozen", 1))
    for process in (a53, link):
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    assert _state(sleeper.pid) == "S", "a node that ends leaves nobody stopped"
    numbers = json.loads(stats.read_text())
    assert numbers["up_frames"] > 0
    assert numbers["down_bytes"] > numbers["up_bytes"] > 0


def test_two_processes_agree_on_mission_time(mission: _Mission) -> None:
    mission.run_node("gnss", "--rate", "60", "--epoch", "1744407700")
    mission.run_node("eps", "--rate", "60", "--epoch", "1744407700")
    mission.run_node("link", "--ground-hub", _hub_text(mission.ground_hub))
    mission.until(mission.eventually(9, "gnss_fix", 1))
    mission.until(mission.eventually(8, "low_battery", 0))

    async def both() -> tuple[object, object]:
        gnss = await mission.params.get(9, "gnss_unix")
        return gnss, await mission.params.get(8, "mission_unix")

    gnss, eps = mission.until(both())
    assert isinstance(gnss, int)
    assert isinstance(eps, int)
    # Both update once per second, which is a minute of mission time.
    assert abs(gnss - eps) <= 70
    expected = 1744407700 + 60 * (time.monotonic() - mission.start)
    assert abs(gnss - expected) <= 130


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["eps", "--config", "/nonexistent.yaml"], "eps: cannot read /nonexistent.yaml"),
        (["gnss", "--address", "77"], "gnss: --address 77, but the configuration has gnss at 9"),
        (["gnss", "--hub", "nonsense:1"], "gnss: cannot understand the link"),
        (["link", "--ground-hub", "x:y:z"], "link: 'x:y:z': ports are numbers"),
        (["gnss", "--rate", "0"], "gnss: mission clock: rate must be above 0"),
        (["a53", "--epoch", "nan"], "a53: mission clock: epoch, rate and start must be finite"),
    ],
)
def test_mistakes_end_with_a_reason(
    argv: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = os.listdir("/proc/self/fd")
    assert nodes.main(argv) == 1
    assert capsys.readouterr().err.startswith(complaint)
    assert len(os.listdir("/proc/self/fd")) == len(before)


@pytest.mark.parametrize("argv", [[], ["moon"], ["link"], ["gnss", "--rate", "fast"]])
def test_wrong_use_is_status_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        nodes.main(argv)
    assert stop.value.code == 2
    assert "usage:" in capsys.readouterr().err
