"""`dipp serve` as a process: kills, drains, refusals. Real forks, real signals, a real hub."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csp.errors import PeerError
from csp.hub import Hub
from csp.links.zmq import ZmqLink
from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.stack import Stack
from dipp.cli import main
from dipp.config.codec import encode_pipeline
from dipp.config.definition import ModuleStep, PipelineDefinition
from dipp.journal import Journal
from dipp.records import Totals
from dipp.rig import GEOMETRY, Camera, unique
from dipp.ring import open_ring

NODE, GROUND = 162, 20
SLOW = "import time\ndef run(batch, params):\n    time.sleep(0.5)\n"
DEADLINE_S = 20.0


def descendants(pid: int) -> set[int]:
    """Return all processes below one."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        parent = waiting.pop()
        try:
            children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
        except OSError:
            continue
        found.update(map(int, children))
        waiting += map(int, children)
    return found


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


class Daemon:
    """A `dipp serve` process and a ground station that talks to it over a hub."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "state"
        self.modules = root / "modules"
        self.modules.mkdir()
        (self.modules / "slow.py").write_text(SLOW)
        self.camera = Camera(unique())
        self.hub = Hub()
        self.loop = Loop()
        self.ground = Stack(self.loop.scheduler)
        self.link = ZmqLink(address=GROUND, sub_port=self.hub.sub_port, pub_port=self.hub.pub_port)
        interface = self.ground.add_interface("ZMQ", GROUND, self.link.send)
        self.link.open(self.loop, lambda frame: self.ground.receive(interface, frame))
        self.remote = RemoteTable(ParamClient(self.ground))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        self.process = subprocess.Popen(
            [
                sys.executable, "-m", "dipp", "serve",
                "--hub", f"127.0.0.1:{self.hub.sub_port}:{self.hub.pub_port}",
                "--state", str(self.state), "--queue", self.camera.queue,
                "--modules", str(self.modules), "--no-sync",
                "--ring-size", str(GEOMETRY.data_bytes), "--ring-entries", str(GEOMETRY.entries),
            ],
            cwd=Path(__file__).parents[2],
        )  # fmt: skip
        self.until(lambda: self.ping())

    def until(self, condition: Callable[[], Any]) -> None:
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "it did not happen"
            self.loop.tick(0.01)

    def ping(self) -> bool:
        request = self.ground.request(NODE, 1, b"x", timeout_s=0.2)
        try:
            return self.loop.run_until(self.loop.scheduler.spawn(request)) == b"x"
        except PeerError:
            return False

    def get(self, name: str) -> Any:
        return self.loop.run_until(self.loop.scheduler.spawn(self.remote.get(NODE, name)), 10)

    def set(self, name: str, value: Any) -> None:
        self.loop.run_until(self.loop.scheduler.spawn(self.remote.set(NODE, name, value)), 10)

    def configure(self, *names: str) -> None:
        steps = tuple(ModuleStep(name=name, order=i) for i, name in enumerate(names, 1))
        self.set("pipeline_config_1", encode_pipeline(PipelineDefinition(modules=steps)))

    def until_module_runs(self) -> None:
        """Wait until a module child exists: node, forge, host, child."""
        assert self.process is not None
        self.until(lambda: self.get("batch_running") == 1)
        self.until(lambda: len(descendants(self.process.pid)) >= 3)

    def kill(self) -> None:
        """SIGKILL the node and see that everything below it ends as well."""
        assert self.process is not None
        below = descendants(self.process.pid)
        self.process.kill()
        self.process.wait()
        self.until(lambda: not any(map(alive, below)))

    def terminate(self) -> int:
        assert self.process is not None
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    def totals(self) -> Totals:
        journal = Journal(self.state / "journal")
        journal.close()
        return journal.state.totals

    def stored(self) -> int:
        ring, _ = open_ring(self.state / "images.vmem", GEOMETRY)
        count = ring.count
        ring.close()
        return count

    def close(self) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.link.close()
        self.hub.close()
        self.camera.clean()
        self.loop.close()


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Daemon]:
    daemon = Daemon(tmp_path)
    yield daemon
    daemon.close()


def test_a_kill_in_the_middle_of_a_module_is_replayed_once_and_then_quarantined(
    daemon: Daemon,
) -> None:
    daemon.start()
    daemon.configure("slow")
    first = daemon.camera.shoot(b"first")
    daemon.set("pipeline_run", 1)
    daemon.until_module_runs()
    daemon.kill()
    assert daemon.camera.exists(first)
    daemon.start()
    daemon.until(lambda: daemon.get("pipeline_run") == 0)
    assert daemon.get("batches_delivered") == 1
    assert daemon.get("batch_replays") == 1
    assert not daemon.camera.exists(first)

    second = daemon.camera.shoot(b"second")
    daemon.set("pipeline_run", 1)
    for _ in range(2):
        daemon.until_module_runs()
        daemon.kill()
        daemon.start()
    daemon.until(lambda: daemon.get("pipeline_run") == 0)
    assert daemon.get("log_status") == 607100
    assert not daemon.camera.exists(second)
    assert daemon.terminate() == 0
    assert daemon.totals() == Totals(taken=2, delivered=1, quarantined=1, images=1)
    assert daemon.stored() == 2, "the first image, and the thumbnail of the second"
    assert len(list((daemon.state / "quarantine").iterdir())) == 1


def test_sigterm_lets_the_current_batch_end_and_leaves_the_rest_queued(daemon: Daemon) -> None:
    daemon.start()
    daemon.configure("slow")
    daemon.camera.shoot(b"first")
    daemon.camera.shoot(b"second")
    daemon.set("pipeline_run", 4)
    daemon.until_module_runs()
    below = descendants(daemon.process.pid) if daemon.process else set()
    assert daemon.terminate() == 0
    assert not any(map(alive, below))
    assert daemon.totals() == Totals(taken=1, delivered=1, images=1)
    daemon.start()
    daemon.set("pipeline_run", 2)
    daemon.until(lambda: daemon.get("pipeline_run") == 0)
    assert daemon.get("batches_delivered") == 2


def test_two_daemons_on_one_state_the_second_refuses(
    daemon: Daemon, capsys: pytest.CaptureFixture[str]
) -> None:
    daemon.start()
    second = subprocess.run(
        [sys.executable, "-m", "dipp", "serve", "--state", str(daemon.state)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert second.returncode == 1
    assert "in use by another node" in second.stderr
    assert daemon.ping()


@pytest.mark.parametrize(
    ("words", "status"),
    [
        ([], 2),
        (["--help"], 0),
        (["serve", "--no-such-flag"], 2),
        (["nonsense"], 2),
        (["serve", "-i", "can"], 2),
        (["serve", "-i", "CAN"], 1),
        (["serve", "-i", "KISS", "-p", "/no/such/device"], 1),
        (["serve", "--ring-entries", "1"], 1),
    ],
)
def test_exit_status(words: list[str], status: int, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        found = main(words)
    except SystemExit as exit_:
        found = int(exit_.code or 0)
    assert found == status
    captured = capsys.readouterr()
    assert captured.err or captured.out
