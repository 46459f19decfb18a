"""Encode what CONTROL requests ask and answer: our extension of port 14. Pure.

`8A verb [slot]` -> `8B` + body. STATUS answers with a `Status`; the other verbs answer with one
byte, the number of runs they reached. Without a slot a verb means every run. Source: dish.md 14.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum

from dish.errors import DecodeError


class Verb(IntEnum):
    """What a CONTROL request asks for."""

    STATUS = 0
    STOP = 1
    PAUSE = 2
    RESUME = 3
    STEP = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class RunLine:
    """One running procedure: its root slot, state, place, and instructions executed so far."""

    root: int
    state: int
    slot: int
    index: int
    depth: int
    executed: int
    age_s: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Status:
    """The last outcome (`ret` 0 and `root` 255 before the first) and what is running."""

    last_root: int
    last_ret: int
    last_slot: int
    last_index: int
    runs: tuple[RunLine, ...] = ()


_HEAD = struct.Struct("<BbBBB")
_LINE = struct.Struct("<BBBBHII")
_U32 = 0xFFFF_FFFF


def encode_status(status: Status) -> bytes:
    """Return the body of a STATUS answer: 5 bytes and 14 per run. Counters saturate."""
    head = _HEAD.pack(
        status.last_root, status.last_ret, status.last_slot, status.last_index, len(status.runs)
    )
    return head + b"".join(
        _LINE.pack(
            run.root, run.state, run.slot, run.index, min(run.depth, 0xFFFF),
            min(run.executed, _U32), min(run.age_s, _U32),
        )
        for run in status.runs
    )  # fmt: skip


def decode_status(data: bytes) -> Status:
    """Read a STATUS answer. Raises DecodeError."""
    if len(data) < _HEAD.size:
        raise DecodeError(0, f"{_HEAD.size} bytes", str(len(data)))
    last_root, last_ret, last_slot, last_index, count = _HEAD.unpack_from(data)
    if len(data) < _HEAD.size + count * _LINE.size:
        raise DecodeError(_HEAD.size, f"{count} runs", f"{len(data)} bytes")
    runs: list[RunLine] = []
    for number in range(count):
        root, state, slot, index, depth, executed, age_s = _LINE.unpack_from(
            data, _HEAD.size + number * _LINE.size
        )
        runs.append(
            RunLine(
                root=root, state=state, slot=slot, index=index, depth=depth, executed=executed,
                age_s=age_s,
            )
        )  # fmt: skip
    return Status(
        last_root=last_root, last_ret=last_ret, last_slot=last_slot, last_index=last_index,
        runs=tuple(runs),
    )  # fmt: skip
