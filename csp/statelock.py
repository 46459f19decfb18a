"""Keep a state directory to one process at a time. Driver. Source: design.md 9, fault 70.

The kernel gives the lock back when its holder dies, however it dies; the file only says who it is.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from csp.errors import MisuseError

LOCK_FILE = "lock"


class StateInUse(MisuseError):
    """Another process works on the same state directory."""


class StateLock:
    """The lock of a state directory, held until `close` or the end of the process."""

    def __init__(self, directory: Path, holder: str = "node") -> None:
        """Make the directory if it is missing, and take its lock.

        `holder` is what such a process is called. Raises StateInUse, OSError.
        """
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        fd = os.open(directory / LOCK_FILE, flags, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        except BlockingIOError:
            owner = os.pread(fd, 16, 0).decode(errors="replace").strip() or "?"
            os.close(fd)
            raise StateInUse(
                f"{directory} is in use by another {holder} (process {owner}); stop that one, or"
                " give this one another --state"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def close(self) -> None:
        """Give the lock back. Harmless if done twice."""
        if self._fd < 0:
            return
        # Nobody's number must be read as the holder's; a disk that fails does not matter now.
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)
        self._fd = -1
