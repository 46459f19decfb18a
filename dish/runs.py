"""Supervise the running procedures of a node: start, serve, command, kill, account. Driver.

Theory of operation: a run goes from `start` through the forge to a process and ends in exactly one
`Outcome`, whatever happens to the process: its own verdict if it sent one, else KILLED with the
last position on the board. The verdict counts only when the process is gone, so that a finished run
never occupies anything. A child may have one request open; more, or a frame that makes no sense,
and it is killed. Faults 90, 92, 93 and 94 of the catalogue.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field, replace
from typing import Any

from csp.loop import Loop
from csp.sched import Task, Timer
from dish.board import RunState
from dish.effects import LocalWrite, Pull, Push, Reply, Resolve
from dish.errors import DishError, MisuseError, Ret
from dish.forge import ForgeHandle
from dish.frames import (
    MAX_FRAME_BYTES,
    Clone,
    Cloned,
    Command,
    Control,
    Ended,
    Exited,
    Frame,
    FrameError,
    Spawn,
    Spawned,
    SpawnFailed,
    decode_frame,
    encode_frame,
)
from dish.outcome import Outcome
from dish.records import RunCounters, RunView, reply_frame
from dish.request import RunRequest, encode_request

Serve = Callable[[Pull | Resolve | Push | LocalWrite], Coroutine[Any, Any, Reply]]

# A fork takes milliseconds; a forge that needs longer than this is stuck or starved.
_SPAWN_LIMIT_S = 10.0
# A healthy child looks at commands every slice, a few milliseconds.
_STOP_GRACE_S = 1.0


class NoRoom(DishError):
    """As many procedures are running as may run."""


@dataclass(slots=True, eq=False)
class _Run:
    """One running procedure: its process, its socket, and what is known of its end."""

    run_id: int
    root: int
    row: int
    link: socket.socket
    started_s: float
    pid: int = 0
    pidfd: int = -1
    verdict: Ended | None = None
    forced: Ret | None = None
    reason: str = ""
    request: Task[None] | None = None
    timer: Timer | None = None


@dataclass(slots=True)
class _State:
    runs: dict[int, _Run] = field(default_factory=dict)
    next_id: int = 1
    # The forge in waiting, and our end of its socket while it is being made.
    standby: ForgeHandle | None = None
    coming: socket.socket | None = None


class Runs:
    """The running procedures of one node. `serve` answers their requests, `on_end` hears ends."""

    def __init__(
        self,
        loop: Loop,
        forge: ForgeHandle,
        *,
        serve: Serve,
        on_end: Callable[[Outcome], None],
        limit: int = 16,
    ) -> None:
        if limit > forge.board.rows:
            raise MisuseError(f"{limit} runs on a board of {forge.board.rows} rows")
        self.counters = RunCounters()
        self._loop = loop
        self._forge = forge
        self._serve = serve
        self._on_end = on_end
        self._limit = limit
        self._state = _State()
        self._use(forge)

    def _use(self, forge: ForgeHandle) -> None:
        """Work with this forge, and have it make another one to fall back on."""
        self._forge = forge
        forge.link.setblocking(False)
        self._loop.add_reader(forge.link.fileno(), self._on_forge)
        self._ask_standby()

    def _ask_standby(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._state.coming = ours
        with theirs, contextlib.suppress(OSError):
            socket.send_fds(self._forge.link, [encode_frame(Clone())], [theirs.fileno()])

    def __len__(self) -> int:
        return len(self._state.runs)

    @property
    def forge_pid(self) -> int:
        """Process id of the forge in use."""
        return self._forge.pid

    @property
    def standby_pid(self) -> int:
        """Process id of the forge in waiting, 0 while there is none."""
        return self._state.standby.pid if self._state.standby is not None else 0

    @property
    def has_standby(self) -> bool:
        """Whether losing the forge would cost the present runs only."""
        return self._state.standby is not None

    def views(self) -> list[RunView]:
        """Return the running procedures, oldest first."""
        now = self._loop.scheduler.now
        return [
            RunView(
                run_id=run.run_id,
                root=run.root,
                pid=run.pid,
                row=run.row,
                line=self._forge.board.read(run.row),
                age_s=now - run.started_s,
            )
            for run in self._state.runs.values()
        ]

    def start(self, request: RunRequest) -> int:
        """Start a run and return its number. The row of the request is filled in here.

        Raises NoRoom when the limit is reached, or when no process can be asked for.
        """
        state = self._state
        used = {run.row for run in state.runs.values()}
        if len(used) >= self._limit:
            self.counters.refused += 1
            raise NoRoom(f"{self._limit} are running")
        row = next(row for row in range(self._limit) if row not in used)
        run_id, state.next_id = state.next_id, state.next_id % 0xFFFF_FFFF + 1
        try:
            link = self._ask_forge(run_id, encode_request(replace(request, row=row)))
        except OSError as error:
            self.counters.refused += 1
            raise NoRoom(f"cannot start a process: {error}") from None
        now = self._loop.scheduler.now
        run = _Run(run_id, request.graph.root, row, link, now)
        state.runs[run_id] = run
        self._forge.board.clear(row)
        self._forge.board.set_state(row, RunState.STARTING)
        self._loop.add_reader(link.fileno(), lambda: self._on_child(run))
        run.timer = self._loop.scheduler.call_later(_SPAWN_LIMIT_S, self._lose_forge)
        self.counters.started += 1
        return run_id

    def _ask_forge(self, run_id: int, request: bytes) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        memory = -1
        try:
            memory = os.memfd_create("dish-run", os.MFD_CLOEXEC)
            os.write(memory, request)
            frame = encode_frame(Spawn(run_id=run_id))
            socket.send_fds(self._forge.link, [frame], [theirs.fileno(), memory])
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
            if memory >= 0:
                os.close(memory)
        ours.setblocking(False)
        return ours

    def command(self, command: Command, root: int | None = None) -> int:
        """Tell the runs of a root slot, or all runs, what to do; return how many there are.

        A run that does not end within a second of STOP is killed; it counts as stopped all the
        same.
        """
        chosen = [run for run in self._state.runs.values() if root is None or run.root == root]
        for run in chosen:
            # A full socket means the child has not looked for a long time; STOP does not need it.
            with contextlib.suppress(OSError):
                run.link.send(encode_frame(Control(command=command)))
            if command is Command.STOP and run.forced is None:
                run.forced = Ret.STOPPED
                self._kill_later(run)
        return len(chosen)

    def _kill_later(self, run: _Run) -> None:
        if run.timer is not None:
            run.timer.cancel()
        run.timer = self._loop.scheduler.call_later(_STOP_GRACE_S, lambda: self._kill(run))

    def _kill(self, run: _Run) -> None:
        if run.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(run.pidfd, signal.SIGKILL)
        elif run.run_id in self._state.runs:
            # Not yet born: the forge is slow.
            self._kill_later(run)

    def _on_child(self, run: _Run) -> None:
        """Read one frame of a child, or its end of file."""
        try:
            data = run.link.recv(MAX_FRAME_BYTES)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data = b""
        if not data:
            self._loop.remove_reader(run.link.fileno())
            return
        try:
            self._frame(run, decode_frame(data))
        except FrameError as error:
            self.counters.bad_frames += 1
            run.reason = f"bad frame: {error}"
            self._kill(run)

    def _frame(self, run: _Run, frame: Frame) -> None:
        if isinstance(frame, Ended):
            run.verdict = frame
        elif isinstance(frame, (Pull, Resolve, Push, LocalWrite)):
            if run.request is not None and not run.request.done:
                raise FrameError("a second request before the answer")
            name = f"run {run.run_id}"
            run.request = self._loop.scheduler.spawn_background(self._answer(run, frame), name)
        else:
            raise FrameError(f"unexpected {type(frame).__name__}")

    async def _answer(self, run: _Run, request: Pull | Resolve | Push | LocalWrite) -> None:
        reply = await self._serve(request)
        # The child may have been killed meanwhile.
        with contextlib.suppress(OSError):
            run.link.send(encode_frame(reply_frame(reply)))

    def _on_forge(self) -> None:
        try:
            data, fds, _, _ = socket.recv_fds(self._forge.link, MAX_FRAME_BYTES, 1)
        except BlockingIOError:
            return
        except ConnectionResetError:
            data, fds = b"", []
        if not data:
            self._lose_forge()
            return
        frame = decode_frame(data)
        if isinstance(frame, Cloned) and fds:
            self._have_standby(frame.pid, fds.pop())
        elif isinstance(frame, (Spawned, SpawnFailed, Exited)):
            run = self._state.runs.get(frame.run_id)
            if run is not None:
                self._progress(run, frame, fds)
        for fd in fds:
            os.close(fd)

    def _progress(self, run: _Run, frame: Spawned | SpawnFailed | Exited, fds: list[int]) -> None:
        if isinstance(frame, Spawned):
            run.pid, run.pidfd = frame.pid, fds.pop() if fds else -1
            if run.forced is None and run.timer is not None:
                run.timer.cancel()
        elif isinstance(frame, SpawnFailed):
            run.forced, run.reason = Ret.START_FAILED, os.strerror(frame.error)
            self._finish(run, 0)
        else:
            self._finish(run, frame.status)

    def _have_standby(self, pid: int, pidfd: int) -> None:
        state = self._state
        if state.coming is not None:
            state.standby = ForgeHandle(
                link=state.coming, pid=pid, pidfd=pidfd, board=self._forge.board,
                natives=self._forge.natives, is_our_child=False,
            )  # fmt: skip
            state.coming = None
            self._loop.add_reader(state.standby.link.fileno(), self._lose_standby)

    def _lose_standby(self) -> None:
        """Replace a second forge that died; it says nothing, so being readable means its end."""
        standby, self._state.standby = self._state.standby, None
        if standby is not None:
            self._loop.remove_reader(standby.link.fileno())
            standby.close()
            self._ask_standby()

    def _lose_forge(self) -> None:
        """Give up the forge and with it every run, whose processes die with it; use the other."""
        lost, state = self._forge, self._state
        self._loop.remove_reader(lost.link.fileno())
        lost.kill()
        lost.close()
        for run in list(state.runs.values()):
            run.forced = run.forced or Ret.HOST_LOST
            self._kill(run)
            self._finish(run, 0)
        standby, state.standby = state.standby, None
        if state.coming is not None:
            state.coming.close()
            state.coming = None
        if standby is not None:
            self._loop.remove_reader(standby.link.fileno())
            self._use(standby)

    def _finish(self, run: _Run, status: int) -> None:
        # What the child said last may still be in the socket, at most one request and the verdict.
        with contextlib.suppress(OSError, FrameError):
            while run.verdict is None and (data := run.link.recv(MAX_FRAME_BYTES)):
                frame = decode_frame(data)
                run.verdict = frame if isinstance(frame, Ended) else None
        self._release(run)
        self._account(self._outcome(run, status))

    def _release(self, run: _Run) -> None:
        self._loop.remove_reader(run.link.fileno())
        run.link.close()
        if run.pidfd >= 0:
            os.close(run.pidfd)
            run.pidfd = -1
        if run.timer is not None:
            run.timer.cancel()
        if run.request is not None:
            run.request.cancel()
        del self._state.runs[run.run_id]

    def _outcome(self, run: _Run, status: int) -> Outcome:
        row = self._forge.board.read(run.row)
        self._forge.board.clear(run.row)
        wall_s = self._loop.scheduler.now - run.started_s
        if run.verdict is not None:
            return Outcome(
                run_id=run.run_id, root=run.root, ret=run.verdict.ret, slot=run.verdict.slot,
                index=run.verdict.index, executed=run.verdict.executed,
                reason=run.verdict.reason, wall_s=wall_s,
            )  # fmt: skip
        reason = run.reason
        if run.forced is None and not reason:
            code = os.waitstatus_to_exitcode(status)
            reason = f"signal {-code}" if code < 0 else f"exit status {code} without a verdict"
        return Outcome(
            run_id=run.run_id, root=run.root, ret=run.forced or Ret.KILLED,
            slot=row.position.slot, index=row.position.index, executed=row.executed,
            reason=reason, wall_s=wall_s,
        )  # fmt: skip

    def _account(self, outcome: Outcome) -> None:
        if outcome.ret is Ret.OK:
            self.counters.completed += 1
        else:
            self.counters.failed += 1
            self.counters.killed += outcome.ret is Ret.KILLED
        self._on_end(outcome)

    def close(self) -> None:
        """Kill every run and end the forge; each run gets its outcome."""
        for run in list(self._state.runs.values()):
            run.forced = run.forced or Ret.INTERRUPTED
            self._kill(run)
        if self._forge.pidfd >= 0:
            self._loop.remove_reader(self._forge.link.fileno())
        state = self._state
        if state.coming is not None:
            state.coming.close()
        # The second forge first: its parent reaps it.
        if state.standby is not None:
            self._loop.remove_reader(state.standby.link.fileno())
        for forge in (state.standby, self._forge):
            if forge is not None:
                forge.close()
        for run in list(self._state.runs.values()):
            self._finish(run, 0)
