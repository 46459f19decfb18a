"""The command `dipp soak`: load and faults for as long as told, then a report. Driver.

Exit status 1 if an invariant was broken.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from dipp.faults.campaign import machine
from dipp.soak.page import picture, render, to_json
from dipp.soak.run import Goal, Result, State, run_soak
from dipp.soak.samples import Sample

DEFAULT_MINUTES = 5.0
DEFAULT_OUT = Path("out/soak")
_POINTS = 6


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dipp soak`."""
    parser.description = (
        "Put a real node under load, let random combinations of 2 or 3 faults strike, check after"
        " each that every batch has one fate and nothing is left; then see that it works as before."
    )
    parser.add_argument("--minutes", type=_positive, default=DEFAULT_MINUTES, metavar="M",
                        help="how long faults strike, default %(default)g")  # fmt: skip
    parser.add_argument("--batches", type=_count, default=0, metavar="N",
                        help="instead: N tiny batches, no fault; all stays flat")  # fmt: skip
    parser.add_argument("--seed", type=int, default=1, help="of all that is random, default 1")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--out", type=Path, default=DEFAULT_OUT, metavar="DIR",
                        help=f"where the report goes, default {DEFAULT_OUT}")  # fmt: skip


def _positive(text: str) -> float:
    value = float(text)
    if not 0 < value < float("inf"):
        raise ValueError(text)
    return value


def _count(text: str) -> int:
    return int(_positive(text))


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 1 if an invariant was broken. Raises OSError."""
    out: Path = arguments.out
    out.mkdir(parents=True, exist_ok=True)
    goal = Goal(seed=arguments.seed, minutes=arguments.minutes, batches=arguments.batches)
    when = time.strftime("%Y-%m-%d %H:%M")
    with tempfile.TemporaryDirectory(prefix="dipp-soak-") as directory, _progress() as progress:
        task = progress.add_task("soak", total=1.0)

        def watch(state: State) -> None:
            progress.update(task, completed=state.share, description=state.text)

        result = run_soak(Path(directory), goal, watch)
    (out / "soak.json").write_text(to_json(result) + "\n", "utf-8")
    (out / "soak.svg").write_text(picture(result.samples), "utf-8")
    (out / "soak.html").write_text(render(result, when, machine()), "utf-8")
    if arguments.json:
        print(to_json(result))
    else:
        _print(result)
    print(f"seed {result.seed}; report: {out / 'soak.html'}", file=sys.stderr)
    return 0 if result.passed else 1


def _progress() -> Progress:
    return Progress(
        BarColumn(), TimeElapsedColumn(), TextColumn("{task.description}"),
        console=Console(stderr=True), transient=True,
    )  # fmt: skip


def _print(result: Result) -> None:
    delivered, quarantined, dropped = result.fates
    print(
        f"{result.batches} batches: {delivered} delivered, {quarantined} quarantined, {dropped}"
        f" dropped; {len(result.rounds)} rounds, {result.restarts} starts after a kill;"
        f" {result.nominal:g} batches/s before, {result.healed:g} after"
    )
    step = max(1, (len(result.samples) - 1) // _POINTS)
    for sample in result.samples[::step]:
        print(_line(sample))
    for text in result.problems:
        print(f"FAIL {text}")
    for each in result.rounds:
        if each.problems:
            print(f"FAIL seed {each.seed}, {' + '.join(each.strikes)}: {'; '.join(each.problems)}")
    print("passed" if result.passed else "failed")


def _line(sample: Sample) -> str:
    return (
        f"  {sample.t_s:7.0f} s {sample.batches:7} batches: node {sample.node_mb:.1f} MB"
        f" {sample.node_fds} fds, forge {sample.forge_mb:.1f} MB {sample.forge_fds} fds, hosts"
        f" {sample.hosts_mb:.1f} MB {sample.host_fds} fds, {sample.processes} processes,"
        f" {sample.segments} segments"
    )
