"""Memory of batches: arenas that one module writes, segments that everybody reads.

Driver. An arena is an anonymous file whose size is sealed while a module writes it and whose
content is sealed before anybody reads it, so that a reader can neither be surprised by changes nor
killed by truncation. A camera's segment gives no such promise and is read with `pread`.
Source: style-anchors.md 3, faults 4 and 32.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import stat

from dipp.errors import Code, ContentError
from dipp.workspace import SegmentRange

_SIZE_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
_ALL_SEALS = _SIZE_SEALS | fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SEAL


def create_arena(size_bytes: int) -> int:
    """Return a descriptor of sparse zeroed memory; untouched pages cost nothing."""
    fd = os.memfd_create("dipp-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SIZE_SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def freeze_arena(fd: int) -> None:
    """Make the content immutable. Raises ContentError (603) if somebody still may write it."""
    try:
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL_SEALS)
    except OSError as error:
        text = f"arena is still mapped by a process that escaped: {error}"
        raise ContentError(text, Code.RESULT_INVALID) from error


def is_frozen(fd: int) -> bool:
    """Say whether a descriptor is memory that nobody can change or shorten any more."""
    try:
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _ALL_SEALS == _ALL_SEALS
    except OSError:
        return False


def segment_size(fd: int) -> int:
    """Return the size in bytes. Raises ContentError (303) for what is not a plain segment."""
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise ContentError(f"segment: {error}", Code.SHM_ATTACH) from error
    if not stat.S_ISREG(status.st_mode):
        raise ContentError(f"segment has file mode {status.st_mode:o}", Code.SHM_ATTACH)
    return status.st_size


def read_range(fd: int, place: SegmentRange) -> bytes:
    """Return the bytes of a range, fewer if the segment has been shortened meanwhile."""
    parts: list[bytes] = []
    offset = place.offset
    while offset < place.end:
        part = os.pread(fd, place.end - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def map_segment(fd: int, *, writable: bool = False) -> memoryview:
    """Map a whole segment, shared. An empty one, which cannot be mapped, is an empty view."""
    size = segment_size(fd)
    if not size:
        return memoryview(b"")
    prot = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    return memoryview(mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=prot))
