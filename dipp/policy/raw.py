"""Thumbnails of images whose chain failed, so that ground sees what was lost.

Theory of operation: after a batch has failed and has its fate, its readable images go through a
shipped module in the process tree, like any chain but with a short deadline, and what comes out
goes to the image ring marked with batch and status. The journal follows each step and the ring head
before and after, as for a delivery: whenever the node is killed, the thumbnails are in the ring
once or, after too many deaths, not at all. A failure here is counted and ends it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from typing import Protocol

from csp.sched import Scheduler
from dipp.batch import MAX_IMAGES, ImageBlock, Reader, block_header, find_block
from dipp.errors import ContentError, MisuseError
from dipp.journal import Journal
from dipp.message import BatchMessage, decode_message
from dipp.metadata import INT32_MAX, Metadata
from dipp.modulefiles import ModuleLibrary
from dipp.params import Telemetry
from dipp.policy.replay import load_entry
from dipp.policy.settings import Settings
from dipp.quarantine import Quarantine
from dipp.records import Kind, OpenBatch, Raw, Record
from dipp.results import Note, Runner
from dipp.ring import Ring
from dipp.runner.outcome import Failed, Job
from dipp.runner.values import Chain, ModuleStep
from dipp.segment import OpenSegment, Segment
from dipp.workspace import ENCODING_ITEM

BATCH_ITEM, STATUS_ITEM = "raw_batch", "raw_status"
# Not a pipeline of the operator's; its host is one more that may be retired for room.
RAW_PIPELINE = 9
_MODULE = "thumbnail"
# Some 20 kB of a raw frame: half a second of downlink at a megabit.
_LONGER_SIDE = 128
_TIMEOUT_S = 5.0
# Ten times what a thumbnail has; more channels than any camera's would make it large.
_ELEMENT_LIMIT_BYTES = 256 << 10
# A batch of more is rare; its first images tell enough.
_IMAGES_LIMIT = 16
_ATTEMPTS = 2
_RETRY_S = 0.5
_RING_WAIT_S = 0.01


class Thumbnails(Protocol):
    """What becomes of the images of a failed batch; both do nothing for any other."""

    def settle(self) -> None:
        """Find, right after a start, what was in the ring before a kill. Raises OSError."""

    async def make(self, number: int) -> None:
        """Do what is to be done for a batch that has its fate. Never fails."""


def thumbnail_chain(library: ModuleLibrary) -> Chain:
    """Return the chain that makes thumbnails. Raises ContentError if its module is missing."""
    file = library.find(_MODULE)
    step = ModuleStep(
        index=1,
        name=_MODULE,
        path=str(file.path),
        sha256=file.sha256,
        params=(("max_size", _LONGER_SIDE), ("eight_bit", True)),
        timeout_s=_TIMEOUT_S,
    )
    return Chain(pipeline_id=RAW_PIPELINE, generation=1, steps=(step,))


def readable_blocks(read: Reader, size: int, num_images: int) -> tuple[ImageBlock, ...]:
    """Return the images that are plain rasters, up to the first that does not parse."""
    blocks: list[ImageBlock] = []
    offset = 0
    for index in range(min(max(num_images, 0), MAX_IMAGES)):
        try:
            block = find_block(read, offset, size, index)
        except ContentError:
            break
        offset = block.end
        if _is_raster(block.metadata):
            blocks.append(block)
        if len(blocks) == _IMAGES_LIMIT:
            break
    return tuple(blocks)


def _is_raster(metadata: Metadata) -> bool:
    samples = metadata.height * metadata.width * max(metadata.channels, 1)
    is_plain = metadata.item(ENCODING_ITEM) is None
    return is_plain and samples > 0 and metadata.size in (samples, 2 * samples, 4 * samples)


class RawFallback:
    """Makes the thumbnails of failed batches. Several batches may be here at the same time."""

    def __init__(
        self,
        scheduler: Scheduler,
        *,
        journal: Journal,
        quarantine: Quarantine,
        ring: Ring,
        runner: Runner,
        chain: Callable[[], Chain],
        settings: Settings,
        telemetry: Telemetry,
        note: Note,
    ) -> None:
        self._scheduler = scheduler
        self._journal = journal
        self._quarantine = quarantine
        self._ring = ring
        self._runner = runner
        self._chain = chain
        self._settings = settings
        self._telemetry = telemetry
        self._note = note

    def settle(self) -> None:
        """Find, right after a start, what was in the ring before a kill. Raises OSError."""
        for batch in tuple(self._journal.state.open.values()):
            if batch.raw_plan is None:
                continue
            _, head_after, images = batch.raw_plan
            # Told at once in either case: the heads mean nothing after the next append.
            if head_after == self._ring.head:
                self._journal.append(_record(batch.batch, Raw.DONE, images=images))
            else:
                self._journal.append(_record(batch.batch, Raw.NONE))

    async def make(self, number: int) -> None:
        """Do what is to be done for a batch that has its fate. Never fails."""
        batch = self._journal.state.open[number]
        is_due = batch.status != 0 and batch.raw is not Raw.DONE
        if not is_due or not self._settings.wants_thumbnails:
            return
        elements: Sequence[bytes] = ()
        try:
            if batch.raw_attempts < _ATTEMPTS:
                self._journal.append(_record(number, Raw.STARTED))
                elements = await self._draw(batch)
        except (OSError, ContentError, MisuseError) as error:
            self._note("raw_failed", batch=number, reason=str(error))
        while elements and self._ring.is_busy:
            await self._scheduler.sleep(_RING_WAIT_S)
        # Nobody else appends until the journal has it: else the heads there would mean nothing.
        with self._ring.reserved() if elements else contextlib.nullcontext():
            images = self._append(number, elements)
            await self._done(number, images)
        self._telemetry.count("raw_images", images)
        if images == 0:
            self._telemetry.count("raw_failures")

    async def _draw(self, batch: OpenBatch) -> Sequence[bytes]:
        """Return the thumbnails as elements of the ring. Raises ContentError, OSError."""
        message = decode_message(batch.message)
        segment = await self._open(batch, message)
        try:
            blocks = readable_blocks(segment.read, segment.size, message.num_images)
            if not blocks:
                raise ContentError("no image of the batch is readable")
            job = Job(
                batch_id=batch.batch, chain=self._chain(), segment_fd=segment.fd, blocks=blocks
            )
            outcome = await self._runner.submit(job)
        finally:
            segment.close()
        try:
            if isinstance(outcome, Failed):
                raise ContentError(f"code {outcome.code}: {outcome.crash.last_log}")
            return [
                _element(batch, metadata, view)
                for metadata, view in outcome.images
                if len(view) <= _ELEMENT_LIMIT_BYTES
            ]
        finally:
            outcome.close()

    async def _open(self, batch: OpenBatch, message: BatchMessage) -> OpenSegment:
        """Open the batch where it came from, else where it is kept."""
        if batch.inode:
            try:
                segment = Segment(message.segment)
            except ContentError:
                segment = None
            if segment is not None:
                if (segment.device, segment.inode) == (batch.device, batch.inode):
                    return segment
                segment.close()
        return await load_entry(self._quarantine.entry(batch.batch), self._scheduler)

    def _append(self, number: int, elements: Sequence[bytes]) -> int:
        """Append them to the ring as one change; return how many are there."""
        if not elements:
            return 0
        ring = self._ring
        try:
            plan = ring.plan([len(element) for element in elements])
        except ContentError as error:
            self._note("raw_failed", batch=number, reason=str(error))
            return 0
        try:
            ring.begin(plan)
            position = 0
            for element in elements:
                ring.write(plan, position, element)
                position += len(element)
            record = _record(
                number,
                Raw.PLANNED,
                images=len(elements),
                head_before=plan.head_before,
                head_after=plan.head_after,
            )
            self._journal.append(record)
            ring.commit(plan)
        except OSError as error:
            self._telemetry.count("storage_errors")
            # Written but not known to be durable is still visible.
            if ring.head != plan.head_after:
                self._note("raw_failed", batch=number, reason=str(error))
                return 0
        finally:
            ring.abandon()
        return len(elements)

    async def _done(self, number: int, images: int) -> None:
        """Record that nothing more is to be done, however long it takes."""
        while True:
            try:
                self._journal.append(_record(number, Raw.DONE, images=images))
                return
            except OSError:
                self._telemetry.count("storage_errors")
            await self._scheduler.sleep(_RETRY_S)


def _record(
    number: int, step: Raw, *, images: int = 0, head_before: int = 0, head_after: int = 0
) -> Record:
    return Record(
        kind=Kind.RAW,
        batch=number,
        raw=step,
        images=images,
        head_before=head_before,
        head_after=head_after,
    )


def _element(batch: OpenBatch, metadata: Metadata, view: memoryview) -> bytes:
    """Return a thumbnail as it lies in the ring, marked with what it is."""
    own = ((BATCH_ITEM, batch.batch & INT32_MAX), (STATUS_ITEM, min(batch.status, INT32_MAX)))
    names = [name for name, _ in own]
    items = tuple(item for item in metadata.items if item[0] not in names)
    marked = metadata.replace(size=len(view), items=(*items, *own))
    return block_header(marked) + bytes(view)
