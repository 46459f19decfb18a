"""Start the whole emulated payload: both hubs, the radio link, and every node as a process."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from csp.links.options import HubAddress
from csp.links.zmq import ZmqLink
from csp.shell.main import open_session
from csp.shell.session import ProgressFactory, Session
from sim import config
from sim.figures import PayloadConfig
from sim.payload.fleet import Fleet, FleetError, NodeSpec

_HUB_WAIT_S = 15.0
_NODE_WAIT_S = 30.0
_PING_S = 0.25
_SPACE_ADDRESS = 33
# Imported once and shared by all nodes as copy-on-write pages.
_PRELOAD = (
    "numpy", "cv2", "zmq", "google.protobuf", "csp.node", "csp.links.options", "csp.hub",
    "csp.vmem.file", "dipp.node", "dipp.serve", "dish.node", "dish.cli", "sim.nodes",
    "sim.camera.cli", "sim.payload.hub",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Where a payload lives and what time it is there.

    `state` holds a folder per node; `rate` is mission seconds per real second.
    """

    state: Path
    settings: PayloadConfig
    config_file: Path | None
    rate: float
    start_monotonic: float
    queue: str

    @property
    def pids_file(self) -> Path:
        """The processes that stop while the A53 sleeps."""
        return self.state / "a53-box.json"

    @property
    def previews(self) -> Path:
        """Small pictures of the raw frames, as the camera took them."""
        return self.state / "previews"

    @property
    def link_stats_file(self) -> Path:
        """Counters of the radio link, as JSON."""
        return self.state / "link.json"

    def mission_unix(self, monotonic_s: float) -> float:
        """Mission time at a reading of the monotonic clock."""
        return self.settings.clock(self.start_monotonic).unix(monotonic_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """A running payload: its processes and where to reach it."""

    layout: Layout
    fleet: Fleet
    ground_hub: HubAddress
    space_hub: HubAddress


def make_layout(state: Path, config_file: Path | None, rate: float | None) -> Layout:
    """Load the configuration and fix the start of mission time to now."""
    settings = config.load(config_file)
    if rate is not None:
        settings = settings.with_mission(rate=rate)
    return Layout(
        state=state,
        settings=settings,
        config_file=config_file,
        rate=settings.mission.rate,
        start_monotonic=time.monotonic(),
        queue=f"/dipp_{os.getpid()}",
    )


@contextmanager
def running(layout: Layout, say: Callable[[str], None] = lambda text: None) -> Iterator[Payload]:
    """Start everything, wait until every node answers, and end it all afterwards.

    Raises FleetError with the last words of a node that does not come up.
    """
    logs = layout.state / "logs"
    layout.state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with Fleet(logs, preload=_PRELOAD) as fleet:
        say("starting the hubs and the nodes")
        space = _start_hub(fleet, "space-hub", layout)
        ground = _start_hub(fleet, "ground-hub", layout)
        for spec in node_specs(layout, space, ground):
            fleet.start(spec)
        _write_box(layout, fleet)
        payload = Payload(layout=layout, fleet=fleet, ground_hub=ground, space_hub=space)
        _await_nodes(payload)
        yield payload


def _write_box(layout: Layout, fleet: Fleet) -> None:
    """Say which processes sleep with the A53."""
    box = {name: fleet.nodes[name].pid for name in ("dipp", "camera")}
    staged = layout.pids_file.with_suffix(".new")
    staged.write_text(json.dumps(box))
    os.replace(staged, layout.pids_file)


def _start_hub(fleet: Fleet, name: str, layout: Layout) -> HubAddress:
    ports_file = layout.state / f"{name}.json"
    ports_file.unlink(missing_ok=True)
    entry = "sim.payload.hub:main"
    fleet.start(NodeSpec(name=name, entry=entry, argv=(str(ports_file),)))
    deadline = time.monotonic() + _HUB_WAIT_S
    while not ports_file.exists():
        _complain_if_dead(fleet)
        if time.monotonic() > deadline:
            raise FleetError(f"the {name} did not start; see {fleet.log_dir / name}.log")
        time.sleep(0.005)
    ports = json.loads(ports_file.read_text())
    return HubAddress(host="127.0.0.1", sub_port=ports["sub"], pub_port=ports["pub"])


def node_specs(layout: Layout, space: HubAddress, ground: HubAddress) -> list[NodeSpec]:
    """Return the command line of every node."""
    numbers = layout.settings.nodes
    common = ["--hub", str(space)]
    mission = [f"--start-monotonic={layout.start_monotonic!r}", f"--rate={layout.rate!r}"]
    if layout.config_file is not None:
        mission += ["--config", str(layout.config_file)]

    def simulated(name: str, *words: str) -> NodeSpec:
        argv = (name, *mission, *common, *words)
        return NodeSpec(name=name, entry="sim.nodes:main", argv=argv)

    state = layout.state
    return [
        simulated(
            "link", "--ground-hub", str(ground), "--stats", str(layout.link_stats_file),
            "--state", str(state / "link"),
        ),
        simulated("gnss"),
        simulated("eps"),
        simulated("a53", "--box-pids", str(layout.pids_file), "--state", str(state / "a53")),
        simulated("radio", "--state", str(state / "radio")),
        NodeSpec(
            name="dish",
            entry="dish.cli:main",
            argv=(
                "serve", *common, "--address", str(numbers.dish), "--gnss", str(numbers.gnss),
                "--a53", str(numbers.a53), "--state", str(state / "dish"), *_power(layout),
            ),
        ),
        NodeSpec(
            name="dipp",
            entry="dipp.cli:main",
            argv=(
                "serve", *common, "--address", str(numbers.dipp), "--state", str(state / "dipp"),
                "--queue", layout.queue,
            ),
        ),
        NodeSpec(
            name="camera",
            entry="sim.camera.cli:main",
            argv=(
                *mission, *common, "--address", str(numbers.camera), "--queue", layout.queue,
                "--state", str(state / "camera"), "--previews", str(layout.previews),
            ),
        ),
    ]  # fmt: skip


def _power(layout: Layout) -> list[str]:
    """Return what lets the DISH node predict power; `power_reserve` switches it on."""
    words = ["--eps", str(layout.settings.nodes.eps), "--power", "sim.forecast:model"]
    words += ["--power-option", f"rate={layout.rate!r}"]
    if layout.config_file is not None:
        words += ["--power-option", f"config={layout.config_file}"]
    return words


def _await_nodes(payload: Payload) -> None:
    """Ping every node over the space hub until it answers. Raises FleetError."""
    numbers = payload.layout.settings.nodes
    missing = {name: number for name, number in numbers.names().items() if name != "ground"}
    deadline = time.monotonic() + _NODE_WAIT_S
    # Not an address of the ground: what is asked here must not count as radio traffic.
    with session_on(payload.space_hub, _SPACE_ADDRESS, out=lambda text: None) as session:
        while missing:
            for name, number in list(missing.items()):
                if session.run_line(f"ping -t {_PING_S * 1000:.0f} {number}"):
                    del missing[name]
            _complain_if_dead(payload.fleet)
            if missing and time.monotonic() > deadline:
                names = ", ".join(missing)
                raise FleetError(f"no answer from {names}; see {payload.fleet.log_dir}")


def _complain_if_dead(fleet: Fleet, *, may_be_off: bool = False) -> None:
    for node in fleet.poll():
        if may_be_off and node.exit_status == 0:
            print(f"node {node.spec.name} was shut down", flush=True)
            continue
        log = fleet.log_dir / f"{node.spec.name}.log"
        tail = log.read_text(errors="replace").strip().splitlines()[-6:] if log.exists() else []
        words = "\n  ".join(tail) or "no output"
        raise FleetError(f"node {node.spec.name} ended with status {node.exit_status}:\n  {words}")


@contextmanager
def session_on(
    hub: HubAddress,
    address: int,
    *,
    out: Callable[[str], None] = print,
    progress: ProgressFactory | None = None,
    timeout_s: float = 1.0,
) -> Iterator[Session]:
    """Open a shell session on a hub, with node names of the shipped payload known."""
    link = ZmqLink(hub.host, address=address, sub_port=hub.sub_port, pub_port=hub.pub_port)
    with open_session(
        link, address=address, out=out, progress=progress, timeout_s=timeout_s
    ) as session:
        yield session


def wait_for_end(payload: Payload) -> int:
    """Block until Ctrl-C, SIGTERM or the death of a node. Returns the exit status.

    A node that an operator shut down stays off; one that rebooted sleeps with the A53 again.
    """
    stop, fleet = {signal.SIGINT, signal.SIGTERM}, payload.fleet
    signal.pthread_sigmask(signal.SIG_BLOCK, stop)
    while signal.sigtimedwait(stop, 0.5) is None:
        pids = [node.pid for node in fleet.nodes.values()]
        _complain_if_dead(fleet, may_be_off=True)
        if pids != [node.pid for node in fleet.nodes.values()]:
            _write_box(payload.layout, fleet)
    return 0
