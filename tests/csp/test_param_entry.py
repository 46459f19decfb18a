"""List entries: the captured one both ways, older versions, hostile bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import DecodeError
from csp.param.entry import ListEntry, decode_entry, encode_entry
from csp.param.spec import ParamSpec
from csp.param.types import Mask, ParamType

ENTRIES = json.loads((Path(__file__).parent / "param_vectors.json").read_text())["entries"]


@pytest.mark.parametrize("vector", ENTRIES, ids=lambda v: v["name"])
def test_captured_entry_decodes_and_encodes_to_the_same_bytes(vector):
    raw = bytes.fromhex(vector["hex"])
    entry = ListEntry(
        spec=ParamSpec(
            id=vector["id"],
            name=vector["param"],
            type=ParamType(vector["type"]),
            array_size=vector["array_size"],
            mask=Mask(vector["mask"]),
            unit=vector["unit"],
            help=vector["help"],
        ),
        node=vector["node"],
        storage=vector["storage"],
    )
    assert decode_entry(raw) == entry
    assert encode_entry(entry) == raw
    assert len(raw) == 58 + len(vector["help"])


NAME = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=1, max_size=35)
ENTRY = st.builds(
    ListEntry,
    spec=st.builds(
        ParamSpec,
        id=st.integers(0, 65535),
        name=NAME,
        type=st.sampled_from(ParamType),
        array_size=st.integers(1, 254),
        mask=st.integers(0, 0xFFFFFFFF).map(Mask),
        unit=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=9),
        help=st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=149),
    ),
    node=st.integers(0, 65535),
    storage=st.integers(0, 255),
)


@given(ENTRY)
def test_entries_survive_a_round_trip(entry):
    raw = encode_entry(entry)
    assert decode_entry(raw) == entry
    assert 58 <= len(raw) <= 207


@given(ENTRY)
def test_an_older_client_reads_the_first_46_bytes(entry):
    old = decode_entry(encode_entry(entry)[:46], version=2)
    assert (old.spec.id, old.spec.name, old.node) == (entry.spec.id, entry.spec.name, entry.node)
    assert decode_entry(encode_entry(entry)[:46]) == old


def test_version_1_has_the_node_in_the_upper_bits_of_the_id():
    entry = decode_entry(bytes.fromhex("4810010400000004") + b"old\0\0", version=1)
    assert (entry.node, entry.spec.id, entry.spec.name) == (9, 16, "old")
    assert (entry.spec.type, entry.spec.array_size) == (ParamType.U16, 4)


@pytest.mark.parametrize("size", [0, 255])
def test_array_sizes_0_and_255_mean_a_scalar(size):
    raw = bytearray(bytes.fromhex(ENTRIES[0]["hex"]))
    raw[5] = size
    assert decode_entry(bytes(raw)).spec.array_size == 1


def test_a_text_listed_with_size_0_takes_what_a_packet_can_carry():
    """The flown camera's capture_param has 512 bytes; the entry keeps the low eight bits."""
    raw = bytearray(bytes.fromhex(ENTRIES[0]["hex"]))
    raw[4:6] = ParamType.STRING, 0
    assert decode_entry(bytes(raw)).spec.array_size == 254


def check(raw, version):
    try:
        entry = decode_entry(raw, version)
    except DecodeError:
        return
    assert encode_entry(entry)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_truncated_and_flipped_entries_give_values_or_an_error(version):
    raw = bytes.fromhex(ENTRIES[0]["hex"])
    for size in range(len(raw)):
        check(raw[:size], version)
    for bit in range(8 * len(raw)):
        flipped = bytearray(raw)
        flipped[bit // 8] ^= 1 << bit % 8
        check(bytes(flipped), version)


@given(st.binary(max_size=260), st.sampled_from([1, 2, 3]))
def test_any_bytes_give_an_entry_or_an_error(raw, version):
    check(raw, version)


@pytest.mark.parametrize("raw", [b"", bytes(8), bytes(10), bytes(57), bytes(58)])
def test_nameless_and_short_entries_are_refused(raw):
    with pytest.raises(DecodeError):
        decode_entry(raw)


def test_type_16_and_beyond_is_refused():
    raw = bytearray(bytes.fromhex(ENTRIES[0]["hex"]))
    raw[4] = 16
    with pytest.raises(DecodeError):
        decode_entry(bytes(raw))
