"""Namespaces for pipeline hosts: own process numbers, own queues and segments, no network.

Driver; called in the forge and in a fresh host. In a PID namespace the host is process 1: when it
dies the kernel kills everything below it, and nothing below it can signal anything outside. In an
IPC namespace segments disappear with the last process, and the node's queue is out of sight. Both
need CAP_SYS_ADMIN; without it sub-reapers and process groups do most of the same.
Source: dependencies.md 7, faults 26, 28, 33 and 34.
"""

from __future__ import annotations

import contextlib
import ctypes
import os

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLONE_NEWPID = 0x20000000
_CLONE_NEWIPC = 0x08000000
_CLONE_NEWNET = 0x40000000


class PidNamespaces:
    """Forks children that are process 1 of a new namespace. `is_enabled` False forks plainly."""

    def __init__(self, is_enabled: bool = True) -> None:
        self._own_fd = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
        self._is_enabled = is_enabled and _can_return(self._own_fd)

    def fork(self) -> tuple[int, bool]:
        """Fork; return the number (0 in the child) and whether there is a new namespace.

        Raises OSError if fork does.
        """
        is_separate = self._is_enabled and _LIBC.unshare(_CLONE_NEWPID) == 0
        pid = -1
        try:
            pid = os.fork()
            return pid, is_separate
        finally:
            # In the parent only: its next child shall not be born into the same namespace.
            if pid != 0 and is_separate and _LIBC.setns(self._own_fd, _CLONE_NEWPID) != 0:
                # Then plain forks would fail once process 1 is dead; stop using namespaces.
                raise OSError(ctypes.get_errno(), "setns")


def _can_return(own_fd: int) -> bool:
    """Say whether this process may go back to its own PID namespace after having left it.

    Not root of a user namespace, a container for example: the way out is open to it, the way back
    is not, and then its second child would be the last. Nothing is changed.
    """
    return int(_LIBC.setns(own_fd, _CLONE_NEWPID)) == 0


def separate_ipc() -> bool:
    """Leave the IPC namespace of the machine. Return False if that is not allowed."""
    return int(_LIBC.unshare(_CLONE_NEWIPC)) == 0


def separate_network() -> None:
    """Move into a network namespace in which nothing is up. Raises OSError."""
    if _LIBC.unshare(_CLONE_NEWNET) != 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))


def probe_namespaces() -> bool:
    """Say whether both can be had, by trying in a child."""
    pid = os.fork()
    if pid == 0:
        status = 1
        with contextlib.suppress(BaseException):  # boundary: a probe only answers
            own_fd = os.open("/proc/self/ns/pid", os.O_RDONLY | os.O_CLOEXEC)
            can = _can_return(own_fd) and _LIBC.unshare(_CLONE_NEWPID | _CLONE_NEWIPC) == 0
            status = 0 if can else 1
        os._exit(status)
    _, status = os.waitpid(pid, 0)
    return status == 0
