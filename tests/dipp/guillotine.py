"""Kill a process at its N-th call that changes something on disk, for all N."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import posix_ipc

from dipp import intake as intake_module
from dipp.intake import Intake
from dipp.rig import Camera, FakeRunner, Rig

CALLS = ("pwrite", "write", "replace", "ftruncate", "posix_fallocate")


class Guillotine:
    """Kills this process at its N-th call of any of the watched functions, before or after it."""

    def __init__(self, number: int) -> None:
        self.left = number

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.fall()
            result = function(*args, **kwargs)
            self.fall()
            return result

        return call

    def fall(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)


def run_and_die(
    state: Path, camera: Camera, number: int, behave: Callable[[Rig], None], **settings: int
) -> bool:
    """Run mode 2 in a child that dies at its N-th call; say whether it survived."""
    return die_in(state, camera, number, behave, lambda rig: rig.run(2), **settings)


def die_in(
    state: Path,
    camera: Camera,
    number: int,
    behave: Callable[[Rig], None],
    act: Callable[[Rig], None],
    **settings: int,
) -> bool:
    """Boot and act in a child that dies at its N-th call; say whether it survived."""
    pid = os.fork()
    if pid == 0:
        try:
            blade = Guillotine(number)
            patches = [
                mock.patch.object(os, name, blade.watch(getattr(os, name))) for name in CALLS
            ]
            unlink, load = posix_ipc.unlink_shared_memory, intake_module._load_receive
            patches += [
                mock.patch.object(posix_ipc, "unlink_shared_memory", blade.watch(unlink)),
                mock.patch.object(Path, "unlink", blade.watch(Path.unlink)),
                mock.patch.object(intake_module, "_load_receive", return_value=blade.watch(load())),
                mock.patch.object(Intake, "release", blade.watch(Intake.release)),
                mock.patch.object(FakeRunner, "submit", blade.watch(FakeRunner.submit)),
            ]
            for patch in patches:
                patch.start()
            rig = Rig(state, camera.queue, **settings)
            behave(rig)
            rig.boot()
            act(rig)
            os._exit(0)
        except BaseException:  # boundary: a child of a test must never return into pytest
            import traceback

            traceback.print_exc()
            os._exit(9)
    _, status = os.waitpid(pid, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True
