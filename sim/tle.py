"""Two-line element sets: read a file of them, with every check the format allows.

A file holds comment lines (`#`), and sets of three lines (a name, then lines 1 and 2) or of two.
Source: celestrak.org, "NORAD Two-Line Element Set Format".
"""

from __future__ import annotations

from dataclasses import dataclass

from sim.errors import ContentError

_LINE_LENGTH = 69


@dataclass(frozen=True, slots=True, kw_only=True)
class ElementSet:
    """One satellite's elements: its name and the two lines as given (checked)."""

    name: str
    line1: str
    line2: str


def checksum(line: str) -> int:
    """Return the digit that belongs in column 69: digits add up, a minus counts one, modulo 10."""
    return sum(int(c) if c.isdigit() else c == "-" for c in line[: _LINE_LENGTH - 1]) % 10


def parse(text: str) -> tuple[ElementSet, ...]:
    """Return the element sets of a file's text, in order.

    Raises ContentError with the line number for a wrong length, checksum, number or order, and
    for a file without any set.
    """
    sets: list[ElementSet] = []
    name, line1 = "", ""
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.rstrip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("1 ") and not line1:
            line1 = _checked(line, number)
        elif line.startswith("2 ") and line1:
            line2 = _checked(line, number)
            if line2[2:7] != line1[2:7]:
                raise ContentError(
                    f"line {number}: satellite {line2[2:7]} follows line 1 of {line1[2:7]}"
                )
            sets.append(ElementSet(name=name or line1[2:7].strip(), line1=line1, line2=line2))
            name, line1 = "", ""
        elif line1:
            raise ContentError(f"line {number}: expected line 2 of {line1[2:7]}, found {line!r}")
        else:
            name = line.removeprefix("0 ").strip()
    if line1:
        raise ContentError(f"file ends after line 1 of {line1[2:7]}")
    if not sets:
        raise ContentError("no element set in this file")
    return tuple(sets)


def select(sets: tuple[ElementSet, ...], name: str = "") -> ElementSet:
    """Return the set of that name (the first one for an empty name). Raises ContentError."""
    if not name:
        return sets[0]
    for elements in sets:
        if elements.name == name:
            return elements
    known = ", ".join(elements.name for elements in sets)
    raise ContentError(f"no satellite named {name!r}; this file has: {known}")


def _checked(line: str, number: int) -> str:
    if len(line) != _LINE_LENGTH or not line.isascii():
        raise ContentError(f"line {number}: {len(line)} characters instead of {_LINE_LENGTH}")
    if line[-1] != str(checksum(line)):
        raise ContentError(f"line {number}: checksum {line[-1]}, computed {checksum(line)}")
    return line
