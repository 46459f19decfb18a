"""The command `dish verify`. Driver."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from csp.errors import CspError
from csp.param.spec import ParamSpec
from csp.param.types import TYPES, Mask
from dish.asm import assemble
from dish.errors import ContentError
from dish.params import SPECS
from dish.problems import Problem
from dish.profile import PROFILES
from dish.program import Procedure
from dish.verify import Catalogue, Target, has_errors, verify

_DESCRIPTION = """\
Check procedures against the node they are for, and say everything that is wrong at once.
Exit status 1 if there is an error; warnings alone are status 0.

The parameters of the executing node are those of `dish serve`. Lists of other nodes come from JSON
files: {"162": [{"name": "pipeline_run", "type": "u08", "array_size": 1, "mask": 4}, ...]}.
"""


def add_verify(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the sub-command to a parser."""
    parser = commands.add_parser(
        "verify",
        help="find what is wrong with procedures",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=_run)
    parser.add_argument("scripts", type=Path, nargs="+", metavar="SCRIPT", help="proc lines")
    parser.add_argument("--profile", choices=sorted(PROFILES), default="m7", help="default m7")
    parser.add_argument("--node", type=int, default=4, help="node that executes (default 4)")
    parser.add_argument(
        "--params", type=Path, action="append", default=[], metavar="FILE", help="parameter lists"
    )
    parser.add_argument("--json", action="store_true", help="the problems as a JSON array")


def load_catalogue(path: Path) -> dict[int, dict[str, ParamSpec]]:
    """Read parameter lists. Raises ContentError that says what is wrong."""
    labels = {name: row.type for row in TYPES for name in (row.label, row.name)}
    try:
        nodes = json.loads(path.read_text())
        return {
            int(node): {
                row["name"]: ParamSpec(
                    id=int(row.get("id", number)),
                    name=row["name"],
                    type=labels[row["type"]],
                    array_size=int(row.get("array_size", 1)),
                    mask=Mask(int(row.get("mask", 0))),
                )
                for number, row in enumerate(rows)
            }
            for node, rows in nodes.items()
        }
    except (ValueError, TypeError, KeyError, AttributeError, CspError) as error:
        raise ContentError(f"{path} is no parameter list: {error!r}") from None


def _run(options: argparse.Namespace) -> int:
    catalogue: dict[int, dict[str, ParamSpec]] = {}
    for path in options.params:
        catalogue.update(load_catalogue(path))
    catalogue.setdefault(options.node, {spec.name: spec for spec in SPECS})
    procedures, lines = _load(options.scripts, options.node)
    problems = verify(procedures, _target(options, catalogue))
    if options.json:
        rows = [_row(problem, lines) for problem in problems]
        print(json.dumps(rows, indent=1))
    else:
        for problem in problems:
            print(f"{_place(problem, lines)}{problem}")
        print(f"{len(procedures)} procedures, {len(problems)} problems")
    return 1 if has_errors(problems) else 0


def _target(options: argparse.Namespace, catalogue: Catalogue) -> Target:
    return Target(own=options.node, profile=PROFILES[options.profile], catalogue=catalogue)


Lines = dict[tuple[int, int], tuple[Path, int]]


def _load(scripts: list[Path], node: int) -> tuple[dict[int, Procedure], Lines]:
    """Assemble scripts; a procedure without `proc push` counts as slot 255."""
    procedures: dict[int, Procedure] = {}
    lines: Lines = {}
    for path in scripts:
        for listing in assemble(path.read_bytes().decode("utf-8", "surrogateescape"), node):
            slot = 255 if listing.slot is None else listing.slot
            if slot in procedures:
                raise ContentError(f"{path}: slot {slot} is pushed twice")
            procedures[slot] = listing.procedure
            for index, line in enumerate(listing.lines):
                lines[slot, index] = path, line
    return procedures, lines


def _place(problem: Problem, lines: Lines) -> str:
    path, line = lines.get((problem.slot, problem.index or 0), (None, 0))
    return f"{path}:{line}: " if path is not None else ""


def _row(problem: Problem, lines: Lines) -> dict[str, object]:
    path, line = lines.get((problem.slot, problem.index or 0), (None, 0))
    return {
        "file": str(path) if path is not None else None,
        "line": line or None,
        "slot": problem.slot,
        "instruction": problem.index,
        "severity": problem.check.severity.value,
        "code": problem.check.code,
        "text": problem.text,
    }
