"""The DIPP node put together. Composition root of `dipp serve`; nothing else makes its parts.

Theory of operation: the forge is started first, before any socket. Then the state directory is
locked, storage and ring are loaded, deliveries that a kill interrupted are settled, services are
bound, and batches left open are processed again. One loop, one thread. A stop drains: the current
batch ends or, after a deadline, stays in the journal for the next start.
Source: design.md 1, 2, 9; dipp.md 2.
"""

from __future__ import annotations

import json
import os
import random
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from csp.files.server import FilesServer
from csp.files.status import FilesError
from csp.files.store import FileStore
from csp.keyfiles import FOLDER as KEYS_FOLDER
from csp.keyfiles import load_trust
from csp.ledger import LEDGER_BYTES, Ledger
from csp.links.base import Link
from csp.loop import Loop
from csp.node import CspNode
from csp.param.table import Parameter
from csp.sched import Timeout
from csp.services import Identity
from csp.vmem.file import FileArea
from dipp.configuration import Configuration
from dipp.dtp import DTP_PORT, DtpServer
from dipp.errors import Code, ContentError
from dipp.eventlog import EventLog
from dipp.index import INDEX_PORT, IndexService
from dipp.intake import DEFAULT_QUEUE, Intake
from dipp.journal import Journal
from dipp.modulefiles import ModuleLibrary, Uplinked, packaged_modules
from dipp.params import (
    BATCH_ABORT,
    BATCH_BUDGET,
    LOG_STATUS,
    MODULE_TIMEOUT,
    STORAGE_AREA,
    STORAGE_BYTES,
    WORKERS,
    Telemetry,
    make_table,
)
from dipp.policy.kit import PolicyKit
from dipp.processing import Processor
from dipp.quarantine import DEFAULT_LIMIT_BYTES, Quarantine
from dipp.records import Kind, Record
from dipp.ring import open_ring
from dipp.ringarea import RingArea, RingService
from dipp.ringindex import RingGeometry
from dipp.runner.executor import Executor, ForgeHandle, Limits
from dipp.signedslot import SlotGate
from dipp.slots import Slots
from dipp.state import StateDir
from dipp.worker import DEFAULT_BUDGET_BYTES, Worker

# Above the ring, whose flown address is 0, and within the 32 bits that csh sends.
STORAGE_ADDRESS = 0x4000_0000
_BEAT_S = 1.0
_DRAIN_S = 10.0


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeConfig:
    """What a node is told at start. `durable` False skips the syncs that only power cuts need."""

    state_dir: Path
    address: int = 162
    netmask: int = 8
    version: int = 2
    queue: str = DEFAULT_QUEUE
    geometry: RingGeometry = field(default_factory=RingGeometry)
    quarantine_bytes: int = DEFAULT_LIMIT_BYTES
    max_attempts: int = 2
    module_dirs: tuple[Path, ...] = ()
    limits: Limits = field(default_factory=Limits)
    durable: bool = True
    status_file: Path | None = None
    seed: int | None = None


class DippNode:
    """A running DIPP. `close` ends it and everything it started."""

    def __init__(self, loop: Loop, forge: ForgeHandle, config: NodeConfig) -> None:
        """Raises MisuseError if the state directory does not fit, OSError.

        csp's MisuseError for keys that cannot be used, StateInUse.
        """
        self.loop = loop
        self.config = config
        # Before anything is opened: without its keys this node must not start.
        self.trust = load_trust(config.state_dir / KEYS_FOLDER)
        self.state = StateDir(config.state_dir)
        self.table = make_table()
        self.telemetry = Telemetry(self.table)
        self._started = loop.scheduler.now
        self._open_stores()
        self._compose_network()
        self.executor = Executor(loop, forge, config.limits)
        self._compose_pipeline()
        self.processor.settle_deliveries()
        self._beat()
        self.worker.recover()

    # -- composition

    def _open_stores(self) -> None:
        state, config = self.state, self.config
        self.table["serial0"].set(random.Random(config.seed).randrange(2**31))
        self.ring, was_damaged = open_ring(state.images, config.geometry, durable=config.durable)
        self.journal = Journal(state.journal, durable=config.durable)
        self.quarantine = Quarantine(
            state.quarantine,
            limit_bytes=config.quarantine_bytes,
            on_evict=self._on_evict,
            evicted_through=self.journal.state.totals.evicted_through,
            replays=self.journal.state.replays,
            durable=config.durable,
        )
        self.ledger = Ledger(FileArea("ledger", state.ledger, LEDGER_BYTES))
        self.telemetry.put("signing_required", int(self.trust is not None))
        self.telemetry.put("quarantine_limit", config.quarantine_bytes)
        self.telemetry.put("ring_resets", int(was_damaged))
        self.telemetry.put("journal_damaged", self.journal.damaged_bytes)

    def _compose_network(self) -> None:
        storage = FileArea(STORAGE_AREA, self.state.storage, STORAGE_BYTES, STORAGE_ADDRESS)
        self.csp = CspNode(
            self.loop,
            address=self.config.address,
            identity=Identity(hostname="DIPP", model="", revision=""),
            table=self.table,
            version=self.config.version,
            areas=(storage, RingArea(self.ring)),
            reboot=self.loop.reboot,
            seed=self.config.seed,
        )
        RingService(self.ring, self.loop.scheduler, self._on_ring_upload).register(self.csp.vmem)
        self.csp.stack.listen(DTP_PORT, DtpServer(self.csp.stack, self.ring).serve)
        self.csp.stack.listen(INDEX_PORT, IndexService(self.ring).serve)

    def _compose_pipeline(self) -> None:
        uplinked = Uplinked(directory=self.state.active_modules, check=self._check_uplinked)
        directories = (*self.config.module_dirs, packaged_modules())
        self.slots = Slots(ModuleLibrary(directories, uplinked), self._timeout_s)
        self.events = EventLog(
            self.state.log, now=lambda: self.loop.scheduler.now, wall_unix=self.csp.wall.now
        )
        self.policy = PolicyKit(
            self.loop.scheduler,
            table=self.table,
            telemetry=self.telemetry,
            state=self.state,
            shipped=directories,
            check=self._check_uplinked,
            slots=self.slots,
            runner=self.executor,
            journal=self.journal,
            quarantine=self.quarantine,
            ring=self.ring,
            log_status=self.log_status,
            note=self.events.note,
            rearm_runner=self.executor.rearm,
        )
        # Before the configuration, which loads chains; it hears of every later change.
        self.uploads = FileStore(
            self.state.modules,
            self._on_files,
            shipped=[packaged_modules()],
            trust=self.trust,
            ledger=self.ledger,
        )
        self.configuration = Configuration(
            self.table,
            self.slots,
            telemetry=self.telemetry,
            log_status=self.log_status,
            warm=self.executor.warm,
            retire=self.executor.retire,
            gate=SlotGate(self.config.address, self.trust, self.ledger, self._count_signature),
            on_change=self.policy.guard.rearm,
        )
        self.files = FilesServer(self.csp.stack, self.uploads)
        self.intake = Intake(self.config.queue, self.state.landing, exclusive=True)
        self.intake.claim()
        self.processor = Processor(
            self.loop.scheduler,
            journal=self.journal,
            quarantine=self.quarantine,
            ring=self.ring,
            slots=self.slots,
            runner=self.policy.guard,
            telemetry=self.telemetry,
            log_status=self.log_status,
            wall_unix=self.csp.wall.now,
            max_attempts=self.config.max_attempts,
            note=self.events.note,
            raw=self.policy.raw,
        )
        self.policy.start(self.uploads, self.processor.process, lambda: self.intake.holds_message)
        self.worker = Worker(
            self.loop,
            table=self.table,
            telemetry=self.telemetry,
            intake=self.intake,
            journal=self.journal,
            processor=self.processor,
            workers=lambda: self.executor.workers,
            budget_bytes=self._budget_bytes,
        )
        self.table.on_write(BATCH_ABORT, self._on_abort)
        self.table.on_write(WORKERS, self._on_limits)
        self.table.on_write(BATCH_BUDGET, self._on_limits)
        self._on_limits(self.table[WORKERS], 0)

    def attach(self, link: Link) -> None:
        """Connect the node to the bus."""
        self.csp.attach(link, netmask=self.config.netmask, default=True)

    # -- what happens

    def log_status(self, status: int) -> None:
        """Keep the latest error."""
        self.table[LOG_STATUS].set(status)

    def _check_uplinked(self, file_name: str, sha256: bytes) -> None:
        try:
            self.uploads.signatures.check(file_name, sha256)
        except FilesError as error:
            self._count_signature()
            raise ContentError(str(error), Code.SIGNATURE) from error

    def _count_signature(self) -> None:
        self.telemetry.count("signature_rejects")

    def _timeout_s(self) -> float:
        return float(self.telemetry.get(MODULE_TIMEOUT))

    def _budget_bytes(self) -> int:
        return (self.telemetry.get(BATCH_BUDGET) << 20) or DEFAULT_BUDGET_BYTES

    def _on_limits(self, parameter: Parameter, index: int) -> None:
        self.executor.workers = self.telemetry.get(WORKERS) or self.config.limits.workers
        self.worker.limits_changed()

    def _on_abort(self, parameter: Parameter, index: int) -> None:
        if parameter.get():
            self.executor.stop_current()
        parameter.set(0)

    def _on_files(self, name: str) -> None:
        self.configuration.modules_changed(name)
        self.policy.trials.changed(name)
        self.policy.guard.files_changed()

    def _on_evict(self, batch: int) -> None:
        self.telemetry.count("quarantine_evicted")
        self.journal.append(Record(kind=Kind.EVICTED, batch=batch))

    def _on_ring_upload(self, error: OSError | None) -> None:
        if error is not None:
            self.telemetry.count("storage_errors")
        self.processor.publish()

    def _beat(self) -> None:
        telemetry = self.telemetry
        telemetry.put("uptime", int(self.loop.scheduler.now - self._started))
        telemetry.put("hosts", self.executor.count_hosts())
        telemetry.put("standby_children", self.executor.standby_children)
        telemetry.put("queue_depth", self.intake.depth)
        stats, faults = self.executor.stats, self.csp.stack.counters.handler_faults
        telemetry.put("stray_processes", stats.orphans)
        telemetry.put("leaked_segments", stats.leaked_segments)
        telemetry.put("forge_restarts", stats.forge_restarts)
        if stats.missing_rungs is not None:
            telemetry.put_containment(stats.missing_rungs)
        telemetry.put("internal_faults", self.loop.scheduler.orphan_error_count + faults)
        self.processor.publish()
        self.policy.publish()
        self._write_status()
        self._timer = self.loop.scheduler.call_later(_BEAT_S, self._beat)

    def _write_status(self) -> None:
        path = self.config.status_file
        if path is None:
            return
        temporary = path.with_name(path.name + ".new")
        try:
            temporary.write_text(json.dumps(self.status(), indent=2) + "\n")
            os.replace(temporary, path)
        except OSError:
            self.telemetry.count("storage_errors")

    def status(self) -> dict[str, Any]:
        """Return what a program may want to know: parameters that are numbers, and totals."""
        numbers = {
            parameter.name: parameter.get_all()
            for parameter in self.table
            if not parameter.row.is_text
        }
        return {
            "parameters": numbers,
            "totals": asdict(self.journal.state.totals),
            "executor": asdict(self.executor.stats),
            "pipelines": self.slots.configured,
        }

    # -- the end

    async def drain(self, timeout_s: float = _DRAIN_S) -> bool:
        """Let the current batch end; say whether it did. What did not is journaled."""
        self.worker.stop()
        try:
            await self.loop.scheduler.wait_for(
                self.loop.scheduler.spawn(self.worker.stopped(), "drain"), timeout_s
            )
        except Timeout:
            return False
        return True

    async def close(self) -> None:
        """End hosts and forge, flush and release everything."""
        self.worker.abandon()
        self.policy.abandon()
        self._timer.cancel()
        await self.executor.close()
        self.csp.close()
        self.intake.close()
        self.ring.close()
        self.journal.close()
        self.state.close()
