"""Queue codec: captured queues both ways, hostile bytes, and msgpack as oracle for values."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import DecodeError, MisuseError
from csp.param.codec import Item, QueueWriter, decode_queue
from csp.param.msgpack import decode_value, encode_int, encode_uint, encode_value
from csp.param.types import TYPES, ParamType, TypeClass

VECTORS = json.loads((Path(__file__).parent / "param_vectors.json").read_text())
QUEUES = VECTORS["queues"]


def encode_items(items, version, row=None, limit=200):
    """Write items whose values are of one type."""
    writer = QueueWriter(version, limit)
    for item in items:
        value = b"" if item.value is None else encode_value(row, item.value)
        assert writer.add(
            item.id, node=item.node, index=item.index, timestamp=item.timestamp, value=value
        )
    return writer.take()


@pytest.mark.parametrize("vector", QUEUES, ids=lambda v: v["name"])
def test_captured_queue_decodes_and_encodes_to_the_same_bytes(vector):
    raw = bytes.fromhex(vector["hex"])
    items = [Item(**item) for item in vector["items"]]
    assert decode_queue(raw, vector["version"], has_values=vector["has_values"]) == items
    row = TYPES[vector["type"]] if "type" in vector else None
    assert encode_items(items, vector["version"], row) == raw


def test_first_item_without_node_has_none_and_later_ones_keep_the_last():
    assert decode_queue(b"\xcd\x01\x00\xcd\x02\x40\x00\x07\xcd\x03\x00", has_values=False) == [
        Item(id=1),
        Item(id=2, node=7),
        Item(id=3, node=7),
    ]


def test_timestamp_is_sticky_and_extended_one_is_read_over():
    raw = bytes.fromhex("cd016800090000000500000007") + bytes.fromhex("cd0200")
    assert decode_queue(raw, has_values=False) == [
        Item(id=1, node=9, timestamp=5),
        Item(id=2, node=9, timestamp=5),
    ]
    back = encode_items(decode_queue(raw, has_values=False), 2)
    assert back == bytes.fromhex("cd0160000900000005cd0200")


def hostile_queues():
    for vector in QUEUES:
        yield bytes.fromhex(vector["hex"]), vector["version"], vector["has_values"]
    many = QueueWriter()
    for number in (1, 300, 1100):
        many.add(number, node=9, index=2, timestamp=77, value=encode_value(TYPES[3], 1 << 40))
    many.add(5, node=9, value=encode_value(TYPES[14], "text"))
    many.add(6, node=10, value=encode_value(TYPES[15], bytes(range(40))))
    many.add(7, node=10, value=encode_value(TYPES[13], [1.5] * 4))
    yield many.take(), 2, True


def check_decodes_or_names_the_error(raw, version, has_values):
    """Either items with sane fields or DecodeError come out."""
    try:
        items = decode_queue(raw, version, has_values=has_values)
    except DecodeError:
        return None
    for item in items:
        assert 0 <= item.id <= 65535
        assert item.node is None or 0 <= item.node <= 65535
        assert item.index is None or 0 <= item.index <= 255
        assert (item.value is not None) == has_values
    return items


def test_truncation_at_every_byte_gives_the_items_before_or_an_error():
    for raw, version, has_values in hostile_queues():
        whole = decode_queue(raw, version, has_values=has_values)
        for size in range(len(raw)):
            items = check_decodes_or_names_the_error(raw[:size], version, has_values)
            if items is not None:
                assert items == whole[: len(items)]
                assert len(items) < len(whole)


def test_every_bit_flip_gives_values_or_an_error():
    for raw, version, has_values in hostile_queues():
        for bit in range(8 * len(raw)):
            flipped = bytearray(raw)
            flipped[bit // 8] ^= 1 << bit % 8
            for values in (has_values, not has_values):
                check_decodes_or_names_the_error(bytes(flipped), version, values)


@given(st.binary(max_size=64), st.sampled_from([1, 2]), st.booleans())
def test_any_bytes_give_values_or_an_error(raw, version, has_values):
    check_decodes_or_names_the_error(raw, version, has_values)


ITEMS = st.lists(
    st.builds(
        Item,
        id=st.integers(0, 65535),
        node=st.integers(0, 65535),
        index=st.none() | st.integers(0, 127),
        timestamp=st.integers(0, 0xFFFFFFFF),
        value=st.integers(0, (1 << 64) - 1),
    ),
    max_size=8,
)


@given(ITEMS)
def test_items_survive_a_round_trip_in_version_2(items):
    raw = encode_items(items, 2, TYPES[ParamType.U64])
    assert decode_queue(raw, has_values=True) == items
    assert encode_items(decode_queue(raw, has_values=True), 2, TYPES[ParamType.U64]) == raw


@given(
    st.lists(
        st.builds(
            Item,
            id=st.integers(0, 511),
            node=st.integers(0, 31),
            index=st.none() | st.integers(0, 127),
            value=st.integers(-(1 << 63), (1 << 63) - 1),
        ),
        max_size=8,
    )
)
def test_items_survive_a_round_trip_in_version_1(items):
    raw = encode_items(items, 1, TYPES[ParamType.I64])
    assert decode_queue(raw, 1, has_values=True) == items


def test_full_queue_takes_nothing_more_and_the_next_one_names_its_node_again():
    writer = QueueWriter(limit=10)
    assert writer.add(1, node=9)
    assert writer.add(2, node=9)
    assert not writer.add(3, node=9)
    assert len(writer) == 8
    assert writer.take() == bytes.fromhex("cd01400009cd0200")
    assert writer.add(3, node=9)
    assert writer.take() == bytes.fromhex("cd03400009")
    assert writer.take() == b""


def test_queue_filled_to_the_last_byte():
    writer = QueueWriter(limit=8)
    assert writer.add(1, node=9)
    assert writer.add(2, node=9)
    assert len(writer) == 8


@pytest.mark.parametrize(
    ("version", "kwargs"),
    [(1, {"number": 512, "node": 1}), (1, {"number": 1, "node": 32}),
     (2, {"number": 1, "node": 1, "index": 128}), (2, {"number": 1, "node": 1, "index": -1})],
)  # fmt: skip
def test_what_a_version_cannot_express_is_misuse(version, kwargs):
    with pytest.raises(MisuseError):
        QueueWriter(version).add(kwargs.pop("number"), **kwargs)


def test_unknown_queue_version_is_misuse():
    with pytest.raises(MisuseError):
        QueueWriter(3)


def oracle(value):
    return msgpack.packb(value, use_single_float=False)


@given(st.integers(0, (1 << 64) - 1))
def test_unsigned_numbers_are_minimal_messagepack(value):
    assert encode_uint(value) == oracle(value)
    assert decode_value(encode_uint(value)) == (value, len(encode_uint(value)))


@given(st.integers(-(1 << 63), (1 << 63) - 1))
def test_signed_numbers_are_minimal_messagepack(value):
    assert encode_int(value) == oracle(value)
    assert decode_value(encode_int(value)) == (value, len(encode_int(value)))


EDGES = [0, 1, 127, 128, 255, 256, 65535, 65536, (1 << 32) - 1, 1 << 32, (1 << 63) - 1]


@pytest.mark.parametrize("value", [sign * edge for edge in EDGES for sign in (1, -1)] + [-32, -33])
def test_edges_of_minimal_numbers(value):
    assert encode_int(value) == oracle(value)
    assert decode_value(oracle(value))[0] == value


@given(st.floats(width=32), st.floats())
def test_floats_are_messagepack(single, double):
    row, wide = TYPES[ParamType.FLOAT], TYPES[ParamType.DOUBLE]
    assert encode_value(row, single) == msgpack.packb(single, use_single_float=True)
    assert encode_value(wide, double) == oracle(double)
    got = decode_value(encode_value(wide, double))[0]
    assert got == double or (math.isnan(got) and math.isnan(double))


@given(
    st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=80),
    st.binary(max_size=300),
)
def test_text_and_data_are_messagepack(text, data):
    assert encode_value(TYPES[ParamType.STRING], text) == oracle(text)
    assert encode_value(TYPES[ParamType.DATA], data) == oracle(data)
    assert decode_value(oracle(text))[0] == text
    assert decode_value(oracle(data))[0] == data


@pytest.mark.parametrize("count", [0, 1, 15, 16, 70])
def test_arrays_are_messagepack(count):
    values = list(range(count))
    assert encode_value(TYPES[ParamType.U8], values) == oracle(values)
    assert decode_value(oracle(values)) == (values, len(oracle(values)))


def test_long_forms_that_nobody_sends_are_understood():
    for raw, value in (
        (b"\xce\x00\x00\x00\x05", 5), (b"\xd3" + bytes(7) + b"\x05", 5), (b"\xdb\0\0\0\1a", "a"),
        (b"\xda\0\1a", "a"), (b"\xc6\0\0\0\1a", b"a"), (b"\xdd\0\0\0\1\7", [7]),
        (b"\xa3a\0b", "a"),
    ):  # fmt: skip
        assert decode_value(raw) == (value, len(raw))


@pytest.mark.parametrize(
    "raw",
    [b"", b"\xc0", b"\xc2", b"\x80", b"\xd4\0\0", b"\xc1", b"\x91\x91\x00", b"\x91\xa1a", b"\x91",
     b"\xdd\xff\xff\xff\xff\x00", b"\xdb\xff\xff\xff\xff", b"\xc6\x7f\xff\xff\xff", b"\xdc\x00",
     b"\xcb\0\0", b"\x92\x01"],
)  # fmt: skip
def test_what_is_no_parameter_value_is_a_decode_error(raw):
    with pytest.raises(DecodeError):
        decode_value(raw)


def test_every_type_has_an_encoder_of_its_class():
    samples = {
        TypeClass.UINT: 5, TypeClass.INT: -5, TypeClass.FLOAT: 1.5, TypeClass.STRING: "x",
        TypeClass.DATA: b"x",
    }  # fmt: skip
    for row in TYPES:
        raw = encode_value(row, samples[row.kind])
        assert decode_value(raw) == (samples[row.kind], len(raw))
