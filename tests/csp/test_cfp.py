"""CAN framing: bytes worked out by hand from csp.md 8.4, and everything a bus can do to them."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.cfp import (
    MAX_PARTIAL,
    MAX_PAYLOAD1_BYTES,
    CanFrame,
    Reassembler,
    Segmenter,
    receive_filters,
)
from csp.errors import DecodeError, MisuseError
from csp.packet import HEADER_BYTES, MAX_PAYLOAD_BYTES, Packet, decode_frame, encode_frame

# The ping of csp.md 8.3: prio 2, node 20 port 18 to node 9 port 1, checksum, four bytes.
PING2 = bytes.fromhex("800900501481" + "00010203" + "d9331aa3")
# The same in v1: prio 2 << 30 | src 20 << 25 | dst 9 << 20 | 1 << 14 | 18 << 8 | 1.
PING1 = bytes.fromhex("a8905201" + "00010203" + "d9331aa3")
# (version, sender's address, packet counter, frame, its CAN frames)
VECTORS = [
    # 2 << 27 | 9 << 13 | 20 << 7 | begin; then fragment 1 << 2 | end.
    (2, 20, 0, PING2, [(0x10012A02, "0050148100010203"), (0x10012A05, "d9331aa3")]),
    # Packet counter 3 << 5; an address of which six bits name the sender: 0x3E9 & 0x3F = 0x29.
    (2, 0x3E9, 3, PING2, [(0x100134E2, "0050148100010203"), (0x100134E5, "d9331aa3")]),
    # Without payload one frame is begin and end; prio 0, everybody, from node 1.
    (2, 1, 0, bytes.fromhex("3fff00040000"), [(0x07FFE083, "00040000")]),
    # 20 << 24 | 9 << 19 | (8 + 5) // 8 << 10; then type 1 << 18, nothing remaining.
    (1, 20, 0, PING1, [(0x14480400, "a890520100080001"), (0x144C0000, "0203d9331aa3")]),
    # Packet id 1023; two bytes of payload fit the first frame.
    (1, 20, 1023, PING1[:4] + b"\1\2", [(0x144803FF, "a890520100020102")]),
    (1, 20, 0, PING1[:4], [(0x14480000, "a89052010000")]),
]
SIZES = [0, 1, 2, 3, 4, 5, 10, 11, 12, 13, 67, 68, 69, 200, 1000]


def pieces(frame: bytes, version: int = 2, address: int = 20, count: int = 0) -> list[CanFrame]:
    """The CAN frames of the packet with that number."""
    segmenter = Segmenter(version, address)
    for _ in range(count):
        segmenter.segment(frame)
    return segmenter.segment(frame)


def feed(reassembler: Reassembler, frames: list[CanFrame], now: float = 0.0) -> list[bytes]:
    out = (reassembler.feed(can_id, data, now) for can_id, data in frames)
    return [frame for frame in out if frame is not None]


def sealed(version: int, size: int, *, src: int = 20, seed: int = 1) -> bytes:
    """A frame with a checksum, whose damage is noticed above."""
    data = random.Random(seed).randbytes(size)
    return encode_frame(Packet(dst=9, src=src, dport=14, sport=17, data=data), version)


def assert_intact_or_refused(received: list[bytes], sent: list[bytes], version: int) -> None:
    """What gets through damaged must at least be refused by the checksum of the packet."""
    for frame in received:
        if frame not in sent:
            with pytest.raises(DecodeError):
                decode_frame(frame, version)


@pytest.mark.parametrize(("version", "address", "count", "frame", "expected"), VECTORS)
def test_bytes_of_the_specification(version, address, count, frame, expected):
    frames = [CanFrame(can_id, bytes.fromhex(data)) for can_id, data in expected]
    assert pieces(frame, version, address, count) == frames
    assert feed(Reassembler(version), frames) == [frame]


def test_fragment_counter_wraps_after_seven():
    frames = pieces(sealed(2, 92))
    assert [each.can_id >> 2 & 7 for each in frames] == [0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4]
    assert [each.can_id & 3 for each in frames] == [2, *[0] * 11, 1]


@pytest.mark.parametrize("size", [0, 1, 2, 3, 10, 11, MAX_PAYLOAD1_BYTES])
def test_remaining_count_of_cfp_1_runs_down_to_nothing(size):
    remaining = [each.can_id >> 10 & 0xFF for each in pieces(PING1[:4] + bytes(size), 1)]
    assert remaining[0] == (size + 5) // 8
    assert remaining == list(range(remaining[0], -1, -1))


@pytest.mark.parametrize("version", [1, 2])
@given(payloads=st.lists(st.binary(max_size=300), max_size=6), address=st.integers(0, 30))
def test_any_frames_come_out_as_they_went_in(version, payloads, address):
    frames = [bytes(HEADER_BYTES[version]) + payload for payload in payloads]
    segmenter, reassembler = Segmenter(version, address), Reassembler(version)
    for frame in frames:
        cut = segmenter.segment(frame)
        assert all(len(each.data) <= 8 and each.can_id < 1 << 29 for each in cut)
        assert feed(reassembler, cut) == [frame]
    assert (len(reassembler), reassembler.errors) == (0, 0)


@pytest.mark.parametrize(
    ("version", "limit"), [(1, MAX_PAYLOAD1_BYTES), (2, MAX_PAYLOAD_BYTES)], ids=["cfp1", "cfp2"]
)
def test_the_longest_frame_fits_and_one_byte_more_is_named(version, limit):
    frame = bytes(HEADER_BYTES[version]) + bytes(limit)
    assert feed(Reassembler(version), pieces(frame, version)) == [frame]
    for wrong in (frame + b"x", frame[: HEADER_BYTES[version] - 1]):
        with pytest.raises(MisuseError):
            Segmenter(version).segment(wrong)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_a_lost_fragment_loses_the_packet_and_not_the_next(version, size):
    first, second = sealed(version, size), sealed(version, size, seed=2)
    cut, following = pieces(first, version), pieces(second, version, count=1)
    for lost in range(len(cut)):
        reassembler = Reassembler(version)
        received = feed(reassembler, cut[:lost] + cut[lost + 1 :] + following)
        assert received[-1] == second
        assert_intact_or_refused(received[:-1], [], version)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", SIZES)
def test_a_duplicated_fragment_never_makes_a_wrong_packet(version, size):
    frame, last = sealed(version, size), sealed(version, 30, seed=2)
    cut = pieces(frame, version)
    for twice in range(len(cut)):
        reassembler = Reassembler(version)
        received = feed(reassembler, cut[: twice + 1] + cut[twice:] + pieces(last, version, 20, 1))
        assert received[-1] == last
        assert_intact_or_refused(received[:-1], [frame], version)


@pytest.mark.parametrize("version", [1, 2])
@given(seed=st.integers(0, 10_000))
def test_reordered_fragments_never_make_a_wrong_packet(version, seed):
    rng = random.Random(seed)
    frame = sealed(version, rng.randrange(200), seed=seed)
    cut = pieces(frame, version)
    rng.shuffle(cut)
    reassembler = Reassembler(version)
    assert_intact_or_refused(feed(reassembler, cut), [frame], version)
    assert len(reassembler) <= 1


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [0, 4, 30])
def test_truncation_of_every_fragment_at_every_byte(version, size):
    frame, last = sealed(version, size), sealed(version, size, seed=2)
    cut = pieces(frame, version)
    for number, (can_id, data) in enumerate(cut):
        for length in range(len(data)):
            short = [*cut[:number], CanFrame(can_id, data[:length]), *cut[number + 1 :]]
            received = feed(Reassembler(version), short + pieces(last, version, 20, 1))
            assert received[-1] == last
            assert_intact_or_refused(received[:-1], [], version)


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("size", [0, 4, 30])
def test_every_flipped_bit_of_identifier_and_data(version, size):
    frame, last = sealed(version, size), sealed(version, size, seed=2)
    cut = pieces(frame, version)
    payload = frame[HEADER_BYTES[version] :]
    for number, (can_id, data) in enumerate(cut):
        for bit in range(29 + 8 * len(data)):
            damaged = bytearray(data)
            if bit >= 29:
                damaged[(bit - 29) // 8] ^= 1 << (bit - 29) % 8
            flipped = CanFrame(can_id ^ (1 << bit if bit < 29 else 0), bytes(damaged))
            reassembler = Reassembler(version)
            received = feed(reassembler, [*cut[:number], flipped, *cut[number + 1 :]])
            # The header is not under the checksum of the packet; on a bus each frame has one.
            changed = [f for f in received if f[HEADER_BYTES[version] :] != payload]
            assert_intact_or_refused(
                [f for f in changed if f[HEADER_BYTES[version] - 1] & 1], [], version
            )
            assert feed(reassembler, pieces(last, version, 21, 5)) == [last]


@pytest.mark.parametrize("version", [1, 2])
@given(seed=st.integers(0, 10_000))
def test_senders_that_interleave_do_not_mix(version, seed):
    rng = random.Random(seed)
    frames = [sealed(version, rng.randrange(120), src=src, seed=src) for src in range(1, 9)]
    queues = [pieces(frame, version, src) for src, frame in enumerate(frames, 1)]
    reassembler, received = Reassembler(version), []
    while any(queues):
        queue = rng.choice([queue for queue in queues if queue])
        received += feed(reassembler, [queue.pop(0)])
    assert sorted(received) == sorted(frames)
    assert (len(reassembler), reassembler.errors) == (0, 0)


@pytest.mark.parametrize("version", [1, 2])
def test_two_packets_of_one_sender_may_overlap(version):
    segmenter, reassembler = Segmenter(version, 20), Reassembler(version)
    frames = [sealed(version, 60, seed=seed) for seed in (1, 2)]
    one, two = map(segmenter.segment, frames)
    mixed = [piece for both in zip(one, two, strict=True) for piece in both]
    assert feed(reassembler, mixed) == frames


@pytest.mark.parametrize("version", [1, 2])
def test_a_packet_whose_sender_stops_is_forgotten(version):
    reassembler = Reassembler(version)
    cut = pieces(sealed(version, 60), version)
    # It may be slow, as long as it goes on.
    for number, piece in enumerate(cut[:-1]):
        assert feed(reassembler, [piece], number * 0.9) == []
    end = 0.9 * len(cut) + 1.1
    assert feed(reassembler, cut[-1:], end) == []
    assert len(reassembler) == 0
    assert reassembler.errors == 2
    assert len(feed(reassembler, cut, end)) == 1


@pytest.mark.parametrize("version", [1, 2])
def test_many_beginnings_do_not_pile_up(version):
    reassembler = Reassembler(version)
    for source in range(1, 30):
        for count in range(4):
            cut = pieces(sealed(version, 60, src=source), version, source, count)
            feed(reassembler, cut[:3])
    assert len(reassembler) == MAX_PARTIAL
    assert reassembler.errors == 29 * 4 - MAX_PARTIAL


def test_more_data_than_a_packet_can_have_is_thrown_away():
    reassembler = Reassembler()
    cut = pieces(bytes(6) + bytes(1000))[:-1]
    feed(reassembler, cut[:1])
    for number in range(1, 400):
        feed(reassembler, [CanFrame(cut[0].can_id & ~3 | (number & 7) << 2, bytes(8))])
    assert len(reassembler) == 0
    assert reassembler.errors == 400 - 256


@pytest.mark.parametrize(
    "frames",
    [
        # More bytes than announced; fewer than announced; announced more than possible.
        [(0x14480400, "a890520100040001"), (0x144C0000, "0203040506")],
        [(0x14480400, "a890520100090001"), (0x144C0000, "020304")],
        [(0x14480400, "a8905201ffff0001")],
        [(0x14480000, "a890520100040001")],
        [(0x14480000, "a890520100")],
        [(0x144C0000, "00")],
        [(0x14480000, "a89052010002010203")],
    ],
)
def test_nonsense_in_cfp_1_is_counted(frames):
    reassembler = Reassembler(1)
    assert feed(reassembler, [CanFrame(i, bytes.fromhex(data)) for i, data in frames]) == []
    assert len(reassembler) == 0
    assert reassembler.errors >= 1


@pytest.mark.parametrize("version", [1, 2])
@given(st.lists(st.tuples(st.integers(0, (1 << 32) - 1), st.binary(max_size=9)), max_size=60))
def test_any_frames_are_survived(version, noise):
    reassembler = Reassembler(version)
    feed(reassembler, [CanFrame(*each) for each in noise])
    assert len(reassembler) <= MAX_PARTIAL
    frame = sealed(version, 30)
    assert feed(reassembler, pieces(frame, version), 9.0) == [frame]


def test_receive_filters():
    # Own address, own network with all host bits one, everybody; all 14 bits count.
    assert [(f.can_id >> 13, f.mask) for f in receive_filters(9, 8)] == [
        (9, 0x3FFF << 13),
        (63, 0x3FFF << 13),
        (0x3FFF, 0x3FFF << 13),
    ]
    # A v1 address with a v2 netmask has no host bits.
    assert [(f.can_id >> 19, f.mask) for f in receive_filters(9, 8, 1)] == [
        (9, 31 << 19),
        (31, 31 << 19),
    ]
    for version, frame in ((1, PING1), (2, PING2)):
        first = pieces(frame, version)[0].can_id
        assert any(first & f.mask == f.can_id for f in receive_filters(9, 8, version))
        assert not any(first & f.mask == f.can_id for f in receive_filters(10, 8, version))
