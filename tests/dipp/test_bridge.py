"""The System V bridge: real queues and segments, kills at every step, full queues, bad ids."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import json
import os
import random
import signal
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import posix_ipc
import pytest

from csp.statelock import StateInUse
from dipp import bridge as bridge_module
from dipp.bridge import Bridge, Step, translate
from dipp.cli import main
from dipp.errors import ContentError
from dipp.intake import QUEUE_DEPTH
from dipp.message import BatchMessage, decode_message
from dipp.rig import unique

ROOT = Path(__file__).parents[2]
DEADLINE_S = 20.0
LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.shmat.restype = ctypes.c_void_p
LIBC.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
LIBC.shmdt.argtypes = [ctypes.c_void_p]
LIBC.msgsnd.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_size_t, ctypes.c_int]
IPC_CREAT, IPC_RMID, IPC_STAT, IPC_NOWAIT = 0o1000, 0, 2, 0o4000


class Source:
    """An image source as the original camera controller is one, and DIPP's end of its queue."""

    def __init__(self) -> None:
        self.key = random.SystemRandom().randrange(1 << 20, 1 << 30)
        self.posix = unique()
        self.segments: list[int] = []
        self.create()

    def create(self) -> None:
        self.queue = LIBC.msgget(self.key, IPC_CREAT | 0o600)
        assert self.queue >= 0

    def remove(self) -> None:
        LIBC.msgctl(self.queue, IPC_RMID, None)

    def segment(self, content: bytes) -> int:
        shmid = int(LIBC.shmget(0, len(content), IPC_CREAT | 0o600))
        assert shmid >= 0
        address = LIBC.shmat(shmid, None, 0)
        ctypes.memmove(address, content, len(content))
        LIBC.shmdt(address)
        self.segments.append(shmid)
        return shmid

    def put(self, body: bytes, kind: int = 1) -> None:
        message = struct.pack("<q", kind) + body
        assert LIBC.msgsnd(self.queue, message, len(body), IPC_NOWAIT) == 0

    def send(self, content: bytes, *, images: int = 1, pipeline: int = 1, junk: int = 0) -> int:
        """Send a batch as the camera (24 bytes) or the simulator (32) does."""
        shmid = self.segment(content)
        body = struct.pack("<iiiiQ", images, len(content), shmid, pipeline, 0x7F1122334455)
        self.put(body + b"\xee" * junk)
        return shmid

    def exists(self, shmid: int) -> bool:
        return LIBC.shmctl(shmid, IPC_STAT, ctypes.create_string_buffer(256)) == 0

    def take(self) -> tuple[BatchMessage, bytes | None] | None:
        """Do what DIPP does: take a message, read its segment if it is there, remove it."""
        try:
            queue = posix_ipc.MessageQueue(self.posix)
        except posix_ipc.ExistentialError:
            return None
        try:
            message = decode_message(queue.receive(timeout=0)[0])
        except posix_ipc.BusyError:
            return None
        finally:
            queue.close()
        path = Path("/dev/shm") / message.segment[1:]
        if not path.exists():
            return message, None
        content = path.read_bytes()
        path.unlink()
        return message, content

    def announced(self) -> int:
        """How many messages wait for DIPP."""
        try:
            queue = posix_ipc.MessageQueue(self.posix)
        except posix_ipc.ExistentialError:
            return 0
        try:
            return int(queue.current_messages)
        finally:
            queue.close()

    def waiting(self) -> int:
        """How many messages wait for the bridge."""
        for line in Path("/proc/sysvipc/msg").read_text().splitlines()[1:]:
            _, number, _, _, messages, *_ = line.split()
            if int(number) == self.queue:
                return int(messages)
        raise AssertionError("no queue")

    def taken(self) -> list[bytes]:
        """Everything DIPP would find, without refused messages."""
        found = []
        while (batch := self.take()) is not None:
            if batch[1] is not None:
                found.append(batch[1])
        return found

    def clean(self) -> None:
        self.taken()
        self.remove()
        for shmid in self.segments:
            LIBC.shmctl(shmid, IPC_RMID, None)
        try:
            posix_ipc.unlink_message_queue(self.posix)
        except posix_ipc.ExistentialError:
            return


@pytest.fixture
def source() -> Iterator[Source]:
    # The names of segments do not tell whose they are: of these tests one runs at a time, whatever
    # else runs on this machine.
    with (Path(tempfile.gettempdir()) / f"dipp_bridge_tests_{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        before = set(Path("/dev/shm").glob("dipp_sysv_*"))
        source = Source()
        yield source
        source.clean()
        assert set(Path("/dev/shm").glob("dipp_sysv_*")) <= before
        assert not any(map(source.exists, source.segments))


@pytest.fixture
def bridge(source: Source, tmp_path: Path) -> Iterator[Bridge]:
    bridge = Bridge(tmp_path / "state", source.key, source.posix)
    yield bridge
    bridge.close()


def drain(bridge: Bridge) -> list[Step]:
    steps = []
    while (step := bridge.step()) is Step.DONE:
        steps.append(step)
    return [*steps, step]


def test_translation_keeps_the_numbers_and_names_the_copy() -> None:
    body = struct.pack("<iiiiQ", 10, 5000, 77, 3, 1) + b"12345678"
    message = translate(body, "/dipp_sysv_1")
    assert message == BatchMessage(
        num_images=10, batch_size=5000, pipeline_id=3, shmid=77, segment="/dipp_sysv_1"
    )
    for size in (*range(24), 33, 64, 128):
        with pytest.raises(ContentError):
            translate(bytes(size), "/dipp_sysv_1")


@pytest.mark.parametrize("junk", [0, 8], ids=["camera", "simulator"])
def test_a_batch_moves_over_and_the_original_is_removed(
    source: Source, bridge: Bridge, junk: int
) -> None:
    contents = [os.urandom(size) for size in (1, 4096, 100_001)]
    sent = [source.send(each, images=n, junk=junk) for n, each in enumerate(contents, 1)]
    assert drain(bridge) == [Step.DONE] * 3 + [Step.IDLE]
    for number, (content, shmid) in enumerate(zip(contents, sent, strict=True), 1):
        found = source.take()
        assert found is not None
        message, copy = found
        assert (message.num_images, message.batch_size, message.pipeline_id) == (
            number, len(content), 1,
        )  # fmt: skip
        assert (copy, message.shmid) == (content, shmid)
        assert not source.exists(shmid)
    assert bridge.counters.taken == bridge.counters.handed_over == 3


def test_only_messages_of_type_1_are_taken(source: Source, bridge: Bridge) -> None:
    source.put(bytes(24), kind=2)
    assert bridge.step() is Step.IDLE


@pytest.mark.parametrize("size", [0, 1, 15, 23, 33, 64, 200])
def test_messages_that_are_no_batch_are_dropped_and_counted(
    source: Source, bridge: Bridge, size: int
) -> None:
    source.put(bytes(size))
    source.send(b"next")
    assert drain(bridge) == [Step.DONE, Step.DONE, Step.IDLE]
    assert bridge.counters.bad_messages == 1
    assert source.taken() == [b"next"]


@pytest.mark.parametrize("shmid", [-1, 0x7FFFFFFF, "removed"])
def test_bad_segments_are_dropped_and_counted(
    source: Source, bridge: Bridge, shmid: int | str
) -> None:
    if shmid == "removed":
        shmid = source.segment(b"x")
        LIBC.shmctl(shmid, IPC_RMID, None)
    source.put(struct.pack("<iiiiQ", 1, 10, shmid, 1, 0))
    source.send(b"next")
    assert drain(bridge) == [Step.DONE, Step.DONE, Step.IDLE]
    assert bridge.counters.bad_segments == 1
    assert source.taken() == [b"next"]


@pytest.mark.parametrize("claimed", [-5, 0, 3, 10, 1 << 30])
def test_a_size_that_is_wrong_is_left_to_dipp_to_judge(
    source: Source, bridge: Bridge, claimed: int
) -> None:
    source.put(struct.pack("<iiiiQ", 1, claimed, source.segment(b"0123456789"), 1, 0))
    assert bridge.step() is Step.DONE
    found = source.take()
    assert found is not None
    assert found[0].batch_size == claimed
    assert found[1] == b"0123456789"[: claimed if 0 < claimed < 10 else 10]


def test_a_full_queue_holds_batches_back_and_loses_none(source: Source, bridge: Bridge) -> None:
    contents = [b"batch %d" % number for number in range(25)]
    for content in contents:
        source.send(content)
    assert drain(bridge) == [Step.DONE] * 10 + [Step.WAITING]
    assert bridge.step() is Step.WAITING
    found = []
    while len(found) < 25:
        found += source.taken()
        drain(bridge)
    assert found == contents
    assert bridge.counters.waits >= 2
    assert bridge.counters.handed_over == 25


def test_full_memory_is_waited_for(
    source: Source, bridge: Bridge, monkeypatch: pytest.MonkeyPatch
) -> None:
    shmid = source.send(b"batch")
    real, left = os.write, [2]

    def write(fd: int, data: memoryview) -> int:
        if left[0]:
            left[0] -= 1
            raise OSError(errno.ENOSPC, "no space")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    assert [bridge.step() for _ in range(3)] == [Step.WAITING, Step.WAITING, Step.DONE]
    assert not source.exists(shmid)
    assert source.taken() == [b"batch"]


def test_a_posix_queue_with_too_small_messages_is_waited_for(
    source: Source, bridge: Bridge
) -> None:
    queue = posix_ipc.MessageQueue(
        source.posix, posix_ipc.O_CREAT, max_messages=1, max_message_size=24
    )
    queue.close()
    source.send(b"batch")
    assert bridge.step() is Step.WAITING
    posix_ipc.unlink_message_queue(source.posix)
    assert bridge.step() is Step.DONE
    assert source.taken() == [b"batch"]


def test_the_system_v_queue_may_come_late_and_be_made_anew(source: Source, bridge: Bridge) -> None:
    source.remove()
    assert bridge.step() is Step.IDLE
    for content in (b"one", b"two"):
        source.create()
        source.send(content)
        assert drain(bridge) == [Step.DONE, Step.IDLE]
        source.remove()
    assert bridge.step() is Step.IDLE
    assert source.taken() == [b"one", b"two"]


def test_a_second_bridge_on_the_same_state_refuses(
    source: Source, bridge: Bridge, tmp_path: Path
) -> None:
    with pytest.raises(StateInUse, match="another bridge"):
        Bridge(tmp_path / "state", source.key, source.posix)


class Killed(BaseException):
    """Stands for SIGKILL: nothing after it runs."""


def _die(*args: object, **keywords: object) -> None:
    raise Killed


# (what is replaced, whether it still does its work before the kill)
KILLS = [
    ("translate", False),
    ("segment_size", False),
    ("attached", False),
    ("encode_message", False),
    ("remove_segment", False),
    ("remove_segment", True),
]


@pytest.mark.parametrize(("name", "works"), KILLS)
@pytest.mark.parametrize("consumed", [False, True], ids=["", "consumed"])
@pytest.mark.parametrize("junk", [0, 8], ids=["camera", "simulator"])
def test_a_kill_at_any_step_loses_nothing_and_stores_nothing_twice(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, works: bool,
    consumed: bool, junk: int,
) -> None:  # fmt: skip
    shmid = source.send(b"batch", junk=junk)
    first = Bridge(tmp_path / "state", source.key, source.posix)
    real = getattr(bridge_module, name)

    def killed(*args: object) -> None:
        if works:
            real(*args)
        raise Killed

    monkeypatch.setattr(bridge_module, name, killed)
    with pytest.raises(Killed):
        first.step()
    monkeypatch.setattr(bridge_module, name, real)
    # What the kernel does for a killed process.
    first.close()
    found = source.taken() if consumed else []
    second = Bridge(tmp_path / "state", source.key, source.posix)
    source.send(b"next", junk=junk)
    assert drain(second) == [Step.DONE, Step.DONE, Step.IDLE]
    second.close()
    assert [*found, *source.taken()] == [b"batch", b"next"]
    assert not source.exists(shmid)
    assert second.counters.resumed == 1


@pytest.mark.parametrize("method", ["unlink", "touch"])
def test_a_kill_around_the_marker_loses_nothing(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    source.send(b"batch")
    first = Bridge(tmp_path / "state", source.key, source.posix)
    with monkeypatch.context() as patch:
        patch.setattr(Path, method, _die)
        with pytest.raises(Killed):
            first.step()
    first.close()
    second = Bridge(tmp_path / "state", source.key, source.posix)
    assert drain(second) == [Step.DONE, Step.IDLE]
    second.close()
    assert source.taken() == [b"batch"]


def test_a_queue_that_may_not_be_read_ends_the_command_with_a_reason(
    source: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    def refused(*args: object) -> None:
        raise OSError(errno.EACCES, "System V queue 1: Permission denied")

    monkeypatch.setattr(bridge_module.SysvQueue, "receive", refused)
    words = ["bridge", "--key", "1", "--queue", source.posix, "--state", str(tmp_path / "s")]
    assert main(words) == 1
    assert "Permission denied" in capsys.readouterr().err


def start(source: Source, state: Path, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [
            sys.executable, "-m", "dipp", "bridge", "--key", str(source.key), "--queue",
            source.posix, "--state", str(state), *words,
        ],
        cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_the_command_drains_and_counts(source: Source, tmp_path: Path) -> None:
    source.send(b"one")
    source.put(b"bad")
    process = start(source, tmp_path / "state", "--drain", "--json")
    output, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    counters = json.loads(output)
    assert (counters["handed_over"], counters["bad_messages"]) == (1, 1)
    assert source.taken() == [b"one"]


def test_real_kills_at_random_instants(source: Source, tmp_path: Path) -> None:
    """Each kill meets a bridge at work: more waits behind it than DIPP's queue could take."""
    rng = random.Random(7)
    sent: list[bytes] = []
    found: list[bytes] = []
    for handed_over in rng.sample(range(1, QUEUE_DEPTH), 6):
        burst = [b"batch %d " % (len(sent) + n) + bytes(200_000) for n in range(QUEUE_DEPTH + 5)]
        for content in burst:
            source.send(content)
        sent += burst
        process = start(source, tmp_path / "state")
        wait_until(process, lambda wanted=handed_over: source.announced() >= wanted)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        # One may be in its hands; the rest it had yet to do when it died.
        assert source.waiting() >= 4
        found += source.taken()
    process = start(source, tmp_path / "state")

    def all_taken() -> bool:
        found.extend(source.taken())
        return len(found) >= len(sent)

    wait_until(process, all_taken)
    process.terminate()
    _, errors = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == 0, errors
    assert found == sent


def wait_until(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
