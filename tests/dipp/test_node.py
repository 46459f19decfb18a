"""The whole node with real processes below it and a ground station on its bus."""

from __future__ import annotations

import json
import os
from collections.abc import Coroutine, Iterator
from pathlib import Path
from typing import Any, TypeVar

import pytest

from csp.errors import PeerError
from csp.links.memory import MemoryBus
from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.stack import Stack
from csp.statelock import StateInUse
from csp.vmem.client import VmemClient
from dipp.batch import split_blocks
from dipp.config.codec import encode_module, encode_pipeline
from dipp.config.definition import ModuleConfig, ModuleStep, PipelineDefinition
from dipp.index import fetch_count, fetch_entry
from dipp.metadata import Metadata
from dipp.node import DippNode, NodeConfig
from dipp.rig import GEOMETRY, Camera, unique
from dipp.runner.executor import CrashRecord, start_forge
from dipp.testing import no_leaks

NODE, GROUND = 162, 20
T = TypeVar("T")

MODULES = {
    "negate": """
from dipp.sdk import Manifest, Param
MANIFEST = Manifest("negate", "1", "255 - x", params=(Param("offset", "int", 255, ""),))
def run(batch, params):
    for image in batch.images:
        pixels = image.edit()
        pixels[:] = params["offset"] - pixels
""",
    "segfault": """
import ctypes
def run(batch, params):
    ctypes.string_at(0)
""",
    "spin": """
def run(batch, params):
    while True:
        pass
""",
    "own_error": """
from dipp.sdk import fail
def run(batch, params):
    fail(8, "it is dark")
""",
}
"""Modules of the tests by name."""


class World:
    """A node, a camera and a ground station in one process; modules run in their own."""

    def __init__(self, state: Path, modules: Path, queue: str) -> None:
        self.loop = Loop()
        self.camera = Camera(queue)
        config = NodeConfig(
            state_dir=state,
            queue=queue,
            geometry=GEOMETRY,
            module_dirs=(modules,),
            durable=False,
            status_file=state / "status.json",
            seed=1,
        )
        self.node = DippNode(self.loop, start_forge(), config)
        bus = MemoryBus(self.loop.scheduler)
        self.node.attach(bus.link("NODE"))
        self.ground = Stack(self.loop.scheduler)
        link = bus.link("GROUND")
        interface = self.ground.add_interface("GROUND", GROUND, link.send)
        link.open(self.loop, lambda frame: self.ground.receive(interface, frame))
        self.remote = RemoteTable(ParamClient(self.ground))
        self.vmem = VmemClient(self.ground)

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until(self.loop.scheduler.spawn(coro), 20)

    def get(self, name: str, index: int | None = None) -> Any:
        return self.run(self.remote.get(NODE, name, index))

    def set(self, name: str, value: Any) -> None:
        self.run(self.remote.set(NODE, name, value))

    def configure(self, pipeline: int, *names: str, slot: int = 0) -> None:
        steps = tuple(
            ModuleStep(name=name, param_id=slot, order=i) for i, name in enumerate(names, 1)
        )
        value = encode_pipeline(PipelineDefinition(modules=steps))
        self.set(f"pipeline_config_{pipeline}", value)

    def process(self, mode: int = 2) -> None:
        """Start processing and block until it is over, as a flight plan does."""
        self.set("pipeline_run", mode)
        for _ in range(2000):
            if self.get("pipeline_run") == 0:
                return
            self.loop.tick(0.01)
        raise AssertionError("pipeline_run never became 0")

    def newest(self) -> tuple[Metadata, bytes]:
        data = self.run(self.vmem.ring_download(NODE, "images", -1))
        (block,) = split_blocks(data, 1, len(data))
        return block.metadata, data[block.pixel_offset : block.end]

    def close(self) -> None:
        self.run(self.node.close())
        self.camera.clean()
        self.loop.close()


@pytest.fixture(scope="module")
def modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("modules")
    for name, source in MODULES.items():
        (directory / f"{name}.py").write_text(source)
    return directory


@pytest.fixture(scope="module")
def world(modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    state = tmp_path_factory.mktemp("state")
    with no_leaks():
        world = World(state / "node", modules, unique())
        yield world
        world.close()


def test_the_list_is_that_of_the_flown_node_and_ours_after_it(world: World) -> None:
    specs = world.run(ParamClient(world.ground).download_list(NODE))
    flown = [1, 2, 3, 4, *range(10, 16), *range(30, 50), 99]
    assert [p.spec.id for p in specs[:31]] == flown
    names = {p.spec.id: p.spec.name for p in specs}
    assert (names[1], names[12], names[49]) == (
        "pipeline_run",
        "pipeline_config_3",
        "module_param_20",
    )
    assert all(p.spec.id >= 200 and p.spec.help for p in specs[31:])


def test_a_batch_from_queue_to_ground(world: World) -> None:
    world.configure(1, "negate")
    segment = world.camera.shoot(bytes([0, 10, 255]), obid=42)
    world.process()
    metadata, pixels = world.newest()
    assert pixels == bytes([255, 245, 0])
    assert metadata.obid == 42
    assert not world.camera.exists(segment)
    assert world.get("log_status") == 0
    assert world.get("stage_wall", 0) > 0
    assert world.get("stage_memory", 0) > 0
    count = world.run(fetch_count(world.ground, NODE))
    entry = world.run(fetch_entry(world.ground, NODE, count - 1))
    assert entry is not None
    assert (entry.size_bytes, entry.obid) == (3, 42)


def test_a_parameter_push_reaches_the_next_batch(world: World) -> None:
    world.configure(1, "negate", slot=5)
    world.set("module_param_5", encode_module(ModuleConfig(parameters=(("offset", 100),))))
    world.camera.shoot(bytes([1, 2]))
    world.process()
    assert world.newest()[1] == bytes([99, 98])


FAILURES = [
    (("segfault",), 600201),
    (("negate", "segfault"), 600202),
    (("negate", "own_error", "negate"), 708202),
]


@pytest.mark.parametrize(("names", "status"), FAILURES)
def test_a_failing_module_costs_one_batch(
    world: World, names: tuple[str, ...], status: int
) -> None:
    before = world.get("batches_quarantined"), world.get("batches_delivered")
    world.configure(2, *names)
    world.configure(1, "negate")
    world.camera.shoot(b"bad", pipeline=2)
    world.camera.shoot(b"good")
    world.process()
    assert world.get("log_status") == status
    assert world.newest()[1] == bytes(255 - x for x in b"good")
    assert (world.get("batches_quarantined"), world.get("batches_delivered")) == (
        before[0] + 1,
        before[1] + 1,
    )
    crash = CrashRecord.decode(world.get("crash_1"))
    assert (crash.code, crash.module) == (status // 1000, status % 100)


def test_a_timeout_counts_from_the_start_of_the_module(world: World) -> None:
    world.set("module_timeout", 1)
    world.configure(3, "spin")
    world.camera.shoot(b"abc", pipeline=3)
    start = world.loop.scheduler.now
    world.process(1)
    assert world.get("log_status") == 602301
    assert 0.9 < world.loop.scheduler.now - start < 4
    world.set("module_timeout", 0)


def test_a_running_module_can_be_killed_and_the_bus_lives_meanwhile(world: World) -> None:
    world.configure(3, "spin")
    world.camera.shoot(b"abc", pipeline=3)
    world.set("pipeline_run", 1)
    while not world.node.executor.current:
        world.loop.tick(0.01)
    assert world.run(world.ground.request(NODE, 1, b"ping", timeout_s=1.0)) == b"ping"
    assert world.get("batch_running") == 1
    world.set("batch_abort", 1)
    while world.get("pipeline_run"):
        world.loop.tick(0.01)
    assert world.get("log_status") // 1000 == 606
    assert world.get("batch_abort") == 0


def test_a_rejected_push_reads_back_as_what_still_runs(world: World) -> None:
    world.configure(4, "negate")
    good = world.get("pipeline_config_4")
    world.configure(4, "negate", "no_such_module")
    assert world.get("pipeline_config_4") == good
    assert world.get("log_status") == 501402
    world.camera.shoot(b"\x01", pipeline=4)
    world.process()
    assert world.newest()[1] == b"\xfe"


def test_an_update_in_mid_pipeline_reaches_the_next_batch(world: World, modules: Path) -> None:
    (modules / "slow.py").write_text("import time\ndef run(batch, params):\n    time.sleep(0.3)\n")
    world.configure(5, "slow")
    world.camera.shoot(b"\x01", pipeline=5)
    world.camera.shoot(b"\x02", pipeline=5)
    world.set("pipeline_run", 2)
    while not world.node.executor.current:
        world.loop.tick(0.01)
    world.configure(5, "negate")
    while world.get("pipeline_run"):
        world.loop.tick(0.01)
    pixels = [world.run(world.vmem.ring_download(NODE, "images", index))[-1:] for index in (-2, -1)]
    assert pixels == [b"\x01", b"\xfd"]


def test_a_configuration_may_also_come_as_a_memory_upload(world: World) -> None:
    value = encode_pipeline(PipelineDefinition(modules=(ModuleStep(name="negate", order=1),)))
    areas = world.run(world.vmem.list(NODE))
    assert [area.name for area in areas] == ["stora", "image"]
    address = areas[0].address + 188 * 5
    world.run(world.vmem.upload(NODE, address, value))
    world.camera.shoot(b"\x03", pipeline=6)
    world.process()
    assert world.newest()[1] == b"\xfc"
    with pytest.raises(PeerError):
        world.run(world.vmem.upload(NODE, address, b"\x05" + b"\xff" * 187))
    assert world.get("log_status") == 516000
    assert world.get("pipeline_config_6") == value


def test_the_status_file_is_json(world: World) -> None:
    status = json.loads((world.node.state.path / "status.json").read_text())
    assert status["parameters"]["batches_taken"] >= 0
    assert set(status["totals"]) >= {"taken", "delivered", "quarantined", "dropped"}


def test_pings_pass_during_a_flood_of_batches(world: World) -> None:
    world.configure(1, "negate")
    for number in range(10):
        world.camera.shoot(bytes([number]))
    world.set("pipeline_run", 2)
    replies = 0
    while world.get("pipeline_run"):
        replies += world.run(world.ground.request(NODE, 1, b"x", timeout_s=1.0)) == b"x"
    assert replies
    assert world.newest()[1] == bytes([246])


def test_a_second_node_on_the_same_state_refuses(world: World) -> None:
    forge = start_forge()
    try:
        with pytest.raises(StateInUse, match=f"in use by another node \\(process {os.getpid()}\\)"):
            DippNode(world.loop, forge, world.node.config)
    finally:
        forge.close()


def test_configuration_and_totals_survive_a_restart(modules: Path, tmp_path: Path) -> None:
    queue = unique()
    world = World(tmp_path / "node", modules, queue)
    world.configure(6, "negate")
    world.set("module_timeout", 17)
    world.camera.shoot(b"\x00", pipeline=6)
    world.process()
    world.close()
    again = World(tmp_path / "node", modules, queue)
    assert again.get("module_timeout") == 17
    assert again.get("batches_delivered") == 1
    assert again.newest()[1] == b"\xff"
    again.camera.shoot(b"\x01", pipeline=6)
    again.process()
    assert again.newest()[1] == b"\xfe"
    again.close()


def test_two_workers_take_two_batches_at_a_time_and_every_one_gets_its_fate(world: World) -> None:
    world.set("workers", 2)
    world.configure(3, "spin")
    for _ in range(3):
        world.camera.shoot(b"abc", pipeline=3)
    before = world.get("batches_quarantined")
    world.set("pipeline_run", 2)
    while world.get("batch_running") < 2 or len(world.node.executor.current) < 2:
        world.loop.tick(0.01)
    assert world.get("queue_depth") <= 1
    # Only what was taken ends; the third one stays in the queue.
    world.set("pipeline_run", 0)
    world.set("batch_abort", 1)
    while world.node.worker.is_busy:
        world.loop.tick(0.01)
    assert world.get("batches_quarantined") == before + 2
    world.set("workers", 0)
    assert world.node.executor.workers == world.node.config.limits.workers
    world.set("pipeline_run", 2)
    while world.get("batch_running") < 1 or not world.node.executor.current:
        world.loop.tick(0.01)
    world.set("batch_abort", 1)
    while world.get("pipeline_run"):
        world.loop.tick(0.01)
    assert world.get("batches_quarantined") == before + 3
