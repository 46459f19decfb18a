"""One stage of a chain in the host: order a child, accept its result, account for it afterwards.

Driver. A result is accepted at once, so that the next stage can begin; the child is buried when the
chain has ended, and only then is known how it ended and what it cost. The batch that goes in is
never changed; what comes out is a new state. Source: dipp.md 10 and 11, performance.md 2.
"""

from __future__ import annotations

import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from dipp.errors import Code, ContentError
from dipp.metadata import Metadata
from dipp.runner.arena import ROTATING, ArenaPool, read_range
from dipp.runner.execution import Execution
from dipp.runner.frames import (
    ANNOUNCED,
    BY_DESCRIPTOR,
    UNUSED,
    Go,
    ModuleDone,
    ModuleFailed,
    ModuleForwarded,
    ModuleRaised,
)
from dipp.runner.hotframes import encode_go
from dipp.runner.loader import LoadedModule
from dipp.runner.native import batch_size, create_segment, give_segment, remove_segment
from dipp.runner.validate import check_images
from dipp.runner.values import CrashRecord, StageStats
from dipp.runner.verdict import judge
from dipp.runner.wait import sweep_sysv_segments
from dipp.sandbox.faultline import FAULT_SIGNALS, fault_address, fault_line, first_line
from dipp.sandbox.gear import User
from dipp.sandbox.ladder import reason_of
from dipp.workspace import ImageRef, SeenImage, SegmentRange

# The end of a process costs about a millisecond. A module that runs for longer than this may end at
# once, beside the next stage, and give its memory back; others stay until the chain has ended.
HOLD_BELOW_S = 0.005
# With much memory in use, that of those who are done is better given back.
LARGE_BYTES, _HOLD_LARGE_BELOW_S = 16 << 20, 0.001
# A module that is done sooner gains nothing from other processors.
_BRIEF_S = 0.0003
_SPIN_S = 2 * _BRIEF_S
# Since its order; then a child that was killed is not waited for in idleness any more.
_LONG_DEAD_S = 60.0


@dataclass(slots=True, kw_only=True, eq=False)
class BatchState:
    """A batch between two modules: images and the segments they lie in, as descriptors.

    Segment 0 is the input, the others are arenas of the pool; nothing here owns them. `sizes` are
    those of the segments in bytes, `known` the metadata by where they lie. `uses_input` tells
    whether an image still lies in the input. Never changed, but not frozen: to make that is too
    slow for something made for every module.
    """

    batch_id: int
    pipeline_id: int
    images: tuple[ImageRef, ...]
    segments: tuple[int, ...]
    sizes: tuple[int, ...]
    # Device and inode of the input.
    input: tuple[int, int]
    known: Mapping[SegmentRange, Metadata]
    # Bytes of pixels.
    size_bytes: int
    uses_input: bool = True
    # A batch that modules pass on as it is gets the same order at every stage.
    orders: dict[tuple[object, ...], bytes] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True, eq=False)
class Stage:
    """A stage that has been run: its child is not buried yet. `after` is None if it failed."""

    module: LoadedModule
    before: BatchState
    # Whom the module runs as, if not as the host.
    user: User | None = None
    after: BatchState | None = None
    execution: Execution | None = None
    shmid: int = -1
    code: int = Code.OK
    orphans: int = 0
    leaked_segments: int = 0
    refusal: str = ""
    _arena: int = field(default=-1, init=False)
    _arena_bytes: int = field(default=0, init=False)
    _is_settled: bool = field(default=False, init=False)
    _is_brief: bool = field(default=False, init=False)

    def begin(self, execution: Execution, arenas: ArenaPool, expected_s: float) -> bool:
        """Give the order; `finish` waits. False if the child is dead already. Raises OSError."""
        self.execution = execution
        before = self.before
        own = arenas.rotating[execution.birth.own]
        is_fresh = not arenas.is_free(own, before.segments)
        if is_fresh:
            own = arenas.spare(before.segments)
        numbers, fds = _places(before, arenas, execution.announced)
        if self.module.is_native and self.shmid < 0:
            self.shmid = _flown_segment(before, self.user)
        is_large = before.size_bytes >= LARGE_BYTES
        hold = expected_s < (_HOLD_LARGE_BELOW_S if is_large else HOLD_BELOW_S)
        # What has never run may want all processors.
        is_brief = self._is_brief = 0 < expected_s < _BRIEF_S
        key = (numbers, is_fresh, hold, is_brief, self.shmid)
        order = before.orders.get(key)
        if order is None:
            known = before.known
            seen = tuple([SeenImage.of(ref, known[ref.meta]) for ref in before.images])
            go = Go(before.batch_id, before.pipeline_id, seen, *key)
            order = before.orders[key] = encode_go(go)
        self._arena, self._arena_bytes = own.fd, arenas.size_bytes
        try:
            execution.order(order, [*fds, own.fd] if is_fresh else fds)
        except ConnectionError:
            return False
        return True

    @property
    def has_died_waiting(self) -> bool:
        """Say whether the child died before it looked at the order: another one has to do it."""
        return self.execution is not None and self.execution.has_died_waiting

    def finish(self) -> None:
        """Wait for the result and accept it, or not."""
        execution = self.execution
        if execution is None:
            return
        execution.watch(_SPIN_S if self._is_brief and execution.is_awake else 0.0)
        if execution.has_result:
            try:
                self.after = self._accept(execution.frames[0])
            except ContentError as error:
                self.code = Code.RESULT_INVALID
                execution.log.add(f"\n{error}\n".encode())

    def _accept(self, done: object) -> BatchState:
        """Check a result and return it as the next state. Raises ContentError."""
        state = self.before
        if isinstance(done, ModuleForwarded) and done.batch_id == state.batch_id:
            return state
        if not isinstance(done, ModuleDone):
            raise ContentError("no result")
        if (done.batch_id, done.pipeline_id) != (state.batch_id, state.pipeline_id):
            raise ContentError(
                f"result is for batch {done.batch_id} of pipeline {done.pipeline_id}"
            )
        if done.images == state.images:
            return state
        segments = (*state.segments, self._arena)

        def read(place: SegmentRange) -> bytes:
            return read_range(segments[place.segment], place)

        sizes = (*state.sizes, self._arena_bytes)
        metadata = check_images(done.images, sizes, read, state.images, state.known)
        return _next_state(state, done.images, segments, sizes, metadata)

    @property
    def can_be_left(self) -> bool:
        """Say whether nothing that its child's end could tell would change the verdict."""
        if self.code != Code.OK:
            return False
        if self._is_settled or self.execution is None:
            return True
        return not self.module.is_native and self.execution.can_be_left

    def take_stock(self) -> None:
        """Account for the child as it is; settle at once what has ended or is about to."""
        execution = self.execution
        if execution is None or self._is_settled:
            return
        if execution.has_exited or not execution.take_stock():
            self.settle()

    @property
    def is_settled(self) -> bool:
        """Say whether there is no child that has to be ended and buried."""
        return self._is_settled or self.execution is None

    @property
    def is_dead(self) -> bool:
        """Say whether its child has ended and waits to be buried, or should have by now."""
        execution = self.execution
        return execution is None or execution.has_exited or execution.age_s > _LONG_DEAD_S

    def end(self) -> None:
        """Kill the child if it still lives; `settle` must follow."""
        if self.execution is not None and not self._is_settled:
            self.execution.kill()

    def settle(self) -> None:
        """Bury the child and judge how it ended. Raises StuckChildError."""
        execution = self.execution
        if execution is None or self._is_settled:
            return
        self._is_settled = True
        execution.await_death()
        # Before it is reaped: the creator's number still means this child.
        self.leaked_segments = sweep_sysv_segments((execution.pid,))[execution.pid]
        execution.bury()
        if self.shmid >= 0:
            remove_segment(self.shmid)
            self.shmid = -1
        if self.code == Code.OK:
            self.code = judge(execution.ending, execution.frames)

    def stats(self) -> StageStats:
        """Return what it cost, after `settle`."""
        execution = self.execution
        if execution is None:
            return StageStats(name=self.module.step.name)
        return StageStats(
            name=self.module.step.name,
            wall_s=execution.wall_s,
            cpu_s=execution.cpu_s,
            peak_rss_kb=execution.burial.peak_rss_kb,
            bytes_in=self.before.size_bytes,
            bytes_out=self.after.size_bytes if self.after and self.code == Code.OK else 0,
            pid=execution.outer_pid,
            orphans=self.orphans,
            leaked_segments=self.leaked_segments,
            log_bytes=execution.log.total_bytes,
        )

    def crash(self) -> CrashRecord:
        """Say how it failed, after `settle`."""
        step, execution = self.module.step, self.execution
        record = CrashRecord(
            code=self.code,
            pipeline=self.before.pipeline_id,
            module=step.index,
            name=step.name,
            batch_id=self.before.batch_id,
            module_hash=module_hash(step.sha256),
            last_log=self.refusal,
        )
        return record if execution is None else _describe(record, execution)

    def log(self) -> str:
        """Return the end of what it printed."""
        return self.refusal if self.execution is None else self.execution.log.text()

    def refuse(self, error: OSError) -> None:
        """No process, descriptor or directory to be had: the batch fails, the host lives."""
        self.code = Code.PIPE_CREATE
        self.refusal = f"no process for {self.module.step.name}: {reason_of(error)}"


def _places(
    state: BatchState, arenas: ArenaPool, announced: tuple[int, int] | None
) -> tuple[tuple[int, ...], list[int]]:
    """Say for each segment which arena it is, and which have to be passed."""
    numbers, fds = [], []
    for fd in state.segments:
        arena = arenas.find(fd)
        if arena is not None and arena.number < ROTATING:
            numbers.append(arena.number)
        elif arena is None and not state.uses_input:
            numbers.append(UNUSED)
        elif arena is None and state.input == announced:
            numbers.append(ANNOUNCED)
        else:
            numbers.append(BY_DESCRIPTOR)
            fds.append(fd if arena is None else arena.read_fd)
    return tuple(numbers), fds


def _next_state(
    before: BatchState,
    images: tuple[ImageRef, ...],
    segments: tuple[int, ...],
    sizes: tuple[int, ...],
    metadata: Sequence[Metadata],
) -> BatchState:
    """Return the state without segments that no image lies in; the input stays number 0."""
    used, size_bytes = {0}, 0
    uses_input = False
    for meta, pixels in images:
        used.add(meta.segment)
        used.add(pixels.segment)
        uses_input = uses_input or meta.segment == 0 or pixels.segment == 0
        size_bytes += pixels.length
    if len(used) < len(segments):
        kept = sorted(used)
        number = {old: new for new, old in enumerate(kept)}
        images = tuple([_moved(image, number) for image in images])
        segments = tuple([segments[i] for i in kept])
        sizes = tuple([sizes[i] for i in kept])
    return BatchState(
        batch_id=before.batch_id,
        pipeline_id=before.pipeline_id,
        images=images,
        segments=segments,
        sizes=sizes,
        input=before.input,
        known={ref.meta: each for ref, each in zip(images, metadata, strict=True)},
        size_bytes=size_bytes,
        uses_input=uses_input,
    )


def _moved(image: ImageRef, number: Mapping[int, int]) -> ImageRef:
    meta, pixels = image
    return ImageRef(
        SegmentRange(number[meta.segment], meta.offset, meta.length),
        SegmentRange(number[pixels.segment], pixels.offset, pixels.length),
    )


def _flown_segment(state: BatchState, user: User | None) -> int:
    """Make the System V segment for native code; the child fills it. Raises OSError."""
    shmid = create_segment(batch_size(state.images))
    try:
        if user is not None:
            give_segment(shmid, user.uid, user.gid)
    except OSError:
        remove_segment(shmid)
        raise
    return shmid


def _describe(record: CrashRecord, execution: Execution) -> CrashRecord:
    frame = execution.frames[0] if execution.frames else None
    burial = execution.burial
    died_of = execution.ending.signal if record.code == Code.SIGNAL else 0
    exception, line, address = "", 0, None
    if isinstance(frame, ModuleRaised):
        exception, line = frame.exception, frame.line
    elif died_of:
        exception = _signal_name(died_of)
        log = execution.log.text()
        line = fault_line(log, execution.module.step.path) or first_line(log)
        if died_of in FAULT_SIGNALS:
            address = fault_address(log)
    reason = frame.reason if isinstance(frame, ModuleFailed | ModuleRaised) else ""
    return replace(
        record,
        signal=died_of,
        exit_status=burial.status,
        exception=exception,
        line=line,
        fault_address=address,
        peak_rss_kb=burial.peak_rss_kb,
        cpu_ms=round(execution.cpu_s * 1000),
        wall_ms=round(execution.wall_s * 1000),
        last_log=execution.log.last_line() or reason,
    )


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
