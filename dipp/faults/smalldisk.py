"""A disk and a System V limit of our own that really run full, for one forked child. Driver.

A child with a mount namespace of its own mounts a small tmpfs; nobody else sees it. As an ordinary
user that needs user namespaces.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path

from csp.faultrow import NotInjected, Violation

_LIBC = ctypes.CDLL(None, use_errno=True)
_NEW_MOUNTS, _NEW_USERS = 0x00020000, 0x10000000
_PRIVATE_TREE = 0x00040000 | 0x00004000
_NOT_INJECTED, _VIOLATED = 77, 78
_REPORT_BYTES = 4000


def on_small_disk(place: Path, size_bytes: int, function: Callable[[], str]) -> str:
    """Run a function in a fork that has a disk of that size at `place`; return what it says.

    Raises Violation with its complaint, NotInjected if nothing can be mounted here.
    """

    def inside() -> str:
        _mount(place, size_bytes)
        return function()

    return in_fork(inside)


def in_fork(function: Callable[[], str]) -> str:
    """Run a function in a fork and return what it says. Raises Violation, NotInjected."""
    ours, theirs = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        status = _VIOLATED
        try:
            os.close(ours)
            status, text = _attempt(function)
            os.write(theirs, text.encode(errors="replace")[:_REPORT_BYTES])
        finally:
            # Also if nobody reads any more: a fork must never return into its parent's code.
            os._exit(status)
    os.close(theirs)
    try:
        with open(ours, "rb") as reader:
            text = reader.read().decode(errors="replace")
    except BaseException:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status == _NOT_INJECTED:
        raise NotInjected(text)
    if status != 0:
        raise Violation(text or f"the child ended with {status}")
    return text


def _attempt(function: Callable[[], str]) -> tuple[int, str]:
    try:
        return 0, function()
    except NotInjected as error:
        return _NOT_INJECTED, str(error)
    except Violation as error:
        return _VIOLATED, str(error)
    except BaseException as error:  # boundary: whatever it is becomes a report
        traceback.print_exc()
        return _VIOLATED, f"{type(error).__name__}: {error}"


def _mount(place: Path, size_bytes: int) -> None:
    user, group = os.getuid(), os.getgid()
    flags = _NEW_MOUNTS | (_NEW_USERS if user else 0)
    if _LIBC.unshare(flags) != 0:
        raise NotInjected(f"no namespace for a small disk: {os.strerror(ctypes.get_errno())}")
    if user:
        with contextlib.suppress(OSError):
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {user} 1")
            Path("/proc/self/gid_map").write_text(f"0 {group} 1")
    _LIBC.mount(None, b"/", None, _PRIVATE_TREE, None)
    options = f"size={size_bytes},mode=0700".encode()
    if _LIBC.mount(b"small", os.fsencode(place), b"tmpfs", 0, options) != 0:
        raise NotInjected(f"no small disk can be mounted: {os.strerror(ctypes.get_errno())}")


def fill(place: Path) -> Path:
    """Write a file until the disk is full; removing it ends the shortage."""
    path = place / "filler"
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):
        for size in (65536, 1024, 1):
            with contextlib.suppress(OSError):
                while os.write(fd, bytes(size)):
                    continue
    os.close(fd)
    return path
