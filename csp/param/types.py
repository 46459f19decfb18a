"""Say which parameter types and mask bits exist: one row per fact, everything else derived."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import TypeAlias

Scalar: TypeAlias = int | float | str | bytes
Value: TypeAlias = int | float | str | bytes | list[int] | list[float]

# Halfway between the biggest single and 2**128: from here on rounding gives infinity.
SINGLE_LIMIT = (2.0 - 2.0**-24) * 2.0**127


class ParamType(IntEnum):
    """Type numbers as they go over the wire. 16 is reserved for "invalid"."""

    U8 = 0
    U16 = 1
    U32 = 2
    U64 = 3
    I8 = 4
    I16 = 5
    I32 = 6
    I64 = 7
    X8 = 8
    X16 = 9
    X32 = 10
    X64 = 11
    FLOAT = 12
    DOUBLE = 13
    STRING = 14
    DATA = 15


class TypeClass(Enum):
    """How values of a type behave in arithmetic and on the wire."""

    UINT = "uint"
    INT = "int"
    FLOAT = "float"
    STRING = "string"
    DATA = "data"


@dataclass(frozen=True, slots=True, kw_only=True)
class TypeRow:
    """One parameter type.

    `size` is bytes per element, `code` the struct and memoryview format character, `label` the
    name csh shows. `low` and `high` bound the integers; both are 0 for the other classes.
    """

    type: ParamType
    label: str
    name: str
    size: int
    code: str
    kind: TypeClass
    low: int = 0
    high: int = 0
    is_hex: bool = False

    @property
    def is_integer(self) -> bool:
        """Whether elements are whole numbers."""
        return self.kind is TypeClass.UINT or self.kind is TypeClass.INT

    @property
    def is_text(self) -> bool:
        """Whether the array is one value (string, data) instead of a row of elements."""
        return self.kind is TypeClass.STRING or self.kind is TypeClass.DATA


def _uint(number: ParamType, name: str, size: int, code: str, is_hex: bool = False) -> TypeRow:
    label = f"{'x' if is_hex else 'u'}{8 * size:02d}"
    high = (1 << 8 * size) - 1
    return TypeRow(
        type=number, label=label, name=name, size=size, code=code, kind=TypeClass.UINT,
        high=high, is_hex=is_hex,
    )  # fmt: skip


def _int(number: ParamType, name: str, size: int, code: str) -> TypeRow:
    half = 1 << (8 * size - 1)
    return TypeRow(
        type=number, label=f"i{8 * size:02d}", name=name, size=size, code=code, kind=TypeClass.INT,
        low=-half, high=half - 1,
    )  # fmt: skip


def _other(number: ParamType, label: str, size: int, code: str, kind: TypeClass) -> TypeRow:
    return TypeRow(
        type=number, label=label, name=number.name.lower(), size=size, code=code, kind=kind
    )


# Indexed by type number. The codes are exact sizes both natively and with "<" (never "l" or "L").
TYPES: tuple[TypeRow, ...] = (
    _uint(ParamType.U8, "uint8", 1, "B"),
    _uint(ParamType.U16, "uint16", 2, "H"),
    _uint(ParamType.U32, "uint32", 4, "I"),
    _uint(ParamType.U64, "uint64", 8, "Q"),
    _int(ParamType.I8, "int8", 1, "b"),
    _int(ParamType.I16, "int16", 2, "h"),
    _int(ParamType.I32, "int32", 4, "i"),
    _int(ParamType.I64, "int64", 8, "q"),
    _uint(ParamType.X8, "xint8", 1, "B", is_hex=True),
    _uint(ParamType.X16, "xint16", 2, "H", is_hex=True),
    _uint(ParamType.X32, "xint32", 4, "I", is_hex=True),
    _uint(ParamType.X64, "xint64", 8, "Q", is_hex=True),
    _other(ParamType.FLOAT, "flt", 4, "f", TypeClass.FLOAT),
    _other(ParamType.DOUBLE, "dbl", 8, "d", TypeClass.FLOAT),
    _other(ParamType.STRING, "str", 1, "B", TypeClass.STRING),
    _other(ParamType.DATA, "dat", 1, "B", TypeClass.DATA),
)

TYPE_BY_LABEL: dict[str, ParamType] = {row.label: row.type for row in TYPES}


class Mask(IntFlag):
    """Parameter properties, 32 bits on the wire. The upper 16 bits belong to the user."""

    NONE = 0
    READONLY = 0x1
    REMOTE = 0x2
    CONF = 0x4
    TELEM = 0x8
    HWREG = 0x10
    ERRCNT = 0x20
    SYSINFO = 0x40
    SYSCONF = 0x80
    WDT = 0x100
    DEBUG = 0x200
    CALIB = 0x400
    ATOMIC = 0x800
    PRIO1 = 0x1000
    PRIO2 = 0x2000
    PRIO3 = 0x3000
    HIDDEN = 0x8000


# In the order csh prints them. Priorities are a two-bit number and not in here.
MASK_LETTERS: tuple[tuple[Mask, str], ...] = (
    (Mask.READONLY, "r"),
    (Mask.REMOTE, "R"),
    (Mask.CONF, "c"),
    (Mask.TELEM, "t"),
    (Mask.HWREG, "h"),
    (Mask.ERRCNT, "e"),
    (Mask.SYSINFO, "i"),
    (Mask.SYSCONF, "C"),
    (Mask.WDT, "w"),
    (Mask.DEBUG, "d"),
    (Mask.ATOMIC, "o"),
    (Mask.CALIB, "q"),
    (Mask.HIDDEN, "H"),
)
