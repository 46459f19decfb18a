"""Rows of the fault catalogue that kill: a procedure, a node, or one of two on the same state.

Driver. Real processes and real kills. `faults.py` has the other rows of flight plans.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from csp.faultrow import Case, FaultRow, fault_row, require
from dish.asm import assemble_one
from dish.errors import Ret
from dish.faultsite import DEADLINE_S, DISH, Site

BUSY = "unop p_uint32[0] ++ p_uint32[0]\ncall 30"
WAITS = "block p_uint8[0] == p_uint8[1]"
GOES_ON = "; the node answers and runs the next procedure"


def _process_killed(case: Case) -> str:
    site = Site(case)
    kills = 4
    for turn in range(kills):
        site.start(30, BUSY)
        site.until(lambda: site.dish.runs.views() and site.dish.runs.views()[0].pid, "it runs")
        if case.random.random() < 0.5:
            site.until(lambda: site.dish.runs.views()[0].line.executed > 1000, "it counts")
        os.kill(site.dish.runs.views()[0].pid, signal.SIGKILL)
        site.until(lambda: len(site.dish.runs) == 0, "its end is noticed")
        require(
            site.get("proc_last_ret") == Ret.KILLED, f"kill {turn}: {site.get('proc_last_ret')!r}"
        )
    site.start(30, BUSY)
    site.until(lambda: site.dish.runs.views() and site.dish.runs.views()[0].pid, "it runs")
    site.until(lambda: site.dish.runs.has_standby, "a forge stands by")
    os.kill(site.dish.runs.forge_pid, signal.SIGKILL)
    site.until(lambda: len(site.dish.runs) == 0, "the run ends with its forge")
    ret = site.dish.service.outcomes[-1].ret
    require(ret in (Ret.HOST_LOST, Ret.KILLED), f"after the forge: {ret}")
    site.still_works()
    return (
        f"{kills} processes and a forge killed: {Ret.KILLED.name} and {ret.name}, the node goes on"
    )


def _node_killed(case: Case) -> str:
    """Kill a whole node while procedures run; another one starts on what it left."""
    state, ready = case.directory / "state", case.directory / "ready"
    killed = 0
    for turn in range(3):
        ready.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            _be_node(case, state, ready, turn)
        end = time.monotonic() + DEADLINE_S
        while not ready.exists():
            require(time.monotonic() < end, "the node did not start its procedures")
            require(os.waitpid(pid, os.WNOHANG) == (0, 0), "the node ended by itself")
            time.sleep(0.01)
        below = [int(word) for word in ready.read_text().split()]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        while any(map(_is_alive, below)):
            require(time.monotonic() < end, f"{below} outlive their node")
            time.sleep(0.01)
        killed += len(below)
    site = Site(case, state)
    require(site.do(site.proc.slots(DISH)) == [30, 31, 32], "the procedures are not all there")
    require(len(site.dish.runs) == 0, "something runs although nobody asked for it")
    site.still_works()
    return f"3 kills of a node with {killed} processes below it: none outlives it, slots intact"


def _second_node(case: Case) -> str:
    """Start another node on the state of one that runs."""
    state = case.directory / "state"
    site = Site(case, state)
    site.do(site.proc.push(DISH, 30, assemble_one("noop")))
    command = [sys.executable, "-m", "dish.cli", "serve", "--state", str(state)]
    second = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    require(second.returncode == 1, f"exit status {second.returncode}: {second.stderr}")
    require(f"in use by another node (process {os.getpid()})" in second.stderr, second.stderr)
    require(site.do(site.proc.slots(DISH)) == [30], "the procedures of the first one changed")
    site.still_works()
    return f"refused: {second.stderr.strip()}"


def _be_node(case: Case, state: Path, ready: Path, turn: int) -> None:
    """Run a node with two procedures until it is killed. Never returns."""
    try:
        site = Site(case, state)
        if turn == 0:
            for slot in (30, 31):
                site.do(site.proc.push(DISH, slot, assemble_one(BUSY if slot == 30 else WAITS)))
        elif turn == 1:
            site.do(site.proc.push(DISH, 32, assemble_one("noop")))
        site.set("p_uint8", 1, 0)
        for slot in (30, 31):
            site.do(site.proc.run(DISH, slot))
        site.until(lambda: all(view.pid for view in site.dish.runs.views()), "both run")
        below = [view.pid for view in site.dish.runs.views()]
        below += [each for each in (site.dish.runs.forge_pid, site.dish.runs.standby_pid) if each]
        fresh = ready.with_suffix(".new")
        fresh.write_text(" ".join(map(str, below)))
        fresh.rename(ready)
        while True:
            site.loop.tick(0.05)
    finally:
        os._exit(1)


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


KILLS: tuple[FaultRow, ...] = (
    fault_row(
        70,
        "second-node-of-plans",
        "another `dish serve` on the same state",
        "exit 1, says what is in use and by which process; the first one goes on",
        _second_node,
    ),
    fault_row(
        93,
        "procedure-killed",
        "SIGKILL of running procedures and of their forge",
        "reported with its own code" + GOES_ON,
        _process_killed,
    ),
    fault_row(
        93,
        "node-killed",
        "SIGKILL of the whole node while two procedures run, three times",
        "nothing outlives it, the next start has all procedures and runs none",
        _node_killed,
    ),
)
