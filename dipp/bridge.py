"""`dipp bridge`: hand batches from a System V queue to DIPP's POSIX queue. Driver.

Theory of operation: one batch at a time. The kernel copies the message straight into a mapped file
(`Landing`), so it is in the queue or in the file whenever this process is killed. Then: copy the
segment, write the file `announcing`, announce the copy, remove the original, remove `announcing`,
release the message. After a kill, a landed message is taken up where the files say. Only a kill
just between announcing and what follows leaves open whether DIPP knows: if the copy is still there
it is announced again. DIPP removes a segment with its first message and refuses a second one, so
nothing is lost and nothing stored twice. What is short (queue full, memory full) is waited for
while the batches behind stay in the System V queue. Source: dipp.md 7, 8.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import json
import logging
import os
from dataclasses import asdict, dataclass
from enum import Enum
from pathlib import Path

import posix_ipc

from csp.loop import Loop
from csp.statelock import StateLock
from dipp.errors import ContentError
from dipp.intake import DEFAULT_QUEUE, QUEUE_DEPTH, QUEUE_MODE, Landing
from dipp.message import (
    LEGACY,
    LEGACY_MAX_BYTES,
    MESSAGE_SIZE_BYTES,
    BatchMessage,
    decode_message,
    encode_message,
)
from dipp.state import default_state_dir
from dipp.sysv import FLOWN_KEY, SysvQueue, attached, remove_segment, segment_size

_LOG = logging.getLogger("dipp.bridge")
# Where Linux shows POSIX shared memory.
_DIRECTORY = Path("/dev/shm")
_SEGMENT_MODE = 0o600
_TYPE_BYTES = 8
# Twice what a batch message may have: a longer one is recognised as none.
_ROOM_BYTES = 2 * LEGACY_MAX_BYTES
# Of a message after a kill the end may look like the pattern; the fields before that do not.
_NEEDED_BYTES = LEGACY.size - 8
_POLL_S = 0.02
_WAIT_S = 0.1
_SHORTAGES = (errno.ENOSPC, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.EDQUOT)


class Step(Enum):
    """What one step of the bridge came to."""

    IDLE = "nothing to do"
    DONE = "one message settled"
    WAITING = "short of something"


@dataclass(slots=True)
class BridgeCounters:
    """What became of the messages; `waits` are attempts put off for want of room."""

    taken: int = 0
    handed_over: int = 0
    bad_messages: int = 0
    bad_segments: int = 0
    resumed: int = 0
    waits: int = 0
    not_removed: int = 0


def translate(body: bytes, segment: str) -> BatchMessage:
    """Return the message that announces the copy of a batch under its new name.

    `body` is a System V message without its type, 24 to 32 bytes. Raises ContentError.
    """
    if len(body) > LEGACY_MAX_BYTES:
        raise ContentError(f"{len(body)} bytes, expected {LEGACY.size}..{LEGACY_MAX_BYTES}")
    old = decode_message(body[: LEGACY.size])
    return BatchMessage(
        num_images=old.num_images,
        batch_size=old.batch_size,
        pipeline_id=old.pipeline_id,
        shmid=old.shmid,
        segment=segment,
    )


class Bridge:
    """Moves batches; call `step` again and again. Used by one process at a time."""

    def __init__(self, state: Path, key: int, queue: str) -> None:
        """Open the state directory. Raises StateInUse if another bridge uses it, OSError."""
        self._lock = StateLock(state, "bridge")
        self.counters = BridgeCounters()
        self._queue = queue
        self._source = SysvQueue(key)
        self._announcing = state / "announcing"
        self._landing = Landing(state / "landing")
        self._armed: int | None = None
        self._held: bytes | None = self._recovered()

    def _recovered(self) -> bytes | None:
        """Return the message that landed before a kill, if there is one."""
        batch, length = self._landing.armed_batch(), self._landing.landed_length()
        if batch is None or length < _TYPE_BYTES + _NEEDED_BYTES:
            self._announcing.unlink(missing_ok=True)
            return None
        self._armed = batch
        self.counters.resumed += 1
        length = max(length, _TYPE_BYTES + LEGACY.size)
        return self._landing.message(length)[_TYPE_BYTES:]

    def step(self) -> Step:
        """Settle one message, or say why not. Raises OSError if the queue cannot be read."""
        if self._held is None:
            self._held = self._receive()
            if self._held is None:
                return Step.IDLE
            self.counters.taken += 1
        try:
            message = translate(self._held, self._name())
        except ContentError as error:
            _LOG.warning("message dropped: %s", error)
            self.counters.bad_messages += 1
            return self._release()
        try:
            return self._hand_over(message)
        except posix_ipc.Error as error:
            return self._wait(str(error))
        except OSError as error:
            if error.errno in _SHORTAGES:
                return self._wait(str(error))
            _LOG.warning("batch dropped: %s", error)
            self.counters.bad_segments += 1
            return self._release()

    def _wait(self, why: str) -> Step:
        if not self.counters.waits % 100:
            _LOG.info("waiting: %s", why)
        self.counters.waits += 1
        return Step.WAITING

    def _receive(self) -> bytes | None:
        if self._armed is None:
            self._armed = int.from_bytes(os.urandom(6), "big")
            self._landing.arm(self._armed, _TYPE_BYTES + _ROOM_BYTES)
        length = self._source.receive(self._landing.address, _ROOM_BYTES)
        return None if length is None else self._landing.message(_TYPE_BYTES + length)[_TYPE_BYTES:]

    def _name(self) -> str:
        return f"/dipp_sysv_{self._armed or 0:012x}"

    def _hand_over(self, message: BatchMessage) -> Step:
        path = _DIRECTORY / message.segment[1:]
        if not self._announcing.exists():
            self._copy(message, path)
            self._announcing.touch(_SEGMENT_MODE)
        # Gone means that DIPP was told before a kill, and is done with it.
        if path.exists() and not self._announce(message):
            return self._wait(f"queue {self._queue} is full")
        if not remove_segment(message.shmid):
            self.counters.not_removed += 1
        self.counters.handed_over += 1
        _LOG.info(
            "%d images for pipeline %d, %d bytes: segment %d is now %s",
            message.num_images, message.pipeline_id, message.batch_size, message.shmid,
            message.segment,
        )  # fmt: skip
        return self._release()

    @staticmethod
    def _copy(message: BatchMessage, path: Path) -> None:
        """Copy the segment. Raises OSError; then there is no copy."""
        size = segment_size(message.shmid)
        # A size that is wrong is for DIPP to judge: it gives the batch a fate.
        if message.batch_size > 0:
            size = min(size, message.batch_size)
        with attached(message.shmid, size) as view:
            flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
            fd = os.open(path, flags, _SEGMENT_MODE)
            try:
                done = 0
                while done < size:
                    # Written and not mapped: full memory is an error then, and not a signal.
                    done += os.write(fd, view[done:])
            except OSError:
                path.unlink()
                raise
            finally:
                os.close(fd)

    def _announce(self, message: BatchMessage) -> bool:
        """Put the message on DIPP's queue; False if it is full. Raises posix_ipc.Error, OSError."""
        queue = posix_ipc.MessageQueue(
            self._queue, posix_ipc.O_CREAT, mode=QUEUE_MODE, read=False,
            max_messages=QUEUE_DEPTH, max_message_size=MESSAGE_SIZE_BYTES,
        )  # fmt: skip
        try:
            queue.send(encode_message(message), timeout=0)
        except posix_ipc.BusyError:
            return False
        except ValueError as error:
            # A queue with too small messages; DIPP makes it anew once it has read it empty.
            raise posix_ipc.Error(str(error)) from error
        finally:
            queue.close()
        return True

    def _release(self) -> Step:
        self._announcing.unlink(missing_ok=True)
        self._landing.disarm()
        self._held, self._armed = None, None
        return Step.DONE

    def close(self) -> None:
        """Give back files and lock; what is not settled is taken up at the next start."""
        self._landing.close()
        self._lock.close()


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of the bridge."""
    parser.description = (
        "Hand the batches of the original camera controller (System V queue and segments) to"
        " DIPP's POSIX queue. Runs until SIGTERM. Start it on the same machine as both."
    )
    parser.add_argument(
        "--key", type=int, default=FLOWN_KEY, help=f"System V queue key (default {FLOWN_KEY})"
    )
    parser.add_argument(
        "--queue", default=DEFAULT_QUEUE, metavar="NAME", help=f"DIPP's queue ({DEFAULT_QUEUE})"
    )
    parser.add_argument(
        "--state",
        type=Path,
        default=default_state_dir("bridge"),
        metavar="DIR",
        help="where a message is kept safe until it is handed over (default %(default)s)",
    )
    parser.add_argument(
        "--drain", action="store_true", help="stop as soon as the System V queue is empty"
    )
    parser.add_argument("--json", action="store_true", help="print the counters as JSON at the end")


def run(options: argparse.Namespace) -> int:
    """Bridge until told to stop. Raises DippError, OSError if it cannot start or read."""
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    bridge = Bridge(options.state, options.key, options.queue)
    loop = Loop()
    failures: list[OSError] = []

    def work() -> None:
        try:
            step = bridge.step()
        except OSError as error:
            failures.append(error)
            loop.stop()
            return
        if step is Step.IDLE and options.drain:
            loop.stop()
            return
        pause_s = {Step.IDLE: _POLL_S, Step.DONE: 0.0, Step.WAITING: _WAIT_S}[step]
        loop.scheduler.call_later(pause_s, work)

    with contextlib.closing(loop), contextlib.closing(bridge):
        loop.install_signals()
        loop.scheduler.call_soon(work)
        _LOG.info("System V queue %d to %s", options.key, options.queue)
        loop.run()
        if options.json:
            print(json.dumps(asdict(bridge.counters)), flush=True)
        else:
            _LOG.info("%s", bridge.counters)
    if failures:
        raise failures[0]
    return 0
