from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.crc import crc32c, crc32c_by_table
from csp.errors import DecodeError, MisuseError
from csp.packet import (
    MAX_PAYLOAD_BYTES,
    Flag,
    Packet,
    broadcast_address,
    check_version,
    decode_frame,
    destination,
    encode_frame,
)

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text())["vectors"]
FRAMES = [
    pytest.param(frame, id=f"{vector['name']}-{number}")
    for vector in VECTORS
    for number, frame in enumerate(vector["frames"])
]


@pytest.mark.parametrize(
    ("data", "crc"), [(b"", 0), (b"123456789", 0xE3069283), (bytes(32), 0x8A9136AA)]
)
def test_crc32c_known_values(data, crc):
    assert crc32c(data) == crc32c_by_table(data) == crc
    assert crc32c(memoryview(data)) == crc32c(bytearray(data)) == crc


@given(st.binary(max_size=300))
def test_crc32c_fast_and_table_agree(data):
    assert crc32c(data) == crc32c_by_table(data)


@pytest.mark.parametrize("frame", FRAMES)
def test_captured_frames_decode_and_encode_to_the_same_bytes(frame):
    raw, decoded = bytes.fromhex(frame["frame_hex"]), frame["decoded"]
    packet = decode_frame(raw)
    assert (packet.prio, packet.dst, packet.src) == (decoded["pri"], decoded["dst"], decoded["src"])
    assert (packet.dport, packet.sport) == (decoded["dport"], decoded["sport"])
    assert packet.flags == decoded["flags"]
    end = -5 if packet.flags & Flag.RDP else None
    assert packet.data[:end].hex() == decoded["payload_hex"]
    assert destination(raw, 2) == decoded["dst"]
    assert encode_frame(packet) == raw


def test_v1_header_has_source_before_destination():
    packet = Packet(prio=2, dst=9, src=20, dport=1, sport=18, flags=1)
    raw = encode_frame(packet, 1)
    assert raw[:4].hex() == f"{2 << 30 | 20 << 25 | 9 << 20 | 1 << 14 | 18 << 8 | 1:08x}"
    assert decode_frame(raw, 1) == packet
    assert destination(raw, 1) == 9


def test_empty_ping_ends_in_a_zero_checksum():
    packet = Packet(prio=2, dst=9, src=20, dport=1, sport=18, flags=1)
    assert encode_frame(packet).hex() == "800900501481" + "00000000"


def test_checksum_over_header_and_payload_is_accepted_too():
    packet = Packet(dst=9, src=20, dport=1, sport=18, flags=1, data=b"data")
    body = encode_frame(packet)[:-4]
    assert decode_frame(body + crc32c(body).to_bytes(4, "big")) == packet


PACKETS = {
    version: st.builds(
        Packet,
        prio=st.integers(0, 3),
        dst=st.integers(0, broadcast_address(version)),
        src=st.integers(0, broadcast_address(version)),
        dport=st.integers(0, 63),
        sport=st.integers(0, 63),
        flags=st.integers(0, 63 if version == 2 else 255),
        data=st.binary(max_size=64),
    )
    for version in (1, 2)
}


@pytest.mark.parametrize("version", [1, 2])
@given(data=st.data())
def test_decode_inverts_encode(version, data):
    packet = data.draw(PACKETS[version])
    raw = encode_frame(packet, version)
    assert decode_frame(raw, version) == packet
    assert destination(raw, version) == packet.dst


@pytest.mark.parametrize("version", [1, 2])
@given(raw=st.binary(max_size=40))
def test_any_bytes_decode_to_a_packet_or_a_named_error(version, raw):
    try:
        packet = decode_frame(raw, version)
    except DecodeError:
        return
    if not packet.flags & Flag.CRC32:
        assert encode_frame(packet, version) == raw


FRAME = encode_frame(Packet(dst=9, src=20, dport=1, sport=18, data=bytes(range(20))))


def test_flags_given_as_enum_members_are_not_remembered_by_the_enum():
    """Seen in a frame campaign: each header ever encoded stayed in memory."""
    before = len(Flag._value2member_map_)
    for number in range(100):
        encode_frame(Packet(dst=9, src=20, dport=1, sport=number % 64, flags=Flag.CRC32))
    assert len(Flag._value2member_map_) == before


@pytest.mark.parametrize("size", range(len(FRAME)))
def test_truncated_frames_are_refused(size):
    with pytest.raises(DecodeError):
        decode_frame(FRAME[:size])


@pytest.mark.parametrize("bit", range(8 * len(FRAME)))
def test_every_flipped_bit_behind_the_header_is_found(bit):
    raw = bytearray(FRAME)
    raw[bit // 8] ^= 1 << bit % 8
    if bit >= 48:
        with pytest.raises(DecodeError):
            decode_frame(bytes(raw))
        return
    # The checksum does not cover the header; what matters is that nothing unnamed is raised.
    changed = decode_frame(bytes(raw))
    assert changed != decode_frame(FRAME)


def test_size_limits():
    fits = Packet(dst=1, src=2, dport=3, sport=4, flags=0, data=bytes(MAX_PAYLOAD_BYTES))
    assert decode_frame(encode_frame(fits)) == fits
    with pytest.raises(MisuseError):
        encode_frame(Packet(dst=1, src=2, dport=3, sport=4, data=bytes(MAX_PAYLOAD_BYTES - 3)))
    with pytest.raises(DecodeError):
        decode_frame(bytes(6 + MAX_PAYLOAD_BYTES + 1))


@pytest.mark.parametrize(
    "fields",
    [{"dst": 16384}, {"src": -1}, {"dport": 64}, {"sport": -1}, {"prio": 4}, {"flags": 64}],
)
def test_fields_that_do_not_fit_are_misuse(fields):
    values = {"dst": 1, "src": 2, "dport": 3, "sport": 4, **fields}
    with pytest.raises(MisuseError):
        encode_frame(Packet(**values))


def test_v1_has_no_big_addresses_and_there_is_no_version_3():
    with pytest.raises(MisuseError):
        encode_frame(Packet(dst=32, src=2, dport=3, sport=4), 1)
    with pytest.raises(MisuseError):
        check_version(3)


def test_errors_say_where_and_what():
    with pytest.raises(DecodeError, match=r"expected 6, found 3") as caught:
        decode_frame(b"abc")
    assert (caught.value.expected, caught.value.actual) == (6, 3)
