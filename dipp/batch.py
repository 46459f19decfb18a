"""The layout of a batch in a segment: image blocks back to back.

Theory of operation: a block is u32 metadata length, metadata, pixels; there is no header. Nothing
in a segment is trusted: every length is checked against the bytes that are really there before it
is used. Batches written here align the pixels with the padding field of the metadata.
Source: dipp.md 8, defect D5.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from dipp.errors import Code, ContentError, MisuseError
from dipp.metadata import METADATA_LIMIT_BYTES, Metadata

META_SIZE = struct.Struct("<I")
ALIGNMENT_BYTES = 64
# The flown camera sends at most some tens; a cap keeps a forged count from filling the memory.
MAX_IMAGES = 4096

Buffer = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageBlock:
    """Where one image lies: offsets from the start of the segment, in bytes."""

    meta_offset: int
    meta_size: int
    pixel_offset: int
    pixel_size: int
    metadata: Metadata

    @property
    def end(self) -> int:
        """Offset of the first byte after the image."""
        return self.pixel_offset + self.pixel_size


def split_blocks(view: Buffer, num_images: int, batch_size: int) -> tuple[ImageBlock, ...]:
    """Find the images of a batch in a segment.

    Raises ContentError: 306 if the segment is shorter than `batch_size`, 305 if the blocks do not
    fill `batch_size` bytes exactly or do not parse.
    """
    if not 0 < num_images <= MAX_IMAGES:
        raise ContentError(f"{num_images} images, allowed 1..{MAX_IMAGES}")
    if batch_size <= 0:
        raise ContentError(f"batch size is {batch_size}")
    if len(view) < batch_size:
        raise ContentError(
            f"segment holds {len(view)} bytes, batch needs {batch_size}", Code.SEGMENT_TOO_SMALL
        )
    body = memoryview(view)[:batch_size]
    blocks: list[ImageBlock] = []
    offset = 0
    for index in range(num_images):
        block = read_block(body, offset, index)
        blocks.append(block)
        offset = block.end
    if offset != batch_size:
        raise ContentError(f"{num_images} images end at {offset}, batch size says {batch_size}")
    return tuple(blocks)


def read_block(
    view: Buffer, offset: int = 0, index: int = 0, available: int | None = None
) -> ImageBlock:
    """Parse the block at `offset`; `index` is for the message. Raises ContentError (305).

    `available` is the number of bytes that exist where `view` holds only the first of them.
    """
    size = len(view) if available is None else available
    rest = size - offset - META_SIZE.size
    if offset < 0 or rest < 0:
        raise ContentError(f"image {index}: no room for a length at offset {offset}")
    (meta_size,) = META_SIZE.unpack_from(view, offset)
    if meta_size > min(rest, METADATA_LIMIT_BYTES):
        raise ContentError(f"image {index}: metadata of {meta_size} bytes, {rest} left")
    meta_offset = offset + META_SIZE.size
    pixel_offset = meta_offset + meta_size
    metadata = Metadata.decode(memoryview(view)[meta_offset:pixel_offset])
    if metadata.size > size - pixel_offset:
        left = size - pixel_offset
        raise ContentError(f"image {index}: {metadata.size} bytes of pixels, {left} left")
    return ImageBlock(
        meta_offset=meta_offset,
        meta_size=meta_size,
        pixel_offset=pixel_offset,
        pixel_size=metadata.size,
        metadata=metadata,
    )


def block_header(metadata: Metadata, padding: int = 0) -> bytes:
    """Return what precedes the pixels of an image: length and metadata."""
    encoded = metadata.encode(padding)
    return META_SIZE.pack(len(encoded)) + encoded


def batch_parts(
    images: Iterable[tuple[Metadata, Buffer]], align: int = ALIGNMENT_BYTES
) -> Sequence[Buffer]:
    """Return the pieces of a batch in order: header, pixels, header, pixels and so on.

    `metadata.size` is set from the pixels. Pixels start at multiples of `align` (1 = do not
    align, as flown), provided the first piece is written to such a multiple.
    """
    if align < 1 or align > ALIGNMENT_BYTES:
        raise MisuseError(f"alignment {align} is not in 1..{ALIGNMENT_BYTES}")
    parts: list[Buffer] = []
    offset = 0
    for metadata, pixels in images:
        data = memoryview(pixels).cast("B")
        metadata = metadata.replace(size=len(data))
        padding = -(offset + len(block_header(metadata))) % align
        # One byte cannot be padded: tag and length already take two.
        header = block_header(metadata, padding if padding != 1 else padding + align)
        parts += (header, data)
        offset += len(header) + len(data)
    return parts


def encode_batch(images: Iterable[tuple[Metadata, Buffer]], align: int = ALIGNMENT_BYTES) -> bytes:
    """Return a whole batch as bytes. See `batch_parts`."""
    return b"".join(batch_parts(images, align))
