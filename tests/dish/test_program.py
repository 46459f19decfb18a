"""Procedures to bytes and back, against captured traffic and against damaged bytes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dish.asm import assemble
from dish.errors import DecodeError, MisuseError
from dish.isa import OPCODES, Opcode
from dish.program import NOOP, Instruction, Procedure, decode, encode, size_bytes
from dish.testing import procedures

VECTORS = json.loads(Path(__file__).with_name("dish_vectors.json").read_text())["push_vectors"]


@pytest.mark.parametrize("vector", VECTORS, ids=lambda row: row["name"])
def test_captured_pushes_encode_and_decode_byte_for_byte(vector):
    (listing,) = assemble("\n".join(vector["commands"]))
    request = bytes.fromhex(vector["push_request_hex"])
    assert listing.slot == vector["slot"]
    assert bytes((0x84, listing.slot)) + encode(listing.procedure) == request
    assert size_bytes(listing.procedure) == vector["proc_size"]
    assert decode(request[2:]) == listing.procedure


def test_listing_one_of_the_paper_is_183_bytes():
    text = Path(__file__).with_name("listing1.csh").read_text()
    (listing,) = assemble(text)
    expected = (
        "842a09040002705f75696e7433325b305d003137343434303737363400"
        "040000676e73735f74696d650005705f75696e7433325b305d00"
        "04000277616b655f613533003100"
        "0400006135335f73746174757300003100"
        "040003676e73735f74696d650004705f75696e7433325b315d00"
        "a30002636170747572655f696d616765003100"
        "a20002706970656c696e655f72756e003100"
        "a20000706970656c696e655f72756e00003000"
        "a1000273757370656e645f613533003100"
    )  # fmt: skip
    assert "842a" + encode(listing.procedure).hex() == expected
    assert size_bytes(listing.procedure) == 183


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        ("", 0),
        ("01", 1),
        ("010000", 1),
        ("01000007", 3),
        ("010000ff", 3),
        ("0100000061000662", 6),
        ("01000000610006620000", 6),
        ("010000036100066200", 6),
        ("0100000461000a62006300", 6),
        ("0100000261003100"[:-2], 6),
        ("01000005", 4),
        ("020000060000", 4),
    ],
)
def test_wrong_bytes_are_refused_at_their_offset(data, offset):
    with pytest.raises(DecodeError) as caught:
        decode(bytes.fromhex(data))
    assert caught.value.offset == offset


def test_count_above_the_nodes_own_maximum_is_refused():
    data = encode(Procedure(instructions=(NOOP,) * 51))
    assert len(decode(data)) == 51
    with pytest.raises(DecodeError):
        decode(data, max_instructions=50)


def test_trailing_bytes_are_ignored():
    data = encode(Procedure(instructions=(NOOP,)))
    assert decode(data + b"\xff\x00junk") == decode(data)


def test_values_the_format_cannot_carry_are_misuse():
    for instruction in (
        Instruction(opcode=Opcode.SET, node=65536, first="a", value="1"),
        Instruction(opcode=Opcode.SET, node=-1, first="a", value="1"),
        Instruction(opcode=Opcode.SET, first="a\0b", value="1"),
        Instruction(opcode=Opcode.CALL, slot=256),
        Instruction(opcode=Opcode.UNOP, first="a", operator=6, result="b"),
        Instruction(opcode=Opcode.BLOCK, first="a", operator=-1, second="b"),
    ):
        with pytest.raises(MisuseError):
            encode(Procedure(instructions=(instruction,)))
    with pytest.raises(MisuseError):
        encode(Procedure(instructions=(NOOP,) * 256))


@given(procedures())
@settings(max_examples=60, deadline=None)
def test_decode_inverts_encode(procedure):
    assert decode(encode(procedure)) == procedure


@given(st.binary(max_size=80))
@settings(max_examples=200, deadline=None)
def test_any_bytes_give_a_procedure_or_a_decode_error(data):
    try:
        procedure = decode(data)
    except DecodeError as error:
        offset = error.offset
    else:
        assert data.startswith(encode(procedure))
        offset = 0
    assert 0 <= offset <= len(data)


@pytest.mark.parametrize("vector", VECTORS, ids=lambda row: row["name"])
def test_every_truncation_and_every_bit_flip_is_contained(vector):
    data = bytes.fromhex(vector["push_request_hex"])[2:]
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            decode(data[:length])
    for position in range(8 * len(data)):
        flipped = bytearray(data)
        flipped[position // 8] ^= 1 << position % 8
        try:
            decode(bytes(flipped))
        except DecodeError:
            continue


def test_vectors_file_matches_the_shared_specification():
    shared = Path("/work/shared/spec/dish_vectors.json")
    if not shared.exists():
        pytest.skip("the specification is not on this machine")
    assert json.loads(shared.read_text())["push_vectors"] == VECTORS


def test_rows_stand_at_their_numbers():
    assert [row.opcode for row in OPCODES] == list(Opcode)
    for row in OPCODES:
        assert [operator.number for operator in row.operators] == list(range(len(row.operators)))
