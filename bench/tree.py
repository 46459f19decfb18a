"""Look at a tree of processes from outside: who is in it, whether it rests, what it holds."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

_BLOCK_BYTES = 512
# Anonymous files, and those without a name on the file system of arenas in huge pages.
_MEMORY_FILES = ("/memfd:", "/#")
# How often in a row a tree must be found at rest before it is believed.
_LOOKS = 3
_LOOK_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Memory of a set of processes, in bytes.

    `pss` shares every page among those that map it; `anonymous` is the private part of that;
    `files` are files in memory without a name that any of them holds open, each counted once,
    mapped or not.
    """

    pss: int = 0
    anonymous: int = 0
    files: int = 0

    @property
    def own(self) -> int:
        """What would be free if the processes had never been: private pages and their files."""
        return self.anonymous + self.files


def family(pid: int) -> list[int]:
    """Return a process and all its descendants that are alive, parents first."""
    found = [pid]
    for each in found:
        found += children(each)
    return found


def children(pid: int) -> list[int]:
    """Return the children of a process; none if it is gone."""
    try:
        with open(f"/proc/{pid}/task/{pid}/children", encoding="ascii") as file:
            return [int(word) for word in file.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        return []


def is_resting(pid: int) -> bool:
    """Say whether a process sleeps or is gone."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rpartition(b")")[2].split()[0] in (b"S", b"Z", b"X")
    except (FileNotFoundError, ProcessLookupError):
        return True


def wait_for_rest(pid: int, pump: Callable[[float], None], timeout_s: float = 1.0) -> bool:
    """Pump until no process of the tree does anything; False if that does not come.

    `pump` is called with the seconds it may take, for what this process owes the tree meanwhile.
    """
    end = time.monotonic() + timeout_s
    before: list[int] = []
    calm = 0
    while calm < _LOOKS:
        pump(_LOOK_S)
        now = family(pid)
        calm = calm + 1 if now == before and all(map(is_resting, now)) else 0
        before = now
        if time.monotonic() > end:
            return False
    return True


def memory_of(pids: Iterable[int], exclude: Iterable[int] = ()) -> Memory:
    """Add up the memory of processes; those that are gone count nothing.

    `exclude` are descriptors of this process whose files are somebody else's.
    """
    pss = anonymous = 0
    files: dict[tuple[int, int], int] = {}
    for pid in pids:
        try:
            rows = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        for row in rows:
            if row.startswith("Pss:"):
                pss += int(row.split()[1]) << 10
            elif row.startswith("Pss_Anon:"):
                anonymous += int(row.split()[1]) << 10
        files.update(_memory_files(pid))
    for fd in exclude:
        status = os.fstat(fd)
        files.pop((status.st_dev, status.st_ino), None)
    return Memory(pss=pss, anonymous=anonymous, files=sum(files.values()))


def _memory_files(pid: int) -> dict[tuple[int, int], int]:
    """Return device and inode of the memfds a process holds, with the bytes they occupy."""
    found: dict[tuple[int, int], int] = {}
    folder = f"/proc/{pid}/fd"
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return found
    for name in names:
        path = f"{folder}/{name}"
        try:
            if os.readlink(path).startswith(_MEMORY_FILES):
                status = os.stat(path)
                found[status.st_dev, status.st_ino] = status.st_blocks * _BLOCK_BYTES
        except OSError:
            # Closed meanwhile.
            continue
    return found
