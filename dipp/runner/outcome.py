"""What the executor is asked and what it answers: jobs and outcomes.

Driver: an outcome holds mappings of the segments its images lie in until `close`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from csp.sched import Promise
from dipp.batch import ImageBlock
from dipp.errors import Code, ContentError
from dipp.metadata import Metadata
from dipp.runner.arena import has_fixed_size, map_segment, read_range, segment_size
from dipp.runner.channel import close_fds
from dipp.runner.validate import check_images
from dipp.runner.values import Chain, CrashRecord, StageStats
from dipp.workspace import ImageRef, SegmentRange


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """A batch to run. `segment_fd` stays the caller's and may be closed after `submit`."""

    batch_id: int
    chain: Chain
    segment_fd: int
    blocks: tuple[ImageBlock, ...]


def _nothing() -> None:
    """Release nothing."""


@dataclass(slots=True, kw_only=True)
class Completed:
    """The images a chain made, each as metadata and a read-only view of its pixels.

    Forwarded metadata and pixels are views too; use them before `close`, which lets the host use
    their memory again. `latency_s` is the time from the host's order to the last accepted result.
    """

    images: tuple[tuple[Metadata, memoryview], ...]
    stages: tuple[StageStats, ...] = ()
    latency_s: float = 0.0
    _mapped: tuple[memoryview, ...] = ()
    _release: Callable[[], None] = _nothing

    def close(self) -> None:
        """Release the segments. The views must not be used any more."""
        views = [view for _, view in self.images]
        self.images = ()
        for view in (*views, *self._mapped):
            # A view that somebody still looks through is released with that somebody.
            with contextlib.suppress(BufferError):
                view.release()
        self._mapped = ()
        release, self._release = self._release, _nothing
        release()


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """Why there is no result. `module_index` is 0 when no module is at fault."""

    code: int
    module_index: int
    crash: CrashRecord
    stages: tuple[StageStats, ...] = ()
    log: str = ""

    def close(self) -> None:
        """Nothing is held; here so that every outcome can be closed."""


Outcome = Completed | Failed


@dataclass(slots=True, kw_only=True)
class Assignment:
    """A job on its way: what a host gets of it and where the outcome goes."""

    batch_id: int
    chain: Chain
    images: tuple[ImageRef, ...]
    segment_fd: int
    promise: Promise[Outcome]
    deliver: Callable[[Callable[[], None]], None]
    stages: tuple[StageStats, ...] = ()
    log: str = ""

    def complete(self, completed: Completed) -> None:
        """Deliver a result and release the input."""
        self._finish(completed)

    def fail(self, crash: CrashRecord) -> None:
        """Deliver a failure and release the input."""
        self._finish(
            Failed(
                code=crash.code,
                module_index=crash.module,
                crash=crash,
                stages=self.stages,
                log=self.log,
            )
        )

    def _finish(self, outcome: Outcome) -> None:
        close_fds([self.segment_fd])
        promise = self.promise
        # Later, not here: whoever waits may submit the next job at once.
        self.deliver(lambda: promise.resolve(outcome))


def ref_of(block: ImageBlock) -> ImageRef:
    """Return where an image of the input lies."""
    return ImageRef(
        meta=SegmentRange(segment=0, offset=block.meta_offset, length=block.meta_size),
        pixels=SegmentRange(segment=0, offset=block.pixel_offset, length=block.pixel_size),
    )


def assign(
    job: Job, promise: Promise[Outcome], deliver: Callable[[Callable[[], None]], None]
) -> Assignment:
    """Take a job on, with a descriptor of its own. Raises OSError."""
    images = tuple(ref_of(block) for block in job.blocks)
    return Assignment(
        batch_id=job.batch_id,
        chain=job.chain,
        images=images,
        segment_fd=os.dup(job.segment_fd),
        promise=promise,
        deliver=deliver,
    )


def collect_images(
    job: Assignment,
    images: Sequence[ImageRef],
    arenas: Sequence[int],
    stages: Sequence[StageStats] = (),
    *,
    latency_s: float = 0.0,
    device: int = 0,
    release: Callable[[], None] = _nothing,
) -> Completed:
    """Check what a host reports and map it; takes the arenas over. Raises ContentError, OSError.

    Only memory that cannot shrink any more is mapped. A camera's segment is copied: its owner could
    truncate it and kill a reader of the mapping. `device` is one whose files nobody can shorten.
    """
    try:
        if not all(has_fixed_size(fd, device) for fd in arenas):
            raise ContentError("an arena is not sealed", Code.RESULT_INVALID)
        segments = (job.segment_fd, *arenas)
        sizes = [segment_size(fd) for fd in segments]

        def read(place: SegmentRange) -> bytes:
            return read_range(segments[place.segment], place)

        metadata = check_images(images, sizes, read, job.images)
        mapped: dict[int, memoryview] = {}

        def view(place: SegmentRange) -> memoryview:
            fd = segments[place.segment]
            if place.segment == 0 and not has_fixed_size(fd):
                data = read(place)
                if len(data) != place.length:
                    raise ContentError("input segment was shortened", Code.RESULT_INVALID)
                return memoryview(data)
            if place.segment not in mapped:
                mapped[place.segment] = map_segment(fd)
            return mapped[place.segment][place.offset : place.end]

        pairs = tuple((meta, view(ref.pixels)) for meta, ref in zip(metadata, images, strict=True))
        return Completed(
            images=pairs,
            stages=tuple(stages),
            latency_s=latency_s,
            _mapped=tuple(mapped.values()),
            _release=release,
        )
    finally:
        close_fds(arenas)
