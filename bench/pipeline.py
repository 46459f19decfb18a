"""The contestants of the pipeline: the isolated process tree, and the same modules in this process.

Both get a batch the way a camera gives it, in a shared segment that nobody has mapped yet, and
both run the same module files. The contestant in this process has what makes it fast: output and
scratch memory that is mapped and warm for ever, no check of what a module did.
"""

from __future__ import annotations

import contextlib
import io
import mmap
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import cv2

from bench.tree import children, wait_for_rest
from csp.sched import Promise
from dipp.batch import ImageBlock, batch_parts, split_blocks
from dipp.journal import Journal
from dipp.message import BatchMessage, encode_message
from dipp.metadata import Metadata
from dipp.records import Fate, Kind, Record
from dipp.runner.executor import Chain, Completed, Failed, Job, Limits, Outcome
from dipp.runner.loader import PythonModule, read_module
from dipp.sdk import Batch
from dipp.testing import Harness, make_chain
from dipp.workspace import ImageRef, SegmentRange, Workspace

MODULES = Path(__file__).resolve().parent / "modules"
# For each stage of a chain in this process; what is not touched costs nothing.
_ARENA_BYTES = 256 << 20
_ARENAS = 4
_DEADLINE_S = 120.0


class BenchError(Exception):
    """Something that must work to be measured did not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Input:
    """A batch in a shared segment."""

    fd: int
    blocks: tuple[ImageBlock, ...]
    size_bytes: int

    def close(self) -> None:
        """Give the segment back."""
        os.close(self.fd)


def make_input(images: Sequence[tuple[Metadata, bytes]]) -> Input:
    """Write a batch into a new segment, as a camera does: nothing of it is sealed."""
    fd = os.memfd_create("bench-batch", os.MFD_CLOEXEC)
    parts = batch_parts(images)
    size = sum(os.write(fd, part) for part in parts)
    with mmap.mmap(fd, size, prot=mmap.PROT_READ) as view:
        blocks = split_blocks(memoryview(view)[:], len(images), size)
    return Input(fd=fd, blocks=blocks, size_bytes=size)


@contextlib.contextmanager
def inputs(images: Sequence[tuple[Metadata, bytes]], count: int = 1) -> Iterator[list[Input]]:
    """Give so many segments with the same batch."""
    made = [make_input(images) for _ in range(count)]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def plain_image(size_bytes: int) -> tuple[Metadata, bytes]:
    """Return a grey picture of about so many bytes, of bytes that are not all the same."""
    width = min(size_bytes, 1024)
    height = max(size_bytes // width, 1)
    metadata = Metadata(
        width=width, height=height, size=width * height, channels=1, bits_pixel=8, obid=1,
        camera="bench",
    )  # fmt: skip
    pattern = bytes(range(256)) * (width * height // 256 + 1)
    return metadata, pattern[: width * height]


def chain_of(name: str, count: int = 1, *, timeout_s: float = 60.0) -> Chain:
    """Return a chain of one of the benchmark's own modules, so many times."""
    return make_chain(*[MODULES / f"{name}.py"] * count, timeout_s=timeout_s)


# -- isolated


class Tree(Harness):
    """The process tree of one executor, with one chain loaded and at rest before each batch.

    The limits are those the node ships with, unless others are given.
    """

    def __init__(
        self, chain: Chain, *, is_warm: bool = True, **limits: int | tuple[str, ...]
    ) -> None:
        super().__init__(Limits(**limits))  # type: ignore[arg-type]
        self.chain = chain
        self._folder = tempfile.TemporaryDirectory(prefix="dipp-bench-")
        self._journal = Journal(Path(self._folder.name) / "journal")
        self.last = Completed(images=())
        self._announced_s = self._taken_s = 0.0
        if is_warm:
            self.executor.warm(chain)

    def __enter__(self) -> Self:
        return self

    def await_forge(self) -> None:
        """Wait until the forge has said that hosts can be had."""
        self._until(lambda: self.executor.stats.missing_rungs is not None)

    def await_loaded(self) -> None:
        """Wait until the chain is loaded and everything is prepared."""
        self.await_forge()
        self._until(lambda: bool(children(self.forge_pid)))
        wait_for_rest(self.forge_pid, self.loop.tick, _DEADLINE_S)

    def _until(self, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + _DEADLINE_S
        while not condition():
            if time.monotonic() > end:
                raise BenchError("the process tree did not get ready")
            self.loop.tick(0.01)

    def wait(self, promise: Promise[Outcome]) -> Outcome:
        """Wait for the outcome of a batch, whatever it is."""
        return self.loop.run_until(promise, _DEADLINE_S)

    def submit(self, batch: Input) -> Promise[Outcome]:
        """Hand a batch in."""
        self._batch_id += 1
        return self.executor.submit(
            Job(
                batch_id=self._batch_id,
                chain=self.chain,
                segment_fd=batch.fd,
                blocks=batch.blocks,
            )
        )

    def finish(self, promise: Promise[Outcome]) -> Completed:
        """Wait for a batch that must succeed. Raises BenchError."""
        return expect(self.wait(promise))

    def rest(self) -> None:
        """Let the tree prepare whatever it prepares in idle time.

        Between two steps of that nobody does anything for some milliseconds, so the hosts are asked
        as well.
        """
        self._until(lambda: self.executor.is_prepared)
        wait_for_rest(self.forge_pid, self.loop.tick)

    def latency_s(self, batch: Input) -> float:
        """Return what the host measured of one batch, everything prepared."""
        self.wall(batch)
        return self.last.latency_s

    def arrival_s(self, batch: Input) -> float:
        """Return the seconds from taking the message to having the result, journal and all."""
        self.wall(batch)
        return self._announced_s + self._taken_s

    def wall(self, batch: Input) -> float:
        """Return the seconds from handing in to having the result, everything prepared.

        The result is closed; what it says about times is kept in `last`.
        """
        self.rest()
        arrived = time.perf_counter()
        self._announce(batch)
        began = time.perf_counter()
        outcome = self.finish(self.submit(batch))
        took = time.perf_counter() - began
        self._announced_s, self._taken_s = began - arrived, took
        outcome.close()
        self.last = outcome
        number = self._journal.state.last_batch
        self._journal.append(Record(kind=Kind.FATE, batch=number, fate=Fate.DELIVERED, images=1))
        self._journal.append(Record(kind=Kind.CLEANED, batch=number))
        return took

    def _announce(self, batch: Input) -> None:
        """Do what a node does before it hands a batch in: write the journal, alert the host."""
        message = BatchMessage(
            num_images=len(batch.blocks), batch_size=batch.size_bytes, pipeline_id=1, shmid=1
        )
        body, number = encode_message(message), self._journal.state.last_batch + 1
        self.executor.alert(self.chain.pipeline_id)
        self._journal.append(Record(kind=Kind.TAKEN, batch=number, message=body))
        self.executor.alert(self.chain.pipeline_id, batch.fd)
        self._journal.append(Record(kind=Kind.STARTED, batch=number, device=1, inode=1))

    def close(self) -> None:
        """End every process."""
        super().close()
        self._journal.close()
        self._folder.cleanup()

    def sustained(self, batches: Sequence[Input]) -> float:
        """Return the seconds for all batches, handed in at once, from rest to the last result."""
        self.rest()
        began = time.perf_counter()
        waiting = [self.submit(batch) for batch in batches]
        # Closed as they come: their memory is what the next ones are written into.
        for promise in waiting:
            self.finish(promise).close()
        return time.perf_counter() - began


def expect(outcome: Outcome) -> Completed:
    """Return the result. Raises BenchError for a failure."""
    if isinstance(outcome, Failed):
        crash = outcome.crash
        raise BenchError(f"batch failed with {outcome.code} in {crash.name!r}: {crash.last_log}")
    return outcome


# -- in this process


class InProcess:
    """The modules of a chain one after the other in this process, without any protection."""

    def __init__(self, chain: Chain) -> None:
        self.modules = load_chain(chain)
        self._arenas = [memoryview(_shared(_ARENA_BYTES)) for _ in range(_ARENAS)]
        self._scratch = memoryview(_shared(_ARENA_BYTES))
        # What modules log goes to a pipe in the isolated tree, and nowhere here.
        self._log = io.StringIO()
        self.stage_s: list[float] = []
        self._input_fd = -1

    def run(self, batch: Input) -> int:
        """Run the chain on a batch; return how many images come out."""
        view = memoryview(mmap.mmap(batch.fd, batch.size_bytes, prot=mmap.PROT_READ))
        self._input_fd = batch.fd
        refs = [_ref(block) for block in batch.blocks]
        self.stage_s = []
        with contextlib.redirect_stderr(self._log):
            for module in self.modules:
                began = time.perf_counter()
                refs = self._stage(module, view, refs)
                self.stage_s.append(time.perf_counter() - began)
        return len(refs)

    def _stage(
        self, module: PythonModule, view: memoryview, refs: list[ImageRef]
    ) -> list[ImageRef]:
        """Run one module; like a host, write where none of its images lies.

        Between the modules segment 0 is the input and n the n-th arena.
        """
        used = {place.segment for ref in refs for place in ref}
        target = next((n for n in range(1, _ARENAS + 1) if n not in used), 0)
        if not target:
            raise BenchError("the images of a batch are spread over too many arenas")
        # The one that is written is the last of a workspace.
        order = [n for n in range(_ARENAS + 1) if n != target] + [target]
        segments = [view if n == 0 else self._arenas[n - 1] for n in order]
        space = Workspace(
            segments.__getitem__, len(order) - 1, segments[-1], self._scratch, self._reader(order)
        )
        place = {n: index for index, n in enumerate(order)}
        inside = [_moved(ref, place) for ref in refs]
        work = Batch.from_refs(inside, space, pipeline_id=1, batch_id=1)
        result = module.module.run(work, module.params)
        images = (work if result is None else result).images
        return [_moved(image.to_ref(), dict(enumerate(order))) for image in images]

    def _reader(self, order: Sequence[int]) -> Callable[[SegmentRange, memoryview], bool]:
        """Return what copies from the input without looking at it, as in an isolated child."""

        def read(place: SegmentRange, target: memoryview) -> bool:
            if order[place.segment] != 0:
                return False
            return os.preadv(self._input_fd, [target], place.offset) == len(target)

        return read

    def clocked(self, batch: Input) -> float:
        """Return the seconds for one batch."""
        began = time.perf_counter()
        self.run(batch)
        return time.perf_counter() - began

    def sustained(self, batches: Sequence[Input]) -> float:
        """Return the seconds for all batches, one after the other."""
        began = time.perf_counter()
        for batch in batches:
            self.run(batch)
        return time.perf_counter() - began


def load_chain(chain: Chain) -> list[PythonModule]:
    """Load the modules of a chain into this process, as a pipeline host does."""
    cv2.setNumThreads(1)
    return [PythonModule(step, read_module(step.path)) for step in chain.steps]


def run_module(
    module: PythonModule, blocks: Sequence[ImageBlock], source: memoryview, arena: memoryview
) -> list[memoryview]:
    """Run one module on a batch; return the pixels of its result."""
    space = Workspace.over([source], arena)
    batch = Batch.from_refs(map(_ref, blocks), space, pipeline_id=1, batch_id=1)
    result = module.module.run(batch, module.params)
    return [image.data for image in (batch if result is None else result)]


def _ref(block: ImageBlock) -> ImageRef:
    return ImageRef(
        meta=SegmentRange(segment=0, offset=block.meta_offset, length=block.meta_size),
        pixels=SegmentRange(segment=0, offset=block.pixel_offset, length=block.pixel_size),
    )


def _moved(ref: ImageRef, numbers: Mapping[int, int]) -> ImageRef:
    """Return a reference with other numbers of the segments."""
    meta, pixels = (
        SegmentRange(segment=numbers[place.segment], offset=place.offset, length=place.length)
        for place in ref
    )
    return ImageRef(meta=meta, pixels=pixels)


def _shared(size_bytes: int) -> mmap.mmap:
    """Return shared memory of which untouched pages cost nothing."""
    return mmap.mmap(-1, size_bytes)
