"""Run procedures by the ten thousand on one DISH node and watch that nothing grows.

`python -m tools.soak_dish --runs 40000` pushes, runs and deletes procedures that end well, fail,
have a hole in their call graph, are stopped or are killed; several run at a time. Memory,
descriptors and processes are sampled at steady intervals. Exit status 1 if anything grew, or a run
ended otherwise than it must. Source: issue 4, dish.md 13 rows 5 and 6.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from csp.loop import Loop
from dish.asm import assemble_one
from dish.errors import Ret
from dish.frames import Command
from dish.node import DishConfig, DishNode, prepare
from dish.profile import PROFILES
from sim.box import descendants


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """A procedure, how often it is chosen, how it must end, and what ends it if nothing else."""

    text: str
    weight: int
    ret: Ret
    end: str = ""


_ENDLESS = "unop p_uint32[0] ++ p_uint32[0]\nblock p_uint8[30] != p_uint8[30]"
KINDS = (
    Kind(text="set p_uint8[0] 1\nunop p_uint8[0] ++ p_uint8[1]", weight=10, ret=Ret.OK),
    Kind(text="binop p_uint32[3] / p_uint32[4] p_uint32[5]", weight=4, ret=Ret.ERROR),
    Kind(text="call 99", weight=1, ret=Ret.ERROR),
    Kind(text=_ENDLESS, weight=2, ret=Ret.STOPPED, end="stop"),
    Kind(text=_ENDLESS, weight=2, ret=Ret.KILLED, end="kill"),
)
_SLOTS = range(64)
# The first runs fill caches and arenas; growth is counted from after them.
WARM_UP_RUNS = 200
# Less than 0.1 kB per run in the long soak, where the flown runtime lost a thread each.
MAX_GROWTH_KB = 3072
# A run that takes this long has got lost.
_STUCK_S = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What the node holds while nothing runs. `forges_kb` is both forges together."""

    runs: int
    node_kb: int
    forges_kb: int
    fds: int
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The figures of one soak."""

    runs: int
    seconds: float
    wrong: tuple[str, ...]
    samples: tuple[Sample, ...]

    @property
    def problems(self) -> list[str]:
        """What grew or ended otherwise than it must; empty if all is well."""
        first, last = self.samples[0], self.samples[-1]
        rows = (
            ("kB in the node", last.node_kb - first.node_kb, MAX_GROWTH_KB),
            ("kB in the forges", last.forges_kb - first.forges_kb, MAX_GROWTH_KB),
            ("descriptors", last.fds - first.fds, 0),
            ("processes", last.processes - first.processes, 0),
        )
        grown = [f"{growth} more {what}" for what, growth, limit in rows if growth > limit]
        return [*self.wrong, *grown]


class Soak:
    """One node without a network, and what is asked of it. Close it after use."""

    def __init__(self, parallel: int = 12, seed: int = 1) -> None:
        config = DishConfig(profile=PROFILES["default"], seed=seed)
        prepared = prepare(config)
        self._loop = Loop()
        self._node = DishNode(self._loop, config, prepared)
        self._parallel = parallel
        self._dice = random.Random(seed)
        self._going: dict[int, Kind] = {}
        self._told: set[int] = set()
        self._done = 0
        self._wrong: list[str] = []

    def run(
        self, runs: int, interval: int, show: Callable[[Sample], None] = lambda sample: None
    ) -> Report:
        """Complete `runs` runs, with a sample after the warm-up and then every `interval`."""
        began = time.monotonic()
        samples: list[Sample] = []
        due = min(runs, WARM_UP_RUNS)
        while True:
            self._finish(due)
            samples.append(self._sample())
            show(samples[-1])
            if due >= runs:
                break
            due = min(runs, due + interval)
        return Report(
            runs=self._done, seconds=time.monotonic() - began, wrong=tuple(self._wrong),
            samples=tuple(samples),
        )  # fmt: skip

    def close(self) -> None:
        """End the node and every process it has."""
        self._node.close()
        self._loop.close()

    def _finish(self, total: int) -> None:
        """Go on until so many runs have ended and none is left."""
        last, deadline = self._done, time.monotonic() + _STUCK_S
        while self._done < total or not self._node.runs.has_standby:
            while self._done + len(self._going) < total and len(self._going) < self._parallel:
                self._begin()
            self._loop.tick(0.05)
            self._end_the_endless()
            self._collect()
            if self._done > last:
                last, deadline = self._done, time.monotonic() + _STUCK_S
            elif time.monotonic() > deadline:
                raise TimeoutError(f"stuck after {last} runs: {self._going}")

    def _begin(self) -> None:
        kind = self._dice.choices(KINDS, [each.weight for each in KINDS])[0]
        slot = self._dice.choice([slot for slot in _SLOTS if slot not in self._going])
        store = self._node.store
        store.push(slot, assemble_one(kind.text))
        self._going[slot] = kind
        self._node.service.run(slot)
        # A running procedure does not need its slot.
        store.delete(slot)

    def _end_the_endless(self) -> None:
        runs = self._node.runs
        views = runs.views()
        self._told &= {view.run_id for view in views}
        for view in views:
            end = self._going[view.root].end
            if view.run_id in self._told or not view.pid or not end:
                continue
            self._told.add(view.run_id)
            if end == "stop":
                runs.command(Command.STOP, view.root)
            else:
                _kill_child(view.pid, runs.forge_pid)

    def _collect(self) -> None:
        outcomes = self._node.service.outcomes
        while outcomes:
            outcome = outcomes.popleft()
            kind = self._going.pop(outcome.root)
            self._done += 1
            if outcome.ret is not kind.ret:
                self._wrong.append(f"run {self._done}: {outcome} instead of {kind.ret.name}")

    def _sample(self) -> Sample:
        forges = (self._node.runs.forge_pid, self._node.runs.standby_pid)
        return Sample(
            runs=self._done,
            node_kb=_resident_kb(os.getpid()),
            forges_kb=sum(_resident_kb(pid) for pid in forges),
            fds=len(os.listdir("/proc/self/fd")),
            processes=len(descendants([os.getpid()])),
        )


def _kill_child(pid: int, parent: int) -> None:
    """Kill a process that is surely a child of ours; it may have ended by itself."""
    with contextlib.suppress(ProcessLookupError, FileNotFoundError):
        pidfd = os.pidfd_open(pid)
        try:
            stat = Path(f"/proc/{pid}/stat").read_text()
            if int(stat.rpartition(")")[2].split()[1]) == parent:
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _resident_kb(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    return 0


def _show(row: Sample) -> None:
    line = f"{row.runs:8} {row.node_kb:9} {row.forges_kb:10} {row.fds:5} {row.processes:10}"
    print(line, flush=True)


def main() -> int:
    """Run the soak and print its table. Returns 1 if anything is wrong."""
    parser = argparse.ArgumentParser(prog="soak_dish", description=__doc__)
    parser.add_argument("--runs", type=int, default=40_000)
    parser.add_argument("--interval", type=int, default=2000, help="runs between two samples")
    parser.add_argument("--parallel", type=int, default=12, help="procedures running at a time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    options = parser.parse_args()
    soak = Soak(options.parallel, options.seed)
    print(f"{'runs':>8} {'node kB':>9} {'forges kB':>10} {'fds':>5} {'processes':>10}")
    try:
        report = soak.run(options.runs, options.interval, _show)
    finally:
        soak.close()
    print(f"{report.runs} runs in {report.seconds:.1f} s, seed {options.seed}")
    for problem in report.problems:
        print(problem)
    if options.json is not None:
        figures = {**asdict(report), "problems": report.problems, "seed": options.seed}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 1 if report.problems else 0


if __name__ == "__main__":
    sys.exit(main())
