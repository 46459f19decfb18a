"""Compute with values of which some are not known. Pure.

`None` is the value that nobody can foresee; whatever is computed from it is not known either. Where
the machine would end the run with an error, `PlanEnds` is raised.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from csp.param.spec import ParamSpec
from csp.param.types import TypeClass
from dish.text import parse_text
from dish.values import Mode, Value, ValueFault, convert

Known = Value | None


class PlanEnds(Exception):
    """The run is over, well or not."""


def kind_of(value: Known) -> TypeClass | None:
    """Return the class of a value whose parameter is not known."""
    if isinstance(value, float):
        return TypeClass.FLOAT
    return TypeClass.UINT if isinstance(value, int) else None


def apply(
    cells: Mapping[TypeClass, Callable[..., object]], *operands: tuple[Known, TypeClass | None]
) -> object:
    """Compute with what is known; None if not all is."""
    kinds = {kind for _, kind in operands if kind is not None}
    values = [value for value, _ in operands]
    if None in values or len(kinds) != 1:
        return None
    cell = cells.get(kinds.pop())
    if cell is None:
        raise PlanEnds
    try:
        return cell(*values)
    except ValueFault:
        raise PlanEnds from None


def literal(text: str, spec: ParamSpec | None) -> Known:
    """Return what `set` stores; for a node without a known list, a number if it looks like one."""
    if spec is not None:
        try:
            return parse_text(text, spec.type, spec.array_size)
        except ValueFault:
            raise PlanEnds from None
    for number in (int, float):
        try:
            return number(text)
        except ValueError:
            continue
    return text.encode("utf-8", "surrogateescape")


def converted(value: int | float, spec: ParamSpec) -> Value:
    """Return a number as a parameter stores it."""
    try:
        return convert(value, spec.type, spec.type, Mode.STRICT)
    except ValueFault:
        raise PlanEnds from None
