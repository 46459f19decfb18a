"""Interpret procedures: the plain engine, and the oracle for the compiled one.

Theory of operation: `bind` turns each instruction of the call graph into a step once, when the run
starts; this is the loop of dish.md 5 over these steps: index, flag, and a stack of callers. It does
no I/O and reads no clock: `now` comes with each reply.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum, auto

from dish.bind import Binder, Running, Step, Stop, ret_of
from dish.cells import CellTable
from dish.effects import (
    Done,
    Effect,
    Failed,
    Native,
    Position,
    Reply,
    Settings,
    Slice,
)
from dish.errors import Ret
from dish.isa import Opcode
from dish.link import CallGraph
from dish.values import ValueFault


class Flag(Enum):
    """What the last ifelse left behind. Source: dish.md 5."""

    NONE = auto()
    TRUE = auto()
    FALSE = auto()


@dataclass(slots=True)
class Frame:
    """A caller to return to."""

    slot: int
    index: int
    flag: Flag


@dataclass(frozen=True, slots=True)
class Resume:
    """A point to go on from, as another engine left it."""

    slot: int
    index: int
    flag: Flag
    stack: list[Frame]
    executed: int


class Interpreter:
    """One run of a call graph, from its root or from `resume`. See `effects.Engine`."""

    def __init__(
        self,
        graph: CallGraph,
        cells: CellTable,
        settings: Settings,
        resume: Resume | None = None,
    ) -> None:
        self.slice_instructions = settings.slice_instructions
        self._graph = graph
        self._settings = settings
        binder = Binder(cells, settings, lambda: self._now)
        self._code = {
            slot: tuple(
                binder.bind(procedure, index) for index in range(len(procedure.instructions))
            )
            for slot, procedure in graph.procedures.items()
        }
        start = resume or Resume(graph.root, 0, Flag.NONE, [], 0)
        self._slot, self._index, self._flag = start.slot, start.index, start.flag
        self._stack = start.stack
        self._executed = start.executed
        self._now = 0.0
        self._body = self._run()
        self._end: Effect | None = None

    @property
    def position(self) -> Position:
        """The instruction it is in or goes on with."""
        return Position(slot=self._slot, index=self._index, depth=len(self._stack))

    @property
    def executed(self) -> int:
        """Instructions executed so far."""
        return self._executed

    def step(self, reply: Reply, now: float) -> Effect:
        """Go on until something is needed. After the end it returns the end again."""
        self._now = now
        if self._end is not None:
            return self._end
        try:
            effect = self._body.send(reply)
        except Stop as stop:
            effect = Failed(ret=stop.ret, slot=self._slot, index=self._index, reason=stop.reason)
        if isinstance(effect, (Done, Failed)):
            self._end = effect
        return effect

    def _run(self) -> Generator[Effect, Reply, None]:
        if self._graph.root in self._graph.natives:
            # The return value of a native root is ignored (dish.md 4).
            yield Native(slot=self._graph.root)
            yield Done()
            return
        used = 0
        while True:
            code = self._code[self._slot]
            while self._index < len(code):
                if self._flag is Flag.FALSE:
                    self._flag = Flag.NONE
                    self._index += 1
                    continue
                if used >= self.slice_instructions:
                    used = 0
                    yield Slice()
                used += 1
                self._count()
                step = code[self._index]
                if self._flag is Flag.TRUE:
                    self._flag = Flag.FALSE
                if step.quick is not None:
                    outcome = self._guard(step)
                elif step.slow is not None:
                    outcome = yield from self._slow(step)
                elif step.callee in self._graph.natives:
                    outcome = yield from self._native(step.callee)
                else:
                    self._enter(step.callee, step.is_tail)
                    break
                if step.opcode is Opcode.IFELSE:
                    self._flag = Flag.TRUE if outcome else Flag.FALSE
                self._index += 1
            else:
                if not self._stack:
                    yield Done()
                    return
                frame = self._stack.pop()
                self._slot, self._index, self._flag = frame.slot, frame.index, frame.flag

    def _count(self) -> None:
        if self._settings.budget and self._executed >= self._settings.budget:
            raise Stop(Ret.BUDGET, f"{self._executed} instructions")
        self._executed += 1

    def _guard(self, step: Step) -> bool:
        try:
            return step.quick()  # type: ignore[misc]
        except ValueFault as fault:
            raise Stop(ret_of(step.opcode), str(fault)) from None

    def _slow(self, step: Step) -> Running:
        try:
            return (yield from step.slow())  # type: ignore[misc]
        except ValueFault as fault:
            raise Stop(ret_of(step.opcode), str(fault)) from None

    def _native(self, slot: int) -> Running:
        reply = yield Native(slot=slot)
        if reply != 0:
            raise Stop(Ret.ERROR, f"native procedure {slot} returned {reply}")
        return True

    def _enter(self, callee: int, is_tail: bool) -> None:
        if not is_tail:
            if len(self._stack) >= self._settings.max_depth:
                raise Stop(Ret.ERROR, f"calls nested deeper than {self._settings.max_depth}")
            self._stack.append(Frame(self._slot, self._index + 1, self._flag))
        self._slot, self._index, self._flag = callee, 0, Flag.NONE
