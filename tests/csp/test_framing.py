from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import DecodeError
from csp.framing import KissDecoder, encode_kiss
from csp.packet import MAX_PAYLOAD_BYTES, decode_frame

PING = bytes.fromhex("800900501481" + "00010203" + "d9331aa3")
PING_KISS = bytes.fromhex("c000" + "800900501481" + "00010203" + "d9331aa3" + "03b062a6" + "c0")
AWKWARD = bytes.fromhex("c0db00c0dbdc" + "c0c0dbdbdcddc000")
FRAMES = st.lists(st.binary(min_size=6, max_size=60) | st.just(AWKWARD), max_size=5)


def test_captured_ping():
    assert encode_kiss(PING) == PING_KISS
    assert KissDecoder().feed(PING_KISS) == [PING]


@pytest.mark.parametrize("version", [1, 2])
@given(frames=FRAMES, seed=st.integers(0, 99))
def test_any_frames_survive_any_splitting(version, frames, seed):
    stream = b"".join(encode_kiss(frame, version) for frame in frames)
    rng = random.Random(seed)
    for size in (1, 7, len(stream) + 1):
        decoder, out, position = KissDecoder(version), [], 0
        while position < len(stream):
            step = size if size != 7 else rng.randrange(1, 12)
            out += decoder.feed(stream[position : position + step])
            position += step
        assert out == frames
        assert decoder.errors == 0


def test_one_or_two_fends_between_frames():
    one = encode_kiss(PING)
    assert KissDecoder().feed(one + one[1:] + b"\xc0\xc0" + one) == [PING] * 3


def test_starts_in_the_middle_of_a_frame():
    assert KissDecoder().feed(PING_KISS[7:] + PING_KISS) == [PING]


@pytest.mark.parametrize("size", range(1, len(PING_KISS) - 1))
def test_truncation_at_every_byte_loses_only_that_frame(size):
    *broken, last = KissDecoder().feed(PING_KISS[:size] + PING_KISS)
    assert last == PING
    # Cut exactly behind the CSP checksum, that one looks like the one of KISS. What remains is a
    # frame without its CSP checksum, which the stack refuses.
    assert broken == ([PING[:-4]] if size == 2 + len(PING) else [])
    for frame in broken:
        with pytest.raises(DecodeError):
            decode_frame(frame)


@pytest.mark.parametrize("bit", range(16, 8 * len(PING_KISS)))
def test_every_flipped_bit_loses_at_most_that_frame(bit):
    raw = bytearray(PING_KISS)
    raw[bit // 8] ^= 1 << bit % 8
    out = KissDecoder().feed(bytes(raw) + b"\xc0" + PING_KISS + PING_KISS)
    assert out[-1] == PING
    # The header is not covered by the checksum; payload and checksums are.
    assert all(frame[6:] == PING[6:] for frame in out)


@pytest.mark.parametrize("escape", ["db", "db00", "dbc0", "dbdb"])
def test_broken_escapes_are_counted(escape):
    decoder = KissDecoder()
    assert decoder.feed(b"\xc0\x00abcdefghijk" + bytes.fromhex(escape) + b"\xc0") == []
    assert decoder.errors == 1


def test_memory_is_bounded_without_any_fend():
    decoder = KissDecoder()
    decoder.feed(b"\xc0\x00")
    for _ in range(100):
        decoder.feed(bytes(1000))
        assert len(decoder._raw) < 3 * MAX_PAYLOAD_BYTES
    assert decoder.errors == 1
    assert decoder.feed(PING_KISS) == [PING]


@given(st.binary(max_size=300))
def test_any_bytes_are_survived(noise):
    decoder = KissDecoder()
    decoder.feed(noise)
    assert decoder.feed(b"\xc0" + PING_KISS)[-1] == PING
