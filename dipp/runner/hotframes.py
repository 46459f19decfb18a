"""The frames on the way of every batch and module, read and written by hand. Pure.

Theory of operation: the same layout as protocol.py's tables would give, and the same suspicion; but
a process that has just woken up pays for every call, so there is one `struct` for the head and one
per image, and tuples are made without their Python constructors. Source: performance.md 2.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from struct import Struct, error
from typing import Any, NamedTuple

from dipp.batch import MAX_IMAGES
from dipp.runner.frames import MAX_SEGMENTS, Go, ModuleDone, ModuleForwarded, RunBatch
from dipp.runner.wire import FrameError, Reader
from dipp.workspace import ImageRef, SeenImage, SegmentRange

RUN, GO, DONE, FORWARDED = 20, 30, 31, 35
_RUN_HEAD = Struct("<BQdI")
_GO_HEAD = Struct("<BQIiBBH")
_SEEN = Struct("<HQIHQIiiiiB")
_DONE_HEAD = Struct("<BQII")
_IMAGE = Struct("<HQIHQI")
_COUNT = Struct("<I")
_FORWARDED = Struct("<BQ")
_FRESH, _HOLD, _BRIEF = 1, 2, 4
_FLAGS = _FRESH | _HOLD | _BRIEF
_new = tuple.__new__


def encode_run(batch_id: int, images: Sequence[ImageRef], sent_s: float) -> bytes:
    """Return the bytes of a `RunBatch`, without making one. Raises FrameError."""
    try:
        return _with_images(_RUN_HEAD.pack(RUN, batch_id, sent_s, len(images)), images)
    except error as problem:
        raise FrameError(f"order for batch {batch_id} does not fit: {problem}") from problem


def decode_run(data: bytes) -> RunBatch:
    """Parse a whole `RunBatch`. Raises FrameError."""
    if len(data) < _RUN_HEAD.size or data[0] != RUN:
        raise FrameError(f"{len(data)} bytes are no batch")
    _, batch_id, sent_s, count = _RUN_HEAD.unpack_from(data)
    if not math.isfinite(sent_s):
        raise FrameError(f"sent at {sent_s}")
    return RunBatch(batch_id, _images(data, _RUN_HEAD.size, count), sent_s)


def encode_go(go: Go) -> bytes:
    """Return the bytes of an order. Raises FrameError."""
    if len(go.segments) > MAX_SEGMENTS or len(go.images) > MAX_IMAGES:
        raise FrameError(f"{len(go.segments)} segments, {len(go.images)} images")
    flags = _FRESH * go.fresh | _HOLD * go.hold | _BRIEF * go.brief
    try:
        head = _GO_HEAD.pack(
            GO, go.batch_id, go.pipeline_id, go.shmid, flags, len(go.segments), len(go.images)
        )
        return b"".join((head, bytes(go.segments), *[_SEEN.pack(*image) for image in go.images]))
    except (error, ValueError) as problem:
        raise FrameError(f"{go!r} does not fit: {problem}") from problem


def decode_go(data: bytes) -> Go:
    """Parse a whole order. Raises FrameError."""
    size = len(data)
    if size < _GO_HEAD.size or data[0] != GO:
        raise FrameError(f"{size} bytes are no order")
    _, batch_id, pipeline_id, shmid, flags, segments, images = _GO_HEAD.unpack_from(data)
    middle = _GO_HEAD.size + segments
    end = middle + images * _SEEN.size
    if size != end or segments > MAX_SEGMENTS or images > MAX_IMAGES or flags > _FLAGS:
        raise FrameError(f"an order of {size} bytes should have {end}; flags {flags}")
    return Go(
        batch_id,
        pipeline_id,
        tuple([_new(SeenImage, numbers) for numbers in _SEEN.iter_unpack(data[middle:])]),
        tuple(data[_GO_HEAD.size : middle]),
        flags & _FRESH != 0,
        flags & _HOLD != 0,
        flags & _BRIEF != 0,
        shmid,
    )


def encode_done(batch_id: int, pipeline_id: int, images: Sequence[ImageRef]) -> bytes:
    """Return the bytes of a `ModuleDone`, without making one. Raises FrameError."""
    try:
        head = _DONE_HEAD.pack(DONE, batch_id, pipeline_id, len(images))
        return _with_images(head, images)
    except error as problem:
        text = f"result for batch {batch_id} of pipeline {pipeline_id} does not fit: {problem}"
        raise FrameError(text) from problem


def decode_done(data: bytes) -> ModuleDone:
    """Parse a whole `ModuleDone`. Raises FrameError."""
    if len(data) < _DONE_HEAD.size or data[0] != DONE:
        raise FrameError(f"{len(data)} bytes are no result")
    _, batch_id, pipeline_id, count = _DONE_HEAD.unpack_from(data)
    return ModuleDone(batch_id, pipeline_id, _images(data, _DONE_HEAD.size, count))


def _with_images(head: bytes, images: Sequence[ImageRef]) -> bytes:
    if len(images) > MAX_IMAGES:
        raise FrameError(f"{len(images)} images, at most {MAX_IMAGES}")
    return b"".join((head, *[_IMAGE.pack(*meta, *pixels) for meta, pixels in images]))


def _images(data: bytes, start: int, count: int) -> tuple[ImageRef, ...]:
    if count > MAX_IMAGES or len(data) != start + count * _IMAGE.size:
        raise FrameError(f"{count} images in {len(data)} bytes, at most {MAX_IMAGES}")
    return tuple(
        [
            _new(ImageRef, (_new(SegmentRange, numbers[:3]), _new(SegmentRange, numbers[3:])))
            for numbers in _IMAGE.iter_unpack(data[start:])
        ]
    )


class Images:
    """The images as a field of any other frame: count and places."""

    def write(self, out: bytearray, value: Any) -> None:
        """Append count and places."""
        try:
            out += _with_images(_COUNT.pack(len(value)), value)
        except error as problem:
            raise FrameError(f"images do not fit: {problem}") from problem

    def read(self, reader: Reader) -> Any:
        """Return the images."""
        (count,) = _COUNT.unpack(reader.take(_COUNT.size))
        if count > MAX_IMAGES:
            raise FrameError(f"{count} images, at most {MAX_IMAGES}")
        return _images(reader.take(count * _IMAGE.size), 0, count)


def encode_forwarded(batch_id: int) -> bytes:
    """Return the bytes of a `ModuleForwarded`, without making one."""
    return _FORWARDED.pack(FORWARDED, batch_id)


def decode_forwarded(data: bytes) -> ModuleForwarded:
    """Parse a whole `ModuleForwarded`. Raises FrameError."""
    if len(data) != _FORWARDED.size or data[0] != FORWARDED:
        raise FrameError(f"{len(data)} bytes are no forwarded batch")
    return ModuleForwarded(_FORWARDED.unpack(data)[1])


class HotRecord(NamedTuple):
    """The row of one of these frames in the table of all."""

    number: int
    kind: type
    encode: Callable[[Any], bytes]
    decode: Callable[[bytes], Any]


HOT_RECORDS = (
    HotRecord(RUN, RunBatch, lambda order: encode_run(*order), decode_run),
    HotRecord(GO, Go, encode_go, decode_go),
    HotRecord(DONE, ModuleDone, lambda done: encode_done(*done), decode_done),
    HotRecord(FORWARDED, ModuleForwarded, lambda done: encode_forwarded(*done), decode_forwarded),
)
