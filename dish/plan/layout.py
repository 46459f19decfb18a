"""Write sequences as procedures: choose slots, cut what is too long, remember the source.

A sequence that does not fit one slot is continued in the next by a tail call; an ifelse stays
together with its two slots. Source: dish.md 2.4, 6.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from csp.param.types import TypeClass
from dish.errors import MisuseError
from dish.isa import OPCODES, Opcode, operator_by_text
from dish.plan.ir import Action, Code, Jump, Op, Operand, Register, Run, Sequence, Test, targets
from dish.plan.kinds import class_of
from dish.plan.problems import Place, PlanError, PlanProblem
from dish.plan.sourcemap import Origin, SourceMap
from dish.profile import Profile
from dish.program import NOOP, Instruction, Procedure, encode_instruction

# Type, slot and checksum around a procedure in a push (dish.md 2.4).
PUSH_OVERHEAD_BYTES = 6
_COUNT_BYTES = 1
_OPPOSITE = {"==": "!=", "!=": "==", "<": ">=", ">": "<=", "<=": ">", ">=": "<"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """An instruction with what it came from. `label` is what a call goes to."""

    entry: Instruction
    origin: Origin
    label: int | None = None


# Lines that must stand together in one slot.
Group = list[Line]


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Procedures by slot, the first one to run, and the source of every instruction."""

    root: int
    procedures: dict[int, Procedure]
    source: SourceMap


def lay_out(
    code: Code, texts: Mapping[Register, str], profile: Profile, slots: tuple[int, int]
) -> Layout:
    """Return the procedures. Raises PlanError if slots or the size of one do not suffice."""
    writer = _Writer(texts)
    chunks: dict[int, list[list[Group]]] = {}
    for label in _order(code):
        groups = writer.groups(code.sequences[label])
        chunks[label] = _cut(groups, profile)
    numbers: dict[tuple[int, int], int] = {}
    needed = sum(len(parts) for parts in chunks.values())
    first, last = slots
    if needed > last - first + 1:
        text = (
            f"the plan needs {needed} slots, {first}..{last} are {last - first + 1}:"
            " make it shorter, or give it more with `slots`"
        )
        raise PlanError([PlanProblem(Place(1, 1), text)])
    for label, parts in chunks.items():
        for part in range(len(parts)):
            numbers[label, part] = first + len(numbers)
    procedures: dict[int, Procedure] = {}
    origins: dict[int, tuple[Origin, ...]] = {}
    for label, parts in chunks.items():
        for part, groups in enumerate(parts):
            lines = [line for group in groups for line in group]
            if part + 1 < len(parts):
                onward = Instruction(opcode=Opcode.CALL, slot=numbers[label, part + 1])
                lines.append(Line(entry=onward, origin=lines[-1].origin))
            slot = numbers[label, part]
            procedures[slot] = Procedure(
                instructions=tuple(
                    line.entry
                    if line.label is None
                    else replace(line.entry, slot=numbers[line.label, 0])
                    for line in lines
                )
            )
            origins[slot] = tuple(line.origin for line in lines)
    return Layout(root=first, procedures=procedures, source=SourceMap(origins=origins))


def _order(code: Code) -> list[int]:
    """Return the labels in the order in which control first gets to them."""
    order: list[int] = []
    pending = [code.root]
    while pending:
        label = pending.pop()
        if label not in order:
            order.append(label)
            pending += reversed(targets(code.sequences[label]))
    return order


def _size(group: Group) -> int:
    return sum(len(encode_instruction(line.entry)) for line in group)


def _cut(groups: list[Group], profile: Profile) -> list[list[Group]]:
    """Split into as few parts as the limits of a slot allow."""
    room = profile.buffer_bytes - PUSH_OVERHEAD_BYTES - _COUNT_BYTES
    most = profile.max_instructions
    onward = len(encode_instruction(Instruction(opcode=Opcode.CALL)))
    parts: list[list[Group]] = [[]]
    size = count = 0
    left = sum(_size(group) for group in groups), sum(len(group) for group in groups)
    for group in groups:
        bytes_, lines = _size(group), len(group)
        # Only the part that ends the sequence needs no call to the next one.
        fits_all = size + left[0] <= room and count + left[1] <= most
        fits_now = size + bytes_ + onward <= room and count + lines + 1 <= most
        if not fits_all and not fits_now and parts[-1]:
            parts.append([])
            size = count = 0
            fits_now = bytes_ + onward <= room and lines + 1 <= most
            fits_all = left[0] <= room and left[1] <= most
        if not fits_all and not fits_now:
            text = f"this needs {bytes_} bytes in one slot, {room} fit: use a shorter text"
            raise PlanError([PlanProblem(group[0].origin.place, text)])
        parts[-1].append(group)
        size, count = size + bytes_, count + lines
        left = left[0] - bytes_, left[1] - lines
    return parts


class _Writer:
    def __init__(self, texts: Mapping[Register, str]) -> None:
        self._texts = texts

    def groups(self, sequence: Sequence) -> list[Group]:
        """Return the instructions of a sequence."""
        found: list[Group] = []
        for number, item in enumerate(sequence.items):
            is_last = number + 1 == len(sequence.items) and sequence.end is None
            if isinstance(item, Test):
                found.append(self._test(item, is_last))
            else:
                found += [[line] for line in self._action(item)]
        found += [[line] for line in self._action(sequence.end)]
        return found

    def _write(self, operand: Operand | None) -> str:
        if operand is None:
            return ""
        return self._texts[operand] if isinstance(operand, Register) else operand.text

    def _read(self, operand: Operand | None) -> str:
        # Reading without an index reads element 0, in three bytes less (dish.md 7.1).
        return self._write(operand).removesuffix("[0]")

    def _action(self, action: Action) -> list[Line]:
        match action:
            case Run() | Jump():
                call = Instruction(opcode=Opcode.CALL)
                origin = Origin(place=action.place)
                return [Line(entry=call, origin=origin, label=action.label)]
            case Op():
                return self._op(action)
        return []

    def _op(self, op: Op) -> list[Line]:
        operator = operator_by_text(OPCODES[op.opcode], op.operator)
        is_set = op.opcode is Opcode.SET
        entry = Instruction(
            opcode=op.opcode,
            node=op.node,
            first=self._write(op.first) if is_set else self._read(op.first),
            operator=operator.number if operator is not None else 0,
            second=self._read(op.second),
            result=self._write(op.result),
            value=op.value,
        )
        if op.is_copy and self._write(op.first) == self._write(op.result):
            return []
        try:
            encode_instruction(entry)
        except MisuseError as error:
            raise PlanError([PlanProblem(op.place, str(error))]) from None
        return [Line(entry=entry, origin=Origin(place=op.place, note=op.note))]

    def _test(self, test: Test, is_last: bool) -> Group:
        then, other = self._action(test.then), self._action(test.other)
        operator = test.operator
        if not then and not other and not test.node:
            return []
        # The opposite is exact for whole numbers only (dish.md 8.4).
        if not then and class_of(test.first.type) is not TypeClass.FLOAT:
            then, other, operator = other, [], _OPPOSITE[operator]
        found = operator_by_text(OPCODES[Opcode.IFELSE], operator)
        origin = Origin(place=test.place)
        entry = Instruction(
            opcode=Opcode.IFELSE,
            node=test.node,
            first=self._read(test.first),
            operator=found.number if found is not None else 0,
            second=self._read(test.second),
        )
        skip = [Line(entry=NOOP, origin=origin)]
        lines = [Line(entry=entry, origin=origin), *(then or skip), *(other or skip)]
        while is_last and len(lines) > 1 and lines[-1].entry is NOOP:
            lines.pop()
        return lines
