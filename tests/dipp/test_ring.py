"""The image ring against a model, with kills between any two writes."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from dipp.batch import encode_batch
from dipp.errors import Code, ContentError, MisuseError
from dipp.metadata import Metadata
from dipp.ring import Ring, open_ring
from dipp.ringindex import RingGeometry

SMALL = RingGeometry(entries=6, data_bytes=64)
MIDDLE = RingGeometry(entries=8, data_bytes=4096)


class Killed(Exception):
    """The process died here."""


class FakeFile:
    """A file in memory that dies before a given number of further writes."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)
        self.writes_left: int | None = None
        self.error: Exception = Killed()

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size]).ljust(size, b"\0")

    def write(self, offset: int, data: bytes | memoryview) -> None:
        if self.writes_left == 0:
            raise self.error
        if self.writes_left is not None:
            self.writes_left -= 1
        self.data[offset : offset + len(data)] = data

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


def contents(ring: Ring) -> list[bytes]:
    found = []
    for position in range(ring.count):
        element = ring.element(position)
        assert element is not None
        found.append(ring.read(element, 0, element.size))
    return found


class RingMachine(RuleBasedStateMachine):
    """Append batches, kill at any write, reopen: what is advertised is always intact."""

    def __init__(self) -> None:
        super().__init__()
        self.file = FakeFile(SMALL.file_bytes)
        self.ring = Ring(self.file, SMALL)
        self.model: list[bytes] = []
        self.fill = 0

    def make(self, sizes: list[int]) -> list[bytes]:
        elements = []
        for size in sizes:
            self.fill = self.fill % 255 + 1
            elements.append(bytes([self.fill]) * size)
        return elements

    def fit(self, added: list[bytes]) -> list[bytes]:
        """What the model keeps: the newest that fit in bytes and in table slots."""
        kept = self.model + added
        while sum(map(len, kept)) > SMALL.data_bytes or len(kept) >= SMALL.entries:
            kept.pop(0)
        return kept

    @rule(sizes=st.lists(st.integers(1, 63), min_size=1, max_size=4))
    def append(self, sizes: list[int]) -> None:
        elements = self.make(sizes)
        if sum(sizes) > SMALL.data_bytes:
            with pytest.raises(ContentError) as caught:
                self.ring.append(elements)
            assert caught.value.code == Code.OUTPUT_TOO_LARGE
            return
        self.ring.append(elements)
        self.model = self.fit(elements)

    @rule(sizes=st.lists(st.integers(1, 30), min_size=1, max_size=2), writes=st.integers(0, 9))
    def killed_while_appending(self, sizes: list[int], writes: int) -> None:
        elements = self.make(sizes)
        plan = self.ring.plan(sizes)
        self.file.writes_left = writes
        with contextlib.suppress(Killed):
            self.ring.append(elements)
        self.file.writes_left = None
        self.ring = Ring(self.file, SMALL)
        after = self.fit(elements)
        if self.ring.head == plan.head_after:
            self.model = after
        else:
            assert self.ring.head == plan.head_before
            # Room for the new elements may have been made already, nothing else is lost.
            survivors = after[: -len(elements)]
            assert contents(self.ring) in (self.model, survivors)
            self.model = contents(self.ring)

    @rule()
    def reopen(self) -> None:
        self.ring = Ring(self.file, SMALL)

    @invariant()
    def advertises_exactly_the_model(self) -> None:
        assert contents(self.ring) == self.model
        assert self.ring.used_bytes == sum(map(len, self.model))
        if self.model:
            newest = self.ring.element(-1)
            assert newest is not None
            assert self.ring.read(newest, 0, 99) == self.model[-1]
        assert self.ring.element(len(self.model)) is None
        assert self.ring.element(-len(self.model) - 1) is None


RingMachine.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestRingMachine = RingMachine.TestCase


def test_a_new_file_is_an_empty_sparse_ring_of_flown_size(tmp_path: Path) -> None:
    ring, damaged = open_ring(tmp_path / "images.vmem", RingGeometry())
    assert not damaged
    assert ring.count == 0
    stat = (tmp_path / "images.vmem").stat()
    assert stat.st_size == 1_002_000_008
    assert stat.st_blocks * 512 < 1_000_000
    ring.close()


def test_the_flown_layout_byte_by_byte(tmp_path: Path) -> None:
    path = tmp_path / "images.vmem"
    ring, _ = open_ring(path, SMALL)
    ring.append([b"a" * 30, b"b" * 20])
    ring.append([b"c" * 20])
    ring.close()
    data = path.read_bytes()
    tail, head, *offsets = struct.unpack_from("<8I", data)
    assert (tail, head) == (1, 3)
    assert offsets[1:4] == [30, 50, 6]
    area = data[8 + 4 * 6 :]
    assert area[30:64] + area[:6] == b"b" * 20 + b"c" * 20


def test_a_ring_that_the_flown_software_overfilled_loses_only_the_overwritten(
    tmp_path: Path,
) -> None:
    path = tmp_path / "images.vmem"
    # Three elements of 30, 30 and 20 bytes advertised in 64: the oldest cannot be whole.
    path.write_bytes(struct.pack("<8I", 0, 3, 0, 30, 60, 16, 0, 0) + bytes(64))
    ring, damaged = open_ring(path, SMALL)
    assert not damaged
    assert [e.size for k in range(ring.count) if (e := ring.element(k))] == [30, 20]
    ring.close()


@pytest.mark.parametrize("header", [(6, 0), (0, 6), (2**32 - 1, 0)])
def test_a_damaged_header_is_put_aside_not_fatal(tmp_path: Path, header: tuple[int, int]) -> None:
    path = tmp_path / "images.vmem"
    path.write_bytes(struct.pack("<2I", *header) + bytes(24 + 64))
    ring, damaged = open_ring(path, SMALL)
    assert damaged
    assert ring.count == 0
    assert (tmp_path / "images.vmem.damaged").exists()
    ring.close()


def test_a_file_of_another_size_is_refused_not_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "images.vmem"
    path.write_bytes(b"x" * 10)
    with pytest.raises(MisuseError, match="10 bytes"):
        open_ring(path, SMALL)
    assert path.read_bytes() == b"x" * 10


def test_a_full_disk_fails_the_append_and_the_next_one_works() -> None:
    file = FakeFile(SMALL.file_bytes)
    ring = Ring(file, SMALL)
    ring.append([b"a" * 10])
    file.writes_left, file.error = 0, OSError(28, "No space left on device")
    with pytest.raises(OSError, match="No space"):
        ring.append([b"b" * 10])
    file.writes_left = None
    assert contents(ring) == [b"a" * 10]
    ring.append([b"c" * 10])
    assert contents(ring) == [b"a" * 10, b"c" * 10]


def test_a_reader_notices_that_its_element_was_evicted() -> None:
    ring = Ring(FakeFile(SMALL.file_bytes), SMALL)
    ring.append([b"a" * 40])
    element = ring.element(0)
    assert element is not None
    assert ring.read(element, 30, 99) == b"a" * 10
    ring.append([b"b" * 40])
    with pytest.raises(ContentError, match="overwritten"):
        ring.read(element, 0, 10)


def test_one_append_at_a_time_and_only_inside_its_place() -> None:
    ring = Ring(FakeFile(SMALL.file_bytes), SMALL)
    plan = ring.plan([10])
    ring.begin(plan)
    with pytest.raises(MisuseError):
        ring.begin(ring.plan([5]))
    for position, data in ((0, b"x" * 11), (-1, b"x"), (10, b"x")):
        with pytest.raises(MisuseError):
            ring.write(plan, position, data)
    ring.commit(plan)
    with pytest.raises(MisuseError):
        ring.commit(plan)
    with pytest.raises(MisuseError):
        ring.begin(plan)


@pytest.mark.parametrize("sizes", [[], [0], [64], [65], [1] * 6, [40, 40]])
def test_what_can_never_fit_is_refused(sizes: list[int]) -> None:
    ring = Ring(FakeFile(SMALL.file_bytes), SMALL)
    with pytest.raises(ContentError) as caught:
        ring.plan(sizes)
    assert caught.value.code == Code.OUTPUT_TOO_LARGE


def test_two_elements_may_fill_the_data_area_exactly() -> None:
    ring = Ring(FakeFile(SMALL.file_bytes), SMALL)
    ring.append([b"a" * 32, b"b" * 32])
    assert contents(ring) == [b"a" * 32, b"b" * 32]
    ring.append([b"c"])
    assert contents(ring) == [b"b" * 32, b"c"]


def test_images_are_described_without_reading_their_pixels() -> None:
    ring = Ring(FakeFile(MIDDLE.file_bytes), MIDDLE)
    small = Metadata(obid=7, camera="rgb")
    large = Metadata(obid=8, camera="x" * 1500)
    blocks = [encode_batch([(m, b"p" * 100)], 1) for m in (small, large)]
    ring.append([*blocks, b"\xff" * 20])
    described = [ring.describe(e) for k in (0, 1) if (e := ring.element(k))]
    assert [d.metadata.obid for d in described] == [7, 8]
    assert [d.pixel_size for d in described] == [100, 100]
    junk = ring.element(2)
    assert junk is not None
    with pytest.raises(ContentError):
        ring.describe(junk)


def test_raw_reads_stop_at_the_end_of_the_file() -> None:
    ring = Ring(FakeFile(SMALL.file_bytes), SMALL)
    assert len(ring.read_raw(SMALL.file_bytes - 4, 100)) == 4
    assert ring.read_raw(SMALL.file_bytes + 4, 100) == b""
