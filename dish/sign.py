"""`dish sign`: the seals of a script's procedures as lines for any shell that can set a parameter.

`proc push --key` of our shell does the same and sends it; this is for a stock csh.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from csp.keyfiles import OperatorKey
from dish.asm import assemble
from dish.errors import MisuseError
from dish.params import SEAL_SPEC
from dish.seals import seal_procedure

_NODE = 4


def add_sign(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = commands.add_parser(
        "sign",
        help="sign procedures for a stock csh",
        description="Sign the procedures of a script and print the line to send before each"
        " `proc push`. With our shell, `proc push --key` does it all.",
    )
    parser.set_defaults(run=_sign)
    parser.add_argument("script", type=Path, help="file with proc lines, - for standard input")
    parser.add_argument("-k", "--key", type=Path, required=True, help="private key")
    parser.add_argument(
        "-n", "--node", type=int, default=_NODE,
        help="node that stores them, also of instructions without one (default %(default)d)",
    )  # fmt: skip
    parser.add_argument("--slot", type=int, help="only this one, if the script pushes several")
    parser.add_argument("--json", action="store_true", help="for programs")


def _sign(options: argparse.Namespace) -> int:
    data = (
        sys.stdin.buffer.read() if str(options.script) == "-" else options.script.read_bytes()
    )  # fmt: skip
    listings = [
        listing
        for listing in assemble(data.decode("utf-8", "surrogateescape"), options.node)
        if listing.slot is not None and options.slot in (None, listing.slot)
    ]
    if not listings:
        raise MisuseError("no such `proc push SLOT` in the script; a signature names its slot")
    key = OperatorKey(options.key)
    rows: list[dict[str, str | int]] = []
    for listing in listings:
        node, slot, counter = listing.node or options.node, listing.slot or 0, key.next_counter()
        value = seal_procedure(listing.procedure, key.signer, node=node, slot=slot, counter=counter)
        rows.append({"node": node, "slot": slot, "counter": counter, "value": value.hex()})
    if options.json:
        print(json.dumps({"id": SEAL_SPEC.id, "name": SEAL_SPEC.name, "seals": rows}))
        return 0
    for row in rows:
        print(f"# before `proc push {row['slot']}`")
        print(f"set -n {row['node']} {SEAL_SPEC.name} {row['value']}")
    return 0
