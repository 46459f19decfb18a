"""Put the DISH node together: table, store, forge, runs, CSP services. Composition root, driver.

Order matters: `prepare` makes the table and starts the forge while the process is still small and
has no sockets; `DishNode` comes after. Source: design.md 2, dish.md 12.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from csp.errors import CspError
from csp.gate import Gate
from csp.keyfiles import FOLDER as KEYS_FOLDER
from csp.keyfiles import load_trust
from csp.ledger import LEDGER_BYTES, Ledger
from csp.links.base import Link
from csp.loop import Loop
from csp.node import CspNode
from csp.packet import Flag, Packet
from csp.param.remote import RemoteTable
from csp.param.table import Parameter, ParamTable
from csp.sched import Timeout
from csp.services import Identity
from csp.signing import Trust
from csp.vmem.area import RamArea
from csp.vmem.file import FileArea
from dish.child import NativeFunction
from dish.errors import StoreError
from dish.forge import ForgeHandle, start_forge
from dish.heap import Heap
from dish.mirror import Mirror
from dish.params import BATTERY_UNKNOWN, INVALID_GNSS, SPECS, clip
from dish.power.admission import Admission
from dish.power.figures import PowerModel
from dish.profile import PROFILES, Profile
from dish.program import Procedure
from dish.remote import Broker
from dish.request import ENGINES
from dish.runs import Runs
from dish.seals import SEALS_BYTES, ProcedureGate, Unsigned
from dish.service import MODES, ProcedureService
from dish.storage import ProcedureFile
from dish.store import Store
from dish.values import Mode

ADDRESS = 4
_IDENTITY = Identity(
    hostname="DISCO-II-scheduler",
    model="PicoCoreMX8MP-Cortex-M7",
    revision="Rev1.10",
    date="",
    time="",
)
# name, size and address of the flown areas (dish.md 12); the addresses keep them apart.
_AREAS = (("config", 2500, 0x0000), ("commands", 1500, 0x1000), ("schedule", 1500, 0x2000))
_REFRESH_S = 0.25
# How often every deferred plan is looked at; one at a time, because each look is a forecast.
_RETRY_DEFERRED_S = 2.0
# A board that idles at 35 degrees.
_IDLE_TEMPERATURE_K = 308
_GNSS_NAMES = (
    "gnss_lat", "gnss_lon", "gnss_age", "gnss_date", "gnss_time", "gnss_speed", "gnss_alt",
    "gnss_course", "gnss_unix", "gnss_fix",
)  # fmt: skip
_WAKE_ATTEMPTS = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class DishConfig:
    """How a DISH node is set up. `gnss`, `a53` and `eps` are node numbers, 0 for none.

    `power` knows the spacecraft's battery and orbit; without it power is not looked at.

    `state` is the folder for pushed procedures; None keeps them in memory, as on the board.
    """

    address: int = ADDRESS
    profile: Profile = field(default_factory=lambda: PROFILES["m7"])
    mode: Mode = Mode.STRICT
    engine: str = ENGINES[1]
    budget: int = 0
    state: Path | None = None
    gnss: int = 0
    a53: int = 0
    eps: int = 0
    power: PowerModel | None = None
    version: int = 2
    seed: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """What has to exist before sockets and threads."""

    table: ParamTable
    forge: ForgeHandle


def prepare(config: DishConfig, natives: Mapping[int, NativeFunction] | None = None) -> Prepared:
    """Make the table and start the forge. Call it first in the process."""
    table = ParamTable(SPECS)
    table["tmu_reading"].set(_IDLE_TEMPERATURE_K)
    table["gnss_node"].set(config.gnss)
    table["a53_node"].set(config.a53)
    table["eps_node"].set(config.eps)
    table["proc_mode"].set(MODES.index(config.mode))
    table["proc_engine"].set(ENGINES.index(config.engine))
    table["proc_budget"].set(config.budget)
    forge = start_forge(table, rows=config.profile.max_runs, natives=natives)
    return Prepared(table=table, forge=forge)


class DishNode:
    """A running DISH node. `close` ends every procedure and gives everything back."""

    def __init__(
        self,
        loop: Loop,
        config: DishConfig,
        prepared: Prepared,
        *,
        reboot: Callable[[bool], None] = lambda restart: None,
    ) -> None:
        """Raises StateInUse if another node has the state directory, OSError.

        csp's MisuseError for keys that cannot be used.
        """
        self.config = config
        self.table = prepared.table
        self._loop = loop
        # Before anything is opened: without its keys this node must not start.
        trust = load_trust(config.state / KEYS_FOLDER) if config.state else None
        self._file = ProcedureFile(config.state / "procedures") if config.state else None
        if self._file is not None:
            self._file.claim()
        self._gate = self._make_gate(config.state, trust)
        areas = [RamArea(name, size, address) for name, size, address in _AREAS]
        self.node = CspNode(
            loop, address=config.address, identity=_IDENTITY, table=self.table,
            version=config.version, areas=areas, reboot=reboot, seed=config.seed,
        )  # fmt: skip
        self._remote = RemoteTable(self.node.params)
        heap = Heap(config.profile)
        self.store = Store(
            config.profile, prepared.forge.natives, persist=self._persist,
            admit=partial(self._admit, heap),
        )  # fmt: skip
        self.service = ProcedureService(
            self.table, self.store, heap, own_nodes=self._own_nodes, clock=self._now,
            power=Admission(
                self.table, config.power, config.profile, own_nodes=self._own_nodes
            ),
        )  # fmt: skip
        self.runs = Runs(
            loop, prepared.forge, serve=Broker(self.table, self._remote).serve,
            on_end=self.service.ended, limit=config.profile.max_runs,
        )  # fmt: skip
        self.service.runs = self.runs
        # Port 14 belongs to memory and procedures; csp.md 12.5 tells them apart.
        self.node.vmem.procedures = self._procedures
        self.table.on_write("wake_a53", self._wake)
        self._mirrors = self._make_mirrors()
        self._load()
        self._next_retry = 0.0
        self._tick()

    def _now(self) -> float:
        return self._loop.scheduler.now

    def _own_nodes(self) -> frozenset[int]:
        return frozenset({self.config.address, *self.node.stack.addresses})

    def _make_mirrors(self) -> list[Mirror]:
        rows = (
            ("gnss_node", _GNSS_NAMES, INVALID_GNSS),
            ("a53_node", ("a53_status",), {"a53_status": 0}),
            ("eps_node", ("battery_percent",), {"battery_percent": BATTERY_UNKNOWN}),
        )
        mirrors = [
            Mirror(
                self._loop.scheduler, self.table, self._remote,
                node=partial(self._node_in, source), names=names, invalid=invalid,
            )
            for source, names, invalid in rows
        ]  # fmt: skip
        for mirror in mirrors:
            mirror.start()
        return mirrors

    def _node_in(self, name: str) -> int:
        value = self.table[name].get()
        return value if isinstance(value, int) else 0

    def attach(self, link: Link) -> None:
        """Connect the node to a network; the link is its default route."""
        self.node.attach(link, default=True)

    def _procedures(self, packet: Packet) -> list[bytes]:
        return self.service.answer(packet.data, has_crc=bool(packet.flags & Flag.CRC32))

    # -- stored procedures

    def _make_gate(self, state: Path | None, trust: Trust | None) -> ProcedureGate | None:
        self.table["signing_required"].set(int(trust is not None))
        if state is None or trust is None:
            return None
        ledger = Ledger(FileArea("ledger", state / "ledger", LEDGER_BYTES))
        return ProcedureGate(
            self.config.address, Gate(trust, ledger),
            FileArea("seals", state / "seals", SEALS_BYTES),
            offered=self._offered_seal, refused=self._count_unsigned,
        )  # fmt: skip

    def _offered_seal(self) -> bytes:
        value = self.table["proc_seal"].get()
        return value if isinstance(value, bytes) else b""

    def _count_unsigned(self) -> None:
        rejects = self.table["signature_rejects"].get()
        self.table["signature_rejects"].set(rejects + 1 if isinstance(rejects, int) else 1)

    def _admit(self, heap: Heap, slot: int, procedure: Procedure) -> None:
        heap.admit_push(slot, procedure)
        if self._gate is not None:
            self._gate.admit(slot, procedure)

    def _load(self) -> None:
        if self._file is None:
            return
        loaded = self._file.load()
        signed, problems = self._signed(loaded.procedures)
        refused = self.store.load(signed)
        if refused:
            problems.append(f"slots {refused} do not fit this profile")
        if loaded.problem:
            problems.insert(0, loaded.problem)
        if problems:
            self.table["proc_refusal"].set(clip("; ".join(problems)))

    def _signed(self, stored: dict[int, Procedure]) -> tuple[dict[int, Procedure], list[str]]:
        """Return what may be used of what was stored, and why the rest may not."""
        if self._gate is None:
            return stored, []
        signed: dict[int, Procedure] = {}
        problems: list[str] = []
        for slot, procedure in stored.items():
            try:
                self._gate.recall(slot, procedure)
            except Unsigned as error:
                problems.append(str(error))
            else:
                signed[slot] = procedure
        return signed, problems

    def _persist(self, procedures: dict[int, Procedure]) -> None:
        if self._file is None:
            return
        try:
            self._file.save(procedures)
        except OSError as error:
            raise StoreError(f"cannot write {error.filename}: {error.strerror}") from None

    # -- the board around it

    def _wake(self, _parameter: Parameter, _index: int) -> None:
        node = self._node_in("a53_node")
        if node:
            self._loop.scheduler.spawn_background(self._wake_node(node), "wake A53")

    async def _wake_node(self, node: int) -> None:
        # Waking twice is waking once, so a lost acknowledgement may be answered by another try.
        for _ in range(_WAKE_ATTEMPTS):
            with contextlib.suppress(CspError, Timeout):
                await self._remote.set(node, "wake_a53", 1)
                return

    def _tick(self) -> None:
        if self._now() >= self._next_retry:
            self._next_retry = self._now() + _RETRY_DEFERRED_S / max(1, len(self.service.deferred))
            self.service.retry_deferred()
        self.service.refresh()
        self.store.save()
        client = self.node.params.counters
        self.table["proc_pulls"].set(client.pulls)
        self.table["proc_pushes"].set(client.pushes)
        self.table["proc_lists"].set(client.list_downloads)
        self.table["proc_unsaved"].set(int(self.store.unsaved))
        self.table["proc_stored"].set(len(self.store.occupied()))
        self._timer = self._loop.scheduler.call_later(_REFRESH_S, self._tick)

    def close(self) -> None:
        """End every run, then leave the network. Harmless if done twice."""
        self._timer.cancel()
        for mirror in self._mirrors:
            mirror.stop()
        self.runs.close()
        self.node.close()
        if self._file is not None:
            self._file.close()


def default_state() -> Path:
    """Return where a node keeps its procedures unless told otherwise. Source: design.md 9."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "payload" / "dish"
