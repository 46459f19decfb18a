"""The parameter table of the DISH node: the flown M7 table and what we add. Source: dish.md 12, 14.

Ids 1 to 61 are as flown, except gnss_unix and gnss_fix in the free 32 and 33 (as on the GNSS node).
Ids from 100 on are ours: what ran, what is running, and commands for it, so that an operator with a
stock csh can see and do everything.
"""

from __future__ import annotations

from csp.param.spec import ParamSpec
from csp.param.types import Mask, ParamType, Value
from csp.signing import SEAL_BYTES

_R, _C, _H, _T = Mask.READONLY, Mask.CONF, Mask.HWREG, Mask.TELEM
_U8, _U16, _U32, _U64 = ParamType.U8, ParamType.U16, ParamType.U32, ParamType.U64
_I8, _I16, _I32, _I64 = ParamType.I8, ParamType.I16, ParamType.I32, ParamType.I64
_FLOAT, _DOUBLE, _STRING = ParamType.FLOAT, ParamType.DOUBLE, ParamType.STRING

# The shell writes it without having the list of the node.
SEAL_SPEC = ParamSpec(
    id=134, name="proc_seal", type=ParamType.DATA, array_size=SEAL_BYTES, mask=_C,
    help="Counter and signature of the next push, see `dish sign`",
)  # fmt: skip

RUN_ROWS = 16
# `proc_stop` and its like: every run instead of those of one slot.
EVERY_RUN = 0xFFFF
# `proc_run_slot` of a free row, and `proc_last_slot` before the first run.
NO_SLOT = 0xFFFF
ERROR_BYTES = 96
# `battery_percent` while the EPS does not say.
BATTERY_UNKNOWN = -1.0

# What stands in the live registers when the processor idles; read by nothing, shown to operators.
_REGISTERS: tuple[tuple[int, str, int], ...] = (
    (1, "GPC__SLPCR", 0xE000_3F82),
    (2, "GPC__LPCR_A53_BSC", 0x0000_3FF0),
    (3, "GPC__LPCR_A53_AD", 0x0180_8180),
    (4, "GPC__LPCR_M7", 0x0000_0000),
    (5, "GPC__MLPCR", 0x0101_0100),
    (6, "GPC_PGC__A53SCU_PUPSCR", 0x0000_0024),
    (7, "GPIO1__DR", 0),
    (8, "GPIO1__GDIR", 0),
    (9, "GPIO2__DR", 0),
    (10, "GPIO2__GDIR", 0),
    (11, "GPIO3__GDIR", 0),
    (12, "GPIO4__GDIR", 0),
    (13, "GPIO5__GDIR", 0),
    (14, "MUB__SR", 0x00F0_0200),
    (15, "RDC__STAT", 0x0000_0101),
    (16, "TMU__TSCR", 0),
    (17, "TMU__TRITSR", 0),
    (18, "TMU__TRATSR", 0),
)
_REGISTER_HELP = "Register of the processor (emulated: constant)"

INVALID_GNSS: dict[str, Value] = {
    "gnss_lat": 1000.0,
    "gnss_lon": 1000.0,
    "gnss_age": 0xFFFF_FFFF,
    "gnss_speed": -1.0,
    "gnss_alt": 1_000_000.0,
    "gnss_fix": 0,
    "gnss_unix": 0,
}


def _live(id_: int, name: str, type_: ParamType, address: int, unit: str, help_: str) -> ParamSpec:
    """Return a read-only measurement in the config area."""
    return ParamSpec(
        id=id_, name=name, type=type_, mask=_R, unit=unit, help=help_, area="config",
        address=address, default=INVALID_GNSS.get(name),
    )  # fmt: skip


_MEASUREMENTS = (
    ParamSpec(
        id=21, name="wake_a53", type=_U8, mask=_C, area="config", address=0x00,
        help="Any write wakes the A53",
    ),
    _live(22, "a53_status", _U8, 0x01, "", "1 = A53 running, 0 = suspended"),
    _live(23, "tmu_reading", _U16, 0x02, "K", "Processor temperature: Celsius + 273"),
    _live(24, "gnss_lat", _FLOAT, 0x04, "deg", "Latitude, north positive. 1000 = invalid"),
    _live(25, "gnss_lon", _FLOAT, 0x08, "deg", "Longitude, east positive. 1000 = invalid"),
    _live(26, "gnss_age", _U32, 0x0C, "ms", "Time since the fix. 0xFFFFFFFF = none"),
    _live(27, "gnss_date", _U32, 0x10, "DDMMYY", "Date as a decimal number"),
    _live(28, "gnss_time", _U32, 0x14, "HHMMSScc", "UTC as a decimal number, see gnss_unix"),
    _live(29, "gnss_speed", _FLOAT, 0x18, "km/h", "Speed over ground. -1 = invalid"),
    _live(30, "gnss_alt", _FLOAT, 0x1C, "m", "Height. 1000000 = invalid"),
    _live(31, "gnss_course", _FLOAT, 0x20, "deg", "Course, north 0"),
    _live(32, "gnss_unix", _U32, 0x24, "s", "GNSS time as Unix time. 0 = not known"),
    _live(33, "gnss_fix", _U8, 0x28, "", "1 = the receiver has a fix now"),
)  # fmt: skip

_REGISTER_TYPES: tuple[tuple[int, str, ParamType, int], ...] = (
    (41, "p_uint8", _U8, 32),
    (42, "p_uint16", _U16, 32),
    (43, "p_uint32", _U32, 32),
    (44, "p_uint64", _U64, 32),
    (45, "p_int8", _I8, 32),
    (46, "p_int16", _I16, 32),
    (47, "p_int32", _I32, 32),
    (48, "p_int64", _I64, 32),
    (49, "p_float", _FLOAT, 32),
    (50, "p_double", _DOUBLE, 16),
)


def _telemetry(
    id_: int, name: str, type_: ParamType, help_: str, *, n: int = 1, default: Value | None = None
) -> ParamSpec:
    return ParamSpec(
        id=id_, name=name, type=type_, array_size=n, mask=_R | _T, help=help_, default=default
    )


def _command(id_: int, name: str, help_: str) -> ParamSpec:
    text = f"Write a slot number: {help_} its runs. {EVERY_RUN} = every run"
    return ParamSpec(id=id_, name=name, type=_U16, mask=_C, help=text)


_OURS = (
    _telemetry(100, "proc_running", _U8, "Procedures running now"),
    _telemetry(101, "proc_last_slot", _U16, "Slot of the run that ended last", default=NO_SLOT),
    _telemetry(102, "proc_last_ret", _I8, "How it ended: 0 well, see proc_last_error"),
    _telemetry(103, "proc_last_index", _U8, "Instruction where it ended"),
    _telemetry(104, "proc_last_at", _U8, "Slot of that instruction, if a callee"),
    _telemetry(105, "proc_last_error", _STRING, "The same in words", n=ERROR_BYTES),
    _telemetry(106, "proc_last_count", _U64, "Instructions it executed"),
    _telemetry(107, "proc_started", _U32, "Runs started since boot"),
    _telemetry(108, "proc_completed", _U32, "Runs that ended well"),
    _telemetry(109, "proc_failed", _U32, "Runs that did not"),
    _telemetry(110, "proc_refused", _U32, "Requests answered with an error"),
    _telemetry(111, "proc_refusal", _STRING, "Why the last one was", n=ERROR_BYTES),
    _telemetry(112, "proc_stored", _U16, "Occupied slots"),
    _telemetry(113, "proc_run_slot", _U16, "Running: slot, 65535 = free row", n=RUN_ROWS,
               default=NO_SLOT),
    _telemetry(114, "proc_run_state", _U8, "1 starts 2 runs 3 waits 4 asks a node 5 paused",
               n=RUN_ROWS),
    _telemetry(115, "proc_run_at", _U8, "Slot being executed", n=RUN_ROWS),
    _telemetry(116, "proc_run_index", _U8, "Instruction being executed", n=RUN_ROWS),
    _telemetry(117, "proc_run_count", _U32, "Instructions executed, low 32 bits", n=RUN_ROWS),
    _command(120, "proc_stop", "stop"),
    _command(121, "proc_pause", "pause"),
    _command(122, "proc_resume", "resume"),
    _command(123, "proc_step", "pause and execute one instruction of"),
    ParamSpec(id=124, name="proc_mode", type=_U8, mask=_C,
              help="Semantics of the next runs: 0 strict, 1 as flown"),
    ParamSpec(id=125, name="proc_engine", type=_U8, mask=_C,
              help="Engine of the next runs: 0 interpreter, 1 compiled"),
    ParamSpec(id=126, name="proc_budget", type=_U64, mask=_C,
              help="Instructions the next runs may execute, 0 = unlimited"),
    _telemetry(127, "proc_heap_free", _U32, "M7 profile: bytes left of the board's heap"),
    _telemetry(130, "proc_pulls", _U32, "Pulls from other nodes"),
    _telemetry(131, "proc_pushes", _U32, "Pushes to other nodes"),
    _telemetry(132, "proc_lists", _U32, "Parameter lists downloaded"),
    _telemetry(133, "proc_unsaved", _U8, "1 = the procedure file could not be written"),
    SEAL_SPEC,
    _telemetry(135, "signing_required", _U8, "1 if procedures must be signed"),
    _telemetry(136, "signature_rejects", _U32, "Procedures refused: signature"),
    ParamSpec(id=140, name="gnss_node", type=_U16, mask=_C, help="Node with the GNSS, 0 = none"),
    ParamSpec(id=141, name="a53_node", type=_U16, mask=_C, help="Node of the A53 power, 0 = none"),
)  # fmt: skip

_POWER = (
    ParamSpec(id=150, name="power_reserve", type=_U8, mask=_C, unit="%",
              help="Plans must not be predicted to take the battery below this. 0 = not checked"),
    ParamSpec(id=151, name="power_horizon_s", type=_U32, mask=_C, unit="s", default=21_600,
              help="How far plans are predicted, mission seconds, 60 to 259200"),
    ParamSpec(id=152, name="power_policy", type=_U8, mask=_C,
              help="What happens to a plan that takes too much: 0 refused, 1 deferred"),
    _telemetry(153, "power_forecast_min", _FLOAT, "Last prediction: lowest percent"),
    _telemetry(154, "power_forecast_at", _U32, "Last prediction: when that is, Unix time"),
    _telemetry(155, "power_reason", _STRING, "Last prediction: what was decided and why",
               n=ERROR_BYTES, default="off"),
    _telemetry(156, "power_deferred", _U8, "Plans that wait for the battery; proc_stop ends them"),
    _telemetry(157, "power_deferred_slot", _U16, "Their slots, 65535 = none", n=RUN_ROWS,
               default=NO_SLOT),
    _telemetry(158, "power_refused", _U32, "Plans refused for the battery since boot"),
    ParamSpec(id=159, name="power_wait_s", type=_U32, mask=_C, unit="s", default=600,
              help="How long a wait is assumed to take if nothing is known about its end"),
    ParamSpec(id=160, name="eps_node", type=_U16, mask=_C, help="Node of the EPS, 0 = none"),
    _telemetry(161, "battery_percent", _FLOAT, "State of charge from the EPS. -1 = not known",
               default=BATTERY_UNKNOWN),
)  # fmt: skip

SPECS: tuple[ParamSpec, ...] = (
    *(
        ParamSpec(id=id_, name=name, type=_U32, mask=_R, help=_REGISTER_HELP, default=value)
        for id_, name, value in _REGISTERS
    ),
    *_MEASUREMENTS,
    *(
        ParamSpec(id=id_, name=name, type=type_, array_size=n, mask=_C, help="General register")
        for id_, name, type_, n in _REGISTER_TYPES
    ),
    ParamSpec(id=61, name="serial0", type=_I32, mask=_H, help="Hardware id"),
    *_OURS,
    *_POWER,
)


def clip(text: str) -> str:
    """Cut text to what an error parameter holds."""
    raw = text.replace("\0", "").encode("utf-8", "surrogateescape")[: ERROR_BYTES - 1]
    return raw.decode("utf-8", "ignore")
