"""The state directory of a node: where everything lies, and the lock that keeps it single.

Source: design.md 9, fault 70.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from dipp.errors import MisuseError


def default_state_dir(node: str) -> Path:
    """Return the state directory of a node if none is given."""
    base = os.environ.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(base) / "payload" / node


class StateDir:
    """A locked state directory."""

    def __init__(self, path: Path) -> None:
        """Create what is missing and take the lock.

        Raises MisuseError if another node uses the directory, OSError.
        """
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.path = path
        self.storage = path / "storage.vmem"
        self.images = path / "images.vmem"
        self.journal = path / "journal"
        self.landing = path / "intake"
        self.quarantine = path / "quarantine"
        self.modules = path / "modules"
        self.log = path / "log"
        self.ledger = path / "ledger"
        self.active_modules = self.modules / "active"
        # One by one: a mode does not hold for the parents that mkdir makes.
        for folder in ("", "staged", "active", "previous"):
            (self.modules / folder).mkdir(mode=0o700, exist_ok=True)
        self._lock_fd = self._lock(path / "lock")

    @staticmethod
    def _lock(path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, 16, 0).decode(errors="replace").strip() or "?"
            os.close(fd)
            raise MisuseError(
                f"{path.parent} is in use by another node (process {owner})"
            ) from None
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        return fd

    def close(self) -> None:
        """Give the lock back."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._lock_fd, 0)
        os.close(self._lock_fd)
