"""Our nodes as their commands start them, but fed by a recording instead of a link."""

from __future__ import annotations

import contextlib
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import posix_ipc
from replaying import Player, Recording

from csp.loop import Loop
from csp.sched import Scheduler
from csp.stack import Stack
from csp.vmem.file import FileArea
from dipp.message import decode_message
from dipp.node import DippNode, NodeConfig
from dipp.ringindex import RingGeometry
from dipp.runner.executor import start_forge
from dish.node import DishConfig, DishNode, prepare
from sim.camera.figures import CameraFigures
from sim.camera.frames import FrameMaker
from sim.camera.node import CameraNode
from sim.camera.params import AREA, AREA_SIZE
from sim.camera.sensor import SensorFigures
from sim.clock import MissionClock

_REAL_LIMIT_S = 10.0


class LoopPlayer:
    """A node that needs descriptors and processes; its clock shows the time of the recording.

    When `busy` says that children work for it, time stands still until they are done.
    """

    def __init__(self) -> None:
        self._now = 0.0
        self.loop = Loop(clock=lambda: self._now)
        self.stack: Stack
        self.busy: Callable[[], bool] = lambda: False
        self.closers: list[Callable[[], None]] = [self.loop.close]

    def advance(self, now: float) -> None:
        """Let time pass up to `now` and children finish."""
        while self._now < now:
            # In steps, so that what repeats on a timer repeats.
            self._now = min(self._now + 0.25, now)
            self.loop.tick(0.0)
        self.settle()

    def settle(self) -> None:
        """Give children real time to finish what they do."""
        end = time.monotonic() + _REAL_LIMIT_S
        while self.busy() and time.monotonic() < end:
            self.loop.tick(0.01)
        self.loop.tick(0.0)

    def close(self) -> None:
        """Give everything back, the newest first."""
        while self.closers:
            self.closers.pop()()


def dish(recording: Recording, folder: Path) -> Player:
    """`dish serve` without a state directory."""
    del folder
    config = DishConfig(address=recording.node, version=recording.version, seed=1)
    prepared = prepare(config)
    player = LoopPlayer()
    node = DishNode(player.loop, config, prepared)
    player.stack = node.node.stack
    player.busy = lambda: len(node.runs) > 0
    player.closers.append(node.close)
    return player


class _CameraPlayer:
    def __init__(self, recording: Recording, folder: Path) -> None:
        self._scheduler = Scheduler()
        self._camera = CameraNode(
            self._scheduler,
            address=recording.node,
            figures=CameraFigures(queue=f"/replay_{uuid.uuid4().hex[:12]}"),
            clock=MissionClock(epoch_unix=1_744_407_700.0),
            area=FileArea(AREA, folder / "config.vmem", AREA_SIZE),
            version=recording.version,
            seed=1,
            # Pixels are not part of what the bus carries here: a small sensor is faster.
            maker=FrameMaker(5, figures=SensorFigures(width=64, height=48, focal_mm=500.0)),
        )
        self.stack = self._camera.csp.stack

    def advance(self, now: float) -> None:
        """Let time pass up to `now`."""
        self._scheduler.advance(now)

    def close(self) -> None:
        """Leave nothing in shared memory: nobody takes the batches of this camera."""
        self._camera.close()
        with contextlib.suppress(posix_ipc.ExistentialError):
            queue = posix_ipc.MessageQueue(self._camera.figures.queue)
            while queue.current_messages:
                message = decode_message(queue.receive(timeout=0)[0])
                posix_ipc.unlink_shared_memory(message.segment)
            queue.close()
            queue.unlink()


def camera(recording: Recording, folder: Path) -> Player:
    """`python -m sim.camera` with a fresh state directory."""
    return _CameraPlayer(recording, folder)


def dipp(recording: Recording, folder: Path) -> Player:
    """`dipp serve` with a fresh state directory and a small ring."""
    forge = start_forge()
    player = LoopPlayer()
    config = NodeConfig(
        state_dir=folder,
        address=recording.node,
        version=recording.version,
        queue=f"/replay_{uuid.uuid4().hex[:12]}",
        geometry=RingGeometry(entries=100, data_bytes=2_000_000),
        durable=False,
        seed=1,
    )
    node = DippNode(player.loop, forge, config)
    player.stack = node.csp.stack

    def close() -> None:
        player.loop.run_until(player.loop.scheduler.spawn(node.close(), "close"), 10)

    player.closers.append(close)
    return player


PLAYERS: dict[str, Callable[[Recording, Path], Player]] = {
    "dish": dish,
    "camera": camera,
    "dipp": dipp,
}
