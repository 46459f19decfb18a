"""A real `dipp serve` process, a hub and a ground station that talks to it. Driver.

Where the campaign, the soak and the tests look at the node as a whole: everything is asked over the
network or read from what the node leaves on disk.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import TypeVar

from csp.errors import PeerError
from csp.hub import Hub
from csp.links.zmq import ZmqLink
from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.services import PORT_PING
from csp.stack import Stack
from dipp.config.codec import encode_pipeline
from dipp.config.definition import ModuleStep, PipelineDefinition
from dipp.journal import Journal
from dipp.records import Totals
from dipp.rig import GEOMETRY, Camera, unique
from dipp.ring import open_ring
from dipp.ringindex import RingGeometry

NODE, GROUND = 162, 20
DEADLINE_S = 60.0
_ANSWER_S = 20.0
T = TypeVar("T")


def descendants(pid: int) -> set[int]:
    """Return all processes below one."""
    found: set[int] = set()
    waiting = [pid]
    while waiting:
        for child in children_of(waiting.pop()):
            found.add(child)
            waiting.append(child)
    return found


def children_of(pid: int) -> list[int]:
    """Return the processes directly below one; none if it is gone."""
    try:
        return list(map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()))
    except OSError:
        return []


def is_alive(pid: int) -> bool:
    """Say whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Daemon:
    """The process and whoever talks to it; a context manager that ends both."""

    def __init__(
        self,
        root: Path,
        *,
        geometry: RingGeometry = GEOMETRY,
        options: Sequence[str] = (),
        log: Path | None = None,
    ) -> None:
        """Make directories, hub and ground station in `root`; nothing runs yet."""
        self.state, self.modules = root / "state", root / "modules"
        self.modules.mkdir(parents=True, exist_ok=True)
        self.geometry = geometry
        self.log = log if log is not None else root / "serve.log"
        self._options = tuple(options)
        self.camera = Camera(unique())
        self.hub = Hub()
        self.loop = Loop()
        self.ground = Stack(self.loop.scheduler)
        self.link = ZmqLink(address=GROUND, sub_port=self.hub.sub_port, pub_port=self.hub.pub_port)
        interface = self.ground.add_interface("ZMQ", GROUND, self.link.send)
        self.link.open(self.loop, lambda frame: self.ground.receive(interface, frame))
        self.remote = RemoteTable(ParamClient(self.ground))
        self.process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Daemon:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # -- the process

    def command(self, state: Path | None = None) -> list[str]:
        """Return the command line that serves this queue, by default from this state."""
        return [
            sys.executable, "-m", "dipp", "serve",
            "--hub", f"127.0.0.1:{self.hub.sub_port}:{self.hub.pub_port}",
            "--state", str(state or self.state), "--queue", self.camera.queue,
            "--modules", str(self.modules), "--no-sync",
            "--ring-size", str(self.geometry.data_bytes),
            "--ring-entries", str(self.geometry.entries), *self._options,
        ]  # fmt: skip

    def start(self, env: dict[str, str] | None = None) -> None:
        """Start the node and wait until it answers. Raises TimeoutError."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdout=log, stderr=log, env={**os.environ, **(env or {})}
            )
        self.until(self.ping, "the node answers")

    def run_second(self, state: Path | None = None) -> subprocess.CompletedProcess[str]:
        """Run another node and return how it ended. Raises subprocess.TimeoutExpired."""
        return subprocess.run(
            self.command(state), capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )

    @property
    def pid(self) -> int:
        """Process number of the node, 0 if none was started."""
        return self.process.pid if self.process is not None else 0

    @property
    def forge_pid(self) -> int:
        """Process number of the forge, 0 if there is none."""
        return next(iter(children_of(self.pid)), 0)

    def host_pids(self) -> list[int]:
        """Return what is directly below the forge: pipeline hosts."""
        return children_of(self.forge_pid) if self.forge_pid else []

    def module_pids(self) -> list[int]:
        """Return what is below the hosts: module children, waiting ones included."""
        return [pid for host in self.host_pids() for pid in children_of(host)]

    def kill(self) -> None:
        """SIGKILL the node and wait until everything below it has ended. Raises TimeoutError."""
        below = descendants(self.pid)
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.until(lambda: not any(map(is_alive, below)), "what was below the node ends")

    def terminate(self) -> int:
        """SIGTERM the node and return its exit status. Raises subprocess.TimeoutExpired."""
        if self.process is None:
            return 0
        self.process.terminate()
        return self.process.wait(DEADLINE_S)

    # -- over the network

    def until(
        self, condition: Callable[[], object], what: str, within_s: float = DEADLINE_S
    ) -> None:
        """Serve the ground station until something is so. Raises TimeoutError."""
        deadline = time.monotonic() + within_s
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {within_s:g} s: {what}; see {self.log}")
            self.loop.tick(0.01)

    def serve_for(self, duration_s: float) -> None:
        """Serve the ground station for a while."""
        end = time.monotonic() + duration_s
        while time.monotonic() < end:
            self.loop.tick(0.01)

    def ping(self, timeout_s: float = 0.2) -> bool:
        """Say whether the node answers a ping in time."""
        request = self.ground.request(NODE, PORT_PING, b"x", timeout_s=timeout_s)
        try:
            return self.loop.run_until(self.loop.scheduler.spawn(request)) == b"x"
        except PeerError:
            return False

    def do(self, coro: Coroutine[object, object, T]) -> T:
        """Run something of the ground station. Raises what it raises, NoResponse."""
        return self.loop.run_until(self.loop.scheduler.spawn(coro), _ANSWER_S)

    def get(self, name: str, index: int | None = None) -> int:
        """Pull a number. Raises PeerError."""
        value = self.do(self.remote.get(NODE, name, index))
        if not isinstance(value, int):
            raise TypeError(f"{name} is {value!r}, not one integer")
        return value

    def set(self, name: str, value: int | bytes) -> None:
        """Push a value. Raises PeerError."""
        self.do(self.remote.set(NODE, name, value))

    def configure(self, *names: str, pipeline: int = 1) -> None:
        """Set a pipeline to these modules."""
        steps = tuple(ModuleStep(name=name, order=i) for i, name in enumerate(names, 1))
        value = encode_pipeline(PipelineDefinition(modules=steps))
        self.set(f"pipeline_config_{pipeline}", value)

    def until_idle(self) -> None:
        """Wait until pipeline_run is 0."""
        self.until(lambda: self.get("pipeline_run") == 0, "pipeline_run is 0 again")

    def until_module_runs(self) -> None:
        """Wait until a batch is being processed and a module child exists."""
        self.until(lambda: self.get("batch_running"), "a batch is processed")
        self.until(self.module_pids, "a module child exists")

    # -- what it leaves on disk, while it does not run

    def totals(self) -> Totals:
        """Read the journal."""
        journal = Journal(self.state / "journal")
        journal.close()
        return journal.state.totals

    def stored(self) -> int:
        """Count the images in the ring."""
        ring, _ = open_ring(self.state / "images.vmem", self.geometry)
        count = ring.count
        ring.close()
        return count

    def quarantined(self) -> int:
        """Count the files of the quarantine."""
        return len(list((self.state / "quarantine").iterdir()))

    def close(self) -> None:
        """End the node if it runs, and the ground station."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self.link.close()
        self.hub.close()
        self.camera.clean()
        self.loop.close()
