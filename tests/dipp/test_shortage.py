"""Fault 64 for the node's stores: the N-th call fails, for all N; the work resumes by itself."""

from __future__ import annotations

import errno
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import posix_ipc
import pytest

from dipp import processing, worker
from dipp.faults.sabotage import run_sabotaged
from dipp.rig import Camera, FakeRunner, Rig, unique
from dipp.segment import remove_segment
from tests.dipp.descriptors import no_descriptors

CALLS = (
    (os, "open"), (os, "pwrite"), (os, "write"), (os, "replace"), (os, "fdatasync"),
    (os, "pread"), (posix_ipc, "SharedMemory"), (posix_ipc, "unlink_shared_memory"),
)  # fmt: skip


class Saboteur:
    """Makes the N-th watched call fail, and `width - 1` after it."""

    def __init__(self, number: int, code: int, width: int) -> None:
        self.calls = 0
        self.bad = range(number, number + width)
        self.code = code

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            if self.calls in self.bad:
                raise OSError(self.code, os.strerror(self.code))
            return function(*args, **kwargs)

        return call

    @property
    def struck(self) -> bool:
        return self.calls >= self.bad.start


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera(unique())
    yield camera
    camera.clean()


@pytest.mark.parametrize("width", [1, 3])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EMFILE, errno.EIO])
@pytest.mark.parametrize("fails", [False, True], ids=["delivered", "quarantined"])
def test_every_call_may_fail(
    camera: Camera, tmp_path: Path, code: int, fails: bool, width: int
) -> None:
    for number in itertools.count(1):
        rig = Rig(tmp_path / str(number), camera.queue)
        if fails:
            rig.runner.behaviour = FakeRunner.failing()
        camera.shoot(b"abc", b"def")
        saboteur = Saboteur(number, code, width)
        with (
            mock.patch.multiple(processing, _RETRY_S=0.001),
            mock.patch.object(worker, "_POLL_S", 0.001),
        ):
            patches = [mock.patch.object(o, n, saboteur.watch(getattr(o, n))) for o, n in CALLS]
            for patch in patches:
                patch.start()
            try:
                rig.run(2)
            finally:
                mock.patch.stopall()
        rig.runner.behaviour = FakeRunner.identity
        camera.shoot(b"next")
        rig.run(2)
        taken, *fates = rig.fates
        assert (taken, sum(fates)) == (2, 2), f"call {number} failed"
        assert rig.images[-1] == b"next", f"call {number} failed"
        assert rig.quarantine.count == fates[1]
        assert not rig.loop.scheduler.orphan_errors, f"call {number} failed"
        rig.close()
        if not saboteur.struck:
            break
    assert number > 8


def test_a_node_without_a_free_descriptor_removes_segments(camera: Camera) -> None:
    name, _ = camera.make(b"abc")
    status = os.stat(f"/dev/shm{name}")

    def remove() -> None:
        os._exit(0 if remove_segment(name, status.st_dev, status.st_ino) else 7)

    ending = run_sabotaged(remove, ["openat", "open"], lambda call: errno.EMFILE)
    assert ending.status == 0
    assert not camera.exists(name)


def test_a_batch_waits_until_there_are_descriptors_again(camera: Camera, tmp_path: Path) -> None:
    rig = Rig(tmp_path, camera.queue)
    name = camera.shoot(b"abc")
    with mock.patch.object(processing, "_RETRY_S", 0.01):
        with no_descriptors():
            rig.write_mode(1)
            rig.until(lambda: rig.telemetry.get("storage_errors") > 0)
        rig.until_idle()
    assert (rig.fates, rig.images) == ((1, 1, 0, 0), [b"abc"])
    assert not camera.exists(name)
    rig.close()


def test_a_batch_that_can_never_be_opened_leaves_no_segment(camera: Camera, tmp_path: Path) -> None:
    rig = Rig(tmp_path, camera.queue)
    name = camera.shoot(b"abc")
    with mock.patch.object(processing, "_RETRY_S", 0.001), no_descriptors():
        rig.run(1)
    assert rig.fates == (1, 0, 0, 1)
    assert not camera.exists(name)
    assert not rig.journal.state.open
    rig.close()
