"""A batch through all stages of a chain: run, then bury everybody, then say how it went.

Driver; runs in the host. Theory of operation: a stage's result is accepted as soon as it is there
and the next child, which usually stands by, gets its order. While a stage runs, the child of the
next one is forked if none stands by. When the chain has ended, all children are killed together,
buried and judged; of several that went wrong the first in the chain counts.
Source: performance.md 2, dipp.md 10.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dipp.batch import encode_batch, split_blocks
from dipp.errors import Code, ContentError
from dipp.metadata import Metadata
from dipp.runner.arena import ArenaPool, read_range, segment_size
from dipp.runner.execution import Execution
from dipp.runner.loader import LoadedModule, StandIn
from dipp.runner.outcome import ref_of
from dipp.runner.pool import Spawner, StandbyPool
from dipp.runner.protocol import BatchDone, RunBatch, decode_frame, encode_frame
from dipp.runner.stage import BatchState, Stage
from dipp.runner.validate import check_images
from dipp.runner.values import CrashRecord, StageStats
from dipp.runner.wait import sweep_orphans, sweep_sysv_segments

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


class ChainRunner:
    """Runs batches, one at a time. `show` gets the position of the module that runs."""

    def __init__(self, spawner: Spawner, pool: StandbyPool, show: Callable[[int], None]) -> None:
        self._modules: Sequence[LoadedModule] = spawner.modules
        self._arenas: ArenaPool = spawner.arenas
        self._spawner = spawner
        self._pool = pool
        self._show = show
        self._stages: list[Stage] = []
        self._has_namespace = spawner.forks.can_tell
        self._expected_s = [0.0] * len(self._modules)

    def run(self, order: RunBatch, pipeline_id: int, input_fd: int) -> ChainResult:
        """Run a batch. Raises StuckChildError."""
        started = time.monotonic()
        stages = self._stages = []
        try:
            state: BatchState | None = _first_state(order, pipeline_id, input_fd)
        except ContentError as error:
            # Whoever owns the input has changed it since the node looked.
            crash = CrashRecord(
                code=Code.BATCH_INVALID,
                pipeline=pipeline_id,
                batch_id=order.batch_id,
                last_log=str(error),
            )
            return ChainResult(crash=crash)
        for position, module in enumerate(self._modules):
            # An empty batch is legal and ends the chain early. Source: aurora.md 3.
            if state is None or not state.images:
                break
            self._show(module.step.index)
            stage = Stage(module=module, before=state)
            stages.append(stage)
            self._execute(stage, position)
            state = stage.after
        latency_s = time.monotonic() - started
        self._bury(stages)
        failed = next((stage for stage in stages if stage.code != Code.OK), None)
        return ChainResult(
            state=None if failed else state,
            stages=tuple(stage.stats() for stage in stages),
            crash=failed.crash() if failed else None,
            log=failed.log() if failed else "",
            latency_s=latency_s,
        )

    def _execute(self, stage: Stage, position: int) -> None:
        try:
            execution = self._order(stage, position)
            # Instead of waiting idly; if it does not work out, the next stage tries again.
            self._pool.prepare(position + 1)
            self._finish(stage)
            while execution.has_died_waiting:
                self._pool.mourn(position, execution)
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
        execution = self._pool.take(position)
        while execution is not None:
            if stage.begin(execution, self._arenas, expected_s):
                return execution
            self._pool.mourn(position, execution)
            execution = self._pool.take(position)
        execution = self._spawner.spawn(position)
        # One that dies this early is judged like any other.
        stage.begin(execution, self._arenas, expected_s)
        return execution

    def _finish(self, stage: Stage) -> None:
        stage.finish()
        if self._has_namespace and not self._spawner.forks.is_quiet:
            # It has started something, which shall not see the next stage.
            stage.end()
            stage.settle()
            self._sweep(stage)

    def rehearse(self) -> None:
        """Take a batch of one byte through a child that does nothing. Raises OSError.

        Forking has made this process share its memory with its children: what it touches first, it
        copies, and that shall not happen while a batch waits.
        """
        image = encode_batch([(Metadata(width=1, height=1, channels=1, bits_pixel=8), b"\0")])
        fd = os.memfd_create("dipp-rehearsal", os.MFD_CLOEXEC)
        try:
            os.write(fd, image)
            (block,) = split_blocks(image, 1, len(image))
            order = encode_frame(RunBatch(batch_id=0, images=(ref_of(block),)))
            before = _first_state(decode_frame(order, (RunBatch,)), 0, fd)
            stage = Stage(module=StandIn(), before=before)
            self._stages = [stage]
            try:
                stage.begin(
                    self._spawner.spawn(0, stage.module, rehearses=False), self._arenas, 0.0
                )
                self._finish(stage)
            finally:
                self._bury(self._stages)
            done = BatchDone(
                batch_id=0, images=(), arenas=0, stages=(stage.stats(),), rss_kb=0, latency_s=0.0
            )
            encode_frame(done)
        finally:
            os.close(fd)

    def _bury(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            stage.end()
        for stage in stages:
            stage.settle()
        if stages:
            # Where there is no namespace this is the only look, and cannot tell whose they were.
            self._sweep(stages[-1])
        for stage in stages:
            if stage.execution is not None:
                stage.execution.close()
                self._spawner.take_back(stage.execution.outfit.directory)

    def _sweep(self, last: Stage) -> None:
        """Kill what modules left running, and charge a stage with it."""
        forks = self._spawner.forks
        if forks.is_quiet:
            return
        held = {stage.execution.pid for stage in self._stages if stage.execution is not None}
        orphans = sweep_orphans(self._pool.pids() | held)
        last.orphans += len(orphans)
        if orphans:
            last.leaked_segments += sum(sweep_sysv_segments(orphans).values())
        forks.settle()


def _first_state(order: RunBatch, pipeline_id: int, input_fd: int) -> BatchState:
    size = segment_size(input_fd)
    found = check_images(
        order.images, (size,), lambda place: read_range(input_fd, place), order.images
    )
    return BatchState(
        batch_id=order.batch_id,
        pipeline_id=pipeline_id,
        images=order.images,
        segments=(input_fd,),
        sizes=(size,),
        known={ref.meta: each for ref, each in zip(order.images, found, strict=True)},
    )
