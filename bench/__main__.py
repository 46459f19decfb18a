"""The command `python -m bench`: measure everything, print it, write report, JSON and charts.

Exit status 0 = measured, 1 = a section could not be measured, 2 = wrong use. Whether targets are
met does not change it: a busy machine is not a broken program.
"""

from __future__ import annotations

import os

# Before any of them is imported: one thread per library, here as in the pipeline.
os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1"))

import argparse
import importlib
import json
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

from bench import machine
from bench.compare import Change, compare
from bench.effort import Effort
from bench.figures import Run, Section, numbers
from bench.page import render
from bench.text import change_lines, console_lines, markdown

# In the order of the report; each is a file in bench/measure.
SECTIONS = (
    "stages", "throughput", "floor", "recovery", "memory", "workers", "sandbox", "uplink", "dish",
    "aurora", "network", "payload",
)  # fmt: skip
_EPILOG = f"""\
sections: {" ".join(SECTIONS)}

examples:
  python -m bench                              everything, some nine minutes
  python -m bench --quick                      the same with few rounds: does it work?
  python -m bench --only stages --only dish    parts of it
  python -m bench --against old.json           also compare with an earlier run
  python -m bench --markdown out/bench/bench.json    the table for docs/performance.md
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    options = _parser().parse_args(argv)
    try:
        if options.markdown is not None:
            print(markdown(Run.from_json(_read(options.markdown))), end="")
            return 0
        old = _read(options.against) if options.against is not None else {}
    except (OSError, ValueError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    run = _measure(options.only or list(SECTIONS), quick=options.quick)
    new = run.to_json()
    changes = compare(numbers(new), numbers(old)) if old else []
    _write(options.out, run, new, changes)
    lines = [*console_lines(run), *change_lines(changes)]
    print("\n".join([*lines, "", str(options.out / "report.html")]))
    return 1 if run.failures else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description="Measure the payload on this machine: pipeline, network, flight plans.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    # fmt: off
    parser.add_argument("--only", action="append", choices=SECTIONS, metavar="SECTION",
                        help="measure this section; may be repeated")
    parser.add_argument("--quick", action="store_true",
                        help="few rounds and sizes; the figures mean little")
    parser.add_argument("--against", type=Path, metavar="OLD.json",
                        help="compare with an earlier bench.json")
    parser.add_argument("--out", type=Path, default=Path("out/bench"), metavar="DIR",
                        help="where report, bench.json and charts go (default %(default)s)")
    parser.add_argument("--markdown", type=Path, metavar="BENCH.json",
                        help="print the figures of a run as a Markdown table, measure nothing")
    # fmt: on
    return parser


def _measure(names: Sequence[str], *, quick: bool) -> Run:
    """Run the sections in the order of the report; one that fails does not end the others."""
    watch = machine.Watch()
    about = {"command": " ".join(("python -m bench", *sys.argv[1:])), **machine.describe()}
    sections: list[Section] = []
    failures: dict[str, str] = {}
    with _progress([name for name in SECTIONS if name in names]) as steps:
        for name, say in steps:
            began = time.monotonic()
            try:
                section = importlib.import_module(f"bench.measure.{name}").measure(
                    Effort(quick=quick, say=say)
                )
            except Exception as error:  # boundary: the others can still be measured
                failures[name] = f"{type(error).__name__}: {error}"
                continue
            took = round(time.monotonic() - began, 1)
            sections.append(replace(section, wall_s=took, load=watch.look()))
    about |= {"quick": quick, "huge_arena": machine.huge_arena(), **watch.result()}
    return Run(about=about, sections=tuple(sections), failures=failures)


@contextmanager
def _progress(names: Sequence[str]) -> Iterator[Iterator[tuple[str, Callable[[str], None]]]]:
    """Give the sections one by one, each with a function that says how far it is.

    No thread draws the bar: this process forks.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description:<34}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, auto_refresh=False) as progress:
        task = progress.add_task("", total=len(names))

        def steps() -> Iterator[tuple[str, Callable[[str], None]]]:
            for name in names:

                def say(text: str, name: str = name) -> None:
                    progress.update(task, description=f"{name}: {text}", refresh=True)
                    if not console.is_terminal:
                        console.print(f"{name}: {text}", highlight=False)

                say("")
                yield name, say
                progress.advance(task)

        yield steps()


def _read(path: Path) -> Mapping[str, object]:
    """Read a bench.json. Raises OSError, ValueError."""
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON: {error}") from error
    if not isinstance(data, dict):
        raise ValueError(f"{path} is no bench.json: wanted an object")
    return data


def _write(out: Path, run: Run, data: Mapping[str, object], changes: Sequence[Change]) -> None:
    out.mkdir(parents=True, exist_ok=True)
    text = json.dumps(data, indent=1, sort_keys=True, ensure_ascii=False)
    (out / "bench.json").write_text(text + "\n", encoding="utf-8")
    (out / "report.html").write_text(render(run, changes), encoding="utf-8")
    for section in run.sections:
        for chart in section.charts:
            (out / f"{chart.name}.svg").write_text(chart.svg, encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
