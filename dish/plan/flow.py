"""Follow values through a program: which are still needed where, which cannot share a register.

Calls are followed into the callee and from its ends back to behind every call of it; that is more
paths than can really be taken, so what is found is never too little.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from dish.plan.ir import Action, Code, Jump, Op, Operand, Register, Run, Sequence, Test
from dish.plan.problems import Place


@dataclass(slots=True)
class Step:
    """One point of the program: what it reads and writes, and where control goes next."""

    reads: frozenset[Register] = frozenset()
    writes: Register | None = None
    copies: Register | None = None
    place: Place | None = None
    next: set[int] = field(default_factory=set)


def _registers(operands: Iterable[Operand | None]) -> frozenset[Register]:
    return frozenset(each for each in operands if isinstance(each, Register))


class Flow:
    """The points of a program and what is needed after each (`after`) and before it (`before`)."""

    def __init__(self, code: Code) -> None:
        self.steps: list[Step] = []
        self._entries: dict[int, int] = {}
        self._ends: dict[int, int] = {}
        self._returns: list[tuple[int, int]] = []
        for label in code.sequences:
            self._entries[label] = self._add(Step())
            self._ends[label] = self._add(Step())
        jumps = {label: self._build(sequence) for label, sequence in code.sequences.items()}
        for callee, behind in self._returns:
            for label in _closure(callee, jumps):
                self.steps[self._ends[label]].next.add(behind)
        self.start = self._entries[code.root]
        self.before: list[frozenset[Register]] = []
        self.after: list[frozenset[Register]] = []
        self._solve()

    def _add(self, step: Step) -> int:
        self.steps.append(step)
        return len(self.steps) - 1

    def _build(self, sequence: Sequence) -> set[int]:
        """Add the points of a sequence; return the labels it jumps to."""
        jumps: set[int] = set()
        at = self._entries[sequence.label]
        for item in sequence.items:
            behind = self._add(Step())
            if isinstance(item, Test):
                reads = _registers((item.first, item.second))
                test = self._add(Step(reads=reads, place=item.place))
                self.steps[at].next.add(test)
                for action in item.actions:
                    self._action(action, test, behind, jumps)
            else:
                self._action(item, at, behind, jumps)
            at = behind
        self._action(sequence.end, at, self._ends[sequence.label], jumps)
        return jumps

    def _action(self, action: Action, at: int, behind: int, jumps: set[int]) -> None:
        match action:
            case None:
                self.steps[at].next.add(behind)
            case Op():
                target = action.target
                number = self._add(
                    Step(
                        reads=_registers(action.reads),
                        writes=target if isinstance(target, Register) else None,
                        copies=action.first
                        if action.is_copy and isinstance(action.first, Register)
                        else None,
                        place=action.place,
                        next={behind},
                    )
                )
                self.steps[at].next.add(number)
            case Run(label=label):
                self.steps[at].next.add(self._entries[label])
                self._returns.append((label, behind))
            case Jump(label=label):
                self.steps[at].next.add(self._entries[label])
                jumps.add(label)

    def _solve(self) -> None:
        count = len(self.steps)
        before: list[frozenset[Register]] = [frozenset()] * count
        after: list[frozenset[Register]] = [frozenset()] * count
        sources: list[list[int]] = [[] for _ in range(count)]
        for number, step in enumerate(self.steps):
            for target in step.next:
                sources[target].append(number)
        pending = list(range(count))
        while pending:
            number = pending.pop()
            step = self.steps[number]
            needed = frozenset().union(*(before[target] for target in step.next))
            after[number] = needed
            live = (needed - {step.writes} if step.writes else needed) | step.reads
            if live != before[number]:
                before[number] = live
                pending += sources[number]
        self.before, self.after = before, after

    def first_read(self, register: Register) -> Place:
        """Return where a register is read or written first in the source."""
        places = [
            step.place
            for step in self.steps
            if step.place is not None and (register in step.reads or step.writes is register)
        ]
        return min(places, default=Place(1, 1))


def _closure(label: int, jumps: dict[int, set[int]]) -> set[int]:
    """Return the sequences in whose end a frame that starts at `label` can end."""
    reached: set[int] = set()
    pending = [label]
    while pending:
        each = pending.pop()
        if each not in reached:
            reached.add(each)
            pending += jumps[each]
    return reached
