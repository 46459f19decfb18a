"""Frames between node, forge and procedure processes: round trip, and nothing else gets through."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.param.types import ParamType
from dish.effects import Fault, LocalWrite, Pull, Push, Read, Reading, Remote, Resolve
from dish.errors import DecodeError, Ret
from dish.frames import (
    Command,
    Control,
    Ended,
    Exited,
    FrameError,
    Readings,
    Spawn,
    Spawned,
    SpawnFailed,
    Written,
    decode_frame,
    encode_frame,
)
from dish.status import RunLine, Status, decode_status, encode_status

FRAMES = [
    Pull(node=9, reads=(Read(name="a", index=0), Read(name="b\udcff", index=12))),
    Resolve(node=65535, name="long name"),
    Push(node=1, name="a", index=None, value=2**64 - 1),
    Push(node=1, name="a", index=3, value=-(2**63)),
    Push(node=1, name="a", index=3, value=b"\xff text"),
    LocalWrite(id=65535, index=31, value=-1.5),
    LocalWrite(id=1, index=0, value=math.inf),
    Control(command=Command.STEP),
    Readings(readings=(Reading(type=ParamType.U8, value=None),)),
    Readings(
        readings=(
            Reading(type=ParamType.STRING, value=b""),
            Reading(type=ParamType.FLOAT, value=0.0),
        )
    ),
    Remote(type=ParamType.DATA, count=254, read_only=True),
    Fault(reason="no response from node 9"),
    Written(),
    Ended(ret=Ret.BUDGET, slot=255, index=254, executed=2**63, reason="é"),
    Spawn(run_id=2**32 - 1),
    Spawned(run_id=1, pid=4194304),
    SpawnFailed(run_id=1, error=11),
    Exited(run_id=7, status=9),
]


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_round_trip_truncation_and_bit_flips(frame):
    data = encode_frame(frame)
    assert decode_frame(data) == frame
    for length in range(len(data)):
        with pytest.raises(FrameError):
            decode_frame(data[:length])
    with pytest.raises(FrameError):
        decode_frame(data + b"\0")
    for bit in range(8 * len(data)):
        damaged = bytearray(data)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            encode_frame(decode_frame(bytes(damaged)))
        except FrameError:
            continue


@given(st.binary(max_size=60))
@settings(max_examples=300, deadline=None)
def test_any_bytes_are_a_frame_or_a_named_error(data):
    try:
        frame = decode_frame(data)
    except FrameError:
        return
    # NaN is the one value that differs from itself.
    assert decode_frame(encode_frame(frame)) == frame or "nan" in repr(frame)


def test_what_does_not_fit_is_refused_by_the_encoder():
    for frame in (
        Push(node=1, name="a", index=0, value=2**64),
        Fault(reason="x" * 9000),
        Fault(reason="x" * 70000),
    ):
        with pytest.raises(FrameError):
            encode_frame(frame)


STATUS = Status(
    last_root=30,
    last_ret=-12,
    last_slot=31,
    last_index=7,
    runs=tuple(
        RunLine(root=n, state=2, slot=n, index=n, depth=1000, executed=2**40, age_s=5)
        for n in range(16)
    ),
)


def test_status_fits_a_packet_and_saturates():
    data = encode_status(STATUS)
    assert len(data) <= 251
    decoded = decode_status(data)
    assert decoded.last_ret == -12
    assert decoded.runs[15].executed == 2**32 - 1
    for length in range(len(data)):
        with pytest.raises(DecodeError):
            decode_status(data[:length])
