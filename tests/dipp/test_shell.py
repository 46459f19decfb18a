"""The operator's commands against a real node: what works, and each kind of bad input.

After every bad input the next good batch passes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import dipp.shell
from csp.links.memory import MemoryBus
from csp.loop import Loop
from csp.param.client import PushItem
from csp.shell.main import open_session
from csp.shell.session import Session
from dipp.batch import batch_parts
from dipp.errors import Code
from dipp.message import BatchMessage, encode_message
from dipp.metadata import Metadata
from dipp.node import DippNode, NodeConfig
from dipp.pictures import decode_pixels, load_metadata, to_eight_bits
from dipp.rig import GEOMETRY, Camera, unique
from dipp.runner.executor import start_forge
from dipp.testing import no_leaks

PIPELINE = "- order: 1\n  param_id: 20\n  name: identity\n"
PIXELS = bytes(range(256))


class Rig:
    """A DIPP node with real modules, and a shell session on its bus."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.loop = Loop()
        monkeypatch.setattr("csp.shell.main.Loop", lambda: self.loop)
        self.camera = Camera(unique())
        config = NodeConfig(
            state_dir=state, queue=self.camera.queue, geometry=GEOMETRY, durable=False, seed=1
        )
        self.node = DippNode(self.loop, start_forge(), config)
        self.bus = MemoryBus(self.loop.scheduler)
        self.node.attach(self.bus.link("NODE"))
        self.lines: list[str] = []
        self.session: Session

    def run(self, line: str, ok: bool = True) -> str:
        del self.lines[:]
        assert self.session.run_line(line, 30.0) is ok, "\n".join(self.lines)
        return "\n".join(self.lines)

    def value(self, name: str) -> int:
        value = self.node.table[name].get()
        assert isinstance(value, int)
        return value

    def process(self) -> None:
        self.run("set pipeline_run 2")
        for _ in range(2000):
            self.loop.tick(0.01)
            if not self.value("pipeline_run"):
                return
        raise AssertionError("pipeline_run never became 0")

    def until(self, condition: Callable[[], bool]) -> None:
        for _ in range(2000):
            if condition():
                return
            self.loop.tick(0.01)
        raise AssertionError("not in time")

    def assert_next_batch_passes(self) -> None:
        before = self.value("batches_delivered")
        self.camera.shoot(PIXELS)
        self.process()
        assert self.value("batches_delivered") == before + 1


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    monkeypatch = pytest.MonkeyPatch()
    folder = tmp_path_factory.mktemp("shell")
    with no_leaks():
        rig = Rig(folder / "state", monkeypatch)
        with open_session(rig.bus.link("SHELL"), address=20, out=rig.lines.append) as session:
            rig.session = session
            session.node = 162
            (folder / "pipeline.yaml").write_text(PIPELINE)
            rig.run(f"ippc pipeline 1 {folder / 'pipeline.yaml'}")
            rig.run("list download")
            yield rig
            task = rig.loop.scheduler.spawn(rig.node.close())
            rig.loop.run_until(task, 20)
        rig.camera.clean()
        monkeypatch.undo()


def test_a_picture_from_queue_to_file(rig: Rig, tmp_path: Path) -> None:
    rig.assert_next_batch_passes()
    assert "observation 7, 256 bytes" in rig.run("obs list")
    listed = json.loads(rig.run("obs list --json"))
    assert (listed["node"], listed["images"][-1]["observation"]) == (162, 7)
    assert listed["images"][-1]["bytes"] >= 256
    said = rig.run(f"obs get -o {tmp_path / 'picture'} -1")
    assert "camera 't', 256x1, 1 channels" in said
    metadata = load_metadata(tmp_path / "picture.json")
    assert metadata.obid == 7
    rig.run(f"obs get --raw -o {tmp_path / 'bytes'} -1")
    pixels = decode_pixels(metadata, (tmp_path / "bytes.raw").read_bytes())
    assert pixels.tobytes() == PIXELS
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
    assert "has no image 99" in rig.run("obs get 99", ok=False)
    assert "7" in rig.run("ippb get -1")


def test_the_same_picture_by_dtp(rig: Rig, tmp_path: Path) -> None:
    rig.assert_next_batch_passes()
    rig.run(f"obs get --raw -o {tmp_path / 'get'} -1")
    for mtu in ("", "-u 1024 -T 2000"):
        said = rig.run(f"obs dtp {mtu} --raw -o {tmp_path / 'dtp'} -1")
        assert "observation 7, camera 't'" in said
        assert (tmp_path / "dtp.raw").read_bytes() == (tmp_path / "get.raw").read_bytes()
        assert load_metadata(tmp_path / "dtp.json") == load_metadata(tmp_path / "get.json")
    assert "has no image 99" in rig.run("obs dtp 99", ok=False)
    assert "mtu 5" in rig.run("obs dtp -u 5 0", ok=False)


def test_dtp_notices_that_the_ring_moved(
    rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig.assert_next_batch_passes()
    real = dipp.shell.DtpClient.download

    async def moving(*args: Any, **keywords: Any) -> bytes:
        data = await real(*args, **keywords)
        # As many new images as the table has entries push every old one out.
        other = b"".join(batch_parts([(Metadata(obid=99), b"other")]))
        for _ in range(GEOMETRY.entries):
            rig.node.ring.append([other])
        return data

    monkeypatch.setattr(dipp.shell.DtpClient, "download", moving)
    assert "moved meanwhile" in rig.run(f"obs dtp -o {tmp_path / 'x'} 0", ok=False)
    assert not list(tmp_path.iterdir())


def test_status_explains_the_last_error(rig: Rig) -> None:
    rig.camera.shoot(PIXELS, pipeline=5)
    rig.process()
    assert "500" in rig.run("ippc status")
    assert "pipeline unknown or not configured" in rig.run("ippc status")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- order: 1\n  name: identity\n", "param_id"),
        ("- order: 1\n  param_id: 21\n  name: identity\n", "Range is 1-20"),
        ("- order: 2\n  param_id: 1\n  name: identity\n", "Order values must be 1..1"),
        ("- order: 1\n  param_id: 1\n  colour: red\n", "Allowed values are"),
        ("just text\n", "error"),
        ("- [unclosed\n", "error"),
    ],
)
def test_wrong_yaml_never_leaves_the_ground(
    rig: Rig, tmp_path: Path, text: str, message: str
) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    rejects = rig.value("config_rejects")
    assert message in rig.run(f"ippc pipeline 1 {path}", ok=False)
    assert rig.value("config_rejects") == rejects
    rig.assert_next_batch_passes()


def test_wrong_numbers_and_files_are_named(rig: Rig, tmp_path: Path) -> None:
    assert "Range is 1-6" in rig.run(f"ippc pipeline 7 {tmp_path}/x", ok=False)
    assert "Range is 1-20" in rig.run(f"ippc module 0 {tmp_path}/x", ok=False)
    assert "No such file" in rig.run(f"ippc module 1 {tmp_path}/nothing.yaml", ok=False)


def slot(stream: bytes) -> bytes:
    return (bytes([len(stream)]) + stream).ljust(188, b"\xaa")


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (slot(b"not brotli at all"), Code.BROTLI),
        (b"\xff" * 188, Code.BROTLI),
        # brotli of ff ff ff: valid compression of what is no protobuf message
        (slot(bytes.fromhex("0b0180ffffff03")), Code.CONFIG_INVALID),
    ],
)
def test_a_bad_configuration_is_refused_and_the_active_one_stays(
    rig: Rig, value: bytes, code: Code
) -> None:
    rejects = rig.value("config_rejects")
    before = rig.node.table["pipeline_config_1"].get()
    param = rig.loop.run_until(
        rig.loop.scheduler.spawn(rig.session.remote.find(162, "pipeline_config_1")), 10
    )
    push = rig.session.params.push(162, [PushItem(param=param, value=value)])
    rig.loop.run_until(rig.loop.scheduler.spawn(push), 10)
    assert rig.node.table["pipeline_config_1"].get() == before
    assert rig.value("config_rejects") == rejects + 1
    assert rig.value("log_status") // 1000 == code
    rig.assert_next_batch_passes()


def test_a_missing_module_is_refused_with_its_place(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "missing.yaml"
    path.write_text(PIPELINE + "- order: 2\n  param_id: 20\n  name: nowhere\n")
    said = rig.run(f"ippc pipeline 1 {path}", ok=False)
    assert "node 162 refused pipeline_config_1 and keeps what it had" in said
    assert rig.value("log_status") == 501102
    # Who does not ask does not know.
    rig.run(f"ippc pipeline --no-ack 1 {path}")
    rig.assert_next_batch_passes()


def test_emptying_a_pipeline_ends_its_processes(rig: Rig, tmp_path: Path) -> None:
    path = tmp_path / "other.yaml"
    path.write_text(PIPELINE)
    rig.run(f"ippc pipeline 2 {path}")
    executor = rig.node.executor
    rig.until(lambda: executor.count_hosts(2) == 1 and executor.is_prepared)
    others = executor.count_hosts() - 1
    rig.run(f"set pipeline_config_2 {'00' * 188}")
    rig.until(lambda: executor.count_hosts(2) == 0)
    assert executor.count_hosts() == others
    rig.assert_next_batch_passes()


def test_malformed_queue_messages_are_counted(rig: Rig) -> None:
    bad = rig.value("bad_messages")
    bodies = (b"", b"x", b"\0" * 128, b"DIPB" * 32)
    for body in bodies:
        rig.camera.send(body)
    rig.process()
    assert rig.value("bad_messages") == bad + len(bodies)
    rig.assert_next_batch_passes()


@pytest.mark.parametrize(
    ("changes", "code"),
    [
        ({"segment": "/dipp_nothing_here"}, Code.SHM_ATTACH),
        ({"batch_size": 10**9}, Code.SEGMENT_TOO_SMALL),
        ({"batch_size": 10}, Code.BATCH_INVALID),
        ({"num_images": 9}, Code.BATCH_INVALID),
        ({"pipeline_id": 6}, Code.PIPELINE_NOT_FOUND),
    ],
)
def test_a_message_that_lies_is_quarantined(
    rig: Rig, changes: dict[str, object], code: Code
) -> None:
    quarantined = rig.value("batches_quarantined")
    segment, data = rig.camera.make(PIXELS)
    fields = {
        "num_images": 1, "batch_size": len(data), "pipeline_id": 1, "segment": segment
    } | changes  # fmt: skip
    rig.camera.send(encode_message(BatchMessage(**fields)))
    rig.process()
    assert rig.value("batches_quarantined") == quarantined + 1
    assert rig.value("log_status") // 1000 == code
    rig.assert_next_batch_passes()


def test_samples_are_scaled_for_looking_at() -> None:
    assert to_eight_bits(np.array([[0, 4095]], np.uint16), 12).tolist() == [[0, 255]]
    assert to_eight_bits(np.array([[-1.0, np.nan, 1.0]], np.float32)).tolist() == [[0, 0, 255]]
    eight = np.array([[3]], np.uint8)
    assert to_eight_bits(eight) is eight
