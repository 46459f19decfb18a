"""A batch through all stages of a chain: run, then bury everybody, then say how it went.

Driver; runs in the host. Theory of operation: a stage's result is accepted as soon as it is there
and the next child, which usually stands by, gets its order. While a stage runs, the child of the
next one is forked if none stands by. When the chain has ended, all children are killed together,
buried and judged; of several that went wrong the first in the chain counts.
Source: performance.md 2, dipp.md 10.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from dipp.errors import Code, ContentError
from dipp.runner.arena import ArenaPool, read_range, segment_status
from dipp.runner.execution import Execution
from dipp.runner.frames import RunBatch
from dipp.runner.loader import LoadedModule
from dipp.runner.stage import LARGE_BYTES, BatchState, Stage
from dipp.runner.validate import check_images
from dipp.runner.values import CrashRecord, StageStats
from dipp.runner.wait import ForkWatch, sweep_orphans, sweep_sysv_segments
from dipp.sandbox.gear import User

# So many dead may wait to be buried; each has some descriptors.
_MOST_LEFT = 64
# How much the last run of a module counts in what is expected of the next.
_WEIGHT = 0.3


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainResult:
    """What became of a batch: `state`, or `crash` and the end of what the module printed."""

    state: BatchState | None = None
    stages: tuple[StageStats, ...] = ()
    crash: CrashRecord | None = None
    log: str = ""
    latency_s: float = 0.0


class Crew(Protocol):
    """Where children come from when none stands by, and where their directories go."""

    modules: Sequence[LoadedModule]
    arenas: ArenaPool
    forks: ForkWatch
    # Whom modules run as, if not as the host.
    user: User | None
    # Whether no child can make what would outlive it, other than processes.
    is_filtered: bool
    # How much a child shall have ready: the pixels of the largest state of the last batch.
    recent_bytes: int

    def spawn(self, position: int) -> Execution:
        """Fork a child for that stage. Raises OSError."""

    @property
    def staff(self) -> Collection[int]:
        """Numbers of processes that help, which are children of this one too."""

    def take_back(self, directory: str) -> None:
        """Use a scratch directory again, or remove it."""


class Reserve(Protocol):
    """Children that stand by."""

    def take(self, position: int) -> Execution | None:
        """Return one for that stage, if there is one."""

    def next_up(self, position: int) -> Execution | None:
        """Return the one that `take` would."""

    def prepare(self, position: int) -> None:
        """Have one for that stage soon; after the last comes the first one of the next batch."""

    def arrive(self) -> None:
        """Wait until everybody who has been asked for is there."""

    def mourn(self, position: int, execution: Execution) -> None:
        """Bury one that has died before it got its order."""

    def pids(self) -> set[int]:
        """Return the numbers of all."""


class ChainRunner:
    """Runs batches, one at a time. `show` gets the position of the module that runs."""

    def __init__(self, crew: Crew, reserve: Reserve, show: Callable[[int], None]) -> None:
        self._modules = crew.modules
        self._arenas = crew.arenas
        self._crew = crew
        self._reserve = reserve
        self._show = show
        self._stages: list[Stage] = []
        self._has_namespace = crew.forks.can_tell
        self._is_hurried = False
        # Of the last batch, not ended yet; ended, but not buried yet.
        self._leaving: list[Stage] = []
        self._left: list[Stage] = []
        self._expected_s = [0.0] * len(self._modules)

    def run(
        self, order: RunBatch, pipeline_id: int, input_fd: int, *, is_hurried: bool = False
    ) -> ChainResult:
        """Run a batch. Raises StuckChildError.

        In a hurry, because the next batch will follow at once, a child for that is forked beside
        the last module. If nothing more can be learned from how the children end, they are left for
        `dismiss` and `bury_dead`: whoever waits for the result need not wait for that.
        """
        self._is_hurried = is_hurried
        try:
            state = self.go_through(order, pipeline_id, input_fd)
        except ContentError as error:
            # Whoever owns the input has changed it since the node looked.
            crash = CrashRecord(
                code=Code.BATCH_INVALID,
                pipeline=pipeline_id,
                batch_id=order.batch_id,
                last_log=str(error),
            )
            return ChainResult(crash=crash)
        latency_s = time.monotonic() - order.sent_s
        stages = self._stages
        states = [stage.before for stage in stages] + ([state] if state else [])
        # Metadata lie in the same memory; what is missing is touched when it is needed.
        self._crew.recent_bytes = max((each.size_bytes for each in states), default=0)
        if state is None or not self._leave(stages):
            self._bury(stages)
        if self._crew.recent_bytes >= LARGE_BYTES:
            self.dismiss()
        # To let go of them takes longer than many a module; the next batch shall not wait for it.
        self._stages = []
        failed = next((stage for stage in stages if stage.code != Code.OK), None)
        return ChainResult(
            state=None if failed else state,
            stages=tuple(stage.stats() for stage in stages),
            crash=failed.crash() if failed else None,
            log=failed.log() if failed else "",
            latency_s=latency_s,
        )

    def announce(self, input_fd: int = -1) -> None:
        """Have the first child ready for a batch that comes soon, with its input if known."""
        first = self._reserve.next_up(0)
        if first is not None:
            first.alert(input_fd)

    def go_through(self, order: RunBatch, pipeline_id: int, input_fd: int) -> BatchState | None:
        """Run all stages; None if one failed. Their children are not buried yet.

        Raises ContentError for an input that is not what it was.
        """
        self._stages = []
        state: BatchState | None = _first_state(order, pipeline_id, input_fd)
        for position, module in enumerate(self._modules):
            # An empty batch is legal and ends the chain early. Source: aurora.md 3.
            if state is None or not state.images:
                break
            self._show(module.step.index)
            stage = Stage(module=module, before=state, user=self._crew.user)
            self._stages.append(stage)
            self._execute(stage, position)
            state = stage.after
        return state

    def _execute(self, stage: Stage, position: int) -> None:
        try:
            execution = self._order(stage, position)
            self._finish(stage)
            while stage.has_died_waiting:
                self._reserve.mourn(position, execution)
                execution = self._order(stage, position)
                self._finish(stage)
        except OSError as error:
            stage.refuse(error)
            return
        if stage.after is not None:
            seen_s = execution.wall_s
            before_s = self._expected_s[position] or seen_s
            self._expected_s[position] = before_s + _WEIGHT * (seen_s - before_s)

    def _order(self, stage: Stage, position: int) -> Execution:
        """Give the order to a child that stands by, or to a new one. Raises OSError."""
        expected_s = self._expected_s[position]
        standing = self._reserve.take(position)
        execution = standing or self._crew.spawn(position)
        # Asked for before this one may take the processor; if it does not work out, the next stage
        # tries again.
        if self._is_hurried or position + 1 < len(self._modules):
            self._reserve.prepare(position + 1)
        # One that is new and dies this early is judged like any other.
        while not stage.begin(execution, self._arenas, expected_s) and standing is not None:
            self._reserve.mourn(position, execution)
            standing = self._reserve.take(position)
            execution = standing or self._crew.spawn(position)
        return execution

    def _finish(self, stage: Stage) -> None:
        stage.finish()
        if stage.has_died_waiting:
            return
        # Whatever is forked by us must be known before anything else can be told from it.
        self._reserve.arrive()
        if self._has_namespace and not self._crew.forks.is_quiet:
            # It has started something, which shall not see the next stage.
            stage.end()
            stage.settle()
            self._sweep(stage)

    def _leave(self, stages: Sequence[Stage]) -> bool:
        """Leave the children to be ended later; False if their end could tell something."""
        crew, count = self._crew, len(self._left) + len(stages)
        # What has no filter may have left System V segments, to be charged to it.
        if count > _MOST_LEFT or not crew.is_filtered or not self._has_namespace:
            return False
        for stage in stages:
            stage.take_stock()
        if not crew.forks.is_quiet or not all(stage.can_be_left for stage in stages):
            return False
        for stage in stages:
            if stage.is_settled:
                self._close(stage)
            else:
                self._leaving.append(stage)
        return True

    def dismiss(self) -> None:
        """End the children of the last batch; must follow at once when its result has been told."""
        for stage in self._leaving:
            stage.end()
        self._left += self._leaving
        self._leaving = []

    @property
    def left_fds(self) -> list[int]:
        """Descriptors that become readable when there is somebody to bury."""
        return [stage.execution.pidfd for stage in self._left if stage.execution is not None]

    def bury_dead(self) -> None:
        """Bury those that have been left and are dead by now. Raises StuckChildError."""
        dead = [stage for stage in self._left if stage.is_dead]
        for stage in dead:
            self._left.remove(stage)
            stage.settle()
            self._close(stage)
        if dead and not self._left:
            # One of them may have started something in its last moments.
            self._reserve.arrive()
            self._sweep(dead[-1])

    def _close(self, stage: Stage) -> None:
        if stage.execution is not None:
            stage.execution.close()
            self._crew.take_back(stage.execution.birth.directory)

    def _bury(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            stage.end()
        for stage in stages:
            stage.settle()
        if stages:
            # Where there is no namespace this is the only look, and cannot tell whose they were.
            self._sweep(stages[-1])
        for stage in stages:
            self._close(stage)

    def _sweep(self, last: Stage) -> None:
        """Kill what modules left running, and charge a stage with it."""
        forks = self._crew.forks
        if forks.is_quiet:
            return
        stages = (*self._stages, *self._left)
        held = {stage.execution.pid for stage in stages if stage.execution is not None}
        orphans = sweep_orphans({*self._reserve.pids(), *self._crew.staff, *held})
        last.orphans += len(orphans)
        if orphans:
            last.leaked_segments += sum(sweep_sysv_segments(orphans).values())
        forks.settle()


def _first_state(order: RunBatch, pipeline_id: int, input_fd: int) -> BatchState:
    status = segment_status(input_fd)
    size = status.st_size
    found = check_images(
        order.images, (size,), lambda place: read_range(input_fd, place), order.images
    )
    return BatchState(
        batch_id=order.batch_id,
        pipeline_id=pipeline_id,
        images=order.images,
        segments=(input_fd,),
        input=(status.st_dev, status.st_ino),
        sizes=(size,),
        known={ref.meta: each for ref, each in zip(order.images, found, strict=True)},
        size_bytes=sum([image.pixels.length for image in order.images]),
    )
