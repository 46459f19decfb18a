"""A whole node in this process, with a real process tree below it, a camera and a ground. Driver.

Quicker than a daemon and open to look into, for rows that need no kill of the node itself.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

from csp.links.memory import MemoryBus
from csp.loop import Loop
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.param.types import Value
from csp.stack import Stack
from csp.vmem.client import VmemClient
from dipp.config.codec import encode_pipeline
from dipp.config.definition import ModuleStep, PipelineDefinition
from dipp.node import DippNode, NodeConfig
from dipp.rig import GEOMETRY, Camera, unique
from dipp.runner.executor import Limits, start_forge

NODE, GROUND = 162, 20
_DEADLINE_S = 30.0
T = TypeVar("T")

NEGATE = """\
def run(batch, params):
    for image in batch.images:
        pixels = image.edit()
        pixels[:] = 255 - pixels
"""
ADD_ONE = NEGATE.replace("255 - pixels", "pixels + 1")
SLOW = "import time\ndef run(batch, params):\n    time.sleep(0.4)\n"
CRASHES = "import os\ndef run(batch, params):\n    os.abort()\n"
_MODULES = {"negate": NEGATE, "add_one": ADD_ONE, "slow": SLOW, "crashes": CRASHES}


def pipeline_value(*names: str, slot: int = 0) -> bytes:
    """Return the configuration of a pipeline of these modules; `slot` has their parameters."""
    steps = tuple(ModuleStep(name=name, param_id=slot, order=i) for i, name in enumerate(names, 1))
    return encode_pipeline(PipelineDefinition(modules=steps))


class World:
    """A node, a camera and a ground station; a context manager that ends all of it."""

    def __init__(self, root: Path, *, limits: Limits | None = None, queue: str = "") -> None:
        """Start everything in `root`, which may hold the state of an earlier world."""
        self.modules, self.state = root / "modules", root / "state"
        self.modules.mkdir(parents=True, exist_ok=True)
        for name, source in _MODULES.items():
            (self.modules / f"{name}.py").write_text(source)
        self.loop = Loop()
        self.camera = Camera(queue or unique())
        forge = start_forge()
        config = NodeConfig(
            state_dir=self.state, queue=self.camera.queue, geometry=GEOMETRY,
            module_dirs=(self.modules,), durable=False, seed=1,
            limits=limits or Limits(grace_s=1.0),
        )  # fmt: skip
        self.node = DippNode(self.loop, forge, config)
        self.bus = bus = MemoryBus(self.loop.scheduler)
        self.node.attach(bus.link("NODE"))
        self.ground = Stack(self.loop.scheduler)
        link = bus.link("GROUND")
        interface = self.ground.add_interface("GROUND", GROUND, link.send)
        link.open(self.loop, lambda frame: self.ground.receive(interface, frame))
        self.remote = RemoteTable(ParamClient(self.ground))
        self.vmem = VmemClient(self.ground)

    def __enter__(self) -> World:
        return self

    def __exit__(self, *exc: object) -> None:
        self.do(self.node.close())
        self.camera.clean()
        self.loop.close()

    def do(self, coro: Coroutine[object, object, T]) -> T:
        """Run something of the ground station or the node. Raises what it raises, NoResponse."""
        return self.loop.run_until(self.loop.scheduler.spawn(coro), _DEADLINE_S)

    def get(self, name: str) -> Value:
        """Pull a parameter over the bus. Raises PeerError."""
        return self.do(self.remote.get(NODE, name))

    def set(self, name: str, value: Value) -> None:
        """Push a parameter over the bus. Raises PeerError."""
        self.do(self.remote.set(NODE, name, value))

    def configure(self, pipeline: int, *names: str) -> None:
        """Set a pipeline to these modules."""
        self.set(f"pipeline_config_{pipeline}", pipeline_value(*names))

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Run the loop until something is so. Raises TimeoutError."""
        deadline = time.monotonic() + _DEADLINE_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {_DEADLINE_S:g} s: {what}")
            self.loop.tick(0.01)

    def process(self, mode: int = 2) -> None:
        """Process the queue to its end."""
        self.set("pipeline_run", mode)
        self.until(lambda: self.get("pipeline_run") == 0, "pipeline_run is 0 again")

    def pixels(self, position: int = -1) -> bytes:
        """Download an image and return its last byte, which is its last pixel."""
        return self.do(self.vmem.ring_download(NODE, "images", position))[-1:]

    def good_batch(self, pipeline: int = 6) -> None:
        """Bring a batch through a module and look at the result. Raises AssertionError."""
        self.configure(pipeline, "negate")
        self.camera.shoot(b"\x01", pipeline=pipeline)
        self.process()
        if self.pixels() != b"\xfe":
            raise AssertionError(f"the next good batch gave {self.pixels()!r}, not b'\\xfe'")
