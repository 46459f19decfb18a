"""Check a value against a parameter's definition where there is no table: clients and shells."""

from __future__ import annotations

import math

from csp.param.errors import BadIndex, OutOfRange, TypeMismatch
from csp.param.spec import ParamSpec, encode_text
from csp.param.types import SINGLE_LIMIT, Scalar, TypeClass, TypeRow, Value


def check_number(row: TypeRow, value: Value) -> int | float:
    """Return the number if it is of the type and fits. Raises TypeMismatch, OutOfRange."""
    if row.kind is TypeClass.FLOAT:
        if not isinstance(value, (int, float)):
            raise TypeMismatch(f"{value!r} is no number")
        if row.size == 4 and abs(value) >= SINGLE_LIMIT and not math.isinf(value):
            raise OutOfRange(f"{value!r} does not fit a float")
        return float(value)
    if not isinstance(value, int):
        raise TypeMismatch(f"{value!r} is no whole number")
    if not row.low <= value <= row.high:
        raise OutOfRange(f"{value} is not {row.low}..{row.high} ({row.name})")
    return value


def _check_text(spec: ParamSpec, value: Value) -> Scalar:
    if spec.row.kind is TypeClass.STRING:
        if not isinstance(value, str):
            raise TypeMismatch(f"{spec.name} is text, not {value!r}")
        if len(encode_text(value)) > spec.array_size - 1 or "\0" in value:
            raise OutOfRange(f"{spec.name} holds {spec.array_size - 1} bytes of text without NUL")
        return value
    if not isinstance(value, (bytes, bytearray)):
        raise TypeMismatch(f"{spec.name} is data, not {value!r}")
    if len(value) > spec.array_size:
        raise OutOfRange(f"{spec.name} holds {spec.array_size} bytes")
    return bytes(value).ljust(spec.array_size, b"\0")


def check_write(spec: ParamSpec, value: Value, index: int | None) -> Value:
    """Return the value in the form it is pushed in. Raises TypeMismatch, OutOfRange, BadIndex.

    Data is filled with zeros to its size. Without an index a number for an array becomes a list of
    equal elements; a list starts at the index, or at 0.
    """
    if spec.row.is_text:
        if index not in (None, 0):
            raise BadIndex(f"{spec.name} is one value: it has no element {index}")
        return _check_text(spec, value)
    first = index or 0
    if not 0 <= first < spec.array_size:
        raise BadIndex(f"{spec.name} has no element {first}, only 0..{spec.array_size - 1}")
    if isinstance(value, (list, tuple)):
        if first + len(value) > spec.array_size:
            raise OutOfRange(f"{len(value)} values from {first} do not fit {spec.name}")
        return [check_number(spec.row, element) for element in value]
    number = check_number(spec.row, value)
    if index is None and spec.array_size > 1:
        return [number] * spec.array_size
    return number


def check_read(spec: ParamSpec, value: Value, index: int | None) -> Value:
    """Return a received value if the parameter can have it. Raises TypeMismatch, OutOfRange.

    Text and data may be shorter than the parameter and text may lack its NUL.
    """
    row = spec.row
    if row.kind is TypeClass.STRING:
        if not isinstance(value, str):
            raise TypeMismatch(f"{spec.name} is text, received {value!r:.80}")
        return value
    if row.kind is TypeClass.DATA:
        if not isinstance(value, bytes):
            raise TypeMismatch(f"{spec.name} is data, received {value!r:.80}")
        return value
    if index is None and spec.array_size > 1:
        if not isinstance(value, list) or len(value) != spec.array_size:
            raise TypeMismatch(
                f"{spec.name} has {spec.array_size} elements, received {value!r:.80}"
            )
        return [check_number(row, element) for element in value]
    return check_number(row, value)
