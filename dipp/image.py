"""One image of a batch as a module sees it; authors import it from `dipp.sdk`.

Theory of operation: an image is where its metadata and its pixels lie, until somebody looks. Shape
and type come with the order, so that most modules need not decode the metadata; what a module
changes goes to the memory of its own stage. Source: dipp.md 8 and 13, performance.md 3.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from dipp.errors import Code
from dipp.metadata import ItemValue, Metadata
from dipp.workspace import ENCODING_ITEM, ImageRef, ModuleError, SegmentRange, Workspace

# Pixels of 1..8 bits lie in bytes, 9..16 in little-endian words, 32 are floats. Source: dipp.md 8.
_DTYPES: dict[int, np.dtype[Any]] = {
    8: np.dtype(np.uint8),
    16: np.dtype("<u2"),
    32: np.dtype("<f4"),
}
_BITS = {dtype: bits for bits, dtype in _DTYPES.items()}
Pixels = npt.NDArray[Any]
# Height, width, channels, bits per pixel, whether encoded.
_Shape = tuple[int, int, int, int, int]
# Shape, type and size in bytes of the samples, if they have a type.
_Samples = tuple[tuple[int, ...], np.dtype[Any], int]


class Image:
    """One image of a batch. Pixels are shared memory: read them freely, write only via `edit`."""

    __slots__ = ("_meta_ref", "_metadata", "_pixels_ref", "_samples", "_shape", "_space")

    def __init__(
        self,
        space: Workspace,
        metadata: Metadata | None,
        pixels: SegmentRange,
        meta_ref: SegmentRange | None = None,
        shape: _Shape | None = None,
    ) -> None:
        self._space = space
        self._metadata = metadata
        self._pixels_ref = pixels
        self._meta_ref = meta_ref
        # What most modules ask for, so that most need not decode the metadata; None: decode them.
        self._shape = shape
        self._samples: _Samples | None = None

    @property
    def metadata(self) -> Metadata:
        """What is known about the image; change it with `update` and `add_item`."""
        if self._metadata is None:
            if self._meta_ref is None:
                raise ModuleError(Code.BATCH_INVALID, "image without metadata")
            self._metadata = Metadata.decode(self._space.view(self._meta_ref))
        return self._metadata

    def _seen(self) -> _Shape:
        shape = self._shape
        if shape is None:
            meta = self.metadata
            encoded = meta.item(ENCODING_ITEM) is not None
            shape = (meta.height, meta.width, meta.channels, meta.bits_pixel, encoded)
            self._shape = shape
        return shape

    @property
    def is_encoded(self) -> bool:
        """True if the bytes are a compressed file (item `enc` names the format)."""
        return bool(self._seen()[4])

    @property
    def data(self) -> memoryview:
        """The raw bytes, read-only and not copied."""
        return self._space.view(self._pixels_ref)

    @property
    def dtype(self) -> np.dtype[Any]:
        """Type of one sample, from `bits_pixel`."""
        return self._layout()[1]

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width) or, with more than one channel, (height, width, channels)."""
        if self._samples is not None:
            return self._samples[0]
        height, width, channels, _, _ = self._seen()
        return (height, width, channels) if channels > 1 else (height, width)

    def _layout(self) -> _Samples:
        """Say what the samples are. Raises ModuleError (305) if no type has so many bits."""
        samples = self._samples
        if samples is None:
            height, width, channels, bits, _ = self._seen()
            shape = (height, width, channels) if channels > 1 else (height, width)
            dtype = _DTYPES.get((8 if bits <= 8 else 16) if bits <= 16 else bits)
            if dtype is None:
                raise ModuleError(Code.BATCH_INVALID, f"{bits} bits per pixel")
            samples = self._samples = shape, dtype, math.prod(shape) * dtype.itemsize
        return samples

    @property
    def pixels(self) -> Pixels:
        """The samples as a read-only array, not copied. Raises ModuleError (305) if encoded."""
        return self._array(self.data)

    def edit(self) -> Pixels:
        """Return the samples as a writable array that is the image's result.

        The first call copies them into this stage's own memory; what came in stays as it was.
        """
        if self._pixels_ref.segment != self._space.arena_index:
            self._require_samples(self._pixels_ref.length)
            self._pixels_ref = self._space.store_range(self._pixels_ref)
        return self._array(self._space.writable(self._pixels_ref))

    def copy(self, out: Pixels | None = None) -> Pixels:
        """Return the samples in memory of your own: in `out`, or in scratch memory.

        Quicker than to copy `pixels` if nothing has looked at them yet. `out` is contiguous, of the
        same shape and type, and writable. Raises ModuleError (305) if encoded, ValueError for
        another `out`.
        """
        shape, dtype, size_bytes = self._layout()
        if out is None:
            out = self._space.scratch(shape, dtype)
        elif (out.shape, out.dtype) != (shape, dtype) or not (
            out.flags.c_contiguous and out.flags.writeable
        ):
            raise ValueError(
                f"out is {out.dtype} {out.shape}, not {dtype} {shape}, contiguous and writable"
            )
        self._require_samples(size_bytes)
        if size_bytes:
            self._space.fill(out.data.cast("B"), self._pixels_ref)
        return out

    def _array(self, view: memoryview) -> Pixels:
        self._require_samples(len(view))
        shape, dtype, _ = self._layout()
        return np.ndarray(shape, dtype, view)

    def _require_samples(self, size_bytes: int) -> None:
        """Raise ModuleError (305) unless so many bytes are the samples."""
        shape, dtype, needed = self._layout()
        if self._seen()[4] or not needed == size_bytes == self._pixels_ref.length:
            encoding = self.metadata.item(ENCODING_ITEM)
            raise ModuleError(
                Code.BATCH_INVALID,
                f"{self._pixels_ref.length} bytes are not {shape} of {dtype}, encoding {encoding}",
            )

    # -- metadata

    @property
    def items(self) -> Mapping[str, ItemValue]:
        """The custom items by key; of duplicates the first counts."""
        return dict(reversed(self.metadata.items))

    def update(self, **changes: Any) -> None:
        """Change metadata fields, for example `camera="ir"`; the pixels are not touched."""
        self._set_metadata(self.metadata.replace(**changes))

    def add_item(self, key: str, value: ItemValue) -> None:
        """Append a custom item. Ends the module with 511 if the key is there already."""
        if self.metadata.item(key) is not None:
            raise ModuleError(Code.METADATA_DUPLICATE, f"item {key!r} is already there")
        self._set_metadata(self.metadata.with_item(key, _plain(value)))

    def set_item(self, key: str, value: ItemValue) -> None:
        """Replace a custom item or append it."""
        self.set_items({key: value})

    def set_items(self, items: Mapping[str, ItemValue]) -> None:
        """Replace or append several custom items; quicker than one by one."""
        others = tuple(item for item in self.metadata.items if item[0] not in items)
        added = tuple((key, _plain(value)) for key, value in items.items())
        self._set_metadata(self.metadata.replace(items=(*others, *added)))

    def item_bool(self, key: str) -> bool:
        """Return a bool item. Ends the module with 507 if there is none."""
        return bool(self._item(key, bool, Code.METADATA_BOOL))

    def item_int(self, key: str) -> int:
        """Return an int item. Ends the module with 508 if there is none."""
        return int(self._item(key, int, Code.METADATA_INT))

    def item_float(self, key: str) -> float:
        """Return a float item. Ends the module with 509 if there is none."""
        return float(self._item(key, float, Code.METADATA_FLOAT))

    def item_string(self, key: str) -> str:
        """Return a string item. Ends the module with 510 if there is none."""
        return str(self._item(key, str, Code.METADATA_STRING))

    def _item(self, key: str, kind: type, code: Code) -> ItemValue:
        value = self.metadata.item(key)
        if value is None or type(value) is not kind:
            raise ModuleError(code, f"item {key!r} is {value!r}, wanted {kind.__name__}")
        return value

    def _set_metadata(self, metadata: Metadata) -> None:
        self._metadata, self._meta_ref = metadata, None
        self._shape = self._samples = None

    # -- results

    def derive(
        self,
        pixels: Pixels | None = None,
        data: bytes | bytearray | memoryview | None = None,
        *,
        encoding: str | None = None,
        **changes: Any,
    ) -> Image:
        """Return a new image with this one's obid, camera, timestamp and items.

        `pixels` is (h, w) or (h, w, c) of uint8, uint16 or float32 and sets the dimensions; an
        array from `Batch.allocate`, `edit` or a contiguous part of an input is not copied.
        `data` is a compressed file, then name its format with `encoding`. With neither, the same
        pixels are shared. `changes` are metadata fields.
        """
        if pixels is not None and encoding is None and not changes:
            place = self._place(pixels)
            if self._describes(pixels, place):
                # Nothing about it has changed but the samples.
                return Image(self._space, self._metadata, place, self._meta_ref, self._shape)
        metadata, place = self.metadata, self._pixels_ref
        if pixels is not None:
            metadata, place = self._from_array(pixels)
        elif data is not None:
            place = self._space.store(data)
            metadata = metadata.replace(size=place.length)
        if encoding is not None:
            others = tuple(item for item in metadata.items if item[0] != ENCODING_ITEM)
            metadata = metadata.replace(items=(*others, (ENCODING_ITEM, encoding)))
        return Image(self._space, metadata.replace(**changes), place)

    def _place(self, pixels: Pixels) -> SegmentRange:
        """Say where an array is, or put it into the output memory."""
        place = self._space.locate(pixels)
        if place is None:
            place = self._space.store(np.ascontiguousarray(pixels).reshape(-1).data)
        return place

    def _describes(self, pixels: Pixels, place: SegmentRange) -> bool:
        """Say whether the metadata are right for that array as they are."""
        if place.length != self._pixels_ref.length or self._seen()[4]:
            return False
        shape, dtype, _ = self._layout()
        return pixels.shape == shape and pixels.dtype == dtype

    def _from_array(self, pixels: Pixels) -> tuple[Metadata, SegmentRange]:
        bits = _BITS.get(pixels.dtype)
        if bits is None or pixels.ndim not in (2, 3):
            raise TypeError(
                f"pixels of {pixels.dtype} {pixels.shape}: wanted uint8, uint16 or float32,"
                " (height, width) or (height, width, channels)"
            )
        if bits == 16 and 8 < self.metadata.bits_pixel < 16:
            bits = self.metadata.bits_pixel
        place = self._place(pixels)
        metadata = self.metadata.replace(
            size=place.length,
            height=pixels.shape[0],
            width=pixels.shape[1],
            channels=pixels.shape[2] if pixels.ndim == 3 else 1,
            bits_pixel=bits,
            items=tuple(item for item in self.metadata.items if item[0] != ENCODING_ITEM),
        )
        return metadata, place

    def to_ref(self) -> ImageRef:
        """Return where the image lies, storing its metadata if it changed. Runner only."""
        if self._meta_ref is None:
            self._meta_ref = self._space.store(self.metadata.encode())
        return ImageRef(meta=self._meta_ref, pixels=self._pixels_ref)


def _plain(value: object) -> ItemValue:
    """Turn a numpy scalar into the Python value that metadata can hold."""
    plain = value.item() if isinstance(value, np.generic) else value
    if not isinstance(plain, bool | int | float | str):
        raise TypeError(f"metadata item of type {type(value).__name__}")
    return plain
