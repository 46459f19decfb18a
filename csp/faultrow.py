"""A row of the fault campaign: what is injected, what must come of it, and how that is seen. Pure.

Here, because every package has rows: `dipp.faults` gathers them and runs them. A row raises
`Violation` for what did not end as it must and `NotInjected` if this machine cannot do it at all.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random


class Violation(Exception):
    """Something did not end as it must."""


class NotInjected(Exception):
    """The fault cannot be made here; the text says why."""


def require(condition: object, text: str) -> None:
    """Raise Violation with the text unless the condition holds."""
    if not condition:
        raise Violation(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """What a row works with: everything random, an empty directory, and what to undo afterwards."""

    random: Random
    directory: Path
    cleanup: ExitStack = field(default_factory=ExitStack)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultRow:
    """One injection of a fault id. `inject` returns in a few words what was seen."""

    id: int
    name: str
    injected: str
    expected: str
    inject: Callable[[Case], str]


def fault_row(
    number: int, name: str, injected: str, expected: str, inject: Callable[[Case], str]
) -> FaultRow:
    """Return a row, for tables of many short ones."""
    return FaultRow(id=number, name=name, injected=injected, expected=expected, inject=inject)
