"""Memory of batches: arenas that one module writes and others read, and who uses them when.

Driver. An arena is a file whose size is fixed for ever, so that no reader can be killed by
truncation: an anonymous one with seals, or one in huge pages (hugefiles.py). It is used again for
later batches, because first touches of pages cost more than most modules; its content is therefore
not sealed. Nobody trusts it: metadata are copied before they are checked, and pixels are whatever
the modules of this one pipeline made of them. A camera's segment gives no promise at all and is
read with `pread`.
Source: performance.md 3, style-anchors.md 3, faults 4 and 32.
"""

from __future__ import annotations

import ctypes
import fcntl
import mmap
import os
import stat
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Self

from dipp.errors import Code, ContentError
from dipp.runner.birth import Birth
from dipp.runner.channel import close_fds
from dipp.workspace import SegmentRange

_SIZE_SEALS = fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK
# The last one, so that no module can seal away what the next one needs.
_SEALS = _SIZE_SEALS | fcntl.F_SEAL_SEAL
_POPULATE_READ, _POPULATE_WRITE = 22, 23
_PUNCH_HOLE, _KEEP_SIZE = 2, 1
_BLOCK_BYTES = 512
# A stage writes one and reads the other; fewer pages in use are warmer pages. Where images wait in
# both, or the node still reads a result, a spare one is taken.
ROTATING = 2
# What a host uses: scratch memory, these, and a spare one, because the node still reads the result
# of one batch while the next one runs.
IN_USE = 1 + ROTATING + 1

_HUGE_PAGE = 14
_BUFFER_READ, _BUFFER_WRITE = 0x100, 0x200

_LIBC = ctypes.CDLL(None, use_errno=True)
_LIBC.fallocate.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64)
# Looked up once, here: in a fresh child every look-up copies pages.
_MMAP, _MUNMAP, _MADVISE = _LIBC.mmap, _LIBC.munmap, _LIBC.madvise
_VIEW = ctypes.pythonapi.PyMemoryView_FromMemory
_MMAP.restype = ctypes.c_void_p
_MMAP.argtypes = (
    ctypes.c_void_p,
    ctypes.c_size_t,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_int,
    ctypes.c_long,
)
_MUNMAP.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_MADVISE.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_VIEW.restype = ctypes.py_object
_VIEW.argtypes = (ctypes.c_void_p, ctypes.c_ssize_t, ctypes.c_int)
_MAP_FAILED = ctypes.c_void_p(-1).value


def create_arena(size_bytes: int) -> int:
    """Return a descriptor of sparse zeroed memory; untouched pages cost nothing."""
    fd = os.memfd_create("dipp-arena", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, size_bytes)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except OSError:
        os.close(fd)
        raise
    return fd


def has_fixed_size(fd: int, device: int = 0) -> bool:
    """Say whether a descriptor is memory that nobody can shorten any more.

    `device` is the one whose files nobody could ever shorten, 0 for none; see hugefiles.py.
    """
    try:
        if device and os.fstat(fd).st_dev == device:
            return True
        return fcntl.fcntl(fd, fcntl.F_GET_SEALS) & _SIZE_SEALS == _SIZE_SEALS
    except OSError:
        return False


def identity(fd: int) -> tuple[int, int]:
    """Return device and inode of a segment. Raises OSError."""
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def segment_status(fd: int) -> os.stat_result:
    """Look at a segment. Raises ContentError (303) for what is not a plain one."""
    try:
        status = os.fstat(fd)
    except OSError as error:
        raise ContentError(f"segment: {error}", Code.SHM_ATTACH) from error
    if not stat.S_ISREG(status.st_mode):
        raise ContentError(f"segment has file mode {status.st_mode:o}", Code.SHM_ATTACH)
    return status


def segment_size(fd: int) -> int:
    """Return the size in bytes. Raises ContentError (303) for what is not a plain segment."""
    return segment_status(fd).st_size


def used_bytes(fd: int) -> int:
    """Return how much memory a segment holds, which may be less than its size."""
    return os.fstat(fd).st_blocks * _BLOCK_BYTES


def read_range(fd: int, place: SegmentRange) -> bytes:
    """Return the bytes of a range, fewer if the segment has been shortened meanwhile."""
    parts: list[bytes] = []
    _, offset, length = place
    end = offset + length
    while offset < end:
        part = os.pread(fd, end - offset, offset)
        if not part:
            break
        parts.append(part)
        offset += len(part)
    return parts[0] if len(parts) == 1 else b"".join(parts)


def map_segment(fd: int) -> memoryview:
    """Map a whole segment, shared and read-only. An empty one is an empty view."""
    size = segment_size(fd)
    if not size:
        return memoryview(b"")
    return memoryview(mmap.mmap(fd, size, flags=mmap.MAP_SHARED, prot=mmap.PROT_READ))


class Mapping(NamedTuple):
    """A segment in the address space of this process, for the rest of its life."""

    address: int
    view: memoryview

    def warm(self, size_bytes: int, start: int = 0) -> None:
        """Make some bytes, from a page on, ready to be touched, where the kernel can do that."""
        size_bytes = min(len(self.view) - start, -(-size_bytes // mmap.PAGESIZE) * mmap.PAGESIZE)
        if size_bytes > 0:
            how = _POPULATE_READ if self.view.readonly else _POPULATE_WRITE
            _MADVISE(self.address + start, size_bytes, how)

    def unmap(self) -> None:
        """Take it out of the address space; the view must not be looked at any more."""
        if self.address:
            _MUNMAP(self.address, len(self.view))


def map_for_good(fd: int, *, writable: bool = False, limit_bytes: int | None = None) -> Mapping:
    """Map a segment for the rest of this process, without keeping a descriptor.

    At most the first `limit_bytes` are mapped, for address space is bounded too. Raises OSError.
    """
    size = segment_size(fd)
    if limit_bytes is not None:
        size = min(size, limit_bytes)
    if not size:
        return Mapping(0, memoryview(b""))
    prot = mmap.PROT_READ | mmap.PROT_WRITE if writable else mmap.PROT_READ
    address = _MMAP(None, size, prot, mmap.MAP_SHARED, fd, 0)
    if address in (None, _MAP_FAILED):
        raise OSError(ctypes.get_errno(), f"map {size} bytes")
    # Has an effect where the administrator allows huge pages for shared memory.
    _MADVISE(address, size, _HUGE_PAGE)
    return Mapping(address, _VIEW(address, size, _BUFFER_WRITE if writable else _BUFFER_READ))


@dataclass(slots=True, eq=False)
class Arena:
    """One arena. The `number` of a rotating one is below `ROTATING`; children have it mapped.

    Whoever shall only read it gets `read_fd`: a mapping of that can never be made writable.
    """

    number: int
    fd: int
    read_fd: int
    # The batch whose results lie in it, until the node has read them.
    lent_to: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ChildMemory:
    """The rotating arenas and the scratch memory as all children of a host have them mapped.

    A child keeps of those that can be written its own. `stand_in_fd` is a segment of one byte, for
    rehearsals: to look at the first byte of an arena would take its first huge page apart.
    """

    readable: tuple[Mapping, ...]
    writable: tuple[Mapping, ...]
    scratch: Mapping
    stand_in_fd: int

    @classmethod
    def map(cls, pool: ArenaPool) -> Self:
        """Map all. Raises OSError."""
        stand_in_fd = os.memfd_create("dipp-stand-in", os.MFD_CLOEXEC)
        os.write(stand_in_fd, b"\0")
        return cls(
            readable=tuple(map_for_good(arena.read_fd) for arena in pool.rotating),
            writable=tuple(map_for_good(arena.fd, writable=True) for arena in pool.rotating),
            scratch=map_for_good(pool.scratch_fd, writable=True),
            stand_in_fd=stand_in_fd,
        )

    def keep(self, own: int) -> None:
        """Write only the arena of that number from now on."""
        for number, mapping in enumerate(self.writable):
            if number != own:
                mapping.unmap()

    def warm(self, birth: Birth, limit_bytes: int) -> None:
        """Make ready what earlier batches touched, but of each no more than that."""
        self.readable[birth.before].warm(min(birth.before_bytes, limit_bytes))
        self.writable[birth.own].warm(min(birth.own_bytes, limit_bytes))
        self.scratch.warm(min(birth.scratch_bytes, limit_bytes))


class ArenaPool:
    """The arenas of one host, and the scratch memory that its children use one after another."""

    def __init__(self, size_bytes: int, keep_bytes: int, files: Sequence[int] = ()) -> None:
        """Make what a chain usually needs; it costs nothing until it is used. Raises OSError.

        `files` are `IN_USE` files of that size that cannot be shortened; without, they are made.
        """
        self.size_bytes = size_bytes
        self._keep_bytes = keep_bytes
        self.scratch_fd, *fds = files or [create_arena(size_bytes) for _ in range(IN_USE)]
        self._by_fd: dict[int, Arena] = {}
        arenas = [self._add(number, fd) for number, fd in enumerate(fds)]
        self.rotating, self._spare = arenas[:ROTATING], arenas[ROTATING:]
        # Which of them the first stage of the next batch writes.
        self._first = 0

    def of_stage(self, position: int) -> Arena:
        """Return the arena a child for that stage, counted from 0, is made with."""
        return self.rotating[(self._first + position) % ROTATING]

    def find(self, fd: int) -> Arena | None:
        """Return the arena with that descriptor; None for an input segment."""
        return self._by_fd.get(fd)

    def readable(self, fds: Iterable[int]) -> list[int]:
        """Return the descriptors through which those arenas can be read only."""
        return [arena.read_fd for fd in fds if (arena := self.find(fd)) is not None]

    def is_free(self, arena: Arena, used: Collection[int]) -> bool:
        """Say whether it may be written, `used` being the descriptors of a batch's segments."""
        return arena.lent_to is None and arena.fd not in used

    def spare(self, used: Collection[int]) -> Arena:
        """Return one that is free, a new one if need be. Raises OSError."""
        for arena in self._spare:
            if self.is_free(arena, used):
                return arena
        arena = self._add(ROTATING + len(self._spare), create_arena(self.size_bytes))
        self._spare.append(arena)
        return arena

    def lend(self, fds: Iterable[int], batch_id: int) -> None:
        """Leave arenas alone until the batch is released."""
        for fd in fds:
            arena = self.find(fd)
            if arena is not None:
                arena.lent_to = batch_id
                if arena.number < ROTATING:
                    self._first = (arena.number + 1) % ROTATING

    def release(self, batch_id: int) -> None:
        """Use the arenas of a batch again."""
        for arena in self._by_fd.values():
            if arena.lent_to == batch_id:
                arena.lent_to = None

    def trim(self) -> None:
        """Give memory back until what is kept fits the allowance; lent arenas are left alone."""
        lent = {arena.fd for arena in self._by_fd.values() if arena.lent_to is not None}
        kept = self._kept(lent)
        for fd in (self.scratch_fd, *self._by_fd):
            if fd not in kept:
                _LIBC.fallocate(fd, _PUNCH_HOLE | _KEEP_SIZE, 0, self.size_bytes)

    def lasting(self) -> dict[int, int]:
        """Return by descriptor what will still be there of each when all have been released.

        To make more than that ready would bring memory back that has just been given away.
        """
        return self._kept(())

    def _kept(self, lent: Collection[int]) -> dict[int, int]:
        """Return what may be kept, and what must be, with the bytes used of each.

        One that takes more than its share is not kept: beside it the next batch would need as much
        again. New memory in huge pages costs little.
        """
        share = self._keep_bytes // (1 + ROTATING)
        found = {fd: used_bytes(fd) for fd in (self.scratch_fd, *self._by_fd)}
        sizes = {fd: size for fd, size in found.items() if size <= share or fd in lent}
        # The spare ones go first: those of the stages are what the next batch will touch.
        for fd in reversed(tuple(sizes)):
            if sum(sizes.values()) <= self._keep_bytes:
                break
            if fd not in lent:
                del sizes[fd]
        return sizes

    def close(self) -> None:
        """Give all descriptors back."""
        arenas = self._by_fd.values()
        close_fds([self.scratch_fd, *(fd for arena in arenas for fd in (arena.fd, arena.read_fd))])

    def _add(self, number: int, fd: int) -> Arena:
        try:
            read_fd = os.open(f"/proc/self/fd/{fd}", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            os.close(fd)
            raise
        arena = Arena(number, fd, read_fd)
        self._by_fd[arena.fd] = arena
        return arena
