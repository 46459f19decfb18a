"""Frames between the processes: every kind both ways, and nothing but frames or FrameError."""

from __future__ import annotations

import os
import socket

import pytest

from dipp.runner.channel import Channel, close_fds, expect_fds
from dipp.runner.frames import (
    BatchDone,
    BatchFailed,
    BatchReleased,
    ChainLoaded,
    ChildReady,
    ForgeReady,
    Go,
    HostExited,
    HostFault,
    HostRefused,
    HostSpawned,
    LoadChain,
    LoadFailed,
    LoadingModule,
    ModuleDone,
    ModuleFailed,
    ModuleForwarded,
    ModuleRaised,
    PoolFilled,
    Quit,
    RunBatch,
    SpawnHost,
)
from dipp.runner.hotframes import encode_forwarded
from dipp.runner.protocol import MAX_FRAME_BYTES, decode_answer, decode_frame, encode_frame
from dipp.runner.values import Chain, ModuleStep, Policy, StageStats
from dipp.runner.wire import FrameError
from dipp.workspace import ImageRef, SeenImage, SegmentRange

REF = ImageRef(
    meta=SegmentRange(segment=0, offset=4, length=31),
    pixels=SegmentRange(segment=2, offset=1 << 33, length=10),
)
SEEN = SeenImage(*REF.meta, *REF.pixels, 4, 8, 1, 12, 0)
STEP = ModuleStep(
    index=1,
    name="demosaic",
    path="/modules/demosaic.py",
    sha256="ab" * 32,
    params=(("a", True), ("b", -3), ("c", 0.5), ("d", "text é")),
    timeout_s=2.5,
)
FRAMES = (
    ForgeReady(pid=1),
    SpawnHost(host=7),
    HostSpawned(host=7, pid=99),
    HostRefused(host=7, errno=11),
    HostExited(host=7, signal=9, status=0, orphans=2),
    LoadChain(
        chain=Chain(pipeline_id=1, generation=1 << 40, steps=(STEP, STEP)),
        policy=Policy(skipped_rungs=("memory",)),
    ),
    LoadingModule(position=2),
    ChainLoaded(rss_kb=1234, missing_rungs=("landlock: no",)),
    LoadFailed(position=1, code=501, reason="no such file"),
    RunBatch(batch_id=5, images=(REF, REF)),
    BatchReleased(batch_id=5),
    PoolFilled(children=3),
    ChildReady(is_rehearsed=1),
    BatchDone(
        batch_id=5,
        images=(REF,),
        arenas=1,
        stages=(StageStats(name="x", wall_s=0.1),),
        rss_kb=1,
        latency_s=0.25,
    ),
    BatchFailed(batch_id=5, crash=bytes(60), log="line\nline", stages=()),
    HostFault(text="Traceback"),
    Quit(),
    Go(batch_id=5, pipeline_id=1, images=(SEEN,), segments=(255, 1), hold=True, brief=True),
    ModuleForwarded(batch_id=5),
    ModuleDone(batch_id=5, pipeline_id=1, images=(REF,)),
    ModuleFailed(code=8, reason="why"),
    ModuleRaised(exception="ValueError", line=3, reason="x"),
)
KINDS = tuple(type(frame) for frame in FRAMES)
named = pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)


@named
def test_frame_survives_the_wire(frame):
    data = encode_frame(frame)
    assert decode_frame(data, (type(frame),)) == frame
    assert decode_frame(data, KINDS) == frame


def test_the_short_way_to_a_forwarded_batch_is_the_same():
    assert encode_forwarded(5) == encode_frame(ModuleForwarded(batch_id=5))


# What a module child may say.
ANSWERS = (ModuleDone, ModuleForwarded, ModuleFailed, ModuleRaised, ChildReady)


def either(decode, *args):
    try:
        return decode(*args)
    except FrameError:
        return FrameError


@named
def test_an_answer_is_read_the_same_on_the_short_way(frame):
    data = encode_frame(frame)
    pieces = [data[:end] for end in range(len(data) + 1)] + [data + b"\0"]
    flips = [bytearray(data) for _ in range(len(data) * 8)]
    for bit, flipped in enumerate(flips):
        flipped[bit // 8] ^= 1 << bit % 8
    for piece in [*pieces, *map(bytes, flips)]:
        assert either(decode_answer, piece) == either(decode_frame, piece, ANSWERS)
    assert (either(decode_answer, data) is FrameError) == (type(frame) not in ANSWERS)


def test_a_result_with_too_many_images_is_refused():
    data = encode_frame(ModuleDone(batch_id=1, pipeline_id=1, images=(REF,) * 4096))
    more = data[:13] + (4097).to_bytes(4, "little") + data[17:] + data[17:45]
    with pytest.raises(FrameError, match="4097 images"):
        decode_answer(more)


@named
def test_frame_is_refused_where_it_does_not_belong(frame):
    others = tuple(kind for kind in KINDS if kind is not type(frame))
    with pytest.raises(FrameError, match="not expected"):
        decode_frame(encode_frame(frame), others)


@named
def test_every_truncation_and_every_extension_is_an_error(frame):
    data = encode_frame(frame)
    for end in range(len(data)):
        with pytest.raises(FrameError):
            decode_frame(data[:end], KINDS)
    with pytest.raises(FrameError):
        decode_frame(data + b"\0", KINDS)


@named
def test_any_flipped_bit_gives_a_frame_or_an_error(frame):
    data = encode_frame(frame)
    for bit in range(len(data) * 8):
        flipped = bytearray(data)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            result = decode_frame(bytes(flipped), KINDS)
        except FrameError:
            continue
        assert type(result) in KINDS


@pytest.mark.parametrize("data", [b"", b"\xff", bytes(MAX_FRAME_BYTES + 1)])
def test_what_is_no_frame_at_all(data):
    with pytest.raises(FrameError):
        decode_frame(data, KINDS)


@pytest.mark.parametrize(
    "frame",
    [
        ModuleDone(batch_id=1, pipeline_id=1, images=(REF,) * 4097),
        ModuleDone(batch_id=-1, pipeline_id=1, images=()),
        ModuleFailed(code=70000, reason=""),
        ModuleFailed(code=1, reason="x" * 1025),
        ModuleFailed(code=1, reason="\ud800"),
        BatchFailed(batch_id=1, crash=bytes(189), log="", stages=()),
    ],
)
def test_what_no_frame_can_hold(frame):
    with pytest.raises(FrameError):
        encode_frame(frame)


def test_the_largest_batch_fits_one_message():
    left, right = Channel.pair()
    frame = ModuleDone(batch_id=1, pipeline_id=1, images=(REF,) * 4096)
    try:
        left.send(frame)
        assert right.receive((ModuleDone,)) == (frame, [])
    finally:
        left.close()
        right.close()


def test_descriptors_travel_and_unwanted_ones_are_closed():
    left, right = Channel.pair()
    before = len(os.listdir("/proc/self/fd"))
    try:
        left.send(Quit(), [0, 1])
        message = right.receive((Quit,))
        assert message is not None
        _, fds = message
        assert len(expect_fds(fds, 2)) == 2
        assert not any(os.get_inheritable(fd) for fd in fds)
        close_fds(fds)
        left.send(Quit(), [0, 1])
        with pytest.raises(FrameError):
            right.receive((ForgeReady,))
        left.send(Quit(), [0, 1])
        _, fds = right.receive((Quit,)) or (None, [])
        with pytest.raises(FrameError, match="2 descriptors, expected 1"):
            expect_fds(fds, 1)
        # More than any frame may bring: truncated by the kernel, the rest closed here.
        left.sock.sendmsg(
            [encode_frame(Quit())],
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, bytes(4 * 60))],
        )
        with pytest.raises(FrameError, match="truncated"):
            right.receive((Quit,))
        assert len(os.listdir("/proc/self/fd")) == before
        left.close()
        assert right.receive((Quit,)) is None
    finally:
        left.close()
        right.close()


def test_nothing_there_is_not_the_end():
    left, right = Channel.pair()
    right.set_blocking(False)
    with pytest.raises(BlockingIOError):
        right.receive((Quit,))
    left.close()
    right.close()
