"""The camera as a process of its own: on a hub, obeying commands, ending cleanly."""

import secrets
import subprocess
import sys
import time

import posix_ipc
import pytest

from csp.errors import CspError
from csp.hub import Hub
from csp.links.zmq import ZmqLink
from csp.loop import Loop
from csp.node import CspNode
from csp.param.remote import RemoteTable
from csp.param.table import ParamTable
from csp.services import Identity
from dipp.message import decode_message
from dipp.segment import Segment
from sim.camera.cli import main, pointing_from
from sim.camera.figures import CameraFigures, read_figures
from sim.config import load
from sim.errors import ConfigError

GROUND = Identity(hostname="GROUND", model="", revision="", date="", time="")


def test_process_takes_a_picture_and_ends_on_sigterm(tmp_path):
    queue_name = f"/camera_process_{secrets.token_hex(6)}"
    queue = posix_ipc.MessageQueue(
        queue_name, posix_ipc.O_CREX, max_messages=4, max_message_size=128
    )
    loop = Loop()
    with Hub() as hub:
        ports = f"127.0.0.1:{hub.sub_port}:{hub.pub_port}"
        process = subprocess.Popen(
            [
                *(sys.executable, "-m", "sim.camera", "--hub", ports),
                *("--queue", queue_name, "--state", str(tmp_path)),
            ]
        )
        node = CspNode(loop, address=20, identity=GROUND, table=ParamTable(()), seed=1)
        node.attach(
            ZmqLink("127.0.0.1", address=20, sub_port=hub.sub_port, pub_port=hub.pub_port),
            default=True,
        )
        try:
            node.params.timeout_s = 0.3
            loop.run_until(loop.scheduler.spawn(_capture(loop, node)), 30.0)
            message = decode_message(queue.receive(timeout=10)[0])
            process.terminate()
            assert process.wait(10) == 0
        finally:
            process.kill()
            process.wait()
            node.close()
            loop.close()
            queue.close()
            posix_ipc.unlink_message_queue(queue_name)
    assert message.num_images == 1
    segment = Segment(message.segment)
    assert segment.size == message.batch_size > 2464 * 2056 * 2
    segment.close()
    posix_ipc.unlink_shared_memory(message.segment)
    assert (tmp_path / "config.vmem").is_file()


async def _capture(loop, node):
    table = RemoteTable(node.params)
    deadline = time.monotonic() + 25
    while True:
        try:
            await table.set(163, "capture_param", "CAMERA_ID=rgb;EXPOSURE=55000")
            break
        except CspError:  # the process may still be starting
            assert time.monotonic() < deadline
            await loop.scheduler.sleep(0.1)


def test_unknown_configuration_file_is_status_1(capsys, tmp_path):
    assert main(["--config", str(tmp_path / "none.yaml")]) == 1
    assert "none.yaml" in capsys.readouterr().err


def test_shipped_configuration_is_accepted():
    settings = load()
    assert read_figures(settings.camera).queue == "/dipp_batches"
    below = pointing_from(settings.orbit())(settings.mission.epoch_unix)
    assert -90 <= below.lat_deg <= 90
    assert 6000 < below.ground_speed_m_s < 8000


@pytest.mark.parametrize(
    ("raw", "figures"),
    [
        ({}, CameraFigures()),
        ({"scene": "itaipu", "serial": 7}, CameraFigures(scene=1, serial=7)),
        ({"models": ["a"], "retries": 0}, CameraFigures(models=("a",), retries=0)),
    ],
)
def test_camera_section_is_read(raw, figures):
    assert read_figures(raw) == figures


@pytest.mark.parametrize(
    "raw",
    [{"scene": "moon"}, {"serial": 0}, {"queue": "no_slash"}, {"queue": "/a/b"}, {"typo": 1}],
)
def test_bad_camera_section_is_refused(raw):
    with pytest.raises(ConfigError, match="camera"):
        read_figures(raw)
