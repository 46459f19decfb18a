"""Decide where elements of the image ring lie and which ones must go.

Theory of operation: the ring is a table of start offsets and a data area, both circular. Elements
lie back to back from offsets[tail] to offsets[head], so "every advertised element is intact" is
the same as: the sizes of the advertised elements plus what is being appended never exceed the data
area, and their number never fills the table. An append is planned first (which elements go, where
the new ones lie), then written, and becomes visible by one change of `head`. Elements carry a
sequence number that is never reused, so that a reader notices when its element was evicted under
it. Source: dipp.md 14.1, defect D14.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass

from dipp.errors import Code, ContentError

FLOWN_ENTRIES = 500_000
FLOWN_DATA_BYTES = 1_000_000_000
HEADER_BYTES = 8
OFFSET_BYTES = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RingGeometry:
    """Sizes of a ring file: table entries and bytes of the data area."""

    entries: int = FLOWN_ENTRIES
    data_bytes: int = FLOWN_DATA_BYTES

    def __post_init__(self) -> None:
        if self.entries < 2 or not 0 < self.data_bytes < 2**32:
            raise ContentError(f"no ring can have {self}")

    @property
    def data_start(self) -> int:
        """File offset of the data area."""
        return HEADER_BYTES + OFFSET_BYTES * self.entries

    @property
    def file_bytes(self) -> int:
        """Size of the whole file."""
        return self.data_start + self.data_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Element:
    """An advertised element: `offset` is from the start of the data area and may wrap."""

    sequence: int
    offset: int
    size: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AppendPlan:
    """Where a batch of elements will lie. `offsets` belong to the slots after `head_before`."""

    start: int
    size: int
    offsets: tuple[int, ...]
    tail_after: int
    evicted: int
    head_before: int
    head_after: int


class RingIndex:
    """Tail, head and offsets of a ring. Raises ContentError if they cannot be those of one."""

    def __init__(
        self, geometry: RingGeometry, tail: int, head: int, offsets: Sequence[int]
    ) -> None:
        self.geometry = geometry
        if tail >= geometry.entries or head >= geometry.entries:
            raise ContentError(f"ring tail {tail}, head {head}, {geometry.entries} entries")
        if len(offsets) != geometry.entries or max(offsets) >= geometry.data_bytes:
            raise ContentError("ring offsets lie outside the data area")
        self.tail = tail
        self.head = head
        self.offsets = array("I", offsets)
        self.first_sequence = 0
        self.used_bytes = 0
        self._drop_overwritten()

    def _drop_overwritten(self) -> None:
        """Count used bytes from the newest element back, as far as they can be intact.

        A ring written by the flown software may advertise elements that were overwritten (D14).
        """
        for back in range(1, self.count + 1):
            slot = (self.head - back) % self.geometry.entries
            size = self._size_at(slot)
            if size == 0 or self.used_bytes + size > self.geometry.data_bytes:
                self.tail = (slot + 1) % self.geometry.entries
                return
            self.used_bytes += size

    @property
    def count(self) -> int:
        """Number of advertised elements."""
        return (self.head - self.tail) % self.geometry.entries

    def _size_at(self, slot: int) -> int:
        following = self.offsets[(slot + 1) % self.geometry.entries]
        return (following - self.offsets[slot]) % self.geometry.data_bytes

    def element(self, position: int) -> Element | None:
        """Return an element, 0 = oldest, -1 = newest; None if there is none there."""
        if position < 0:
            position += self.count
        if not 0 <= position < self.count:
            return None
        slot = (self.tail + position) % self.geometry.entries
        return Element(
            sequence=self.first_sequence + position,
            offset=self.offsets[slot],
            size=self._size_at(slot),
        )

    def holds(self, element: Element) -> bool:
        """Say whether the element is still advertised."""
        return self.first_sequence <= element.sequence < self.first_sequence + self.count

    def plan(self, sizes: Sequence[int]) -> AppendPlan:
        """Plan to append elements of these sizes at once. Changes nothing.

        Raises ContentError (307) if they can never be held together.
        """
        entries, data_bytes = self.geometry.entries, self.geometry.data_bytes
        total = sum(sizes)
        if not sizes or len(sizes) >= entries or total > data_bytes:
            raise ContentError(
                f"{len(sizes)} elements of {total} bytes do not fit a ring of {data_bytes} bytes",
                Code.OUTPUT_TOO_LARGE,
            )
        if min(sizes) <= 0 or max(sizes) >= data_bytes:
            raise ContentError("element size is zero or the whole ring", Code.OUTPUT_TOO_LARGE)
        start = self.offsets[self.head]
        ends, end = [], start
        for size in sizes:
            end = (end + size) % data_bytes
            ends.append(end)
        evicted = self._eviction(len(sizes), total)
        return AppendPlan(
            start=start,
            size=total,
            offsets=tuple(ends),
            tail_after=(self.tail + evicted) % entries,
            evicted=evicted,
            head_before=self.head,
            head_after=(self.head + len(sizes)) % entries,
        )

    def _eviction(self, added: int, added_bytes: int) -> int:
        """Return how many of the oldest elements must go."""
        used, evicted = self.used_bytes, 0
        while (
            used + added_bytes > self.geometry.data_bytes
            # One slot stays free: it holds the next write position.
            or self.count - evicted + added >= self.geometry.entries
        ):
            used -= self._size_at((self.tail + evicted) % self.geometry.entries)
            evicted += 1
        return evicted

    def evict(self, plan: AppendPlan) -> None:
        """Stop advertising what the plan overwrites."""
        for _ in range(plan.evicted):
            self.used_bytes -= self._size_at(self.tail)
            self.tail = (self.tail + 1) % self.geometry.entries
        self.first_sequence += plan.evicted

    def commit(self, plan: AppendPlan) -> None:
        """Advertise the planned elements."""
        for step, offset in enumerate(plan.offsets, 1):
            self.offsets[(plan.head_before + step) % self.geometry.entries] = offset
        self.head = plan.head_after
        self.used_bytes += plan.size
