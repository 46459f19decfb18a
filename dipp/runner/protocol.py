"""How the frames of frames.py travel between node, forge, host and module child.

Theory of operation: one row per frame in `_FRAMES`: number, class, fields. A frame is its number
and its fields; it travels as one SOCK_SEQPACKET message, descriptors beside it. A receiver names
the frames it accepts; everything else is a `FrameError`, because below the node every sender may
be hostile. Pure. Source: design.md 2, performance.md 2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from dipp.runner.frames import (
    MAX_STEPS,
    REASON_LIMIT_BYTES,
    Alert,
    BatchDone,
    BatchFailed,
    BatchReleased,
    ChainLoaded,
    ChildReady,
    ForgeReady,
    Frame,
    HostExited,
    HostFault,
    HostRefused,
    HostSpawned,
    LoadChain,
    LoadFailed,
    LoadingModule,
    ModuleFailed,
    ModuleRaised,
    PoolFilled,
    Quit,
    SpawnHost,
)
from dipp.runner.hotframes import (
    DONE,
    FORWARDED,
    HOT_RECORDS,
    HotRecord,
    Images,
    decode_done,
    decode_forwarded,
)
from dipp.runner.values import Chain, ModuleStep, Policy, StageStats
from dipp.runner.wire import (
    F64,
    I32,
    U8,
    U16,
    U32,
    U64,
    Blob,
    Choice,
    FrameError,
    Many,
    Pair,
    Reader,
    Record,
    Text,
)

# 4096 images of 28 bytes fit twice; a socket of the default size (208 KiB) takes it in one piece.
MAX_FRAME_BYTES = 160 << 10
F = TypeVar("F")

_NAME = Text(64)
_REASON = Text(REASON_LIMIT_BYTES)
_VALUE = Choice(((bool, U8), (int, I32), (float, F64), (str, Text(1024))))
_STEP = Record(
    ModuleStep,
    index=U32,
    name=Text(255),
    path=Text(4096),
    sha256=_NAME,
    params=Many(Pair(Text(1024), _VALUE), 64),
    timeout_s=F64,
)
_CHAIN = Record(Chain, pipeline_id=U32, generation=U64, steps=Many(_STEP, MAX_STEPS))
_POLICY = Record(
    Policy,
    memory_bytes=U64,
    arena_bytes=U64,
    file_bytes=U64,
    open_files=U32,
    processes=U32,
    user=_NAME,
    skipped_rungs=Many(_NAME, 32),
    standby=U8,
    standby_bytes=U64,
    keep_bytes=U64,
    huge_pages=U8,
)
_STAGES = Many(
    Record(
        StageStats,
        name=Text(255),
        wall_s=F64,
        cpu_s=F64,
        peak_rss_kb=U64,
        bytes_in=U64,
        bytes_out=U64,
        pid=U32,
        orphans=U32,
        leaked_segments=U32,
        log_bytes=U64,
    ),
    MAX_STEPS,
)

_FRAMES: dict[int, Record | HotRecord] = {
    1: Record(ForgeReady, pid=U32, missing_rungs=Many(_NAME, 32), device=U64),
    2: Record(SpawnHost, host=U32),
    3: Record(HostSpawned, host=U32, pid=U32),
    4: Record(HostRefused, host=U32, errno=U32),
    5: Record(HostExited, host=U32, signal=U8, status=U8, orphans=U32),
    10: Record(LoadChain, chain=_CHAIN, policy=_POLICY),
    11: Record(LoadingModule, position=U8),
    12: Record(ChainLoaded, rss_kb=U64, missing_rungs=Many(_NAME, 32)),
    13: Record(LoadFailed, position=U8, code=U16, reason=_REASON),
    22: Record(
        BatchDone, batch_id=U64, images=Images(), arenas=U8, stages=_STAGES, rss_kb=U64,
        latency_s=F64,
    ),
    23: Record(BatchFailed, batch_id=U64, crash=Blob(188), log=Text(8192), stages=_STAGES),
    24: Record(HostFault, text=Text(8192)),
    25: Record(Quit),
    26: Record(BatchReleased, batch_id=U64),
    27: Record(PoolFilled, children=U16),
    28: Record(Alert, has_input=U8),
    32: Record(ModuleFailed, code=U16, reason=_REASON),
    33: Record(ModuleRaised, exception=_NAME, line=U32, reason=_REASON),
    34: Record(ChildReady, is_rehearsed=U8),
    **{record.number: record for record in HOT_RECORDS},
}  # fmt: skip
_NUMBERS = {record.kind: number for number, record in _FRAMES.items()}


def encode_frame(frame: Frame) -> bytes:
    """Return the bytes of a frame. Raises FrameError for a value beyond its limit."""
    number = _NUMBERS[type(frame)]
    record = _FRAMES[number]
    if isinstance(record, HotRecord):
        return record.encode(frame)
    out = bytearray([number])
    record.write(out, frame)
    if len(out) > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {len(out)} bytes, at most {MAX_FRAME_BYTES}")
    return bytes(out)


def decode_frame(data: bytes, accepted: tuple[type[F], ...]) -> F:
    """Parse a frame that must be of an accepted kind. Raises FrameError for anything else."""
    if not data or len(data) > MAX_FRAME_BYTES:
        raise FrameError(f"frame of {len(data)} bytes")
    record = _FRAMES.get(data[0])
    if record is None or record.kind not in accepted:
        raise FrameError(f"frame number {data[0]} is not expected here")
    if isinstance(record, HotRecord):
        hot: F = record.decode(data)
        return hot
    reader = Reader(data)
    reader.take(1)
    frame: F = record.read(reader)
    reader.finish()
    return frame


_RESULTS: dict[int, Callable[[bytes], Frame]] = {
    DONE: decode_done,
    FORWARDED: decode_forwarded,
}
_Report = ModuleFailed | ModuleRaised | ChildReady
_REPORTS: tuple[type[_Report], ...] = (ModuleFailed, ModuleRaised, ChildReady)


def decode_answer(data: bytes) -> Frame:
    """Parse what a module child says to its host. Raises FrameError for anything else."""
    decode = _RESULTS.get(data[0]) if data else None
    return decode_frame(data, _REPORTS) if decode is None else decode(data)


# What a child compares with instead of decoding.
ALERT, INPUT_ALERT = (encode_frame(Alert(has_input=number)) for number in (0, 1))
