"""Fork without what Python does after a fork for programs that have threads.

Driver. Half of what a fresh child costs are the hooks that libraries register for the time after a
fork (new locks, new seeds): in a process that has one thread they change nothing but the seeds of
random numbers, and the child sets those itself. The C library's own handlers do run in
`fork_single`; `fork_beside` asks the kernel directly, because the C library has no word for it.
Source: performance.md 2; measured 0.7 ms instead of 1.3 ms to the child's first instruction.
"""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import sys

# PyDLL keeps the interpreter's lock while it calls, as a fork of the interpreter must.
_LIBC = ctypes.PyDLL(None, use_errno=True)
_FORK, _SYSCALL = _LIBC.fork, _LIBC.syscall
_FORK.restype = ctypes.c_int
_SYSCALL.restype = ctypes.c_long
_SYSCALL.argtypes = (ctypes.c_long,) * 6
_LIBC.pthread_self.restype = ctypes.c_void_p
# Its number, and whether the address for the child's number is the last argument but one.
_CLONE, _NUMBER_IS_FOURTH = (220, False) if platform.machine() == "aarch64" else (56, True)
_CLONE_PARENT, _CLONE_CHILD_SETTID = 0x8000, 0x01000000
# How much of the C library's description of a thread is looked at.
_THREAD_BYTES = 2048


def fork_single() -> int:
    """Fork this process, which must have one thread; return 0 in the child. Raises OSError."""
    pid: int = _FORK()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


def fork_beside(number_address: int = 0) -> int:
    """Fork a child of our parent's; return 0 in it, its number here, or the negative errno.

    `number_address` is where the C library keeps the number of this thread, 0 if unknown.
    """
    flags = _CLONE_PARENT | signal.SIGCHLD
    last = (0, 0)
    if number_address:
        flags |= _CLONE_CHILD_SETTID
        last = (number_address, 0) if _NUMBER_IS_FOURTH else (0, number_address)
    pid: int = _SYSCALL(_CLONE, flags, 0, 0, *last)
    return pid if pid >= 0 else -ctypes.get_errno()


class OwnNumber:
    """Finds where the C library keeps this thread's number, which a fork by hand must set.

    Made before a fork by the C library and asked after it: what has changed from the old number to
    the new one is it. `address` is 0 if that cannot be told; then the library is wrong about the
    number, which only matters to who asks for the main thread from another one.
    """

    def __init__(self) -> None:
        self.address = 0
        self._start = _LIBC.pthread_self()
        self._before, self._old = self._words(), os.getpid()

    def find_again(self) -> None:
        """Look what has changed, in the child."""
        new = os.getpid()
        pairs = zip(self._before, self._words(), strict=True)
        found = [i for i, pair in enumerate(pairs) if pair == (self._old, new)]
        if len(found) == 1:
            self.address = self._start + found[0] * ctypes.sizeof(ctypes.c_int)

    def _words(self) -> list[int]:
        count = _THREAD_BYTES // ctypes.sizeof(ctypes.c_int)
        return list((ctypes.c_int * count).from_address(self._start))


def reseed() -> None:
    """Give a child random numbers of its own, which its siblings do not have."""
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
