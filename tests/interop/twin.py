"""A node of ours with the table and the memory of the C reference node that was recorded.

Every parameter type once as a scalar, all numbers also as arrays, texts, identifiers that need the
extension byte, read-only and hidden ones, and parameters that live in memory areas.
"""

from __future__ import annotations

from csp.loop import Loop
from csp.node import CspNode
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType, Value
from csp.sched import Scheduler
from csp.services import Identity
from csp.vmem.area import AreaKind, RamArea

_T = ParamType
_CONF = Mask.CONF

# id, name, type, array size, mask, default, unit, help, area, address
_ROWS: tuple[tuple[object, ...], ...] = (
    (1, "p_u8", _T.U8, 1, _CONF, 8, "unit", "an uint8"),
    (2, "p_u16", _T.U16, 1, _CONF, 16),
    (3, "p_u32", _T.U32, 1, _CONF, 32),
    (4, "p_u64", _T.U64, 1, _CONF, 64),
    (5, "p_i8", _T.I8, 1, _CONF, -8),
    (6, "p_i16", _T.I16, 1, _CONF, -16),
    (7, "p_i32", _T.I32, 1, _CONF, -32),
    (8, "p_i64", _T.I64, 1, _CONF, -64),
    (9, "p_x8", _T.X8, 1, _CONF, 0x8),
    (10, "p_x16", _T.X16, 1, _CONF, 0x16),
    (11, "p_x32", _T.X32, 1, _CONF, 0x32),
    (12, "p_x64", _T.X64, 1, _CONF, 0x64),
    (13, "p_flt", _T.FLOAT, 1, _CONF, 1.5, "V", "a float"),
    (14, "p_dbl", _T.DOUBLE, 1, _CONF, -2.25),
    (15, "p_str", _T.STRING, 32, _CONF, "hello", "", "a string"),
    (16, "p_dat", _T.DATA, 16, _CONF, bytes((1, 2, 3, 4)) + bytes(12), "", "some data"),
    (21, "a_u8p", _T.U8, 8, _CONF, [1, 2, 3, 4, 5, 6, 7, 8]),
    (22, "a_u16p", _T.U16, 4, _CONF, [1000, 2000, 3000, 4000]),
    (23, "a_u32p", _T.U32, 4, _CONF, [1, 70000, 3, 4]),
    (24, "a_u64p", _T.U64, 2, _CONF, [1, 1 << 40]),
    (25, "a_i8p", _T.I8, 4, _CONF, [-1, 1, -128, 127]),
    (26, "a_i16p", _T.I16, 4, _CONF, [-1, -300, 300, 4]),
    (27, "a_i32p", _T.I32, 4, _CONF, [-1, -70000, 3, 4]),
    (28, "a_i64p", _T.I64, 2, _CONF, [-1, -(1 << 40)]),
    (29, "a_fltp", _T.FLOAT, 4, _CONF, [0.0, 1.0, -1.0, 3.14159]),
    (30, "a_dblp", _T.DOUBLE, 2, _CONF, [1e10, -1e-10]),
    (33, "a_u8big", _T.U8, 150, Mask.DEBUG, 0, "", "150 elements"),
    (40, "ro_u32", _T.U32, 1, Mask.READONLY | Mask.TELEM, 4242, "mV", "read only"),
    (41, "cb_u8", _T.U8, 1, _CONF, 0, "", "prints on callback"),
    (42, "hw_u32", _T.U32, 1, Mask.HWREG, 5),
    (43, "tlm_u32", _T.U32, 1, Mask.TELEM | Mask.PRIO2, 77),
    (44, "hidden_u8", _T.U8, 1, _CONF | Mask.HIDDEN, 1, "", "hidden"),
    (50, "v_u32", _T.U32, 1, _CONF, None, "", "in vmem ram", "ram", 0x10),
    (51, "v_arr", _T.U16, 8, _CONF, None, "", "array in vmem ram", "ram", 0x20),
    (52, "f_u32", _T.U32, 1, _CONF, None, "", "in vmem file", "conf", 0x0),
    (53, "f_str", _T.STRING, 20, _CONF, None, "", "string in vmem file", "conf", 0x10),
    (256, "id_256", _T.U32, 1, _CONF, 256, "", "id 256"),
    (1023, "id_1023", _T.U32, 1, _CONF, 1023),
    (1024, "id_1024", _T.U32, 1, _CONF, 1024),
    (1100, "id_1100", _T.U32, 1, _CONF, 1100),
)
_FIELDS = ("id", "name", "type", "array_size", "mask", "default", "unit", "help", "area", "address")
# Where the linker had put them in the recorded node.
_AREAS = (
    ("ram", 4096, 0x438BC0, AreaKind.RAM),
    ("big", 100_000, 0x439BC0, AreaKind.RAM),
    ("conf", 1000, 0x452260, AreaKind.FILE),
)
IDENTITY = Identity(
    hostname="refparam", model="ref-node", revision="lab", date="Nov 21 2026", time="07:00:00"
)


class FixedWall:
    """A clock that shows what it was set to: answers with the time repeat exactly."""

    def __init__(self, unix_s: float = 1_800_000_000.0) -> None:
        self._unix_s = unix_s

    def now(self) -> float:
        """Return Unix seconds."""
        return self._unix_s

    def set(self, unix_s: float) -> None:
        """Show this from now on."""
        self._unix_s = unix_s


def table() -> ParamTable:
    """Return the parameters with their values at start."""
    return ParamTable(
        [ParamSpec(**dict(zip(_FIELDS, row, strict=False))) for row in _ROWS]  # type: ignore[arg-type]
    )


def twin(loop: Loop | Scheduler, address: int, version: int, seed: int = 1) -> CspNode:
    """Return the node, not yet attached to a link."""
    areas = []
    for name, size, start, kind in _AREAS:
        area = RamArea(name, size, start)
        area.kind = kind
        areas.append(area)
    return CspNode(
        loop,
        address=address,
        identity=IDENTITY,
        table=table(),
        version=version,
        areas=areas,
        wall=FixedWall(),
        seed=seed,
    )


__all__ = ["IDENTITY", "FixedWall", "Value", "table", "twin"]
