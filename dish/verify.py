"""Find what is wrong with procedures before they fly: all problems at once, with positions. Pure.

Theory of operation: every instruction is checked by itself against the parameter lists that are
known (a node without a list is reported once and otherwise trusted), every procedure against the
limits of the node, and all together as a call graph. Nothing is executed, and nothing here is
needed at run time: the machine checks everything again. Source: dish.md 14, faults 86 to 88.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from csp.param.spec import ParamSpec
from csp.param.types import TYPES, Mask, TypeClass
from dish.heap import run_bytes, stored_bytes
from dish.isa import OPCODES, Opcode, Side, sides
from dish.link import CallGraph, is_tail_call, parse_operand
from dish.problems import Check, Problem, Severity
from dish.profile import Profile
from dish.program import Instruction, Procedure, size_bytes
from dish.ranges import WHOLE, Constants, Key, can_hold, must_hold
from dish.text import parse_text
from dish.values import LOADABLE, NUMERIC, ValueFault

# Type, slot and checksum around a procedure in a push (dish.md 2.4).
_PUSH_OVERHEAD_BYTES = 6

Catalogue = Mapping[int, Mapping[str, ParamSpec]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What the procedures are meant for.

    `own` is the executing node; its list is in `catalogue` under that number. `present` are slots
    that are filled on the node already, native ones included.
    """

    own: int
    profile: Profile
    catalogue: Catalogue
    present: frozenset[int] = frozenset()


def verify(procedures: Mapping[int, Procedure], target: Target) -> list[Problem]:
    """Return every problem, by slot and instruction."""
    found = list(_Verifier(procedures, target).run())
    return sorted(found, key=lambda each: (each.slot, -1 if each.index is None else each.index))


def has_errors(problems: list[Problem]) -> bool:
    """Tell whether any of them is more than a warning."""
    return any(problem.check.severity is Severity.ERROR for problem in problems)


@dataclass(slots=True)
class _Verifier:
    procedures: Mapping[int, Procedure]
    target: Target
    unknown_nodes: set[int] = field(default_factory=set)

    def run(self) -> Iterator[Problem]:
        constants = Constants.of(self.procedures, self._resolve_key)
        for slot, procedure in self.procedures.items():
            yield from self._limits(slot, procedure)
            for index, entry in enumerate(procedure.instructions):
                for check, text in self._instruction(entry, constants):
                    yield Problem(check=check, slot=slot, index=index, text=text)
            yield from self._flow(slot, procedure)
        yield from self._calls()

    # -- one instruction

    def _node_of(self, entry: Instruction, side: Side) -> int:
        is_own = side is not Side.NODE or entry.node in (0, self.target.own)
        return self.target.own if is_own else entry.node

    def _find(self, text: str, node: int) -> tuple[ParamSpec | None, list[tuple[Check, str]]]:
        """Return what an operand names, if that can be known, and what is wrong with it."""
        operand = parse_operand(text)
        if operand is None:
            return None, [(Check.BAD_NAME, f"{text!r} cannot name a parameter")]
        table = self.target.catalogue.get(node)
        if table is None:
            if node in self.unknown_nodes:
                return None, []
            self.unknown_nodes.add(node)
            return None, [(Check.UNKNOWN_NODE, f"no parameter list of node {node}")]
        spec = table.get(operand.name)
        if spec is None:
            if text[:1].isdigit() or text[:1] in "+-.":
                hint = "set it into a parameter first"
                return None, [(Check.LITERAL, f"{text} is a literal: {hint}")]
            return None, [(Check.UNKNOWN_NAME, f"node {node} has no parameter {operand.name!r}")]
        elements = 1 if spec.row.is_text else spec.array_size
        if operand.index is not None and operand.index >= elements:
            return spec, [(Check.BAD_INDEX, f"{operand.name} has {elements} elements")]
        return spec, []

    def _resolve_key(self, entry: Instruction, text: str, side: Side) -> Key | None:
        """Return the key of an operand for `Constants`, None for text that names nothing."""
        operand = parse_operand(text)
        if operand is None:
            return None
        index = WHOLE if operand.index is None else operand.index
        return self._node_of(entry, side), operand.name, index

    def _instruction(self, entry: Instruction, constants: Constants) -> Iterator[tuple[Check, str]]:
        row = OPCODES[entry.opcode]
        read_side, write_side = sides(entry.opcode, entry.operator)
        sources: list[ParamSpec | None] = []
        for attribute in row.reads:
            spec, problems = self._find(getattr(entry, attribute), self._node_of(entry, read_side))
            yield from problems
            sources.append(spec)
        result: ParamSpec | None = None
        for attribute in row.writes:
            result, problems = self._find(
                getattr(entry, attribute), self._node_of(entry, write_side)
            )
            yield from problems
            if result is not None and result.mask & Mask.READONLY:
                yield Check.READ_ONLY, f"{result.name} is read-only"
        if entry.opcode is Opcode.SET and result is not None:
            try:
                parse_text(entry.value, result.type, result.array_size)
            except ValueFault as fault:
                yield Check.BAD_VALUE, str(fault)
        known = [spec for spec in sources if spec is not None]
        yield from _types(entry, known, result, len(sources))
        if entry.opcode in (Opcode.BLOCK, Opcode.IFELSE) and len(known) == 2:
            yield from self._condition(entry, known, constants)

    def _condition(
        self, entry: Instruction, specs: list[ParamSpec], constants: Constants
    ) -> Iterator[tuple[Check, str]]:
        operator = OPCODES[entry.opcode].operators[entry.operator].text
        keys = [self._resolve_key(entry, text, Side.NODE) for text in (entry.first, entry.second)]
        if any(spec.row.kind not in NUMERIC for spec in specs):
            return
        left, right = (constants.range_of(key, spec) for key, spec in zip(keys, specs, strict=True))
        same = keys[0] is not None and keys[0] == keys[1]
        words = f"{entry.first} {operator} {entry.second}"
        is_block = entry.opcode is Opcode.BLOCK
        if not can_hold(operator, left, right, same=same):
            check = Check.NEVER_TRUE if is_block else Check.CONSTANT
            yield check, f"{words} is never true: {left} {operator} {right}"
        elif must_hold(operator, left, right, same=same):
            yield Check.CONSTANT, f"{words} is always true: {left} {operator} {right}"
        elif is_block and self._node_of(entry, Side.NODE) == self.target.own:
            writable = all(not spec.mask & Mask.READONLY for spec in specs)
            if writable:
                yield Check.ALONE, f"{words}: only ground or another procedure can make it true"

    # -- one procedure

    def _limits(self, slot: int, procedure: Procedure) -> Iterator[Problem]:
        profile = self.target.profile
        rows: list[tuple[Check, str]] = []
        if not profile.reserved <= slot <= profile.max_slot:
            slots = f"{profile.reserved}..{profile.max_slot}"
            rows.append((Check.BAD_SLOT, f"slots for procedures are {slots}"))
        if len(procedure) > profile.max_instructions:
            text = f"{len(procedure)} instructions, the node takes {profile.max_instructions}"
            rows.append((Check.TOO_LONG, text))
        size, room = size_bytes(procedure), profile.buffer_bytes - _PUSH_OVERHEAD_BYTES
        if size > room:
            rows.append((Check.TOO_BIG, f"{size} bytes, a packet takes {room}"))
        for check, text in rows:
            yield Problem(check=check, slot=slot, index=None, text=text)

    def _flow(self, slot: int, procedure: Procedure) -> Iterator[Problem]:
        rows = procedure.instructions
        for index in range(1, len(rows)):
            if rows[index].opcode is rows[index - 1].opcode is Opcode.IFELSE:
                text = "ifelse in the then-slot: its result replaces that of the outer one"
                yield Problem(check=Check.NESTED_IFELSE, slot=slot, index=index, text=text)
        reached = _reachable(procedure)
        for index, entry in enumerate(rows):
            if index not in reached and entry.opcode is not Opcode.NOOP:
                yield Problem(
                    check=Check.UNREACHABLE, slot=slot, index=index, text=f"{entry}: never reached"
                )

    # -- all together

    def _calls(self) -> Iterator[Problem]:
        graph: dict[int, list[tuple[int, int, bool]]] = {}
        for slot, procedure in self.procedures.items():
            graph[slot] = [
                (index, entry.slot, is_tail_call(procedure, index))
                for index, entry in enumerate(procedure.instructions)
                if entry.opcode is Opcode.CALL
            ]
        known = self.procedures.keys() | self.target.present
        for slot, calls in graph.items():
            for index, callee, is_tail in calls:
                if callee not in known:
                    yield Problem(
                        check=Check.MISSING_SLOT, slot=slot, index=index,
                        text=f"slot {callee} is empty",
                    )  # fmt: skip
                elif not is_tail and slot in _reaches(graph, callee):
                    yield Problem(
                        check=Check.RECURSION, slot=slot, index=index,
                        text=f"call {callee} comes back here without being a tail call",
                    )  # fmt: skip
        yield from self._heap(graph)

    def _heap(self, graph: Mapping[int, list[tuple[int, int, bool]]]) -> Iterator[Problem]:
        profile = self.target.profile
        if not profile.heap_bytes:
            return
        stored = sum(stored_bytes(entry, profile) for entry in self.procedures.values())
        called = {callee for calls in graph.values() for _, callee, _ in calls}
        for slot in self.procedures:
            if slot in called and len(called) < len(self.procedures):
                continue
            needed = stored + run_bytes(CallGraph(root=slot, procedures=self.procedures), profile)
            if needed > profile.heap_bytes:
                text = f"storing and running takes {needed} bytes of {profile.heap_bytes}"
                yield Problem(check=Check.HEAP, slot=slot, index=None, text=text)


def _types(
    entry: Instruction, sources: list[ParamSpec], result: ParamSpec | None, wanted: int
) -> Iterator[tuple[Check, str]]:
    """Check classes of operands and result, as far as they are known."""
    for spec in sources:
        if spec.row.kind not in LOADABLE:
            yield Check.NOT_LOADABLE, f"{spec.name} is {spec.row.name}"
            return
    if not sources or len(sources) < wanted:
        return
    if len({spec.row.kind for spec in sources}) > 1:
        names = " and ".join(f"{spec.name} ({spec.row.name})" for spec in sources)
        yield Check.CLASS_MISMATCH, f"{names} are of different classes"
        return
    operator = OPCODES[entry.opcode].operators[entry.operator]
    kind = sources[0].row.kind
    if kind not in operator.classes:
        yield Check.BAD_OPERATOR, f"{operator.text} does not take {sources[0].row.name}"
    elif result is not None:
        fits = kind is result.row.kind or {kind, result.row.kind} <= NUMERIC
        if not fits or result.row.kind is TypeClass.DATA:
            text = f"{sources[0].row.name} does not go into {TYPES[result.type].name}"
            yield Check.BAD_RESULT, text


def _reachable(procedure: Procedure) -> set[int]:
    """Return the instructions that some run can execute, given any outcome of conditions."""
    rows = procedure.instructions
    reached: set[int] = set()
    pending: list[tuple[int, bool | None]] = [(0, None)]
    seen: set[tuple[int, bool | None]] = set()
    while pending:
        state = pending.pop()
        index, flag = state
        if index >= len(rows) or state in seen:
            continue
        seen.add(state)
        if flag is False:
            pending.append((index + 1, None))
            continue
        reached.add(index)
        after = False if flag else None
        if rows[index].opcode is Opcode.IFELSE:
            pending += [(index + 1, True), (index + 1, False)]
        elif rows[index].opcode is not Opcode.CALL or not is_tail_call(procedure, index):
            pending.append((index + 1, after))
    return reached


def _reaches(graph: Mapping[int, list[tuple[int, int, bool]]], start: int) -> set[int]:
    """Return every slot that a call of `start` can get to, `start` included."""
    reached: set[int] = set()
    pending = [start]
    while pending:
        slot = pending.pop()
        if slot not in reached:
            reached.add(slot)
            pending += [callee for _, callee, _ in graph.get(slot, [])]
    return reached
