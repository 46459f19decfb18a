"""Where the images of a batch lie while a chain works on them: ranges of segments.

Theory of operation: segment 0 is the batch as the camera wrote it, every stage adds the arena of
its module. A module reads all of them and writes only into its own arena, so forwarding an image
costs one reference and a failed batch is still intact. Nothing here maps memory: the buffers come
from whoever did, and a segment that nobody looks at need not be mapped at all. Arenas and scratch
memory are used again, so what lies in them before a module writes is anything.
Source: performance.md 3, defect D10.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from dipp.batch import ALIGNMENT_BYTES, Buffer
from dipp.errors import Code, ContentError
from dipp.metadata import Metadata

# The metadata item that names the format of compressed pixels; without it they are samples.
ENCODING_ITEM = "enc"


# A named tuple without its Python constructor, which takes as long as all the rest.
_new = tuple.__new__


class ModuleError(ContentError):
    """A module gives up with a code: 1..99 its own (reported as 700 + n), others verbatim."""

    def __init__(self, code: int, reason: str = "") -> None:
        super().__init__(reason or f"module error {code}", code)
        self.reason = reason


class SegmentRange(NamedTuple):
    """Bytes `offset` to `offset + length` of the segment with that index.

    A named tuple, like `ImageRef`, because several are made per module and image.
    """

    segment: int
    offset: int
    length: int

    @property
    def end(self) -> int:
        """Offset of the first byte after the range."""
        return self.offset + self.length


class ImageRef(NamedTuple):
    """One image: where its encoded metadata and its pixels are, possibly in two segments."""

    meta: SegmentRange
    pixels: SegmentRange


class SeenImage(NamedTuple):
    """An image as a module gets it: where it is, and what of its metadata nearly all ask for.

    Flat, because it is made and sent for every module and image. `is_encoded` is 0 or 1.
    """

    meta_segment: int
    meta_offset: int
    meta_length: int
    pixel_segment: int
    pixel_offset: int
    pixel_length: int
    height: int
    width: int
    channels: int
    bits_pixel: int
    is_encoded: int

    @classmethod
    def of(cls, ref: ImageRef, metadata: Metadata) -> SeenImage:
        """Put reference and metadata together."""
        return cls(
            *ref.meta,
            *ref.pixels,
            metadata.height,
            metadata.width,
            metadata.channels,
            metadata.bits_pixel,
            bool(metadata.items) and metadata.item(ENCODING_ITEM) is not None,
        )

    @property
    def meta(self) -> SegmentRange:
        """Where the encoded metadata are."""
        return _new(SegmentRange, self[:3])

    @property
    def pixels(self) -> SegmentRange:
        """Where the pixels are."""
        return _new(SegmentRange, self[3:6])

    @property
    def ref(self) -> ImageRef:
        """Where it is."""
        return ImageRef(self.meta, self.pixels)


class Workspace:
    """The segments a module may read, the arena it may write, and warm scratch memory.

    The segments are read-only to the module; `find` gives the one of an index below `count`, and is
    asked when somebody looks at it. `read` copies a range of one without that, or says that it
    cannot: to map a segment takes longer than to copy it. The arena is the segment after the last
    of them; space in it is handed out once and never taken back, because it lives for one module
    run only.
    """

    def __init__(
        self,
        find: Callable[[int], Buffer],
        count: int,
        arena: memoryview,
        scratch: memoryview | None = None,
        read: Callable[[SegmentRange, memoryview], bool] | None = None,
    ) -> None:
        self._find = find
        self._read = read
        self.arena_index = count
        self._arena = arena
        self._views: dict[int, memoryview] = {self.arena_index: arena}
        self._scratch = scratch
        self._scratch_used = 0
        self.used_bytes = 0
        # The last array that was handed out: most modules make it their result.
        self._given: tuple[npt.NDArray[np.generic], SegmentRange] | None = None

    @classmethod
    def over(
        cls, segments: Sequence[Buffer], arena: memoryview, scratch: memoryview | None = None
    ) -> Workspace:
        """Make one whose segments are at hand."""
        return cls(segments.__getitem__, len(segments), arena, scratch)

    def _segment(self, index: int) -> memoryview:
        """Return a whole segment. Raises ModuleError (305)."""
        view = self._views.get(index)
        if view is None:
            if not 0 <= index < self.arena_index:
                raise ModuleError(Code.BATCH_INVALID, f"no segment {index}")
            view = memoryview(self._find(index)).cast("B").toreadonly()
            self._views[index] = view
        return view

    def view(self, place: SegmentRange) -> memoryview:
        """Return the bytes of a range, read-only. Raises ModuleError (305) outside a segment."""
        whole = self._segment(place.segment)
        _, offset, length = place
        if offset < 0 or length < 0 or offset + length > len(whole):
            raise ModuleError(Code.BATCH_INVALID, f"{place} is outside its segment")
        return whole[offset : offset + length].toreadonly()

    def fill(self, target: memoryview, place: SegmentRange) -> None:
        """Copy a range into writable bytes of the same length. Raises ModuleError (305)."""
        is_seen = place.segment in self._views
        if is_seen or self._read is None or not self._read(place, target):
            target[:] = self.view(place)

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

    def store_range(self, place: SegmentRange) -> SegmentRange:
        """Copy a range into the arena. Raises ModuleError (305)."""
        copied = self.reserve(place.length)
        self.fill(self.writable(copied), place)
        return copied

    def store(self, data: Buffer) -> SegmentRange:
        """Copy bytes into the arena."""
        view = memoryview(data).cast("B")
        place = self.reserve(len(view))
        self.writable(place)[:] = view
        return place

    def allocate(
        self, shape: tuple[int, ...], dtype: npt.DTypeLike, *, zeroed: bool = True
    ) -> npt.NDArray[np.generic]:
        """Return an array in the arena; `locate` finds it again without a copy."""
        kind = np.dtype(dtype)
        place = self.reserve(math.prod(shape) * kind.itemsize)
        array: npt.NDArray[np.generic] = np.ndarray(shape, kind, self._arena, place.offset)
        if zeroed:
            array.fill(0)
        self._given = array, place
        return array

    def scratch(self, shape: tuple[int, ...], dtype: npt.DTypeLike) -> npt.NDArray[np.generic]:
        """Return an array of any content that is no result; private memory if there is no more."""
        kind = np.dtype(dtype)
        size = math.prod(shape) * kind.itemsize
        start = -(-self._scratch_used // ALIGNMENT_BYTES) * ALIGNMENT_BYTES
        if self._scratch is None or start + size > len(self._scratch):
            return np.empty(shape, kind)
        self._scratch_used = start + size
        return np.ndarray(shape, kind, self._scratch, start)

    def locate(self, array: npt.NDArray[np.generic]) -> SegmentRange | None:
        """Say where a contiguous array already lies, or None if it is elsewhere."""
        if not array.flags.c_contiguous or array.nbytes == 0:
            return None
        if self._given is not None and self._given[0] is array:
            return self._given[1]
        start = int(array.__array_interface__["data"][0])
        for index, view in self._views.items():
            base = _address(view) if len(view) else start + 1
            if base <= start and start + array.nbytes <= base + len(view):
                return SegmentRange(segment=index, offset=start - base, length=array.nbytes)
        return None


def _address(view: memoryview) -> int:
    return int(np.frombuffer(view, dtype=np.uint8).__array_interface__["data"][0])
