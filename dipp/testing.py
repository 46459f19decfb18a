"""Tools for testing modules and the runner: batches, chains, a harness, a watch on leaks.

Ships with the product, so that authors of modules test with what we test with. The hostile modules
are in `dipp.hostile`.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from csp.loop import Loop
from dipp.batch import Buffer, encode_batch, split_blocks
from dipp.metadata import Metadata
from dipp.runner.executor import (
    Chain,
    Completed,
    Executor,
    Job,
    Limits,
    ModuleStep,
    Outcome,
    start_forge,
)
from dipp.runner.wait import child_pids

Images = Sequence[tuple[Metadata, Buffer]]
_DEADLINE_S = 30.0

# Module files for tests of what is around modules.
IDENTITY = "def run(batch, params):\n    return batch\n"
SLEEP = "import time\ndef run(batch, params):\n    time.sleep(60)\n"


def sample_image(width: int = 8, height: int = 4, obid: int = 1) -> tuple[Metadata, bytes]:
    """Return a small grey picture of 12-bit words."""
    metadata = Metadata(
        width=width,
        height=height,
        channels=1,
        bits_pixel=12,
        obid=obid,
        camera="test",
        timestamp=1_700_000_000,
    )
    words = ((x * 16 + y) % 4096 for y in range(height) for x in range(width))
    return metadata, b"".join(word.to_bytes(2, "little") for word in words)


def make_chain(
    *paths: str | Path, pipeline_id: int = 1, generation: int = 1, timeout_s: float = 5.0
) -> Chain:
    """Return a chain of module files without parameters."""
    steps = tuple(
        ModuleStep(index=i, name=Path(path).stem, path=str(path), timeout_s=timeout_s)
        for i, path in enumerate(paths, 1)
    )
    return Chain(pipeline_id=pipeline_id, generation=generation, steps=steps)


@contextlib.contextmanager
def segment(data: bytes) -> Iterator[int]:
    """Give a read-only descriptor of memory with that content."""
    writable = os.memfd_create("test-segment", os.MFD_CLOEXEC)
    readable = -1
    try:
        os.write(writable, data)
        readable = os.open(f"/proc/self/fd/{writable}", os.O_RDONLY | os.O_CLOEXEC)
        yield readable
    finally:
        os.close(writable)
        if readable >= 0:
            os.close(readable)


class Harness:
    """A forge, an executor and a loop, for synchronous use."""

    def __init__(
        self,
        limits: Limits | None = None,
        scratch_dir: str | None = None,
        *,
        namespaces: bool = True,
        adopts: bool = False,
    ) -> None:
        self.loop = Loop()
        forge = start_forge(scratch_dir, namespaces=namespaces, adopts=adopts)
        self.executor = Executor(self.loop, forge, limits)
        self._batch_id = 0

    @property
    def forge_pid(self) -> int:
        """Process number of the forge."""
        return self.executor.forge_pid

    def __enter__(self) -> Harness:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def close(self) -> None:
        """End every process."""
        task = self.loop.scheduler.spawn(self.executor.close())
        self.loop.run_until(task, _DEADLINE_S)
        self.loop.close()

    def job(self, chain: Chain, fd: int, data: bytes, num_images: int) -> Job:
        """Return a job on a segment with a batch number of its own."""
        self._batch_id += 1
        return Job(
            batch_id=self._batch_id,
            chain=chain,
            segment_fd=fd,
            blocks=split_blocks(data, num_images, len(data)),
        )

    def run(self, chain: Chain, images: Images | None = None) -> Outcome:
        """Run a batch and wait for its outcome."""
        images = images or [sample_image()]
        data = encode_batch(images)
        with segment(data) as fd:
            promise = self.executor.submit(self.job(chain, fd, data, len(images)))
            return self.loop.run_until(promise, _DEADLINE_S)

    def run_images(
        self, chain: Chain, images: Images | None = None
    ) -> list[tuple[Metadata, bytes]]:
        """Run a batch that must succeed and return copies of its images."""
        outcome = self.run(chain, images)
        if not isinstance(outcome, Completed):
            raise AssertionError(f"failed with {outcome.code}: {outcome.crash} {outcome.log}")
        copies = [(metadata, bytes(pixels)) for metadata, pixels in outcome.images]
        outcome.close()
        return copies

    def prepare(self) -> None:
        """Wait until every host has its children ready."""
        while not self.executor.is_prepared:
            self.loop.tick(0.05)

    def settle(self, pipeline_id: int | None = None) -> None:
        """Retire the hosts of a pipeline, or all, and wait until they are gone."""
        self.executor.retire(pipeline_id)
        while self.executor.count_hosts(pipeline_id):
            self.loop.tick(0.05)


def parent_of(pid: int) -> int:
    """Return the number of a process's parent, 0 if the process is gone."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0
    # The name before it may hold anything, also parentheses.
    return int(status.rpartition(")")[2].split()[1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """What this process and its surroundings hold at one moment."""

    children: frozenset[int]
    descriptors: int
    sysv_segments: frozenset[str]
    named: frozenset[str]

    @classmethod
    def take(cls, places: Sequence[str | Path] = ()) -> Holdings:
        """Look around; `places` are directories whose entries count too."""
        return cls(
            children=frozenset(child_pids()),
            descriptors=len(os.listdir("/proc/self/fd")),
            sysv_segments=_sysv_ids(),
            named=frozenset(str(path) for place in places for path in Path(place).iterdir()),
        )

    def leaks(self, later: Holdings) -> list[str]:
        """Say what there is more of later."""
        found = [f"child {pid}" for pid in later.children - self.children]
        found += [f"System V segment {row}" for row in later.sysv_segments - self.sysv_segments]
        found += [f"file {name}" for name in later.named - self.named]
        if later.descriptors > self.descriptors:
            found.append(f"{later.descriptors - self.descriptors} descriptors")
        return found


@contextlib.contextmanager
def no_leaks(*places: str | Path) -> Iterator[None]:
    """Raise AssertionError if a child, descriptor, segment or entry of `places` is left over."""
    before = Holdings.take(places)
    yield
    leaks = before.leaks(Holdings.take(places))
    if leaks:
        raise AssertionError(f"left over: {', '.join(leaks)}")


def _sysv_ids() -> frozenset[str]:
    """Return the System V segments but those that a stranger who is still there has made."""
    try:
        lines = Path("/proc/sysvipc/shm").read_text(encoding="ascii").splitlines()[1:]
    except FileNotFoundError:
        return frozenset()
    rows = [line.split() for line in lines]
    return frozenset(row[1] for row in rows if not _is_stranger(int(row[4])))


def _is_stranger(pid: int) -> bool:
    """Say whether a process lives and is neither this one nor below it."""
    if pid <= 0 or not Path(f"/proc/{pid}").exists():
        return False
    while pid > 1:
        if pid == os.getpid():
            return False
        pid = parent_of(pid)
    return True
