"""The system calls of the file store, as one replaceable object. Driver."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import Protocol

from csp.vmem.file import FileOps, SystemFileOps


@dataclass(frozen=True, slots=True)
class FileState:
    """What tells whether a file is still the one it was."""

    size: int
    modified_ns: int
    inode: int


class StoreOps(FileOps, Protocol):
    """What the store needs beyond a flush and a load; tests make the Nth call fail."""

    def make_folder(self, path: str) -> None:
        """Create a folder and its parents; harmless if it is there."""

    def list_files(self, path: str) -> list[str]:
        """Return the names of the regular files in a folder, sorted; no symbolic links."""

    def state(self, path: str) -> FileState | None:
        """Return the state of a regular file, None if there is none of that name."""

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to its first `size` bytes."""

    def free_bytes(self, path: str) -> int:
        """Return how many bytes can still be stored beside a path."""


class SystemStoreOps(SystemFileOps):
    """The real system calls."""

    def make_folder(self, path: str) -> None:
        """Create a folder and its parents; harmless if it is there."""
        parent = os.path.dirname(path)
        if parent and not os.path.isdir(parent):
            self.make_folder(parent)
        try:
            # Not makedirs, which leaves its mode out of the parents.
            os.mkdir(path, 0o700)
        except FileExistsError:
            if not os.path.isdir(path):
                raise

    def list_files(self, path: str) -> list[str]:
        """Return the names of the regular files in a folder, sorted; no symbolic links."""
        with os.scandir(path) as entries:
            return sorted(each.name for each in entries if each.is_file(follow_symlinks=False))

    def state(self, path: str) -> FileState | None:
        """Return the state of a regular file, None if there is none of that name."""
        try:
            found = os.lstat(path)
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(found.st_mode):
            return None
        return FileState(found.st_size, found.st_mtime_ns, found.st_ino)

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to its first `size` bytes."""
        os.truncate(path, size)

    def free_bytes(self, path: str) -> int:
        """Return how many bytes can still be stored beside a path."""
        found = os.statvfs(path)
        return found.f_bavail * found.f_frsize


def write_file(ops: StoreOps, path: str, data: bytes) -> None:
    """Create or replace a file and make its content durable. Raises OSError."""
    _write(ops, path, data, os.O_TRUNC, durable=True)


def append_file(ops: StoreOps, path: str, data: bytes) -> None:
    """Append to a file, not yet durably. Raises OSError; part of the data may then be there."""
    _write(ops, path, data, os.O_APPEND, durable=False)


def _write(ops: StoreOps, path: str, data: bytes, flag: int, *, durable: bool) -> None:
    fd = ops.open(path, os.O_WRONLY | os.O_CREAT | flag)
    try:
        done = 0
        while done < len(data):
            done += ops.write(fd, data[done:])
        if durable:
            ops.fsync(fd)
    finally:
        ops.close(fd)


def sync_file(ops: StoreOps, path: str) -> None:
    """Make the content of a file durable. Raises OSError."""
    _sync(ops, path, os.O_RDONLY)


def sync_folder(ops: StoreOps, path: str) -> None:
    """Make the names in a folder durable. Raises OSError."""
    _sync(ops, path, os.O_RDONLY | os.O_DIRECTORY)


def _sync(ops: StoreOps, path: str, flags: int) -> None:
    fd = ops.open(path, flags)
    try:
        ops.fsync(fd)
    finally:
        ops.close(fd)


def remove_file(ops: StoreOps, path: str) -> bool:
    """Remove a file; return whether it was there. Raises OSError."""
    try:
        ops.unlink(path)
    except FileNotFoundError:
        return False
    return True
