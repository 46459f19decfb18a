"""Resolve what is fixed before a run starts: operand names and the call graph.

The graph is a snapshot: a slot that is deleted or replaced during a run changes nothing for it.
Source: dish.md 4, 6, 7.1 and 13 rows 7 and 10.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from dish.errors import LinkError
from dish.isa import Opcode
from dish.program import Procedure

# Decimal without sign, blanks or leading zeros, at the very end. Nine digits exceed every array.
_OPERAND = re.compile(r"(?P<name>[^\[\]]+)(?:\[(?P<index>0|[1-9][0-9]{0,8})\])?", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Operand:
    """A parameter name with an optional element index. No index reads 0 and writes all."""

    name: str
    index: int | None


def parse_operand(text: str) -> Operand | None:
    """Split `name` or `name[index]`; None if the text cannot name a parameter."""
    match = _OPERAND.fullmatch(text)
    if match is None:
        return None
    index = match["index"]
    return Operand(name=match["name"], index=None if index is None else int(index))


@dataclass(frozen=True, slots=True, kw_only=True)
class CallGraph:
    """The procedures one run can reach, as they were when it started.

    `natives` are the reachable slots that hold native functions; the root may be one.
    """

    root: int
    procedures: Mapping[int, Procedure]
    natives: frozenset[int] = frozenset()


Fetch = Callable[[int], Procedure | None]


def link(root: int, fetch: Fetch, natives: frozenset[int] = frozenset()) -> CallGraph:
    """Collect everything reachable from `root`. Raises LinkError for a hole at any depth.

    `fetch` returns the procedure of a slot or None. The root must be there.
    """
    procedures: dict[int, Procedure] = {}
    used: set[int] = set()
    pending = [(root, root, 0)]
    while pending:
        slot, caller, index = pending.pop()
        if slot in procedures or slot in used:
            continue
        if slot in natives:
            used.add(slot)
            continue
        procedure = fetch(slot)
        if procedure is None:
            raise LinkError(caller, index, slot)
        procedures[slot] = procedure
        calls = [
            (entry.slot, slot, position)
            for position, entry in enumerate(procedure.instructions)
            if entry.opcode is Opcode.CALL
        ]
        pending += reversed(calls)
    return CallGraph(root=root, procedures=procedures, natives=frozenset(used))


def is_tail_call(procedure: Procedure, index: int) -> bool:
    """Tell whether the call at `index` reuses its frame. Source: dish.md 6 (a), (b), (c).

    Like flight this looks only at the instruction before; the verifier refuses the code for which
    that is not enough.
    """
    instructions = procedure.instructions
    follows_ifelse = index > 0 and instructions[index - 1].opcode is Opcode.IFELSE
    rest = instructions[index + (2 if follows_ifelse else 1) :]
    return all(entry.opcode is Opcode.NOOP for entry in rest)
