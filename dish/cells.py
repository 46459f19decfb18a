"""Bind local operands to memory once, so that an access costs the same in a table of any size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from csp.param.types import TYPES, ParamType, TypeClass
from dish.link import parse_operand
from dish.values import LOADABLE, NUMERIC, Mode, Value, ValueFault


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """A local parameter: element i is `view[base + i]`, i < count; text elements are bytes.

    `observed` means a store must go through the owner: it has callbacks or is kept on disk.
    """

    id: int
    name: str
    type: ParamType
    count: int
    view: memoryview
    base: int
    read_only: bool = False
    observed: bool = False


CellTable = Callable[[str], Cell | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A local operand: its cell and element. `missing` means flight reads 0 and ignores writes."""

    cell: Cell
    index: int | None
    missing: bool = False

    @property
    def kind(self) -> TypeClass:
        """The operand class."""
        return TYPES[self.cell.type].kind


def bind(text: str, cells: CellTable, mode: Mode) -> Bound:
    """Find a local operand. Raises ValueFault for an unknown name or, in strict mode, index."""
    operand = parse_operand(text)
    cell = cells(operand.name) if operand is not None else None
    if operand is None or cell is None:
        raise ValueFault(f"no parameter {text!r}")
    count = 1 if TYPES[cell.type].is_text else cell.count
    missing = operand.index is not None and operand.index >= count
    if missing and mode is Mode.STRICT:
        raise ValueFault(f"{cell.name} has {count} elements, not [{operand.index}]")
    return Bound(cell=cell, index=operand.index, missing=missing)


def place(bound: Bound) -> tuple[memoryview, int] | None:
    """Return where a single number lives, None for text, whole arrays and missing elements."""
    cell = bound.cell
    is_single = bound.index is not None or cell.count == 1
    if bound.missing or not is_single or bound.kind not in NUMERIC:
        return None
    return cell.view, cell.base + (bound.index or 0)


def loader(bound: Bound) -> Callable[[], Value]:
    """Return a function that reads the operand. Raises ValueFault if its type cannot be loaded."""
    cell, kind = bound.cell, bound.kind
    if kind not in LOADABLE:
        raise ValueFault(f"{cell.name} is {TYPES[cell.type].name}, which cannot be an operand")
    if kind is TypeClass.STRING:
        text = cell.view[cell.base : cell.base + cell.count]
        return lambda: b"" if bound.missing else bytes(text).split(b"\0", 1)[0]
    if bound.missing:
        zero = 0.0 if kind is TypeClass.FLOAT else 0
        return lambda: zero
    view, at = cell.view, cell.base + (bound.index or 0)
    return lambda: view[at]


def check_writable(name: str, read_only: bool) -> None:
    """Raise ValueFault for a read-only parameter."""
    if read_only:
        raise ValueFault(f"{name} is read-only")


def check_fits(value: Value, type_: ParamType, count: int) -> None:
    """Raise ValueFault for a string that does not fit with its terminator."""
    if isinstance(value, bytes) and TYPES[type_].kind is TypeClass.STRING and len(value) >= count:
        raise ValueFault(f"string of {len(value)} bytes does not fit into {count}")


def store(bound: Bound, value: Value) -> None:
    """Put a converted value into an operand that is not observed. Raises ValueFault."""
    cell = bound.cell
    check_writable(cell.name, cell.read_only)
    if bound.missing:
        return
    if isinstance(value, bytes):
        check_fits(value, cell.type, cell.count)
        cell.view[cell.base : cell.base + cell.count] = value.ljust(cell.count, b"\0")
    elif bound.index is None:
        for at in range(cell.base, cell.base + cell.count):
            cell.view[at] = value  # type: ignore[assignment]
    else:
        cell.view[cell.base + bound.index] = value  # type: ignore[assignment]
