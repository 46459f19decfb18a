"""The image ring on disk: `images.vmem` in the flown format, safe against a kill at any instant.

Theory of operation: `begin` withdraws the elements that are about to be overwritten, then data are
written, then the offsets, and the append becomes visible by one 8-byte write of tail and head, the
commit point. Each step is synced before the next. A kill before the commit point leaves the old
elements (less the withdrawn ones), after it the new ones; nothing in between can be seen. The head
before and after is known beforehand, so the journal can tell after a restart which of the two
happened. Source: dipp.md 14.1, defects D13..D15.
"""

from __future__ import annotations

import contextlib
import os
import struct
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

from dipp.batch import Buffer, ImageBlock, find_block
from dipp.errors import ContentError, MisuseError
from dipp.ringindex import HEADER_BYTES, OFFSET_BYTES, AppendPlan, Element, RingGeometry, RingIndex

_HEADER = struct.Struct("<II")
_DAMAGED_SUFFIX = ".damaged"


class RingFile(Protocol):
    """The bytes under a ring; a test puts a fake here that is killed between two writes."""

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes; bytes past the end read as zero."""

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`."""

    def sync(self) -> None:
        """Make what was written durable."""

    def close(self) -> None:
        """Give back the descriptor."""


class DiskRingFile:
    """A sparse file of a fixed size. Raises MisuseError if it exists with another size."""

    def __init__(self, path: Path, size_bytes: int, *, durable: bool = True) -> None:
        self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        self._durable = durable
        found = os.fstat(self._fd).st_size
        if found == 0:
            os.ftruncate(self._fd, size_bytes)
        elif found != size_bytes:
            os.close(self._fd)
            raise MisuseError(f"{path} has {found} bytes, the ring is set to {size_bytes}")

    def read(self, offset: int, size: int) -> bytes:
        """Return exactly `size` bytes; bytes past the end read as zero."""
        data = os.pread(self._fd, size, offset)
        while len(data) < size:
            more = os.pread(self._fd, size - len(data), offset + len(data))
            if not more:
                return data.ljust(size, b"\0")
            data += more
        return data

    def write(self, offset: int, data: bytes | memoryview) -> None:
        """Write all of `data`."""
        view = memoryview(data)
        while view:
            written = os.pwrite(self._fd, view, offset)
            view, offset = view[written:], offset + written

    def sync(self) -> None:
        """Make what was written durable, unless the ring was opened otherwise."""
        if self._durable:
            os.fdatasync(self._fd)

    def close(self) -> None:
        """Give back the descriptor."""
        os.close(self._fd)


class Ring:
    """A ring of image blocks. One append at a time; readers keep `Element` values."""

    def __init__(self, file: RingFile, geometry: RingGeometry) -> None:
        """Read tail, head and offsets. Raises ContentError if they cannot be those of a ring."""
        self._file = file
        self._pending: AppendPlan | None = None
        self._is_reserved = False
        tail, head = _HEADER.unpack(file.read(0, HEADER_BYTES))
        offsets = array("I", file.read(HEADER_BYTES, OFFSET_BYTES * geometry.entries))
        self.index = RingIndex(geometry, tail, head, offsets)

    @property
    def geometry(self) -> RingGeometry:
        """Sizes of the ring."""
        return self.index.geometry

    @property
    def count(self) -> int:
        """Number of elements."""
        return self.index.count

    @property
    def used_bytes(self) -> int:
        """Bytes of all elements together."""
        return self.index.used_bytes

    @property
    def head(self) -> int:
        """Table index of the next element; what the journal compares."""
        return self.index.head

    @property
    def is_busy(self) -> bool:
        """Say whether an append is under way, or the ring reserved for one."""
        return self._pending is not None or self._is_reserved

    @contextlib.contextmanager
    def reserved(self) -> Iterator[None]:
        """Keep others from appending until the journal has what was appended.

        Whoever appends waits until the ring is not busy and reserves it without a pause.
        """
        self._is_reserved = True
        try:
            yield
        finally:
            self._is_reserved = False

    def close(self) -> None:
        """Give back the file."""
        self._file.close()

    # -- appending

    def plan(self, sizes: Sequence[int]) -> AppendPlan:
        """Say where elements of these sizes would lie. Raises ContentError (307)."""
        return self.index.plan(sizes)

    def begin(self, plan: AppendPlan) -> None:
        """Start an append: withdraw the elements it overwrites.

        Raises MisuseError if another append is under way or the plan is no longer true; OSError.
        """
        if self._pending is not None:
            raise MisuseError("the ring is already being appended to")
        if plan.head_before != self.head:
            raise MisuseError("the ring has changed since the append was planned")
        if plan.evicted:
            self._file.write(0, _HEADER.pack(plan.tail_after, self.head))
            self._file.sync()
            self.index.evict(plan)
        self._pending = plan

    def write(self, plan: AppendPlan, position: int, data: Buffer) -> None:
        """Write bytes of the append; `position` counts from its start. Raises OSError."""
        if self._pending is not plan or position < 0 or position + len(data) > plan.size:
            raise MisuseError("write outside the append that is under way")
        view = memoryview(data)
        data_bytes = self.geometry.data_bytes
        at = (plan.start + position) % data_bytes
        first = min(len(view), data_bytes - at)
        self._file.write(self.geometry.data_start + at, view[:first])
        if first < len(view):
            self._file.write(self.geometry.data_start, view[first:])

    def sync(self) -> None:
        """Make written data durable; between pieces, so that the last sync is short."""
        self._file.sync()

    def commit(self, plan: AppendPlan) -> None:
        """Make the appended elements visible, all at once.

        Raises OSError; if `head` has moved by then, they are visible and only the last sync failed.
        """
        if self._pending is not plan:
            raise MisuseError("commit of an append that is not under way")
        entries = self.geometry.entries
        slot = (plan.head_before + 1) % entries
        table = array("I", plan.offsets)
        first = min(len(table), entries - slot)
        self._file.write(HEADER_BYTES + OFFSET_BYTES * slot, table[:first].tobytes())
        if first < len(table):
            self._file.write(HEADER_BYTES, table[first:].tobytes())
        self._file.sync()
        self._file.write(0, _HEADER.pack(self.index.tail, plan.head_after))
        self.index.commit(plan)
        self._pending = None
        self._file.sync()

    def abandon(self) -> None:
        """Forget an append that failed; what it withdrew stays withdrawn."""
        self._pending = None

    def append(self, elements: Sequence[bytes]) -> None:
        """Append whole elements at once. Raises ContentError (307), OSError."""
        plan = self.plan([len(element) for element in elements])
        self.begin(plan)
        try:
            position = 0
            for element in elements:
                self.write(plan, position, element)
                position += len(element)
            self.commit(plan)
        finally:
            self.abandon()

    # -- reading

    def element(self, position: int) -> Element | None:
        """Return an element, 0 = oldest, -1 = newest; None if there is none there."""
        return self.index.element(position)

    def read(self, element: Element, offset: int, size: int) -> bytes:
        """Return part of an element, shorter at its end.

        Raises ContentError if the element was evicted meanwhile.
        """
        if not self.index.holds(element):
            raise ContentError("the image was overwritten by newer ones")
        if offset < 0:
            raise MisuseError(f"offset {offset} is negative")
        size = max(0, min(size, element.size - offset))
        data_bytes = self.geometry.data_bytes
        at = (element.offset + offset) % data_bytes
        first = min(size, data_bytes - at)
        data = self._file.read(self.geometry.data_start + at, first)
        if first < size:
            data += self._file.read(self.geometry.data_start, size - first)
        return data

    def read_raw(self, offset: int, size: int) -> bytes:
        """Return bytes of the file as they lie there, for plain vmem access."""
        return self._file.read(offset, max(0, min(size, self.geometry.file_bytes - offset)))

    def describe(self, element: Element) -> ImageBlock:
        """Parse the metadata of an element. Raises ContentError if it is not an image block."""
        return find_block(lambda offset, size: self.read(element, offset, size), 0, element.size)


def open_ring(path: Path, geometry: RingGeometry, *, durable: bool = True) -> tuple[Ring, bool]:
    """Open or create a ring file; the flag says that a damaged one was put aside.

    A header or table that cannot be a ring's is renamed (`images.vmem.damaged`) and replaced by an
    empty ring: a flipped bit there must not stop the node. Raises MisuseError, OSError.
    """
    file = DiskRingFile(path, geometry.file_bytes, durable=durable)
    try:
        return Ring(file, geometry), False
    except ContentError:
        file.close()
    os.replace(path, path.with_name(path.name + _DAMAGED_SUFFIX))
    file = DiskRingFile(path, geometry.file_bytes, durable=durable)
    return Ring(file, geometry), True
