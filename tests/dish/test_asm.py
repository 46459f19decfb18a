"""The shell's `proc` lines to procedures and back."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from dish.asm import assemble, assemble_one, disassemble
from dish.errors import AssemblyError
from dish.isa import Opcode
from dish.program import decode, encode
from dish.testing import procedures


@given(procedures())
@settings(max_examples=100, deadline=None)
def test_disassembly_assembles_to_the_same_bytes(procedure):
    data = encode(procedure)
    text = disassemble(decode(data), slot=9, node=4)
    (listing,) = assemble(text, default_node=77)
    assert encode(listing.procedure) == data
    assert (listing.slot, listing.node) == (9, 4)


@pytest.mark.parametrize(
    ("text", "line", "column", "part"),
    [
        ("proc jump 3", 1, 6, "unknown instruction"),
        ("proc new\nproc set a", 2, 10, "value is missing"),
        ("proc set a 1 M7", 1, 14, "not a number"),
        ("proc set a 1 0x10", 1, 14, "not a number"),
        ("proc set a 1 65536", 1, 14, "outside"),
        ("proc set a 1 -1", 1, 14, "not a number"),
        ("proc set a 1 2 3", 1, 16, "too many words"),
        ("proc block a = b", 1, 14, "unknown operator"),
        ("proc unop a + b", 1, 13, "unknown operator"),
        ("proc call 300", 1, 11, "outside"),
        ("proc set -n a b", 1, 13, "not a number"),
        ('proc set a "never', 1, 12, "never closed"),
        ("proc pop", 1, 6, "no instruction"),
        ("proc noop\nproc pop 1", 2, 10, "outside"),
        ("proc noop\nproc push", 2, 6, "slot"),
        ("proc", 1, 1, "what"),
        ("\n\nrun 5", 3, 1, "unknown instruction"),
        ("proc pull 5", 1, 6, "unknown instruction"),
    ],
)
def test_errors_carry_line_and_column(text, line, column, part):
    with pytest.raises(AssemblyError, match=part) as caught:
        assemble(text)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_256th_instruction_is_refused():
    with pytest.raises(AssemblyError, match="Maximum number"):
        assemble("proc noop\n" * 256)


def test_words_quotes_comments_and_options():
    script = """# a comment
    node 7
    proc new
    proc set label 'hello "world"'
    proc set -n 5 x -5
    proc unop y -- y
    proc noop whatever follows
    proc call 3
    proc pop 2
    proc run 3
    proc push 12 4
    proc new
    noop
    """
    first, second = assemble(script)
    assert (first.slot, first.node) == (12, 4)
    assert [(str(entry), entry.node) for entry in first.procedure.instructions] == [
        ('set   : label = hello "world"', 7),
        ("set   : x = -5", 5),
        ("noop", 0),
        ("call  : 3", 7),
    ]
    assert first.lines == (4, 5, 7, 8)
    assert second.slot is None
    assert second.procedure.instructions[0].opcode is Opcode.NOOP


def test_a_pushed_procedure_stays_current():
    first, second = assemble("proc new\nproc noop\nproc push 3\nproc noop\nproc push 4\n")
    assert (len(first.procedure), len(second.procedure)) == (1, 2)


def test_an_empty_procedure_can_be_pushed():
    (listing,) = assemble("proc new\nproc push 3\n")
    assert encode(listing.procedure) == b"\0"


def test_assemble_one_takes_exactly_one():
    assert len(assemble_one("noop\nnoop")) == 2
    assert len(assemble_one("")) == 0
    with pytest.raises(AssemblyError):
        assemble_one("noop\nproc push 1\nproc new\nnoop\n")
