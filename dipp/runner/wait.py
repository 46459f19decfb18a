"""Watch, kill and bury child processes and whatever they left behind.

Driver. A child is known by pidfd, so a recycled number is never signalled. Its process group is
killed before it is reaped, because until then the number still belongs to it. What escaped the
group is adopted by the nearest sub-reaper, which is why forge and hosts are ones.
Source: performance.md 2, style-anchors.md 3, faults 26, 34 and 72.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import signal
import time
from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_LIBC = ctypes.CDLL(None, use_errno=True)
_PR_SET_CHILD_SUBREAPER = 36
_IPC_RMID = 0
# A killed process is gone within a millisecond; one in an uninterruptible wait may never be. The
# owner of the outer deadline deals with that.
REAP_DEADLINE_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Burial:
    """How a child ended and what it used. `signal` or `status` is 0."""

    signal: int = 0
    status: int = 0
    cpu_s: float = 0.0
    peak_rss_kb: int = 0


def become_subreaper() -> None:
    """Adopt orphaned descendants. Raises OSError."""
    if _LIBC.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def wait_readable(fd: int, timeout_s: float) -> bool:
    """Wait for a descriptor, a pidfd for example, at most so long."""
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    return bool(poller.poll(max(0.0, timeout_s) * 1000))


def spin_readable(fd: int, end: float) -> bool:
    """Wait for a descriptor without sleeping, until that time on the monotonic clock.

    Whoever else has work on this processor goes first.
    """
    poller = select.poll()
    poller.register(fd, select.POLLIN)
    while time.monotonic() < end:
        if poller.poll(0):
            return True
        os.sched_yield()
    return False


def outer_pid(pidfd: int, pid: int) -> int:
    """Return the number of a child as /proc, and so the operator, shows it."""
    with open(f"/proc/self/fdinfo/{pidfd}", encoding="ascii") as file:
        numbers = [line.split()[1] for line in file if line.startswith("Pid:")]
    return int(numbers[0]) if numbers and int(numbers[0]) > 0 else pid


def cpu_clock(pid: int) -> float:
    """Return the processor seconds a child has used so far; 0 if that cannot be told."""
    try:
        # How the kernel numbers the clock of a process: clock_getcpuclockid(3).
        return time.clock_gettime(~pid << 3 | 2)
    except OSError:
        return 0.0


def peak_rss_kb(outer_pid: int) -> int | None:
    """Return the most memory a process has had mapped at once; None if that is gone already.

    0 if it cannot be told.
    """
    try:
        with open(f"/proc/{outer_pid}/status", "rb") as file:
            rows = [line for line in file if line.startswith(b"VmHWM:")]
    except OSError:
        return 0
    return int(rows[0].split()[1]) if rows else None


def kill_group(pid: int, pidfd: int) -> None:
    """Send SIGKILL to a child and to the process group it leads. Only before it is reaped.

    Does nothing unless number and descriptor are those of one child of this process.
    """
    # To kill(2) the groups 0 and 1 mean our own and everybody: with a number from inside a PID
    # namespace that would end the whole machine.
    if pid <= 1 or not _is_child(pid, pidfd):
        return
    with contextlib.suppress(ProcessLookupError):
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)


def _is_child(pid: int, pidfd: int) -> bool:
    """Ask the kernel, without reaping; until it is reaped, the number stays this child's."""
    peek = os.WEXITED | os.WNOHANG | os.WNOWAIT
    try:
        os.waitid(os.P_PIDFD, pidfd, peek)
        os.waitid(os.P_PID, pid, peek)
    except (ChildProcessError, OSError):
        return False
    return True


def bury(pid: int, pidfd: int) -> Burial | None:
    """Reap a child that has been killed or has exited; None if it does not die in time."""
    if not wait_readable(pidfd, REAP_DEADLINE_S):
        return None
    _, status, usage = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    return Burial(
        signal=-code if code < 0 else 0,
        status=max(code, 0),
        cpu_s=usage.ru_utime + usage.ru_stime,
        peak_rss_kb=usage.ru_maxrss,
    )


def sweep_orphans(known: Collection[int] = ()) -> set[int]:
    """Kill and reap every child except the known ones; return their numbers.

    Repeats until none is left or the deadline passes, because orphans may fork meanwhile.
    """
    swept: set[int] = set()
    end = time.monotonic() + REAP_DEADLINE_S
    while time.monotonic() < end:
        if not known and _reap_exited(swept):
            return swept
        victims = [pid for pid in child_pids() if pid not in known]
        if not victims and known:
            return swept
        for pid in victims:
            _kill_and_reap(pid, end)
            swept.add(pid)
    return swept


def _reap_exited(swept: set[int]) -> bool:
    """Reap what has exited already. Return True if no child is left at all."""
    with contextlib.suppress(ChildProcessError):
        while True:
            pid, _ = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return False
            swept.add(pid)
    return True


def _kill_and_reap(pid: int, end: float) -> None:
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        kill_group(pid, pidfd)
        if wait_readable(pidfd, end - time.monotonic()):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)
    finally:
        os.close(pidfd)


def all_pids() -> list[int]:
    """Return the numbers of all processes that /proc shows."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def child_pids() -> Iterator[int]:
    """Yield the numbers of this process's children, as this process sees them.

    Reads /proc: not every kernel has the `children` file. Numbers in /proc are those of the
    namespace it was mounted in, so the parent is compared there. NSpid has a column for each
    namespace from there inwards; ours is the last one of our own row, whatever follows it belongs
    to namespaces further in and must not be used here.
    """
    me = int(os.readlink("/proc/self"))
    own_column = len(_status_of("self").get(b"NSpid", b"0").split()) - 1
    for pid in all_pids():
        if _parent_of(pid) == me:
            fields = _status_of(str(pid))
            yield int(fields.get(b"NSpid", b"%d" % pid).split()[own_column])


def _parent_of(pid: int) -> int:
    """Return the parent's number, 0 if the process is gone. Much quicker than its status."""
    try:
        fd = os.open(f"/proc/{pid}/stat", os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return 0
    try:
        # The name before it may hold anything, also parentheses.
        return int(os.read(fd, 1024).rpartition(b")")[2].split()[1])
    except OSError:
        return 0
    finally:
        os.close(fd)


def _status_of(name: str) -> dict[bytes, bytes]:
    """Return the fields of /proc/NAME/status; none if the process is gone."""
    try:
        with open(f"/proc/{name}/status", "rb") as file:
            rows = (line.partition(b":") for line in file)
            return {key: value for key, _, value in rows}
    except (FileNotFoundError, ProcessLookupError):
        return {}


def sweep_sysv_segments(creators: Collection[int]) -> Counter[int]:
    """Remove the System V segments that those processes created; return how many of each."""
    removed: Counter[int] = Counter()
    try:
        with open("/proc/sysvipc/shm", "rb") as file:
            rows = [line.split() for line in file.readlines()[1:]]
    except FileNotFoundError:
        # A kernel without System V IPC has no segments to leak.
        return removed
    for row in rows:
        creator = int(row[4])
        if creator in creators and _LIBC.shmctl(int(row[1]), _IPC_RMID, None) == 0:
            removed[creator] += 1
    return removed


class ForkWatch:
    """Tells whether anything else than this process has forked in its PID namespace.

    Looking for orphans means to read all of /proc, which is milliseconds. Where the kernel says
    which number it gave out last, and all numbers are accounted for by our own forks, there are
    none. Only for process 1 of a namespace: every number there was given to something below it.
    """

    def __init__(self) -> None:
        self._fd = -1
        self._last = 0
        self._is_noisy = True
        if os.getpid() == 1:
            with contextlib.suppress(OSError):
                self._fd = os.open("/proc/sys/kernel/ns_last_pid", os.O_RDONLY | os.O_CLOEXEC)

    @property
    def can_tell(self) -> bool:
        """Say whether the kernel answers; else it is never quiet."""
        return self._fd >= 0

    def note(self, pid: int) -> None:
        """Account for a child of our own, at once after its fork."""
        if pid != self._last + 1:
            self._is_noisy = True
        self._last = pid

    @property
    def is_quiet(self) -> bool:
        """Say whether nothing but the children noted was forked since `settle`."""
        return not self._is_noisy and self._ask() == self._last

    def settle(self) -> None:
        """Begin anew: whatever there was has been looked for."""
        self._last = self._ask()
        self._is_noisy = self._last < 0

    def _ask(self) -> int:
        if self._fd < 0:
            return -1
        try:
            return int(os.pread(self._fd, 32, 0))
        except (OSError, ValueError):
            return -1
