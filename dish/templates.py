"""Python expressions for the compiled engine: one per operator and operand class.

These say the same as the functions in `values`, a second time and for speed; the differential tests
hold the two together. Integer expressions may exceed 64 bits: they are right modulo 2^64, and the
store wraps them. `{a}` and `{b}` are names or literals. `x // 0` and `x / 0.0` raise
ZeroDivisionError, which the engine turns into a fault. Source: dish.md 8, performance.md 5.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from csp.param.types import TYPES, ParamType, TypeClass
from dish.values import EPSILON, Mode

UINT, INT, FLOAT = TypeClass.UINT, TypeClass.INT, TypeClass.FLOAT

# How many bits of value a result can have, given those of the operands; None means more than 64.
Bits = Callable[[int, int], int | None]


def _unbounded(_a: int, _b: int) -> None:
    return None


def _first(a: int, _b: int) -> int:
    return a


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """An expression. `bits` bounds an integer result; `guard` is a condition that is a fault."""

    text: str
    bits: Bits = _unbounded
    guard: str = ""
    can_fault: bool = False


def _ring(text: str) -> Template:
    return Template(text=text)


def _bounded(text: str, bits: Bits = _first, *, can_fault: bool = False) -> Template:
    return Template(text=text, bits=bits, can_fault=can_fault)


_SHIFT_GUARD = "not 0 <= {b} <= 63"

_SHARED: dict[str, Template] = {
    "++": _ring("{a} + 1"),
    "--": _ring("{a} - 1"),
    "idt": _bounded("{a}"),
    "rmt": _bounded("{a}"),
    "+": _ring("{a} + {b}"),
    "-": _ring("{a} - {b}"),
    "*": _ring("{a} * {b}"),
    "&": _bounded("{a} & {b}", max),
    "|": _bounded("{a} | {b}", max),
    "^": _bounded("{a} ^ {b}", max),
    "<<": Template(text="{a} << {b}", guard=_SHIFT_GUARD),
    ">>": Template(text="{a} >> {b}", bits=_first, guard=_SHIFT_GUARD),
}
# Unary and binary minus share their text, so the table is asked for both by arity.
_UNARY: dict[TypeClass, dict[str, Template]] = {
    UINT: {**{key: _SHARED[key] for key in ("++", "--", "idt", "rmt")}, "!": _ring("~{a}")},
    INT: {
        **{key: _SHARED[key] for key in ("++", "--", "idt", "rmt")},
        "!": _bounded("~{a}"),
        "-": _ring("-{a}"),
    },
    FLOAT: {
        "++": _ring("{a} + 1.0"),
        "--": _ring("{a} - 1.0"),
        "-": _ring("-{a}"),
        "idt": _ring("{a}"),
        "rmt": _ring("{a}"),
    },
}
_RING = ("+", "-", "*", "&", "|", "^", "<<", ">>")
_BINARY: dict[TypeClass, dict[str, Template]] = {
    UINT: {
        **{key: _SHARED[key] for key in _RING},
        "/": _bounded("{a} // {b}", can_fault=True),
        "%": _bounded("{a} % {b}", can_fault=True),
    },
    INT: {
        **{key: _SHARED[key] for key in _RING},
        # Truncation toward zero; the most negative number divided by -1 needs one bit more.
        "/": Template(text="divide({a}, {b})", can_fault=True),
        "%": _bounded("remainder({a}, {b})", can_fault=True),
    },
    FLOAT: {
        "+": _ring("{a} + {b}"),
        "-": _ring("{a} - {b}"),
        "*": _ring("{a} * {b}"),
        "/": Template(text="{a} / {b}", can_fault=True),
    },
}
_FLIGHT: dict[str, Template] = {
    "<<": _ring("{a} << ({b} & 63)"),
    ">>": _bounded("{a} >> ({b} & 63)"),
}

_NEAR = f"-{EPSILON} < {{a}} - {{b}} < {EPSILON}"
_EXACT = {text: f"{{a}} {text} {{b}}" for text in ("==", "!=", "<", ">", "<=", ">=")}
_FLOAT_STRICT: dict[str, str] = {
    "==": f"({{a}} == {{b}} or {_NEAR})",
    "!=": f"not ({{a}} == {{b}} or {_NEAR})",
    "<": "{a} < {b}",
    ">": "{a} > {b}",
    "<=": f"({{a}} <= {{b}} or {_NEAR})",
    ">=": f"({{a}} >= {{b}} or {_NEAR})",
}
_FLOAT_FLIGHT: dict[str, str] = {
    "==": f"({_NEAR})",
    "!=": f"({{a}} - {{b}} >= {EPSILON} or {{b}} - {{a}} >= {EPSILON})",
    "<": "{a} < {b}",
    ">": "{a} > {b}",
    "<=": f"({{a}} < {{b}} or {_NEAR})",
    ">=": f"({{a}} > {{b}} or {_NEAR})",
}


def unary(text: str, kind: TypeClass) -> Template | None:
    """Return the template of a unary operator, or None if the class is not accepted."""
    return _UNARY.get(kind, {}).get(text)


def binary(text: str, kind: TypeClass, mode: Mode) -> Template | None:
    """Return the template of a binary operator, or None if the class is not accepted."""
    if mode is Mode.FLIGHT and kind is not FLOAT and text in _FLIGHT:
        return _FLIGHT[text]
    return _BINARY.get(kind, {}).get(text)


def condition(text: str, kind: TypeClass, mode: Mode) -> str | None:
    """Return the expression of a comparison, or None if the class has none here."""
    table: Mapping[str, str] = _EXACT
    if kind is FLOAT:
        table = _FLOAT_STRICT if mode is Mode.STRICT else _FLOAT_FLIGHT
    return table[text] if kind in (UINT, INT, FLOAT) else None


def stored(
    expression: str, bits: int | None, source: ParamType, target: ParamType, mode: Mode
) -> str | None:
    """Return the expression of what is stored, or None if it takes a function to convert.

    `bits` bounds the value of an integer expression, None if it may need wrapping.
    """
    from_row, to_row = TYPES[source], TYPES[target]
    if FLOAT in (from_row.kind, to_row.kind):
        is_plain = from_row.kind is to_row.kind
        same = source is target or mode is Mode.STRICT
        return expression if is_plain and same else None
    if mode is Mode.FLIGHT and source is not target:
        # The narrowed bytes of the source, zero padded: unsigned, whatever it was.
        expression, bits = f"({expression}) & {from_row_mask(source)}", 8 * from_row.size
        return _wrapped(expression, bits, target, from_signed=False)
    return _wrapped(expression, bits, target, from_signed=from_row.kind is INT)


def from_row_mask(type_: ParamType) -> str:
    """Return the literal that keeps the low bits of an integer type."""
    return hex((1 << 8 * TYPES[type_].size) - 1)


def _wrapped(expression: str, bits: int | None, target: ParamType, *, from_signed: bool) -> str:
    row = TYPES[target]
    width = 8 * row.size
    is_signed = row.kind is INT
    # An unsigned value needs one bit more to fit a signed type; a signed one never fits unsigned.
    fits = bits is not None and (
        bits <= width if from_signed == is_signed else not from_signed and bits < width
    )
    if fits:
        return expression
    mask = from_row_mask(target)
    if not is_signed:
        return f"({expression}) & {mask}"
    half = hex(1 << (width - 1))
    return f"(({expression}) + {half} & {mask}) - {half}"
