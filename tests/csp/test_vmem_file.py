"""Crash safety of a file area: failures, kills and power cuts at every system call, bit flips."""

from __future__ import annotations

import contextlib
import errno
import os
import random

import pytest

from csp.errors import MisuseError
from csp.vmem.area import StoreError
from csp.vmem.file import TRAILER_BYTES, FileArea, Source, decode_image, encode_image
from csp.vmem.testing import (
    CountingFileOps,
    CuttingFileOps,
    FailingFileOps,
    KillingFileOps,
    PowerCut,
    SimulatedDisk,
)

SIZE = 64
PATH = "storage.vmem"
OLD, NEW, NEWER = (bytes([letter]) * SIZE for letter in b"ONX")


def area_on(disk, **kwargs):
    return FileArea("storage", PATH, SIZE, ops=disk, **kwargs)


def image(area):
    return area.read(0, area.size)


def written_disk(*images):
    """A disk after flushing each of the images."""
    disk = SimulatedDisk()
    area = area_on(disk)
    for content in images:
        area.write(0, content)
        area.flush()
    return disk


def test_image_comes_first_and_is_followed_by_generation_and_checksum(tmp_path):
    area = FileArea("storage", tmp_path / PATH, SIZE)
    assert area.report.source is Source.EMPTY
    assert area.fresh
    area.write(3, b"hello")
    area.flush()
    raw = (tmp_path / PATH).read_bytes()
    assert raw[:SIZE] == bytes(3) + b"hello" + bytes(SIZE - 8)
    assert len(raw) == SIZE + TRAILER_BYTES
    assert decode_image(raw, SIZE) == (raw[:SIZE], 1)
    again = FileArea("storage", tmp_path / PATH, SIZE)
    assert again.report.source is Source.PRIMARY
    assert again.report.generation == 1
    assert not again.fresh
    assert again.read(3, 5) == b"hello"


def test_flush_without_change_touches_nothing():
    disk = written_disk(OLD)
    ops = CountingFileOps(disk)
    area = area_on(ops)
    loads = ops.calls
    area.write(0, OLD)
    area.flush()
    assert ops.calls == loads
    area.write(0, NEW)
    assert area.dirty
    area.flush()
    assert ops.names[loads:] == [
        "open", "write", "fsync", "close", "rename", "rename", "open", "fsync", "close"
    ]  # fmt: skip
    assert disk.open_descriptors == 0


@pytest.mark.parametrize("history", [(), (OLD,), (NEWER, OLD)])
@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EMFILE])
def test_failure_of_any_call_leaves_old_or_new_and_a_later_flush_succeeds(history, code):
    before = history[-1] if history else bytes(SIZE)
    for number in range(1, 20):
        disk = written_disk(*history)
        area = area_on(disk)
        area._ops = ops = FailingFileOps(number, code, base=disk)
        area.write(0, NEW)
        try:
            area.flush()
            failed = False
        except StoreError:
            failed = True
        assert disk.open_descriptors == 0
        found = area_on(SimulatedDisk(disk.files))
        assert image(found) in ((before, NEW) if failed else (NEW,))
        assert not found.report.damaged
        assert area.dirty == failed
        area.flush()
        assert image(area_on(SimulatedDisk(disk.files))) == NEW
        if ops.calls < number:
            return
    pytest.fail("the loop never reached the end of a flush")


@pytest.mark.parametrize("history", [(), (OLD,), (NEWER, OLD)])
def test_power_cut_at_any_call_leaves_old_or_new_whatever_reached_the_medium(history):
    before = history[-1] if history else bytes(SIZE)
    states = 0
    for number in range(1, 20):
        disk = written_disk(*history)
        ops = CuttingFileOps(number, disk)
        loads = 3
        ops._cut_at += loads
        area = area_on(ops)
        area.write(0, NEW)
        try:
            area.flush()
            returned = True
        except PowerCut:
            returned = False
        for files in disk.after_power_cut():
            states += 1
            found = area_on(SimulatedDisk(files))
            assert image(found) in ((NEW,) if returned else (before, NEW))
            # Life goes on from there.
            found.write(0, NEWER)
            found.flush()
            assert image(area_on(found._ops)) == NEWER
        if returned:
            assert states > 10
            return
    pytest.fail("the loop never reached the end of a flush")


@pytest.mark.parametrize("history", [(OLD,), (NEWER, OLD)])
def test_kill_then_restart_then_power_cut_at_any_call_leaves_old_or_new(history):
    for killed_at in range(4, 14):
        for cut_at in range(1, 24):
            disk = written_disk(*history)
            area = area_on(CuttingFileOps(killed_at, disk))
            area.write(0, NEW)
            with contextlib.suppress(PowerCut):
                area.flush()
            try:
                restarted = area_on(CuttingFileOps(cut_at, disk))
                settled = image(restarted)
                restarted.write(0, settled[:-1] + b"!")
                restarted.flush()
            except PowerCut:
                pass
            allowed = {history[-1], NEW, history[-1][:-1] + b"!", NEW[:-1] + b"!"}
            for files in disk.after_power_cut():
                assert image(area_on(SimulatedDisk(files))) in allowed


def test_many_power_cuts_in_a_row_never_lose_a_flush_that_returned():
    for seed in range(40):
        rng = random.Random(seed)
        files = {}
        durable, attempted = bytes(SIZE), set()
        for step in range(12):
            disk = SimulatedDisk(files)
            ops = CuttingFileOps(rng.randint(1, 40), disk)
            try:
                area = area_on(ops)
                found = image(area)
                assert found == durable or found in attempted
                # Loading settles which one it is only once it is on disk.
                for position in range(3):
                    content = bytes([rng.randrange(256), step, position]).ljust(SIZE, b".")
                    attempted.add(content)
                    area.write(0, content)
                    area.flush()
                    durable, attempted = content, set()
            except PowerCut:
                pass
            files = rng.choice(list(disk.after_power_cut()))


@pytest.mark.parametrize("number", range(4, 13))
def test_real_kill_at_a_call_leaves_old_or_new(tmp_path, number):
    path = tmp_path / PATH
    area = FileArea("storage", path, SIZE)
    for content in (NEWER, OLD):
        area.write(0, content)
        area.flush()
    pid = os.fork()
    if pid == 0:
        try:
            child = FileArea("storage", path, SIZE, ops=KillingFileOps(number))
            child.write(0, NEW)
            child.flush()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9
    found = FileArea("storage", path, SIZE)
    assert image(found) in (OLD, NEW)
    found.write(0, NEWER)
    found.flush()
    assert image(FileArea("storage", path, SIZE)) == NEWER


def test_every_flipped_bit_is_detected_and_the_previous_copy_used():
    files = written_disk(OLD, NEW).files
    for bit in range(8 * (SIZE + TRAILER_BYTES)):
        raw = bytearray(files[PATH])
        raw[bit // 8] ^= 1 << bit % 8
        area = area_on(SimulatedDisk(files | {PATH: bytes(raw)}))
        assert area.report.source is Source.OLD
        assert area.report.damaged == (f"{PATH}: checksum mismatch",)
        assert image(area) == OLD
        assert area.dirty
        area.flush()
        assert area_on(area._ops).report.source is Source.PRIMARY
        assert area._ops.files[f"{PATH}.old"] == files[f"{PATH}.old"]


def test_damage_of_the_previous_copy_does_no_harm_and_is_reported():
    files = written_disk(OLD, NEW).files
    files[f"{PATH}.old"] = b"x" * (SIZE + 3)
    area = area_on(SimulatedDisk(files))
    assert image(area) == NEW
    assert area.report.source is Source.PRIMARY
    assert "storage.vmem.old" in str(area.report)


@pytest.mark.parametrize("cut", range(0, SIZE + TRAILER_BYTES, 7))
def test_truncated_file_loses_to_the_previous_copy_unless_it_is_a_whole_raw_one(cut):
    files = written_disk(OLD, NEW).files
    files[PATH] = files[PATH][:cut]
    area = area_on(SimulatedDisk(files))
    assert image(area) == OLD
    assert area.report.source is Source.OLD


def test_flown_file_without_trailer_is_accepted_also_when_copies_of_ours_are_there():
    for files in ({}, written_disk(OLD, NEW).files):
        disk = SimulatedDisk(files | {PATH: NEWER})
        area = area_on(disk)
        assert area.report.source is Source.RAW
        assert image(area) == NEWER
        assert not area.fresh
        area.flush()
        assert area_on(disk).report.source is Source.PRIMARY
        assert image(area_on(disk)) == NEWER


def test_flown_file_stays_as_the_previous_copy_after_the_first_flush():
    disk = SimulatedDisk({PATH: OLD})
    area = area_on(disk)
    area.write(0, NEW)
    area.flush()
    broken = SimulatedDisk(disk.files | {PATH: disk.files[PATH][:-1] + b"?"})
    assert image(area_on(broken)) == OLD
    assert area_on(broken).report.source is Source.OLD


def test_short_flown_file_is_filled_with_zeros():
    area = area_on(SimulatedDisk({PATH: b"abc"}))
    assert area.report.source is Source.RAW
    assert image(area) == b"abc" + bytes(SIZE - 3)


def test_area_that_has_grown_keeps_what_was_there():
    small = FileArea("storage", PATH, 16, ops=(disk := SimulatedDisk()))
    small.write(0, b"a" * 16)
    small.flush()
    area = area_on(disk)
    assert area.report.source is Source.PRIMARY
    assert image(area) == b"a" * 16 + bytes(SIZE - 16)


def test_all_copies_damaged_is_told_and_starts_from_zero():
    broken = b"?" * (SIZE + TRAILER_BYTES)
    area = area_on(SimulatedDisk({PATH: broken, f"{PATH}.old": broken + b"!"}))
    assert area.report.source is Source.LOST
    assert area.fresh
    assert len(area.report.damaged) == 2
    area.write(0, NEW)
    area.flush()
    assert image(area_on(area._ops)) == NEW


def test_unreadable_file_counts_as_damaged(tmp_path):
    (tmp_path / PATH).mkdir()
    area = FileArea("storage", tmp_path / PATH, SIZE)
    assert area.report.source is Source.LOST
    area.write(0, NEW)
    with pytest.raises(StoreError):
        area.flush()
    assert area.dirty


def test_file_system_that_writes_nothing_is_an_error_not_a_loop():
    class Stuck(SimulatedDisk):
        def write(self, fd, data):
            return 0

    area = area_on(Stuck())
    area.write(0, NEW)
    with pytest.raises(StoreError):
        area.flush()


def test_generation_wins_over_the_name():
    files = {
        PATH: encode_image(OLD, 5),
        f"{PATH}.new": encode_image(NEW, 6),
        f"{PATH}.old": encode_image(NEWER, 4),
    }
    disk = SimulatedDisk(files)
    area = area_on(disk)
    assert area.report.source is Source.NEW
    assert image(area) == NEW
    assert disk.files[PATH] == files[f"{PATH}.new"]
    assert not area.dirty


@pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, SIZE + 1), (SIZE, 1), (5, -1)])
def test_outside_of_the_area_is_misuse(offset, length):
    area = area_on(SimulatedDisk())
    with pytest.raises(MisuseError):
        area.read(offset, length)
    if length >= 0:
        with pytest.raises(MisuseError):
            area.write(offset, bytes(length))


def test_senseless_areas_are_misuse():
    for name, size, address in (("", 4, 0), ("a", 0, 0), ("a", 4, -1)):
        with pytest.raises(MisuseError):
            FileArea(name, PATH, size, address, SimulatedDisk())
