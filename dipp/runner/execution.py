"""The process of one module execution, from its host's side: birth, order, watch, end, bury.

Driver. The host owns the deadline: it waits on the pidfd and kills the whole process group,
whatever the child does. A child is forked ahead of its batch if possible, and stays after its
result until the chain has ended; what it does meanwhile can spoil this batch only. After `kill`,
`await_death` and `bury` neither the child nor its process group is alive.
Source: dipp.md 10, performance.md 2, defects D1 and D2, faults 17..26.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import time
from collections.abc import Sequence
from typing import Protocol

from dipp.runner.arena import identity
from dipp.runner.birth import Birth
from dipp.runner.channel import Channel, close_fds
from dipp.runner.frames import (
    ChildReady,
    Frame,
    ModuleDone,
    ModuleFailed,
    ModuleForwarded,
    ModuleRaised,
)
from dipp.runner.loader import LoadedModule
from dipp.runner.protocol import (
    ALERT,
    INPUT_ALERT,
    decode_answer,
)
from dipp.runner.tail import LogTail
from dipp.runner.verdict import Cut, Ending
from dipp.runner.wait import (
    REAP_DEADLINE_S,
    Burial,
    bury,
    cpu_clock,
    kill_group,
    outer_pid,
    peak_rss_kb,
    wait_readable,
)
from dipp.runner.wire import FrameError

# A child keeps an input that has been announced for much longer.
_ANNOUNCED_S = 1.0
# One is right, two are a lie; more need not be looked at.
_MAX_FRAMES = 2
_CHUNK_BYTES = 1 << 16
# What a full pipe can still hold after the child is gone, at its default size.
_LOG_DRAIN_CHUNKS = 2


class StuckChildError(Exception):
    """A child survived SIGKILL (uninterruptible wait). The host gives up, the node ends it."""


class Bearer(Protocol):
    """Who forks children: answers come in the order of the requests."""

    def request(self, birth: Birth, fds: Sequence[int]) -> None:
        """Ask for a child with these descriptors. Raises OSError."""

    def answer(self) -> int:
        """Return the number of the child that was asked for. Raises OSError."""


class Execution:
    """A child that waits for its order. `close` must be called whatever happens."""

    pid: int
    outer_pid: int
    pidfd = -1

    def __init__(
        self,
        module: LoadedModule,
        birth: Birth,
        control_fd: int,
        bearer: Bearer,
        *,
        stands_by: bool = False,
    ) -> None:
        """Ask for it; `adopt` must follow. Raises OSError.

        One that `stands_by` is made before its batch is there.
        """
        self.module = module
        self.birth = birth
        self._stands_by = stands_by
        self._bearer = bearer
        self._control_fd = control_fd
        self.reset()
        is_native = module.is_native
        self._error_pipe = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK) if is_native else ()
        self._log_fd, log_write_fd = os.pipe2(os.O_CLOEXEC)
        self._channel, theirs = Channel.pair()
        self._passing, receiving = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._channel.set_blocking(False)
        os.set_blocking(self._log_fd, False)
        try:
            self._ask(theirs, receiving, log_write_fd)
        except OSError:
            self.close()
            raise

    def reset(self) -> None:
        """Be as one that has had no order yet."""
        self.frames: list[Frame | None] = []
        self.log = LogTail()
        self.burial = Burial()
        self.ending = Ending()
        self.cut = Cut.NONE
        self.is_rehearsed = False
        # A child that stood by and died before it looked at its order: no fault of its module.
        self.has_died_waiting = False
        self.private_bytes: int | None = None
        self._announced: tuple[int, int] | None = None
        self._announced_at = 0.0
        # It has been alerted, so it waits on a processor of its own without sleeping.
        self.is_awake = False
        self.wall_s = 0.0
        self._was_killed = False
        self._cpu_before_s = 0.0
        self._started = time.monotonic()

    def adopt(self) -> None:
        """Wait until it has been forked. Raises OSError; then it must be closed like any other."""
        self.pid = self._bearer.answer()
        self.pidfd = os.pidfd_open(self.pid)
        self.outer_pid = outer_pid(self.pidfd, self.pid)
        self._poller = self._make_poller()

    def _ask(self, theirs: Channel, receiving: socket.socket, log_fd: int) -> None:
        """Ask for a process at the other ends, which are closed here. Raises OSError."""
        try:
            fds = (theirs.fileno(), receiving.fileno(), log_fd, *self._error_pipe)
            self._bearer.request(self.birth, fds)
        finally:
            # At once: while the parent holds these ends, no end of file is ever seen.
            theirs.close()
            receiving.close()
            os.close(log_fd)

    def _make_poller(self) -> select.poll:
        poller = select.poll()
        for fd in (self.pidfd, self._channel.fileno(), self._log_fd):
            poller.register(fd, select.POLLIN)
        # Not POLLIN: an order for the next batch may wait there meanwhile.
        poller.register(self._control_fd, select.POLLRDHUP)
        return poller

    def fileno(self) -> int:
        """Return the descriptor of its channel, on which it says that it is ready."""
        return self._channel.fileno()

    @property
    def age_s(self) -> float:
        """Seconds since it was forked, or since it was given its order."""
        return time.monotonic() - self._started

    @property
    def has_exited(self) -> bool:
        """Say whether the process has ended by itself."""
        return wait_readable(self.pidfd, 0)

    def listen(self) -> None:
        """Take what it says before it has an order: that it is ready."""
        self._take_frame()

    def alert(self, input_fd: int = -1) -> None:
        """Tell it that its order comes soon, perhaps with the input."""
        # One that is dead is noticed when it is given the order.
        with contextlib.suppress(OSError):
            if input_fd >= 0:
                socket.send_fds(self._passing, [b"f"], [input_fd])
                self._announced, self._announced_at = identity(input_fd), time.monotonic()
            self._channel.send_encoded(INPUT_ALERT if input_fd >= 0 else ALERT)
            self.is_awake = True

    @property
    def announced(self) -> tuple[int, int] | None:
        """Device and inode of the input that it has, for as long as it surely keeps it."""
        if self._announced is None or time.monotonic() - self._announced_at > _ANNOUNCED_S:
            return None
        return self._announced

    def order(self, go: bytes, fds: Sequence[int]) -> None:
        """Send an encoded `Go`; the deadline counts from here. Raises OSError."""
        self._cpu_before_s = cpu_clock(self.pid)
        self._started = time.monotonic()
        if fds:
            socket.send_fds(self._passing, [b"f"], list(fds))
        self._channel.send_encoded(go)

    def watch(self, spin_s: float = 0.0) -> None:
        """Wait for the result, or until it has exited, is late, or the control socket hangs up.

        So long it does not sleep: a processor that does takes longer to wake up than many a module.
        """
        end = self._started + self.module.step.timeout_s
        channel_fd, log_fd, poller = self._channel.fileno(), self._log_fd, self._poller
        if spin_s:
            spin_end = self._started + spin_s
            while not poller.poll(0) and time.monotonic() < spin_end:
                os.sched_yield()
        while True:
            left_s = end - time.monotonic()
            if left_s <= 0:
                self.cut = Cut.DEADLINE
                break
            # Rounded up: a poll of less than a millisecond would spin.
            ready = dict(poller.poll(int(left_s * 1000) + 1))
            has_exited = self.pidfd in ready
            if channel_fd in ready or has_exited:
                while self._take_frame() and has_exited:
                    continue
            if has_exited or self._has_spoken:
                break
            if self._control_fd in ready:
                self.cut = Cut.OPERATOR
                break
            if log_fd in ready and not self._take_log():
                poller.unregister(log_fd)
        self.wall_s = time.monotonic() - self._started

    @property
    def has_result(self) -> bool:
        """Say whether it has sent a result, and nothing else."""
        return len(self.frames) == 1 and isinstance(self.frames[0], ModuleDone | ModuleForwarded)

    @property
    def _has_spoken(self) -> bool:
        """Say whether nothing more is expected of it; one that reports a failure also exits."""
        return bool(self.frames) and not isinstance(self.frames[0], ModuleFailed | ModuleRaised)

    def kill(self) -> None:
        """End the process and its group; nothing if it has ended before, which is its own doing."""
        if self.pidfd >= 0 and not self.has_exited:
            self._was_killed = True
        if self.pidfd >= 0:
            kill_group(self.pid, self.pidfd)

    @property
    def can_be_left(self) -> bool:
        """Say whether it lives and has said its result and nothing else, so that all is known."""
        self._take_frame()
        return self.has_result and not self.has_exited

    def take_stock(self) -> bool:
        """Take down what it has cost so far; False if it is about to end by itself."""
        peak_kb = peak_rss_kb(self.outer_pid)
        if peak_kb is None:
            return False
        self.burial = Burial(cpu_s=cpu_clock(self.pid), peak_rss_kb=peak_kb)
        self._take_log()
        return True

    def await_death(self) -> None:
        """Wait for the end of a killed process, which stays to be buried."""
        wait_readable(self.pidfd, REAP_DEADLINE_S)

    def bury(self) -> None:
        """Reap it, collect its last words, say how it ended. Raises StuckChildError."""
        burial = bury(self.pid, self.pidfd)
        if burial is None:
            raise StuckChildError(f"child {self.pid} survived SIGKILL")
        self.burial = burial
        while self._take_frame():
            continue
        for _ in range(_LOG_DRAIN_CHUNKS):
            self._take_log()
        # To be killed while it waits after its result is no end of its own.
        by_us = self._was_killed and burial.signal == signal.SIGKILL and self.cut is Cut.NONE
        self.ending = Ending(
            cut=self.cut,
            signal=0 if by_us else burial.signal,
            status=burial.status,
            native_code=self._native_code(),
        )

    @property
    def cpu_s(self) -> float:
        """Processor time from the order to the end, as the kernel counted it."""
        return max(0.0, self.burial.cpu_s - self._cpu_before_s)

    def close(self) -> None:
        """Give back the descriptors."""
        self._channel.close()
        self._passing.close()
        close_fds([fd for fd in (self._log_fd, self.pidfd, *self._error_pipe) if fd >= 0])
        self.pidfd = -1

    def _take_frame(self) -> bool:
        """Receive one frame. Return False if there is none, or no more will be worth reading."""
        if len(self.frames) >= _MAX_FRAMES:
            return False
        try:
            # Whatever descriptors a child sends are dropped by the kernel.
            data = self._channel.receive_encoded()
            if not data:
                return False
            frame = decode_answer(data)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            # It has died and left its order unread.
            self.has_died_waiting = self._stands_by
            return False
        except (FrameError, OSError):
            self.frames.append(None)
        else:
            if isinstance(frame, ChildReady) and not self.is_rehearsed:
                self.is_rehearsed = bool(frame.is_rehearsed)
                return True
            self.frames.append(frame)
        return True

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
