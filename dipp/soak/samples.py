"""Look at a process tree from outside: memory, descriptors, processes, segments. Driver."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

from dipp.faults.daemon import Daemon, descendants

_MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """One look. Memory is what is resident, `host` the largest host; `batches` have their fate."""

    t_s: float
    batches: int
    node_mb: float
    forge_mb: float
    host_mb: float
    hosts_mb: float
    node_fds: int
    forge_fds: int
    host_fds: int
    processes: int
    segments: int
    phase: str


def take_sample(daemon: Daemon, t_s: float, batches: int, phase: str) -> Sample:
    """Look at everything below a node. What has just ended counts as nothing."""
    hosts = daemon.host_pids()
    memory = list(map(resident_mb, hosts))
    return Sample(
        t_s=round(t_s, 2),
        batches=batches,
        node_mb=resident_mb(daemon.pid),
        forge_mb=resident_mb(daemon.forge_pid),
        host_mb=max(memory, default=0.0),
        hosts_mb=round(sum(memory), 1),
        node_fds=descriptors(daemon.pid),
        forge_fds=descriptors(daemon.forge_pid),
        host_fds=max(map(descriptors, hosts), default=0),
        processes=len(descendants(daemon.pid)),
        segments=sum(map(daemon.camera.exists, daemon.camera.segments)),
        phase=phase,
    )


def resident_mb(pid: int) -> float:
    """Return the resident memory of a process, 0 if it is gone."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return round(pages * os.sysconf("SC_PAGE_SIZE") / _MEGABYTE, 1)


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open, 0 if it is gone."""
    try:
        return len(os.listdir(f"/proc/{pid}/fd"))
    except OSError:
        return 0


def monotonic_s() -> float:
    """Return the clock of all samples."""
    return time.monotonic()
