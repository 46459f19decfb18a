"""The processes of the A53 box: stop them all while the A53 sleeps, never leave one stopped.

Theory of operation: the launcher writes a JSON file `{"NAME": PID, ...}` with the main process of
each program of the box. Freezing stops these and all their descendants, parents first and until no
new ones appear, because a process that is not yet stopped may still fork. Each is held by a pidfd,
so a number that was reused can never be continued or stopped by mistake. A guard process, started
before anything else, continues them all when this process ends in whatever way, also by SIGKILL.
Driver.
"""

from __future__ import annotations

import json
import os
import select
import signal
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

_ROUNDS = 20
# A box has two programs with a few dozen processes; a file that names more is not ours.
_MAX_PIDS = 64
_MAX_FILE_BYTES = 65536


def read_pids(path: Path) -> tuple[int, ...]:
    """Return the process ids in a `{"NAME": PID}` file; empty if there is no such file yet.

    Raises ValueError for a file that is something else.
    """
    try:
        with path.open("rb") as file:
            text = file.read(_MAX_FILE_BYTES + 1)
    except FileNotFoundError:
        return ()
    document = json.loads(text)
    if not isinstance(document, dict) or len(document) > _MAX_PIDS:
        raise ValueError(f"{path} is not a list of names and process ids")
    pids = tuple(document.values())
    # 0 and negative numbers mean whole process groups to kill(2), and 1 is the system.
    if not all(isinstance(pid, int) and not isinstance(pid, bool) and pid > 1 for pid in pids):
        raise ValueError(f"{path} has something that is not a process id")
    return pids


def descendants(pids: Iterable[int]) -> list[int]:
    """Return the processes and all they started that still run, parents before children."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            parent = _parent(int(entry))
            if parent is not None:
                children.setdefault(parent, []).append(int(entry))
    found: list[int] = []
    queue = list(pids)
    while queue:
        pid = queue.pop(0)
        if pid not in found:
            found.append(pid)
            queue.extend(children.get(pid, ()))
    return found


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None  # it ended while we looked
    # The name, in brackets, may hold anything; the fields follow the last bracket.
    return int(stat.rpartition(")")[2].split()[1])


@dataclass(slots=True)
class ProcessBox:
    """Stops and continues the processes named in a file. Use as a context manager.

    Make it before any thread or socket: it forks its guard. `faults` counts unreadable files.
    """

    path: Path
    faults: int = 0
    _held: dict[int, int] = field(default_factory=dict)
    _guard_pipe: int = -1
    _guard_pid: int = 0

    def __enter__(self) -> ProcessBox:
        read_fd, self._guard_pipe = os.pipe2(os.O_CLOEXEC)
        self._guard_pid = os.fork()
        if self._guard_pid == 0:
            os.close(self._guard_pipe)
            _guard(read_fd)
        os.close(read_fd)
        return self

    def __exit__(self, *_: object) -> None:
        self.thaw()
        os.close(self._guard_pipe)
        os.waitpid(self._guard_pid, 0)

    @property
    def frozen(self) -> int:
        """How many processes are stopped by us and still exist."""
        return len(self._held)

    def freeze(self) -> None:
        """Stop the box, also what was started since the last call. Never raises."""
        try:
            roots = read_pids(self.path)
        except (OSError, ValueError):
            self.faults += 1
            roots = ()
        self._forget_ended()
        for _ in range(_ROUNDS):
            fresh = [pid for pid in descendants(roots) if pid not in self._held]
            if not fresh:
                return
            for pid in fresh:
                self._stop(pid)
        self.faults += 1

    def thaw(self) -> None:
        """Continue everything, children first. Never raises; harmless if nothing is stopped."""
        for pidfd in reversed(self._held.values()):
            _signal(pidfd, signal.SIGCONT)
            os.close(pidfd)
        self._held.clear()
        self._tell_guard()

    def _stop(self, pid: int) -> None:
        if pid == os.getpid() or pid == self._guard_pid:
            return
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:
            return  # it ended while we looked
        self._held[pid] = pidfd
        # The guard learns first: a kill of this process in between must not leave one stopped.
        self._tell_guard()
        _signal(pidfd, signal.SIGSTOP)

    def _forget_ended(self) -> None:
        for pid, pidfd in list(self._held.items()):
            # Readable means ended, also while its parent has not collected it yet.
            if select.select([pidfd], [], [], 0)[0]:
                os.close(pidfd)
                del self._held[pid]

    def _tell_guard(self) -> None:
        if self._guard_pipe >= 0:
            line = " ".join(map(str, self._held)) + "\n"
            os.write(self._guard_pipe, line.encode())


def _signal(pidfd: int, number: signal.Signals) -> None:
    try:
        signal.pidfd_send_signal(pidfd, number)
    except ProcessLookupError:
        return  # it ended meanwhile, which is all a stop or a continue could want


def _guard(read_fd: int) -> None:
    """Wait until the node ends, then continue what was last said to be stopped. Never returns."""
    os.setsid()  # outside the node's group: whoever kills that must not kill the guard
    # Ends with the pipe and with nothing else.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    last, rest = b"", b""
    while chunk := os.read(read_fd, 65536):
        *lines, rest = (rest + chunk).split(b"\n")
        last = lines[-1] if lines else last
    for pid in reversed(last.split()):
        try:
            os.kill(int(pid), signal.SIGCONT)
        except (ProcessLookupError, PermissionError):
            continue  # it ended
    os._exit(0)
