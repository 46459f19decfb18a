"""The commands `dish compile` and `dish explain`. Driver."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from csp.param.spec import ParamSpec
from dish.asm import disassemble
from dish.profile import PROFILES
from dish.program import size_bytes

# The compiler is imported where it is used: `dish serve` loads this file too, and stays small.
if TYPE_CHECKING:
    from dish.plan.compile import Compiled, Options

_COMPILE = """\
Compile a plan to procedures that a flown DISH runs. The language: docs/plan-language.md.
Everything that is wrong is said at once, with line and column; then the exit status is 1.

Without -o the script of `proc` lines goes to standard output; run it with `csp shell -i FILE`.
"""
_EXPLAIN = """\
Say which place of a plan an instruction came from: SLOT and INDEX as in proc_last_at and
proc_last_index. PLAN is the source, compiled anew with the same options, or the map that
`dish compile --map` wrote.
"""


def add_compile(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `dish compile` to a parser."""
    parser = _add(commands, "compile", "turn a plan into procedures", _COMPILE)
    parser.set_defaults(run=_run_compile)
    _add_options(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="script of proc lines")
    parser.add_argument("--map", type=Path, metavar="FILE", help="source map, for dish explain")
    parser.add_argument("--json", action="store_true", help="figures and variables as JSON")


def add_explain(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `dish explain` to a parser."""
    parser = _add(commands, "explain", "find the source of an instruction", _EXPLAIN)
    parser.set_defaults(run=_run_explain)
    _add_options(parser)
    parser.add_argument("at", type=int, metavar="SLOT", help="as in proc_last_at")
    parser.add_argument("index", type=int, metavar="INDEX", help="as in proc_last_index")


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    summary: str,
    description: str,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name,
        help=summary,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("plan", type=Path, metavar="PLAN", help="plan, such as capture.dish")
    return parser


def _add_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--profile", choices=sorted(PROFILES), default="m7", help="default m7")
    parser.add_argument("--node", type=int, default=4, help="node that executes (default 4)")
    parser.add_argument(
        "--slots", type=_slots, metavar="LOW..HIGH", help="slots to use; the first one is run"
    )
    parser.add_argument(
        "--params", type=Path, action="append", default=[], metavar="FILE",
        help="parameter lists of other nodes, as for dish verify",
    )  # fmt: skip


def _slots(text: str) -> tuple[int, int]:
    low, dots, high = text.partition("..")
    if not (dots and low.isdecimal() and high.isdecimal()):
        raise argparse.ArgumentTypeError(f"{text!r} is not LOW..HIGH, such as 25..50")
    return int(low), int(high)


def _options(options: argparse.Namespace) -> Options:
    from dish.plan.compile import Options
    from dish.verify_cli import load_catalogue

    others: dict[int, dict[str, ParamSpec]] = {}
    for path in options.params:
        others.update(load_catalogue(path))
    return Options(
        own_node=options.node,
        others=others,
        profile=PROFILES[options.profile],
        slots=options.slots,
    )


def _run_compile(options: argparse.Namespace) -> int:
    from dish.plan import sourcemap
    from dish.plan.compile import compile_plan

    text = options.plan.read_text("utf-8", "replace")
    compiled = compile_plan(text, _options(options))
    for warning in compiled.warnings:
        print(f"{options.plan}: {warning}", file=sys.stderr)
    if options.map is not None:
        options.map.write_text(sourcemap.encode(compiled.source))
    script = script_of(compiled, options.plan.name, options.node)
    if options.output is not None:
        options.output.write_text(script)
    if options.json:
        print(json.dumps(_figures(compiled), indent=1))
    elif options.output is None:
        print(script, end="")
    else:
        print(_summary(compiled))
    return 0


def script_of(compiled: Compiled, name: str, node: int) -> str:
    """Return the shell script that stores a plan: empties each slot, fills it, shows how to run."""
    lines = [f"# Compiled from {name}: {_summary(compiled)}"]
    for slot, procedure in compiled.procedures.items():
        lines += [f"proc del {slot} {node}", disassemble(procedure, slot, node).rstrip()]
    return "\n".join([*lines, f"# proc run {compiled.root} {node}", ""])


def _summary(compiled: Compiled) -> str:
    slots = sorted(compiled.procedures)
    return (
        f"run slot {compiled.root}; slots {slots[0]}..{slots[-1]}, {compiled.instructions}"
        f" instructions, {compiled.size_bytes} bytes"
    )


def _figures(compiled: Compiled) -> dict[str, object]:
    return {
        "run": compiled.root,
        "bytes": compiled.size_bytes,
        "instructions": compiled.instructions,
        "slots": {
            str(slot): {"instructions": len(entry), "bytes": size_bytes(entry)}
            for slot, entry in compiled.procedures.items()
        },
        "variables": dict(compiled.variables),
        "warnings": [str(warning) for warning in compiled.warnings],
    }


def _run_explain(options: argparse.Namespace) -> int:
    from dish.plan import sourcemap
    from dish.plan.compile import compile_plan

    text = options.plan.read_text("utf-8", "replace")
    if options.plan.suffix == ".dish":
        source = compile_plan(text, _options(options)).source
    else:
        source, text = sourcemap.decode(text), ""
    print(sourcemap.explain(source, text, options.at, options.index))
    return 0 if source.find(options.at, options.index) is not None else 1
