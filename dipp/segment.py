"""Input segments: named POSIX shared memory that a camera made and the node reads.

Theory of operation: a segment is never mapped here, because its maker could truncate it under the
mapping and so kill the node (SIGBUS); it is read with `pread`. It is recognised by device and
inode, so that a later segment of the same name is never removed by mistake. Source: dipp.md 8,
defects D4, D11; faults 4 and 38.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
from pathlib import Path

import posix_ipc

from dipp.errors import Code, ContentError

# Where glibc has named segments.
_DIRECTORY = Path("/dev/shm")
_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class OpenSegment:
    """The bytes of a batch, readable. `device` and `inode` are 0 if there is nothing to remove."""

    def __init__(self, name: str, fd: int, device: int = 0, inode: int = 0) -> None:
        self.name = name
        self.fd = fd
        self.device, self.inode = device, inode

    @property
    def size(self) -> int:
        """Bytes the segment has now."""
        return os.fstat(self.fd).st_size

    def read(self, offset: int, size: int) -> bytes:
        """Return bytes, fewer where the segment ends."""
        data = os.pread(self.fd, size, offset)
        while len(data) < size:
            more = os.pread(self.fd, size - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def close(self) -> None:
        """Give back the descriptor; the segment stays."""
        os.close(self.fd)


class Segment(OpenSegment):
    """An open input segment, read-only."""

    def __init__(self, name: str) -> None:
        """Open by name (checked by the message decoder).

        Raises ContentError (303), or OSError if this process is short of something just now.
        """
        try:
            fd = int(posix_ipc.SharedMemory(name, flags=0, read_only=True).fd)
        except (OSError, ValueError, posix_ipc.Error) as error:
            # posix_ipc gives no number when no descriptor is left, here or on the machine.
            if isinstance(error, OSError) and error.errno in (None, *_SHORTAGES):
                raise
            raise ContentError(f"segment {name}: {error}", Code.SHM_ATTACH) from error
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(fd)
            raise ContentError(f"segment {name} is not shared memory", Code.SHM_ATTACH)
        super().__init__(name, fd, status.st_dev, status.st_ino)


class MemorySegment(OpenSegment):
    """A batch that lies nowhere else in memory: filled, then sealed against any change."""

    def __init__(self, name: str) -> None:
        """Make it empty. Raises OSError."""
        super().__init__(name, os.memfd_create("dipp-batch", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))

    def append(self, data: bytes) -> None:
        """Add bytes. Raises OSError."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.fd, view) :]

    def seal(self) -> None:
        """Let nobody change it any more, neither modules nor this node. Raises OSError."""
        os.lseek(self.fd, 0, os.SEEK_SET)
        fcntl.fcntl(
            self.fd,
            fcntl.F_ADD_SEALS,
            fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL,
        )


def identify_segment(name: str) -> tuple[int, int]:
    """Return device and inode of a segment without opening it; 0, 0 if there is none."""
    try:
        status = os.stat(_DIRECTORY / name.lstrip("/"), follow_symlinks=False)
    except (OSError, ValueError):
        return 0, 0
    return (status.st_dev, status.st_ino) if stat.S_ISREG(status.st_mode) else (0, 0)


def remove_segment(name: str, device: int, inode: int) -> bool:
    """Remove a segment if it still is the one of that device and inode; say whether it was.

    Zero for both means that it was never opened: then nothing is removed.
    """
    if not inode:
        return False
    # Not by opening it: a node that has run out of descriptors must still clean up.
    same = identify_segment(name) == (device, inode)
    if same:
        with contextlib.suppress(posix_ipc.Error, OSError):
            posix_ipc.unlink_shared_memory(name)
    return same
