"""The camera node through its parameters, with a real queue and real segments."""

import contextlib
import os
import secrets
import signal
import stat

import numpy as np
import posix_ipc
import pytest

from csp.node import CspNode
from csp.param.remote import RemoteTable
from csp.param.table import ParamTable
from csp.sched import Scheduler
from csp.services import Identity
from csp.testing import Network
from csp.vmem.file import FileArea
from dipp.batch import split_blocks
from dipp.message import BatchMessage, decode_message, encode_message
from dipp.segment import Segment
from sim.camera import segments
from sim.camera.figures import CameraFigures
from sim.camera.frames import IR_HEIGHT, IR_WIDTH, FrameMaker
from sim.camera.node import CameraNode
from sim.camera.params import AREA, AREA_SIZE
from sim.camera.sensor import SensorFigures
from sim.camera.view import Pointing
from sim.clock import MissionClock

IDENTITY = Identity(hostname="GROUND", model="", revision="", date="", time="")
SMALL = SensorFigures(width=64, height=48, focal_mm=500.0)


class Bench:
    """A camera in virtual time, and the far end of its queue."""

    def __init__(self, area=None, **figures):
        self.queue_name = f"/camera_test_{secrets.token_hex(6)}"
        self.scheduler = Scheduler()
        self.network = Network(self.scheduler)
        self.figures = CameraFigures(queue=self.queue_name, **figures)
        self.camera = self.boot(area)

    def boot(self, area=None) -> CameraNode:
        self.camera = CameraNode(
            self.scheduler,
            address=163,
            figures=self.figures,
            clock=MissionClock(epoch_unix=1_744_407_764.0),
            area=area,
            seed=1,
            maker=FrameMaker(5, figures=SMALL),
        )
        return self.camera

    def value(self, name):
        return self.camera.table[name].get()

    def write(self, name, value):
        self.camera.table[name].write(value)

    def settle(self):
        for _ in range(10_000):
            if not self.camera.is_busy:
                break
            self.scheduler.advance(self.scheduler.next_deadline())
        assert not self.camera.is_busy
        assert not self.scheduler.orphan_errors

    def capture(self, text):
        self.write("capture_param", text)
        self.settle()

    def messages(self):
        queue = posix_ipc.MessageQueue(self.queue_name, read=True)
        found = []
        with contextlib.suppress(posix_ipc.BusyError):
            while True:
                found.append(decode_message(queue.receive(timeout=0)[0]))
        queue.close()
        return found

    def fetch(self, message):
        """Return what DIPP finds in the segment, and remove it."""
        segment = Segment(message.segment)
        try:
            data = segment.read(0, segment.size)
        finally:
            segment.close()
            posix_ipc.unlink_shared_memory(message.segment)
        blocks = split_blocks(data, message.num_images, message.batch_size)
        return [
            (b.metadata, np.frombuffer(data[b.pixel_offset : b.end], "<u2"), b.pixel_offset)
            for b in blocks
        ]

    def close(self):
        with contextlib.suppress(posix_ipc.ExistentialError):
            for message in self.messages():
                posix_ipc.unlink_shared_memory(message.segment)
            posix_ipc.unlink_message_queue(self.queue_name)
        self.camera.close()


@pytest.fixture
def bench(monkeypatch):
    """Make benches; afterwards none of the segments they made may be left."""
    made, names = [], []
    token_hex = secrets.token_hex

    def remember(size):
        names.append(token_hex(size))
        return names[-1]

    monkeypatch.setattr(segments.secrets, "token_hex", remember)

    def make(**options):
        made.append(Bench(**options))
        return made[-1]

    yield make
    for one in made:
        one.close()
    assert [path for path in os.listdir("/dev/shm") if path.rpartition("_")[2] in names] == []


def test_capture_string_becomes_a_batch_on_the_queue(bench):
    one = bench()
    one.capture("CAMERA_TYPE=VMB;CAMERA_ID=rgb;NUM_IMAGES=3;EXPOSURE=55000;PIPELINE_ID=2;")
    (message,) = one.messages()
    assert (message.num_images, message.pipeline_id, message.obid) == (3, 2, 1)
    images = one.fetch(message)
    for metadata, words, offset in images:
        assert (metadata.width, metadata.height, metadata.channels) == (64, 48, 1)
        assert (metadata.bits_pixel, metadata.camera, metadata.obid) == (12, "rgb", 1)
        assert metadata.size == words.nbytes == 64 * 48 * 2
        assert metadata.timestamp == 1_744_407_764
        assert metadata.item("exposure_us") == 55000
        assert offset % 64 == 0
        assert words.max() <= 4095
        assert words.std() > 20
    assert not np.array_equal(images[0][1], images[1][1])
    assert one.value("error_log") == 0
    assert (one.value("images_total"), one.value("batches_sent")) == (3, 1)
    assert one.value("last_bytes") == message.batch_size


def test_segment_is_private_and_named_for_dipp(bench):
    one = bench()
    one.capture("CAMERA_TYPE=TEST")
    (message,) = one.messages()
    assert message.segment.startswith("/dipp_1_")
    mode = posix_ipc.SharedMemory(message.segment).mode
    assert stat.S_IMODE(mode) == 0o600
    assert one.fetch(message)[0][0].camera == "test"


def test_same_observation_gives_the_same_pictures_and_another_does_not(bench):
    frames = []
    for obid in (5, 5, 6):
        one = bench()
        one.capture(f"OBID={obid};EXPOSURE=20000")
        frames.append(one.fetch(one.messages()[0])[0][1])
    assert np.array_equal(frames[0], frames[1])
    assert not np.array_equal(frames[0], frames[2])


def test_automatic_exposure_is_reported_and_used(bench):
    one = bench()
    one.capture("NUM_IMAGES=1;EXPOSURE=0")
    ((metadata, _, _),) = one.fetch(one.messages()[0])
    assert 5000 <= one.value("last_exposure") <= 150_000
    assert metadata.item("exposure_us") == one.value("last_exposure")


def test_infrared_and_test_cameras_have_their_formats(bench):
    one = bench()
    one.capture("CAMERA_TYPE=IR;NUM_IMAGES=2")
    for metadata, words, _ in one.fetch(one.messages()[0]):
        assert (metadata.width, metadata.height) == (IR_WIDTH, IR_HEIGHT)
        assert (metadata.bits_pixel, metadata.camera) == (16, "ir")
        assert 21_000 < words.min() < words.max() < 29_500
    one.capture("CAMERA_TYPE=TEST;CAMERA_ID=anything")
    ((metadata, words, _),) = one.fetch(one.messages()[0])
    assert (metadata.width, metadata.height, metadata.bits_pixel) == (2592, 1944, 12)
    assert set(np.unique(words[: 2592 * 1000])) == {0, 4095}


def test_capture_image_uses_the_settings(bench):
    one = bench()
    for name, value in (
        ("num_images", 2),
        ("exposure", 30_000),
        ("iso", 6.0),
        ("pipeline_id", 4),
        ("camera_id", "rgb"),
    ):
        one.write(name, value)
    one.write("capture_image", 1)
    one.settle()
    (message,) = one.messages()
    assert (message.num_images, message.pipeline_id) == (2, 4)
    metadata = one.fetch(message)[0][0]
    assert metadata.item("gain_db") == 6.0
    assert metadata.item("exposure_us") == 30_000
    one.write("capture_image", 0)
    one.settle()
    assert one.messages() == []


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("rubbish", 100),
        ("CAMERA_TYPE=X", 101),
        ("NUM_IMAGES=0", 103),
        ("", 104),
        ("CAMERA_ID=unknown", 202),
    ],
)
def test_refused_capture_sets_error_log_and_sends_nothing(bench, text, code):
    one = bench()
    one.capture(text)
    assert one.value("error_log") == code
    assert one.value("captures_failed") == 1
    assert one.value("next_obid") == 1
    one.capture("CAMERA_TYPE=TEST")
    assert one.value("error_log") == 0
    (message,) = one.messages()
    one.fetch(message)


@pytest.mark.parametrize(
    ("name", "value", "code"),
    [
        ("num_images", 0, 103),
        ("camera_type", 9, 101),
        ("iso", float("nan"), 103),
        ("exposure", 2**32 - 1, 103),
        ("scene", 200, 200),
    ],
)
def test_senseless_settings_are_refused_when_the_capture_starts(bench, name, value, code):
    one = bench()
    one.camera.table[name].set(value)
    one.write("capture_image", 1)
    one.settle()
    assert one.value("error_log") == code
    with pytest.raises(posix_ipc.ExistentialError):
        one.messages()


def test_full_queue_is_tried_again_then_reported_and_the_segment_removed(bench):
    one = bench(retries=3)
    queue = posix_ipc.MessageQueue(
        one.queue_name, posix_ipc.O_CREAT, max_messages=1, max_message_size=128
    )
    blocker = encode_message(BatchMessage(num_images=1, batch_size=1, pipeline_id=1))
    queue.send(blocker)
    started = one.scheduler.now
    one.capture("CAMERA_TYPE=TEST")
    assert one.scheduler.now - started == pytest.approx(3 * one.figures.retry_s)
    assert one.value("error_log") == 300
    assert one.value("queue_full") == 4
    assert one.value("batches_sent") == 0
    queue.receive(timeout=0)
    queue.close()
    one.capture("CAMERA_TYPE=TEST")
    assert one.value("error_log") == 0
    assert one.value("last_obid") == 2


def test_queue_that_cannot_hold_a_message_is_error_300(bench):
    one = bench()
    queue = posix_ipc.MessageQueue(
        one.queue_name, posix_ipc.O_CREAT, max_messages=1, max_message_size=16
    )
    one.capture("CAMERA_TYPE=TEST")
    queue.close()
    assert one.value("error_log") == 300


def test_camera_killed_while_filling_leaves_nothing_for_long(bench):
    pid = os.fork()
    if pid == 0:
        segments.SegmentWriter(77)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert [name for name in os.listdir("/dev/shm") if name.startswith(f"camera_{pid}_")]
    own = segments.SegmentWriter(78)
    segments.sweep()
    left = os.listdir("/dev/shm")
    assert not [name for name in left if name.startswith(f"camera_{pid}_")]
    assert own.name[1:] in left
    own.discard()


def test_only_the_last_request_made_during_a_capture_is_kept(bench):
    one = bench()
    one.write("capture_param", "CAMERA_TYPE=IR;NUM_IMAGES=3;INTERVAL=1000000")
    one.scheduler.advance(one.scheduler.now + 0.5)
    assert one.camera.is_busy
    one.write("capture_param", "CAMERA_TYPE=IR;PIPELINE_ID=5")
    one.write("capture_param", "CAMERA_TYPE=IR;PIPELINE_ID=6")
    one.write("capture_param", "NUM_IMAGES=0")
    assert one.value("error_log") == 103
    one.settle()
    messages = one.messages()
    assert [message.pipeline_id for message in messages] == [1, 6]
    assert [message.num_images for message in messages] == [3, 1]
    times = [metadata.timestamp for metadata, _, _ in one.fetch(messages[0])]
    assert [time - times[0] for time in times] == [0, 1, 2]
    one.fetch(messages[1])


def test_observation_ids_increase_across_restarts(bench, tmp_path):
    def area():
        return FileArea(AREA, tmp_path / "config.vmem", AREA_SIZE)

    one = bench(area=area())
    one.capture("CAMERA_TYPE=IR")
    one.capture("CAMERA_TYPE=IR;OBID=40")
    one.write("num_images", 2)
    one.camera.csp.binding.flush()
    one.camera.close()
    one.boot(area())
    assert one.value("capture_param") == ""
    assert one.value("num_images") == 2
    one.capture("CAMERA_TYPE=IR")
    messages = one.messages()
    assert [message.obid for message in messages] == [1, 40, 41]
    for message in messages:
        one.fetch(message)


def test_pointing_moves_the_picture_between_two_images(bench):
    one = bench()
    one.camera.close()
    one.camera = CameraNode(
        one.scheduler, address=163, figures=one.figures, seed=1,
        maker=FrameMaker(5, figures=SMALL),
        pointing=lambda unix: Pointing(lat_deg=-25.4, lon_deg=-54.5, course_deg=190.0),
    )  # fmt: skip
    one.camera.table["scene"].set(1)
    one.capture("NUM_IMAGES=2;EXPOSURE=50000;INTERVAL=300000")
    images = one.fetch(one.messages()[0])
    assert {metadata.item("scene") for metadata, _, _ in images} == {"itaipu"}
    assert not np.array_equal(images[0][1], images[1][1])


def test_node_answers_on_the_network_and_obeys_a_push(bench):
    one = bench()
    one.camera.csp.attach(one.network.link(163), default=True)
    ground = CspNode(
        one.scheduler, address=20, identity=IDENTITY,
        table=ParamTable(()), seed=3,
    )  # fmt: skip
    ground.attach(one.network.link(20), default=True)
    table = RemoteTable(ground.params)

    async def talk():
        names = {param.spec.name for param in await ground.params.download_list(163)}
        assert {"capture_param", "error_log", "serial0", "capture_image", "busy"} <= names
        await table.set(163, "capture_param", "CAMERA_TYPE=IR;NUM_IMAGES=2")
        while await table.get(163, "busy"):
            await one.scheduler.sleep(0.1)
        return await table.get(163, "images_total")

    assert one.network.run(talk()) == 2
    one.fetch(one.messages()[0])
