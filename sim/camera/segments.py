"""Hand a batch to DIPP: a named shared memory segment and one message on a queue.

Theory of operation: images are appended to the segment with `write`, not through a mapping, so
running out of memory is an error code and never a signal. The segment is exclusive, private (mode
0600) and belongs to the camera until its message is on the queue; until then `discard` removes it.
The queue is opened for every message: DIPP may have been restarted and made it anew.
Driver. Source: dipp.md 7, 8, defects D21 and D24.
"""

from __future__ import annotations

import os
import secrets

import numpy as np
import posix_ipc

from dipp.batch import batch_parts
from dipp.message import MESSAGE_SIZE_BYTES, BatchMessage, encode_message
from dipp.metadata import Metadata
from sim.camera.capture import CameraError, RequestError
from sim.camera.sensor import Words

# The kernel's default limit; a queue of this length needs no privilege.
_QUEUE_MESSAGES = 10
_SEGMENT_MODE = 0o600
_NAME_ATTEMPTS = 8


class SegmentWriter:
    """A segment while it is being filled. Raises RequestError (301) if none can be made."""

    def __init__(self, obid: int) -> None:
        self.num_images = 0
        self.size_bytes = 0
        self.obid = obid
        self.name, self._fd = _create(obid)

    def append(self, metadata: Metadata, words: Words) -> None:
        """Add one image. Raises RequestError (302); then only `discard` is left."""
        # Blocks end aligned because frames are multiples of 64 bytes, so parts can be made singly.
        parts = batch_parts([(metadata, words.reshape(-1).view(np.uint8).data)])
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

    def message(self, pipeline_id: int) -> BatchMessage:
        """Return the message that announces what is in the segment now."""
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


def _create(obid: int) -> tuple[str, int]:
    for _ in range(_NAME_ATTEMPTS):
        name = f"/dipp_{obid}_{secrets.token_hex(6)}"
        try:
            memory = posix_ipc.SharedMemory(name, posix_ipc.O_CREX, mode=_SEGMENT_MODE)
        except posix_ipc.ExistentialError:
            continue
        except (posix_ipc.Error, OSError, ValueError) as error:
            raise RequestError(CameraError.SEGMENT, f"{name}: {error}") from error
        return name, int(memory.fd)
    raise RequestError(CameraError.SEGMENT, f"no free name in {_NAME_ATTEMPTS} attempts")
