"""Test kit of the node: a fake camera, a fake executor, and the node's parts without a bus.

Ships with the package, so that users test their own sources and settings with it. Driver.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import posix_ipc

from csp.loop import Loop
from csp.param.table import ParamTable
from csp.sched import Promise
from dipp.batch import encode_batch
from dipp.config.codec import encode_pipeline
from dipp.config.definition import ModuleStep, PipelineDefinition
from dipp.errors import Code
from dipp.intake import Intake
from dipp.journal import Journal
from dipp.message import BatchMessage, encode_message
from dipp.metadata import Metadata
from dipp.modulefiles import ModuleLibrary, packaged_modules
from dipp.params import LOG_STATUS, PIPELINE_RUN, Telemetry, make_table
from dipp.policy.raw import RawFallback, thumbnail_chain
from dipp.policy.replay import Replays
from dipp.policy.settings import Settings
from dipp.processing import Processor
from dipp.quarantine import Quarantine
from dipp.records import Kind, Record
from dipp.ring import Ring, open_ring
from dipp.ringindex import RingGeometry
from dipp.runner.executor import Completed, CrashRecord, Failed, Job, Outcome, StageStats
from dipp.slots import Slots
from dipp.worker import Worker

GEOMETRY = RingGeometry(entries=64, data_bytes=1 << 20)


def unique(prefix: str = "/dipp_test_") -> str:
    """Return a name that no other test uses."""
    return prefix + uuid.uuid4().hex[:12]


class Camera:
    """Puts batches into shared memory and announces them."""

    def __init__(self, queue: str) -> None:
        self.queue = queue
        self.segments: list[str] = []

    def make(self, *pixels: bytes, obid: int = 7) -> tuple[str, bytes]:
        """Create a segment with one image per argument; return its name and bytes."""
        images = [
            (Metadata(width=len(p), height=1, channels=1, bits_pixel=8, obid=obid, camera="t"), p)
            for p in pixels
        ]
        data = encode_batch(images)
        name = unique("/seg_")
        segment = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=len(data))
        with open(segment.fd, "r+b") as file:
            file.write(data)
        self.segments.append(name)
        return name, data

    def send(self, body: bytes, priority: int = 0) -> None:
        """Put a message on the queue. Raises posix_ipc.BusyError if it is full."""
        queue = posix_ipc.MessageQueue(self.queue)
        try:
            queue.send(body, timeout=0, priority=priority)
        finally:
            queue.close()

    def shoot(self, *pixels: bytes, pipeline: int = 1, obid: int = 7) -> str:
        """Make and announce a batch; return the name of its segment."""
        name, data = self.make(*pixels, obid=obid)
        self.announce(name, data, len(pixels), pipeline)
        return name

    def announce(self, name: str, data: bytes, num_images: int, pipeline: int) -> None:
        """Announce a segment. Raises posix_ipc.BusyError if the queue is full."""
        message = BatchMessage(
            num_images=num_images, batch_size=len(data), pipeline_id=pipeline, segment=name
        )
        self.send(encode_message(message))

    def remove(self, name: str) -> None:
        """Remove a segment that could not be announced, as a camera must."""
        posix_ipc.unlink_shared_memory(name)
        self.segments.remove(name)

    @staticmethod
    def exists(name: str) -> bool:
        """Say whether a segment is still there."""
        try:
            posix_ipc.SharedMemory(name).close_fd()
        except posix_ipc.ExistentialError:
            return False
        return True

    def clean(self) -> None:
        """Remove what is left."""
        for name in self.segments:
            try:
                posix_ipc.unlink_shared_memory(name)
            except posix_ipc.ExistentialError:
                continue
        try:
            posix_ipc.unlink_message_queue(self.queue)
        except posix_ipc.ExistentialError:
            return


class FakeRunner:
    """An executor that gives back the images, or what a test wants instead."""

    def __init__(self) -> None:
        self.alerts: list[int] = []
        self.jobs: list[Job] = []
        self.behaviour: Callable[[Job], Outcome | None] = self.identity
        self.pending: list[Promise[Outcome]] = []

    def alert(self, pipeline_id: int, segment_fd: int = -1) -> None:
        """Keep in mind that a batch was announced."""
        self.alerts.append(pipeline_id)

    def submit(self, job: Job) -> Promise[Outcome]:
        """Answer at once; None leaves the promise open."""
        self.jobs.append(job)
        promise: Promise[Outcome] = Promise()
        outcome = self.behaviour(job)
        if outcome is None:
            self.pending.append(promise)
        else:
            promise.resolve(outcome)
        return promise

    @staticmethod
    def identity(job: Job) -> Outcome:
        """Return the images as they came."""
        with open(job.segment_fd, "rb", closefd=False) as file:
            data = file.read()
        return Completed(
            images=tuple(
                (b.metadata, memoryview(data)[b.pixel_offset : b.end]) for b in job.blocks
            ),
            stages=(StageStats(name="a", wall_s=0.5, peak_rss_kb=10),),
        )

    @staticmethod
    def failing(code: int = Code.SIGNAL, module: int = 1) -> Callable[[Job], Outcome]:
        """Return a behaviour that fails."""

        def behave(job: Job) -> Outcome:
            crash = CrashRecord(code=code, module=module, name="a", last_log="it broke")
            return Failed(code=code, module_index=module, crash=crash)

        return behave


class Rig:
    """The parts of a node between queue and ring, in a state directory, with a fake runner."""

    def __init__(self, state: Path, queue: str, **settings: int) -> None:
        state.mkdir(exist_ok=True)
        self.loop = Loop()
        self.table: ParamTable = make_table()
        self.telemetry = Telemetry(self.table)
        self.ring: Ring = open_ring(state / "images.vmem", GEOMETRY, durable=False)[0]
        self.journal = Journal(state / "journal", durable=False)
        self.quarantine = Quarantine(
            state / "quarantine",
            limit_bytes=settings.get("quarantine_bytes", 1 << 20),
            on_evict=lambda n: self.journal.append(Record(kind=Kind.EVICTED, batch=n)),
            evicted_through=self.journal.state.totals.evicted_through,
            replays=self.journal.state.replays,
            durable=False,
        )
        modules = state / "modules"
        modules.mkdir(exist_ok=True)
        (modules / "a.py").write_text("def run(batch, params):\n    pass\n")
        self.slots = Slots(ModuleLibrary([modules]), lambda: 0.0)
        self.configure(1, "a")
        self.configure(2)
        self.intake = Intake(queue, state / "intake")
        self.intake.ensure()
        self.runner = FakeRunner()
        self.settings = Settings(self.table)
        self.table["raw_thumbnail"].set(settings.get("thumbnails", 0))
        raw = RawFallback(
            self.loop.scheduler,
            journal=self.journal,
            quarantine=self.quarantine,
            ring=self.ring,
            runner=self.runner,
            chain=lambda: thumbnail_chain(ModuleLibrary([packaged_modules()])),
            settings=self.settings,
            telemetry=self.telemetry,
            note=lambda event, **fields: None,
        )
        self.processor = Processor(
            self.loop.scheduler,
            journal=self.journal,
            quarantine=self.quarantine,
            ring=self.ring,
            slots=self.slots,
            runner=self.runner,
            telemetry=self.telemetry,
            log_status=self.table[LOG_STATUS].set,
            wall_unix=lambda: 1e9,
            raw=raw,
        )
        self.replays = Replays(
            self.loop.scheduler,
            self.table,
            journal=self.journal,
            quarantine=self.quarantine,
            process=self.processor.process,
            holds_message=lambda: self.intake.holds_message,
        )
        self.worker = Worker(
            self.loop,
            table=self.table,
            telemetry=self.telemetry,
            intake=self.intake,
            journal=self.journal,
            processor=self.processor,
        )

    def configure(self, pipeline: int, *names: str) -> None:
        """Set a pipeline to these modules."""
        steps = tuple(ModuleStep(name=name, order=i) for i, name in enumerate(names, 1))
        self.slots.set_pipeline(pipeline, encode_pipeline(PipelineDefinition(modules=steps)))

    def boot(self) -> None:
        """Do what a node does at start, to the end of the recovery."""
        self.processor.settle_deliveries()
        self.worker.recover()
        self.until_idle()

    def write_mode(self, mode: int) -> None:
        """Write pipeline_run as ground does."""
        self.table[PIPELINE_RUN].write(mode)

    def run(self, mode: int) -> None:
        """Write pipeline_run and wait for it to be 0 again."""
        self.write_mode(mode)
        self.until_idle()

    def order(self, name: str, batch: int) -> None:
        """Write an order about the quarantine and wait until it is carried out."""
        self.table[name].write(batch)
        self.until_idle()

    def until(self, condition: Callable[[], bool]) -> None:
        """Run the loop until something is so; fail after ten seconds of waiting."""
        for _ in range(2000):
            if condition():
                return
            self.loop.tick(0.005)
        raise AssertionError("it did not happen within ten seconds")

    def until_idle(self) -> None:
        """Run the loop until pipeline_run is 0."""
        self.until(lambda: self.mode == 0 and not self.worker.is_busy and not self.replays.is_busy)

    @property
    def mode(self) -> int:
        """The value of pipeline_run."""
        return self.telemetry.get(PIPELINE_RUN)

    @property
    def log_status(self) -> int:
        """The value of log_status."""
        return self.telemetry.get(LOG_STATUS)

    @property
    def images(self) -> list[bytes]:
        """The pixels in the ring, oldest first."""
        found = []
        for position in range(self.ring.count):
            element = self.ring.element(position)
            if element is None:
                raise AssertionError(f"no element {position}")
            block = self.ring.describe(element)
            found.append(self.ring.read(element, block.pixel_offset, block.pixel_size))
        return found

    @property
    def fates(self) -> tuple[int, int, int, int]:
        """Batches taken, delivered, quarantined, dropped."""
        totals = self.journal.state.totals
        return totals.taken, totals.delivered, totals.quarantined, totals.dropped

    def close(self) -> None:
        """Release everything; the queue goes if it is empty."""
        self.worker.abandon()
        self.replays.abandon()
        self.intake.close()
        self.ring.close()
        self.journal.close()
        self.loop.close()
