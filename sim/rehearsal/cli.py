"""The command `dish rehearse`: a plug-in of `dish` (entry point group `dish.commands`). Driver."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from dish.errors import ContentError
from sim.errors import SimError
from sim.rehearsal.faults import KINDS, parse_fault

# The rest is imported where it is used: `dish serve` loads this file too, and stays small.
if TYPE_CHECKING:
    from sim.rehearsal.record import Record

_DESCRIPTION = """\
Compile a plan and fly it in virtual time: orbit, sunlight, battery, passes, camera, DIPP, A53.
Three days take seconds. The same options give the same flight.
Exit status 1 if the plan failed or does not compile.
"""


def add_rehearse(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `dish rehearse` to a parser."""
    faults = "\n".join(f"  {kind:<14}{meaning}" for kind, meaning in KINDS.items())
    parser = commands.add_parser(
        "rehearse",
        help="fly a plan in virtual time",
        description=_DESCRIPTION,
        epilog=f"faults, as KIND, KIND@HOUR or KIND@HOUR..HOUR:\n{faults}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("plan", type=Path, metavar="PLAN", help="plan, such as capture.dish")
    parser.add_argument("--orbit", type=Path, metavar="TLE", help="element file (default shipped)")
    parser.add_argument("--satellite", default="", help="which one of the file (default the first)")
    parser.add_argument("--start", metavar="T", help="Unix seconds or 2025-04-11T21:40:00Z")
    parser.add_argument("--hours", type=float, default=24.0, help="how long (default 24)")
    parser.add_argument("--fault", action="append", default=[], help="see below; repeatable")
    parser.add_argument("--seed", type=int, default=1, help="of the chances (default 1)")
    parser.add_argument("--config", type=Path, metavar="FILE", help="payload configuration")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write the report as a page")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write it as data, - to show it")


def _run(options: argparse.Namespace) -> int:
    from sim.rehearsal.page import render

    try:
        record, text = _rehearse(options)
    except SimError as error:
        # The command `dish` knows its own errors and those of csp only.
        raise ContentError(str(error)) from None
    if options.html is not None:
        options.html.write_text(render(record, text), "utf-8")
    data = json.dumps(record.to_json(), indent=1) + "\n"
    if str(options.json) == "-":
        sys.stdout.write(data)
    else:
        if options.json is not None:
            options.json.write_text(data)
        print(_summary(record))
    return 1 if record.outcome == "failed" else 0


def _rehearse(options: argparse.Namespace) -> tuple[Record, str]:
    from sim import config, tle
    from sim.rehearsal.run import rehearse

    text = options.plan.read_text("utf-8", "replace")
    elements = None
    if options.orbit is not None:
        elements = tle.select(tle.parse(options.orbit.read_text("utf-8")), options.satellite)
    record = rehearse(
        text,
        config.load(options.config),
        name=options.plan.name,
        start_unix=None if options.start is None else _instant(options.start),
        hours=options.hours,
        faults=[parse_fault(each) for each in options.fault],
        seed=options.seed,
        elements=elements,
    )
    return record, text


def _instant(text: str) -> float:
    """Read a time as plans write it. Raises ContentError."""
    from dish.plan.problems import Report
    from dish.plan.tokens import Kind, tokenize

    report = Report()
    tokens = tokenize(text, report)
    report.stop()
    if len(tokens) != 3 or tokens[0].kind is not Kind.NUMBER:
        raise ContentError(f"--start {text}: write it as 2025-04-11T21:40:00Z")
    return float(tokens[0].number)


def _summary(record: Record) -> str:
    figures = record.figures
    counts = ", ".join(f"{name} {figures[name]:.0f}" for name in ("pictures", "batches", "passes"))
    low, last = figures["battery_lowest_percent"], figures["battery_last_percent"]
    hours = record.ended_s / 3600
    lines = [
        f"{record.plan}: {record.outcome} after {hours:.2f} h, {record.executed} instructions",
        f"  {counts}, downlinked {figures['downlinked_mb']:.1f} MB",
        f"  battery: lowest {low:.1f} %, at the end {last:.1f} %",
    ]
    if record.reason:
        lines.insert(1, f"  {record.reason}")
    for each in record.stands[:3]:
        lines.append(f"  waited {each.total_s:.0f} s at {each.source}: {each.text}")
    return "\n".join(lines)
