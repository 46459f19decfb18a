"""Fork without what Python does after a fork for programs that have threads.

Driver. Half of what a fresh child costs are the hooks that libraries register for the time after a
fork (new locks, new seeds): in a process that has one thread they change nothing but the seeds of
random numbers, and the child sets those itself. The C library's own handlers do run.
Source: performance.md 2; measured 0.7 ms instead of 1.3 ms to the child's first instruction.
"""

from __future__ import annotations

import ctypes
import os
import sys

# PyDLL keeps the interpreter's lock while it calls, as a fork of the interpreter must.
_FORK = ctypes.PyDLL(None, use_errno=True).fork
_FORK.restype = ctypes.c_int


def fork_single() -> int:
    """Fork this process, which must have one thread; return 0 in the child. Raises OSError."""
    pid: int = _FORK()
    if pid < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return pid


def reseed() -> None:
    """Give a child random numbers of its own, which its siblings do not have."""
    random = sys.modules.get("random")
    if random is not None:
        random.seed()
