"""Give up the capabilities of root. Driver.

Without them root is the owner of many files and nothing more, which Landlock then deals with.
Source: capabilities(7), fault 29.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Collection

_LIBC = ctypes.CDLL(None, use_errno=True)
# Looked up once, here: in a fresh child every look-up copies pages.
_CAPGET, _CAPSET = _LIBC.capget, _LIBC.capset
_SET = struct.Struct("<6I")
_NONE = bytes(_SET.size)
# Version 3, this process.
_HEADER = struct.pack("<Ii", 0x20080522, 0)

CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, KILL, SETGID, SETUID = 0, 1, 2, 3, 5, 6, 7
# What a host needs to read modules, whoever owns them.
OF_HOSTS = (DAC_OVERRIDE, DAC_READ_SEARCH)
# And if its children become another user.
OF_HOSTS_WITH_USER = (*OF_HOSTS, CHOWN, FOWNER, KILL, SETGID, SETUID)


def keep_only(kept: Collection[int] = ()) -> None:
    """Drop all capabilities but these; what this process does not have it does not get.

    Raises OSError.
    """
    wanted = _NONE
    if kept:
        has = _permitted() & sum(1 << number for number in kept)
        low, high = has & 0xFFFFFFFF, has >> 32
        wanted = _SET.pack(low, low, 0, high, high, 0)
    if _CAPSET(_HEADER, wanted) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"capset: {os.strerror(error)}")


def _permitted() -> int:
    data = ctypes.create_string_buffer(_SET.size)
    if _CAPGET(_HEADER, data) != 0:
        error = ctypes.get_errno()
        raise OSError(error, f"capget: {os.strerror(error)}")
    _, low, _, _, high, _ = _SET.unpack(data.raw)
    return int(low | high << 32)
