"""Turn what an operator types into values, and values into what an operator reads.

The forms are those of csh, so that habits and scripts carry over: `[1 2 3]` for arrays, `a[3]` and
`a[2:4]` (4 not included) for parts of them, 0x for the hexadecimal types, hex digits for data. More
liberal: whole numbers may be decimal or 0x for every integer type. Stricter: what does not fit is
an error and is never cut. Pure. Source: csp.md 11.4, dish.md 8.5.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from csp.param.errors import BadIndex, OutOfRange, ParamError, TypeMismatch
from csp.param.spec import ParamSpec
from csp.param.types import MASK_LETTERS, Mask, TypeClass, TypeRow, Value
from csp.param.values import check_write

_TARGET = re.compile(r"([^\[\]\s]+)(?:\[(-?\d{0,5})(:)?(-?\d{0,5})\])?", re.ASCII)
_WHOLE = re.compile(r"[+-]?(?:0[xX][0-9a-fA-F]+|\d+)", re.ASCII)
_REAL = re.compile(r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?", re.ASCII)
_HEX_PAIRS = re.compile(r"(?:0[xX])?((?:[0-9a-fA-F]{2})*)", re.ASCII)
# Far more digits than 64 bits or a double have; Python's own limit on digits raises otherwise.
_MAX_DIGITS = 400
_VALUE_WIDTH = 20
_PRIORITY_MASK = int(Mask.PRIO3)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A name and which part of the parameter is meant; None at an end means up to it.

    `is_slice` tells `a[2]` (one element) from `a[2:]`.
    """

    name: str
    first: int | None = None
    stop: int | None = None
    is_slice: bool = False

    def __str__(self) -> str:
        first, stop = ("" if n is None else str(n) for n in (self.first, self.stop))
        if self.is_slice:
            return f"{self.name}[{first}:{stop}]"
        return f"{self.name}[{first}]" if first else self.name

    def part(self, spec: ParamSpec) -> range | None:
        """Return the elements that are meant, None for all of them. Raises BadIndex.

        Negative numbers count from the end, as in Python.
        """
        if not self.is_slice and self.first is None:
            return None
        size = 1 if spec.row.is_text else spec.array_size
        if self.is_slice:
            elements = range(size)[self.first : self.stop]
            outside = [
                n for n in (self.first, self.stop) if n is not None and not -size <= n <= size
            ]
        else:
            first = self.first or 0
            elements = range(size)[first : first + 1 or None]
            outside = [first] if not -size <= first < size else []
        if outside or not elements:
            raise BadIndex(f"{spec.name} has elements 0..{size - 1}")
        return elements


@dataclass(frozen=True, slots=True, kw_only=True)
class Assignment:
    """A value to push: `index` None means the whole parameter, else a list starts there."""

    value: Value
    index: int | None = None


def parse_target(text: str) -> Target:
    """Parse `name`, `name[3]` or `name[2:4]`. Raises ParamError."""
    match = _TARGET.fullmatch(text)
    if match is None:
        raise ParamError(f"{text!r} is not a name, name[index] or name[first:stop]")
    name, first, colon, stop = match.groups()
    if first is None:
        return Target(name=name)
    if (not colon and (stop or first in ("", "-"))) or "-" in (first, stop):
        raise ParamError(f"{text!r} has no number as index")
    return Target(
        name=name,
        first=int(first) if first else None,
        stop=int(stop) if stop else None,
        is_slice=bool(colon),
    )


def parse_number(row: TypeRow, text: str) -> int | float:
    """Parse one number of a type. Raises TypeMismatch; the range is not checked."""
    if len(text) > _MAX_DIGITS:
        raise OutOfRange(f"a number of {len(text)} characters")
    if row.kind is TypeClass.FLOAT:
        text = text.replace(",", ".")
        if _REAL.fullmatch(text):
            return float(text)
        if text.lower().lstrip("+-") in ("nan", "inf"):
            return float(text)
        raise TypeMismatch(f"{text!r} is no number")
    if not _WHOLE.fullmatch(text):
        raise TypeMismatch(f"{text!r} is no whole number")
    return int(text, 16 if "x" in text.lower() else 10)


def _parse_data(text: str) -> bytes:
    match = _HEX_PAIRS.fullmatch(text)
    if match is None:
        raise TypeMismatch(f"{text!r} is not pairs of hex digits")
    return bytes.fromhex(match.group(1))


def parse_assignment(spec: ParamSpec, target: Target, text: str) -> Assignment:
    """Parse the value of a `set`. Raises TypeMismatch, OutOfRange, BadIndex.

    One number for an array or a part of it fills it. A list starts at the first element meant and,
    if a slice is given, has exactly as many elements.
    """
    part = target.part(spec)
    if spec.row.is_text:
        value: Value = _parse_data(text) if spec.row.kind is TypeClass.DATA else text
        return Assignment(value=check_write(spec, value, None))
    stripped = text.strip()
    if not stripped.startswith("["):
        number = parse_number(spec.row, stripped)
        if part is None:
            return Assignment(value=check_write(spec, number, None))
        if target.is_slice:
            return _at(spec, [number] * len(part), part[0])
        return _at(spec, number, part[0])
    if not stripped.endswith("]"):
        raise TypeMismatch(f"{text!r} has no closing bracket")
    # In a list of floats a comma is a decimal point, as it is in a single one.
    between = r"\s+" if spec.row.kind is TypeClass.FLOAT else r"[\s,]+"
    words = re.split(between, stripped[1:-1])
    numbers = [parse_number(spec.row, word) for word in words if word]
    if not numbers:
        raise TypeMismatch("an empty list")
    if target.is_slice and part is not None and len(numbers) != len(part):
        raise OutOfRange(f"{len(numbers)} values for {len(part)} elements")
    if spec.array_size == 1 and len(numbers) == 1:
        return _at(spec, numbers[0], None)
    return _at(spec, numbers, part[0] if part is not None else None)


def _at(spec: ParamSpec, value: Value | list[int | float], index: int | None) -> Assignment:
    return Assignment(value=check_write(spec, value, index), index=index)


# -- printing


def _format_real(row: TypeRow, value: float) -> str:
    # The digits of csh: six for a float, fifteen for a double, exponents for what would be 0.
    digits = 6 if row.size == 4 else 15
    return f"{value:.{digits}{'e' if 0 < abs(value) < 1e-5 else 'f'}}"


def printable(text: str) -> str:
    """Return text that cannot move the cursor or change colours: fault 37."""
    return "".join(c if c.isprintable() else f"\\x{ord(c) & 0xFF:02x}" for c in text)


def format_value(row: TypeRow, value: Value) -> str:
    """Print a value as csh does: `5`, `0x1F`, `1.250000`, `[1 2 3]`, data as 0x0A0B, text as is."""
    if isinstance(value, (list, tuple)):
        return f"[{' '.join(format_value(row, element) for element in value)}]"
    if isinstance(value, (bytes, bytearray)):
        return "0x" + value.hex().upper()
    if isinstance(value, str):
        return printable(value)
    if row.kind is TypeClass.FLOAT:
        return _format_real(row, value)
    return f"0x{value:X}" if row.is_hex else str(value)


def format_mask(mask: int) -> str:
    """Print mask bits as csh's letters, then the priority digit if there is one."""
    letters = "".join(letter for bit, letter in MASK_LETTERS if mask & bit)
    priority = (mask & _PRIORITY_MASK) >> 12
    return letters + (str(priority) if priority else "")


def parse_mask(text: str) -> int:
    """Parse `0x..`, or letters as csh prints them; `A` means all. Raises ParamError."""
    if text[:2].lower() == "0x":
        try:
            return int(text, 16) & 0xFFFFFFFF
        except ValueError:
            raise ParamError(f"{text!r} is no hexadecimal mask") from None
    table = {letter: int(bit) for bit, letter in MASK_LETTERS}
    table |= {"A": 0xFFFFFFFF, "1": int(Mask.PRIO1), "2": int(Mask.PRIO2), "3": int(Mask.PRIO3)}
    mask = 0
    for letter in text:
        if letter not in table:
            raise ParamError(f"mask letter {letter!r}: use some of {''.join(table)}")
        mask |= table[letter]
    return mask


def format_row(
    spec: ParamSpec,
    node: int,
    value: Value | None,
    *,
    verbose: int = 2,
    remote: bool = True,
) -> str:
    """Print the line of csh for a parameter, without colours; `-` for a value not known yet.

    Verbose 1 ends with the value and unit, 2 adds type and mask, 3 the help text. `remote` shows
    the R that csh's own copy of a foreign parameter has.
    """
    row = spec.row
    text = "-" if value is None else format_value(row, value)
    if value is None and spec.array_size > 1 and not row.is_text:
        text = f"[{' '.join('-' * spec.array_size)}]"
    if spec.unit:
        text += f" {printable(spec.unit)}"
    line = f" {spec.id:3d}:{node:<2d}  {printable(spec.name):<20s} = {text:<{_VALUE_WIDTH}s}"
    if verbose < 2:
        return line.rstrip()
    size = f"[{spec.array_size}]" if spec.array_size > 1 else ""
    mask = format_mask(spec.mask | (Mask.REMOTE if remote else 0))
    line += f" {row.label}{size}\t" + (f" {mask}" if mask else "")
    if verbose >= 3 and spec.help:
        line += f"\t\t{printable(spec.help)}"
    return line
