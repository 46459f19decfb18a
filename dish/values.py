"""Compute with operands as the flight machine does: arithmetic, comparison, conversion, text.

Theory of operation: a value is loaded into one of four classes (unsigned, signed, float, string),
computed in 64 bits or double, and converted into the destination type when stored. Each small
function here is one cell of the tables in dish.md 8; `isa` puts them into rows. Strings are `bytes`
without the terminator. Two modes: STRICT converts values, FLIGHT reproduces the byte
reinterpretation and the shift counts of the flown code.
"""

from __future__ import annotations

import math
import struct
from array import array
from collections.abc import Callable, Mapping
from enum import Enum

from csp.param.types import TYPES, ParamType, TypeClass

Value = int | float | bytes

UINT, INT, FLOAT, STRING = TypeClass.UINT, TypeClass.INT, TypeClass.FLOAT, TypeClass.STRING
LOADABLE = frozenset((UINT, INT, FLOAT, STRING))
NUMERIC = frozenset((UINT, INT, FLOAT))
INTEGER = frozenset((UINT, INT))

_M64 = (1 << 64) - 1
_H64 = 1 << 63
# Absolute, as flown (dish.md 1).
EPSILON = 1e-6


class Mode(Enum):
    """Which semantics hold where the flown code and good sense differ. Source: dish.md 8."""

    STRICT = "strict"
    FLIGHT = "flight"


class ValueFault(Exception):
    """An operation that ends the procedure: division by zero, value out of range, bad text."""


def wrap(value: int, type_: ParamType) -> int:
    """Return the low bits of an integer as the given integer type reads them."""
    row = TYPES[type_]
    bits = 8 * row.size
    if row.kind is INT:
        half = 1 << (bits - 1)
        return ((value + half) & ((1 << bits) - 1)) - half
    return value & ((1 << bits) - 1)


def _i64(value: int) -> int:
    return ((value + _H64) & _M64) - _H64


def single(value: float) -> float:
    """Round a double to single precision, with infinity beyond its range as in C."""
    return array("f", (value,))[0]


def _truncated(a: int, b: int) -> tuple[int, int]:
    if b == 0:
        raise ValueFault("division by zero")
    quotient = abs(a) // abs(b)
    if (a < 0) != (b < 0):
        quotient = -quotient
    return quotient, a - b * quotient


def _divide_float(a: float, b: float) -> float:
    if b == 0.0:
        raise ValueFault("division by zero")
    return a / b


def _count_strict(count: int) -> int:
    if not 0 <= count <= 63:
        raise ValueFault(f"shift count {count} is outside 0..63")
    return count


def _copy(a: Value) -> Value:
    return a


UnaryRow = Mapping[TypeClass, Callable[..., Value]]
BinaryRow = Mapping[TypeClass, Callable[..., Value]]

INCREMENT: UnaryRow = {
    UINT: lambda a: (a + 1) & _M64,
    INT: lambda a: _i64(a + 1),
    FLOAT: lambda a: a + 1.0,
}
DECREMENT: UnaryRow = {
    UINT: lambda a: (a - 1) & _M64,
    INT: lambda a: _i64(a - 1),
    FLOAT: lambda a: a - 1.0,
}
# Negation of an unsigned operand is an error, as verified in flight.
NEGATE: UnaryRow = {INT: lambda a: _i64(-a), FLOAT: lambda a: -a}
INVERT: UnaryRow = {UINT: lambda a: a ^ _M64, INT: lambda a: ~a}
COPY: UnaryRow = {UINT: _copy, INT: _copy, FLOAT: _copy, STRING: _copy}

ADD: BinaryRow = {
    UINT: lambda a, b: (a + b) & _M64,
    INT: lambda a, b: _i64(a + b),
    FLOAT: lambda a, b: a + b,
}
SUBTRACT: BinaryRow = {
    UINT: lambda a, b: (a - b) & _M64,
    INT: lambda a, b: _i64(a - b),
    FLOAT: lambda a, b: a - b,
}
MULTIPLY: BinaryRow = {
    UINT: lambda a, b: (a * b) & _M64,
    INT: lambda a, b: _i64(a * b),
    FLOAT: lambda a, b: a * b,
}
DIVIDE: BinaryRow = {
    UINT: lambda a, b: _truncated(a, b)[0],
    INT: lambda a, b: _i64(_truncated(a, b)[0]),
    FLOAT: _divide_float,
}
REMAINDER: BinaryRow = {
    UINT: lambda a, b: _truncated(a, b)[1],
    INT: lambda a, b: _truncated(a, b)[1],
}
SHIFT_LEFT: BinaryRow = {
    UINT: lambda a, b: (a << _count_strict(b)) & _M64,
    INT: lambda a, b: _i64(a << _count_strict(b)),
}
SHIFT_RIGHT: BinaryRow = {
    UINT: lambda a, b: a >> _count_strict(b),
    INT: lambda a, b: a >> _count_strict(b),
}
# Flight leaves counts beyond 63 to the processor; x86-64 and aarch64 take them modulo 64.
SHIFT_LEFT_FLIGHT: BinaryRow = {
    UINT: lambda a, b: (a << (b & 63)) & _M64,
    INT: lambda a, b: _i64(a << (b & 63)),
}
SHIFT_RIGHT_FLIGHT: BinaryRow = {
    UINT: lambda a, b: a >> (b & 63),
    INT: lambda a, b: a >> (b & 63),
}
AND: BinaryRow = {UINT: lambda a, b: a & b, INT: lambda a, b: a & b}
OR: BinaryRow = {UINT: lambda a, b: a | b, INT: lambda a, b: a | b}
XOR: BinaryRow = {UINT: lambda a, b: a ^ b, INT: lambda a, b: a ^ b}


def _near(a: float, b: float) -> bool:
    return abs(a - b) < EPSILON


def _near_strict(a: float, b: float) -> bool:
    # Equal infinities differ by NaN; IEEE says they are equal.
    return a == b or abs(a - b) < EPSILON


CompareRow = Mapping[TypeClass, Callable[..., bool]]


def _exact(compare: Callable[..., bool]) -> dict[TypeClass, Callable[..., bool]]:
    # Bytes compare as unsigned characters with the shorter one first: the order of C strcmp.
    return {UINT: compare, INT: compare, STRING: compare}


EQUAL: CompareRow = {**_exact(lambda a, b: a == b), FLOAT: _near_strict}
NOT_EQUAL: CompareRow = {
    **_exact(lambda a, b: a != b),
    FLOAT: lambda a, b: not _near_strict(a, b),
}
LESS: CompareRow = {**_exact(lambda a, b: a < b), FLOAT: lambda a, b: a < b}
GREATER: CompareRow = {**_exact(lambda a, b: a > b), FLOAT: lambda a, b: a > b}
LESS_EQUAL: CompareRow = {
    **_exact(lambda a, b: a <= b),
    FLOAT: lambda a, b: a < b or _near_strict(a, b),
}
GREATER_EQUAL: CompareRow = {
    **_exact(lambda a, b: a >= b),
    FLOAT: lambda a, b: a > b or _near_strict(a, b),
}
EQUAL_FLIGHT: CompareRow = {**EQUAL, FLOAT: _near}
# Any comparison with NaN is false in flight, including this one.
NOT_EQUAL_FLIGHT: CompareRow = {**NOT_EQUAL, FLOAT: lambda a, b: abs(a - b) >= EPSILON}
LESS_EQUAL_FLIGHT: CompareRow = {**LESS_EQUAL, FLOAT: lambda a, b: a < b or _near(a, b)}
GREATER_EQUAL_FLIGHT: CompareRow = {**GREATER_EQUAL, FLOAT: lambda a, b: a > b or _near(a, b)}


def convert(value: Value, source: ParamType, target: ParamType, mode: Mode) -> Value:
    """Convert a computed value for storing into `target`; `source` is the first operand's type.

    Raises ValueFault if the destination cannot hold it (string against number, NaN to integer).
    """
    if isinstance(value, bytes) or TYPES[target].kind not in NUMERIC:
        if isinstance(value, bytes) and TYPES[target].kind is STRING:
            return value
        raise ValueFault(f"cannot store {TYPES[source].name} into {TYPES[target].name}")
    if mode is Mode.FLIGHT and source is not target:
        return _reinterpret(value, source, target)
    return _convert_number(value, target)


def converter(source: ParamType, target: ParamType, mode: Mode) -> Callable[..., Value]:
    """Return `convert` for a fixed pair of types; the common pairs cost one expression."""
    row, exact = TYPES[target], mode is Mode.STRICT or source is target
    if exact and row.kind in INTEGER and TYPES[source].kind in INTEGER:
        mask = (1 << 8 * row.size) - 1
        half = (mask + 1) // 2
        if row.kind is UINT:
            return lambda value: value & mask
        return lambda value: ((value + half) & mask) - half
    return lambda value: convert(value, source, target, mode)


def _convert_number(value: int | float, target: ParamType) -> int | float:
    row = TYPES[target]
    if row.kind is FLOAT:
        if row.size == 8:
            return float(value)
        return single(_single_safe(value))
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueFault(f"{value} has no {row.name} value")
        value = math.trunc(value)
        if not row.low <= value <= row.high:
            raise ValueFault(f"{value} is outside {row.name}")
        return value
    return wrap(value, target)


def _single_safe(value: int | float) -> float:
    """Return a double that rounds to the same single as the value itself.

    An integer above 2^53 would be rounded twice; folding the lost bits into a sticky bit first
    (round to odd) keeps the second rounding right.
    """
    if isinstance(value, int) and abs(value) > 1 << 53:
        value = (value & ~0xFFF) | (0x800 if value & 0xFFF else 0)
    return float(value)


def _reinterpret(value: int | float, source: ParamType, target: ParamType) -> int | float:
    narrow = _convert_number(value, source)
    raw = array(TYPES[source].code, (narrow,)).tobytes().ljust(8, b"\0")
    result: int | float = struct.unpack_from("<" + TYPES[target].code, raw)[0]
    return result
