"""What any pipeline of one process per module has to pay on this machine, in bare processes.

The figures are no targets. A latency above its target on a machine where the bare exchange is near
it says something about the machine. Source: performance.md 2.
"""

from __future__ import annotations

import json
import subprocess
import sys

from bench.bare import COUNTS, LIFE
from bench.effort import Effort
from bench.figures import Figure, Section
from bench.pipeline import BenchError
from bench.timing import Times

_BUDGET_S = 12.0
_LIMIT_S = 120.0


def measure(effort: Effort) -> Section:
    """Run it as a program of its own."""
    effort.say("bare processes")
    command = [sys.executable, "-m", "bench.bare", str(effort.budget_s(_BUDGET_S))]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_LIMIT_S, check=False)
    if done.returncode:
        raise BenchError(f"bench.bare ended with {done.returncode}: {done.stderr[-400:]}")
    times = {name: Times(tuple(seconds)) for name, seconds in json.loads(done.stdout).items()}
    exchanges = tuple(
        _us(
            f"floor.exchange_us_m{count}",
            times[str(count)],
            f"an order and its answer, bare, per process, one after the other with {count}",
        )
        for count in COUNTS
    )
    life = _us(
        "floor.life_us", times[LIFE], "fork and end of a process with the libraries of a host, bare"
    )
    return Section(
        name="floor",
        title="What bare processes cost here",
        figures=(*exchanges, life),
        notes=(
            (
                "Processes that hold the same libraries, have gone the way of an order before, and "
                "sleep until it comes. They check nothing and run no module."
            ),
        ),
    )


def _us(key: str, times: Times, what: str) -> Figure:
    return Figure(key=key, value=times.best * 1e6, median=times.median * 1e6, unit="µs", what=what)
