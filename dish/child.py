"""Run one procedure in its own process. Driver.

The process holds one socket to the node and the shared parameter memory, nothing else. It computes
by itself, asks the node for everything that needs the network or the owner of a parameter, and
waits by itself. It is told what to do by `Control` frames, which it looks at between slices and
while it waits; if it does not, the node kills it. Source: design.md 2, dish.md 11.
"""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from csp.param.table import ParamTable
from dish.board import Board, RunState
from dish.cells import CellTable
from dish.compiler import CompiledEngine
from dish.effects import (
    Done,
    Effect,
    Engine,
    Failed,
    Fault,
    LocalWrite,
    Native,
    Pull,
    Push,
    Remote,
    Reply,
    Resolve,
    Settings,
    Slice,
    Wait,
)
from dish.errors import Ret
from dish.frames import (
    MAX_FRAME_BYTES,
    Command,
    Control,
    Ended,
    Frame,
    FrameError,
    Readings,
    Written,
    decode_frame,
    encode_frame,
)
from dish.link import CallGraph
from dish.machine import Interpreter
from dish.request import RunRequest
from dish.tables import cells_of

NativeFunction = Callable[[ParamTable], int]
EngineClass = Callable[[CallGraph, CellTable, Settings], Engine]

_ENGINES: dict[str, EngineClass] = {"interpreter": Interpreter, "compiled": CompiledEngine}
# Reasons end up in a 64-byte parameter and a log line.
_MAX_REASON = 200


class NodeGone(Exception):
    """The node closed its end: there is nobody to run for."""


class Stopped(Exception):
    """The operator ended this run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inheritance:
    """What every child has from the forge by birth."""

    table: ParamTable
    board: Board
    natives: Mapping[int, NativeFunction]


class Child:
    """The loop of one procedure process."""

    def __init__(self, link: socket.socket, request: RunRequest, own: Inheritance) -> None:
        self._link = link
        self._poll = select.poll()
        self._poll.register(link, select.POLLIN)
        self._row = request.row
        self._own = own
        cells = cells_of(own.table, lambda parameter: parameter.id in request.observed)
        self._engine = _ENGINES[request.engine](request.graph, cells, request.settings)
        self._slice = request.settings.slice_instructions
        self._is_paused = request.is_paused

    def run(self) -> None:
        """Run to the end and report it. Returns early when the node is gone."""
        try:
            end = self._loop()
        except Stopped:
            position = self._engine.position
            end = Failed(
                ret=Ret.STOPPED, slot=position.slot, index=position.index, reason="by operator"
            )
        except NodeGone:
            return
        self._report(end)

    def _loop(self) -> Done | Failed:
        reply: Reply = None
        self._publish(RunState.RUNNING)
        self._obey()
        while True:
            effect = self._engine.step(reply, time.monotonic())
            if isinstance(effect, (Done, Failed)):
                return effect
            reply = self._serve(effect)

    def _serve(self, effect: Effect) -> Reply:
        if isinstance(effect, Slice):
            self._publish(RunState.RUNNING)
            self._obey()
            return None
        if isinstance(effect, Wait):
            self._wait(effect.until)
            return None
        if isinstance(effect, Native):
            self._publish(RunState.RUNNING)
            return self._native(effect.slot)
        if isinstance(effect, (Pull, Resolve, Push, LocalWrite)):
            return self._ask(effect)
        raise FrameError(f"unexpected effect {effect!r}")

    def _publish(self, state: RunState) -> None:
        self._own.board.write(self._row, state, self._engine.position, self._engine.executed)

    def _native(self, slot: int) -> int:
        function = self._own.natives.get(slot)
        if function is None:
            return -1
        try:
            return function(self._own.table)
        except Exception:  # boundary: a native procedure may do anything
            return -1

    def _ask(self, request: Pull | Resolve | Push | LocalWrite) -> Reply:
        self._publish(RunState.REMOTE)
        self._link.send(encode_frame(request))
        while True:
            frame = self._receive()
            if isinstance(frame, Control):
                self._command(frame.command)
            elif isinstance(frame, Readings):
                return frame.readings
            elif isinstance(frame, (Remote, Fault)):
                return frame
            elif isinstance(frame, Written):
                return None

    def _wait(self, until: float) -> None:
        self._publish(RunState.WAITING)
        while (left_s := until - time.monotonic()) > 0:
            # Rounded up, or the poll would end just before its deadline and spin.
            if self._poll.poll(int(left_s * 1000) + 1):
                self._obey()
                self._publish(RunState.WAITING)
        self._obey()

    def _obey(self) -> None:
        """Take all commands that are there; stay here while paused."""
        while self._is_paused or self._poll.poll(0):
            if self._is_paused:
                self._publish(RunState.PAUSED)
            frame = self._receive()
            if isinstance(frame, Control) and self._command(frame.command):
                break

    def _command(self, command: Command) -> bool:
        """Carry out a command; True if the procedure goes on by one step only."""
        if command is Command.STOP:
            raise Stopped
        self._is_paused = command is not Command.RESUME
        is_step = command is Command.STEP
        self._engine.slice_instructions = 1 if self._is_paused else self._slice
        return is_step

    def _receive(self) -> Frame:
        data = self._link.recv(MAX_FRAME_BYTES)
        if not data:
            raise NodeGone
        return decode_frame(data)

    def _report(self, end: Done | Failed) -> None:
        position = self._engine.position
        frame = Ended(
            ret=end.ret if isinstance(end, Failed) else Ret.OK,
            slot=end.slot if isinstance(end, Failed) else position.slot,
            index=min(end.index if isinstance(end, Failed) else position.index, 255),
            executed=min(self._engine.executed, 2**64 - 1),
            reason=end.reason[:_MAX_REASON] if isinstance(end, Failed) else "",
        )
        self._link.send(encode_frame(frame))
