"""pipeline_run, fates and log_status, with a fake runner in place of the process tree."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import posix_ipc
import pytest

from dipp.errors import Code
from dipp.message import BatchMessage, encode_message
from dipp.params import PIPELINE_RUN
from dipp.rig import Camera, FakeRunner, Rig, unique
from dipp.runner.executor import Completed


@pytest.fixture
def camera() -> Iterator[Camera]:
    camera = Camera(unique())
    yield camera
    camera.clean()


@pytest.fixture
def rig(camera: Camera, tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path, camera.queue)
    yield rig
    rig.close()


def test_mode_one_takes_one(rig: Rig, camera: Camera) -> None:
    segments = [camera.shoot(b"one"), camera.shoot(b"two")]
    rig.run(1)
    assert rig.images == [b"one"]
    assert rig.intake.depth == 1
    assert [camera.exists(s) for s in segments] == [False, True]
    assert rig.log_status == 0


def test_mode_one_on_an_empty_queue_says_so(rig: Rig) -> None:
    rig.run(1)
    assert rig.log_status == 201000


@pytest.mark.parametrize("mode", [2])
def test_mode_all_empties_the_queue_and_reports_no_error(
    rig: Rig, camera: Camera, mode: int
) -> None:
    for number in range(5):
        camera.shoot(b"%d" % number)
    rig.run(mode)
    assert rig.images == [b"0", b"1", b"2", b"3", b"4"]
    assert rig.log_status == 0
    assert rig.fates == (5, 5, 0, 0)
    rig.run(mode)
    assert rig.log_status == 0


@pytest.mark.parametrize("mode", [3, 5, 255])
def test_odd_modes_from_three_wait_for_one(rig: Rig, camera: Camera, mode: int) -> None:
    rig.write_mode(mode)
    rig.loop.tick(0.01)
    assert rig.mode == mode
    camera.shoot(b"one")
    camera.shoot(b"two")
    rig.until_idle()
    assert rig.images == [b"one"]


@pytest.mark.parametrize("mode", [4, 6, 254])
def test_even_modes_from_four_go_on_until_stopped(rig: Rig, camera: Camera, mode: int) -> None:
    rig.write_mode(mode)
    for number in range(3):
        camera.shoot(b"%d" % number)
        rig.until(lambda n=number: len(rig.images) == n + 1)
    assert rig.mode == mode
    rig.run(0)
    camera.shoot(b"late")
    rig.loop.tick(0.01)
    assert len(rig.images) == 3


def test_zero_stops_after_the_current_batch(rig: Rig, camera: Camera) -> None:
    rig.runner.behaviour = lambda job: None
    camera.shoot(b"one")
    camera.shoot(b"two")
    rig.write_mode(2)
    rig.until(lambda: len(rig.runner.pending) == 1)
    rig.write_mode(0)
    rig.loop.tick(0.01)
    assert rig.worker.is_busy
    rig.runner.pending[0].resolve(FakeRunner.identity(rig.runner.jobs[0]))
    rig.until_idle()
    assert rig.images == [b"one"]
    assert rig.intake.depth == 1


def test_a_write_while_busy_is_stored_but_starts_nothing(rig: Rig, camera: Camera) -> None:
    rig.runner.behaviour = lambda job: None
    camera.shoot(b"one")
    rig.write_mode(1)
    rig.until(lambda: len(rig.runner.pending) == 1)
    rig.write_mode(4)
    assert rig.mode == 4
    rig.runner.pending[0].resolve(FakeRunner.identity(rig.runner.jobs[0]))
    rig.until_idle()
    assert rig.images == [b"one"]


def test_zero_while_idle_does_nothing(rig: Rig) -> None:
    rig.run(0)
    assert not rig.worker.is_busy


def test_a_queue_that_vanishes_is_made_anew_while_waiting(rig: Rig, camera: Camera) -> None:
    rig.write_mode(3)
    rig.loop.tick(0.01)
    posix_ipc.unlink_message_queue(camera.queue)
    rig.until(lambda: rig.intake.recreated == 1)
    camera.shoot(b"one")
    rig.until_idle()
    assert rig.images == [b"one"]
    assert rig.telemetry.get("queue_recreated") == 1


def test_no_queue_at_all(tmp_path: Path) -> None:
    rig = Rig(tmp_path, "/not/a/queue/name")
    rig.run(2)
    assert rig.log_status == 200000
    rig.write_mode(4)
    rig.loop.tick(0.01)
    assert rig.worker.is_busy
    rig.run(0)
    rig.close()


def test_bad_messages_are_counted_and_the_next_batch_passes(rig: Rig, camera: Camera) -> None:
    for body in (b"", b"abcd", b"x" * 40, b"y" * 128):
        camera.send(body)
    camera.shoot(b"good")
    rig.run(1)
    assert rig.images == [b"good"]
    assert rig.telemetry.get("bad_messages") == 4
    assert rig.log_status == 202000
    assert rig.fates == (1, 1, 0, 0)
    # Only a batch is announced to the runner: when it is taken, and when its segment is known.
    assert rig.runner.alerts == [rig.runner.jobs[0].chain.pipeline_id] * 2


def test_ten_thousand_messages_in_bursts(rig: Rig, camera: Camera) -> None:
    queue = posix_ipc.MessageQueue(camera.queue)
    for _ in range(1000):
        for _ in range(10):
            queue.send(b"junk", timeout=0)
        rig.run(2)
    queue.close()
    assert rig.telemetry.get("bad_messages") == 10_000
    camera.shoot(b"good")
    rig.run(1)
    assert rig.images == [b"good"]


def test_a_batch_of_several_images_with_its_metadata(rig: Rig, camera: Camera) -> None:
    camera.shoot(b"abc", b"de", b"f", obid=99)
    rig.run(1)
    assert rig.images == [b"abc", b"de", b"f"]
    newest = rig.ring.element(-1)
    assert newest is not None
    assert rig.ring.describe(newest).metadata.obid == 99
    assert rig.telemetry.get("images_delivered") == 3
    assert rig.telemetry.get("ring_count") == 3


def test_an_empty_pipeline_passes_images_on_without_the_runner(rig: Rig, camera: Camera) -> None:
    camera.shoot(b"abc", pipeline=2)
    rig.run(1)
    assert rig.images == [b"abc"]
    assert rig.runner.jobs == []


def quarantined(rig: Rig) -> list[tuple[int, int]]:
    return [(e.verdict.batch, e.verdict.status) for e in rig.quarantine.entries()]


@pytest.mark.parametrize("pipeline", [3, 0, 7, -1, 2**31 - 1])
def test_a_pipeline_that_is_not_configured(rig: Rig, camera: Camera, pipeline: int) -> None:
    segment = camera.shoot(b"abc", pipeline=pipeline)
    rig.run(1)
    assert rig.log_status == 500000
    assert quarantined(rig) == [(1, 500000)]
    assert not camera.exists(segment)


def test_a_failure_quarantines_the_original_bytes_and_the_next_batch_passes(
    rig: Rig, camera: Camera
) -> None:
    segment, data = camera.make(b"abc", b"def")
    body = encode_message(
        BatchMessage(num_images=2, batch_size=len(data), pipeline_id=1, segment=segment)
    )
    camera.send(body)
    camera.shoot(b"next")
    rig.runner.behaviour = FakeRunner.failing(Code.SIGNAL, 2)
    rig.run(1)
    assert rig.log_status == 600102
    (entry,) = rig.quarantine.entries()
    assert entry.path.read_bytes()[entry.payload_offset :] == data
    assert entry.verdict.message == body
    assert entry.verdict.reason == "it broke"
    assert not camera.exists(segment)
    rig.runner.behaviour = FakeRunner.identity
    rig.run(1)
    assert rig.images == [b"next"]
    assert rig.log_status == 600102
    assert rig.fates == (2, 1, 1, 0)
    assert rig.telemetry.get("crash_total") == 1
    assert rig.telemetry.get("module_failures") == 1


def test_a_failure_gives_the_next_batch_freshly_loaded_modules(rig: Rig, camera: Camera) -> None:
    rig.runner.behaviour = FakeRunner.failing()
    for _ in range(2):
        camera.shoot(b"abc")
    rig.run(2)
    first, second = (job.chain.generation for job in rig.runner.jobs)
    assert first != second


def test_a_missing_segment_keeps_the_message(rig: Rig, camera: Camera) -> None:
    camera.send(
        encode_message(
            BatchMessage(num_images=1, batch_size=9, pipeline_id=1, segment=unique("/none_"))
        )
    )
    rig.run(1)
    assert rig.log_status == 303000
    assert quarantined(rig) == [(1, 303000)]


SIZES = [
    ({"batch_size": 1}, 305000),
    ({"batch_size": -1}, 305000),
    ({"batch_size": 2**31 - 1}, 306000),
    ({"num_images": 0}, 305000),
    ({"num_images": 2}, 305000),
    ({"num_images": -5}, 305000),
]


@pytest.mark.parametrize(("lie", "status"), SIZES)
def test_a_message_that_lies_about_its_segment(
    rig: Rig, camera: Camera, lie: dict[str, int], status: int
) -> None:
    name, data = camera.make(b"abc")
    truth = {"num_images": 1, "batch_size": len(data), "pipeline_id": 2}
    camera.send(encode_message(BatchMessage(segment=name, **(truth | lie))))
    rig.run(1)
    assert rig.log_status == status
    assert rig.fates == (1, 0, 1, 0)
    assert not camera.exists(name)


def test_a_legacy_message(rig: Rig, camera: Camera) -> None:
    name, data = camera.make(b"old")
    legacy = f"/dipp_{os.getpid()}"
    os.rename(f"/dev/shm{name}", f"/dev/shm{legacy}")
    camera.segments.append(legacy)
    camera.send(struct.pack("<iiiiQ", 1, len(data), os.getpid(), 1, 0xDEADBEEF))
    rig.run(1)
    assert rig.images == [b"old"]
    assert not camera.exists(legacy)


def test_modules_that_drop_every_image_drop_the_batch(rig: Rig, camera: Camera) -> None:
    rig.runner.behaviour = lambda job: Completed(images=())
    camera.shoot(b"cloud")
    rig.run(1)
    assert rig.fates == (1, 0, 0, 1)
    assert rig.log_status == 0


def test_a_result_that_never_fits_the_ring_is_quarantined(rig: Rig, camera: Camera) -> None:
    view = memoryview(bytes(2 << 20))
    rig.runner.behaviour = lambda job: Completed(images=((job.blocks[0].metadata, view),))
    camera.shoot(b"abc")
    rig.run(1)
    assert rig.log_status == 307000
    assert rig.fates == (1, 0, 1, 0)


def test_the_quarantine_makes_room_by_dropping_the_oldest(camera: Camera, tmp_path: Path) -> None:
    rig = Rig(tmp_path, camera.queue, quarantine_bytes=5000)
    rig.runner.behaviour = FakeRunner.failing()
    for number in range(3):
        camera.shoot(bytes(2000), obid=number)
    rig.run(2)
    assert rig.fates == (3, 0, 2, 1)
    assert [batch for batch, _ in quarantined(rig)] == [2, 3]
    camera.shoot(bytes(6000))
    rig.run(1)
    assert rig.fates == (4, 0, 2, 2)
    rig.close()


def test_a_full_disk_under_the_ring_loses_nothing(rig: Rig, camera: Camera) -> None:
    camera.shoot(b"abc")
    full = OSError(28, "No space left on device")
    with mock.patch.object(rig.ring, "write", side_effect=full):
        rig.run(1)
    assert rig.log_status == 308000
    assert rig.fates == (1, 0, 1, 0)
    camera.shoot(b"next")
    rig.run(1)
    assert rig.images == [b"next"]


def test_a_full_disk_under_the_journal_only_delays(rig: Rig, camera: Camera) -> None:
    camera.shoot(b"abc")
    full = OSError(28, "No space left on device")
    real = os.pwrite
    failures = iter([True, False, True, True, False])

    def sometimes(*args: object) -> int:
        if next(failures, False):
            raise full
        return real(*args)  # type: ignore[arg-type]

    with (
        mock.patch.object(os, "pwrite", sometimes),
        mock.patch("dipp.worker._POLL_S", 0.01),
        mock.patch("dipp.processing._RETRY_S", 0.01),
    ):
        rig.run(2)
    assert rig.images == [b"abc"]
    assert rig.fates == (1, 1, 0, 0)
    assert rig.telemetry.get("storage_errors") >= 2


def test_a_later_segment_of_the_same_name_is_not_removed(rig: Rig, camera: Camera) -> None:
    rig.runner.behaviour = lambda job: None
    name = camera.shoot(b"first")
    rig.write_mode(1)
    rig.until(lambda: len(rig.runner.pending) == 1)
    posix_ipc.unlink_shared_memory(name)
    posix_ipc.SharedMemory(name, posix_ipc.O_CREX, size=10).close_fd()
    rig.runner.pending[0].resolve(FakeRunner.identity(rig.runner.jobs[0]))
    rig.until_idle()
    assert rig.images == [b"first"]
    assert camera.exists(name)


def test_the_stages_of_the_last_batch_are_shown(rig: Rig, camera: Camera) -> None:
    camera.shoot(b"abc")
    rig.run(1)
    assert rig.table["stage_wall"].get(0) == 500_000
    assert rig.table["stage_memory"].get(0) == 10
    assert rig.table["stage_memory"].get(1) == 0
    assert rig.telemetry.get("batch_id") == 1
    assert rig.table[PIPELINE_RUN].get() == 0


def test_many_batches_in_one_run_of_wait_all_wrap_the_ring(rig: Rig, camera: Camera) -> None:
    """Defects D17 and D14: a log without bound, and a ring that broke when it had wrapped."""
    rig.write_mode(4)
    for number in range(30):
        for _ in range(10):
            camera.shoot(b"x" * 5000, pipeline=2)
        rig.until(lambda n=number: rig.fates[1] == 10 * (n + 1))
    rig.run(0)
    assert rig.fates == (300, 300, 0, 0)
    assert rig.images == [b"x" * 5000] * 63
