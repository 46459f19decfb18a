"""The process of one module execution, from its parent's side: fork, order, watch, end, bury.

Driver. The parent owns the deadline: it waits on the pidfd and kills the whole process group,
whatever the child does. After `end` neither the child nor anything it started is alive, and the
System V segments it made are gone.
Source: dipp.md 10, performance.md 2, defects D1 and D2, faults 17..26 and 34.
"""

from __future__ import annotations

import os
import select
import time
from collections.abc import Sequence

from dipp.runner.channel import Channel, close_fds
from dipp.runner.child import run_child
from dipp.runner.loader import LoadedModule
from dipp.runner.protocol import Frame, Go, ModuleDone, ModuleFailed, ModuleRaised
from dipp.runner.tail import LogTail
from dipp.runner.values import Policy
from dipp.runner.verdict import Cut, Ending
from dipp.runner.wait import (
    REAP_DEADLINE_S,
    Burial,
    bury,
    kill_group,
    outer_pid,
    sweep_orphans,
    sweep_sysv_segments,
    wait_readable,
)
from dipp.runner.wire import FrameError
from dipp.sandbox.gear import Gear

_ANSWERS: tuple[type[ModuleDone | ModuleFailed | ModuleRaised], ...] = (
    ModuleDone,
    ModuleFailed,
    ModuleRaised,
)
# One is right, two are a lie; more need not be looked at.
_MAX_FRAMES = 2
_CHUNK_BYTES = 1 << 16
# What a full pipe can still hold after the child is gone, at its default size.
_LOG_DRAIN_CHUNKS = 2


class StuckChildError(Exception):
    """A child survived SIGKILL (uninterruptible wait). The host gives up, the node ends it."""


class Execution:
    """A child that waits for its order. `close` must be called whatever happens."""

    def __init__(self, module: LoadedModule, policy: Policy, gear: Gear) -> None:
        self.frames: list[Frame | None] = []
        self.log = LogTail()
        self.burial = Burial()
        self.cut = Cut.NONE
        self.wall_s = 0.0
        self.orphans = 0
        self.leaked_segments = 0
        self._timeout_s = module.step.timeout_s
        self._started = time.monotonic()
        self._error_pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if module.is_native else ()
        log_fd, log_write_fd = os.pipe2(os.O_CLOEXEC)
        self._log_fd = log_fd
        self._channel, theirs = Channel.pair()
        self.pidfd = -1
        try:
            parent = os.getpid()
            self.pid = os.fork()
            if self.pid == 0:
                run_child(theirs, module, policy, gear, log_write_fd, parent)
            self.pidfd = os.pidfd_open(self.pid)
            self.outer_pid = outer_pid(self.pidfd, self.pid)
        except OSError:
            self.close()
            raise
        finally:
            # At once: while the parent holds these ends, no end of file is ever seen.
            theirs.close()
            os.close(log_write_fd)
        self._channel.set_blocking(False)
        os.set_blocking(log_fd, False)

    def order(self, go: Go, fds: Sequence[int]) -> None:
        """Let the child run; the deadline counts from here."""
        self._started = time.monotonic()
        self._channel.send(go, (*fds, *self._error_pipe))

    def watch(self, control_fd: int) -> None:
        """Wait until the child has exited, is late, or the control socket is hung up."""
        end = self._started + self._timeout_s
        poller = select.poll()
        for fd in (self.pidfd, self._channel.fileno(), self._log_fd):
            poller.register(fd, select.POLLIN)
        # Not POLLIN: an order for the next batch may wait there meanwhile.
        poller.register(control_fd, select.POLLRDHUP)
        while True:
            left_s = end - time.monotonic()
            if left_s <= 0:
                self.cut = Cut.DEADLINE
                return
            # Rounded up: a poll of less than a millisecond would spin.
            ready = {fd for fd, _ in poller.poll(int(left_s * 1000) + 1)}
            if self.pidfd in ready:
                return
            if control_fd in ready:
                self.cut = Cut.OPERATOR
                return
            if self._channel.fileno() in ready and not self._take_frame():
                poller.unregister(self._channel.fileno())
            if self._log_fd in ready and not self._take_log():
                poller.unregister(self._log_fd)

    def end(self) -> Ending:
        """Kill what is left, bury it, collect the last words. Raises StuckChildError."""
        kill_group(self.pid, self.pidfd)
        wait_readable(self.pidfd, REAP_DEADLINE_S)
        # Before reaping: the creator's number still means this child.
        self.leaked_segments = sweep_sysv_segments((self.pid,))
        burial = bury(self.pid, self.pidfd)
        if burial is None:
            raise StuckChildError(f"child {self.pid} survived SIGKILL")
        self.burial = burial
        orphans = sweep_orphans()
        self.orphans = len(orphans)
        if orphans:
            self.leaked_segments += sweep_sysv_segments(orphans)
        self.wall_s = time.monotonic() - self._started
        while self._take_frame():
            continue
        for _ in range(_LOG_DRAIN_CHUNKS):
            self._take_log()
        return Ending(
            cut=self.cut,
            signal=burial.signal,
            status=burial.status,
            native_code=self._native_code(),
        )

    def close(self) -> None:
        """Give back the descriptors."""
        self._channel.close()
        close_fds([fd for fd in (self._log_fd, self.pidfd, *self._error_pipe) if fd >= 0])

    def _take_frame(self) -> bool:
        """Receive one frame. Return False if there will be no more worth reading."""
        try:
            message = self._channel.receive(_ANSWERS)
        except BlockingIOError:
            return False
        except (FrameError, OSError):
            self.frames.append(None)
        else:
            if message is None:
                return False
            frame, fds = message
            close_fds(fds)
            self.frames.append(frame)
        return len(self.frames) < _MAX_FRAMES

    def _take_log(self) -> bool:
        """Read a piece of output. Return False at its end."""
        try:
            chunk = os.read(self._log_fd, _CHUNK_BYTES)
        except BlockingIOError:
            return True
        self.log.add(chunk)
        return bool(chunk)

    def _native_code(self) -> int | None:
        """Read the error code of a native module: exactly two bytes or none."""
        if not self._error_pipe:
            return None
        try:
            data = os.read(self._error_pipe[0], 2)
        except BlockingIOError:
            return None
        return int.from_bytes(data, "little") if len(data) == 2 else None
