"""Serve the batch queue as `pipeline_run` says.

Theory of operation: one task at most takes batches. A write to `pipeline_run` starts it; while it
runs, 0 asks it to end after the batches it has taken and other values are ignored; when it ends it
writes 0 itself, which is what flight plans wait for. Up to `workers` batches are under way at a
time; no further one is taken from the queue while their memory exceeds a budget, so a camera that
is too fast meets a full queue and not a board without memory. Batches left open by a kill come
first, at boot, without being asked. A mode that waits never ends because the queue is gone: the
queue is made anew.
Source: dipp.md 9, defects D3, D6, D20, D27.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import Any

from csp.loop import Loop
from csp.param.table import Parameter, ParamTable
from csp.sched import Promise, Task
from dipp.errors import Code, status_word
from dipp.inflight import InFlight
from dipp.intake import Empty, Intake, Taken
from dipp.journal import Journal
from dipp.params import LOG_STATUS, PIPELINE_RUN, Telemetry
from dipp.processing import Processor
from dipp.records import Kind, Record

# A message wakes the worker at once; this bounds how long an unlinked queue goes unnoticed.
_POLL_S = 1.0
# Fits three batches of eight raw frames and what their modules make of them.
DEFAULT_BUDGET_BYTES = 768 << 20
MODE_STOP, MODE_ONE, MODE_ALL, MODE_WAIT_ONE, MODE_WAIT_ALL = range(5)


def mode_takes_all(mode: int) -> bool:
    """Say whether a value of `pipeline_run` means more than one batch; also for 5 and above."""
    return mode % 2 == 0


def mode_waits(mode: int) -> bool:
    """Say whether a value of `pipeline_run` means to wait for batches; also for 5 and above."""
    return mode > MODE_ALL


class Worker:
    """The task behind `pipeline_run`."""

    def __init__(
        self,
        loop: Loop,
        *,
        table: ParamTable,
        telemetry: Telemetry,
        intake: Intake,
        journal: Journal,
        processor: Processor,
        workers: Callable[[], int] = lambda: 1,
        budget_bytes: Callable[[], int] = lambda: DEFAULT_BUDGET_BYTES,
    ) -> None:
        self._loop = loop
        self._table = table
        self._run = table[PIPELINE_RUN]
        self._telemetry = telemetry
        self._intake = intake
        self._journal = journal
        self._processor = processor
        self._in_flight = InFlight(
            loop.scheduler, processor.process, limit=workers, budget_bytes=budget_bytes
        )
        self._task: Task[None] | None = None
        self._stopping = False
        self._recovering = False
        # Written while batches of the last run are still being settled.
        self._next_mode = MODE_STOP
        self._wake: Promise[None] = Promise()
        table.on_write(PIPELINE_RUN, self._on_write)

    @property
    def is_busy(self) -> bool:
        """Say whether the task runs."""
        return self._task is not None

    @property
    def is_idle(self) -> bool:
        """Say whether no batch is being processed; the task may be waiting for one."""
        return not self._telemetry.get("batch_running")

    def limits_changed(self) -> None:
        """Look again whether another batch may be taken."""
        self._in_flight.wake()

    def recover(self) -> None:
        """Start to settle what a kill left open, if there is anything."""
        landed = self._intake.recover()
        if landed is not None and landed.batch <= self._journal.state.last_batch:
            self._intake.release()
            landed = None
        if landed is not None or self._processor.open_batches:
            # Shown as busy, so that a flight plan does not think the last run is over.
            self._run.set(MODE_ONE)
            self._recovering = True
            self._start(self._recover(landed))

    def stop(self) -> None:
        """End after the batches that have been taken."""
        self._stopping = True
        self._next_mode = MODE_STOP
        self._wake.resolve(None)

    async def stopped(self) -> None:
        """Wait until the task has ended."""
        if self._task is not None:
            await self._task

    def abandon(self) -> None:
        """End now, in the middle of a batch if need be; the journal knows where."""
        self.stop()
        if self._task is not None:
            self._task.cancel()
        self._in_flight.cancel()

    def _on_write(self, parameter: Parameter, index: int) -> None:
        mode = int(parameter.get())
        if mode == MODE_STOP:
            if self.is_busy:
                self.stop()
            return
        if not self.is_busy:
            self._start(self._serve(mode))
        elif self._recovering and self._next_mode == MODE_STOP:
            self._next_mode = mode

    def _start(self, coro: Coroutine[Any, Any, None]) -> None:
        self._stopping = False
        self._task = self._loop.scheduler.spawn_background(coro, "worker")
        self._task.on_done(self._on_end)

    def _on_end(self) -> None:
        self._task = None
        mode, self._next_mode = self._next_mode, MODE_STOP
        if mode != MODE_STOP:
            self._start(self._serve(mode))
            return
        self._run.set(MODE_STOP)

    async def _recover(self, landed: Taken | None) -> None:
        try:
            if landed is not None:
                await self._settle(landed)
                await self._in_flight.drained()
            for number in self._processor.open_batches:
                await self._processor.process(number)
        finally:
            self._recovering = False

    async def _serve(self, mode: int) -> None:
        # Left open only if a run ended by a fault of our own; then first things first.
        for number in self._processor.open_batches:
            await self._processor.process(number)
        await self._take_batches(mode)
        await self._in_flight.drained()

    async def _take_batches(self, mode: int) -> None:
        while not self._stopping:
            await self._in_flight.room()
            if self._stopping:
                return
            taken = self._intake.take(self._journal.state.last_batch + 1)
            self._telemetry.put("queue_recreated", self._intake.recreated)
            if isinstance(taken, Empty):
                if not mode_waits(mode) and len(self._in_flight):
                    # More may have come by the time these have ended.
                    await self._in_flight.drained()
                    continue
                self._report(taken, mode)
                if not mode_waits(mode):
                    return
                await self._message()
                continue
            if await self._settle(taken) and not mode_takes_all(mode):
                return
            # The bus gets its turn between batches.
            await self._loop.scheduler.sleep(0)

    def _report(self, empty: Empty, mode: int) -> None:
        if empty is Empty.NO_QUEUE:
            self._log(Code.QUEUE_NOT_FOUND)
        elif mode == MODE_ONE:
            self._log(Code.QUEUE_EMPTY)

    def _log(self, code: Code) -> None:
        self._table[LOG_STATUS].set(status_word(code))

    async def _settle(self, taken: Taken) -> bool:
        """Record a message and begin with its batch; say whether it was one."""
        if taken.message is None:
            self._telemetry.count("bad_messages")
            self._log(Code.MESSAGE_INVALID)
            self._intake.release()
            return False
        self._processor.expect(taken.message)
        record = Record(kind=Kind.TAKEN, batch=taken.batch, message=taken.body)
        try:
            self._journal.append(record)
        except OSError:
            # Not released: the message stays in the landing file until it can be recorded.
            self._telemetry.count("storage_errors")
            self._log(Code.STORE_FAILED)
            await self._pause()
            return False
        self._intake.release()
        self._in_flight.start(taken.batch, taken.message.batch_size)
        return True

    async def _message(self) -> None:
        """Wait for the queue to become readable, for `stop`, or a while."""
        fd = self._intake.fd
        if fd is None:
            await self._pause()
            return
        self._loop.add_reader(fd, lambda: self._wake.resolve(None))
        try:
            await self._pause()
        finally:
            self._loop.remove_reader(fd)

    async def _pause(self) -> None:
        """Wait until somebody resolves `_wake`, at most a while."""
        if self._stopping:
            return
        self._wake = Promise()
        timer = self._loop.scheduler.call_later(_POLL_S, lambda: self._wake.resolve(None))
        try:
            await self._wake
        finally:
            timer.cancel()
