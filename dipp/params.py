"""The parameter table of the node: as flown, then our telemetry.

Ids 1..99 are those of the flown node, with its names, types, masks and storage addresses. Ids from
200 are ours; those of `dipp/policy/settings.py` start at 300. The table is the operator's truth:
whatever happened to a batch can be read here. Source: dipp.md 3 and 4.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from csp.param.spec import ParamSpec
from csp.param.table import Parameter, ParamTable
from csp.param.types import Mask, ParamType
from dipp.config.codec import SLOT_SIZE_BYTES
from dipp.config.definition import MAX_MODULES, PARAM_SLOT_COUNT, PIPELINE_COUNT
from dipp.policy import settings
from dipp.runner.values import CRASH_RECORD_LIMIT_BYTES, CrashRecord, StageStats, clip
from dipp.sandbox.rungs import active_mask, active_names

STORAGE_AREA = "storage"
STORAGE_BYTES = 10_000
PARAM_SLOTS_ADDRESS = 0x468
LOG_STATUS_ADDRESS = 0x1318
RADIO_NODE_ADDRESS = 0x131C
TIMEOUT_ADDRESS = 0x131D
# Behind the settings of dipp/policy; zero, as in a flown storage, means the default.
WORKERS_ADDRESS = 0x1480

PIPELINE_RUN = "pipeline_run"
LOG_STATUS = "log_status"
MODULE_TIMEOUT = "module_timeout"
BATCH_ABORT = "batch_abort"
WORKERS, BATCH_BUDGET = "workers", "batch_budget"
CRASH_COUNT = 8

_COUNTER = Mask.READONLY | Mask.TELEM
_ERRORS = _COUNTER | Mask.ERRCNT


@dataclass(frozen=True, slots=True)
class _Gauge:
    """A row of the telemetry table."""

    id: int
    name: str
    type: ParamType
    help: str
    mask: Mask = _COUNTER
    unit: str = ""
    array_size: int = 1


_U8, _U16, _U32, _U64 = ParamType.U8, ParamType.U16, ParamType.U32, ParamType.U64
_TELEMETRY = (
    _Gauge(200, "batches_taken", _U32, "Batches ever taken from the queue"),
    _Gauge(201, "batches_delivered", _U32, "Batches whose images are in the ring"),
    _Gauge(202, "batches_quarantined", _U32, "Failed batches kept in the quarantine"),
    _Gauge(203, "batches_dropped", _U32, "Batches dropped by policy or by their own modules"),
    _Gauge(204, "images_delivered", _U32, "Images ever written to the ring"),
    _Gauge(205, "queue_depth", _U16, "Batches waiting in the queue"),
    _Gauge(206, "batch_id", _U32, "Number of the last batch taken"),
    _Gauge(207, "batch_running", _U8, "Batches being processed now"),
    _Gauge(208, "bad_messages", _U32, "Queue messages that were not a batch", _ERRORS),
    _Gauge(209, "config_rejects", _U32, "Pushed configurations refused as a whole", _ERRORS),
    _Gauge(210, "module_failures", _U32, "Batches that failed in a module or its host", _ERRORS),
    _Gauge(211, "batch_replays", _U32, "Batches run again after a kill of this node", _ERRORS),
    _Gauge(212, "queue_recreated", _U32, "Times the queue was gone or unusable", _ERRORS),
    _Gauge(213, "storage_errors", _U32, "Failed writes to ring, journal, quarantine", _ERRORS),
    _Gauge(214, "journal_damaged", _U32, "Journal bytes skipped at boot", _ERRORS, "B"),
    _Gauge(215, "ring_resets", _U8, "1 if a damaged ring was put aside at boot", _ERRORS),
    _Gauge(216, "quarantine_count", _U32, "Batches in the quarantine now"),
    _Gauge(217, "quarantine_bytes", _U64, "Size of the quarantine", unit="B"),
    _Gauge(218, "ring_count", _U32, "Images in the ring now"),
    _Gauge(219, "ring_bytes", _U64, "Bytes of the images in the ring", unit="B"),
    _Gauge(220, "hosts", _U8, "Pipeline hosts alive"),
    _Gauge(221, "uptime", _U32, "Time since the node started", unit="s"),
    _Gauge(223, "internal_faults", _U32, "Tasks and handlers that failed unexpectedly", _ERRORS),
    _Gauge(224, "stray_processes", _U32, "Processes that modules left running, ended", _ERRORS),
    _Gauge(225, "leaked_segments", _U32, "Memory segments that modules left, removed", _ERRORS),
    _Gauge(226, "forge_restarts", _U32, "Times the process that starts hosts died", _ERRORS),
    _Gauge(227, "standby_children", _U16, "Module processes made ready for the next batch"),
    _Gauge(230, "chain_wall", _U32, "Last batch: time from start to verdict", unit="us"),
    _Gauge(
        231, "stage_wall", _U32, "Last batch: wall time of each module", unit="us",
        array_size=MAX_MODULES,
    ),
    _Gauge(
        232, "stage_cpu", _U32, "Last batch: CPU time of each module", unit="us",
        array_size=MAX_MODULES,
    ),
    _Gauge(
        233, "stage_memory", _U32, "Last batch: peak memory of each module", unit="kB",
        array_size=MAX_MODULES,
    ),
    _Gauge(
        234, "stage_out", _U32, "Last batch: bytes each module wrote", unit="B",
        array_size=MAX_MODULES,
    ),
    _Gauge(235, "signing_required", _U8, "1 if files and configurations must be signed"),
    _Gauge(236, "signature_rejects", _U32, "Configurations and files refused: signature", _ERRORS),
    _Gauge(240, "crash_total", _U32, "Crash records ever made since boot", _ERRORS),
)  # fmt: skip
FIRST_CRASH_ID = 241
# One packet holds about this much of a string.
_TEXT_BYTES = 180
RUNGS_ACTIVE, RUNG_NAMES, RUNGS_MISSING = "rungs_active", "rung_names", "rungs_missing"


def _flown() -> list[ParamSpec]:
    def stored(
        number: int, name: str, kind: ParamType, address: int, text: str = "", size: int = 1
    ) -> ParamSpec:
        return ParamSpec(
            id=number, name=name, type=kind, array_size=size, mask=Mask.CONF, help=text,
            area=STORAGE_AREA, address=address,
        )  # fmt: skip

    slot = SLOT_SIZE_BYTES
    return [
        ParamSpec(
            id=1,
            name=PIPELINE_RUN,
            type=_U8,
            mask=Mask.CONF,
            help="Set the pipeline to execute according to the value",
        ),
        stored(2, LOG_STATUS, _U32, LOG_STATUS_ADDRESS, "Latest error code"),
        stored(3, "radio_node_id", _U8, RADIO_NODE_ADDRESS, "Radio CSP node ID"),
        stored(4, MODULE_TIMEOUT, _U32, TIMEOUT_ADDRESS, "Module timeout in seconds"),
        *(
            stored(9 + n, pipeline_name(n), ParamType.DATA, slot * (n - 1), size=slot)
            for n in range(1, PIPELINE_COUNT + 1)
        ),
        *(
            stored(
                29 + n, params_name(n), ParamType.DATA, PARAM_SLOTS_ADDRESS + slot * (n - 1),
                size=slot,
            )
            for n in range(1, PARAM_SLOT_COUNT + 1)
        ),
        ParamSpec(id=99, name="serial0", type=ParamType.I32, mask=Mask.HWREG),
    ]  # fmt: skip


def pipeline_name(number: int) -> str:
    """Return the parameter of a pipeline 1..6."""
    return f"pipeline_config_{number}"


def params_name(number: int) -> str:
    """Return the parameter of a module parameter slot 1..20."""
    return f"module_param_{number}"


def crash_name(number: int) -> str:
    """Return the parameter of a crash record, 1 = newest."""
    return f"crash_{number}"


def make_table() -> ParamTable:
    """Build the table of the node."""
    telemetry = [
        ParamSpec(
            id=row.id, name=row.name, type=row.type, array_size=row.array_size, mask=row.mask,
            unit=row.unit, help=row.help,
        )
        for row in _TELEMETRY
    ]  # fmt: skip
    abort = ParamSpec(
        id=222,
        name=BATCH_ABORT,
        type=_U8,
        mask=Mask.CONF,
        help="Write 1 to kill the module that is running; the batch fails with 606",
    )
    crashes = [
        ParamSpec(
            id=FIRST_CRASH_ID + number - 1,
            name=crash_name(number),
            type=ParamType.DATA,
            array_size=CRASH_RECORD_LIMIT_BYTES,
            mask=Mask.READONLY | Mask.DEBUG,
            help="Crash record, newest first",
        )
        for number in range(1, CRASH_COUNT + 1)
    ]
    containment = [
        ParamSpec(id=250, name=RUNGS_ACTIVE, type=_U32, mask=_COUNTER,
                  help=f"Containment of modules that holds, a bit each; see {RUNG_NAMES}"),
        ParamSpec(id=251, name=RUNG_NAMES, type=ParamType.STRING, array_size=_TEXT_BYTES,
                  mask=Mask.READONLY, help="Names of the bits that are set, lowest first"),
        ParamSpec(id=252, name=RUNGS_MISSING, type=ParamType.STRING, array_size=_TEXT_BYTES,
                  mask=Mask.READONLY, help="Containment that does not hold here, with reasons"),
    ]  # fmt: skip
    parallel = [
        ParamSpec(id=260, name=WORKERS, type=_U8, mask=Mask.CONF, area=STORAGE_AREA,
                  address=WORKERS_ADDRESS,
                  help="Batches of a pipeline at a time; 0 = one per processor but one"),
        ParamSpec(id=261, name=BATCH_BUDGET, type=_U32, mask=Mask.CONF, area=STORAGE_AREA,
                  address=WORKERS_ADDRESS + 4, unit="MB",
                  help="Memory of batches at which no more are taken; 0 = 768"),
    ]  # fmt: skip
    ours = sorted([*telemetry, abort], key=lambda spec: spec.id)
    return ParamTable([*_flown(), *ours, *crashes, *containment, *parallel, *settings.specs()])


class Telemetry:
    """Write access to our own parameters by name, without wrapping or failing on big numbers."""

    def __init__(self, table: ParamTable) -> None:
        self._table = table

    def put(self, name: str, value: int) -> None:
        """Set a gauge or counter, clamped to its type."""
        parameter = self._table[name]
        value = min(max(int(value), parameter.row.low), parameter.row.high)
        if parameter.get() != value:
            parameter.set(value)

    def count(self, name: str, step: int = 1) -> None:
        """Add to a counter."""
        self.put(name, self.get(name) + step)

    def get(self, name: str) -> int:
        """Return a gauge or counter."""
        return int(self._table[name].get())

    def put_containment(self, missing: tuple[str, ...]) -> None:
        """Show which rungs hold, given the reports about those that do not."""
        self.put(RUNGS_ACTIVE, active_mask(missing))
        texts = {RUNG_NAMES: " ".join(active_names(missing)), RUNGS_MISSING: "; ".join(missing)}
        for name, text in texts.items():
            self.put_text(name, clip(text, _TEXT_BYTES - 1))

    def put_text(self, name: str, text: str) -> None:
        """Set a text, which must fit."""
        if self._table[name].get() != text:
            self._table[name].set(text)

    def put_list(self, name: str, values: Sequence[int]) -> None:
        """Set an array; values are clamped, unused places are zero."""
        parameter = self._table[name]
        row = parameter.row
        clamped = [min(max(value, row.low), row.high) for value in values[: parameter.count]]
        parameter.set(clamped + [0] * (parameter.count - len(clamped)))

    def put_stages(self, stages: tuple[StageStats, ...], wall_s: float) -> None:
        """Show what the modules of the last batch used; unused places are zero."""
        self.put("chain_wall", round(wall_s * 1e6))
        rows = {
            "stage_wall": [round(s.wall_s * 1e6) for s in stages],
            "stage_cpu": [round(s.cpu_s * 1e6) for s in stages],
            "stage_memory": [s.peak_rss_kb for s in stages],
            "stage_out": [s.bytes_out for s in stages],
        }
        for name, values in rows.items():
            self.put_list(name, values)

    def add_crash(self, crash: CrashRecord) -> None:
        """Put a crash record in front of the others; the oldest goes."""
        slots = [self._table[crash_name(n)] for n in range(1, CRASH_COUNT + 1)]
        for newer, older in zip(slots[-2::-1], slots[:0:-1], strict=True):
            older.set(newer.get())
        slots[0].set(crash.encode())
        self.count("crash_total")

    def crashes(self) -> list[Parameter]:
        """Return the parameters of the crash records, newest first."""
        return [self._table[crash_name(n)] for n in range(1, CRASH_COUNT + 1)]
