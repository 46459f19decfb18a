"""Read the value text of a `set` instruction as the flight machine does. Source: dish.md 8.5."""

from __future__ import annotations

import re
from collections.abc import Callable

from csp.param.types import TYPES, ParamType, TypeClass
from dish.values import Value, ValueFault, single, wrap

_DIGITS = re.compile(r"[0-9]+")
_SIGNED_CHARACTERS = re.compile(r"[0-9+-]+")
_SIGNED = re.compile(r"[+-]?[0-9]+")
_HEX = re.compile(r"0x[0-9a-fA-F]+")
_FLOAT_CHARACTERS = re.compile(r"[0-9+.eE-]+")
_FLOAT = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![eE])")
_PAIRS = re.compile(r"(?:[0-9a-fA-F]{2})+")
# Decimal text longer than this cannot come out of a packet; Python refuses to convert 4300 digits.
_MAX_TEXT = 2048


def parse_text(text: str, type_: ParamType, count: int) -> Value:
    """Convert the text for a parameter of `type_` with `count` elements.

    Integers and floats give one element; strings and data are bounded by `count` bytes (a string
    needs one more for its terminator). Raises ValueFault for text the type does not accept.
    """
    if len(text) > _MAX_TEXT:
        raise ValueFault(f"value text of {len(text)} characters")
    return _PARSERS[TYPES[type_].kind](text, type_, count)


def _unsigned(text: str, type_: ParamType, _count: int) -> Value:
    row = TYPES[type_]
    pattern = _HEX if row.is_hex else _DIGITS
    if not pattern.fullmatch(text):
        raise ValueFault(f"{text!r} is not a value of {row.name}")
    value = int(text, 16 if row.is_hex else 10)
    return min(value, row.high) if row.size == 8 else wrap(value, type_)


def _signed(text: str, type_: ParamType, _count: int) -> Value:
    row = TYPES[type_]
    # Signs are accepted anywhere, but only the leading number counts: "1-1" reads 1.
    match = _SIGNED.match(text) if _SIGNED_CHARACTERS.fullmatch(text) else None
    if match is None:
        raise ValueFault(f"{text!r} is not a value of {row.name}")
    value = int(match.group())
    return max(row.low, min(value, row.high)) if row.size == 8 else wrap(value, type_)


def _float(text: str, type_: ParamType, _count: int) -> Value:
    dotted = text.replace(",", ".")
    acceptable = _FLOAT_CHARACTERS.fullmatch(dotted) and dotted.count(".") <= 1
    match = _FLOAT.match(dotted) if acceptable else None
    if match is None:
        raise ValueFault(f"{text!r} is not a value of {TYPES[type_].name}")
    value = float(match.group())
    return single(value) if TYPES[type_].size == 4 else value


def _string(text: str, _type: ParamType, count: int) -> Value:
    raw = text.encode("utf-8", "surrogateescape")
    if len(raw) + 1 > count:
        raise ValueFault(f"string of {len(raw)} bytes does not fit into {count}")
    return raw


def _data(text: str, _type: ParamType, count: int) -> Value:
    if not _PAIRS.fullmatch(text):
        raise ValueFault(f"{text!r} is not pairs of hexadecimal digits")
    raw = bytes.fromhex(text)
    if len(raw) > count:
        raise ValueFault(f"{len(raw)} bytes do not fit into {count}")
    return raw.ljust(count, b"\0")


_PARSERS: dict[TypeClass, Callable[[str, ParamType, int], Value]] = {
    TypeClass.UINT: _unsigned,
    TypeClass.INT: _signed,
    TypeClass.FLOAT: _float,
    TypeClass.STRING: _string,
    TypeClass.DATA: _data,
}
