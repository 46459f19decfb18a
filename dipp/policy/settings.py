"""The parameters of this package: what an operator may set, order and read.

Theory of operation: settings lie in `storage.vmem` behind the flown values. `policy_ready` tells a
fresh or flown storage, which gets the defaults once, from one in which zero is what was meant.
Ids 300..359. Source: style-anchors.md 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType
from dipp.supervisor.policy import Tolerance

_AREA = "storage"
# Behind the last flown value at 0x131D, on a round address.
_ADDRESS = 0x1400
_READY = 1
# As many as fit one parameter packet with five bytes each.
PAGE_ENTRIES = 24
_TEXT_BYTES = 180

MODULE_REARM = "module_rearm"
REARM_ALL = 255
REPLAY, DISCARD, PAGE = "quarantine_replay", "quarantine_discard", "quarantine_page"
QUARANTINED, DEGRADED = "modules_quarantined", "pipelines_degraded"
STATE, TRIALS = "module_state", "trials"
BATCHES, STATUSES, SIZES, TIMES = (
    "quarantine_batches",
    "quarantine_status",
    "quarantine_sizes",
    "quarantine_times",
)


@dataclass(frozen=True, slots=True)
class _Setting:
    id: int
    name: str
    type: ParamType
    address: int
    default: int
    help: str
    unit: str = ""


_U8, _U16, _U32, _U64 = ParamType.U8, ParamType.U16, ParamType.U32, ParamType.U64
_COUNTER = Mask.READONLY | Mask.TELEM
_ERRORS = _COUNTER | Mask.ERRCNT
_SETTINGS = (
    _Setting(300, "fail_limit", _U8, 1, 3,
             "Failures within fail_period that quarantine a module; 0 = never"),
    _Setting(301, "fail_period", _U16, 2, 60, "Period in which failures are counted", "s"),
    _Setting(302, "retry_limit", _U8, 4, 1,
             "How often a batch runs again after a timeout or a shortage"),
    _Setting(303, "trial_batches", _U8, 5, 2,
             "Batches a fresh upload may fail at first before it is rolled back; 0 = no rollback"),
    _Setting(304, "raw_thumbnail", _U8, 6, 1,
             "1 = images whose chain failed go to the ring as thumbnails"),
)  # fmt: skip


def specs() -> list[ParamSpec]:
    """Return all of them, by id."""
    settings = [
        ParamSpec(
            id=row.id, name=row.name, type=row.type, mask=Mask.CONF, unit=row.unit, help=row.help,
            area=_AREA, address=_ADDRESS + row.address,
        )
        for row in _SETTINGS
    ]  # fmt: skip
    ready = ParamSpec(
        id=309, name="policy_ready", type=_U8, mask=Mask.READONLY, area=_AREA, address=_ADDRESS,
        help="1 once the settings above have got their defaults",
    )  # fmt: skip
    return [*settings, ready, *_orders(), *_telemetry()]


def _orders() -> list[ParamSpec]:
    def order(number: int, name: str, kind: ParamType, text: str) -> ParamSpec:
        return ParamSpec(id=number, name=name, type=kind, mask=Mask.CONF, help=text)

    return [
        order(310, MODULE_REARM, _U8, "Write a pipeline to re-arm its modules, 255 for all"),
        order(311, REPLAY, _U32, "Write the number of a quarantined batch to run it again"),
        order(312, DISCARD, _U32, "Write the number of a quarantined batch to delete it"),
        order(313, PAGE, _U16, f"Which {PAGE_ENTRIES} of the quarantine are shown, 0 = oldest"),
    ]


def _telemetry() -> list[ParamSpec]:
    def gauge(
        number: int,
        name: str,
        kind: ParamType,
        text: str,
        mask: Mask = _COUNTER,
        size: int = 1,
        unit: str = "",
    ) -> ParamSpec:
        return ParamSpec(
            id=number, name=name, type=kind, mask=mask, help=text, array_size=size, unit=unit
        )  # fmt: skip

    page = PAGE_ENTRIES
    return [
        gauge(320, QUARANTINED, _U8, "Modules that failed too often and wait to be re-armed"),
        gauge(321, DEGRADED, _U8, "Pipelines with such a module: bit 0 is pipeline 1"),
        gauge(322, STATE, ParamType.STRING, "These modules: pipeline/name fallback",
              Mask.READONLY, _TEXT_BYTES),
        gauge(323, "fallback_runs", _U32, "Batches run with a fallback since boot", _ERRORS),
        gauge(324, "batches_refused", _U32, "Batches quarantined unrun since boot: 608", _ERRORS),
        gauge(325, "batch_retries", _U32, "Batches run again after timeout, shortage", _ERRORS),
        gauge(326, "rollbacks", _U32, "Fresh uploads rolled back since boot", _ERRORS),
        gauge(327, TRIALS, ParamType.STRING, "Fresh uploads without a success: name failures/limit",
              Mask.READONLY, _TEXT_BYTES),
        gauge(330, "raw_images", _U32, "Thumbnails of failed images in the ring since boot"),
        gauge(331, "raw_failures", _U32, "Failed batches without thumbnails since boot", _ERRORS),
        gauge(340, "quarantine_limit", _U64, "Room for failed batches; oldest go first", unit="B"),
        gauge(341, "quarantine_evicted", _U32, "Deleted to make room since boot", _ERRORS),
        gauge(342, "replays", _U32, "Quarantined batches run again since boot"),
        gauge(343, BATCHES, _U32, "Numbers of quarantined batches", Mask.READONLY, page),
        gauge(344, STATUSES, _U32, "Why, as in log_status", Mask.READONLY, page),
        gauge(345, SIZES, _U32, "How large", Mask.READONLY, page, "B"),
        gauge(346, TIMES, _U32, "When", Mask.READONLY, page, "s"),
    ]  # fmt: skip


class Settings:
    """The operator's settings as they are now."""

    def __init__(self, table: ParamTable) -> None:
        """Give a fresh storage its defaults. To be made when the storage is loaded."""
        self._table = table
        ready = table["policy_ready"]
        if ready.get() != _READY:
            for row in _SETTINGS:
                table[row.name].set(row.default)
            # Last: a kill before this only means that the defaults are set again.
            ready.set(_READY)

    def _get(self, name: str) -> int:
        return int(self._table[name].get())

    @property
    def tolerance(self) -> Tolerance:
        """How much a module may fail."""
        return Tolerance(
            failures=self._get("fail_limit"),
            period_s=float(self._get("fail_period")),
            retries=self._get("retry_limit"),
        )

    @property
    def trial_batches(self) -> int:
        """How many first batches an uploaded file may fail; 0 = any number."""
        return self._get("trial_batches")

    @property
    def wants_thumbnails(self) -> bool:
        """Whether images of failed batches go to the ring as thumbnails."""
        return self._get("raw_thumbnail") != 0
