"""Directories to prepare things in, that are swept after their owner has been killed. Driver.

The owner holds a lock on its directory, so a sweep takes only what nobody works in: not the room of
a runner that outlives its killed command by a moment.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def locked_room(parent: Path, prefix: str = "") -> Iterator[Path]:
    """Give an empty directory, gone afterwards. Raises OSError before it is given."""
    path, lock_fd = _make(parent, prefix)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock_fd)


def _make(parent: Path, prefix: str) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
        try:
            lock_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            # Somebody who sweeps took it for stale before it was locked.
            continue
        # Where a shared file system knows no such locks, nothing is ever swept either.
        with contextlib.suppress(OSError):
            fcntl.flock(lock_fd, fcntl.LOCK_SH)
        if path.exists():
            return path, lock_fd
        os.close(lock_fd)


def sweep_rooms(parent: Path, prefix: str = "") -> None:
    """Remove the directories of processes that are gone."""
    for path in parent.glob(f"{prefix}*"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        except OSError:
            # Another user's, or removed meanwhile.
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        except OSError:
            # In use, or on a file system that cannot tell.
            continue
        finally:
            os.close(fd)
