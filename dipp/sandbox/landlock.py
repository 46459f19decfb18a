"""Landlock: which files a process may reach from now on, whatever its user may do.

Driver. A rule set is made once per host and only put on in the child. What a kernel's version of
Landlock does not know is left out: older ones do not restrict truncation, TCP or signals.
Source: landlock(7), dependencies.md 7, faults 29 and 31.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import struct
from collections.abc import Iterable, Sequence

# Looked up once, here: in a fresh child every look-up copies pages.
_SYSCALL = ctypes.CDLL(None, use_errno=True).syscall
# The same numbers on every architecture.
_CREATE_RULESET, _ADD_RULE, _RESTRICT_SELF = 444, 445, 446
_ASK_VERSION, _PATH_BENEATH = 1, 1
_RULESET = struct.Struct("<QQQ")
_RULE = struct.Struct("<Qi")
# How much of the structure each version knows.
_SIZES = ((6, 24), (4, 16), (1, 8))

_EXECUTE, _WRITE_FILE, _READ_FILE, _READ_DIR = 1 << 0, 1 << 1, 1 << 2, 1 << 3
_MAKE_CHAR, _MAKE_BLOCK = 1 << 6, 1 << 11
_TRUNCATE, _IOCTL_DEV = 1 << 14, 1 << 15
_FOR_FILES = _EXECUTE | _WRITE_FILE | _READ_FILE | _TRUNCATE | _IOCTL_DEV
# Highest file right of each version.
_RIGHTS = ((5, 16), (3, 15), (2, 14), (1, 13))
_KNOWS_TRUNCATION = 3
_NO_TCP = 3
_NO_FOREIGN_SIGNALS_AND_SOCKETS = 3

READ = _EXECUTE | _READ_FILE | _READ_DIR
# Devices are not made in a scratch directory, and nothing in it is a program.
WRITE = ((1 << 15) - 1) & ~(_EXECUTE | _MAKE_CHAR | _MAKE_BLOCK)
DEVICE = _READ_FILE | _WRITE_FILE | _IOCTL_DEV


def version() -> int:
    """Return the kernel's version of Landlock, 0 if there is none."""
    return max(0, int(_SYSCALL(_CREATE_RULESET, None, 0, _ASK_VERSION)))


def create_ruleset(rules: Iterable[tuple[Sequence[str], int]]) -> int:
    """Return a descriptor of a rule set: what is not named is refused. Raises OSError.

    `rules` are paths with the rights below them; paths that do not exist are left out.
    """
    known = version()
    handled = (1 << next(bits for at_least, bits in _RIGHTS if known >= at_least)) - 1
    size = next(size for at_least, size in _SIZES if known >= at_least)
    attributes = _RULESET.pack(
        handled, _NO_TCP if known >= 4 else 0, _NO_FOREIGN_SIGNALS_AND_SOCKETS if known >= 6 else 0
    )
    fd = _call(_CREATE_RULESET, attributes, size, 0)
    # From the start on: it must not reach a program that somebody executes.
    os.set_inheritable(fd, False)
    try:
        for paths, rights in rules:
            for path in paths:
                _allow(fd, path, rights & handled)
    except OSError:
        os.close(fd)
        raise
    return fd


def forbid_truncation() -> None:
    """Open no file from now on that could be shortened; descriptors passed on keep that.

    Raises OSError where the kernel's version knows no such right.
    """
    if version() < _KNOWS_TRUNCATION:
        raise OSError(errno.EOPNOTSUPP, "landlock: does not watch truncation")
    fd = _call(_CREATE_RULESET, _RULESET.pack(_TRUNCATE, 0, 0), _SIZES[-1][1], 0)
    try:
        restrict_self(fd)
    finally:
        os.close(fd)


def restrict_self(ruleset_fd: int) -> None:
    """Put a rule set on for good. Raises OSError. Needs no-new-privileges or CAP_SYS_ADMIN."""
    _call(_RESTRICT_SELF, ruleset_fd, 0)


def _allow(ruleset_fd: int, path: str, rights: int) -> None:
    try:
        fd = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not stat.S_ISDIR(os.fstat(fd).st_mode):
            rights &= _FOR_FILES
        _call(_ADD_RULE, ruleset_fd, _PATH_BENEATH, _RULE.pack(rights, fd), 0)
    finally:
        os.close(fd)


def _call(number: int, *arguments: object) -> int:
    result = int(_SYSCALL(number, *arguments))
    if result < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"landlock: {os.strerror(error)}")
    return result
