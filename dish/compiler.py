"""Run procedures as compiled Python: the fast engine behind the `Engine` interface.

Theory of operation: `codegen` writes the whole call graph as one generator; this drives it. The
compiled code only stops at the start of a block. Whoever wants finer steps than a block - an
operator who pauses and steps, a budget about to end inside one - gets the interpreter, which takes
over at exactly that point and stays. Both agree on every program; the tests hold them to it.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import cast

from csp.param.types import TypeClass
from dish.bind import Stop, ret_of
from dish.cells import CellTable
from dish.codegen import generate
from dish.effects import Done, Effect, Failed, Native, Position, Reply, Settings, Slice
from dish.errors import Ret
from dish.link import CallGraph
from dish.machine import Frame, Interpreter, Resume
from dish.values import DIVIDE, REMAINDER, ValueFault

# Compiling takes some 50 us per instruction; a graph beyond this would make its start noticeable.
_MAX_INSTRUCTIONS = 5000
_FAULTS = (Stop, ValueFault, ZeroDivisionError)


class _State:
    """What the generated code and its driver share."""

    def __init__(self, engine: CompiledEngine) -> None:
        self.executed = 0
        self.block = 0
        self.stack: list[int] = []
        self.place = -1
        self.end: Effect | None = None
        self._engine = engine

    def limit(self, executed: int) -> int:
        """Return the count at which to stop next, or -1 to hand over to the interpreter."""
        return self._engine.limit(executed)

    def finish(self) -> None:
        """End well."""
        self.place = -1
        self.end = Done()

    def too_deep(self) -> None:
        """Refuse another nested call."""
        raise Stop(Ret.ERROR, f"calls nested deeper than {self._engine.settings.max_depth}")

    def fault(self, k: int, executed: int, error: Exception) -> None:
        """End at a place."""
        self._engine.fail(k, executed, error)


class CompiledEngine:
    """One run of a call graph. See `effects.Engine`."""

    def __init__(self, graph: CallGraph, cells: CellTable, settings: Settings) -> None:
        self.slice_instructions = settings.slice_instructions
        self.settings = settings
        self._graph = graph
        self._cells = cells
        self._now = 0.0
        self._interpreter: Interpreter | None = None
        self._state = _State(self)
        self._body: Generator[Effect, Reply, None] | None = None
        size = sum(len(procedure) for procedure in graph.procedures.values())
        if graph.root in graph.natives or size > _MAX_INSTRUCTIONS:
            self._interpreter = Interpreter(graph, cells, settings)
            return
        self._program = generate(graph, cells, settings, lambda: self._now)
        names: dict[str, object] = {
            **self._program.names,
            "slice_": Slice(),
            "native": lambda slot: Native(slot=slot),
            "check_native": _check_native,
            "divide": DIVIDE[TypeClass.INT],
            "remainder": REMAINDER[TypeClass.INT],
            "bad_shift": _bad_shift,
            "faults": _FAULTS,
        }
        exec(compile(self._program.source, "<procedures>", "exec"), names)
        run = cast("Callable[[_State], Generator[Effect, Reply, None]]", names["run"])
        self._body = run(self._state)

    @property
    def source(self) -> str:
        """The generated Python, for the curious and for bug reports."""
        return self._program.source

    @property
    def position(self) -> Position:
        """The instruction it is in or goes on with."""
        if self._interpreter is not None:
            return self._interpreter.position
        state = self._state
        end = state.end
        if isinstance(end, Failed):
            return Position(slot=end.slot, index=end.index, depth=len(state.stack))
        if state.place >= 0:
            place = self._program.places[state.place]
            return Position(slot=place.slot, index=place.index, depth=len(state.stack))
        block = self._program.blocks.states[state.block]
        return Position(slot=block.slot, index=block.index, depth=len(state.stack))

    @property
    def executed(self) -> int:
        """Instructions executed so far."""
        if self._interpreter is not None:
            return self._interpreter.executed
        state = self._state
        ahead = self._program.places[state.place].ahead if state.place >= 0 else 0
        return state.executed + ahead

    def step(self, reply: Reply, now: float) -> Effect:
        """Go on until something is needed. After the end it returns the end again."""
        self._now = now
        if self._interpreter is not None:
            return self._interpret(reply, now)
        if self._state.end is not None:
            return self._state.end
        try:
            return cast("Generator[Effect, Reply, None]", self._body).send(reply)
        except StopIteration:
            if self._state.end is not None:
                return self._state.end
        self._hand_over()
        return self._interpret(None, now)

    def _interpret(self, reply: Reply, now: float) -> Effect:
        interpreter = cast(Interpreter, self._interpreter)
        interpreter.slice_instructions = self.slice_instructions
        return interpreter.step(reply, now)

    def _hand_over(self) -> None:
        """Let the interpreter go on where the compiled code stopped."""
        state, blocks = self._state, self._program.blocks.states
        here = blocks[state.block]
        frames = [
            Frame(blocks[number].slot, blocks[number].index, blocks[number].flag)
            for number in state.stack
        ]
        self._interpreter = Interpreter(
            self._graph,
            self._cells,
            self.settings,
            Resume(here.slot, here.index, here.flag, frames, state.executed),
        )

    def limit(self, executed: int) -> int:
        """Return the count at which the compiled code must stop, or -1 if it must not go on."""
        longest = self._program.longest
        if self.slice_instructions < longest:
            return -1
        limit = executed + self.slice_instructions - longest + 1
        if self.settings.budget:
            if executed + longest > self.settings.budget:
                return -1
            # At this count one more block might pass the budget.
            limit = min(limit, self.settings.budget - longest + 1)
        return limit

    def fail(self, k: int, executed: int, error: Exception) -> None:
        """Record the end at place `k`."""
        place = self._program.places[k]
        self._state.executed, self._state.place = executed, k
        if isinstance(error, Stop):
            ret, reason = error.ret, error.reason
        else:
            entry = self._graph.procedures[place.slot].instructions[place.index]
            ret = ret_of(entry.opcode)
            reason = "division by zero" if isinstance(error, ZeroDivisionError) else str(error)
        self._state.end = Failed(ret=ret, slot=place.slot, index=place.index, reason=reason)


def _check_native(slot: int, reply: Reply) -> None:
    if reply != 0:
        raise Stop(Ret.ERROR, f"native procedure {slot} returned {reply}")


def _bad_shift(count: int) -> None:
    raise ValueFault(f"shift count {count} is outside 0..63")
