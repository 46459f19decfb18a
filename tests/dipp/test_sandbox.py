"""The ladder: rungs hold, missing ones are reported, failing ones do not stop the climb."""

from __future__ import annotations

import errno
import os
import resource
import traceback

import pytest

from dipp.runner.values import Policy
from dipp.sandbox.ladder import LADDER, Rung, climb, missing_rungs
from dipp.sandbox.limits import Confinement, close_all_but


def in_child(body):
    """Run in a forked child, which must exit with 0."""
    parent = os.getpid()
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            body(parent)
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) == 0


def confinement(parent, keep=()):
    return Confinement(
        policy=Policy(memory_bytes=64 << 20, file_bytes=4096, open_files=32),
        timeout_s=1.5,
        parent_pid=parent,
        keep_fds=keep,
    )


def test_all_basic_rungs_hold():
    def body(parent):
        assert climb(confinement(parent)) == ()
        assert os.getsid(0) == os.getpid()
        assert resource.getrlimit(resource.RLIMIT_CPU) == (4, 5)
        assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] == 4096
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == 32
        assert resource.getrlimit(resource.RLIMIT_CORE) == (0, 0)
        try:
            bytearray(256 << 20)
        except MemoryError:
            return
        raise AssertionError("memory is not limited")

    in_child(body)


def test_only_wanted_descriptors_stay_open():
    def body(parent):
        kept = os.open(os.devnull, os.O_RDONLY)
        others = [os.dup(kept) for _ in range(5)]
        close_all_but((others[2], kept))
        for fd in (kept, others[2]):
            os.fstat(fd)
        for fd in (others[0], others[1], others[3], others[4]):
            with pytest.raises(OSError, match=os.strerror(errno.EBADF)):
                os.fstat(fd)

    in_child(body)


def test_missing_and_skipped_rungs_are_named():
    absent = Rung(name="moon", probe=lambda: "not in this kernel", apply=lambda c: None)
    assert missing_rungs() == ()
    assert missing_rungs((), (*LADDER, absent)) == ("moon: not in this kernel",)
    assert missing_rungs(("memory",)) == ("memory: switched off",)


def test_a_failing_rung_is_reported_and_the_climb_goes_on():
    applied = []

    def fail(confinement):
        raise PermissionError("no")

    ladder = (
        Rung(name="steep", probe=lambda: None, apply=fail),
        Rung(name="skipped", probe=lambda: None, apply=fail),
        Rung(name="top", probe=lambda: None, apply=applied.append),
    )
    here = confinement(os.getpid())
    assert climb(here, ("skipped",), ladder) == ("steep",)
    assert applied == [here]
