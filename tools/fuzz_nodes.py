"""The nodes that the frame campaign attacks, each in one process and in virtual time.

Their services are those of the daemons. What would start a process (running a procedure, running a
module chain) or fill shared memory (taking a picture) is replaced by a counter; the decoders in
front of it are the real ones.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from csp.files.folder import FtpFolder
from csp.files.server import FilesServer
from csp.files.store import FileStore
from csp.ftp import FTP_PORT, FtpServer
from csp.node import CspNode
from csp.packet import Flag, Packet
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType
from csp.sched import Scheduler
from csp.services import Identity
from csp.transfer import PlainReceiver
from csp.vmem.area import RamArea
from dipp.configuration import Configuration
from dipp.dtp import DTP_PORT, DtpServer
from dipp.index import INDEX_PORT, IndexService
from dipp.modulefiles import ModuleLibrary, packaged_modules
from dipp.params import STORAGE_AREA, STORAGE_BYTES, Telemetry, make_table
from dipp.ring import open_ring
from dipp.ringarea import RingArea, RingService
from dipp.ringindex import RingGeometry
from dipp.slots import Slots
from dish.frames import Command
from dish.heap import Heap
from dish.params import SPECS
from dish.power.admission import Admission
from dish.profile import PROFILES
from dish.records import RunCounters, RunView
from dish.request import RunRequest
from dish.service import ProcedureService
from dish.store import Store
from sim.camera.capture import CaptureRequest
from sim.camera.figures import CameraFigures
from sim.camera.node import CameraNode

_RING = RingGeometry(entries=64, data_bytes=1 << 20)
_STORAGE_ADDRESS = 0x4000_0000
# By CSP version: the addresses under which the sessions were recorded, which queues name too.
_DIPP = {1: 18, 2: 162}
_CAMERA = {1: 16, 2: 163}


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A node under attack. `recordings` names the recorded sessions whose frames fit it."""

    node: CspNode
    recordings: str
    beat: Callable[[], None] = lambda: None


class _Runs:
    """Counts the runs it is asked for, and starts none."""

    def __init__(self) -> None:
        self.counters = RunCounters()
        self.asked = 0

    def __len__(self) -> int:
        return 0

    def views(self) -> list[RunView]:
        """Nothing runs."""
        return []

    def start(self, request: RunRequest) -> int:
        """Count."""
        self.asked += 1
        return self.asked

    def command(self, command: Command, root: int | None = None) -> int:
        """Nothing is told."""
        return 0


def _node(
    scheduler: Scheduler, address: int, version: int, table: ParamTable, areas: list[RamArea]
) -> CspNode:
    return CspNode(
        scheduler,
        address=address,
        identity=Identity(hostname=f"node-{address}", model="fuzz"),
        table=table,
        version=version,
        areas=areas,
        seed=1,
    )


def make_csp(scheduler: Scheduler, folder: Path, version: int, cleanup: ExitStack) -> Target:
    """A bare node: parameters of every type and shape, memory areas, file service, plain SFP."""
    kinds = list(ParamType)
    specs = [
        ParamSpec(id=1 + kind, name=f"p_{kind.name.lower()}", type=kind, array_size=size)
        for kind in kinds
        for size in (16 if kind in (ParamType.STRING, ParamType.DATA) else 1,)
    ]
    specs += [
        ParamSpec(id=21 + kind, name=f"a_{kind.name.lower()}", type=kind, array_size=8)
        for kind in kinds
        if kind not in (ParamType.STRING, ParamType.DATA)
    ]
    specs += [
        ParamSpec(id=40, name="ro_u32", type=ParamType.U32, mask=Mask.READONLY),
        ParamSpec(id=50, name="ram_u16", type=ParamType.U16, area="ram", address=16),
        ParamSpec(id=1100, name="id_1100", type=ParamType.U32),
    ]
    areas = [RamArea("ram", 4096, 0x1000), RamArea("big", 100_000, 0x10000)]
    node = _node(scheduler, 9, version, ParamTable(specs), areas)
    node.stack.listen(FTP_PORT, FtpServer(FtpFolder(folder / "files")).serve)
    node.stack.bind(FTP_PORT, PlainReceiver(lambda source, data: None).handle)
    return Target(node=node, recordings="reference")


def make_dish(scheduler: Scheduler, folder: Path, version: int, cleanup: ExitStack) -> Target:
    """The procedure server with its parameters."""
    table, profile = ParamTable(SPECS), PROFILES["m7"]
    areas = [RamArea("config", 2500, 0), RamArea("commands", 1500, 0x1000)]
    areas.append(RamArea("schedule", 1500, 0x2000))
    node = _node(scheduler, 4, version, table, areas)
    heap = Heap(profile)

    def own_nodes() -> frozenset[int]:
        return frozenset(node.stack.addresses)

    service = ProcedureService(
        table,
        Store(profile, admit=heap.admit_push),
        heap,
        own_nodes=own_nodes,
        clock=lambda: scheduler.now,
        power=Admission(table, None, profile, own_nodes=own_nodes),
    )
    service.runs = _Runs()

    def procedures(packet: Packet) -> list[bytes]:
        return service.answer(packet.data, has_crc=bool(packet.flags & Flag.CRC32))

    node.vmem.procedures = procedures
    return Target(node=node, recordings="dish", beat=service.refresh)


def make_dipp(scheduler: Scheduler, folder: Path, version: int, cleanup: ExitStack) -> Target:
    """Ring, index, DTP, module upload, pipeline configuration; files in `folder`."""
    table = make_table()
    ring, _ = open_ring(folder / "images.vmem", _RING, durable=False)
    cleanup.callback(ring.close)
    ring.append([b"an element", bytes(range(256)) * 80])
    storage = RamArea(STORAGE_AREA, STORAGE_BYTES, _STORAGE_ADDRESS)
    areas = [storage, RingArea(ring)]
    node = _node(scheduler, _DIPP[version], version, table, areas)  # type: ignore[arg-type]
    RingService(ring, scheduler, lambda error: None).register(node.vmem)
    node.stack.listen(DTP_PORT, DtpServer(node.stack, ring).serve)
    node.stack.listen(INDEX_PORT, IndexService(ring).serve)
    slots = Slots(ModuleLibrary((packaged_modules(),)), lambda: 5.0)
    configuration = Configuration(
        table,
        slots,
        telemetry=Telemetry(table),
        log_status=table["log_status"].set,
        warm=lambda chain: None,
    )
    FilesServer(node.stack, FileStore(folder / "modules", configuration.modules_changed))
    return Target(node=node, recordings="dipp")


class _Shutter(CameraNode):
    """A camera that counts the pictures it is asked for, and takes none."""

    async def _capture(self, request: CaptureRequest) -> None:
        await self.csp.scheduler.sleep(0.1)
        self._count("images_total")


def make_camera(scheduler: Scheduler, folder: Path, version: int, cleanup: ExitStack) -> Target:
    """The camera controller: capture strings, settings in memory, the file of the settings."""
    figures = CameraFigures(queue=f"/fuzz_{folder.name}")
    camera = _Shutter(scheduler, address=_CAMERA[version], figures=figures, version=version, seed=1)
    return Target(node=camera.csp, recordings="camera")


MAKERS: dict[str, Callable[[Scheduler, Path, int, ExitStack], Target]] = {
    "csp": make_csp,
    "dish": make_dish,
    "dipp": make_dipp,
    "camera": make_camera,
}
