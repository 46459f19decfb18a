"""Make the system calls of a file store fail, kill, or forget what was not synced: for crash tests.

The store's counterpart of `csp.vmem.testing`, whose classes do the faults.
"""

from __future__ import annotations

import errno
import os
import zlib

from csp.files.disk import FileState, StoreOps, SystemStoreOps
from csp.vmem.testing import (
    CountingFileOps,
    CuttingFileOps,
    FailingFileOps,
    KillingFileOps,
    SimulatedDisk,
)

_SIMULATED_FREE_BYTES = 1 << 30


class CountingStoreOps(CountingFileOps):
    """Pass calls on and count them, also those a store has beyond an area."""

    base: StoreOps

    def __init__(self, base: StoreOps | None = None) -> None:
        super().__init__(base if base is not None else SystemStoreOps())

    def make_folder(self, path: str) -> None:
        """Create a folder and its parents; harmless if it is there."""
        self._count("make_folder")
        self.base.make_folder(path)

    def list_files(self, path: str) -> list[str]:
        """Return the names of the regular files in a folder, sorted; no symbolic links."""
        self._count("list_files")
        return self.base.list_files(path)

    def state(self, path: str) -> FileState | None:
        """Return the state of a regular file, None if there is none of that name."""
        self._count("state")
        return self.base.state(path)

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to its first `size` bytes."""
        self._count("truncate")
        self.base.truncate(path, size)

    def free_bytes(self, path: str) -> int:
        """Return how many bytes can still be stored beside a path."""
        self._count("free_bytes")
        return self.base.free_bytes(path)


class FailingStoreOps(CountingStoreOps, FailingFileOps):
    """Raise OSError(`code`) at call number `fail_at`, and at all later ones if `forever`."""

    def __init__(self, fail_at: int, code: int = errno.ENOSPC, *, forever: bool = False) -> None:
        FailingFileOps.__init__(self, fail_at, code, forever=forever, base=SystemStoreOps())


class KillingStoreOps(CountingStoreOps, KillingFileOps):
    """Kill the own process with SIGKILL before call number `kill_at`; a write is half done first.

    For forked children only.
    """

    def __init__(self, kill_at: int) -> None:
        KillingFileOps.__init__(self, kill_at, base=SystemStoreOps())


class CuttingStoreOps(CountingStoreOps, CuttingFileOps):
    """Raise PowerCut before call number `cut_at`."""

    def __init__(self, cut_at: int, base: StoreOps) -> None:
        CuttingFileOps.__init__(self, cut_at, base=base)


class SimulatedStoreDisk(SimulatedDisk):
    """Folders in memory that know what a power cut may leave of them.

    Stricter than its base: a sync of a folder makes the names in that folder certain, not others.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        super().__init__(files)
        self._folders: dict[int, str] = {}

    def make_folder(self, path: str) -> None:
        """Do nothing: every folder exists."""

    def list_files(self, path: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""
        start = f"{path}/"
        inside = (each.removeprefix(start) for each in self.files if each.startswith(start))
        return sorted(name for name in inside if "/" not in name)

    def state(self, path: str) -> FileState | None:
        """Return the state of a file, None if there is none of that name."""
        content = self.files.get(path)
        return None if content is None else FileState(len(content), zlib.crc32(content), 0)

    def truncate(self, path: str, size: int) -> None:
        """Cut a file to its first `size` bytes."""
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self._names[path].content = self._names[path].content[:size]

    def free_bytes(self, path: str) -> int:
        """Return how many bytes can still be stored."""
        return _SIMULATED_FREE_BYTES

    def open(self, path: str, flags: int) -> int:
        """Open a file or folder and return its descriptor."""
        fd = super().open(path, flags)
        if flags & os.O_DIRECTORY:
            self._folders[fd] = f"{path}/"
        return fd

    def fsync(self, fd: int) -> None:
        """Make a file's content, or a folder's names, certain."""
        folder = self._folders.get(fd)
        if folder is None:
            super().fsync(fd)
            return
        unsure = []
        for change in self._pending:
            places = [name for name in (change.removes, change.adds) if name is not None]
            if not any(os.path.dirname(name) + "/" == folder for name in places):
                unsure.append(change)
                continue
            if change.removes is not None:
                self._synced_names.pop(change.removes, None)
            if change.adds is not None and change.inode is not None:
                self._synced_names[change.adds] = change.inode
        self._pending = unsure
