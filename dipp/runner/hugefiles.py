"""Files in huge pages that nobody can shorten: arenas where the machine allows it.

Driver. A fresh process that touches 7 MB of ordinary shared memory spends longer on page faults
than on copying it; in huge pages the faults are gone. An anonymous file has them only where the
administrator says so, but a private file system has them whenever its maker asks.

Theory of operation: such a file cannot be sealed, and whoever shortens it kills every reader of a
mapping. Landlock decides when a file is opened whether its descriptor may ever shorten it. So the
forge makes the file system, attached to nothing; a host has its files opened by a process that has
given that right up, and closes its way to the file system before it loads any module. To open a
file anew through /proc is refused to whoever is confined. The node trusts the device number that
the forge told it. Where any part is missing, arenas are sealed anonymous files.
Source: landlock(7), fsopen(2), performance.md 3.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket

from dipp.runner.channel import close_fds, receive_fds
from dipp.runner.forking import fork_single
from dipp.sandbox.landlock import forbid_truncation
from dipp.sandbox.limits import forbid_privileges

_LIBC = ctypes.CDLL(None, use_errno=True)
_SYSCALL, _FALLOCATE = _LIBC.syscall, _LIBC.fallocate
_FALLOCATE.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
# The same numbers on every architecture.
_FSOPEN, _FSCONFIG, _FSMOUNT = 430, 431, 432
_CLOEXEC, _SET_STRING, _CREATE = 1, 1, 6
_NOSUID, _NODEV, _NOEXEC = 2, 4, 8
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
# No bound of its own: pages are charged to the control group of whoever touches them, as those of
# anonymous files are.
_OPTIONS = ((b"huge", b"always"), (b"size", b"0"), (b"mode", b"0700"))


def mount_huge() -> int:
    """Return a file system in huge pages that is attached nowhere, -1 where there is none."""
    try:
        context = _call(_FSOPEN, b"tmpfs", _CLOEXEC)
    except OSError:
        return -1
    try:
        for key, value in _OPTIONS:
            _call(_FSCONFIG, context, _SET_STRING, key, value, 0)
        _call(_FSCONFIG, context, _CREATE, None, None, 0)
        return _call(_FSMOUNT, context, _CLOEXEC, _NOSUID | _NODEV | _NOEXEC)
    except OSError:
        return -1
    finally:
        os.close(context)


def device_of(mount_fd: int) -> int:
    """Return the number of the device that files of it lie on; 0, which is none, without one."""
    return os.fstat(mount_fd).st_dev if mount_fd >= 0 else 0


def make_files(mount_fd: int, count: int, size_bytes: int) -> list[int]:
    """Return descriptors of so many sparse files that cannot be shortened; none where that fails.

    Must come before anything foreign runs in this process.
    """
    if mount_fd < 0:
        return []
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    fds: list[int] = []
    with ours, theirs, contextlib.suppress(OSError):
        pid = fork_single()
        if pid == 0:
            _make(mount_fd, count, size_bytes, theirs)
        theirs.close()
        os.waitpid(pid, 0)
        fds = receive_fds(ours)[1]
    if len(fds) != count:
        close_fds(fds)
        return []
    return fds


def can_be_opened_anew(fd: int) -> bool:
    """Say whether this process could get another descriptor, which could shorten the file."""
    try:
        os.close(os.open(f"/proc/self/fd/{fd}", os.O_RDWR | os.O_CLOEXEC))
    except OSError:
        return False
    return True


def _make(mount_fd: int, count: int, size_bytes: int, to: socket.socket) -> None:
    """Make the files without the right to shorten them, send them, end this process."""
    try:
        forbid_privileges()
        forbid_truncation()
        socket.send_fds(to, [b"f"], [_make_file(mount_fd, size_bytes) for _ in range(count)])
    finally:
        os._exit(0)


def _make_file(mount_fd: int, size_bytes: int) -> int:
    fd = os.open(".", os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600, dir_fd=mount_fd)
    # Growing by truncation is refused too, so the last byte is written and its page given back.
    os.pwrite(fd, b"\0", size_bytes - 1)
    if _FALLOCATE(fd, _PUNCH_HOLE | _KEEP_SIZE, 0, size_bytes) != 0 or _can_shorten(fd):
        raise OSError(ctypes.get_errno(), "no file that keeps its size")
    return fd


def _can_shorten(fd: int) -> bool:
    """Say whether a descriptor can shorten its file, by trying."""
    try:
        os.ftruncate(fd, 0)
    except OSError:
        return False
    return True


def _call(number: int, *arguments: object) -> int:
    result = int(_SYSCALL(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, os.strerror(error))
    return result
