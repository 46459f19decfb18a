"""What the figures were measured on: the machine, what else it did, which commit."""

from __future__ import annotations

import mmap
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path

from dipp.runner.channel import close_fds
from dipp.runner.hugefiles import make_files, mount_huge

_PACKAGES = ("numpy", "opencv-python-headless", "tflite-runtime", "ai-edge-litert", "imagecodecs")
_THP = Path("/sys/kernel/mm/transparent_hugepage")
_ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of all processors since the machine was started: busy, stolen by other guests."""

    busy_s: float
    stolen_s: float
    total_s: float


def work_so_far() -> Work:
    """Read the counters of the kernel."""
    tick = os.sysconf("SC_CLK_TCK")
    with open("/proc/stat", encoding="ascii") as file:
        user, nice, system, idle, iowait, irq, soft, steal = (
            int(word) / tick for word in file.readline().split()[1:9]
        )
    busy = user + nice + system + irq + soft
    return Work(busy_s=busy, stolen_s=steal, total_s=busy + idle + iowait + steal)


class Watch:
    """Watches what the machine does during a run."""

    def __init__(self) -> None:
        self._began = work_so_far()
        self._started = time.monotonic()
        self._loads = [os.getloadavg()[0]]
        self.before = os.getloadavg()

    def look(self) -> float:
        """Note the load of now and return it."""
        self._loads.append(os.getloadavg()[0])
        return self._loads[-1]

    def result(self) -> dict[str, object]:
        """Return the load before, during and after."""
        now = work_so_far()
        total = max(now.total_s - self._began.total_s, 1e-9)
        return {
            "load_before": list(self.before),
            "load_during_max": max(self._loads),
            "load_during_mean": round(sum(self._loads) / len(self._loads), 2),
            "load_after": list(os.getloadavg()),
            # Our own work is in it: only what exceeds a quiet run's share is somebody else's.
            "processors_busy": round((now.busy_s - self._began.busy_s) / total, 3),
            "processors_stolen": round((now.stolen_s - self._began.stolen_s) / total, 4),
            "wall_s": round(time.monotonic() - self._started, 1),
        }


def describe() -> dict[str, object]:
    """Return what does not change during a run."""
    uname = platform.uname()
    return {
        "date_utc": datetime.now(UTC).strftime("%Y-%m-%d %H:%M"),
        "machine": f"{_processor()}, {os.cpu_count()} processors, {uname.machine}",
        "kernel": f"{uname.system} {uname.release}",
        "memory_mb": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 1_000_000,
        "hypervisor": _hypervisor(),
        "python": platform.python_version(),
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
        "commit": commit(),
        "huge_pages": {
            "anonymous": _chosen(_THP / "enabled"),
            "shared": _chosen(_THP / "shmem_enabled"),
        },
    }


def commit() -> str:
    """Return the commit of the checkout, marked if files differ from it."""
    try:
        found = _git("rev-parse", "--short=12", "HEAD")
        return f"{found}+changes" if _git("status", "--porcelain", "-uno") else found
    except (OSError, subprocess.SubprocessError):
        return "no git"


def _git(*words: str) -> str:
    command = ["git", "-C", str(_ROOT), *words]
    return subprocess.run(
        command, capture_output=True, check=True, text=True, timeout=20
    ).stdout.strip()


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("model name", "Model"):
            return value.strip()
    return platform.machine()


def _hypervisor() -> bool:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    return " hypervisor" in flags


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _chosen(path: Path) -> str:
    """Return the word in brackets of a setting, as the kernel shows it."""
    try:
        words: Sequence[str] = path.read_text(encoding="ascii").split()
    except OSError:
        return "unknown"
    return next((word.strip("[]") for word in words if word.startswith("[")), "unknown")


def huge_arena() -> bool:
    """Say whether the memory of batches lies in huge pages, by making some as a host does."""
    mount_fd = mount_huge()
    try:
        files = make_files(mount_fd, 1, mmap.PAGESIZE)
    finally:
        close_fds([mount_fd])
    close_fds(files)
    return bool(files)
