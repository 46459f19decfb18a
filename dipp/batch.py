"""The layout of a batch in a segment: image blocks back to back.

Theory of operation: a block is u32 metadata length, metadata, pixels; there is no header. Nothing
in a segment is trusted: every length is checked against the bytes that are really there before it
is used. Batches written here align the pixels with the padding field of the metadata.
Source: dipp.md 8, defect D5.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from dipp.errors import Code, ContentError, MisuseError
from dipp.metadata import METADATA_LIMIT_BYTES, Metadata

META_SIZE = struct.Struct("<I")
ALIGNMENT_BYTES = 64
# The flown camera sends at most some tens; a cap keeps a forged count from filling the memory.
MAX_IMAGES = 4096

# Covers length and metadata of all but exceptional images in one read.
_PEEK_BYTES = 1024

Buffer = bytes | bytearray | memoryview
# Takes offset and size; returns at most that many bytes, fewer where the segment ends.
Reader = Callable[[int, int], Buffer]


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
    """Find the images of a batch in memory. Raises like `find_blocks`."""
    body = memoryview(view)
    return find_blocks(
        lambda offset, size: body[offset : offset + size], len(body), num_images, batch_size
    )


def find_blocks(
    read: Reader, segment_size: int, num_images: int, batch_size: int
) -> tuple[ImageBlock, ...]:
    """Find the images of a batch in a segment of `segment_size` bytes; pixels are not read.

    Raises ContentError: 306 if the segment is shorter than `batch_size`, 305 if the blocks do not
    fill `batch_size` bytes exactly or do not parse.
    """
    if not 0 < num_images <= MAX_IMAGES:
        raise ContentError(f"{num_images} images, allowed 1..{MAX_IMAGES}")
    if batch_size <= 0:
        raise ContentError(f"batch size is {batch_size}")
    if segment_size < batch_size:
        raise ContentError(
            f"segment holds {segment_size} bytes, batch needs {batch_size}", Code.SEGMENT_TOO_SMALL
        )
    blocks: list[ImageBlock] = []
    offset = 0
    for index in range(num_images):
        block = find_block(read, offset, batch_size, index)
        blocks.append(block)
        offset = block.end
    if offset != batch_size:
        raise ContentError(f"{num_images} images end at {offset}, batch size says {batch_size}")
    return tuple(blocks)


def find_block(read: Reader, offset: int, end: int, index: int = 0) -> ImageBlock:
    """Parse the block at `offset`, which must end by `end`; `index` is for the message.

    Raises ContentError (305).
    """
    rest = end - offset - META_SIZE.size
    head = memoryview(read(offset, min(_PEEK_BYTES, end - offset))) if rest >= 0 else b""
    if offset < 0 or len(head) < META_SIZE.size:
        raise ContentError(f"image {index}: no room for a length at offset {offset}")
    (meta_size,) = META_SIZE.unpack_from(head)
    if meta_size > min(rest, METADATA_LIMIT_BYTES):
        raise ContentError(f"image {index}: metadata of {meta_size} bytes, {rest} left")
    meta_offset = offset + META_SIZE.size
    pixel_offset = meta_offset + meta_size
    if META_SIZE.size + meta_size > len(head):
        head = memoryview(read(offset, META_SIZE.size + meta_size))
        if META_SIZE.size + meta_size > len(head):
            raise ContentError(f"image {index}: the segment shrank while it was read")
    metadata = Metadata.decode(head[META_SIZE.size : META_SIZE.size + meta_size])
    if metadata.size > end - pixel_offset:
        left = end - pixel_offset
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
    images: Iterable[tuple[Metadata, Buffer]], align: int = ALIGNMENT_BYTES, start: int = 0
) -> Sequence[Buffer]:
    """Return the pieces of a batch in order: header, pixels, header, pixels and so on.

    `metadata.size` is set from the pixels. Pixels start at multiples of `align` (1 = do not
    align, as flown), provided the first piece is written at offset `start` of the segment.
    """
    if align < 1 or align > ALIGNMENT_BYTES:
        raise MisuseError(f"alignment {align} is not in 1..{ALIGNMENT_BYTES}")
    parts: list[Buffer] = []
    offset = start
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
