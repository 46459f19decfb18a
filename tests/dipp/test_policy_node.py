"""The policy in a whole node: real modules that really fail, uploads, restarts, the bus."""

from __future__ import annotations

import os
import platform
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from csp.files.client import FilesClient
from dipp.config.codec import encode_module, encode_pipeline
from dipp.config.definition import Fallback, ModuleConfig, ModuleStep, PipelineDefinition
from dipp.eventlog import read_events
from dipp.message import BatchMessage, encode_message
from dipp.metadata import Metadata
from dipp.rig import unique
from dipp.runner.executor import CrashRecord
from dipp.sandbox import faultaddress
from dipp.testing import no_leaks
from tests.dipp.test_node import NODE, World

FAILING = "def run(batch, params):\n    raise ValueError('it is broken')\n"
SPINNING = "def run(batch, params):\n    while True:\n        pass\n"
NEGATING = """
def run(batch, params):
    for image in batch.images:
        pixels = image.edit()
        pixels[:] = 255 - pixels
"""
# Fails on images whose first pixel is zero, adds one to the others.
PICKY = """
def run(batch, params):
    for image in batch.images:
        pixels = image.edit()
        if pixels.flat[0] == 0:
            raise ValueError('too dark')
        pixels += 1
"""
FAULTING = "import ctypes\ndef run(batch, params):\n    ctypes.string_at(64)\n"
MODULES = {
    "fault": FAULTING,
    "broken": FAILING,
    "spin": SPINNING,
    "negate": NEGATING,
    "picky": PICKY,
}


class PolicyWorld(World):
    """A node with the words of this file."""

    def set_pipeline(
        self, pipeline: int, *names: str, fallback: Fallback = Fallback.UNSET, slot: int = 0
    ) -> None:
        steps = tuple(
            ModuleStep(name=name, param_id=slot, order=i, fallback=fallback)
            for i, name in enumerate(names, 1)
        )
        value = encode_pipeline(PipelineDefinition(modules=steps))
        self.set(f"pipeline_config_{pipeline}", value)

    def shoot(self, *batches: bytes, pipeline: int = 1) -> None:
        """Process batches of one image each, one after the other."""
        for pixels in batches:
            self.camera.shoot(pixels, pipeline=pipeline)
            self.process()

    def upload(self, name: str, content: str) -> None:
        client = FilesClient(self.ground, NODE)
        plan = self.run(client.plan(name, content.encode(), {}))
        self.run(client.upload(plan))

    def until(self, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        """Run the node until something is so."""
        end = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < end, "it did not happen in time"
            self.loop.tick(0.01)

    def counts(self) -> tuple[int, int]:
        """Delivered and quarantined."""
        return self.get("batches_delivered"), self.get("batches_quarantined")

    def events(self, name: str) -> list[dict[str, Any]]:
        found = read_events(self.node.state.log)
        return [event for event in found if event["event"] == name]


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("modules")
    for name, source in MODULES.items():
        (directory / f"{name}.py").write_text(source)
    return directory


@pytest.fixture
def world(modules: Path, tmp_path: Path) -> Iterator[PolicyWorld]:
    with no_leaks():
        world = PolicyWorld(tmp_path / "node", modules, unique())
        world.set("raw_thumbnail", 0)
        yield world
        world.close()


def restart(world: PolicyWorld, modules: Path) -> PolicyWorld:
    state, queue = world.node.config.state_dir, world.node.config.queue
    world.close()
    return PolicyWorld(state, modules, queue)


def test_the_third_failure_quarantines_the_module_and_degrades_the_pipeline(
    world: PolicyWorld,
) -> None:
    """Fault 69: intensity reached, telemetry says so, re-arm works."""
    world.set_pipeline(1, "broken")
    world.set_pipeline(2, "negate")
    world.shoot(b"1", b"2")
    assert (world.get("modules_quarantined"), world.get("pipelines_degraded")) == (0, 0)
    world.shoot(b"3")
    assert (world.get("modules_quarantined"), world.get("pipelines_degraded")) == (1, 1)
    assert world.get("module_state") == "1/broken skip"
    (event,) = world.events("module_quarantined")
    assert (event["pipeline"], event["module"]) == (1, "broken")

    crashes = world.get("crash_total")
    world.shoot(b"4")
    assert world.get("log_status") == 608101
    assert world.get("crash_total") == crashes, "nothing ran, so nothing crashed"
    assert world.get("batches_refused") == 1
    world.shoot(b"\x05", pipeline=2)
    assert world.counts() == (1, 4)

    world.set("module_rearm", 1)
    assert (world.get("modules_quarantined"), world.get("module_rearm")) == (0, 0)
    world.shoot(b"6")
    assert world.get("log_status") == 601101


def test_an_order_lets_a_forge_that_died_too_often_start_again(world: PolicyWorld) -> None:
    world.set_pipeline(1, "negate")
    executor = world.node.executor
    for _ in range(4):
        forge = executor.forge_pid
        os.kill(forge, signal.SIGKILL)
        # It is gone once the node has noticed.
        world.until(lambda gone=Path(f"/proc/{forge}"): not gone.exists())
    assert executor.stats.forge_restarts == 3
    world.shoot(b"\x01")
    assert world.counts() == (0, 1)
    assert "see module_rearm" in CrashRecord.decode(world.node.table["crash_1"].get()).last_log
    world.set("module_rearm", 1)
    world.shoot(b"\x01")
    assert world.counts() == (0, 2)
    world.set("module_rearm", 255)
    world.shoot(b"\x01")
    assert world.counts() == (1, 2)
    assert executor.stats.forge_restarts == 4


def test_each_way_to_rearm(world: PolicyWorld) -> None:
    def quarantine() -> None:
        world.shoot(b"1", b"2", b"3")
        assert world.get("modules_quarantined") == 1

    world.set("module_param_3", encode_module(ModuleConfig(parameters=(("a", 1),))))
    world.set_pipeline(1, "broken", slot=3)
    quarantine()
    world.set("module_rearm", 2)
    assert world.get("modules_quarantined") == 1, "another pipeline's"
    world.set("module_rearm", 255)
    assert world.get("modules_quarantined") == 0
    quarantine()
    world.set_pipeline(1, "broken", slot=3)
    assert world.get("modules_quarantined") == 0, "the same configuration again"
    quarantine()
    world.set("module_param_3", encode_module(ModuleConfig(parameters=(("a", 2),))))
    assert world.get("modules_quarantined") == 0, "new parameters"
    quarantine()
    world.upload("broken.py", NEGATING)
    assert world.get("modules_quarantined") == 0
    world.shoot(b"\x01")
    assert world.newest()[1] == b"\xfe", "a new module file"


def test_identity_passes_the_stage_unchanged_and_marks_the_image(world: PolicyWorld) -> None:
    world.set_pipeline(1, "negate", "broken", "negate", fallback=Fallback.IDENTITY)
    world.shoot(b"\x01", b"\x02", b"\x03")
    assert world.counts() == (0, 3)
    world.shoot(b"\x04")
    metadata, pixels = world.newest()
    assert pixels == b"\x04"
    assert metadata.item("fb") == "identity:broken"
    assert world.get("fallback_runs") == 1
    assert world.get("stage_wall", 0) > 0
    assert world.get("stage_wall", 1) == 0, "positions stay those configured"
    assert world.get("stage_wall", 2) > 0


def test_a_pipeline_of_identities_passes_images_as_they_came(world: PolicyWorld) -> None:
    world.set_pipeline(1, "broken", fallback=Fallback.IDENTITY)
    world.shoot(b"\x01", b"\x02", b"\x03", b"\x04")
    assert world.newest()[1] == b"\x04"
    assert world.counts() == (1, 3)


def test_previous_uses_the_replaced_version_then_the_shipped_one(world: PolicyWorld) -> None:
    world.set("trial_batches", 0)
    world.upload("negate.py", NEGATING.replace("255", "100"))
    world.upload("negate.py", FAILING)
    world.set_pipeline(1, "negate", fallback=Fallback.PREVIOUS)
    world.shoot(b"\x01", b"\x02", b"\x03", b"\x04")
    metadata, pixels = world.newest()
    assert pixels == bytes([96])
    assert metadata.item("fb") == "previous:negate"
    assert world.counts() == (1, 3)

    world.upload("negate.py", FAILING + "# another one\n")
    world.shoot(b"\x01", b"\x02", b"\x03", b"\x04")
    # The one before it is known to fail, so the shipped one runs.
    assert world.newest()[1] == bytes([251])
    assert world.counts() == (2, 6)


def test_previous_without_another_version_refuses(world: PolicyWorld) -> None:
    world.set_pipeline(1, "broken", fallback=Fallback.PREVIOUS)
    world.shoot(b"\x01", b"\x02", b"\x03", b"\x04")
    assert world.get("log_status") == 608101


def test_none_never_stops_trying(world: PolicyWorld) -> None:
    world.set_pipeline(1, "picky", fallback=Fallback.NONE)
    world.shoot(*[b"\x00"] * 4, b"\x05")
    assert world.newest()[1] == b"\x06"
    assert world.get("modules_quarantined") == 0


def test_a_ground_station_without_the_field_names_the_fallback_in_a_slot(
    world: PolicyWorld,
) -> None:
    config = ModuleConfig(parameters=(("_fallback", "identity"),))
    world.set("module_param_7", encode_module(config))
    world.set_pipeline(1, "broken", slot=7)
    world.shoot(b"\x01", b"\x02", b"\x03", b"\x04")
    assert world.newest()[1] == b"\x04"


def test_a_timeout_is_tried_once_more_and_both_are_reported(world: PolicyWorld) -> None:
    world.set("module_timeout", 1)
    world.set_pipeline(1, "spin")
    world.shoot(b"1")
    assert world.get("log_status") == 602101
    assert (world.get("batch_retries"), world.get("crash_total")) == (1, 2)
    assert world.counts() == (0, 1)
    world.set("retry_limit", 0)
    world.set("module_rearm", 1)
    world.shoot(b"2")
    assert (world.get("batch_retries"), world.get("crash_total")) == (1, 3)


# -- trials of uploads


def test_an_upload_that_fails_its_first_two_batches_is_rolled_back(world: PolicyWorld) -> None:
    world.set_pipeline(1, "negate")
    world.upload("negate.py", NEGATING.replace("255", "100"))
    world.shoot(b"\x01")
    assert world.get("trials") == "", "a success ends the trial"
    world.upload("negate.py", FAILING)
    assert world.get("trials") == "negate.py 0/2"
    world.shoot(b"\x01")
    assert world.get("trials") == "negate.py 1/2"
    world.shoot(b"\x01")
    assert world.get("rollbacks") == 1
    (event,) = world.events("rollback")
    assert event["file"] == "negate.py"
    world.shoot(b"\x01")
    assert world.newest()[1] == bytes([99])
    assert world.counts() == (2, 2)


def test_the_first_upload_of_a_shipped_module_gives_way_to_the_shipped_one(
    world: PolicyWorld,
) -> None:
    world.set_pipeline(1, "identity")
    world.upload("identity.py", FAILING)
    world.shoot(b"\x01", b"\x02", b"\x03")
    assert world.newest()[1] == b"\x03"
    assert (world.get("rollbacks"), world.counts()) == (1, (1, 2))
    assert not (world.node.state.active_modules / "identity.py").exists()
    kept = world.node.state.modules / "previous" / "identity.py"
    assert kept.read_text() == FAILING, "the operator may still put it back"


def test_two_bad_versions_do_not_take_turns(world: PolicyWorld) -> None:
    world.set("fail_limit", 0)
    world.upload("fresh.py", FAILING)
    world.upload("fresh.py", FAILING + "# two\n")
    world.set_pipeline(1, "fresh")
    world.shoot(*[b"\x01"] * 6)
    assert world.get("rollbacks") == 1
    assert len(world.events("rollback_impossible")) == 1


def test_a_model_named_in_the_settings_is_on_trial_like_a_module(world: PolicyWorld) -> None:
    source = """
from pathlib import Path
def run(batch, params):
    if Path(params["model"]).read_text() != "good":
        raise ValueError("bad model")
"""
    path = world.node.state.active_modules / "net.tflite"
    world.upload("reader.py", source)
    world.upload("net.tflite", "good")
    config = ModuleConfig(parameters=(("model", str(path)),))
    world.set("module_param_1", encode_module(config))
    world.set_pipeline(1, "reader", slot=1)
    world.shoot(b"\x01")
    world.upload("net.tflite", "bad")
    world.shoot(b"\x02", b"\x03", b"\x04")
    assert path.read_text() == "good"
    assert world.counts() == (2, 2)
    assert [event["file"] for event in world.events("rollback")] == ["net.tflite"]


def test_a_trial_survives_a_restart_and_so_does_its_end(
    world: PolicyWorld, modules: Path, tmp_path: Path
) -> None:
    own = PolicyWorld(tmp_path / "own", modules, unique())
    own.set_pipeline(1, "negate")
    own.upload("negate.py", NEGATING.replace("255", "100"))
    own.shoot(b"\x01")
    own.upload("negate.py", FAILING)
    own.shoot(b"\x01")
    own = restart(own, modules)
    assert own.get("trials") == "negate.py 1/2"
    own.shoot(b"\x01")
    assert own.get("rollbacks") == 1
    own = restart(own, modules)
    own.shoot(b"\x01")
    assert own.newest()[1] == bytes([99])
    assert own.get("rollbacks") == 0
    own.close()


# -- quarantine and thumbnails


def test_quarantined_batches_are_listed_replayed_and_deleted_over_the_bus(
    world: PolicyWorld,
) -> None:
    world.set_pipeline(1, "picky")
    world.shoot(b"\x00\x01", b"\x00\x02")
    world.set("quarantine_page", 0)
    assert world.get("quarantine_batches")[:3] == [1, 2, 0]
    assert world.get("quarantine_status")[:3] == [601101, 601101, 0]
    assert world.get("quarantine_sizes")[0] > 2
    assert world.get("quarantine_times")[0] > 1_600_000_000
    world.set("quarantine_page", 1)
    assert world.get("quarantine_batches")[0] == 0

    world.set_pipeline(1, "negate")
    world.set("quarantine_replay", 1)
    while world.node.policy.replays.is_busy:
        world.loop.tick(0.01)
    assert world.newest()[1] == bytes([255, 254])
    world.set("quarantine_discard", 2)
    while world.node.policy.replays.is_busy:
        world.loop.tick(0.01)
    assert world.get("quarantine_count") == 0
    names = ("batches_taken", "batches_delivered", "batches_quarantined", "batches_dropped")
    assert [world.get(name) for name in names] == [2, 1, 0, 1]
    assert world.get("replays") == 1


def test_a_replay_runs_beside_the_queue(world: PolicyWorld) -> None:
    world.set_pipeline(1, "picky")
    world.shoot(b"\x00")
    world.set_pipeline(1, "negate")
    world.set_pipeline(2, "negate")
    for number in range(5):
        world.camera.shoot(bytes([number]), pipeline=2)
    world.set("quarantine_replay", 1)
    world.process()
    while world.node.policy.replays.is_busy:
        world.loop.tick(0.01)
    assert world.counts() == (6, 0)


def image(world: PolicyWorld, position: int) -> tuple[Metadata, int]:
    element = world.node.ring.element(position)
    assert element is not None
    block = world.node.ring.describe(element)
    return block.metadata, block.pixel_size


def test_images_whose_chain_failed_come_down_as_thumbnails(world: PolicyWorld) -> None:
    world.set("raw_thumbnail", 1)
    world.set_pipeline(1, "broken")
    before = world.get("ring_count")
    world.camera.shoot(bytes(range(250)), bytes(100), obid=9)
    world.process()
    assert world.get("ring_count") == before + 2
    assert world.get("raw_images") == 2
    metadata, size = image(world, -2)
    assert (metadata.width, metadata.height, metadata.obid) == (128, 1, 9)
    assert size == 128
    assert metadata.item("raw_batch") == world.get("batch_id")
    assert metadata.item("raw_status") == 601101
    assert metadata.item("full_width") == 250
    assert world.counts() == (0, 1)
    assert world.get("images_delivered") == 0


def test_what_is_no_picture_leaves_no_thumbnail_and_stops_nothing(world: PolicyWorld) -> None:
    world.set("raw_thumbnail", 1)
    world.set_pipeline(1, "broken")
    name, data = world.camera.make(b"ok")
    message = BatchMessage(num_images=0, batch_size=len(data), pipeline_id=1, segment=name)
    world.camera.send(encode_message(message))
    world.process()
    assert (world.get("raw_failures"), world.get("raw_images"), world.counts()) == (1, 0, (0, 1))
    world.set_pipeline(1, "negate")
    world.shoot(b"\x01")
    assert world.newest()[1] == b"\xfe"


def test_the_settings_have_defaults_and_survive_a_restart(modules: Path, tmp_path: Path) -> None:
    names = ("fail_limit", "fail_period", "retry_limit", "trial_batches", "raw_thumbnail")
    world = PolicyWorld(tmp_path / "state", modules, unique())
    assert [world.get(name) for name in names] == [3, 60, 1, 2, 1]
    assert world.get("quarantine_limit") == 256 << 20
    for name in names:
        world.set(name, 0)
    world.set("fail_period", 5)
    world = restart(world, modules)
    assert [world.get(name) for name in names] == [0, 5, 0, 0, 0]
    world.close()


def test_the_record_of_a_crash_holds_all_that_is_known(world: PolicyWorld) -> None:
    world.set_pipeline(1, "broken")
    world.shoot(b"1")
    crash = CrashRecord.decode(world.get("crash_1"))
    assert (crash.exception, crash.line, crash.batch_id) == ("ValueError", 2, 1)
    assert crash.last_log == "ValueError: it is broken"
    world.set_pipeline(1, "negate", "fault")
    world.shoot(b"1")
    crash = CrashRecord.decode(world.get("crash_1"))
    assert (crash.pipeline, crash.module, crash.name, crash.code) == (1, 2, "fault", 600)
    assert (crash.signal, crash.exception, crash.line) == (11, "SIGSEGV", 3)
    assert len(crash.module_hash) == 8
    assert crash.peak_rss_kb > 0
    assert crash.wall_ms > 0
    if platform.machine() in faultaddress.CODE:
        assert crash.fault_address == 64
