"""The basic rungs: session, parent death, descriptors, privileges, resource limits.

Driver; called in the module child. Source: style-anchors.md 3, faults 14..16 and 27.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import math
import os
import resource
import signal
from collections.abc import Collection
from dataclasses import dataclass, field

from dipp.runner.values import Policy
from dipp.sandbox.gear import Gear

_LIBC = ctypes.CDLL(None, use_errno=True)
# Looked up once, here: in a fresh child every look-up copies pages.
_PRCTL = _LIBC.prctl
_CLOSE_RANGE = getattr(_LIBC, "close_range", None)
_PR_SET_PDEATHSIG = 1
_PR_SET_NO_NEW_PRIVS = 38
# The parent's deadline is wall time and comes first; this ends what burns several cores at once.
_CPU_SLACK_S = 2
_LAST_FD = 0x7FFFFFFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Confinement:
    """What the rungs need to know about this execution."""

    policy: Policy
    timeout_s: float
    parent_pid: int
    keep_fds: Collection[int]
    gear: Gear = field(default_factory=Gear)
    is_native: bool = False
    # If it is not that of the gear.
    process_limit: int | None = None
    # So many segments of a batch may still be mapped: input, another arena, one to write.
    arenas_later: int = 3


def new_session(confinement: Confinement) -> None:
    """Leave the terminal and become leader of a process group that can be killed as one."""
    os.setsid()


def die_with_parent(confinement: Confinement) -> None:
    """Get SIGKILL when the parent dies; die at once if it is dead already."""
    die_with(confinement.parent_pid)


def close_others(confinement: Confinement) -> None:
    """Close all descriptors but standard ones and those to keep."""
    close_all_but((*confinement.keep_fds, confinement.gear.ruleset_fd))


def no_new_privileges(confinement: Confinement) -> None:
    """Make set-uid programs powerless."""
    forbid_privileges()


def set_limits(confinement: Confinement) -> None:
    """Bound file size, open files and core dumps. Raises OSError, ValueError."""
    policy = confinement.policy
    for kind, limit in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_FSIZE, policy.file_bytes),
        (resource.RLIMIT_NOFILE, policy.open_files),
    ):
        _lower(kind, limit, limit)


def limit_time(confinement: Confinement) -> None:
    """Bound the processor time of this process. Raises OSError, ValueError."""
    cpu_s = math.ceil(confinement.timeout_s) + _CPU_SLACK_S
    # The soft limit sends SIGXCPU, the hard one SIGKILL.
    _lower(resource.RLIMIT_CPU, cpu_s, cpu_s + 1)


def limit_memory(confinement: Confinement) -> None:
    """Bound the address space to what is mapped now plus the module's allowance.

    The segments of a batch are mapped later: its input, perhaps another arena to write, and what is
    used of others. There must be room for them as well.
    """
    # Not `open`: its text layers cost a fresh child a millisecond.
    fd = os.open("/proc/self/statm", os.O_RDONLY | os.O_CLOEXEC)
    try:
        mapped = int(os.read(fd, 256).split()[0]) * resource.getpagesize()
    finally:
        os.close(fd)
    policy = confinement.policy
    ceiling = mapped + policy.memory_bytes + confinement.arenas_later * policy.arena_bytes
    _lower(resource.RLIMIT_AS, ceiling, ceiling)


def limit_processes(confinement: Confinement) -> None:
    """Bound how many processes and threads the user may have, as counted when the host began."""
    ceiling = confinement.process_limit or confinement.gear.process_limit
    if ceiling is None:
        raise OSError(errno.EPERM, "root is not bounded by it")
    _lower(resource.RLIMIT_NPROC, ceiling, ceiling)


def be_killed_first() -> None:
    """If the machine runs out of memory, the module shall die and not the node."""
    fd = os.open("/proc/self/oom_score_adj", os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, b"1000")
    finally:
        os.close(fd)


def forbid_privileges() -> None:
    """Gain nothing by executing a program, for good. Raises OSError."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def die_with(parent_pid: int) -> None:
    """Get SIGKILL when that parent dies; exit at once if it is dead already. Raises OSError."""
    prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent_pid:
        os._exit(1)


def close_all_but(keep_fds: Collection[int]) -> None:
    """Close every descriptor from 3 on that is not to be kept."""
    low = 3
    for fd in sorted(fd for fd in keep_fds if fd >= low):
        _close_range(low, fd - 1)
        low = fd + 1
    _close_range(low, _LAST_FD)


def prctl(option: int, value: int) -> None:
    """Call prctl(2). Raises OSError."""
    if _PRCTL(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), f"prctl {option}")


def _lower(kind: int, soft: int, hard: int) -> None:
    _, ceiling = resource.getrlimit(kind)
    if ceiling != resource.RLIM_INFINITY:
        hard = min(hard, ceiling)
    resource.setrlimit(kind, (min(soft, hard), hard))


def _close_range(first: int, last: int) -> None:
    if first > last:
        return
    # os.closerange makes one call per number unless Python was built with a recent libc.
    if _CLOSE_RANGE is not None and _CLOSE_RANGE(first, last, 0) == 0:
        return
    for name in os.listdir("/proc/self/fd"):
        if first <= int(name) <= last:
            with contextlib.suppress(OSError):
                os.close(int(name))
