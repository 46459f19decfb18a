"""The command `dish verify`. Driver."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from csp.errors import CspError, NoResponse
from csp.links.options import add_link_options
from csp.param.client import ParamClient, RemoteParam
from csp.sched import Timeout
from csp.services import PORT_PING
from csp.stack import Stack
from dish.asm import assemble
from dish.catalogue import NodeList, encode_lists, load_catalogue, shipped_lists
from dish.client import ProcClient
from dish.errors import ContentError
from dish.isa import Side, sides
from dish.params import SPECS
from dish.problems import Problem
from dish.profile import PROFILES
from dish.program import Procedure
from dish.verify import Catalogue, Target, has_errors, verify

__all__ = ["add_verify", "load_catalogue", "nodes_of"]

_DESCRIPTION = """\
Check procedures against the node they are for, and say everything that is wrong at once.
Exit status 1 if there is an error; warnings alone are status 0.

The parameters of the executing node are those of `dish serve`. Lists of other nodes come from
  --hub, --udp, --kiss, --can   the live network: every node the procedures use is asked, and slots
                                that are filled on the executing node may be called
  --shipped                     the nodes of the emulated payload, without a network
  --params FILE                 JSON, as --save writes it:
                                {"162": [{"name": "pipeline_run", "type": "u08", "mask": 4}, ...]}
"""
# A list of a thousand parameters over the radio.
_PATIENCE_S = 60.0
# Of the ground segment, and not the shell's own.
_ADDRESS = 23

T = TypeVar("T")


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
    parser.add_argument(
        "--shipped", action="store_true", help="know the nodes of the emulated payload"
    )
    parser.add_argument(
        "--save", type=Path, metavar="FILE", help="keep the downloaded lists for --params"
    )
    parser.add_argument(
        "--timeout", type=float, default=1.0, metavar="S", help="of the live network (default 1)"
    )
    parser.add_argument("--json", action="store_true", help="the problems as a JSON array")
    add_link_options(parser, address=_ADDRESS)
    # Without a link there is no network to ask.
    parser.set_defaults(hub=None)


def _run(options: argparse.Namespace) -> int:
    given: dict[int, NodeList] = {}
    for path in options.params:
        given.update(load_catalogue(path))
    procedures, lines = _load(options.scripts, options.node)
    live = _download(options, procedures) if _is_live(options) else Live()
    shipped = shipped_lists() if options.shipped else {}
    own: dict[int, NodeList] = {options.node: {spec.name: spec for spec in SPECS}}
    # What was given by hand counts most, then what the nodes say themselves.
    catalogue = {**own, **shipped, **live.lists, **given}
    problems = verify(procedures, _target(options, catalogue, live.slots))
    if options.json:
        rows = [_row(problem, lines) for problem in problems]
        print(json.dumps(rows, indent=1))
    else:
        for problem in problems:
            print(f"{_place(problem, lines)}{problem}")
        print(f"{len(procedures)} procedures, {len(problems)} problems")
    return 1 if has_errors(problems) else 0


def _target(options: argparse.Namespace, catalogue: Catalogue, present: frozenset[int]) -> Target:
    profile = PROFILES[options.profile]
    return Target(own=options.node, profile=profile, catalogue=catalogue, present=present)


# -- a live network


@dataclass(frozen=True, slots=True, kw_only=True)
class Live:
    """What the network said: the lists of its nodes, and the filled slots of the executing one."""

    lists: dict[int, NodeList] = field(default_factory=dict)
    slots: frozenset[int] = frozenset()


def _is_live(options: argparse.Namespace) -> bool:
    return any((options.hub, options.udp, options.kiss, options.can))


def nodes_of(procedures: Mapping[int, Procedure], own: int) -> list[int]:
    """Return the nodes whose parameters are used, the executing one included."""
    used = {own}
    for procedure in procedures.values():
        for entry in procedure.instructions:
            if Side.NODE in sides(entry.opcode, entry.operator):
                used.add(entry.node or own)
    return sorted(used)


def _download(options: argparse.Namespace, procedures: Mapping[int, Procedure]) -> Live:
    """Ask every node for its list. Raises CspError if not one of them answers."""
    from csp.links.options import open_link
    from csp.shell.main import open_session

    lists: dict[int, NodeList] = {}
    slots: frozenset[int] = frozenset()
    with open_session(
        open_link(options), address=options.address, version=options.csp_version,
        netmask=options.netmask, out=_warn, timeout_s=options.timeout,
    ) as session:  # fmt: skip

        def ask(request: Coroutine[Any, Any, T]) -> T:
            return session.loop.run_until(session.scheduler.spawn(request), _PATIENCE_S)

        for node in nodes_of(procedures, options.node):
            try:
                entries = ask(_list_of(session.stack, session.params, node, options.timeout))
                lists[node] = {entry.spec.name: entry.spec for entry in reversed(entries)}
            except (CspError, Timeout) as error:
                _warn(f"node {node}: {error}: not checked against the live list")
        if options.node in lists:
            client = ProcClient(session.stack, options.timeout)
            try:
                slots = frozenset(ask(client.slots(options.node)))
            except (CspError, Timeout) as error:
                _warn(f"node {options.node}: {error}: its filled slots are not known")
    if not lists:
        raise NoResponse("no node answered: check the link")
    if options.save is not None:
        options.save.write_text(
            encode_lists({node: list(table.values()) for node, table in lists.items()})
        )
    return Live(lists=lists, slots=slots)


async def _list_of(
    stack: Stack, params: ParamClient, node: int, timeout_s: float
) -> list[RemoteParam]:
    """Download a list. A list is waited for long; a node that is not there is told sooner."""
    for last in (False, True):
        try:
            await stack.request(node, PORT_PING, b"list?", timeout_s=timeout_s)
            break
        except NoResponse:
            if last:
                raise
    return await params.download_list(node)


def _warn(text: str) -> None:
    print(f"dish: {text}", file=sys.stderr)


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
