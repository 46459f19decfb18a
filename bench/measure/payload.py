"""The whole payload: how long it takes to start, and what memory all its processes hold idle."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.effort import Effort
from bench.figures import Figure, Section, Table, text_of
from bench.pipeline import BenchError
from bench.timing import Times
from bench.tree import family, memory_of
from dipp.testing import parent_of

_STARTS, _QUICK_STARTS = 5, 1
# Until what the start has left to do is done: warm hosts, first telemetry.
_SETTLE_S, _QUICK_SETTLE_S = 5.0, 1.5
_STOP_S = 20.0
_READY = "ground hub"
_BELOW = ", forge and below"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Start:
    """One start: seconds, and proportional memory by name of the process in bytes."""

    seconds: float
    memory: dict[str, int]

    @property
    def dipp(self) -> int:
        """The DIPP node with its forge and hosts."""
        return sum(size for name, size in self.memory.items() if name.startswith("dipp"))


def measure(effort: Effort) -> Section:
    """Start it some times."""
    starts = []
    for number in range(effort.some(_STARTS, _QUICK_STARTS)):
        effort.say(f"start {number + 1}")
        starts.append(_start(_QUICK_SETTLE_S if effort.quick else _SETTLE_S))
    seconds = Times(tuple(start.seconds for start in starts))
    every = Times(tuple(sum(start.memory.values()) / 1e6 for start in starts))
    dipp = Times(tuple(start.dipp / 1e6 for start in starts))
    names = sorted(starts[-1].memory.items(), key=lambda pair: -pair[1])
    return Section(
        name="payload",
        title="The whole payload",
        figures=(
            Figure(
                key="payload.start_s",
                value=seconds.best,
                median=seconds.median,
                unit="s",
                what="from the command `payload up` until every node has answered",
            ),
            Figure(
                key="payload.idle_pss_mb",
                value=every.best,
                median=every.median,
                unit="MB",
                what="proportional memory of all processes of the idle payload",
            ),
            Figure(
                key="payload.dipp_pss_mb",
                value=dipp.best,
                median=dipp.median,
                unit="MB",
                what="proportional memory of the DIPP node with forge and hosts, idle",
            ),
        ),
        tables=(
            Table(
                title="Proportional memory of the last start",
                head=("process", "MB"),
                rows=tuple((name, text_of(size / 1e6)) for name, size in names),
            ),
        ),
        notes=("Proportional (PSS): a page that several processes share is divided among them.",),
    )


def _start(settle_s: float) -> _Start:
    with TemporaryDirectory(prefix="bench-payload-") as folder:
        command = [sys.executable, "-u", "-m", "sim.payload.cli", "up", "--state", folder]
        began = time.monotonic()
        with subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            try:
                seconds = _await_ready(process, began)
                time.sleep(settle_s)
                memory = _by_name(process.pid, Path(folder))
            finally:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(_STOP_S)
                except subprocess.TimeoutExpired:
                    process.kill()
        return _Start(seconds=seconds, memory=memory)


def _await_ready(process: subprocess.Popen[str], began: float) -> float:
    said = []
    for line in process.stdout or ():
        if line.startswith(_READY):
            return time.monotonic() - began
        said.append(line.strip())
    raise BenchError(f"payload up ended: {' / '.join(said[-4:])}")


def _by_name(pid: int, state: Path) -> dict[str, int]:
    """Return the memory of every process of the payload by what it is."""
    nodes = {
        number: name for name, number in json.loads((state / "a53-box.json").read_text()).items()
    }
    found: dict[str, int] = {}
    names = {pid: "launcher"}
    for each in family(pid):
        parent = names.get(parent_of(each), "")
        name = nodes.get(each) or names.get(each) or _heir(parent)
        names[each] = name
        found[name] = found.get(name, 0) + memory_of([each]).pss
    return found


def _heir(parent: str) -> str:
    """Return what a process is called whose parent has that name."""
    if parent == "launcher":
        return "fleet"
    if parent == "fleet":
        return "other nodes and hubs"
    return parent if parent.endswith(_BELOW) else parent + _BELOW
