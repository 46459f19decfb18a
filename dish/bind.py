"""Turn the instructions of a call graph into steps that know their operands.

Theory of operation: an instruction that touches only local memory becomes a closure (quick); any
other becomes a generator that yields effects (slow). A name that does not exist or a type that
cannot work is bound to the fault it will raise, because an instruction that is never reached must
not fail a run.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import cast

from csp.param.types import TYPES, ParamType, TypeClass
from dish.cells import Bound, CellTable, bind, check_fits, check_writable, loader, place, store
from dish.effects import (
    Effect,
    Fault,
    LocalWrite,
    Pull,
    Push,
    Read,
    Reading,
    Remote,
    Reply,
    Resolve,
    Settings,
    Wait,
)
from dish.errors import Ret
from dish.isa import OPCODES, Opcode, Side, sides
from dish.link import is_tail_call, parse_operand
from dish.program import Instruction, Procedure
from dish.text import parse_text
from dish.values import LOADABLE, Mode, Value, ValueFault, convert, converter

Running = Generator[Effect, Reply, bool]
Quick = Callable[[], bool]


class Stop(Exception):
    """The run ends here with this code."""

    def __init__(self, ret: Ret, reason: str) -> None:
        super().__init__(reason)
        self.ret = ret
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One bound instruction: `quick` or `slow` say what it does, else it calls `callee`.

    `quick` and `slow` return the condition of an ifelse, True otherwise.
    """

    opcode: Opcode
    quick: Quick | None = None
    slow: Callable[[], Running] | None = None
    callee: int = 0
    is_tail: bool = False
    is_ifelse: bool = False


def ret_of(opcode: Opcode) -> Ret:
    """Return the code of a fault in this opcode. Source: dish.md 5."""
    is_condition = opcode is Opcode.BLOCK or opcode is Opcode.IFELSE
    return Ret.CONDITION if is_condition else Ret.ERROR


class Binder:
    """Turn instructions into steps. `now` reads the time the driver last told."""

    def __init__(self, cells: CellTable, settings: Settings, now: Callable[[], float]) -> None:
        self._cells = cells
        self._settings = settings
        self._now = now

    def bind(self, procedure: Procedure, index: int) -> Step:
        """Bind one instruction. Never raises: what is wrong with it is raised when it executes."""
        entry = procedure.instructions[index]
        if entry.opcode is Opcode.CALL:
            return Step(
                opcode=entry.opcode, callee=entry.slot, is_tail=is_tail_call(procedure, index)
            )
        if entry.opcode is Opcode.NOOP:
            return Step(opcode=entry.opcode, quick=lambda: True)
        try:
            if not self._needs_effects(entry):
                return _step(entry, quick=self._quick(entry))
        except (ValueFault, Stop) as fault:
            return _step(entry, quick=_raising(fault))
        return _step(entry, slow=lambda: self._slow(entry))

    def is_local(self, entry: Instruction, side: Side) -> bool:
        """Tell whether operands of that side are in this node's table."""
        own = entry.node == 0 or entry.node in self._settings.own_nodes
        return side is not Side.NODE or own

    def _needs_effects(self, entry: Instruction) -> bool:
        read_side, write_side = sides(entry.opcode, entry.operator)
        if entry.opcode is Opcode.BLOCK:
            return True
        if not (self.is_local(entry, read_side) and self.is_local(entry, write_side)):
            return True
        return any(
            self._local(getattr(entry, attribute)).cell.observed
            for attribute in OPCODES[entry.opcode].writes
        )

    def _local(self, text: str) -> Bound:
        return bind(text, self._cells, self._settings.mode)

    def _quick(self, entry: Instruction) -> Quick:
        if entry.opcode is Opcode.SET:
            return self._quick_set(entry)
        row = OPCODES[entry.opcode]
        sources = [self._local(getattr(entry, attribute)) for attribute in row.reads]
        loads = [loader(source) for source in sources]
        compute = evaluator(entry, [source.cell.type for source in sources], self._settings.mode)
        if entry.opcode is Opcode.IFELSE:
            return lambda: bool(compute(*[load() for load in loads]))
        target = self._local(entry.result)
        change = converter(sources[0].cell.type, target.cell.type, self._settings.mode)
        fast = _fast(compute, change, sources, target)
        if fast is not None:
            return fast

        def run() -> bool:
            store(target, change(compute(*[load() for load in loads])))
            return True

        return run

    def _quick_set(self, entry: Instruction) -> Quick:
        target = self._local(entry.first)
        cell = target.cell
        check_writable(cell.name, cell.read_only)
        value = parse_text(entry.value, cell.type, cell.count)

        where = place(target)
        if where is not None:
            view, at = where

            def put() -> bool:
                view[at] = value  # type: ignore[assignment]
                return True

            return put

        def run() -> bool:
            store(target, value)
            return True

        return run

    def _slow(self, entry: Instruction) -> Running:
        if entry.opcode is Opcode.BLOCK:
            return (yield from self._block(entry))
        if entry.opcode is Opcode.IFELSE:
            return (yield from self._condition(entry))
        if entry.opcode is Opcode.SET:
            type_, count, write = yield from self._target(entry, entry.first, Side.NODE)
            yield from write(parse_text(entry.value, type_, count))
            return True
        row = OPCODES[entry.opcode]
        read_side, write_side = sides(entry.opcode, entry.operator)
        names = [cast(str, getattr(entry, attribute)) for attribute in row.reads]
        values, types = yield from self._fetch(entry, names, read_side)
        compute = evaluator(entry, types, self._settings.mode)
        result = cast(Value, compute(*values))
        type_, count, write = yield from self._target(entry, entry.result, write_side)
        converted = convert(result, types[0], type_, self._settings.mode)
        check_fits(converted, type_, count)
        yield from write(converted)
        return True

    def _condition(self, entry: Instruction) -> Running:
        names = [entry.first, entry.second]
        values, types = yield from self._fetch(entry, names, Side.NODE)
        return bool(evaluator(entry, types, self._settings.mode)(*values))

    def _block(self, entry: Instruction) -> Running:
        start = self._now()
        while not (yield from self._condition(entry)):
            now = self._now()
            if now - start >= self._settings.block_timeout_s:
                raise Stop(Ret.ERROR, f"not true within {self._settings.block_timeout_s:g} s")
            yield Wait(until=now + self._settings.poll_s)
        return True

    def _fetch(
        self, entry: Instruction, names: list[str], side: Side
    ) -> Generator[Effect, Reply, tuple[list[Value], list[ParamType]]]:
        if self.is_local(entry, side):
            bounds = [self._local(name) for name in names]
            return [loader(bound)() for bound in bounds], [bound.cell.type for bound in bounds]
        reads: list[Read] = []
        for name in names:
            operand = parse_operand(name)
            if operand is None:
                raise ValueFault(f"no parameter {name!r}")
            reads.append(Read(name=operand.name, index=operand.index or 0))
        reply = yield Pull(node=entry.node, reads=tuple(reads))
        readings = cast("list[Reading]", _checked(reply))
        values = [self._value(reading, name) for reading, name in zip(readings, names, strict=True)]
        return values, [reading.type for reading in readings]

    def _value(self, reading: Reading, name: str) -> Value:
        kind = TYPES[reading.type].kind
        if kind not in LOADABLE:
            raise ValueFault(f"{name} is {TYPES[reading.type].name}, which cannot be an operand")
        if reading.value is not None:
            return reading.value
        if self._settings.mode is Mode.STRICT:
            raise ValueFault(f"{name} is beyond the array")
        return b"" if kind is TypeClass.STRING else 0.0 if kind is TypeClass.FLOAT else 0

    def _target(
        self, entry: Instruction, text: str, side: Side
    ) -> Generator[Effect, Reply, tuple[ParamType, int, Callable[[Value], Running]]]:
        """Find out where a result goes: its type, its element count and how to write it."""
        if self.is_local(entry, side):
            bound = self._local(text)
            cell = bound.cell
            check_writable(cell.name, cell.read_only)
            return cell.type, cell.count, lambda value: self._write_local(bound, value)
        operand = parse_operand(text)
        if operand is None:
            raise ValueFault(f"no parameter {text!r}")
        reply = yield Resolve(node=entry.node, name=operand.name)
        remote = cast(Remote, _checked(reply))
        check_writable(operand.name, remote.read_only)
        elements = 1 if TYPES[remote.type].is_text else remote.count
        if operand.index is not None and operand.index >= elements:
            if self._settings.mode is Mode.STRICT:
                raise ValueFault(f"{operand.name} has {elements} elements, not [{operand.index}]")
            return remote.type, remote.count, _ignore
        node, name, index = entry.node, operand.name, operand.index

        def push(value: Value) -> Running:
            _checked((yield Push(node=node, name=name, index=index, value=value)))
            return True

        return remote.type, remote.count, push

    def _write_local(self, bound: Bound, value: Value) -> Running:
        if bound.cell.observed and not bound.missing:
            _checked((yield LocalWrite(id=bound.cell.id, index=bound.index, value=value)))
        else:
            store(bound, value)
        return True


def evaluator(entry: Instruction, types: list[ParamType], mode: Mode) -> Callable[..., object]:
    """Return the function of this instruction for operands of these types.

    Raises Stop(MISMATCH) for conditions over different classes, else ValueFault.
    """
    kinds = [TYPES[type_].kind for type_ in types]
    row = OPCODES[entry.opcode]
    if len(set(kinds)) > 1:
        labels = " and ".join(TYPES[type_].name for type_ in types)
        if ret_of(entry.opcode) is Ret.CONDITION:
            raise Stop(Ret.MISMATCH, f"cannot compare {labels}")
        raise ValueFault(f"cannot combine {labels}")
    operator = row.operators[entry.operator]
    function = operator.functions(mode).get(kinds[0])
    if function is None:
        raise ValueFault(f"{operator.text} does not take {TYPES[types[0]].name}")
    return function


def _fast(
    compute: Callable[..., object],
    change: Callable[..., Value],
    sources: list[Bound],
    target: Bound,
) -> Quick | None:
    """Return the closure for single numbers in writable memory, None for anything else."""
    spots = [place(bound) for bound in (*sources, target)]
    if target.cell.read_only or any(spot is None for spot in spots):
        return None
    (view_a, a), *_, (view_r, r) = cast("list[tuple[memoryview, int]]", spots)
    if len(sources) == 1:

        def unary() -> bool:
            view_r[r] = change(compute(view_a[a]))  # type: ignore[assignment]
            return True

        return unary
    view_b, b = cast("tuple[memoryview, int]", spots[1])

    def binary() -> bool:
        view_r[r] = change(compute(view_a[a], view_b[b]))  # type: ignore[assignment]
        return True

    return binary


def _checked(reply: Reply) -> Reply:
    if isinstance(reply, Fault):
        raise ValueFault(reply.reason)
    return reply


def _step(
    entry: Instruction, *, quick: Quick | None = None, slow: Callable[[], Running] | None = None
) -> Step:
    is_ifelse = entry.opcode is Opcode.IFELSE
    return Step(opcode=entry.opcode, quick=quick, slow=slow, is_ifelse=is_ifelse)


def _raising(error: Exception) -> Quick:
    def run() -> bool:
        raise error

    return run


def _ignore(_value: Value) -> Running:
    return True
    yield
