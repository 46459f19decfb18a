"""Encode what node, forge and procedure processes say to each other. Pure.

One frame is one message of a SOCK_SEQPACKET pair: a kind byte and the fields, each with a tag. The
decoder believes nothing, because a process in the middle of a crash may have written it: unknown
kinds, wrong counts, wrong types and numbers out of range are `FrameError`. Source: design.md 2.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TypeVar, cast

from csp.param.types import ParamType
from dish.effects import Fault, LocalWrite, Pull, Push, Read, Reading, Remote, Resolve
from dish.errors import ContentError, Ret

# The biggest legal frame is a pull of two 35-byte names or a string value of 254 bytes.
MAX_FRAME_BYTES = 8192

Field = None | int | float | bytes | str | tuple["Field", ...]


T = TypeVar("T")


class FrameError(ContentError):
    """A frame that no healthy process would send."""


class Command(IntEnum):
    """What the node may tell a procedure process."""

    STOP = 1
    PAUSE = 2
    RESUME = 3
    STEP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Control:
    """Node to child: a command of the operator."""

    command: Command


@dataclass(frozen=True, slots=True, kw_only=True)
class Readings:
    """Node to child: the reply to a Pull."""

    readings: tuple[Reading, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """Node to child: the reply to a Push or LocalWrite that worked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    """Child to node: the run is over. `slot` and `index` say where, `executed` how far it got."""

    ret: Ret
    slot: int
    index: int
    executed: int
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawn:
    """Node to forge, with two descriptors: the child's socket and its request."""

    run_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Spawned:
    """Forge to node, with the child's pidfd."""

    run_id: int
    pid: int


@dataclass(frozen=True, slots=True, kw_only=True)
class SpawnFailed:
    """Forge to node: no process could be made; `error` is the errno."""

    run_id: int
    error: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """Forge to node: the child is gone and reaped; `status` as waitpid gives it."""

    run_id: int
    status: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Clone:
    """Node to forge, with one descriptor: make a second forge that listens there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cloned:
    """Forge to node, with the pidfd of the second forge."""

    pid: int


Frame = (
    Pull | Resolve | Push | LocalWrite | Control | Readings | Remote | Fault | Written | Ended
    | Spawn | Spawned | SpawnFailed | Exited | Clone | Cloned
)  # fmt: skip

# The position is the kind byte.
_KINDS: tuple[type[Frame], ...] = (
    Pull, Resolve, Push, LocalWrite, Control, Readings, Remote, Fault, Written, Ended,
    Spawn, Spawned, SpawnFailed, Exited, Clone, Cloned,
)  # fmt: skip

_U64, _I64, _U32 = 2**64 - 1, 2**63, 2**32 - 1
_INT = struct.Struct("<Bq")
_BIG = struct.Struct("<BQ")
_FLOAT = struct.Struct("<Bd")
_LENGTH = struct.Struct("<BH")


# Tags of fields: none, signed 64 bits, unsigned 64 bits, double, bytes, text, row of fields.
def pack(value: Field) -> bytes:
    """Return the bytes of one field. Raises FrameError for what has no representation."""
    if value is None:
        return b"\x00"
    if isinstance(value, int):
        if -_I64 <= value < _I64:
            return _INT.pack(1, value)
        if 0 <= value <= _U64:
            return _BIG.pack(2, value)
        raise FrameError(f"{value} does not fit 64 bits")
    if isinstance(value, float):
        return _FLOAT.pack(3, value)
    if isinstance(value, tuple):
        return _LENGTH.pack(6, len(value)) + b"".join(map(pack, value))
    tag = 4 if isinstance(value, bytes) else 5
    raw = value if isinstance(value, bytes) else value.encode("utf-8", "surrogateescape")
    if len(raw) > 0xFFFF:
        raise FrameError(f"{len(raw)} bytes in one field")
    return _LENGTH.pack(tag, len(raw)) + raw


def unpack(data: bytes, offset: int = 0, depth: int = 0) -> tuple[Field, int]:
    """Read one field; return it and where it ends. Raises FrameError."""
    try:
        tag = data[offset]
        if tag == 0:
            return None, offset + 1
        if tag in (1, 2, 3):
            form = (_INT, _BIG, _FLOAT)[tag - 1]
            number: int | float = form.unpack_from(data, offset)[1]
            return number, offset + form.size
        length = _LENGTH.unpack_from(data, offset)[1]
    except (IndexError, struct.error):
        raise FrameError("frame ends in a field") from None
    offset += _LENGTH.size
    if tag == 6 and depth < 4:
        row: list[Field] = []
        for _ in range(length):
            value, offset = unpack(data, offset, depth + 1)
            row.append(value)
        return tuple(row), offset
    if tag not in (4, 5) or offset + length > len(data):
        raise FrameError(f"bad field with tag {tag}")
    raw = data[offset : offset + length]
    return (raw if tag == 4 else raw.decode("utf-8", "surrogateescape")), offset + length


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame. Raises FrameError if it is too long."""
    kind = _KINDS.index(type(frame))
    values = tuple(_plain(getattr(frame, entry.name)) for entry in fields(frame))
    data = bytes((kind,)) + pack(values)
    if len(data) > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {len(data)} bytes")
    return data


def _plain(value: object) -> Field:
    if isinstance(value, tuple):
        return tuple(_plain(entry) for entry in value)
    if isinstance(value, (Read, Reading)):
        return tuple(_plain(getattr(value, entry.name)) for entry in fields(value))
    if value is None or isinstance(value, (int, float, bytes, str)):
        return value
    raise FrameError(f"{type(value).__name__} cannot be in a frame")


def decode_frame(data: bytes) -> Frame:
    """Read a frame. Raises FrameError."""
    if not data or data[0] >= len(_KINDS) or len(data) > MAX_FRAME_BYTES:
        raise FrameError("not a frame")
    values, end = unpack(data, 1)
    if end != len(data) or not isinstance(values, tuple):
        raise FrameError("bytes after the frame")
    kind = _KINDS[data[0]]
    return _build(cast("Callable[..., Frame]", kind), _CHECKS[kind], values)


def _build(kind: Callable[..., T], checks: Sequence[Check], values: Sequence[Field]) -> T:
    """Make a value of this class from checked fields."""
    names = [entry.name for entry in fields(kind)]  # type: ignore[arg-type]
    if len(values) != len(checks):
        raise FrameError(f"{len(values)} fields instead of {len(checks)}")
    pairs = zip(names, checks, values, strict=True)
    return kind(**{name: check(value) for name, check, value in pairs})


Check = Callable[[Field], object]


def _number(low: int, high: int) -> Check:
    def check(value: Field) -> int:
        if not isinstance(value, int) or not low <= value <= high:
            raise FrameError(f"{value!r} is no number in {low}..{high}")
        return value

    return check


def _optional(inner: Check) -> Check:
    return lambda value: None if value is None else inner(value)


def _text(value: Field) -> str:
    if not isinstance(value, str):
        raise FrameError(f"{value!r} is no text")
    return value


def _flag(value: Field) -> bool:
    return _number(0, 1)(value) == 1


def _value(value: Field) -> int | float | bytes:
    if not isinstance(value, (int, float, bytes)):
        raise FrameError(f"{value!r} is no value")
    return value


def _rows(build: type[Read] | type[Reading], checks: Sequence[Check], limit: int) -> Check:
    def check(value: Field) -> tuple[object, ...]:
        if not isinstance(value, tuple) or len(value) > limit:
            raise FrameError("not a list of rows")
        rows: list[object] = []
        for row in value:
            if not isinstance(row, tuple):
                raise FrameError("not a row")
            rows.append(_build(build, checks, row))
        return tuple(rows)

    return check


def _member(kind: type[IntEnum]) -> Check:
    def check(value: Field) -> IntEnum:
        try:
            return kind(value)  # type: ignore[arg-type]
        except ValueError:
            raise FrameError(f"{value!r} is no {kind.__name__}") from None

    return check


_NODE = _number(0, 0xFFFF)
_INDEX = _number(0, 10**9)
_BYTE = _number(0, 255)
_COUNT = _number(0, _U64)
_ID = _number(0, _U32)
# Two operands are the most an instruction has.
_MAX_READS = 2

_CHECKS: dict[type[Frame], tuple[Check, ...]] = {
    Pull: (_NODE, _rows(Read, (_text, _INDEX), _MAX_READS)),
    Resolve: (_NODE, _text),
    Push: (_NODE, _text, _optional(_INDEX), _value),
    LocalWrite: (_NODE, _optional(_INDEX), _value),
    Control: (_member(Command),),
    Readings: (_rows(Reading, (_member(ParamType), _optional(_value)), _MAX_READS),),
    Remote: (_member(ParamType), _BYTE, _flag),
    Fault: (_text,),
    Written: (),
    Ended: (_member(Ret), _BYTE, _BYTE, _COUNT, _text),
    Spawn: (_ID,),
    Spawned: (_ID, _number(1, _U32)),
    SpawnFailed: (_ID, _number(0, 4095)),
    Exited: (_ID, _number(0, 0xFFFF)),
    Clone: (),
    Cloned: (_number(1, _U32),),
}
