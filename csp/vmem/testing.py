"""Make file operations fail, end the process, or forget what was not synced: for crash tests.

Ships with the package so that every store built on `FileOps` can be tested the same way.
"""

from __future__ import annotations

import errno
import itertools
import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass

from csp.vmem.file import FileOps, SystemFileOps


class PowerCut(BaseException):
    """The power went. Not an Exception, so that no error handling runs after it."""


class CountingFileOps:
    """Pass calls on, after `before_call` was told the call's number (from 1) and name."""

    def __init__(self, base: FileOps | None = None) -> None:
        self.base: FileOps = base if base is not None else SystemFileOps()
        self.calls = 0
        self.names: list[str] = []

    def before_call(self, number: int, name: str) -> None:
        """Do nothing; faulty kinds override this."""

    def _count(self, name: str) -> None:
        self.calls += 1
        self.names.append(name)
        self.before_call(self.calls, name)

    def open(self, path: str, flags: int) -> int:
        """Open a file or directory and return its descriptor."""
        self._count("open")
        return self.base.open(path, flags)

    def write(self, fd: int, data: bytes) -> int:
        """Write some of the data and return how much."""
        self._count("write")
        return self.base.write(fd, data)

    def fsync(self, fd: int) -> None:
        """Make a file or directory durable."""
        self._count("fsync")
        self.base.fsync(fd)

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        self._count("close")
        self.base.close(fd)

    def rename(self, old: str, new: str) -> None:
        """Rename a file, replacing what has the new name."""
        self._count("rename")
        self.base.rename(old, new)

    def unlink(self, path: str) -> None:
        """Remove a file."""
        self._count("unlink")
        self.base.unlink(path)

    def read(self, path: str, limit: int) -> bytes:
        """Return at most `limit` bytes from the start of a file."""
        self._count("read")
        return self.base.read(path, limit)


class FailingFileOps(CountingFileOps):
    """Raise OSError(`code`) at call number `fail_at`, and at all later ones if `forever`.

    `close` does not fail: a descriptor that stays open would be the test's own leak.
    """

    def __init__(
        self,
        fail_at: int,
        code: int = errno.ENOSPC,
        *,
        forever: bool = False,
        base: FileOps | None = None,
    ) -> None:
        super().__init__(base)
        self._fail_at = fail_at
        self._code = code
        self._forever = forever

    def before_call(self, number: int, name: str) -> None:
        """Fail if it is this call's turn."""
        due = number >= self._fail_at if self._forever else number == self._fail_at
        if due and name != "close":
            raise OSError(self._code, os.strerror(self._code))


class KillingFileOps(CountingFileOps):
    """Kill the own process with SIGKILL before call number `kill_at`; a write is half done first.

    For forked children only.
    """

    def __init__(self, kill_at: int, base: FileOps | None = None) -> None:
        super().__init__(base)
        self._kill_at = kill_at

    def before_call(self, number: int, name: str) -> None:
        """End the process if it is this call's turn."""
        if number == self._kill_at and name != "write":
            os.kill(os.getpid(), signal.SIGKILL)

    def write(self, fd: int, data: bytes) -> int:
        """Write the data, or half of it and then end the process."""
        self._count("write")
        if self.calls == self._kill_at:
            self.base.write(fd, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self.base.write(fd, data)


class CuttingFileOps(CountingFileOps):
    """Raise PowerCut before call number `cut_at`."""

    def __init__(self, cut_at: int, base: FileOps) -> None:
        super().__init__(base)
        self._cut_at = cut_at

    def before_call(self, number: int, name: str) -> None:
        """Cut the power if it is this call's turn."""
        if number == self._cut_at:
            raise PowerCut


@dataclass(eq=False, slots=True)
class _Inode:
    """A file: what programs see, and what has certainly reached the medium."""

    content: bytes = b""
    synced: bytes = b""


@dataclass(frozen=True, slots=True)
class _NameChange:
    """One change of the directory that is not yet certain: `inode` None removes the name."""

    removes: str | None
    adds: str | None
    inode: _Inode | None


class SimulatedDisk:
    """One directory in memory that knows what a power cut may leave of it.

    POSIX promises content only after a sync of the file, and names only after a sync of the
    directory; until then any selection of the changes may have reached the medium.
    """

    def __init__(self, files: dict[str, bytes] | None = None) -> None:
        self._names = {name: _Inode(data, data) for name, data in (files or {}).items()}
        self._synced_names = dict(self._names)
        self._pending: list[_NameChange] = []
        self._open: dict[int, _Inode | None] = {}
        self._next_fd = itertools.count(1000)

    @property
    def files(self) -> dict[str, bytes]:
        """What programs see now."""
        return {name: inode.content for name, inode in self._names.items()}

    @property
    def open_descriptors(self) -> int:
        """How many descriptors were not closed."""
        return len(self._open)

    def open(self, path: str, flags: int) -> int:
        """Open a file or directory and return its descriptor."""
        inode: _Inode | None = None
        if not flags & os.O_DIRECTORY:
            inode = self._names.get(path)
            if inode is None:
                if not flags & os.O_CREAT:
                    raise FileNotFoundError(errno.ENOENT, "no such file", path)
                inode = self._names[path] = _Inode()
                self._pending.append(_NameChange(None, path, inode))
            if flags & os.O_TRUNC:
                inode.content = b""
        fd = next(self._next_fd)
        self._open[fd] = inode
        return fd

    def write(self, fd: int, data: bytes) -> int:
        """Append at most 4096 bytes and return how many."""
        inode = self._open[fd]
        if inode is None:
            raise OSError(errno.EISDIR, "is a directory")
        part = data[:4096]
        inode.content += part
        return len(part)

    def fsync(self, fd: int) -> None:
        """Make a file's content, or the directory's names, certain."""
        inode = self._open[fd]
        if inode is not None:
            inode.synced = inode.content
        else:
            self._synced_names = dict(self._names)
            self._pending.clear()

    def close(self, fd: int) -> None:
        """Close a descriptor."""
        del self._open[fd]

    def rename(self, old: str, new: str) -> None:
        """Rename a file, replacing what has the new name."""
        if old not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", old)
        inode = self._names.pop(old)
        self._names[new] = inode
        self._pending.append(_NameChange(old, new, inode))

    def unlink(self, path: str) -> None:
        """Remove a file."""
        if self._names.pop(path, None) is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        self._pending.append(_NameChange(path, None, None))

    def read(self, path: str, limit: int) -> bytes:
        """Return at most `limit` bytes from the start of a file."""
        if path not in self._names:
            raise FileNotFoundError(errno.ENOENT, "no such file", path)
        return self._names[path].content[:limit]

    def after_power_cut(self) -> Iterator[dict[str, bytes]]:
        """Yield every directory that may be found after the power comes back."""
        for chosen in itertools.product((False, True), repeat=len(self._pending)):
            names = dict(self._synced_names)
            for change, happened in zip(self._pending, chosen, strict=True):
                if not happened:
                    continue
                if change.removes is not None:
                    names.pop(change.removes, None)
                if change.adds is not None and change.inode is not None:
                    names[change.adds] = change.inode
            unsure = [name for name, inode in names.items() if inode.content != inode.synced]
            for contents in itertools.product(*(_remains(names[name]) for name in unsure)):
                files = {name: inode.synced for name, inode in names.items()}
                files.update(zip(unsure, contents, strict=True))
                yield files


def _remains(inode: _Inode) -> tuple[bytes, ...]:
    """Return what may be left of a file that was not synced: old, new, torn, holes of zeros."""
    content = inode.content
    half = len(content) // 2
    return inode.synced, content, content[:half], content[:half] + bytes(len(content) - half)
