"""Capture files: what we write is read back, by us and by others; damage is named."""

from __future__ import annotations

import io
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import DecodeError
from csp.pcapng import LINK_TYPE, Captured, CaptureWriter, read_capture

FRAMES = [
    Captured(time_s=1_795_000_000.25 + n, version=2, frame=bytes(range(n))) for n in (6, 10, 13)
]


def written(frames, version=2):
    stream = io.BytesIO()
    writer = CaptureWriter(stream, version)
    for each in frames:
        writer.write(each.time_s, each.frame)
    return stream.getvalue()


def read(data):
    return list(read_capture(io.BytesIO(data)))


def test_the_bytes_of_a_file():
    """Block by block as the pcapng draft lays them out."""
    data = written([Captured(time_s=1.5, version=2, frame=b"abcdef")])
    section, interface, packet = data[:48], data[48:92], data[92:]
    assert section[:4] == bytes.fromhex("0a0d0d0a")
    assert struct.unpack("<IIIHHq", section[:24]) == (0x0A0D0D0A, 48, 0x1A2B3C4D, 1, 0, -1)
    assert struct.unpack("<IIHHI", interface[:16]) == (1, 44, 147, 0, 0)
    assert interface[16:28] == struct.pack("<HH", 2, 6) + b"csp-v2\0\0"
    assert interface[28:36] == struct.pack("<HHB3x", 9, 1, 6)
    assert packet == (
        struct.pack("<IIIIIII", 6, 40, 0, 0, 1_500_000, 6, 6)
        + b"abcdef\0\0"
        + struct.pack("<I", 40)
    )


@given(
    st.lists(
        st.builds(
            Captured,
            time_s=st.integers(0, 1 << 52).map(lambda us: us / 1e6),
            version=st.just(1),
            frame=st.binary(max_size=80),
        ),
        max_size=6,
    )
)
def test_any_frames_are_read_back(frames):
    assert read(written(frames, 1)) == frames


def test_a_file_cut_off_anywhere_gives_the_frames_before_and_a_named_error():
    data = written(FRAMES)
    # Behind the section header, the interface and each frame a file may end.
    ends = [len(written(FRAMES[:n])) for n in range(4)]
    for size in range(1, len(data)):
        found = []
        try:
            for each in read_capture(io.BytesIO(data[:size])):
                found.append(each)
        except DecodeError:
            assert size not in (48, *ends)
        else:
            assert size in (48, *ends)
        assert found == FRAMES[: sum(size >= end for end in ends[1:])]


def test_every_flipped_bit_gives_frames_or_a_named_error():
    data = written(FRAMES)
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert len(read(damaged)) <= 3
        except DecodeError:
            continue


@given(st.binary(max_size=200))
def test_any_bytes_are_survived(data):
    for each in (data, written(FRAMES) + data):
        try:
            read(each)
        except DecodeError:
            continue


def block(order, kind, body):
    size = 12 + len(body)
    return struct.pack(order + "II", kind, size) + body + struct.pack(order + "I", size)


def foreign(order, link_type=LINK_TYPE, resolution=b"", name=b"csp-v1\0\0"):
    """A file as another program may write it: other byte order, unknown blocks, a comment."""
    options = struct.pack(order + "HH", 2, 6) + name
    if resolution:
        options += struct.pack(order + "HH", 9, 1) + resolution + bytes(3)
    comment = struct.pack(order + "HH", 1, 3) + b"hey\0" + bytes(4)
    frame = struct.pack(order + "IIIII", 0, 0, 4096, 5, 5) + b"hello\0\0\0" + comment
    return (
        block(order, 0x0A0D0D0A, struct.pack(order + "IHHq", 0x1A2B3C4D, 1, 0, -1))
        + block(order, 1, struct.pack(order + "HHI", link_type, 0, 262144) + options)
        + block(order, 5, bytes(12))
        + block(order, 6, frame)
        + block(order, 0x0BAD, b"custom\0\0")
    )


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize(
    ("resolution", "time_s"), [(b"", 0.004096), (b"\x03", 4.096), (b"\x8a", 4.0)]
)
def test_files_of_others(order, resolution, time_s):
    data = foreign(order, resolution=resolution)
    expected = Captured(time_s=time_s, version=1, frame=b"hello")
    assert read(data) == [expected]
    # Sections may follow each other, also in another byte order.
    assert read(data + foreign("<", name=b"csp-v2\0\0")) == [
        expected,
        Captured(time_s=0.004096, version=2, frame=b"hello"),
    ]


@pytest.mark.parametrize(
    "data",
    [
        b"\xd4\xc3\xb2\xa1" + bytes(20),
        b"text, not a capture",
        foreign("<", link_type=1),
        block("<", 0x0A0D0D0A, bytes(16)),
        written([]) + block("<", 1, struct.pack("<HHI", 147, 0, 0)) * 1024,
        written([]) + struct.pack("<II", 6, 13) + bytes(100),
        written([]) + struct.pack("<II", 6, 1 << 24) + bytes(100),
        written([]) + block("<", 6, struct.pack("<IIIII", 9, 0, 0, 0, 0)),
        written([]) + block("<", 6, struct.pack("<IIIII", 0, 0, 0, 9, 9)),
    ],
)
def test_what_is_no_capture_of_csp_is_named(data):
    with pytest.raises(DecodeError):
        read(data)


def test_an_independent_reader_agrees(tmp_path):
    scapy = pytest.importorskip("scapy.utils", reason="scapy is not installed")
    path = tmp_path / "x.pcapng"
    path.write_bytes(written(FRAMES))
    with scapy.RawPcapNgReader(str(path)) as reader:
        packets = list(reader)
    assert [data for data, _ in packets] == [each.frame for each in FRAMES]
    assert {meta.linktype for _, meta in packets} == {147}
    times = [((meta.tshigh << 32) | meta.tslow) / meta.tsresol for _, meta in packets]
    assert times == pytest.approx([each.time_s for each in FRAMES])
