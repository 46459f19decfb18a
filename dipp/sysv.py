"""System V queues and segments, as the original camera controller uses them, by ctypes. Driver.

Python has no interface to them. Source: dipp.md 7.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

# The key of the flown queue.
FLOWN_KEY = 71
BATCH_TYPE = 1
_IPC_RMID, _IPC_STAT, _IPC_NOWAIT = 0, 2, 0o4000
_MSG_NOERROR, _SHM_RDONLY = 0o10000, 0o10000
# glibc's struct shmid_ds, the same on x86-64 and AArch64: a struct ipc_perm of 48 bytes, the size.
_SHMID_DS_BYTES = 256
_SEGMENT_SIZE = struct.Struct("=48xQ")
_NO_QUEUE = (errno.ENOENT, errno.EIDRM, errno.EINVAL)


def _load_libc() -> ctypes.CDLL:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.msgrcv.restype = ctypes.c_ssize_t
    libc.msgrcv.argtypes = [
        ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t, ctypes.c_long, ctypes.c_int,
    ]  # fmt: skip
    libc.shmat.restype = ctypes.c_void_p
    libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
    libc.shmdt.argtypes = [ctypes.c_void_p]
    libc.shmctl.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_void_p]
    return libc


_LIBC = _load_libc()
_ATTACH_FAILED = ctypes.c_void_p(-1).value


def _last_error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")


class SysvQueue:
    """The receiving end of a queue that somebody else makes, removes and makes again."""

    def __init__(self, key: int) -> None:
        self.key = key
        self._id: int | None = None

    def receive(self, address: int, size: int) -> int | None:
        """Receive a message of type 1 without waiting, into memory at `address`.

        `size` is the room behind the eight bytes of the type; longer messages are cut. Returns the
        length without the type, None if there is nothing. Raises OSError, for example without
        permission.
        """
        fresh = self._id is None
        if self._id is None:
            found = int(_LIBC.msgget(self.key, 0))
            if found < 0:
                self._expect(*_NO_QUEUE)
                return None
            self._id = found
        flags = _IPC_NOWAIT | _MSG_NOERROR
        length = int(_LIBC.msgrcv(self._id, address, size, BATCH_TYPE, flags))
        if length >= 0:
            return length
        if ctypes.get_errno() in _NO_QUEUE:
            self._id = None
            # Removed since the last time: there may be a new one already.
            return None if fresh else self.receive(address, size)
        self._expect(errno.ENOMSG, errno.EINTR)
        return None

    def _expect(self, *expected: int) -> None:
        if ctypes.get_errno() not in expected:
            raise _last_error(f"System V queue {self.key}")


def segment_size(shmid: int) -> int:
    """Return the size of a segment. Raises OSError if there is none or it is not ours to read."""
    status = ctypes.create_string_buffer(_SHMID_DS_BYTES)
    if _LIBC.shmctl(shmid, _IPC_STAT, ctypes.addressof(status)) != 0:
        raise _last_error(f"System V segment {shmid}")
    size: int = _SEGMENT_SIZE.unpack_from(status.raw)[0]
    return size


@contextmanager
def attached(shmid: int, size: int) -> Iterator[memoryview]:
    """Give a read-only view of the first `size` bytes of a segment. Raises OSError."""
    address = _LIBC.shmat(shmid, None, _SHM_RDONLY)
    if address == _ATTACH_FAILED:
        raise _last_error(f"System V segment {shmid}")
    cell = (ctypes.c_char * size).from_address(address)
    view = memoryview(cell).cast("B").toreadonly()
    try:
        yield view
    finally:
        view.release()
        _LIBC.shmdt(address)


def remove_segment(shmid: int) -> bool:
    """Remove a segment; say whether it could be."""
    return int(_LIBC.shmctl(shmid, _IPC_RMID, None)) == 0
