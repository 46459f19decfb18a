"""Drive a scheduler with the real clock and file descriptors: the event loop of every daemon.

Driver. One thread; signals only write to a wake-up descriptor.
"""

from __future__ import annotations

import os
import selectors
import signal
import time
from collections.abc import Callable
from types import FrameType
from typing import TypeVar

from csp.errors import MisuseError, NoResponse
from csp.sched import Cancelled, Promise, Scheduler

T = TypeVar("T")

# Longest sleep when no timer is armed; a lost edge of some descriptor then heals by itself.
_MAX_SLEEP_S = 1.0

# Exit status of a daemon that was told to reboot: EX_TEMPFAIL, "try again". `payload up` does, and
# systemd with RestartForceExitStatus=75.
REBOOT_STATUS = 75


class Loop:
    """Wait for descriptors and deadlines, run what is due.

    `clock` must be monotonic seconds. Callbacks run in the calling thread; an exception in a
    reader or hook ends `run`, because such code is ours and must not raise on content.
    """

    def __init__(
        self,
        scheduler: Scheduler | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.scheduler = scheduler if scheduler is not None else Scheduler()
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._hooks: list[Callable[[], None]] = []
        self._stopped = False
        # What a daemon ends with: 0, or `REBOOT_STATUS` for its launcher to start it again.
        self.exit_status = 0
        self._signal_fds: tuple[int, int] | None = None
        self._previous: dict[int, object] = {}
        self.scheduler.now = max(self.scheduler.now, clock())

    # -- descriptors and hooks

    def add_reader(self, fd: int, callback: Callable[[], None]) -> None:
        """Call back whenever the descriptor is readable (level triggered)."""
        self._selector.register(fd, selectors.EVENT_READ, callback)

    def remove_reader(self, fd: int) -> None:
        """Stop watching a descriptor; do so before closing it. Harmless if it is not watched."""
        try:
            self._selector.unregister(fd)
        except (KeyError, ValueError):
            return

    def after_tick(self, hook: Callable[[], None]) -> None:
        """Call the hook at the end of each round, for example to flush a store once."""
        self._hooks.append(hook)

    # -- running

    def tick(self, max_wait_s: float = _MAX_SLEEP_S) -> None:
        """Do one round: wait, at most `max_wait_s`, read, run what is due, call the hooks."""
        scheduler = self.scheduler
        deadline = scheduler.next_deadline()
        wait_s = max_wait_s
        if deadline is not None:
            wait_s = min(wait_s, max(0.0, deadline - self._clock()))
        ready = self._selector.select(wait_s)
        scheduler.now = max(scheduler.now, self._clock())
        for key, _ in ready:
            # An earlier callback of this round may have removed this one.
            if key.fd in self._selector.get_map():
                key.data()
        scheduler.advance(self._clock())
        for hook in self._hooks:
            hook()

    def run(self) -> None:
        """Run until `stop` is called or, with `install_signals`, SIGTERM or SIGINT arrives."""
        while not self._stopped:
            self.tick()
        self._stopped = False

    def stop(self) -> None:
        """Make `run` return after the current round."""
        self._stopped = True

    def reboot(self, restart: bool) -> None:
        """Stop as a CSP reboot request wants; `restart` False is a shutdown."""
        self.exit_status = REBOOT_STATUS if restart else 0
        self.stop()

    def run_until(self, promise: Promise[T], timeout_s: float | None = None) -> T:
        """Run until the promise is done and return its result.

        Raises NoResponse after `timeout_s`, Cancelled if the loop is stopped meanwhile, and
        whatever the promise fails with.
        """
        end = None if timeout_s is None else self._clock() + timeout_s
        while not promise.done:
            if self._stopped:
                self._stopped = False
                raise Cancelled("the loop was stopped")
            left_s = _MAX_SLEEP_S if end is None else min(_MAX_SLEEP_S, end - self._clock())
            if left_s <= 0:
                raise NoResponse(f"not done within {timeout_s:g} s")
            self.tick(left_s)
        return promise.result()

    # -- signals

    def install_signals(self) -> None:
        """Let SIGTERM and SIGINT stop the loop. Main thread only; undone by `close`."""
        if self._signal_fds is not None:
            raise MisuseError("signals are already installed")
        read_fd, write_fd = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._signal_fds = (read_fd, write_fd)
        for number in (signal.SIGTERM, signal.SIGINT):
            self._previous[number] = signal.signal(number, _only_wake_up)
        signal.set_wakeup_fd(write_fd, warn_on_full_buffer=False)
        self.add_reader(read_fd, self._on_signal)

    def _on_signal(self) -> None:
        if self._signal_fds is None:
            return
        for number in os.read(self._signal_fds[0], 64):
            if number in self._previous:
                self.stop()

    def close(self) -> None:
        """Give back the descriptors and the signal handlers."""
        if self._signal_fds is not None:
            signal.set_wakeup_fd(-1)
            for number, handler in self._previous.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            for fd in self._signal_fds:
                self.remove_reader(fd)
                os.close(fd)
            self._signal_fds = None
        self._selector.close()


def _only_wake_up(number: int, frame: FrameType | None) -> None:
    """Do nothing: the number is in the wake-up descriptor already."""
