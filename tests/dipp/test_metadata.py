"""Metadata against the verified bytes, garbage and its own limits."""

from __future__ import annotations

import contextlib
import math
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dipp.errors import Code, ContentError, MisuseError
from dipp.metadata import INT32_MAX, INT32_MIN, METADATA_LIMIT_BYTES, Metadata

# dipp.md 17: accepted by the real node.
GOLDEN = Metadata(
    size=6, height=1, width=3, channels=1, timestamp=1, bits_pixel=12, obid=7, camera="rgb",
    items=(("enc", "jxl"),),
)  # fmt: skip
GOLDEN_BYTES = bytes.fromhex("08061001180320012801300c380742037267624a0a0a03656e632a036a786c")

_int32 = st.integers(INT32_MIN, INT32_MAX)
_size = st.integers(0, INT32_MAX)
_text = st.text(max_size=20)
_values = st.one_of(
    st.booleans(), _int32, st.floats(width=32, allow_nan=False, allow_infinity=False), _text
)
metadata_values = st.builds(
    Metadata,
    size=_size, height=_size, width=_size, channels=_size, timestamp=_int32, bits_pixel=_size,
    obid=_int32, camera=_text, items=st.lists(st.tuples(_text, _values), max_size=5).map(tuple),
)  # fmt: skip


def test_golden_bytes_both_ways() -> None:
    assert GOLDEN.encode() == GOLDEN_BYTES
    assert Metadata.decode(GOLDEN_BYTES) == GOLDEN


@given(metadata_values)
def test_round_trip(value: Metadata) -> None:
    decoded = Metadata.decode(value.encode())
    assert decoded == value
    assert [type(v) for _, v in decoded.items] == [type(v) for _, v in value.items]


@given(metadata_values, st.sampled_from([0, *range(2, 130)]))
def test_padding_adds_exactly_its_length_and_no_content(value: Metadata, padding: int) -> None:
    encoded = value.encode(padding)
    assert len(encoded) == len(value.encode()) + padding
    assert Metadata.decode(encoded) == value


@pytest.mark.parametrize("padding", [1, 130, -1])
def test_impossible_padding(padding: int) -> None:
    with pytest.raises(MisuseError):
        GOLDEN.encode(padding)


def test_every_truncation_and_bit_flip_is_a_value_or_a_named_error() -> None:
    damaged = [GOLDEN_BYTES[:n] for n in range(len(GOLDEN_BYTES))]
    for bit in range(len(GOLDEN_BYTES) * 8):
        flipped = bytearray(GOLDEN_BYTES)
        flipped[bit // 8] ^= 1 << bit % 8
        damaged.append(bytes(flipped))
    for data in damaged:
        with contextlib.suppress(ContentError):
            Metadata.decode(data)


@given(st.binary(max_size=200))
def test_garbage_is_a_value_or_a_named_error(data: bytes) -> None:
    try:
        value = Metadata.decode(data)
    except ContentError:
        return
    assert Metadata.decode(value.encode()) == value


BAD_WIRE = {
    "item without value": "4a050a03656e63",
    "negative size": "08ffffffffffffffffff01",
    "negative width": "18ffffffffffffffffff01",
    "NaN item": "4a080a0161250000c07f",
    "infinite item": "4a080a0161250000807f",
    "text that is not UTF-8": "4202ff41",
}


@pytest.mark.parametrize("data", BAD_WIRE.values(), ids=BAD_WIRE)
def test_content_that_makes_no_sense_is_refused(data: str) -> None:
    with pytest.raises(ContentError) as caught:
        Metadata.decode(bytes.fromhex(data))
    assert caught.value.code == Code.BATCH_INVALID


def test_unknown_fields_are_skipped() -> None:
    assert Metadata.decode(GOLDEN_BYTES + bytes.fromhex("a20605") + b"later") == GOLDEN


def test_oversized_metadata_is_refused_both_ways() -> None:
    with pytest.raises(ContentError):
        Metadata.decode(bytes(METADATA_LIMIT_BYTES + 1))
    with pytest.raises(MisuseError):
        Metadata(camera="x" * METADATA_LIMIT_BYTES).encode()


@pytest.mark.parametrize(
    "fields",
    [
        {"size": -1},
        {"width": INT32_MAX + 1},
        {"timestamp": INT32_MIN - 1},
        {"height": True},
        {"height": 1.0},
        {"camera": b"rgb"},
        {"camera": "\ud800"},
        {"items": (("a", math.nan),)},
        {"items": (("a", math.inf),)},
        {"items": (("a", 1e300),)},
        {"items": (("a", 2**31),)},
        {"items": (("a", None),)},
        {"items": ((3, "a"),)},
    ],
)
def test_no_half_valid_value_exists(fields: dict[str, object]) -> None:
    with pytest.raises(MisuseError):
        Metadata(**fields)  # type: ignore[arg-type]
    with pytest.raises(MisuseError):
        GOLDEN.replace(**fields)


def test_items_are_found_in_order_and_not_added_twice() -> None:
    value = Metadata(items=(("a", 1), ("a", 2)))
    assert value.item("a") == 1
    assert value.item("b") is None
    assert value.with_item("b", 0.1).item("b") == pytest.approx(0.1, rel=1e-6)
    with pytest.raises(MisuseError) as caught:
        value.with_item("a", 3)
    assert caught.value.code == Code.METADATA_DUPLICATE


@given(st.text(string.printable, max_size=8))
def test_replace_changes_only_what_is_named(camera: str) -> None:
    assert GOLDEN.replace(camera=camera).replace(camera="rgb") == GOLDEN


def test_replace_normalises_new_items_and_keeps_the_others() -> None:
    third = 1 / 3
    value = GOLDEN.replace(items=(*GOLDEN.items, ("x", third)))
    assert value == Metadata.decode(value.encode())
    assert value.item("x") != third
    assert value.replace(items=value.items[1:], obid=8).items == value.items[1:]


def test_replace_of_an_unknown_field_names_it() -> None:
    with pytest.raises(TypeError, match="colour"):
        GOLDEN.replace(colour=1)


@pytest.mark.parametrize("bits", ["000080ff", "0000c07f"])
def test_an_item_that_is_no_number_is_refused(bits: str) -> None:
    data = Metadata(items=(("x", 1.0),)).encode()
    wrong = data.replace(bytes.fromhex("0000803f"), bytes.fromhex(bits))
    assert wrong != data
    with pytest.raises(ContentError, match="not a finite number"):
        Metadata.decode(wrong)
