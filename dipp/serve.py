"""`dipp serve`: the options of the daemon, and its life from start to drain. Driver.

The short options are those of the flown program: `-i -p -a -v -b -m`. Source: dipp.md 2.
"""

from __future__ import annotations

import argparse
import logging
from pathlib import Path

from csp.links.base import Link
from csp.links.options import add_link_options, open_link
from csp.loop import Loop
from csp.sched import Cancelled
from dipp.intake import DEFAULT_QUEUE
from dipp.node import DippNode, NodeConfig
from dipp.quarantine import DEFAULT_LIMIT_BYTES
from dipp.ringindex import FLOWN_DATA_BYTES, FLOWN_ENTRIES, RingGeometry
from dipp.runner.executor import Limits, start_forge
from dipp.sandbox.rungs import RUNGS
from dipp.state import default_state_dir

_LOG = logging.getLogger("dipp")
DEFAULT_ADDRESS = 162
DEFAULT_BAUD = 115_200
_INTERFACES = ("ZMQ", "KISS", "CAN")
_DEFAULT_DEVICES = {"ZMQ": "localhost", "KISS": "/dev/ttyS1", "CAN": "vcan0"}


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of the daemon."""
    parser.description = (
        "The image pipeline daemon: takes batches from the queue, runs module chains in processes"
        " of their own, keeps the results in the ring. Runs until SIGTERM, then lets the current"
        " batch end."
    )
    add_link_options(parser, address=DEFAULT_ADDRESS)
    flown = parser.add_argument_group("as in the flown program")
    flown.add_argument("-i", dest="interface", choices=_INTERFACES, help="interface")
    flown.add_argument("-p", dest="device", help="host or device of the interface")
    flown.add_argument(
        "-b", dest="baud", type=int, default=DEFAULT_BAUD, help=f"KISS rate ({DEFAULT_BAUD})"
    )
    _add_state_options(parser)
    limits = parser.add_argument_group("limits")
    limits.add_argument("--max-hosts", type=int, default=Limits().max_hosts, metavar="N")
    limits.add_argument(
        "--workers", type=int, default=Limits().workers, metavar="N",
        help="batches of a pipeline at a time, unless the parameter says otherwise"
        " (default: processors but one)",
    )  # fmt: skip
    limits.add_argument(
        "--standby", type=int, default=Limits().standby, metavar="N",
        help="processes per module kept ready for the next batch; 0 = none (%(default)d)",
    )  # fmt: skip
    limits.add_argument(
        "--keep-mb", type=int, default=Limits().keep_mb, metavar="MB",
        help="memory of batches that a host keeps for the next one (%(default)d)",
    )  # fmt: skip
    limits.add_argument(
        "--small-pages", action="store_true",
        help="memory of batches in ordinary pages: slower, but not in steps of 2 MB",
    )  # fmt: skip
    limits.add_argument("--host-memory-mb", type=int, default=Limits().host_memory_mb, metavar="MB")
    limits.add_argument(
        "--module-memory-mb", type=int, default=Limits().module_memory_mb, metavar="MB"
    )
    limits.add_argument(
        "--max-processes", type=int, default=Limits().max_processes, metavar="N",
        help="processes and threads of one module, default %(default)d",
    )  # fmt: skip
    limits.add_argument(
        "--module-user", default="", metavar="USER", help="whom modules run as if this node is root"
    )
    limits.add_argument(
        "--without", action="append", default=[], metavar="RUNG",
        choices=[rung.name for rung in RUNGS],
        help="contain modules without this; for finding out what a module needs",
    )  # fmt: skip
    limits.add_argument(
        "--attempts",
        type=int,
        default=2,
        metavar="N",
        help="how often a batch is started before a dying node quarantines it (default 2)",
    )


def _add_state_options(parser: argparse.ArgumentParser) -> None:
    state = parser.add_argument_group("state and input")
    state.add_argument(
        "-v",
        "--state",
        type=Path,
        default=None,
        metavar="DIR",
        help=f"state directory (default {default_state_dir('dipp')})",
    )
    state.add_argument(
        "--queue", default=DEFAULT_QUEUE, metavar="NAME", help=f"batch queue ({DEFAULT_QUEUE})"
    )
    state.add_argument(
        "--modules",
        type=Path,
        action="append",
        default=[],
        metavar="DIR",
        help="look for modules there too, before those that ship",
    )
    state.add_argument(
        "--ring-size",
        type=int,
        default=FLOWN_DATA_BYTES,
        metavar="BYTES",
        help=f"data area of the image ring (default {FLOWN_DATA_BYTES})",
    )
    state.add_argument(
        "--ring-entries",
        type=int,
        default=FLOWN_ENTRIES,
        metavar="N",
        help=f"table entries of the image ring (default {FLOWN_ENTRIES})",
    )
    state.add_argument(
        "--quarantine-size",
        type=int,
        default=DEFAULT_LIMIT_BYTES,
        metavar="BYTES",
        help="room for failed batches, the oldest go first (default 256 MB)",
    )
    state.add_argument(
        "--status", type=Path, metavar="FILE", help="write a JSON status file every second"
    )
    state.add_argument(
        "--no-sync",
        action="store_true",
        help="survive kills but not power cuts; faster, for tests",
    )


def _link(options: argparse.Namespace) -> Link:
    """Make the link; the flown options win. Raises csp's MisuseError."""
    if options.interface is None and options.device is not None:
        options.interface = "ZMQ"
    if options.interface is not None:
        device = options.device or _DEFAULT_DEVICES[options.interface]
        if options.interface == "ZMQ":
            options.hub = device
        elif options.interface == "CAN":
            options.can = device
        else:
            options.kiss = f"{device}@{options.baud}"
    return open_link(options, promiscuous=True)


def make_config(options: argparse.Namespace) -> NodeConfig:
    """Turn parsed options into the node's configuration. Raises ContentError for a bad ring."""
    return NodeConfig(
        state_dir=options.state or default_state_dir("dipp"),
        address=options.address,
        netmask=options.netmask,
        version=options.csp_version,
        queue=options.queue,
        geometry=RingGeometry(entries=options.ring_entries, data_bytes=options.ring_size),
        quarantine_bytes=options.quarantine_size,
        max_attempts=options.attempts,
        module_dirs=tuple(options.modules),
        limits=Limits(
            workers=options.workers,
            standby=options.standby,
            keep_mb=options.keep_mb,
            huge_pages=not options.small_pages,
            max_hosts=options.max_hosts,
            host_memory_mb=options.host_memory_mb,
            module_memory_mb=options.module_memory_mb,
            max_processes=options.max_processes,
            module_user=options.module_user,
            skipped_rungs=tuple(options.without),
        ),
        durable=not options.no_sync,
        status_file=options.status,
    )


def run(options: argparse.Namespace) -> int:
    """Serve until told to stop, return the exit status.

    Raises DippError, CspError, OSError if it cannot start.
    """
    logging.basicConfig(level=logging.INFO, format="%(name)s: %(message)s")
    config = make_config(options)
    link = _link(options)
    forge = start_forge(adopts=True)
    loop = Loop()
    try:
        loop.install_signals()
        node = DippNode(loop, forge, config)
    except BaseException:  # boundary: whatever went wrong, the forge must not stay behind
        forge.close()
        loop.close()
        raise
    try:
        node.attach(link)
        _LOG.info("node %d, queue %s, state %s", config.address, config.queue, config.state_dir)
        loop.run()
    finally:
        _end(loop, node)
        loop.close()
    return loop.exit_status


def _end(loop: Loop, node: DippNode) -> None:
    try:
        if not loop.run_until(loop.scheduler.spawn(node.drain(), "drain")):
            _LOG.info("the current batch is left to the next start")
    except Cancelled:
        _LOG.info("stopped again while draining; the batch is left to the next start")
    loop.run_until(loop.scheduler.spawn(node.close(), "close"))
