"""Hand a batch to DIPP: a named shared memory segment and one message on a queue.

Theory of operation: images are appended to the segment with `write`, not through a mapping, so
running out of memory is an error code and never a signal. The segment is exclusive and private
(mode 0600). While it is being filled its name carries the camera's process number, so that a
camera that was killed leaves nothing that the next one could not tell and remove (`sweep`); it gets
its final name just before it is announced. The queue is opened for every message: DIPP may have
been restarted and made it anew.
Driver. Source: dipp.md 7, 8, defects D21 and D24.
"""

from __future__ import annotations

import os
import secrets
from pathlib import Path

import numpy as np
import posix_ipc

from dipp.batch import batch_parts
from dipp.message import MESSAGE_SIZE_BYTES, BatchMessage, encode_message
from dipp.metadata import Metadata
from sim.camera.capture import CameraError, RequestError
from sim.camera.frames import Frame

# The kernel's default limit; a queue of this length needs no privilege.
_QUEUE_MESSAGES = 10
_SEGMENT_MODE = 0o600
# Where Linux shows POSIX shared memory.
_DIRECTORY = Path("/dev/shm")
_UNFINISHED = "/camera_"


class SegmentWriter:
    """A segment while it is being filled. Raises RequestError (301) if none can be made."""

    def __init__(self, obid: int) -> None:
        self.num_images = 0
        self.size_bytes = 0
        self.obid = obid
        token = secrets.token_hex(6)
        self.name, self._fd = _create(f"{_UNFINISHED}{os.getpid()}_{token}")
        self._final_name = f"/dipp_{obid}_{token}"

    def append(self, metadata: Metadata, frame: Frame) -> None:
        """Add one image. Raises RequestError (302); then only `discard` is left."""
        pixels = np.ascontiguousarray(frame).reshape(-1).view(np.uint8).data
        parts = batch_parts([(metadata, pixels)], start=self.size_bytes)
        try:
            for part in parts:
                view = memoryview(part)
                while view:
                    written = os.write(self._fd, view)
                    view = view[written:]
                    self.size_bytes += written
        except OSError as error:
            raise RequestError(CameraError.INSERT, f"{self.name}: {error}") from error
        self.num_images += 1

    def publish(self, pipeline_id: int) -> BatchMessage:
        """Give the segment its final name; return the message that announces it.

        Raises RequestError (301) if the name is taken.
        """
        try:
            # A link and not a rename: that would silently replace another segment.
            os.link(_path(self.name), _path(self._final_name))
            os.unlink(_path(self.name))
        except OSError as error:
            raise RequestError(CameraError.SEGMENT, f"{self._final_name}: {error}") from error
        self.name = self._final_name
        return BatchMessage(
            num_images=self.num_images,
            batch_size=self.size_bytes,
            pipeline_id=pipeline_id,
            obid=self.obid,
            segment=self.name,
        )

    def release(self) -> None:
        """Give up the segment without removing it: it is DIPP's now."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def discard(self) -> None:
        """Remove the segment. Harmless if it is gone."""
        self.release()
        try:
            posix_ipc.unlink_shared_memory(self.name)
        except posix_ipc.ExistentialError:
            return


class BatchQueue:
    """The way to DIPP: a POSIX queue by name, made here if DIPP has not done so yet."""

    def __init__(self, name: str) -> None:
        self.name = name

    def try_send(self, message: BatchMessage) -> bool:
        """Put a message on the queue; False if it is full. Raises RequestError (300)."""
        try:
            queue = posix_ipc.MessageQueue(
                self.name, posix_ipc.O_CREAT, mode=_SEGMENT_MODE, read=False,
                max_messages=_QUEUE_MESSAGES, max_message_size=MESSAGE_SIZE_BYTES,
            )  # fmt: skip
        except (posix_ipc.Error, OSError, ValueError) as error:
            raise RequestError(CameraError.QUEUE, f"{self.name}: {error}") from error
        try:
            queue.send(encode_message(message), timeout=0)
        except posix_ipc.BusyError:
            return False
        except (posix_ipc.Error, OSError, ValueError) as error:
            raise RequestError(CameraError.QUEUE, f"{self.name}: {error}") from error
        finally:
            queue.close()
        return True


def sweep() -> int:
    """Remove what cameras that no longer run left unfinished; return how many segments."""
    removed = 0
    for path in _DIRECTORY.glob(f"{_UNFINISHED[1:]}*"):
        owner = path.name.removeprefix(_UNFINISHED[1:]).partition("_")[0]
        if owner.isdecimal() and not Path(f"/proc/{owner}").exists():
            path.unlink(missing_ok=True)
            removed += 1
    return removed


def _path(name: str) -> Path:
    return _DIRECTORY / name[1:]


def _create(name: str) -> tuple[str, int]:
    try:
        memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=_SEGMENT_MODE)
    except (posix_ipc.Error, OSError, ValueError) as error:
        raise RequestError(CameraError.SEGMENT, f"{name}: {error}") from error
    return name, int(memory.fd)
