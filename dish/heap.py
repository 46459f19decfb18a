"""Account for the memory that stored and running procedures would take on the M7. Pure.

The board has one FreeRTOS heap. `heap_4` rounds every block up to 8 bytes and adds 8; the flown
allocator adds 4 more to remember the size. A run takes a copy of its procedure with all strings,
the stack and control block of its task, and the tables of the call graph analysis. The figures for
the last three are estimates that reproduce the 4.1 kB per run of the Fibonacci pair.
Source: dish.md 10.
"""

from __future__ import annotations

from dish.errors import DishError, StoreError
from dish.isa import OPCODES, FieldKind
from dish.link import CallGraph
from dish.profile import Profile
from dish.program import Instruction, Procedure

_BLOCK_OVERHEAD = 12
_ALIGNMENT = 8
# 32-bit figures of dish.md 10: 1004 bytes for 50 instructions.
_INSTRUCTION_BYTES = 20
_PROCEDURE_HEAD = 4
_TASK_STACK_BYTES = 2048
# A FreeRTOS 10 control block with two thread-local slots.
_TASK_CONTROL_BYTES = 108
_ANALYSIS_BYTES_PER_INSTRUCTION = 12
_ANALYSIS_BYTES = 120


class OutOfHeap(DishError):
    """A run that the board would have no memory for."""


def block_bytes(size: int) -> int:
    """Return what an allocation of `size` bytes takes from the heap."""
    return -(-(size + _BLOCK_OVERHEAD) // _ALIGNMENT) * _ALIGNMENT


def _strings_of(instruction: Instruction) -> list[str]:
    return [
        getattr(instruction, field.attribute)
        for field in OPCODES[instruction.opcode].fields
        if field.kind in (FieldKind.NAME, FieldKind.VALUE)
    ]


def string_bytes(procedure: Procedure) -> int:
    """Return what the operand strings take, each a block of its own."""
    return sum(
        block_bytes(len(text.encode("utf-8", "surrogateescape")) + 1)
        for instruction in procedure.instructions
        for text in _strings_of(instruction)
    )


def structure_bytes(profile: Profile) -> int:
    """Return the size of a procedure structure, which always has room for the maximum."""
    return _PROCEDURE_HEAD + _INSTRUCTION_BYTES * profile.max_instructions


def stored_bytes(procedure: Procedure, profile: Profile) -> int:
    """Return what a stored procedure takes; in the static store only its strings."""
    structure = 0 if profile.is_static else block_bytes(structure_bytes(profile))
    return structure + string_bytes(procedure)


def run_bytes(graph: CallGraph, profile: Profile) -> int:
    """Return what a run of this graph takes. Callees are executed where they are stored."""
    task = block_bytes(_TASK_STACK_BYTES) + block_bytes(_TASK_CONTROL_BYTES)
    root = graph.procedures.get(graph.root)
    if root is None:
        return task
    analysis = _ANALYSIS_BYTES + _ANALYSIS_BYTES_PER_INSTRUCTION * profile.max_instructions
    copy = block_bytes(structure_bytes(profile)) + string_bytes(root)
    return task + copy + block_bytes(analysis)


class Heap:
    """The heap of one node. A profile with `heap_bytes` 0 has no limit and is not accounted for."""

    def __init__(self, profile: Profile) -> None:
        self._profile = profile
        self._runs: dict[int, int] = {}
        self._stored = 0

    @property
    def capacity(self) -> int:
        """Size of the heap in bytes, 0 for no limit."""
        return self._profile.heap_bytes

    @property
    def free(self) -> int:
        """Bytes left, 0 if there is no limit."""
        return max(0, self.capacity - self._stored - sum(self._runs.values()))

    def set_stored(self, procedures: dict[int, Procedure]) -> None:
        """Take over what is stored now."""
        self._stored = sum(stored_bytes(entry, self._profile) for entry in procedures.values())

    def admit_push(self, slot: int, procedure: Procedure) -> None:
        """Raise StoreError if there is no memory for one more stored procedure."""
        needed = stored_bytes(procedure, self._profile)
        if self.capacity and needed > self.free:
            raise StoreError(f"slot {slot} needs {needed} bytes of heap, {self.free} are left")

    def admit_run(self, graph: CallGraph) -> int:
        """Return what a run takes. Raises OutOfHeap if that is not there."""
        needed = run_bytes(graph, self._profile)
        if self.capacity and needed > self.free:
            raise OutOfHeap(f"a run needs {needed} bytes of heap, {self.free} are left")
        return needed

    def begin_run(self, run_id: int, needed: int) -> None:
        """Take memory for a run."""
        self._runs[run_id] = needed

    def end_run(self, run_id: int) -> None:
        """Give the memory of a run back. Harmless for a run that has none."""
        self._runs.pop(run_id, None)
