"""One stage of a chain in the host: prepare, execute, judge, validate, account.

Driver. The batch that goes in is never changed; what comes out is a new state or a crash record.
Source: dipp.md 10 and 11.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace

from dipp.errors import Code, ContentError
from dipp.runner.arena import create_arena, freeze_arena, read_range, segment_size
from dipp.runner.channel import close_fds
from dipp.runner.execution import Execution
from dipp.runner.loader import LoadedModule
from dipp.runner.native import batch_size, create_segment, give_segment, remove_segment
from dipp.runner.protocol import Go, ModuleDone, ModuleFailed, ModuleRaised
from dipp.runner.validate import check_images
from dipp.runner.values import CrashRecord, Policy, StageStats
from dipp.runner.verdict import judge
from dipp.sandbox.gear import Gear, User
from dipp.sandbox.ladder import reason_of
from dipp.workspace import ImageRef, SegmentRange

_FAULT_LINE = re.compile(r'File "[^"\n]*", line (\d+) in')


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchState:
    """A batch between two modules: images and the segments they lie in, as descriptors.

    Segment 0 is the input and belongs to somebody else; the others belong to the state.
    """

    batch_id: int
    pipeline_id: int
    images: tuple[ImageRef, ...]
    segments: tuple[int, ...]

    @property
    def size_bytes(self) -> int:
        """Bytes of pixels."""
        return sum(image.pixels.length for image in self.images)

    def close(self) -> None:
        """Release the arenas."""
        close_fds(self.segments[1:])


@dataclass(frozen=True, slots=True, kw_only=True)
class StageResult:
    """`state` if it went well, else `crash` and the end of the log."""

    stats: StageStats
    state: BatchState | None = None
    crash: CrashRecord | None = None
    log: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class StageRunner:
    """Runs modules in one-shot children, which are ended when `control_fd` is hung up."""

    policy: Policy
    gear: Gear
    scratch_root: str
    control_fd: int

    def run(self, module: LoadedModule, state: BatchState) -> StageResult:
        """Execute one module. Raises StuckChildError.

        Takes over the state's arenas: those that are still needed are in the new state, the rest
        is released, also on failure.
        """
        try:
            arena = create_arena(self.policy.arena_bytes)
        except OSError as error:
            state.close()
            return _refused(module, state, error)
        result: StageResult | None = None
        try:
            result = self._execute(module, state, arena)
        except OSError as error:
            # No fork, descriptor or directory to be had: the batch fails, the host lives.
            result = _refused(module, state, error)
        finally:
            kept = result.state.segments if result and result.state else ()
            close_fds([fd for fd in (*state.segments[1:], arena) if fd not in kept])
        return result

    def _execute(self, module: LoadedModule, state: BatchState, arena: int) -> StageResult:
        with (
            _scratch_directory(self.scratch_root, self.gear.user) as scratch,
            _flown_segment(module, state, self.gear.user) as shmid,
        ):
            execution = Execution(module, self.policy, self.gear)
            try:
                go = Go(
                    batch_id=state.batch_id,
                    pipeline_id=state.pipeline_id,
                    images=state.images,
                    segments=len(state.segments),
                    scratch=scratch,
                    shmid=shmid,
                )
                with contextlib.suppress(ConnectionError):
                    # A child that is dead already is judged like any other.
                    execution.order(go, (*state.segments, arena))
                    execution.watch(self.control_fd)
                code = judge(execution.end(), execution.frames)
                return _conclude(module, state, arena, execution, code)
            finally:
                execution.close()


def _conclude(
    module: LoadedModule, state: BatchState, arena: int, execution: Execution, code: int
) -> StageResult:
    stats = _stats(module, state, execution)
    if code == Code.OK:
        try:
            after = _accept(state, arena, execution.frames[0])
            return StageResult(stats=replace(stats, bytes_out=after.size_bytes), state=after)
        except ContentError as error:
            code = Code.RESULT_INVALID
            execution.log.add(f"\n{error}\n".encode())
    crash = _crash(module, state, execution, code)
    return StageResult(stats=stats, crash=crash, log=execution.log.text())


def _accept(state: BatchState, arena: int, done: object) -> BatchState:
    """Check a result and return it as the next state. Raises ContentError."""
    if not isinstance(done, ModuleDone):
        raise ContentError("no result")
    if (done.batch_id, done.pipeline_id) != (state.batch_id, state.pipeline_id):
        raise ContentError(f"result is for batch {done.batch_id} of pipeline {done.pipeline_id}")
    freeze_arena(arena)
    segments = (*state.segments, arena)
    sizes = [segment_size(fd) for fd in segments]

    def read(place: SegmentRange) -> bytes:
        return read_range(segments[place.segment], place)

    check_images(done.images, sizes, read, state.images)
    return _compact(replace(state, images=done.images, segments=segments))


def _compact(state: BatchState) -> BatchState:
    """Drop the segments that no image lies in; the input stays number 0."""
    used = {place.segment for ref in state.images for place in (ref.meta, ref.pixels)}
    kept = [index for index in range(len(state.segments)) if index == 0 or index in used]
    if len(kept) == len(state.segments):
        return state
    number = {old: new for new, old in enumerate(kept)}

    def move(place: SegmentRange) -> SegmentRange:
        return replace(place, segment=number[place.segment])

    images = tuple(ImageRef(meta=move(ref.meta), pixels=move(ref.pixels)) for ref in state.images)
    return replace(state, images=images, segments=tuple(state.segments[i] for i in kept))


def _stats(module: LoadedModule, state: BatchState, execution: Execution) -> StageStats:
    return StageStats(
        name=module.step.name,
        wall_s=execution.wall_s,
        cpu_s=execution.burial.cpu_s,
        peak_rss_kb=execution.burial.peak_rss_kb,
        bytes_in=state.size_bytes,
        pid=execution.outer_pid,
        orphans=execution.orphans,
        leaked_segments=execution.leaked_segments,
        log_bytes=execution.log.total_bytes,
    )


def _crash(module: LoadedModule, state: BatchState, execution: Execution, code: int) -> CrashRecord:
    frame = execution.frames[0] if execution.frames else None
    died_of = execution.burial.signal if code == Code.SIGNAL else 0
    exception, line = "", 0
    if isinstance(frame, ModuleRaised):
        exception, line = frame.exception, frame.line
    elif died_of:
        exception = _signal_name(died_of)
        found = _FAULT_LINE.search(execution.log.text())
        line = int(found.group(1)) if found else 0
    reason = frame.reason if isinstance(frame, ModuleFailed | ModuleRaised) else ""
    return CrashRecord(
        code=code,
        pipeline=state.pipeline_id,
        module=module.step.index,
        name=module.step.name,
        signal=died_of,
        exit_status=execution.burial.status,
        exception=exception,
        line=line,
        peak_rss_kb=execution.burial.peak_rss_kb,
        cpu_ms=round(execution.burial.cpu_s * 1000),
        wall_ms=round(execution.wall_s * 1000),
        batch_id=state.batch_id,
        module_hash=module_hash(module.step.sha256),
        last_log=execution.log.last_line() or reason,
    )


def _refused(module: LoadedModule, state: BatchState, error: OSError) -> StageResult:
    crash = CrashRecord(
        code=Code.PIPE_CREATE,
        pipeline=state.pipeline_id,
        module=module.step.index,
        name=module.step.name,
        batch_id=state.batch_id,
        module_hash=module_hash(module.step.sha256),
        last_log=f"no process for {module.step.name}: {reason_of(error)}",
    )
    return StageResult(stats=StageStats(name=module.step.name), crash=crash, log=str(error))


def module_hash(sha256: str) -> bytes:
    """Return the first eight bytes of a hash in hexadecimal; empty if it is not one."""
    try:
        return bytes.fromhex(sha256)[:8]
    except ValueError:
        return b""


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


@contextlib.contextmanager
def _flown_segment(module: LoadedModule, state: BatchState, user: User | None) -> Iterator[int]:
    """Give native code its System V segment; the child fills it, the host removes it."""
    if not module.is_native:
        yield -1
        return
    shmid = create_segment(batch_size(state.images))
    try:
        if user is not None:
            give_segment(shmid, user.uid, user.gid)
        yield shmid
    finally:
        remove_segment(shmid)


@contextlib.contextmanager
def _scratch_directory(root: str, user: User | None) -> Iterator[str]:
    path = tempfile.mkdtemp(prefix="stage-", dir=root)
    try:
        if user is not None:
            os.chown(path, user.uid, user.gid)
        yield path
    finally:
        # A tree too deep to remove stays in the host's directory, which the forge removes.
        with contextlib.suppress(RecursionError):
            shutil.rmtree(path, ignore_errors=True)
