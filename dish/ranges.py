"""Bound what operands can be, to find waits that cannot end. Pure.

A parameter is within its type, some are within less, and a register that the whole program sets to
one value and never writes otherwise has that value.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from csp.param.spec import ParamSpec
from csp.param.types import TypeClass
from dish.isa import OPCODES, Opcode, Side, sides
from dish.program import Instruction, Procedure
from dish.text import parse_text
from dish.values import EPSILON, ValueFault

# Node, name and element; WHOLE where the operand has no index.
Key = tuple[int, str, int]
WHOLE = -1

# Closed ranges that follow from what the values mean (dish.md 12), whatever their type allows.
_MEANING: dict[str, tuple[float, float]] = {
    "gnss_time": (0, 23_595_999),
    "gnss_date": (0, 311_299),
    "gnss_lat": (-90, 1000),
    "gnss_lon": (-180, 1000),
    "gnss_course": (0, 360),
    "gnss_fix": (0, 1),
    "a53_status": (0, 1),
}


@dataclass(frozen=True, slots=True)
class Range:
    """A closed interval."""

    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.low:g}" if self.low == self.high else f"{self.low:g}..{self.high:g}"


@dataclass(frozen=True, slots=True)
class Constants:
    """The texts that registers are set to, for registers with exactly one writer."""

    texts: Mapping[Key, str]

    @classmethod
    def of(
        cls,
        procedures: Mapping[int, Procedure],
        key_of: Callable[[Instruction, str, Side], Key | None],
    ) -> Constants:
        """Collect them from a whole program."""
        writes: dict[Key, list[str | None]] = {}
        for procedure in procedures.values():
            for entry in procedure.instructions:
                for attribute in OPCODES[entry.opcode].writes:
                    side = sides(entry.opcode, entry.operator)[1]
                    key = key_of(entry, getattr(entry, attribute), side)
                    text = entry.value if entry.opcode is Opcode.SET else None
                    if key is not None:
                        writes.setdefault(key, []).append(text)
        # An array that is also written as a whole has no constant elements.
        mixed = {key[:2] for key in writes if key[2] == WHOLE}
        mixed &= {key[:2] for key in writes if key[2] != WHOLE}
        return cls(
            {
                key: texts[0]
                for key, texts in writes.items()
                if len(set(texts)) == 1 and texts[0] is not None and key[:2] not in mixed
            }
        )

    def range_of(self, key: Key | None, spec: ParamSpec) -> Range:
        """Return what an operand of a numeric type can be."""
        text = None
        if key is not None:
            text = self.texts.get(key)
            if text is None and key[2] <= 0:
                # Reading without an index is reading element 0.
                text = self.texts.get((key[0], key[1], 0 if key[2] == WHOLE else WHOLE))
        if text is not None:
            try:
                value = parse_text(text, spec.type, spec.array_size)
            except ValueFault:
                value = b""
            if isinstance(value, (int, float)):
                return Range(value, value)
        if spec.name in _MEANING:
            return Range(*_MEANING[spec.name])
        if spec.row.kind is TypeClass.FLOAT:
            return Range(-math.inf, math.inf)
        return Range(spec.row.low, spec.row.high)


def can_hold(operator: str, left: Range, right: Range, *, same: bool) -> bool:
    """Tell whether the comparison can be true for some values. `same` means one parameter."""
    if same:
        return operator in ("==", "<=", ">=")
    slack = EPSILON
    match operator:
        case "==":
            return left.low <= right.high + slack and right.low <= left.high + slack
        case "!=":
            return not left.low == left.high == right.low == right.high
        case "<":
            return left.low < right.high
        case ">":
            return left.high > right.low
        case "<=":
            return left.low <= right.high + slack
        case _:
            return left.high + slack >= right.low


_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">": "<=", "<=": ">", ">=": "<"}


def must_hold(operator: str, left: Range, right: Range, *, same: bool) -> bool:
    """Tell whether the comparison is true for all values."""
    infinite = math.inf in (left.high, right.high)
    # A float may be NaN, which fails every comparison but `!=`.
    return not infinite and not can_hold(_OPPOSITE[operator], left, right, same=same)
