"""Sequences of machine instructions whose registers and slots are not chosen yet.

A sequence becomes one slot or a part of one. Control leaves it at its end: to another sequence
(`Jump`, a tail call) or to whoever called it (None). A `Test` is an `ifelse` with its two slots; a
`Jump` in one of them only stands in the last item of a sequence whose end is None.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from csp.param.types import ParamType
from dish.isa import Opcode
from dish.plan.problems import Place


@dataclass(frozen=True, slots=True, eq=False)
class Register:
    """A value that needs a register on a node; `name` is what the source calls it, if it does."""

    node: int
    type: ParamType
    name: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    """A parameter as operand."""

    text: str
    type: ParamType


Operand = Register | Fixed


@dataclass(frozen=True, slots=True, kw_only=True)
class Op:
    """An instruction that is no call and no ifelse. `note` explains it if it fails."""

    place: Place
    opcode: Opcode
    node: int = 0
    first: Operand | None = None
    operator: str = ""
    second: Operand | None = None
    result: Operand | None = None
    value: str = ""
    note: str = ""

    @property
    def reads(self) -> tuple[Operand, ...]:
        """The operands it reads."""
        sources = (self.first, self.second) if self.opcode is not Opcode.SET else ()
        return tuple(each for each in sources if each is not None)

    @property
    def target(self) -> Operand | None:
        """The operand it writes."""
        return self.first if self.opcode is Opcode.SET else self.result

    @property
    def is_copy(self) -> bool:
        """Whether it only moves a value between two registers of one kind."""
        return (
            self.opcode is Opcode.UNOP
            and self.operator == "idt"
            and isinstance(self.first, Register)
            and isinstance(self.result, Register)
            and (self.first.node, self.first.type) == (self.result.node, self.result.type)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """Call a sequence and come back."""

    place: Place
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """Go to a sequence for good."""

    place: Place
    label: int


Action = Op | Run | Jump | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Test:
    """An `ifelse` with what happens in its two slots."""

    place: Place
    node: int
    first: Operand
    operator: str
    second: Operand
    then: Action
    other: Action

    @property
    def actions(self) -> tuple[Action, Action]:
        """Both."""
        return self.then, self.other


Item = Op | Run | Test


@dataclass(slots=True)
class Sequence:
    """Items, then `end`."""

    label: int
    items: list[Item] = field(default_factory=list)
    end: Jump | None = None


@dataclass(slots=True)
class Code:
    """A whole program: sequences by label, and where it starts."""

    root: int
    sequences: dict[int, Sequence] = field(default_factory=dict)

    def references(self) -> dict[int, int]:
        """Return how often each sequence is called or jumped to; the start counts once."""
        counts = dict.fromkeys(self.sequences, 0)
        counts[self.root] += 1
        for sequence in self.sequences.values():
            for label in targets(sequence):
                counts[label] += 1
        return counts


def targets(sequence: Sequence) -> list[int]:
    """Return the labels a sequence mentions, in order."""
    found: list[int] = []
    for item in sequence.items:
        if isinstance(item, Run):
            found.append(item.label)
        elif isinstance(item, Test):
            found += [each.label for each in item.actions if isinstance(each, (Run, Jump))]
    if sequence.end is not None:
        found.append(sequence.end.label)
    return found
