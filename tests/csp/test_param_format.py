"""What an operator types and reads: the captured rows of csh, all value forms, hostile text."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.param.errors import BadIndex, OutOfRange, ParamError, TypeMismatch
from csp.param.format import (
    Assignment,
    Target,
    format_mask,
    format_row,
    format_value,
    parse_assignment,
    parse_mask,
    parse_number,
    parse_target,
    printable,
)
from csp.param.spec import ParamSpec
from csp.param.types import TYPES, Mask, ParamType

ROWS = json.loads((Path(__file__).parent / "param_vectors.json").read_text())["rows"]


def spec(kind, size=1, **kwargs):
    return ParamSpec(id=1, name="p", type=kind, array_size=size, **kwargs)


def test_rows_are_those_of_csh():
    array = ParamSpec(id=16, name="t_arr16", type=ParamType.U16, array_size=16)
    value = [100 * i for i in range(16)]
    assert format_row(array, 9, value, verbose=1) == ROWS[0]["csh"]
    single = ParamSpec(id=11, name="t_f", type=ParamType.FLOAT, unit="degC", mask=Mask.CONF)
    assert format_row(single, 9, 1.25) == ROWS[1]["csh"]


def test_row_of_an_unknown_value_with_help():
    param = ParamSpec(id=5, name="x", type=ParamType.U8, array_size=3, help="what it is")
    assert format_row(param, 162, None, verbose=3, remote=False) == (
        "   5:162  x                    = [- - -]              u08[3]\t\t\twhat it is"
    )


@pytest.mark.parametrize(
    ("kind", "value", "text"),
    [
        (ParamType.U8, 5, "5"),
        (ParamType.I64, -(1 << 63), "-9223372036854775808"),
        (ParamType.X16, 0x1F, "0x1F"),
        (ParamType.FLOAT, 1.25, "1.250000"),
        (ParamType.FLOAT, 0.0, "0.000000"),
        (ParamType.FLOAT, 1e-6, "1.000000e-06"),
        (ParamType.FLOAT, -1e-6, "-1.000000e-06"),
        (ParamType.DOUBLE, 0.1, "0.100000000000000"),
        (ParamType.DOUBLE, 1e-9, "1.000000000000000e-09"),
        (ParamType.DOUBLE, math.inf, "inf"),
        (ParamType.STRING, "Grüße", "Grüße"),
        (ParamType.STRING, "a\x1b[31m\n", "a\\x1b[31m\\x0a"),
        (ParamType.DATA, b"\x0a\xff", "0x0AFF"),
        (ParamType.X8, [1, 255], "[0x1 0xFF]"),
    ],
)
def test_values_print_as_in_csh(kind, value, text):
    assert format_value(TYPES[kind], value) == text


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("a", Target(name="a")),
        ("a_b.c", Target(name="a_b.c")),
        ("a[3]", Target(name="a", first=3)),
        ("a[-1]", Target(name="a", first=-1)),
        ("a[2:4]", Target(name="a", first=2, stop=4, is_slice=True)),
        ("a[:4]", Target(name="a", stop=4, is_slice=True)),
        ("a[2:]", Target(name="a", first=2, is_slice=True)),
        ("a[:]", Target(name="a", is_slice=True)),
    ],
)
def test_targets(text, target):
    assert parse_target(text) == target
    assert str(target) == text


@pytest.mark.parametrize(
    "text", ["", "[1]", "a[", "a[]", "a[x]", "a[1", "a[1]]", "a[1][2]", "a b", "a[-]", "a[-:2]",
             "a[1 ]", "a[1:2:3]", "a[123456]", "a[１]"]
)  # fmt: skip
def test_what_is_no_target_is_an_error(text):
    with pytest.raises(ParamError):
        parse_target(text)


@pytest.mark.parametrize(
    ("param", "target", "text", "expected"),
    [
        (spec(ParamType.U8), "p", "255", Assignment(value=255)),
        (spec(ParamType.U8), "p", "0x1f", Assignment(value=31)),
        (spec(ParamType.U8), "p[0]", "1", Assignment(value=1, index=0)),
        (spec(ParamType.U8), "p", "[7]", Assignment(value=7)),
        (spec(ParamType.I16), "p", "-5", Assignment(value=-5)),
        (spec(ParamType.I16), "p", "+5", Assignment(value=5)),
        (spec(ParamType.X32), "p", "0xDEADbeef", Assignment(value=0xDEADBEEF)),
        (spec(ParamType.X32), "p", "10", Assignment(value=10)),
        (spec(ParamType.FLOAT), "p", "1,5e3", Assignment(value=1500.0)),
        (spec(ParamType.FLOAT), "p", "-.5", Assignment(value=-0.5)),
        (spec(ParamType.DOUBLE), "p", "-inf", Assignment(value=-math.inf)),
        (spec(ParamType.STRING, 8), "p", "a b", Assignment(value="a b")),
        (spec(ParamType.STRING, 8), "p", "[1 2]", Assignment(value="[1 2]")),
        (spec(ParamType.STRING, 8), "p", "", Assignment(value="")),
        (spec(ParamType.DATA, 4), "p", "0x0102", Assignment(value=b"\1\2\0\0")),
        (spec(ParamType.DATA, 4), "p", "01fF", Assignment(value=b"\1\xff\0\0")),
        (spec(ParamType.U8, 5), "p", "9", Assignment(value=[9] * 5)),
        (spec(ParamType.U8, 5), "p", "[1 2 3]", Assignment(value=[1, 2, 3])),
        (spec(ParamType.U8, 5), "p", "[1, 2,3 ]", Assignment(value=[1, 2, 3])),
        (spec(ParamType.FLOAT, 5), "p", "[1,5 2]", Assignment(value=[1.5, 2.0])),
        (spec(ParamType.U8, 5), "p[3]", "9", Assignment(value=9, index=3)),
        (spec(ParamType.U8, 5), "p[-1]", "9", Assignment(value=9, index=4)),
        (spec(ParamType.U8, 5), "p[2:4]", "[70 80]", Assignment(value=[70, 80], index=2)),
        (spec(ParamType.U8, 5), "p[2:4]", "7", Assignment(value=[7, 7], index=2)),
        (spec(ParamType.U8, 5), "p[3:]", "7", Assignment(value=[7, 7], index=3)),
        (spec(ParamType.U8, 5), "p[2]", "[1 2]", Assignment(value=[1, 2], index=2)),
    ],
    ids=str,
)
def test_assignments(param, target, text, expected):
    assert parse_assignment(param, parse_target(target), text) == expected


@pytest.mark.parametrize(
    ("param", "target", "text", "error"),
    [
        (spec(ParamType.U8), "p", "256", OutOfRange),
        (spec(ParamType.U8), "p", "-1", OutOfRange),
        (spec(ParamType.U8), "p", "", TypeMismatch),
        (spec(ParamType.U8), "p", "1.5", TypeMismatch),
        (spec(ParamType.U8), "p", "1_0", TypeMismatch),
        (spec(ParamType.U8), "p", "１", TypeMismatch),
        (spec(ParamType.U8), "p", "--5", TypeMismatch),
        (spec(ParamType.U8), "p", "9" * 5000, OutOfRange),
        (spec(ParamType.X8), "p", "0x", TypeMismatch),
        (spec(ParamType.FLOAT), "p", "1e39", OutOfRange),
        (spec(ParamType.FLOAT), "p", "1.2.3", TypeMismatch),
        (spec(ParamType.FLOAT), "p", ".", TypeMismatch),
        (spec(ParamType.FLOAT), "p", "1e", TypeMismatch),
        (spec(ParamType.STRING, 4), "p", "abcd", OutOfRange),
        (spec(ParamType.DATA, 2), "p", "010203", OutOfRange),
        (spec(ParamType.DATA, 2), "p", "012", TypeMismatch),
        (spec(ParamType.DATA, 2), "p", "0x0g", TypeMismatch),
        (spec(ParamType.U8, 3), "p", "[1 2 3 4]", OutOfRange),
        (spec(ParamType.U8, 3), "p", "[1 2", TypeMismatch),
        (spec(ParamType.U8, 3), "p", "[]", TypeMismatch),
        (spec(ParamType.U8, 3), "p[0:2]", "[1]", OutOfRange),
        (spec(ParamType.U8, 3), "p[3]", "1", BadIndex),
        (spec(ParamType.U8, 3), "p[-4]", "1", BadIndex),
        (spec(ParamType.U8, 3), "p[1:4]", "1", BadIndex),
        (spec(ParamType.U8, 3), "p[2:1]", "1", BadIndex),
        (spec(ParamType.U8, 3), "p[2]", "[1 2]", OutOfRange),
        (spec(ParamType.STRING, 4), "p[1]", "a", BadIndex),
    ],
    ids=str,
)
def test_what_does_not_fit_is_an_error(param, target, text, error):
    with pytest.raises(error):
        parse_assignment(param, parse_target(target), text)


@given(st.sampled_from(ParamType), st.integers(1, 5), st.text(max_size=30))
def test_any_text_gives_a_value_or_a_parameter_error(kind, size, text):
    try:
        found = parse_assignment(spec(kind, size), parse_target("p"), text)
        format_value(TYPES[kind], found.value)
        parse_target(text)
    except ParamError:
        pass


@given(st.sampled_from([row for row in TYPES if row.is_integer]), st.data())
def test_printed_integers_parse_back(row, data):
    value = data.draw(st.integers(row.low, row.high))
    assert parse_number(row, format_value(row, value)) == value


def test_masks_both_ways():
    assert format_mask(0) == ""
    assert format_mask(Mask.READONLY | Mask.CONF | Mask.TELEM | Mask.PRIO2) == "rct2"
    for text, mask in (("rct", 0xD), ("A", 0xFFFFFFFF), ("0x12", 0x12), ("3", 0x3000), ("", 0)):
        assert parse_mask(text) == mask
    for bad in ("z", "0xgg", "0x"):
        with pytest.raises(ParamError):
            parse_mask(bad)


def test_printable_keeps_letters_and_escapes_the_rest():
    assert printable("a€\udcff\x00") == "a€\\xff\\x00"
