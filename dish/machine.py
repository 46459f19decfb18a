"""Interpret procedures: the plain engine, and the oracle for the compiled one.

Theory of operation: `bind` turns each instruction of the call graph into a step once, when the run
starts; this is the loop of dish.md 5 over these steps: index, flag, and a stack of callers. It does
no I/O and reads no clock: `now` comes with each reply.
"""

from __future__ import annotations

from collections.abc import Generator
from dataclasses import dataclass
from enum import Enum, auto

from dish.bind import Binder, Running, Stop, ret_of
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
        # Locals, because this loop is what an instruction costs; `_save` brings the state up.
        slot, index, flag, executed = self._slot, self._index, self._flag, self._executed
        code, stack, natives = self._code[slot], self._stack, self._graph.natives
        sliced_at, pause_at = executed, self._pause_at(executed)
        while True:
            if index >= len(code):
                if not stack:
                    break
                frame = stack.pop()
                slot, index, flag, code = (
                    frame.slot,
                    frame.index,
                    frame.flag,
                    self._code[frame.slot],
                )
                continue
            if flag is Flag.FALSE:
                index, flag = index + 1, Flag.NONE
                continue
            if executed >= pause_at:
                self._save(slot, index, flag, executed)
                if self._settings.budget and executed >= self._settings.budget:
                    raise Stop(Ret.BUDGET, f"{executed} instructions")
                if executed >= sliced_at + self.slice_instructions:
                    yield Slice()
                    sliced_at = executed
                pause_at = self._pause_at(sliced_at)
            executed += 1
            step = code[index]
            if flag is Flag.TRUE:
                flag = Flag.FALSE
            try:
                if step.quick is not None:
                    outcome = step.quick()
                elif step.slow is not None:
                    self._save(slot, index, flag, executed)
                    outcome = yield from step.slow()
                    pause_at = self._pause_at(sliced_at)
                elif step.callee in natives:
                    self._save(slot, index, flag, executed)
                    outcome = yield from self._native(step.callee)
                    pause_at = self._pause_at(sliced_at)
                else:
                    if not step.is_tail:
                        self._push(Frame(slot, index + 1, flag))
                    slot, index, flag, code = step.callee, 0, Flag.NONE, self._code[step.callee]
                    continue
            except (Stop, ValueFault) as fault:
                self._save(slot, index, flag, executed)
                if isinstance(fault, Stop):
                    raise
                raise Stop(ret_of(step.opcode), str(fault)) from None
            if step.is_ifelse:
                flag = Flag.TRUE if outcome else Flag.FALSE
            index += 1
        self._save(slot, index, flag, executed)
        yield Done()

    def _pause_at(self, sliced_at: int) -> int:
        """Return the count at which to look at slice and budget again."""
        pause_at = sliced_at + self.slice_instructions
        budget = self._settings.budget
        return min(pause_at, budget) if budget else pause_at

    def _save(self, slot: int, index: int, flag: Flag, executed: int) -> None:
        self._slot, self._index, self._flag, self._executed = slot, index, flag, executed

    def _native(self, slot: int) -> Running:
        reply = yield Native(slot=slot)
        if reply != 0:
            raise Stop(Ret.ERROR, f"native procedure {slot} returned {reply}")
        return True

    def _push(self, frame: Frame) -> None:
        if len(self._stack) >= self._settings.max_depth:
            raise Stop(Ret.ERROR, f"calls nested deeper than {self._settings.max_depth}")
        self._stack.append(frame)
