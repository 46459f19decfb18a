"""Forget the node's environment: what the operator's shell exported is no business of a module.

Driver. The strings are overwritten where they lie, not only taken off the list: a module can read
all of its own memory.
"""

from __future__ import annotations

import ctypes
import os

_LIBC = ctypes.CDLL(None)
# What libraries and the interpreter look at. DIPP_FORGE tells strays from other processes.
KEPT = frozenset(
    {"DIPP_FORGE", "HOME", "LANG", "LANGUAGE", "LD_LIBRARY_PATH", "PATH", "TMPDIR", "TZ"}
)
KEPT_PREFIXES = ("LC_", "MKL_", "OMP_", "OPENBLAS_", "PYTHON")


def is_kept(name: str) -> bool:
    """Say whether a module may see a variable."""
    return name in KEPT or name.startswith(KEPT_PREFIXES)


def forget_environment() -> None:
    """Overwrite and remove all variables that are not kept. Raises OSError."""
    entries = ctypes.POINTER(ctypes.c_void_p).in_dll(_LIBC, "environ")
    index = 0
    while entries and entries[index]:
        address = entries[index]
        text = ctypes.string_at(address)
        if not is_kept(os.fsdecode(text.partition(b"=")[0])):
            # The name stays, or the entry could not be removed below.
            start = text.find(b"=") + 1
            ctypes.memset(address + start, 0, len(text) - start)
        index += 1
    for name in list(os.environ):
        if not is_kept(name):
            del os.environ[name]
