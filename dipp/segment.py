"""Input segments: named POSIX shared memory that a camera made and the node reads.

Theory of operation: a segment is never mapped here, because its maker could truncate it under the
mapping and so kill the node (SIGBUS); it is read with `pread`. It is recognised by device and
inode, so that a later segment of the same name is never removed by mistake. Source: dipp.md 8,
defects D4, D11; faults 4 and 38.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat

import posix_ipc

from dipp.errors import Code, ContentError

_SHORTAGES = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


class Segment:
    """An open input segment, read-only."""

    def __init__(self, name: str) -> None:
        """Open by name (checked by the message decoder).

        Raises ContentError (303), or OSError if this process is short of something just now.
        """
        self.name = name
        try:
            self.fd = int(posix_ipc.SharedMemory(name, flags=0, read_only=True).fd)
        except (OSError, ValueError, posix_ipc.Error) as error:
            if isinstance(error, OSError) and error.errno in _SHORTAGES:
                raise
            raise ContentError(f"segment {name}: {error}", Code.SHM_ATTACH) from error
        status = os.fstat(self.fd)
        if not stat.S_ISREG(status.st_mode):
            os.close(self.fd)
            raise ContentError(f"segment {name} is not shared memory", Code.SHM_ATTACH)
        self.device, self.inode = status.st_dev, status.st_ino

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


def remove_segment(name: str, device: int, inode: int) -> bool:
    """Remove a segment if it still is the one of that device and inode; say whether it was.

    Zero for both means that it was never opened: then nothing is removed.
    """
    if not inode:
        return False
    try:
        segment = Segment(name)
    except (ContentError, OSError):
        return False
    same = (segment.device, segment.inode) == (device, inode)
    segment.close()
    if same:
        with contextlib.suppress(posix_ipc.Error, OSError):
            posix_ipc.unlink_shared_memory(name)
    return same
