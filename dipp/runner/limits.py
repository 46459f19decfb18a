"""How much the process tree may use, and counters of what has become of it. Pure."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

from dipp.runner.values import Policy

_MEGABYTE = 1 << 20


def usual_workers() -> int:
    """Return the number of processors but one, which is left to the node and its links."""
    return max(1, len(os.sched_getaffinity(0)) - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Budgets of the process tree. The defaults suit a board with 2 GB."""

    max_hosts: int = 4
    host_memory_mb: int = 768
    module_memory_mb: int = 512
    arena_mb: int = 256
    file_mb: int = 64
    open_files: int = 128
    spawn_timeout_s: float = 30.0
    load_timeout_s: float = 20.0
    # How long a host may take beyond its modules' own deadlines, and to end when told to.
    grace_s: float = 2.0
    max_processes: int = 64
    # Whom modules run as; only a node that is root can choose.
    module_user: str = ""
    skipped_rungs: tuple[str, ...] = ()
    # Batches of one pipeline at a time; each needs a host, so `max_hosts` bounds it too.
    workers: int = field(default_factory=usual_workers)
    # Children per module that are kept ready for the next batch; 0 forks on demand.
    standby: int = 1
    standby_memory_mb: int = 96
    # Memory of batches that a host keeps for the next one.
    keep_mb: int = 48
    # That memory in huge pages, if the machine has them: quicker, in steps of 2 MB.
    huge_pages: bool = True

    def policy(self) -> Policy:
        """Return what modules are told of it."""
        return Policy(
            memory_bytes=self.module_memory_mb * _MEGABYTE,
            arena_bytes=self.arena_mb * _MEGABYTE,
            file_bytes=self.file_mb * _MEGABYTE,
            open_files=self.open_files,
            processes=self.max_processes,
            user=self.module_user,
            skipped_rungs=self.skipped_rungs,
            standby=self.standby,
            standby_bytes=self.standby_memory_mb * _MEGABYTE,
            keep_bytes=self.keep_mb * _MEGABYTE,
            huge_pages=self.huge_pages,
        )


@dataclass(slots=True, kw_only=True)
class ExecutorStats:
    """Counters since start, for telemetry."""

    completed: int = 0
    failed: int = 0
    hosts_started: int = 0
    hosts_lost: int = 0
    orphans: int = 0
    leaked_segments: int = 0
    forge_restarts: int = 0
    # None until the forge has tried.
    missing_rungs: tuple[str, ...] | None = None
    last_fault: str = ""
