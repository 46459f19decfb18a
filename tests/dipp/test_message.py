"""Queue messages: both forms, junk and forgeries."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dipp.errors import Code, ContentError, MisuseError
from dipp.message import (
    FULL_SIZE_BYTES,
    MESSAGE_SIZE_BYTES,
    BatchMessage,
    decode_message,
    encode_legacy,
    encode_message,
)

MESSAGE = BatchMessage(
    num_images=2, batch_size=1000, pipeline_id=3, shmid=42, obid=7, flags=1, segment="/cam.1-a"
)
_int32 = st.integers(-(2**31), 2**31 - 1)
_messages = st.builds(
    BatchMessage,
    num_images=_int32,
    batch_size=_int32,
    pipeline_id=_int32,
    shmid=_int32,
    obid=st.integers(0, 2**32 - 1),
    flags=st.integers(0, 2**16 - 1),
    segment=st.from_regex(r"\A/[A-Za-z0-9_][A-Za-z0-9_.-]{0,45}\Z"),
)


@settings(max_examples=40)
@given(_messages)
def test_round_trip(message: BatchMessage) -> None:
    body = encode_message(message)
    assert len(body) == FULL_SIZE_BYTES
    assert decode_message(body) == message


@pytest.mark.parametrize("junk", [0, 4, 8])
def test_the_flown_body_names_its_segment_by_id(junk: int) -> None:
    body = struct.pack("<iiii8x", 2, 1000, 42, 3) + b"\xaa" * junk
    message = decode_message(body)
    assert message.segment == "/dipp_42"
    assert (message.num_images, message.batch_size, message.pipeline_id) == (2, 1000, 3)
    assert encode_legacy(message) == body[:24]


def test_a_negative_id_is_a_name_too() -> None:
    assert decode_message(struct.pack("<iiii8x", 1, 1, -1, 1)).segment == "/dipp_-1"


def test_an_extension_without_name_falls_back_to_the_id() -> None:
    body = bytearray(encode_message(MESSAGE))
    assert decode_message(_signed(body, name=b"")).segment == "/dipp_42"


@pytest.mark.parametrize("length", [*range(24), *range(33, FULL_SIZE_BYTES), 129, 8192])
def test_other_lengths_are_refused(length: int) -> None:
    body = (encode_message(MESSAGE) + bytes(8192))[:length]
    with pytest.raises(ContentError) as caught:
        decode_message(body)
    assert caught.value.code == Code.MESSAGE_INVALID


def test_every_bit_flip_is_caught() -> None:
    body = encode_message(MESSAGE)
    for bit in range(len(body) * 8):
        flipped = bytearray(body)
        flipped[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ContentError):
            decode_message(flipped)


@pytest.mark.parametrize(
    "name",
    [b"/../etc/passwd", b"/a/b", b"a", b"/", b"/.hidden", b"/a\0b", b"\xff\xfe", b"/" + b"a" * 47],
)
def test_names_that_could_reach_elsewhere_are_refused(name: bytes) -> None:
    with pytest.raises(ContentError):
        decode_message(_signed(bytearray(encode_message(MESSAGE)), name=name))


def test_bytes_after_the_extension_are_covered_by_the_checksum() -> None:
    body = _signed(bytearray(encode_message(MESSAGE)) + b"later", name=b"/x")
    assert decode_message(body).segment == "/x"
    with pytest.raises(ContentError):
        decode_message(body + b"\0" * (MESSAGE_SIZE_BYTES - len(body)))


@pytest.mark.parametrize("fields", [{"obid": -1}, {"flags": 65536}, {"num_images": 2**31}])
def test_numbers_that_do_not_fit_are_refused_on_encoding(fields: dict[str, int]) -> None:
    values = {"num_images": 1, "batch_size": 1, "pipeline_id": 1} | fields
    with pytest.raises(MisuseError):
        encode_message(BatchMessage(**values))


def _signed(body: bytearray, name: bytes) -> bytes:
    """Put a name in and repair the checksum, as a hostile sender would."""
    body[40:88] = name.ljust(48, b"\0")
    body[36:40] = zlib.crc32(body[40:], zlib.crc32(body[:36])).to_bytes(4, "little")
    return bytes(body)
