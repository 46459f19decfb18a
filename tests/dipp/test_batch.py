"""Batches: layout, alignment, and segments that lie."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipp.batch import MAX_IMAGES, ImageBlock, encode_batch, find_block, find_blocks, split_blocks
from dipp.errors import Code, ContentError, MisuseError
from dipp.metadata import Metadata

IMAGES = [
    (Metadata(height=1, width=3, channels=1, camera="rgb", obid=7), b"abc"),
    (Metadata(height=2, width=2, channels=1, camera="ir", items=(("enc", "jxl"),)), b"defg"),
]
_images = st.lists(
    st.tuples(st.builds(Metadata, camera=st.text(max_size=90)), st.binary(max_size=200)),
    min_size=1,
    max_size=5,
)


def pixels(data: bytes, block: ImageBlock) -> bytes:
    return data[block.pixel_offset : block.end]


@given(_images, st.sampled_from([1, 2, 16, 64]))
def test_round_trip_and_alignment(images: list[tuple[Metadata, bytes]], align: int) -> None:
    data = encode_batch(images, align)
    blocks = split_blocks(data, len(images), len(data))
    assert [pixels(data, b) for b in blocks] == [p for _, p in images]
    assert [b.metadata for b in blocks] == [m.replace(size=len(p)) for m, p in images]
    assert all(b.pixel_offset % align == 0 for b in blocks)


def test_without_alignment_the_bytes_are_those_of_the_flown_camera() -> None:
    (metadata, data) = IMAGES[0]
    encoded = metadata.replace(size=3).encode()
    assert encode_batch(IMAGES[:1], 1) == struct.pack("<I", len(encoded)) + encoded + data


def test_a_longer_segment_is_fine() -> None:
    data = encode_batch(IMAGES)
    assert len(split_blocks(data + bytes(4096), 2, len(data))) == 2


@pytest.mark.parametrize(
    ("count", "size_change", "code"),
    [
        (0, 0, Code.BATCH_INVALID),
        (-1, 0, Code.BATCH_INVALID),
        (1, 0, Code.BATCH_INVALID),
        (3, 0, Code.BATCH_INVALID),
        (MAX_IMAGES + 1, 0, Code.BATCH_INVALID),
        (2, -1, Code.BATCH_INVALID),
        (2, 1, Code.SEGMENT_TOO_SMALL),
        (2, 2**30, Code.SEGMENT_TOO_SMALL),
        (2, -(2**31), Code.BATCH_INVALID),
    ],
)
def test_numbers_that_disagree(count: int, size_change: int, code: Code) -> None:
    data = encode_batch(IMAGES)
    with pytest.raises(ContentError) as caught:
        split_blocks(data, count, len(data) + size_change)
    assert caught.value.code == code


def test_a_size_that_ends_after_the_last_image() -> None:
    data = encode_batch(IMAGES)
    with pytest.raises(ContentError, match="end at"):
        split_blocks(data + b"x", 2, len(data) + 1)


def test_every_truncation_is_refused() -> None:
    data = encode_batch(IMAGES)
    for length in range(len(data)):
        with pytest.raises(ContentError):
            split_blocks(data[:length], 2, length)


def test_every_bit_flip_is_blocks_inside_the_segment_or_a_named_error() -> None:
    data = encode_batch(IMAGES)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            blocks = split_blocks(flipped, 2, len(data))
        except ContentError:
            continue
        assert blocks[-1].end == len(data)


@pytest.mark.parametrize("length", [2**32 - 1, 2**31, 70_000])
def test_a_metadata_length_past_the_end(length: int) -> None:
    with pytest.raises(ContentError):
        split_blocks(struct.pack("<I", length) + bytes(60), 1, 64)


def test_a_block_cannot_start_before_or_after_its_buffer() -> None:
    data = encode_batch(IMAGES)
    for offset in (-1, -5, len(data), len(data) - 3, len(data) + 100):
        with pytest.raises(ContentError):
            find_block(lambda at, size: data[max(at, 0) :][:size], offset, len(data))


def test_a_segment_that_shrinks_while_it_is_read() -> None:
    data = encode_batch([(Metadata(camera="x" * 1500), b"p")])
    for length in range(0, 1500, 7):
        with pytest.raises(ContentError):
            find_blocks(lambda at, size, n=length: data[:n][at : at + size], 9999, 1, len(data))


@pytest.mark.parametrize("align", [0, -1, 65])
def test_impossible_alignment(align: int) -> None:
    with pytest.raises(MisuseError):
        encode_batch(IMAGES, align)
