"""Bring one batch from its queue message to its one fate.

Theory of operation: a batch is open in the journal from the moment it was taken. `process` runs its
chain and then either delivers all result images to the ring at once or keeps the original bytes
in the quarantine, records the fate and removes the input segment. Every step can be the last one
before a kill: `process` on a batch that is still open after a restart first looks whether the ring
head or the quarantine already shows the fate, then tries again from the original segment, which
nobody modifies, a limited number of times. The first error of a batch is the one reported.
Source: design.md 3 (fate rule), dipp.md 10, defects D4, D5, D8, D10, D11; fault 67.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from csp.sched import Scheduler
from dipp.batch import Reader, block_header, find_blocks
from dipp.errors import Code, ContentError, status_word
from dipp.journal import Journal
from dipp.message import BatchMessage, decode_message
from dipp.params import Telemetry
from dipp.policy.raw import Thumbnails
from dipp.policy.replay import load_entry
from dipp.quarantine import PIECE_BYTES, Quarantine, Verdict
from dipp.records import Fate, Kind, OpenBatch, Record
from dipp.results import BatchFailure, Note, Result, Runner, note_nothing, nothing, shifted, slices
from dipp.ring import Ring
from dipp.runner.executor import Failed, Job
from dipp.segment import OpenSegment, Segment, identify_segment, remove_segment
from dipp.slots import ModuleMissingError, Slots

# How long to wait before a failed journal write or a busy ring is tried again.
_RETRY_S = 0.5
# How often a shortage of descriptors, memory or disk is waited out before it counts.
_PATIENCE = 6
_RING_WAIT_S = 0.01


class Processor:
    """Owner of all fates, of several batches at a time. `note` hears start, stages and fate."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        journal: Journal,
        quarantine: Quarantine,
        ring: Ring,
        slots: Slots,
        runner: Runner,
        telemetry: Telemetry,
        log_status: Callable[[int], None],
        wall_unix: Callable[[], float],
        max_attempts: int = 2,
        note: Note = note_nothing,
        raw: Thumbnails | None = None,
    ) -> None:
        self._raw = raw
        self._active: set[int] = set()
        self._scheduler = scheduler
        self._note = note
        self._journal = journal
        self._quarantine = quarantine
        self._ring = ring
        self._slots = slots
        self._runner = runner
        self._telemetry = telemetry
        self._log_status = log_status
        self._wall_unix = wall_unix
        self._max_attempts = max_attempts

    # -- recovery

    def settle_deliveries(self) -> None:
        """Record the fate of batches that were committed just before a kill. Before anything else.

        Raises OSError if the journal cannot be written.
        """
        for batch in tuple(self._journal.state.open.values()):
            if batch.fate is not None:
                continue
            _, head_after, images = batch.delivering or (0, 0, 0)
            if images and head_after == self._ring.head:
                self._append_fate(batch.batch, Fate.DELIVERED, images=images)
            elif self._quarantine.holds(batch.batch):
                self._settle_quarantined(batch.batch)
            elif images:
                # Not committed, and told at once: a later append may bring the head there.
                self._journal.append(Record(kind=Kind.DELIVERING, batch=batch.batch))
        if self._raw is not None:
            self._raw.settle()
        self.publish()

    @property
    def open_batches(self) -> tuple[int, ...]:
        """Numbers of the batches that still need `process`, oldest first."""
        return tuple(sorted(self._journal.state.open.keys() - self._active))

    # -- one batch

    def expect(self, message: BatchMessage) -> None:
        """Have its host get ready while the journal is written; nothing else is done with it."""
        self._runner.alert(message.pipeline_id)

    async def process(self, number: int) -> None:
        """Give an open batch its fate and remove its segment."""
        self._active.add(number)
        try:
            await self._process(self._journal.state.open[number])
        finally:
            self._active.discard(number)

    async def _process(self, batch: OpenBatch) -> None:
        number = batch.batch
        if batch.fate is None and batch.is_discard:
            await self._finish(number, Fate.DROPPED, reason="deleted by the operator")
        elif batch.fate is None:
            message = decode_message(batch.message)
            self._running(+1)
            self._note(
                "start", batch=number, obid=message.obid, pipeline=message.pipeline_id,
                images=message.num_images, bytes=message.batch_size, attempt=batch.attempts + 1,
            )  # fmt: skip
            try:
                await self._run(batch, message)
            finally:
                self._running(-1)
        if self._raw is not None:
            await self._raw.make(number)
        self._clean(number)
        self.publish()

    def _running(self, step: int) -> None:
        self._telemetry.put("batch_running", self._telemetry.get("batch_running") + step)

    async def _run(self, batch: OpenBatch, message: BatchMessage) -> None:
        started = self._scheduler.now
        try:
            segment = await self._open(batch, message.segment)
        except ContentError as error:
            await self._fail(batch, BatchFailure(error.code, str(error)), None, 0)
            return
        try:
            await self._run_segment(batch, message, segment)
        finally:
            segment.close()
        self._telemetry.put("chain_wall", round((self._scheduler.now - started) * 1e6))

    async def _open(self, batch: OpenBatch, name: str) -> OpenSegment:
        """Open the input, with patience for a shortage of descriptors. Raises ContentError."""
        for _ in range(_PATIENCE):
            try:
                if batch.source:
                    entry = self._quarantine.open_replay(batch.batch)
                    return await load_entry(entry, self._scheduler)
                return Segment(name)
            except OSError:
                self._telemetry.count("storage_errors")
            await self._scheduler.sleep(_RETRY_S)
        if not batch.source:
            # Its fate comes now, so it must be known which one is to be removed.
            device, inode = identify_segment(name)
            await self._record(
                Record(kind=Kind.STARTED, batch=batch.batch, device=device, inode=inode)
            )
        raise ContentError(f"segment {name}: no resources to open it", Code.SHM_ATTACH)

    async def _run_segment(
        self, batch: OpenBatch, message: BatchMessage, segment: OpenSegment
    ) -> None:
        if batch.attempts > 0:
            self._telemetry.count("batch_replays")
        try:
            if batch.attempts >= self._max_attempts:
                reason = f"the node died {batch.attempts} times while it processed the batch"
                raise BatchFailure(Code.NODE_DIED, reason, message.pipeline_id)
            # It takes the disk longer to write the next record than a child to map the segment.
            self._runner.alert(message.pipeline_id, segment.fd)
            await self._record(
                Record(
                    kind=Kind.STARTED,
                    batch=batch.batch,
                    device=segment.device,
                    inode=segment.inode,
                )
            )
            await self._execute(batch, message, segment)
        except BatchFailure as failure:
            size = min(max(message.batch_size, 0), segment.size)
            await self._fail(batch, failure, segment, size)

    async def _execute(self, batch: OpenBatch, message: BatchMessage, segment: OpenSegment) -> None:
        pipeline = message.pipeline_id
        try:
            chain = self._slots.chain(pipeline)
            blocks = find_blocks(segment.read, segment.size, message.num_images, message.batch_size)
        except ModuleMissingError as error:
            raise BatchFailure(error.code, str(error), pipeline, error.module) from error
        except ContentError as error:
            raise BatchFailure(error.code, str(error)) from error
        except OSError as error:
            raise BatchFailure(Code.SHM_ATTACH, f"segment: {error}") from error
        if not chain.steps:
            results = [
                Result(
                    header=block_header(block.metadata),
                    size=block.pixel_size,
                    read=shifted(segment.read, block.pixel_offset),
                )
                for block in blocks
            ]
            await self._deliver(batch.batch, results)
            return
        job = Job(batch_id=batch.batch, chain=chain, segment_fd=segment.fd, blocks=blocks)
        started = self._scheduler.now
        outcome = await self._runner.submit(job)
        try:
            self._telemetry.put_stages(outcome.stages, self._scheduler.now - started)
            self._note(
                "stages",
                batch=batch.batch,
                stages=[[each.name, each.wall_s, each.cpu_s] for each in outcome.stages],
            )
            if isinstance(outcome, Failed):
                self._note_failure(pipeline, outcome)
                module, code = outcome.module_index, outcome.code
                raise BatchFailure(code, outcome.crash.last_log, pipeline, module)
            await self._deliver(
                batch.batch,
                [
                    Result(
                        header=block_header(metadata.replace(size=len(view))),
                        size=len(view),
                        read=slices(view),
                    )
                    for metadata, view in outcome.images
                ],
            )
        finally:
            outcome.close()

    def _note_failure(self, pipeline: int, outcome: Failed) -> None:
        if outcome.code == Code.MODULE_QUARANTINED:
            # Nothing ran; the records of what failed before are worth more than this one.
            return
        self._telemetry.count("module_failures")
        self._telemetry.add_crash(outcome.crash)
        # A failure invalidates: the next batch gets freshly loaded modules (dipp.md 12).
        self._slots.forget(pipeline)

    # -- delivered

    async def _deliver(self, number: int, results: Sequence[Result]) -> None:
        """Append all images to the ring as one change. Raises BatchFailure."""
        if not results:
            # Its own modules dropped every image: that is what they are for.
            await self._finish(number, Fate.DROPPED)
            return
        while self._ring.is_busy:
            await self._scheduler.sleep(_RING_WAIT_S)
        with self._ring.reserved():
            try:
                await self._append(number, results)
            except ContentError as error:
                raise BatchFailure(error.code, str(error)) from error
            except OSError as error:
                self._telemetry.count("storage_errors")
                raise BatchFailure(Code.STORE_FAILED, f"image ring: {error}") from error
            await self._finish(number, Fate.DELIVERED, images=len(results))

    async def _append(self, number: int, results: Sequence[Result]) -> None:
        ring = self._ring
        plan = ring.plan([len(result.header) + result.size for result in results])
        ring.begin(plan)
        try:
            position = 0
            for result in results:
                ring.write(plan, position, result.header)
                position += len(result.header)
                for start in range(0, result.size, PIECE_BYTES):
                    size = min(PIECE_BYTES, result.size - start)
                    piece = result.read(start, size)
                    if len(piece) < size:
                        raise ContentError("the segment shrank", Code.SEGMENT_TOO_SMALL)
                    ring.write(plan, position, piece)
                    position += size
                    if position % PIECE_BYTES < size and position < plan.size:
                        ring.sync()
                        await self._scheduler.sleep(0)
            await self._record(
                Record(
                    kind=Kind.DELIVERING,
                    batch=number,
                    head_before=plan.head_before,
                    head_after=plan.head_after,
                    images=len(results),
                )
            )
            ring.commit(plan)
        except OSError:
            # Written but not known to be durable is still visible, so it is delivered.
            if ring.head != plan.head_after:
                raise
        finally:
            ring.abandon()

    # -- quarantined or dropped

    async def _fail(
        self, batch: OpenBatch, failure: BatchFailure, segment: OpenSegment | None, size: int
    ) -> None:
        self._log_status(failure.status)
        verdict = Verdict(
            batch=batch.batch,
            status=failure.status,
            attempts=batch.attempts + 1,
            time_unix=self._wall_unix(),
            message=batch.message,
            reason=str(failure),
        )
        kept = await self._keep(verdict, size, segment.read if segment else nothing)
        fate = Fate.QUARANTINED if kept else Fate.DROPPED
        await self._finish(batch.batch, fate, status=failure.status, reason=str(failure))

    async def _keep(self, verdict: Verdict, size: int, read: Reader) -> bool:
        """Write a batch to the quarantine; False if there is no room or the disk stays broken."""
        for _ in range(_PATIENCE):
            try:
                for _ in self._quarantine.store(verdict, size, read):
                    await self._scheduler.sleep(0)
            except ContentError:
                self._telemetry.count("storage_errors")
                return False
            except OSError:
                self._telemetry.count("storage_errors")
                await self._scheduler.sleep(_RETRY_S)
            else:
                return True
        return False

    async def _finish(
        self, number: int, fate: Fate, *, images: int = 0, status: int = 0, reason: str = ""
    ) -> None:
        await self._record(
            Record(kind=Kind.FATE, batch=number, fate=fate, images=images, status=status)
        )
        self._note(
            "fate", batch=number, fate=fate.name.lower(), images=images, status=status,
            reason=reason,
        )  # fmt: skip
        self.publish()

    def _append_fate(self, number: int, fate: Fate, images: int = 0, status: int = 0) -> None:
        self._journal.append(
            Record(kind=Kind.FATE, batch=number, fate=fate, images=images, status=status)
        )

    def _settle_quarantined(self, number: int) -> None:
        try:
            status = self._quarantine.entry(number).verdict.status
        except (OSError, ContentError):
            status = status_word(Code.NODE_DIED)
        self._append_fate(number, Fate.QUARANTINED, status=status)

    def _clean(self, number: int) -> None:
        """Remove the input segment. An error here never hides the batch's own (D10)."""
        batch = self._journal.state.open[number]
        segment = decode_message(batch.message).segment
        remove_segment(segment, batch.device, batch.inode)
        try:
            self._quarantine.end_replay(number)
            self._journal.append(Record(kind=Kind.CLEANED, batch=number))
        except OSError:
            # It stays open with its fate; the next boot finds nothing left to remove.
            self._telemetry.count("storage_errors")

    async def _record(self, record: Record) -> None:
        """Write a record, however long it takes: without it the batch has no fate."""
        while True:
            try:
                self._journal.append(record)
                return
            except OSError:
                self._telemetry.count("storage_errors")
                self._log_status(status_word(Code.STORE_FAILED))
            await self._scheduler.sleep(_RETRY_S)

    def publish(self) -> None:
        """Copy what journal, quarantine and ring know into the parameter table."""
        totals, telemetry = self._journal.state.totals, self._telemetry
        telemetry.put("batches_taken", totals.taken)
        telemetry.put("batches_delivered", totals.delivered)
        telemetry.put("batches_quarantined", totals.quarantined)
        telemetry.put("batches_dropped", totals.dropped)
        telemetry.put("images_delivered", totals.images)
        telemetry.put("batch_id", self._journal.state.last_batch)
        telemetry.put("quarantine_count", self._quarantine.count)
        telemetry.put("quarantine_bytes", self._quarantine.bytes_used)
        telemetry.put("ring_count", self._ring.count)
        telemetry.put("ring_bytes", self._ring.used_bytes)
