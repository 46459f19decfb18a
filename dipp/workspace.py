"""Where the images of a batch lie while a chain works on them: ranges of segments.

Theory of operation: segment 0 is the batch as the camera wrote it, every stage adds the arena of
its module. A module reads all of them and writes only into its own arena, so forwarding an image
costs one reference and a failed batch is still intact. Nothing here maps memory: the buffers come
from whoever did. Source: performance.md 3, defect D10.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from dipp.batch import ALIGNMENT_BYTES, Buffer
from dipp.errors import Code, ContentError

# The metadata item that names the format of compressed pixels; without it they are samples.
ENCODING_ITEM = "enc"


class ModuleError(ContentError):
    """A module gives up with a code: 1..99 its own (reported as 700 + n), others verbatim."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason or f"module error {code}", code)
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentRange:
    """Bytes `offset` to `offset + length` of the segment with that index."""

    segment: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the range."""
        return self.offset + self.length


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRef:
    """One image: where its encoded metadata and its pixels are, possibly in two segments."""

    meta: SegmentRange
    pixels: SegmentRange


class Workspace:
    """The segments a module may read and the arena it may write.

    `segments` are read-only to the module. The arena is the segment after the last of them; space
    in it is handed out once and never taken back, because it lives for one module run only.
    """

    def __init__(self, segments: Sequence[Buffer], arena: memoryview) -> None:
        self._views = [memoryview(segment).cast("B").toreadonly() for segment in segments]
        self._arena = arena.cast("B")
        self.arena_index = len(self._views)
        self.used_bytes = 0
        views = [*self._views, self._arena]
        self._bases = [(_address(view), len(view)) if len(view) else (0, 0) for view in views]

    def view(self, place: SegmentRange) -> memoryview:
        """Return the bytes of a range, read-only. Raises ModuleError (305) outside a segment."""
        if not 0 <= place.segment <= self.arena_index:
            raise ModuleError(Code.BATCH_INVALID, f"no segment {place.segment}")
        whole = self._arena if place.segment == self.arena_index else self._views[place.segment]
        if place.offset < 0 or place.length < 0 or place.end > len(whole):
            raise ModuleError(Code.BATCH_INVALID, f"{place} is outside its segment")
        return whole[place.offset : place.end].toreadonly()

    def reserve(self, size_bytes: int) -> SegmentRange:
        """Take aligned space in the arena. Raises ModuleError (100) when it is full."""
        offset = -(-self.used_bytes // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        if size_bytes < 0 or offset + size_bytes > len(self._arena):
            raise ModuleError(
                Code.MALLOC, f"output of {size_bytes} bytes does not fit: {len(self._arena)} at all"
            )
        self.used_bytes = offset + size_bytes
        return SegmentRange(segment=self.arena_index, offset=offset, length=size_bytes)

    def writable(self, place: SegmentRange) -> memoryview:
        """Return a range of the arena for writing."""
        if place.segment != self.arena_index:
            raise ModuleError(Code.RESULT_INVALID, f"segment {place.segment} is read-only")
        return self._arena[place.offset : place.end]

    def store(self, data: Buffer) -> SegmentRange:
        """Copy bytes into the arena."""
        view = memoryview(data).cast("B")
        place = self.reserve(len(view))
        self.writable(place)[:] = view
        return place

    def allocate(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Return a zeroed array in the arena; `locate` finds it again without a copy."""
        kind = np.dtype(dtype)
        place = self.reserve(int(np.prod(shape, dtype=np.int64)) * kind.itemsize)
        return np.frombuffer(self.writable(place), dtype=kind).reshape(shape)

    def locate(self, array: npt.NDArray[np.generic]) -> SegmentRange | None:
        """Say where a contiguous array already lies, or None if it is elsewhere."""
        if not array.flags.c_contiguous or array.nbytes == 0:
            return None
        start = int(array.__array_interface__["data"][0])
        for index, (base, length) in enumerate(self._bases):
            if base <= start and start + array.nbytes <= base + length:
                return SegmentRange(segment=index, offset=start - base, length=array.nbytes)
        return None


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, dtype=np.uint8).__array_interface__["data"][0])
