"""Control groups: how many processes, and how much memory, a host may use with all its children.

Driver; made and removed by the forge, entered by the host. Moving a process between groups takes
the kernel milliseconds, so hosts are moved and children inherit. Version 1 has a tree of its own
for the number of processes; version 2 has one tree, where memory is bounded too. Without the right
to make groups, or without the controllers, there is none. This is the only bound that holds root.
Source: cgroups(7), dependencies.md 7, fault 27.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

_MOUNTS = Path("/proc/self/mountinfo")
_OWN = Path("/proc/self/cgroup")
_PREFIX = "dipp-"


@dataclass(frozen=True, slots=True)
class Cgroup:
    """A group that exists. Its maker holds a lock on it as long as it wants it."""

    path: Path
    lock_fd: int

    def enter(self, processes: int, memory_bytes: int = 0) -> None:
        """Move this process into the group and bound it. Raises OSError."""
        _write(self.path / "pids.max", processes)
        if memory_bytes and (self.path / "memory.max").exists():
            _write(self.path / "memory.max", memory_bytes)
        _write(self.path / "cgroup.procs", 0)

    def remove(self) -> None:
        """Remove the group, which should be empty, and release the lock."""
        with contextlib.suppress(OSError):
            self.path.rmdir()
        os.close(self.lock_fd)


class Cgroups:
    """Makes groups below the one that this process is in."""

    def __init__(self, is_enabled: bool = True) -> None:
        self._parent = own_group() if is_enabled else None
        if self._parent is not None:
            remove_empty(self._parent)

    def create(self) -> Cgroup | None:
        """Return a new group, None if there cannot be one."""
        if self._parent is None:
            return None
        try:
            path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            lock_fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        fcntl.flock(lock_fd, fcntl.LOCK_SH)
        group = Cgroup(path, lock_fd)
        # Version 2 gives a group only the controllers that its parent hands down.
        if os.access(path / "pids.max", os.W_OK) and os.access(path / "cgroup.procs", os.W_OK):
            return group
        group.remove()
        return None


def own_group() -> Path | None:
    """Return the directory of the group this process is in, where processes can be bounded."""
    try:
        paths = dict(_parse_own(_OWN.read_text()))
        mounts = _parse_mounts(_MOUNTS.read_text())
    except OSError:
        return None
    for controller, root, mount_point in mounts:
        if controller in paths:
            inside = os.path.relpath(paths[controller], root)
            directory = Path(mount_point) / inside
            if not inside.startswith("..") and os.access(directory, os.W_OK):
                return directory
    return None


def remove_empty(parent: Path) -> None:
    """Remove what forges of killed nodes left, told by the lock that nobody holds."""
    for path in parent.glob(f"{_PREFIX}*"):
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            path.rmdir()
        except OSError:
            # In use, or with processes that are still dying.
            continue
        finally:
            os.close(fd)


def _parse_own(text: str) -> list[tuple[str, str]]:
    """Return (controller, path) of each line; version 2 has no controller names."""
    rows = (line.split(":", 2) for line in text.splitlines())
    return [
        (controller, path)
        for _, controllers, path in rows
        for controller in controllers.split(",")
        if controller in ("", "pids")
    ]


def _parse_mounts(text: str) -> list[tuple[str, str, str]]:
    """Return (controller, root, mount point) of the trees, that of version 1 first."""
    found: list[tuple[str, str, str]] = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        root, mount_point = before.split(" ")[3:5]
        if kind == "cgroup" and "pids" in options.split(","):
            found.insert(0, ("pids", root, mount_point))
        elif kind == "cgroup2":
            found.append(("", root, mount_point))
    return found


def _write(path: Path, value: int) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, str(value).encode())
    finally:
        os.close(fd)
