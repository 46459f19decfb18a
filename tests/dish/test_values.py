"""Arithmetic, comparison, conversion and text: every type against every operator."""

from __future__ import annotations

import math
import struct

import pytest

from csp.param.types import TYPES, ParamType, TypeClass
from dish.isa import BINARY, COMPARISONS, UNARY
from dish.text import parse_text
from dish.values import Mode, ValueFault, convert, single

P = ParamType
BIG = 2**64 - 1
MIN = -(2**63)
STRICT, FLIGHT = Mode.STRICT, Mode.FLIGHT


def by_text(rows, text):
    return next(row for row in rows if row.text == text)


# What each operator accepts, from dish.md 8.1 and 8.2, written out a second time on purpose.
ACCEPTS = {
    "++": "UIF", "--": "UIF", "!": "UI", "-": "IF", "idt": "UIFS", "rmt": "UIFS",
}  # fmt: skip
ACCEPTS_BINARY = {
    "+": "UIF", "-": "UIF", "*": "UIF", "/": "UIF", "%": "UI",
    "<<": "UI", ">>": "UI", "&": "UI", "|": "UI", "^": "UI",
}  # fmt: skip
LETTER = {
    TypeClass.UINT: "U", TypeClass.INT: "I", TypeClass.FLOAT: "F", TypeClass.STRING: "S",
}  # fmt: skip


@pytest.mark.parametrize("mode", Mode)
def test_each_operator_accepts_exactly_its_classes(mode):
    for rows, accepts in ((UNARY, ACCEPTS), (BINARY, ACCEPTS_BINARY)):
        found = {
            row.text: "".join(LETTER[kind] for kind in LETTER if kind in row.functions(mode))
            for row in rows
        }
        assert found == accepts
    for row in COMPARISONS:
        assert set(row.functions(mode)) == set(LETTER)


@pytest.mark.parametrize(
    ("operator", "kind", "operand", "result"),
    [
        ("++", TypeClass.UINT, BIG, 0),
        ("--", TypeClass.UINT, 0, BIG),
        ("++", TypeClass.INT, 2**63 - 1, MIN),
        ("--", TypeClass.INT, MIN, 2**63 - 1),
        ("++", TypeClass.FLOAT, 1.5, 2.5),
        ("-", TypeClass.INT, MIN, MIN),
        ("-", TypeClass.INT, 5, -5),
        ("-", TypeClass.FLOAT, 2.5, -2.5),
        ("!", TypeClass.UINT, 0, BIG),
        ("!", TypeClass.INT, 5, -6),
        ("idt", TypeClass.STRING, b"abc", b"abc"),
        ("rmt", TypeClass.UINT, 7, 7),
    ],
)
def test_unary(operator, kind, operand, result):
    for mode in Mode:
        assert by_text(UNARY, operator).functions(mode)[kind](operand) == result


@pytest.mark.parametrize(
    ("a", "operator", "b", "kind", "result"),
    [
        (BIG, "+", 1, TypeClass.UINT, 0),
        (0, "-", 1, TypeClass.UINT, BIG),
        (2**63, "*", 2, TypeClass.UINT, 0),
        (7, "/", 3, TypeClass.UINT, 2),
        (7, "%", 3, TypeClass.UINT, 1),
        (2**63 - 1, "+", 1, TypeClass.INT, MIN),
        (-7, "/", 3, TypeClass.INT, -2),
        (7, "/", -3, TypeClass.INT, -2),
        (-7, "%", 3, TypeClass.INT, -1),
        (7, "%", -3, TypeClass.INT, 1),
        (MIN, "/", -1, TypeClass.INT, MIN),
        (MIN, "%", -1, TypeClass.INT, 0),
        (3, "<<", 8, TypeClass.UINT, 768),
        (-8, ">>", 1, TypeClass.INT, -4),
        (2**63, ">>", 63, TypeClass.UINT, 1),
        (1, "<<", 63, TypeClass.INT, MIN),
        (6, "&", 3, TypeClass.UINT, 2),
        (6, "|", 3, TypeClass.UINT, 7),
        (6, "^", -1, TypeClass.INT, -7),
        (1.5, "*", 2.0, TypeClass.FLOAT, 3.0),
        (1e308, "*", 10.0, TypeClass.FLOAT, math.inf),
        (1.0, "/", 4.0, TypeClass.FLOAT, 0.25),
    ],
)
def test_binary(a, operator, b, kind, result):
    for mode in Mode:
        assert by_text(BINARY, operator).functions(mode)[kind](a, b) == result


@pytest.mark.parametrize("mode", Mode)
def test_division_by_zero_is_a_fault(mode):
    for operator, kind, zero in (
        ("/", TypeClass.UINT, 0),
        ("%", TypeClass.UINT, 0),
        ("/", TypeClass.INT, 0),
        ("%", TypeClass.INT, 0),
        ("/", TypeClass.FLOAT, 0.0),
        ("/", TypeClass.FLOAT, -0.0),
    ):
        with pytest.raises(ValueFault, match="zero"):
            by_text(BINARY, operator).functions(mode)[kind](type(zero)(1), zero)


def test_shift_counts_beyond_63():
    left, right = by_text(BINARY, "<<"), by_text(BINARY, ">>")
    assert left.flight[TypeClass.UINT](9, 64) == 9
    assert right.flight[TypeClass.INT](-9, 65) == -5
    assert left.flight[TypeClass.INT](1, -1) == MIN
    for row in (left, right):
        for count in (64, -1, BIG):
            with pytest.raises(ValueFault, match="shift count"):
                row.strict[TypeClass.INT](1, count)
        assert row.strict[TypeClass.UINT](1, 63) == row.flight[TypeClass.UINT](1, 63)


NAN, INF = math.nan, math.inf


@pytest.mark.parametrize(
    ("a", "b", "strict", "flight"),
    [
        # The letters are the comparisons that hold, in table order == != < > <= >=.
        (1.0, 2.0, "!= < <=", "!= < <="),
        (1.0000005, 1.0, "== > <= >=", "== > <= >="),
        (1e-7, 2e-7, "== < <= >=", "== < <= >="),
        (INF, INF, "== <= >=", ""),
        (-INF, INF, "!= < <=", "!= < <="),
        (NAN, 1.0, "!=", ""),
        (NAN, NAN, "!=", ""),
    ],
)
def test_float_comparison(a, b, strict, flight):
    for mode, expected in ((STRICT, strict), (FLIGHT, flight)):
        rows = [row for row in COMPARISONS if row.functions(mode)[TypeClass.FLOAT](a, b)]
        assert " ".join(row.text for row in rows) == expected


def test_string_comparison_follows_strcmp():
    less = by_text(COMPARISONS, "<").strict[TypeClass.STRING]
    assert less(b"abc", b"abd")
    assert less(b"ab", b"abc")
    assert less(b"z", b"\xc3")


@pytest.mark.parametrize(
    ("value", "source", "target", "strict", "flight"),
    [
        (-1, P.I8, P.I32, -1, 255),
        (-5, P.I32, P.I64, -5, 4294967291),
        (300, P.U8, P.U32, 300, 44),
        (70000, P.U32, P.U16, 4464, 4464),
        (1.5, P.FLOAT, P.U32, 1, 0x3FC00000),
        (1.5, P.DOUBLE, P.FLOAT, 1.5, 0.0),
        (256, P.U8, P.U8, 0, 0),
        (-129, P.I8, P.I8, 127, 127),
        (3, P.U8, P.FLOAT, 3.0, struct.unpack("<f", b"\3\0\0\0")[0]),
    ],
)
def test_storing_into_another_type(value, source, target, strict, flight):
    assert convert(value, source, target, STRICT) == strict
    assert convert(value, source, target, FLIGHT) == flight


def test_flight_reads_a_float_as_a_denormal_double():
    assert convert(1.5, P.FLOAT, P.DOUBLE, FLIGHT) == pytest.approx(5.28e-315, rel=1e-2)


def test_strict_float_to_integer_truncates_or_fails():
    assert convert(-1.9, P.DOUBLE, P.I8, STRICT) == -1
    assert convert(255.9, P.DOUBLE, P.U8, STRICT) == 255
    for value in (256.0, -1.0, NAN, INF):
        with pytest.raises(ValueFault):
            convert(value, P.DOUBLE, P.U8, STRICT)


@pytest.mark.parametrize("mode", Mode)
def test_every_pair_of_numeric_types_stores_or_faults_and_same_type_is_exact(mode):
    samples = {
        TypeClass.UINT: [0, 1, 200, BIG],
        TypeClass.INT: [0, -1, 127, MIN],
        TypeClass.FLOAT: [0.0, -1.5, 1e300, INF, NAN],
    }
    numeric = [row for row in TYPES if row.kind in samples]
    for source in numeric:
        for target in numeric:
            for value in samples[source.kind]:
                try:
                    stored = convert(value, source.type, target.type, mode)
                except ValueFault:
                    assert source.kind is TypeClass.FLOAT
                    assert target.kind is not TypeClass.FLOAT
                    continue
                # What was stored must be exactly representable in the memory of the target.
                raw = struct.pack("<" + target.code, stored)
                again = struct.unpack("<" + target.code, raw)[0]
                assert again == stored or math.isnan(stored)
                if source.type is target.type and source.is_integer:
                    bits = 8 * source.size
                    assert (stored - value) % (1 << bits) == 0


def test_strings_only_go_into_strings():
    assert convert(b"x", P.STRING, P.STRING, STRICT) == b"x"
    for source, target, value in (
        (P.STRING, P.U8, b"1"),
        (P.U8, P.STRING, 1),
        (P.STRING, P.DATA, b"1"),
        (P.U8, P.DATA, 1),
    ):
        for mode in Mode:
            with pytest.raises(ValueFault):
                convert(value, source, target, mode)


def test_integers_round_to_single_once():
    # 2^60 + 2^36 + 1 lies just above the middle of two singles; via a double it would tie to even.
    value = 2**60 + 2**36 + 1
    assert convert(value, P.U64, P.FLOAT, STRICT) == float(2**60 + 2**37)
    assert convert(-value, P.I64, P.FLOAT, STRICT) == -float(2**60 + 2**37)
    assert single(1e300) == INF


@pytest.mark.parametrize(
    ("type_", "text", "value"),
    [
        (P.U8, "300", 44),
        (P.U16, "70000", 4464),
        (P.U32, "4294967296", 0),
        (P.U64, "18446744073709551616", BIG),
        (P.I8, "200", -56),
        (P.I8, "-129", 127),
        (P.I8, "+5", 5),
        (P.I32, "1-1", 1),
        (P.I64, "9223372036854775808", 2**63 - 1),
        (P.I64, "-9223372036854775809", MIN),
        (P.X8, "0xFFF", 255),
        (P.X64, "0x1FFFFFFFFFFFFFFFF", BIG),
        (P.FLOAT, "1,5", 1.5),
        (P.FLOAT, "0.1", single(0.1)),
        (P.DOUBLE, "-.5e1", -5.0),
        (P.DOUBLE, "1e400", INF),
        (P.DOUBLE, "2.", 2.0),
        (P.DOUBLE, "1-1", 1.0),
        (P.STRING, "hello", b"hello"),
        (P.STRING, "", b""),
        (P.DATA, "0aFF", b"\x0a\xff" + bytes(6)),
    ],
)
def test_set_text(type_, text, value):
    assert parse_text(text, type_, 8) == value


@pytest.mark.parametrize(
    ("type_", "texts"),
    [
        (P.U8, ["", "-1", "+1", "1.5", "0x10", "abc", " 1", "1 ", "²", "1_0"]),
        (P.I16, ["", "-", "--5", "+-5", "1.5", "0x10", "a"]),
        (P.X32, ["", "255", "0Xff", "0x", "0xg", "ff"]),
        (P.FLOAT, ["", "nan", "inf", "1.2.3", "1,2.3", ".", "e5", "-", "--5", "1e", "0x1"]),
        (P.STRING, ["12345678", "ééééé"]),
        (P.DATA, ["", "0", "0g", "00 11", "001122334455667788"]),
        (P.U32, ["1" * 5000]),
    ],
)
def test_set_text_that_is_refused(type_, texts):
    for text in texts:
        with pytest.raises(ValueFault):
            parse_text(text, type_, 8)
