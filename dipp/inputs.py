"""Read files as images of a batch: PNG, JPEG, TIFF, raw frames, FITS, whole batches. Driver.

Used on the ground by `dipp run` and `dipp check`.
"""

from __future__ import annotations

import contextlib
import importlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from dipp.batch import ImageBlock, find_block, split_blocks
from dipp.errors import Code, ContentError
from dipp.metadata import Metadata
from dipp.pictures import Pixels

_BITS = {np.dtype(np.uint8): 8, np.dtype(np.uint16): 16, np.dtype(np.float32): 32}
# A picture larger than this is no camera frame and would not fit the memory of a stage.
INPUT_LIMIT_BYTES = 256 << 20


# Formats that a family of modules brings a reader for. By name: nothing here imports modules.
_SOURCES = {".fits": "modules.aurora.source", ".fits.gz": "modules.aurora.source"}
# What can be read here, told by the end of the name in small letters.
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".raw", ".batch", *_SOURCES)
Done = tuple[tuple[Path, ...], tuple[Path, ...]]


class Source(Protocol):
    """A reader of files that are no pictures, and what it makes of the results."""

    def group(self, paths: Sequence[Path]) -> list[tuple[Path, ...]]:
        """Say which files belong into one batch."""

    def load(self, path: Path) -> tuple[Metadata, bytes]:
        """Read a file. Raises ValueError."""

    def report(self, out: Path, done: Sequence[Done]) -> list[Path]:
        """Write pictures and tables about input and written files; return them."""

    def preview(self, files: Sequence[Path], written: Sequence[Path]) -> Pixels:
        """Draw a picture of one batch for people, RGB. Raises OSError, ValueError."""


def source_of(path: Path) -> Source | None:
    """Return the reader of a family of modules for a file, or None for pictures."""
    for suffix, name in _SOURCES.items():
        if path.name.lower().endswith(suffix):
            return cast(Source, importlib.import_module(name))
    return None


def group_inputs(paths: Sequence[Path]) -> list[tuple[Path, ...]]:
    """Say which files belong into one batch: each its own, unless its format knows better."""
    groups: list[tuple[Path, ...]] = []
    sources: dict[int, tuple[Source, list[Path]]] = {}
    for path in paths:
        source = source_of(path)
        if source is None:
            groups.append((path,))
        else:
            sources.setdefault(id(source), (source, []))[1].append(path)
    return groups + [group for source, found in sources.values() for group in source.group(found)]


@dataclass(frozen=True, slots=True, kw_only=True)
class FrameShape:
    """What a raw file does not say about itself."""

    width: int
    height: int
    channels: int = 1
    bits_pixel: int = 12

    @classmethod
    def parse(cls, size: str, bits_pixel: int) -> FrameShape:
        """Read `WxH` or `WxHxC`. Raises ContentError (518)."""
        words = size.lower().split("x")
        if len(words) not in (2, 3) or not all(word.isdigit() for word in words):
            raise ContentError(f"size {size!r}: wanted WxH or WxHxC", Code.CONFIG_INVALID)
        numbers = [int(word) for word in words]
        channels = numbers[2] if len(numbers) == 3 else 1
        return cls(width=numbers[0], height=numbers[1], channels=channels, bits_pixel=bits_pixel)


def load_images(path: Path, shape: FrameShape) -> list[tuple[Metadata, bytes]]:
    """Return the images of a file; one, unless it is a batch. Raises ContentError, OSError."""
    if path.stat().st_size > INPUT_LIMIT_BYTES:
        raise ContentError(f"{path} has more than {INPUT_LIMIT_BYTES >> 20} MB")
    source = source_of(path)
    if source is not None:
        try:
            return [source.load(path)]
        except ValueError as error:
            raise ContentError(str(error), Code.BATCH_INVALID) from error
    if path.suffix == ".batch":
        return split_images(path.read_bytes())
    stamp = int(path.stat().st_mtime) & 0x7FFFFFFF
    if path.suffix == ".raw":
        return [(_raw_metadata(path, shape, stamp), path.read_bytes())]
    return [_load_picture(path, stamp)]


def split_images(data: bytes) -> list[tuple[Metadata, bytes]]:
    """Take a batch apart that does not say how many images it has. Raises ContentError (305)."""
    images: list[tuple[Metadata, bytes]] = []
    offset = 0
    while offset < len(data):
        block = find_block(lambda at, size: data[at : at + size], offset, len(data), len(images))
        images.append((block.metadata, data[block.pixel_offset : block.end]))
        offset = block.end
    if not images:
        raise ContentError("an empty batch")
    return images


def blocks_of(data: bytes, num_images: int) -> tuple[ImageBlock, ...]:
    """Find the images in an encoded batch. Raises ContentError (305)."""
    return split_blocks(data, num_images, len(data))


@contextlib.contextmanager
def memory_segment(data: bytes) -> Iterator[int]:
    """Give a read-only descriptor of memory with that content."""
    writable = os.memfd_create("dipp-input", os.MFD_CLOEXEC)
    readable = -1
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(writable, view) :]
        readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        yield readable
    finally:
        os.close(writable)
        if readable >= 0:
            os.close(readable)


def _raw_metadata(path: Path, shape: FrameShape, stamp: int) -> Metadata:
    sample_bytes = 1 if shape.bits_pixel <= 8 else 2 if shape.bits_pixel <= 16 else 4
    wanted = shape.width * shape.height * shape.channels * sample_bytes
    if path.stat().st_size != wanted:
        raise ContentError(
            f"{path} has {path.stat().st_size} bytes, {shape.width}x{shape.height}x"
            f"{shape.channels} of {shape.bits_pixel} bits are {wanted}; see --size and --bits"
        )
    return Metadata(
        size=wanted,
        width=shape.width,
        height=shape.height,
        channels=shape.channels,
        bits_pixel=shape.bits_pixel,
        camera="file",
        timestamp=stamp,
    )


def _load_picture(path: Path, stamp: int) -> tuple[Metadata, bytes]:
    import cv2

    try:
        pixels = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error as error:
        # An empty file, or one that claims more pixels than OpenCV will hold.
        raise ContentError(f"{path} is no picture that can be read here: {error}") from error
    if pixels is None or pixels.dtype not in _BITS:
        raise ContentError(f"{path} is no picture that can be read here")
    if pixels.ndim == 3:
        order = cv2.COLOR_BGRA2RGBA if pixels.shape[2] == 4 else cv2.COLOR_BGR2RGB
        pixels = cv2.cvtColor(pixels, order)
    data = np.ascontiguousarray(pixels).tobytes()
    metadata = Metadata(
        size=len(data),
        height=pixels.shape[0],
        width=pixels.shape[1],
        channels=pixels.shape[2] if pixels.ndim == 3 else 1,
        bits_pixel=_BITS[pixels.dtype],
        camera="file",
        timestamp=stamp,
    )
    return metadata, data
