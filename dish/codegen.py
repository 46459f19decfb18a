"""Write a call graph as one Python generator function. Pure.

Theory of operation: the function is a loop over the number of the current block. A block is
straight Python with forward branches; a tail call to its own start is `continue`, any other jump
sets the number. Memory is read once per block and written at once, so nothing is held back from
other processes for longer than one pass through a procedure. Only numeric instructions on local,
unobserved parameters become expressions; everything else calls the closure or generator that the
interpreter would run, so there is one meaning of the rare cases. `k` is the number of the place in
`places` that a fault is reported for; `n` counts executed instructions. Source: performance.md 5.
"""

from __future__ import annotations

from collections.abc import Callable

from csp.param.types import TYPES, TypeClass
from dish.bind import Binder, Step
from dish.blocks import Place, Program
from dish.cells import Bound, CellTable, bind
from dish.effects import Settings
from dish.isa import OPCODES, Opcode
from dish.link import CallGraph, is_tail_call
from dish.machine import Flag
from dish.program import Instruction
from dish.templates import binary, condition, stored, unary
from dish.text import parse_text
from dish.values import NUMERIC, ValueFault


class Unsupported(Exception):
    """This instruction takes the interpreter's closure."""


class Generator:
    """Writes one program. Use `generate`."""

    def __init__(
        self, graph: CallGraph, cells: CellTable, settings: Settings, now: Callable[[], float]
    ) -> None:
        self.program = Program()
        self._graph = graph
        self._cells = cells
        self._settings = settings
        self._binder = Binder(cells, settings, now)
        self._lines: list[str] = []
        self._depth = 0
        # Elements whose local variable holds their present value.
        self._known: set[str] = set()
        self._ahead = 0
        self._block = 0
        self._views: dict[int, str] = {}

    def generate(self) -> Program:
        """Write everything reachable from the root."""
        self.program.blocks.number(self._graph.root)
        bodies: list[list[str]] = []
        while (number := self.program.blocks.next_pending()) is not None:
            bodies.append(self._write_block(number))
        self.program.source = "\n".join(self._assemble(bodies)) + "\n"
        return self.program

    # -- the frame around the blocks

    def _assemble(self, bodies: list[list[str]]) -> list[str]:
        lines = ["def run(state):", " n = state.executed", " k = 0", " block = state.block"]
        lines += [" stack = state.stack", " limit = state.limit(n)"]
        lines += [f" {name} = {name}_" for name in self._views.values()]
        lines += [" try:", "  while True:", "   if n >= limit:"]
        lines += ["    state.block, state.executed, state.place = block, n, -1", "    yield slice_"]
        lines += ["    limit = state.limit(n)", "    if limit < 0: return"]
        self._dispatch(lines, bodies, 0, len(bodies), 3)
        lines += [" except faults as error:", "  state.fault(k, n, error)"]
        return lines

    def _dispatch(
        self, lines: list[str], bodies: list[list[str]], low: int, high: int, depth: int
    ) -> None:
        """Choose a block by halving, so that many blocks cost a few comparisons."""
        pad = " " * depth
        if high - low == 1:
            lines.append(f"{pad}while True:")
            lines += [f"{pad}{line}" for line in bodies[low]]
            return
        middle = (low + high) // 2
        lines.append(f"{pad}if block < {middle}:")
        self._dispatch(lines, bodies, low, middle, depth + 1)
        lines.append(f"{pad}else:")
        self._dispatch(lines, bodies, middle, high, depth + 1)

    # -- one block

    def _write_block(self, number: int) -> list[str]:
        state = self.program.blocks.states[number]
        self._lines, self._depth, self._block = [], 1, number
        self._known, self._ahead = set(), 0
        rows = self._graph.procedures[state.slot].instructions
        self.program.longest = max(self.program.longest, len(rows) - state.index)
        self._sequence(state.slot, state.index, state.flag)
        return self._lines

    def _emit(self, line: str) -> None:
        self._lines.append(" " * self._depth + line)

    def _sequence(self, slot: int, index: int, flag: Flag) -> None:
        """Write from a state to the end of the procedure or a jump."""
        rows = self._graph.procedures[slot].instructions
        while index < len(rows):
            if flag is Flag.FALSE:
                index, flag = index + 1, Flag.NONE
                continue
            entry = rows[index]
            after = Flag.FALSE if flag is Flag.TRUE else Flag.NONE
            if entry.opcode is Opcode.IFELSE:
                merged = self._ifelse(slot, index)
                if merged is None:
                    return
                index, flag = merged, Flag.NONE
                continue
            if not self._one(slot, index, after):
                return
            index, flag = index + 1, after
        self._return()

    def _one(self, slot: int, index: int, after: Flag) -> bool:
        """Write one instruction that is no ifelse; False if control does not go on behind it."""
        self._ahead += 1
        entry = self._graph.procedures[slot].instructions[index]
        if entry.opcode is Opcode.NOOP:
            return True
        if entry.opcode is Opcode.CALL:
            return self._call(slot, index, after)
        step = self._binder.bind(self._graph.procedures[slot], index)
        if step.slow is not None:
            self._slow(step, slot, index)
            return True
        mark = len(self._lines), set(self._known)
        try:
            self._expression(entry, slot, index)
        except (Unsupported, ValueFault):
            del self._lines[mark[0] :]
            self._known = mark[1]
            self._quick(step, slot, index)
        return True

    def _place(self, slot: int, index: int) -> int:
        places = self.program.places
        places.append(Place(slot=slot, index=index, ahead=self._ahead))
        return len(places) - 1

    def _mark(self, slot: int, index: int) -> None:
        self._emit(f"k = {self._place(slot, index)}")

    def _suspend(self, slot: int, index: int) -> None:
        """Write what makes position and count right while the driver has control."""
        self._mark(slot, index)
        self._emit("state.place = k")
        self._emit("state.executed = n")
        # Whatever happens meanwhile, other processes may have written anything.
        self._known.clear()

    def _slow(self, step: Step, slot: int, index: int) -> str:
        name = f"slow{len(self.program.names)}"
        self.program.names[name] = step.slow
        self._suspend(slot, index)
        self._emit(f"c = yield from {name}()")
        return "c"

    def _quick(self, step: Step, slot: int, index: int) -> str:
        name = f"quick{len(self.program.names)}"
        self.program.names[name] = step.quick
        self._mark(slot, index)
        self._emit(f"c = {name}()")
        self._known.clear()
        return "c"

    # -- control

    def _settle(self) -> None:
        """Bring `n` up before control leaves the block."""
        if self._ahead:
            self._emit(f"n += {self._ahead}")

    def _jump(self, slot: int) -> None:
        target = self.program.blocks.number(slot)
        self._settle()
        if target != self._block:
            self._emit(f"block = {target}")
            self._emit("break")
            return
        self._emit("if n >= limit: break")
        self._emit("continue")

    def _return(self) -> None:
        self._settle()
        self._emit("if not stack:")
        self._emit(" state.executed = n")
        self._emit(" state.finish()")
        self._emit(" return")
        self._emit("block = stack.pop()")
        self._emit("break")

    def _call(self, slot: int, index: int, after: Flag) -> bool:
        procedure = self._graph.procedures[slot]
        callee = procedure.instructions[index].slot
        if callee in self._graph.natives:
            self._suspend(slot, index)
            self._emit(f"check_native({callee}, (yield native({callee})))")
            return True
        if not is_tail_call(procedure, index):
            self._mark(slot, index)
            self._emit(f"if len(stack) >= {self._settings.max_depth}: state.too_deep()")
            self._emit(f"stack.append({self.program.blocks.number(slot, index + 1, after)})")
        self._jump(callee)
        return False

    def _ifelse(self, slot: int, index: int) -> int | None:
        """Write an ifelse with its two slots; return where control merges, None if nowhere."""
        rows = self._graph.procedures[slot].instructions
        test = self._condition(slot, index)
        branches = rows[index + 1 : index + 3]
        if any(entry.opcode is Opcode.IFELSE for entry in branches):
            self._split(slot, index, test)
            return None
        known, ahead, ends = set(self._known), self._ahead, []
        for word, offset in (("if " + test, 1), ("else", 2)):
            self._known, self._ahead = set(known), ahead
            self._emit(f"{word}:")
            self._depth += 1
            before = len(self._lines)
            goes_on = True
            if offset <= len(branches):
                # The flag behind the then-slot makes the else-slot be skipped.
                after = Flag.FALSE if offset == 1 else Flag.NONE
                goes_on = self._one(slot, index + offset, after)
            if goes_on:
                ends.append((len(self._lines), set(self._known), self._ahead))
            if len(self._lines) == before:
                self._emit("pass")
                if goes_on:
                    ends[-1] = (len(self._lines), *ends[-1][1:])
            self._depth -= 1
        if not ends:
            return None
        self._merge(ends)
        return index + 3

    def _merge(self, ends: list[tuple[int, set[str], int]]) -> None:
        """Go on behind branches: what both know, and one count of executed instructions."""
        self._known = set.intersection(*(known for _, known, _ in ends))
        counts = [ahead for _, _, ahead in ends]
        if len(set(counts)) == 1:
            self._ahead = counts[0]
            return
        for at, _, ahead in reversed(ends):
            self._lines.insert(at, " " * (self._depth + 1) + f"n += {ahead}")
        self._ahead = 0

    def _split(self, slot: int, index: int, test: str) -> None:
        """Write an ifelse whose outcomes do not merge at once: each goes to a block of its own."""
        self._settle()
        yes = self.program.blocks.number(slot, index + 1, Flag.TRUE)
        no = self.program.blocks.number(slot, index + 1, Flag.FALSE)
        self._emit(f"block = {yes} if {test} else {no}")
        self._emit("break")

    def _condition(self, slot: int, index: int) -> str:
        procedure = self._graph.procedures[slot]
        entry = procedure.instructions[index]
        self._ahead += 1
        step = self._binder.bind(procedure, index)
        if step.slow is not None:
            return self._slow(step, slot, index)
        mark = len(self._lines), set(self._known)
        try:
            operands = self._operands(entry)
            text = OPCODES[entry.opcode].operators[entry.operator].text
            test = condition(text, operands[0].kind, self._settings.mode)
            if test is None:
                raise Unsupported
            names = [self._load(operand) for operand in operands]
            return test.format(a=names[0], b=names[1])
        except (Unsupported, ValueFault):
            del self._lines[mark[0] :]
            self._known = mark[1]
            return self._quick(step, slot, index)

    # -- expressions

    def _bound(self, text: str) -> Bound:
        bound = bind(text, self._cells, self._settings.mode)
        if bound.kind not in NUMERIC:
            raise Unsupported
        return bound

    def _operands(self, entry: Instruction) -> list[Bound]:
        names = OPCODES[entry.opcode].reads
        operands = [self._bound(getattr(entry, name)) for name in names]
        if len({operand.kind for operand in operands}) > 1:
            raise Unsupported
        return operands

    def _view(self, bound: Bound) -> str:
        view = bound.cell.view
        if id(view) not in self._views:
            name = f"v{len(self._views)}"
            self._views[id(view)] = name
            self.program.names[f"{name}_"] = view
        return self._views[id(view)]

    def _element(self, bound: Bound) -> tuple[str, str]:
        """Return the local variable and the memory expression of an element."""
        view, at = self._view(bound), bound.cell.base + (bound.index or 0)
        return f"{view}_{at}", f"{view}[{at}]"

    def _load(self, bound: Bound) -> str:
        if bound.missing:
            return "0.0" if bound.kind is TypeClass.FLOAT else "0"
        name, memory = self._element(bound)
        if name not in self._known:
            self._emit(f"{name} = {memory}")
            self._known.add(name)
        return name

    def _expression(self, entry: Instruction, slot: int, index: int) -> None:
        if entry.opcode is Opcode.SET:
            target = self._writable(entry.first)
            value = parse_text(entry.value, target.cell.type, target.cell.count)
            if isinstance(value, float) and not abs(value) <= 1.7e308:
                raise Unsupported
            self._store(target, repr(value))
            return
        sources = self._operands(entry)
        target = self._writable(entry.result)
        operator = OPCODES[entry.opcode].operators[entry.operator].text
        mode, kind = self._settings.mode, sources[0].kind
        is_unary = len(sources) == 1
        template = unary(operator, kind) if is_unary else binary(operator, kind, mode)
        if template is None:
            raise Unsupported
        names = [self._load(source) for source in sources]
        widths = [8 * TYPES[source.cell.type].size for source in sources]
        a, b = names[0], names[-1]
        bits = None if kind is TypeClass.FLOAT else template.bits(widths[0], widths[-1])
        expression = template.text.format(a=a, b=b)
        result = stored(expression, bits, sources[0].cell.type, target.cell.type, mode)
        if result is None:
            raise Unsupported
        if template.guard:
            self._mark(slot, index)
            self._emit(f"if {template.guard.format(a=a, b=b)}: bad_shift({b})")
        elif template.can_fault:
            self._mark(slot, index)
        self._store(target, result)

    def _writable(self, text: str) -> Bound:
        bound = self._bound(text)
        if bound.cell.read_only or bound.cell.observed:
            raise Unsupported
        return bound

    def _store(self, target: Bound, value: str) -> None:
        if target.missing:
            self._emit(value)
            return
        if target.index is None and target.cell.count > 1:
            self._store_all(target, value)
            return
        name, memory = self._element(target)
        if TYPES[target.cell.type].code == "f":
            # The store rounds; what is read afterwards is the rounded value.
            self._emit(f"{memory} = {value}")
            self._known.discard(name)
        else:
            self._emit(f"{name} = {memory} = {value}")
            self._known.add(name)

    def _store_all(self, target: Bound, value: str) -> None:
        view, base = self._view(target), target.cell.base
        self._emit(f"c = {value}")
        self._emit(f"for i in range({base}, {base + target.cell.count}): {view}[i] = c")
        self._known -= {f"{view}_{base + index}" for index in range(target.cell.count)}


def generate(
    graph: CallGraph, cells: CellTable, settings: Settings, now: Callable[[], float]
) -> Program:
    """Write a call graph as Python. `now` is what blocks ask for the time."""
    return Generator(graph, cells, settings, now).generate()
