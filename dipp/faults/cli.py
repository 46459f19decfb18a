"""The command `dipp faults`: inject what the fault catalogue lists, say what came of it. Driver.

Exit status 1 if anything did not end as it must.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from dipp.errors import MisuseError
from dipp.faults.campaign import Plan, Step, UnknownFault, run_campaign
from dipp.faults.catalogue import CATALOGUE, LAST_ID
from dipp.faults.page import render
from dipp.faults.rows import all_rows
from dipp.faults.verdict import Report
from dipp.hostile import FAULTS

DEFAULT_SEED = 1
DEFAULT_OUT = Path("out/faults")
_CHATTER = "chatter.log"


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments of `dipp faults`."""
    parser.description = (
        "Inject the faults of the catalogue on this machine and check that nothing comes of them:"
        " each has an oracle, then a good batch must pass, and nothing may be left over."
    )
    parser.add_argument("--only", type=int, action="append", metavar="ID",
                        choices=range(1, LAST_ID + 1), help="1 to 95; may be repeated")  # fmt: skip
    parser.add_argument("--seed", type=int, default=DEFAULT_SEED,
                        help="of all that is random, default %(default)d")  # fmt: skip
    parser.add_argument("--minutes", type=float, default=0.0, metavar="M",
                        help="then other seeds and combinations")  # fmt: skip
    parser.add_argument("--combine", action="append", default=[], metavar="NAME",
                        help="these hostile modules at once; replays a round")  # fmt: skip
    parser.add_argument("--with-tests", action="store_true",
                        help="also the tests of each id (in a checkout)")  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.add_argument("--out", type=Path, metavar="DIR",
                        help=f"where the report goes, default {DEFAULT_OUT}")  # fmt: skip
    parser.add_argument("--list", action="store_true", help="print what there is and do nothing")


def run(arguments: argparse.Namespace) -> int:
    """Run the command; 1 if a fault was not contained. Raises OSError, MisuseError."""
    if arguments.list:
        _print_list()
        return 0
    wanted = set(arguments.only or ([] if arguments.combine else range(1, LAST_ID + 1)))
    plan = Plan(
        entries=tuple(entry for entry in CATALOGUE if entry.id in wanted),
        seed=arguments.seed, minutes=arguments.minutes, with_tests=arguments.with_tests,
        combined=tuple(arguments.combine),
    )  # fmt: skip
    out = _make_out(arguments.out)
    when = time.strftime("%Y-%m-%d %H:%M")
    with _chatter_to(out / _CHATTER) as console, _progress(console) as progress:
        task = progress.add_task("starting", total=None)

        def watch(step: Step) -> None:
            text = step.what if not step.failed else f"[red]{step.failed} failed[/] {step.what}"
            progress.update(task, description=text, completed=step.done, total=step.total)

        try:
            report = run_campaign(plan, watch)
        except UnknownFault as error:
            raise MisuseError(str(error)) from None
    (out / "report.html").write_text(render(report, when), "utf-8")
    (out / "faults.json").write_text(report.to_json() + "\n", "utf-8")
    (out / "details.json").write_text(report.details_json() + "\n", "utf-8")
    if arguments.json:
        print(report.to_json())
    else:
        _print_table(report)
    print(f"seed {report.seed}; report: {out / 'report.html'}", file=sys.stderr)
    return 1 if report.failed or report.failed_rounds else 0


def _make_out(wanted: Path | None) -> Path:
    """Make the directory of the report; elsewhere if it was not chosen and cannot be made."""
    out = wanted or DEFAULT_OUT
    try:
        out.mkdir(parents=True, exist_ok=True)
        (out / _CHATTER).touch()
    except OSError:
        if wanted is not None:
            raise
        return Path(tempfile.mkdtemp(prefix="dipp-faults-report-"))
    return out


@contextlib.contextmanager
def _chatter_to(path: Path) -> Iterator[Console]:
    """Send what dying processes print to a file; give a console on the real stderr."""
    real = os.dup(2)
    with path.open("wb") as file, os.fdopen(real, "w") as stream:
        sys.stderr.flush()
        os.dup2(file.fileno(), 2)
        try:
            yield Console(file=stream)
        finally:
            sys.stderr.flush()
            os.dup2(real, 2)


def _progress(console: Console) -> Progress:
    return Progress(
        TextColumn("faults"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("{task.description}"), console=console, transient=True,
    )  # fmt: skip


def _print_table(report: Report) -> None:
    for case in report.cases:
        mark = "ok  " if case.passed else "FAIL"
        print(f"{mark} {case.id:3} {case.name} ({case.seconds:.1f} s)")
        for verdict in case.verdicts:
            if verdict.problems:
                print(f"         {verdict.line()}\n         again: {verdict.replay}")
            elif verdict.why_not:
                print(f"         {verdict.line()}")
    for number, why in report.not_injected:
        print(f"--   {number:3} not injected: {why}")
    for verdict in report.rounds:
        if verdict.problems:
            print(f"FAIL     {verdict.line()}\n         again: {verdict.replay}")
    passed = len(report.cases) - report.failed
    rounds = f", {report.failed_rounds} of {len(report.rounds)} rounds failed" * bool(report.rounds)
    print(
        f"{passed} passed, {report.failed} failed, {len(report.not_injected)} not injected"
        f"{rounds}; {report.seconds:.0f} s"
    )


def _print_list() -> None:
    names: dict[int, list[str]] = {}
    for fault in FAULTS:
        names.setdefault(fault.number, []).append(fault.name)
    for row in all_rows():
        names.setdefault(row.id, []).append(row.name)
    for entry in CATALOGUE:
        print(f"{entry.id:3} {entry.name}: {', '.join(names.get(entry.id, []))}")
