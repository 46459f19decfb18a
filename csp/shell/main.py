"""The command `csp shell`: connect to the network, then run a script, lines, or the prompt."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from csp.errors import CspError
from csp.links.base import Link
from csp.links.options import add_link_options, open_link
from csp.links.zmq import ZmqLink
from csp.loop import Loop
from csp.node import CspNode
from csp.param.table import ParamTable
from csp.services import Identity
from csp.shell.session import ProgressFactory, Session

GROUND_ADDRESS = 20
# Longer than the link itself waits for a sign of the hub.
_READY_WAIT_S = 10.0


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of `csp shell` to a parser."""
    parser.description = (
        "A CSH-like shell on a CSP network. Without -i and -c it prompts; `help` lists commands."
    )
    parser.add_argument(
        "-i",
        "--input",
        type=Path,
        metavar="FILE",
        help="run the lines of a file and stop at the first that fails",
    )
    parser.add_argument(
        "-c",
        "--command",
        action="append",
        default=[],
        metavar="LINE",
        help="run a line (may be repeated; after -i)",
    )
    parser.add_argument(
        "-n",
        "--node",
        default="0",
        metavar="NODE",
        help="node that commands are for (default 0, the shell itself)",
    )
    parser.add_argument(
        "-t",
        "--timeout",
        type=int,
        default=1000,
        metavar="MS",
        help="how long to wait for an answer (default 1000)",
    )
    add_link_options(parser, address=GROUND_ADDRESS)


@contextmanager
def open_session(
    link: Link,
    *,
    address: int,
    version: int = 2,
    netmask: int = 8,
    out: Callable[[str], None] = print,
    progress: ProgressFactory | None = None,
    timeout_s: float = 1.0,
) -> Iterator[Session]:
    """Give a session on a new node behind a link; leaves the network at the end."""
    loop = Loop()
    node = CspNode(
        loop,
        address=address,
        identity=Identity(hostname=f"shell-{os.getpid()}", model="payload-emulator"),
        table=ParamTable(()),
        version=version,
    )
    node.attach(link, netmask=netmask)
    try:
        if isinstance(link, ZmqLink) and not loop.run_until(link.ready, _READY_WAIT_S):
            out(f"warning: no hub answers at {link.place}; `csp hub` or `payload up` starts one")
        yield Session(loop, node.stack, out=out, progress=progress, timeout_s=timeout_s)
    finally:
        node.close()
        loop.close()


def run(options: argparse.Namespace) -> int:
    """Run the shell. Returns 0, or 1 if a line failed."""
    try:
        link = open_link(options)
        with open_session(
            link,
            address=options.address,
            version=options.csp_version,
            netmask=options.netmask,
            timeout_s=options.timeout / 1000,
        ) as session:
            session.node = session.resolve_node(options.node)
            return _run_lines(session, options)
    except (CspError, OSError) as error:
        print(f"csp shell: {error}", file=sys.stderr)
        return 1


def _run_lines(session: Session, options: argparse.Namespace) -> int:
    if options.input is not None:
        text = options.input.read_text("utf-8")
        if not session.run_script(text, str(options.input)):
            return 1
    for line in options.command:
        if not session.run_line(line):
            return 1
    if options.input is None and not options.command:
        from csp.shell.app import run_interactive

        state = Path(os.environ.get("XDG_STATE_HOME", "~/.local/state")).expanduser()
        return run_interactive(session, state / "payload" / "shell_history")
    return 0
