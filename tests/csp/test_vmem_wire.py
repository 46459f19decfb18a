"""Byte formats of port 14: layouts by hand, round trips, hostile bytes."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import DecodeError, MisuseError
from csp.vmem.area import RamArea
from csp.vmem.wire import (
    AreaInfo,
    Request,
    RequestKind,
    RingRequest,
    decode_list,
    decode_request,
    decode_ring_length,
    decode_ring_request,
    encode_list,
    encode_request,
    encode_ring_length,
    encode_ring_request,
    is_last_list_packet,
)

REQUESTS = [
    (
        "010100001000000000c00000000000000000",
        Request(version=1, kind=1, address=0x1000, length=192),
    ),
    (
        "02010000000100000002000000c000000000",
        Request(version=2, kind=1, address=0x100000002, length=192),
    ),
    (
        "030600000000000010000000000000000040",
        Request(version=3, kind=6, address=0x1000, length=64),
    ),
    ("020200000000000000000000000000000000", Request(version=2, kind=2)),
]


@pytest.mark.parametrize(("text", "request_"), REQUESTS)
def test_requests_have_18_bytes_both_ways(text, request_):
    raw = bytes.fromhex(text)
    assert len(raw) == 18
    assert decode_request(raw) == request_
    assert encode_request(request_) == raw


def test_short_requests_are_fine_if_what_they_need_is_there():
    assert decode_request(bytes.fromhex("0202")) == Request(version=2, kind=2)
    assert decode_request(bytes.fromhex("010000001000")).address == 0x1000
    assert decode_request(bytes.fromhex("0100000010000000")).length == 0
    for text in ("", "02", "0100000010", "01010000100000000c", "0201" + "00" * 11, "0101"):
        with pytest.raises(DecodeError):
            decode_request(bytes.fromhex(text))


@pytest.mark.parametrize("version", [0, 4, 255])
def test_unknown_versions_are_refused(version):
    with pytest.raises(DecodeError):
        decode_request(bytes((version, 2)) + bytes(16))
    with pytest.raises(MisuseError):
        encode_request(Request(version=version, kind=2))


def test_ranges_a_version_cannot_express_are_misuse():
    for version, address, length in ((1, 1 << 32, 0), (1, 0, 1 << 32), (2, 0, 1 << 32), (3, -1, 0)):
        with pytest.raises(MisuseError):
            encode_request(Request(version=version, kind=1, address=address, length=length))


def test_truncated_and_flipped_requests_and_lists_give_values_or_errors():
    cases = [(decode_request, bytes.fromhex(text)) for text, _ in REQUESTS]
    cases.append((decode_ring_request, encode_ring_request(RingRequest(kind=8, name="i", value=1))))
    for version in (1, 2, 3):
        for packet in encode_list(version, AREAS):
            cases.append((lambda raw, v=version: decode_list(v, [raw]), packet))
    for decode, raw in cases:
        hostile = [raw[:size] for size in range(len(raw))]
        number = int.from_bytes(raw, "big")
        hostile += [(number ^ 1 << bit).to_bytes(len(raw), "big") for bit in range(8 * len(raw))]
        for bad in hostile:
            with contextlib.suppress(DecodeError):
                decode(bad)


@given(st.binary(max_size=24))
def test_any_bytes_give_a_request_or_an_error(raw):
    for decode in (decode_request, decode_ring_request, decode_ring_length):
        with contextlib.suppress(DecodeError):
            decode(raw)
    for version in (1, 2, 3):
        with contextlib.suppress(DecodeError):
            decode_list(version, [raw])


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.sampled_from(["image", "im", ""]))
def test_ring_requests_have_the_value_little_endian_at_10(value, name):
    request = RingRequest(kind=RequestKind.RING_DOWNLOAD, name=name, value=value)
    raw = encode_ring_request(request)
    assert len(raw) == 18
    assert raw[2:7] == name.encode().ljust(5, b"\0")
    assert raw[10:14] == value.to_bytes(4, "little", signed=True)
    assert decode_ring_request(raw) == request
    assert decode_ring_request(raw[:14]) == request


def test_ring_name_is_cut_and_lengths_are_little_endian():
    raw = encode_ring_request(RingRequest(kind=8, name="images", value=-1))
    assert decode_ring_request(raw).name == "image"
    assert encode_ring_length(0x01020304) == bytes.fromhex("04030201")
    assert decode_ring_length(bytes.fromhex("04030201")) == 0x01020304
    with pytest.raises(MisuseError):
        encode_ring_request(RingRequest(kind=8, name="x", value=1 << 31))


AREAS = [RamArea("storage", 10000, 0x10000000), RamArea("ring", 64, 0)]


def test_lists_have_the_captured_layout():
    (first,) = encode_list(1, AREAS)
    assert first.hex() == "1000000000002710000173746f72610000000000000040010172696e6700"
    (second,) = encode_list(2, AREAS)
    assert len(second) == 38
    assert second[:19].hex() == "000000001000000000002710000173746f7261"  # fmt: skip
    (third,) = encode_list(3, AREAS)
    assert third[0] == 0xC0
    assert third[1:36].hex() == (
        "000000001000000000000000000027100001" + b"storage".hex() + "00" * 10
    )  # fmt: skip


@pytest.mark.parametrize("version", [1, 2, 3])
def test_lists_survive_a_round_trip(version):
    names = ["stora" if version < 3 else "storage", "ring"]
    ids = [0, 1] if version < 3 else [0, 0]
    assert decode_list(version, encode_list(version, AREAS)) == [
        AreaInfo(name=name, kind=1, address=area.address, size=area.size, id=number)
        for name, number, area in zip(names, ids, AREAS, strict=True)
    ]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 11])
def test_list_version_3_marks_its_first_and_last_packet(count):
    areas = [RamArea(f"a{i}", 4, 4 * i) for i in range(count)]
    packets = encode_list(3, areas)
    assert [bool(p[0] & 0x40) for p in packets] == [True] + [False] * (len(packets) - 1)
    assert [is_last_list_packet(3, p) for p in packets] == [False] * (len(packets) - 1) + [True]
    assert all(len(p) <= 192 for p in packets)
    assert len(decode_list(3, packets)) == count


def test_no_areas_are_an_empty_packet_and_too_many_are_cut():
    assert encode_list(2, []) == [b""]
    many = [RamArea(f"a{i}", 4, 4 * i) for i in range(50)]
    (packet,) = encode_list(2, many)
    assert len(packet) <= 247
    assert len(decode_list(2, [packet])) == 13


def test_list_of_half_a_record_is_refused():
    for version, raw in ((1, bytes(14)), (2, bytes(20)), (3, b""), (3, bytes(10))):
        with pytest.raises(DecodeError):
            decode_list(version, [raw])
