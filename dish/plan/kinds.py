"""Say how the types of the language behave: names, widths, what a number fits, register types."""

from __future__ import annotations

import math

from csp.param.types import TYPES, ParamType, TypeClass
from dish.values import NUMERIC, single

_P = ParamType
TYPE_NAMES: dict[str, ParamType] = {
    **{f"u{8 * row.size}": row.type for row in TYPES if row.code in "BHIQ" and not row.is_hex
       and row.kind is TypeClass.UINT},
    **{f"i{8 * row.size}": row.type for row in TYPES if row.kind is TypeClass.INT},
    **{f"x{8 * row.size}": row.type for row in TYPES if row.is_hex},
    "f32": _P.FLOAT, "f64": _P.DOUBLE, "string": _P.STRING, "data": _P.DATA,
}  # fmt: skip
NAME_OF: dict[ParamType, str] = {type_: name for name, type_ in TYPE_NAMES.items()}
# What registers exist for, narrow to wide.
WIDTHS: dict[TypeClass, tuple[ParamType, ...]] = {
    TypeClass.UINT: (_P.U8, _P.U16, _P.U32, _P.U64),
    TypeClass.INT: (_P.I8, _P.I16, _P.I32, _P.I64),
    TypeClass.FLOAT: (_P.FLOAT, _P.DOUBLE),
}


def class_of(type_: ParamType) -> TypeClass:
    """Return the operand class of a type."""
    return TYPES[type_].kind


def is_number(type_: ParamType) -> bool:
    """Tell whether values of the type can be computed with."""
    return TYPES[type_].kind in NUMERIC


def register_type(type_: ParamType) -> ParamType:
    """Return the type of a register that holds every value of a numeric type."""
    row = TYPES[type_]
    return next(wide for wide in WIDTHS[row.kind] if TYPES[wide].size == row.size)


def wider(first: ParamType, second: ParamType) -> ParamType:
    """Return the wider of two types of one class, as a register type."""
    return register_type(max(first, second, key=lambda type_: TYPES[type_].size))


def fits(value: int | float, type_: ParamType) -> bool:
    """Tell whether a type holds a number without changing it more than by rounding."""
    row = TYPES[type_]
    if row.is_integer:
        return isinstance(value, int) and row.low <= value <= row.high
    if not math.isfinite(value) or abs(value) >= 2.0**1023:
        return False
    return row.size == 8 or math.isfinite(single(float(value)))


def type_of_number(value: int | float, like: ParamType | None) -> ParamType | None:
    """Return the type a number takes: that of its surroundings, or the narrowest wider one.

    Without surroundings it is u32, i32 or f32 if it fits. None if no type of the class holds it.
    """
    if like is None:
        kind = TypeClass.FLOAT if isinstance(value, float) else TypeClass.UINT
        kind = TypeClass.INT if isinstance(value, int) and value < 0 else kind
        like = {TypeClass.UINT: _P.U32, TypeClass.INT: _P.I32}.get(kind, _P.FLOAT)
    if not is_number(like):
        return None
    size = TYPES[like].size
    wide_enough = [type_ for type_ in WIDTHS[class_of(like)] if TYPES[type_].size >= size]
    return next((type_ for type_ in wide_enough if fits(value, type_)), None)


def as_text(value: int | float, type_: ParamType) -> str:
    """Return the shortest text of a `set` instruction that gives exactly this value."""
    row = TYPES[type_]
    if row.is_integer:
        return f"0x{value:x}" if row.is_hex else str(int(value))
    exact = single(float(value)) if row.size == 4 else float(value)
    for digits in range(1, 18):
        text = f"{exact:.{digits}g}".replace("e+0", "e").replace("e-0", "e-").replace("e+", "e")
        back = float(text)
        if (single(back) if row.size == 4 else back) == exact:
            return text
    return repr(exact)
