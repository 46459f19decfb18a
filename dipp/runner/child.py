"""The module child: one execution of one module on one batch, then the end of the process.

Driver; runs in a process that a host's nursery forked. It reports and enforces nothing: whatever it
says is checked by the host, whatever it does is bounded by the host. Usually it is forked before
its batch exists: it confines itself, maps and touches what it will need, rehearses, says that it is
ready, and waits for a `Go` frame. After its result it stays until it is ended, because the end of a
process costs more than most modules. Source: performance.md 2, dipp.md 10, defect D22.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from io import FileIO, TextIOWrapper
from typing import NoReturn

from dipp.errors import Code, DippError
from dipp.runner.arena import ChildMemory
from dipp.runner.birth import Birth
from dipp.runner.channel import Channel, receive_fds
from dipp.runner.forking import reseed
from dipp.runner.frames import (
    BY_DESCRIPTOR,
    REASON_LIMIT_BYTES,
    UNUSED,
    ChildReady,
    Go,
    ModuleFailed,
    ModuleRaised,
)
from dipp.runner.hotframes import decode_go, encode_done, encode_forwarded, encode_go
from dipp.runner.loader import ErrorPipe, LoadedModule
from dipp.runner.placement import Cpus, move_to
from dipp.runner.protocol import (
    ALERT,
    INPUT_ALERT,
    encode_frame,
)
from dipp.runner.segments import Announced, Segments
from dipp.runner.values import Policy, clip
from dipp.runner.wait import spin_readable, wait_readable
from dipp.runner.wire import FrameError
from dipp.sandbox.gear import Gear
from dipp.sandbox.ladder import CHILD_LADDER, climb
from dipp.sandbox.limits import Confinement
from dipp.sdk import ModuleError
from dipp.workspace import ImageRef, SeenImage, SegmentRange, Workspace

# After eight calls the interpreter specializes a function, after some more its instructions.
_ADAPTED = 16
# How long a child that stands by waits for an order before it rehearses.
QUIET_S = 0.005
# How long whoever has been alerted waits without sleeping: the node has its journal to write.
AWAKE_S = 0.005
# After that an announced batch is not expected any more. The host gives up much earlier.
_COMING_S = 30.0
# Deeper frames of a traceback say nothing new and push the message out of the log tail.
_TRACEBACK_FRAMES = 12
# In the place of arena and scratch memory in a rehearsal: an image of one byte and its copies.
_STAND_IN_BYTES = 1 << 10

_Run = Callable[[Go, Workspace, ErrorPipe | None], tuple[int, Sequence[ImageRef] | None]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cradle:
    """What all children of a host have in common; it is in the nursery's memory before they are.

    `line_fd` is the nursery's own, which no child keeps.
    """

    modules: Sequence[LoadedModule]
    policy: Policy
    gear: Gear
    memory: ChildMemory
    host_pid: int
    cpus: Cpus
    line_fd: int


def run_child(cradle: Cradle, birth: bytes, fds: Sequence[int]) -> NoReturn:
    """Get ready, wait for the order, run the module, report, stay. Never returns.

    `birth` is an encoded `Birth`. The descriptors are those of the channel for frames, of the one
    for segments, of the log, and of both ends of the error pipe if the module is native.
    """
    status = 1
    try:
        channel_fd, passing_fd, log_fd, *pipe = fds
        os.dup2(log_fd, 1)
        os.dup2(log_fd, 2)
        channel, passing = Channel.from_fd(channel_fd), Channel.from_fd(passing_fd)
        child = _Child(cradle, Birth.decode(birth), channel, passing.sock, pipe)
        child.enter(cradle)
        status = child.follow()
    except BaseException:  # boundary: nothing may unwind into the nursery's code
        traceback.print_exc(limit=_TRACEBACK_FRAMES)
    finally:
        os._exit(status)


def rehearse_ahead(cradle: Cradle) -> None:
    """Go the way of a batch in the nursery, so often that the interpreter has adapted to it.

    It rewrites its code for that; done here, it is not done by every child on pages of its own.
    """
    birth = Birth(0, 0, 0, 0, 0, 0, 0, None, "")
    ours, theirs = Channel.pair()
    with contextlib.closing(ours), contextlib.closing(theirs):
        # Whichever module it is: all take the same way.
        _Child(cradle, birth, ours, theirs.sock, ()).rehearse_often()


class _Child:
    def __init__(
        self,
        cradle: Cradle,
        birth: Birth,
        channel: Channel,
        passing: socket.socket,
        pipe: Sequence[int],
    ) -> None:
        self._channel = channel
        self._passing = passing
        self._module = cradle.modules[birth.position]
        self._birth = birth
        self._cpus = cradle.cpus
        # The first one is alerted together with its host, so that both get ready side by side.
        self._home = cradle.cpus.home if birth.position else cradle.cpus.away
        self._pipe: ErrorPipe | None = (pipe[0], pipe[1]) if len(pipe) == 2 else None
        memory = self._memory = cradle.memory
        self._arenas = [mapping.view for mapping in memory.readable]
        self._arena = memory.writable[birth.own].view
        self._scratch = memory.scratch.view
        self._stand_in = memoryview(bytearray(_STAND_IN_BYTES))
        self._announced: Announced | None = None
        self._awake_until = 0.0
        # It may run on all processors already.
        self._is_free = False
        self._mirrors: tuple[Channel, Channel]
        self._is_rehearsed = False
        self._segments: Segments | None = None

    def rehearse_often(self) -> None:
        """Rehearse in a process that is no child."""
        self._is_free = True
        with self._mirrored():
            for _ in range(_ADAPTED):
                self._rehearse()

    def enter(self, cradle: Cradle) -> None:
        """Take what is this process's own, and put on what the nursery could not."""
        birth, memory = self._birth, self._memory
        memory.keep(birth.own)
        memory.warm(birth, birth.recent_bytes)
        directory = birth.directory
        os.chdir(directory)
        tempfile.tempdir = directory
        os.environ["TMPDIR"] = directory
        confinement = Confinement(
            policy=cradle.policy,
            timeout_s=self._module.step.timeout_s,
            parent_pid=cradle.host_pid,
            keep_fds=(
                self._channel.fileno(),
                self._passing.fileno(),
                memory.stand_in_fd,
                *(self._pipe or ()),
            ),
            gear=cradle.gear,
            is_native=self._module.is_native,
            process_limit=birth.process_limit,
        )
        climb(confinement, (*cradle.policy.skipped_rungs, *cradle.gear.absent), CHILD_LADDER)
        reseed()

    def follow(self) -> int:
        """Wait, rehearse if there is time, run, report; return the exit status."""
        self._channel.send(ChildReady())
        # In a series of batches a rehearsal would cost more than it saves.
        if not wait_readable(self._channel.fileno(), QUIET_S):
            self._stand_by()
        os.close(self._memory.stand_in_fd)
        while True:
            status = self._serve(self._channel, self._passing, self._module.execute, self._cpus.all)
            if status is not None:
                return status
            if self._is_rehearsed and time.monotonic() > self._awake_until:
                with self._mirrored():
                    self._rehearse()
            if not self._stay_awake():
                self._doze()

    def _stand_by(self) -> None:
        """Rehearse. First without the module's own part: that may fail."""
        # In a series that would cost more than it saves, if the batch before was a smaller one.
        self._memory.warm(self._birth, sys.maxsize)
        with self._mirrored() as mirror:
            socket.send_fds(mirror.sock, [b"f"], [self._memory.stand_in_fd])
            self._rehearse(BY_DESCRIPTOR)
            self._module.rehearse_fully()
            self._rehearse()
        self._is_rehearsed = True
        self._channel.send(ChildReady(is_rehearsed=1))
        move_to(self._home)

    @contextlib.contextmanager
    def _mirrored(self) -> Iterator[Channel]:
        """Have the sockets of a rehearsal, and not for longer: a module shall not see them."""
        self._mirrors = Channel.pair()
        try:
            yield self._mirrors[1]
        finally:
            for mirror in self._mirrors:
                mirror.close()

    def _rehearse(self, segment: int = UNUSED) -> None:
        """Go once through all that is ours on the way of a batch.

        A fresh child shares its memory with its host; what it touches for the first time, it copies
        a page at a time, which is better done before than while a batch waits. Therefore nothing
        here is like what happens then: it is the same code.
        """
        mirror, mirrored = self._mirrors
        own, self._arena = self._arena, self._stand_in
        scratch, self._scratch = self._scratch, self._stand_in
        if segment == UNUSED:
            segment = len(self._arenas)
        self._arenas.append(self._stand_in)
        try:
            mirror.send_encoded(_rehearsal_order(segment))
            self._serve(mirrored, mirror.sock, self._module.rehearse, self._home)
            mirror.receive_encoded()
            if self._segments is not None:
                self._segments.close()
        finally:
            self._arenas.pop()
            self._arena, self._scratch = own, scratch

    def _serve(
        self, channel: Channel, passing: socket.socket, run: _Run, cpus: frozenset[int]
    ) -> int | None:
        """Take an order, run, report, stay; return the exit status, None after an alert."""
        order = channel.receive_encoded()
        if not order:
            return 1
        if order in (ALERT, INPUT_ALERT):
            self._hear(passing, has_input=order == INPUT_ALERT)
            return None
        go = decode_go(order)
        if not (self._is_free or go.brief):
            # Those that stand by do that where their host is; a module may use all there is.
            move_to(cpus)
        report, status = self._execute(go, self._workspace(go, passing), run)
        if report is None:
            return status
        try:
            channel.send_encoded(report)
            if go.hold and not status:
                # Ends when the host does; usually this process is killed here.
                channel.sock.recv(1)
        except OSError:
            # Without a channel there is no result, which the host will notice by itself.
            return status
        return status

    def _hear(self, passing: socket.socket, *, has_input: bool) -> None:
        """Get ready for the order that comes soon, the first one with its input."""
        move_to(self._cpus.all)
        self._is_free = True
        if has_input:
            self._forget()
            self._announced = Announced(receive_fds(passing)[1][0])

    def _forget(self) -> None:
        """Let go of an input that has been announced and did not come."""
        if self._announced is not None:
            self._announced.close()
            self._announced = None

    def _stay_awake(self) -> bool:
        """Wait for the order without sleeping, for a short while; say whether it is there."""
        fd = self._channel.fileno()
        while self._announced is not None and self._announced.warm_a_bit():
            if wait_readable(fd, 0):
                return True
        self._awake_until = time.monotonic() + AWAKE_S
        return spin_readable(fd, self._awake_until)

    def _doze(self) -> None:
        """Wait as usual for an announced order; let go of its input if it does not come."""
        if self._announced is not None and not wait_readable(self._channel.fileno(), _COMING_S):
            self._forget()

    def _workspace(self, go: Go, passing: socket.socket) -> Workspace:
        segments = self._segments = Segments(go, self._arenas, passing, self._announced)
        arena = segments.fresh_arena() if go.fresh else self._arena
        return Workspace(segments.find, len(go.segments), arena, self._scratch, segments.read)

    def _execute(self, go: Go, space: Workspace, run: _Run) -> tuple[bytes | None, int]:
        """Return what to report, encoded, and the exit status."""
        try:
            pipeline_id, refs = run(go, space, self._pipe)
            return _report(go, pipeline_id, refs), 0
        except ModuleError as error:
            return _failed(error.code, error.reason), 1
        except FrameError as error:
            return _failed(Code.RESULT_INVALID, f"result cannot be reported: {error}"), 1
        except DippError as error:
            code = Code.RESULT_INVALID if error.code == Code.BATCH_INVALID else error.code
            return _failed(code, str(error)), 1
        except SystemExit as error:
            status = _exit_status(error)
            return (_raised(error, self._module.step.path), status) if status else (None, 0)
        except BaseException as error:  # boundary: any failure of a module is a value
            with contextlib.suppress(OSError, ValueError, MemoryError):
                traceback.print_exception(error, limit=-_TRACEBACK_FRAMES)
            return _raised(error, self._module.step.path), 1


def _rehearsal_order(segment: int) -> bytes:
    """Return an order for an image of one byte whose metadata nobody looks at."""
    place = SegmentRange(0, 0, 1)
    seen = SeenImage(*place, *place, 1, 1, 1, 8, 0)
    return encode_go(Go(0, 0, (seen,), (segment,)))


def open_streams() -> tuple[TextIOWrapper, TextIOWrapper]:
    """Open output and errors so that nothing waits in a buffer when a process is killed."""
    return _print_at_once(1), _print_at_once(2)


def _print_at_once(number: int) -> TextIOWrapper:
    return TextIOWrapper(FileIO(number, "wb", closefd=False), errors="replace", write_through=True)


def _report(go: Go, pipeline_id: int, refs: Sequence[ImageRef] | None) -> bytes:
    """Encode a result. Raises FrameError."""
    if refs is None:
        if pipeline_id == go.pipeline_id:
            return encode_forwarded(go.batch_id)
        refs = [image.ref for image in go.images]
    return encode_done(go.batch_id, pipeline_id, refs)


def _failed(code: int, reason: str) -> bytes:
    text = clip(reason, REASON_LIMIT_BYTES)
    with contextlib.suppress(OSError, ValueError):
        sys.stderr.write(f"{text or f'gave up with code {code}'}\n")
    return encode_frame(ModuleFailed(code=code, reason=text))


def _raised(error: BaseException, path: str) -> bytes:
    lines = [at for frame, at in traceback.walk_tb(error.__traceback__) if _file(frame) == path]
    report = ModuleRaised(
        exception=clip(type(error).__name__, 64),
        line=lines[-1] if lines else 0,
        reason=clip(str(error), REASON_LIMIT_BYTES),
    )
    return encode_frame(report)


def _file(frame: object) -> str:
    code = getattr(frame, "f_code", None)
    return str(getattr(code, "co_filename", ""))


def _exit_status(error: SystemExit) -> int:
    """Return what the interpreter would exit with."""
    if error.code is None:
        return 0
    return error.code & 0xFF if isinstance(error.code, int) else 1
