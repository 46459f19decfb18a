"""Take batch messages from the POSIX queue without a moment in which a kill loses one.

Theory of operation: the kernel copies a message straight into a shared mapping of the file
`intake`, inside the receive call. The mapping survives the process, so after a kill the message is
either still in the queue or in the file; there is no third place. Before each receive the landing
area holds a pattern without zero bytes; what differs from it after a restart is a message. The
number of the batch is written there beforehand: if the journal knows it, the message is settled.
Source: dipp.md 7, design.md 3, defects D3 and D20.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import mmap
import os
import random
import struct
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

import posix_ipc

from dipp.errors import ContentError, MisuseError
from dipp.message import MESSAGE_SIZE_BYTES, BatchMessage, decode_message

DEFAULT_QUEUE = "/dipp_batches"
QUEUE_DEPTH = 10
QUEUE_MODE = 0o600

# The largest message the default kernel limit allows; a queue made by others may have it.
LANDING_BYTES = 8192
_PAGE = mmap.PAGESIZE
_LANDING = slice(_PAGE, _PAGE + LANDING_BYTES)
_PATTERN = slice(_LANDING.stop, _LANDING.stop + LANDING_BYTES)
_FILE_BYTES = _PATTERN.stop
_HEAD = struct.Struct("<8sQQ")
_MAGIC = b"DIPPIN1\n"
_IDLE, _ARMED = 0, 1
# Lengths tried beyond the last byte that differs from the pattern; see `_recovered`.
_TAIL_GUESSES = 4


class Empty(Enum):
    """Why nothing was taken."""

    NO_MESSAGE = "queue empty"
    NO_QUEUE = "no queue"


@dataclass(frozen=True, slots=True, kw_only=True)
class Taken:
    """A message out of the queue; `message` is None if it is not a batch (then `reason` says why).

    It stays in the landing area until `Intake.release`.
    """

    batch: int
    body: bytes
    priority: int
    message: BatchMessage | None
    reason: str = ""


def _load_receive() -> ctypes._NamedFuncPointer:
    # In librt up to glibc 2.33, in libc since.
    library = ctypes.CDLL("librt.so.1", use_errno=True)
    function = library.mq_timedreceive
    function.restype = ctypes.c_ssize_t
    function.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_void_p,
    ]  # fmt: skip
    return function


class Landing:
    """The shared mapping that messages land in."""

    def __init__(self, path: Path) -> None:
        """Open or create the file. Raises OSError."""
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            if os.fstat(fd).st_size < _FILE_BYTES:
                os.ftruncate(fd, _FILE_BYTES)
            # Real blocks: a store into a hole of a full disk would be a SIGBUS.
            os.posix_fallocate(fd, 0, _FILE_BYTES)
            self._map = mmap.mmap(fd, _FILE_BYTES)
        finally:
            os.close(fd)
        self._cell = (ctypes.c_char * LANDING_BYTES).from_buffer(self._map, _LANDING.start)
        self.address = ctypes.addressof(self._cell)
        # How far the area may differ from the pattern; all of it after a restart.
        self._dirty = LANDING_BYTES

    def armed_batch(self) -> int | None:
        """Return the number for which a message may have landed, None if none can have."""
        magic, state, batch = _HEAD.unpack_from(self._map)
        return batch if magic == _MAGIC and state == _ARMED else None

    def arm(self, batch: int, size: int) -> None:
        """Put the pattern in place: up to `size` bytes may land as a message for `batch`."""
        self.disarm()
        length = max(size, self._dirty)
        pattern = random.randbytes(length).replace(b"\0", b"\x5a")
        self._map[_PATTERN.start : _PATTERN.start + length] = pattern
        self._map[_LANDING.start : _LANDING.start + length] = pattern
        self._dirty = size
        _HEAD.pack_into(self._map, 0, _MAGIC, _ARMED, batch)

    def disarm(self) -> None:
        """Say that what lies in the landing area is settled."""
        _HEAD.pack_into(self._map, 0, _MAGIC, _IDLE, 0)

    def message(self, length: int) -> bytes:
        """Return what landed."""
        return self._map[_LANDING.start : _LANDING.start + length]

    def landed_length(self) -> int:
        """Return how far the landing area differs from the pattern."""
        landed, pattern = self._map[_LANDING], self._map[_PATTERN]
        for length in range(LANDING_BYTES, 0, -1):
            if landed[length - 1] != pattern[length - 1]:
                return length
        return 0

    def close(self) -> None:
        """Unmap the file."""
        del self._cell
        self._map.close()


class Intake:
    """The node's end of the batch queue. One message at a time: take, settle, release."""

    def __init__(self, name: str, landing_path: Path, *, exclusive: bool = False) -> None:
        """Open the landing file; the queue is opened or created on first use. Raises OSError.

        `exclusive` lets nobody else who asks for that read the queue.
        """
        self.name = name
        self._exclusive = exclusive
        self.recreated = 0
        self._landing = Landing(landing_path)
        self._receive = _load_receive()
        self._queue: posix_ipc.MessageQueue | None = None
        self._held = False
        self._armed: int | None = None

    @property
    def fd(self) -> int | None:
        """The pollable descriptor of the queue; it changes when the queue is made anew."""
        return None if self._queue is None else int(self._queue.mqd)

    @property
    def holds_message(self) -> bool:
        """Say whether a message has landed that is not settled yet."""
        return self._held

    @property
    def depth(self) -> int:
        """Number of messages waiting; 0 if there is no queue."""
        try:
            return 0 if self._queue is None else int(self._queue.current_messages)
        except (OSError, posix_ipc.Error):
            return 0

    def ensure(self) -> bool:
        """Have a usable queue of that name; say whether there is one.

        A queue that was unlinked, or whose messages are too small or too large, is made anew; one
        small messages only after it has been read empty.
        """
        if self._queue is not None and self._is_current():
            return True
        if self._queue is not None:
            self._close_queue()
            self.recreated += 1
        try:
            queue = self._open()
            too_large = queue.max_message_size > LANDING_BYTES
            if too_large or (not self._is_usable(queue) and queue.current_messages == 0):
                queue.close()
                posix_ipc.unlink_message_queue(self.name)
                self.recreated += 1
                queue = self._open()
        except (OSError, ValueError, posix_ipc.Error):
            return False
        if self._exclusive and not _lock(queue):
            queue.close()
            return False
        queue.block = False
        self._queue = queue
        return True

    def claim(self) -> None:
        """Be the only reader from the start: two would share out the batches (fault 70).

        Raises MisuseError if another node is. Without a usable queue there is nothing to claim yet.
        """
        if self.ensure():
            return
        with contextlib.suppress(OSError, ValueError, posix_ipc.Error):
            queue = self._open()
            is_free = _lock(queue)
            owner = "" if is_free else _locked_by(queue)
            queue.close()
            if not is_free:
                raise MisuseError(
                    f"queue {self.name} is read by another node ({owner}); stop that one, or give"
                    " this one another --queue"
                )

    def _open(self) -> posix_ipc.MessageQueue:
        return posix_ipc.MessageQueue(
            self.name,
            posix_ipc.O_CREAT,
            mode=QUEUE_MODE,
            max_messages=QUEUE_DEPTH,
            max_message_size=MESSAGE_SIZE_BYTES,
        )

    @staticmethod
    def _is_usable(queue: posix_ipc.MessageQueue) -> bool:
        return MESSAGE_SIZE_BYTES <= int(queue.max_message_size) <= LANDING_BYTES

    def _is_current(self) -> bool:
        queue = self._queue
        if queue is None:
            return False
        try:
            linked = os.fstat(queue.mqd).st_nlink > 0
            # Messages of an unlinked queue are still batches: read them before letting go.
            return (linked and self._is_usable(queue)) or queue.current_messages > 0
        except (OSError, posix_ipc.Error):
            return False

    def take(self, batch: int) -> Taken | Empty:
        """Receive one message without waiting; `batch` is the number it gets.

        The message is held until `release`; a second `take` before that returns it again.
        """
        if self._held:
            recovered = self.recover()
            if recovered is not None:
                return recovered
        if not self.ensure() or self._queue is None:
            return Empty.NO_QUEUE
        if self._armed != batch:
            self._landing.arm(batch, int(self._queue.max_message_size))
            self._armed = batch
        priority = ctypes.c_uint(0)
        while True:
            length = self._receive(
                self._queue.mqd, self._landing.address, LANDING_BYTES, ctypes.byref(priority), None
            )
            if length >= 0:
                break
            error = ctypes.get_errno()
            if error == errno.EINTR:
                continue
            return Empty.NO_MESSAGE if error == errno.EAGAIN else Empty.NO_QUEUE
        self._held, self._armed = True, None
        return _judge(batch, self._landing.message(length), priority.value)

    def recover(self) -> Taken | None:
        """Return the message that landed before a kill, if there is one; it is held then."""
        batch = self._landing.armed_batch()
        length = 0 if batch is None else self._landing.landed_length()
        if batch is None or length == 0:
            return None
        self._held, self._armed = True, None
        taken = _judge(batch, self._landing.message(length), 0)
        # A message whose last bytes equal the pattern looks shorter; its checksum tells.
        for longer in range(length + 1, min(length + _TAIL_GUESSES, LANDING_BYTES) + 1):
            if taken.message is not None:
                break
            guess = _judge(batch, self._landing.message(longer), 0)
            taken = guess if guess.message is not None else taken
        return taken

    def release(self) -> None:
        """Say that the held message is settled: journaled, or dropped and counted."""
        self._landing.disarm()
        self._held, self._armed = False, None

    def close(self) -> None:
        """Close the queue and the file. An empty queue is unlinked, a filled one stays."""
        if self._queue is not None:
            empty, linked = self.depth == 0, self._is_current()
            self._close_queue()
            if empty and linked:
                with contextlib.suppress(posix_ipc.Error, OSError):
                    posix_ipc.unlink_message_queue(self.name)
        self._landing.close()

    def _close_queue(self) -> None:
        if self._queue is not None:
            self._queue.close()
            self._queue = None


def _lock(queue: posix_ipc.MessageQueue) -> bool:
    """Become the only reader, until the queue is closed; False if another one is."""
    try:
        fcntl.flock(queue.mqd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _locked_by(queue: posix_ipc.MessageQueue) -> str:
    """Say which process holds the lock of a queue; "another one" if the kernel does not tell."""
    try:
        inode = str(os.fstat(queue.mqd).st_ino)
        rows = [line.split() for line in Path("/proc/locks").read_text("ascii").splitlines()]
    except OSError:
        rows = []
    pids = [row[4] for row in rows if len(row) > 5 and row[5].rpartition(":")[2] == inode]
    return f"process {pids[0]}" if pids else "another one"


def _judge(batch: int, body: bytes, priority: int) -> Taken:
    try:
        message = decode_message(body)
    except ContentError as error:
        return Taken(batch=batch, body=body, priority=priority, message=None, reason=str(error))
    return Taken(batch=batch, body=body, priority=priority, message=message)
