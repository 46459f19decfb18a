"""Run a simulated node as a process: `python -m sim.nodes gnss|eps|a53|radio|link`. Driver.

All nodes of one payload get the same configuration, rate and `--start-monotonic`; then they agree
on mission time. Each runs until SIGTERM or SIGINT.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from csp.errors import CspError
from csp.files.folder import FtpFolder
from csp.guard import Guard
from csp.links.auth import open_guard
from csp.links.options import HubAddress, add_link_options, open_link
from csp.links.zmq import ZmqLink
from csp.loop import Loop
from dipp.errors import DippError
from sim import config
from sim.a53 import A53Node
from sim.box import ProcessBox
from sim.clock import MissionClock
from sim.eps import EpsNode
from sim.errors import ConfigError, SimError
from sim.figures import LinkAuthentication, NodeNumbers, PayloadConfig
from sim.gnss import GnssNode
from sim.link import LinkGuards, LinkNode
from sim.radio import RadioNode
from sim.simnode import SimNode
from sim.ticker import Ticker

_SUMMARIES = {
    "gnss": "GNSS receiver on the mission's orbit: position, time, NMEA sentences",
    "eps": "battery, solar panels and switched channels, fed by the orbit and the other nodes",
    "a53": "suspends and wakes the A53 and, with --box-pids, the processes that run on it",
    "radio": "keeps observations for downlink: mirrors the DIPP ring, serves it to the ground",
    "link": "the radio channel between the ground's hub and the spacecraft's",
}

_STATES = {
    "radio": "where the observation store lies",
    "link": "where an authenticated link keeps its stamps",
    "a53": "whose folder `files` csh's ftp commands read and write",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one node until it is told to stop. Returns the exit status, 1 with a reason on stderr."""
    options = _parser().parse_args(argv)
    name: str = options.node
    logging.basicConfig(level=logging.INFO, format=f"{name}: %(message)s", stream=sys.stderr)
    try:
        settings = config.load(options.config)
        settings = settings.with_mission(rate=options.rate, epoch_unix=options.epoch)
        if options.address == NodeNumbers().number(name):
            options.address = settings.nodes.number(name)
        elif options.address != settings.nodes.number(name):
            raise ConfigError(
                f"--address {options.address}, but the configuration has {name} at"
                f" {settings.nodes.number(name)}: the other nodes would not find it"
            )
        return _run(options, settings)
    except (SimError, CspError, DippError, OSError) as error:
        print(f"{name}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m sim.nodes",
        description="The simulated neighbours of DIPP and DISH, one process each.",
        epilog="Figures and node numbers come from the configuration: configs/payload.yaml.",
    )
    nodes = parser.add_subparsers(dest="node", required=True, metavar="NODE")
    for name, summary in _SUMMARIES.items():
        node = nodes.add_parser(name, help=summary, description=summary.capitalize() + ".")
        _add_common(node)
        add_link_options(node, address=NodeNumbers().number(name))
        if name == "a53":
            node.add_argument(
                "--box-pids", type=Path, metavar="FILE",
                help='JSON {"NAME": PID}: the processes of the A53, stopped while it sleeps',
            )  # fmt: skip
        if name in _STATES:
            node.add_argument(
                "--state", type=Path, metavar="DIR", help=f"{_STATES[name]} (default: per user)"
            )
        if name == "link":
            node.add_argument(
                "--ground-hub", required=True, metavar="HOST:SUB:PUB",
                help="the hub of the ground segment; --hub is the spacecraft's",
            )  # fmt: skip
            node.add_argument(
                "--windows", choices=config.WINDOWS,
                help="when there is contact (default: as configured)",
            )  # fmt: skip
            node.add_argument(
                "--stats", type=Path, metavar="FILE",
                help="write the counters as JSON to FILE in every update period",
            )  # fmt: skip
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--config", type=Path, metavar="FILE",
        help="payload configuration (default: the shipped one)",
    )  # fmt: skip
    parser.add_argument(
        "--start-monotonic", type=float, metavar="S",
        help="monotonic clock at the start of the mission (default: now)",
    )  # fmt: skip
    parser.add_argument(
        "--epoch", type=float, metavar="UNIX", help="mission time at the start, overriding the file"
    )
    parser.add_argument(
        "--rate", type=float, metavar="X", help="mission seconds per second, overriding the file"
    )


def _run(options: argparse.Namespace, settings: PayloadConfig) -> int:
    start = time.monotonic() if options.start_monotonic is None else options.start_monotonic
    clock = settings.clock(start)
    with ExitStack() as stack:
        # Forks its guard: before the loop has descriptors and ZMQ its threads.
        box = _box(options, stack)
        loop = Loop()
        stack.callback(loop.close)
        loop.install_signals()
        node = _make(options, settings, clock, loop, box)
        stack.callback(node.close)
        node.node.attach(open_link(options), netmask=options.netmask, default=True)
        loop.run()
        return loop.exit_status


def _box(options: argparse.Namespace, stack: ExitStack) -> ProcessBox | None:
    if options.node != "a53" or options.box_pids is None:
        return None
    return stack.enter_context(ProcessBox(options.box_pids))


def _make(
    options: argparse.Namespace,
    settings: PayloadConfig,
    clock: MissionClock,
    loop: Loop,
    box: ProcessBox | None,
) -> SimNode:
    version: int = options.csp_version
    store = options.state or _default_state("radio") if options.node == "radio" else Path()
    makers: dict[str, Callable[[], SimNode]] = {
        "gnss": lambda: GnssNode(loop, settings, clock, version=version),
        "eps": lambda: EpsNode(loop, settings, clock, version=version),
        "a53": lambda: A53Node(
            loop,
            settings,
            clock,
            box=box,
            version=version,
            files=FtpFolder((options.state or _default_state("a53")) / "files"),
        ),
        "radio": lambda: RadioNode(loop, settings, clock, directory=store, version=version),
        "link": lambda: _make_link(options, settings, clock, loop),
    }
    return makers[options.node]()


def _make_link(
    options: argparse.Namespace, settings: PayloadConfig, clock: MissionClock, loop: Loop
) -> LinkNode:
    if options.windows is not None:
        settings = settings.with_windows(options.windows)
    node = LinkNode(
        loop,
        settings,
        clock,
        ground=_listener(options.ground_hub, options, "GROUND"),
        space=_listener(options.hub, options, "SPACE"),
        version=options.csp_version,
        guards=_guards(settings.link.authentication, options),
    )
    if options.stats is not None:
        Ticker(loop.scheduler, settings.period_s, lambda now: _write(options.stats, node))
    return node


def _guards(wanted: LinkAuthentication, options: argparse.Namespace) -> LinkGuards:
    """Make the guards of both ends. Raises MisuseError for a bad key, OSError."""
    if wanted.key_file is None:
        return LinkGuards()
    state: Path = options.state or _default_state("link")

    key_file = wanted.key_file

    def guard(end: str) -> Guard:
        stamps = state / f"{end}.stamps" if wanted.replay_window else None
        return open_guard(key_file, stamps, options.csp_version)

    by_station = wanted.by == "station"
    return LinkGuards(space=guard("space"), station=guard("station") if by_station else None)


def _listener(hub: str, options: argparse.Namespace, name: str) -> ZmqLink:
    """Return a link that hears everything on a hub."""
    try:
        where = HubAddress.parse(hub)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    return ZmqLink(
        where.host,
        promiscuous=True,
        sub_port=where.sub_port,
        pub_port=where.pub_port,
        version=options.csp_version,
        key_file=options.key_file,
        name=name,
    )


def _write(path: Path, node: LinkNode) -> None:
    fresh = path.with_name(path.name + ".new")
    fresh.write_text(json.dumps(node.model.stats(), indent=1) + "\n", "ascii")
    fresh.replace(path)


def _default_state(node: str) -> Path:
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "payload" / node


if __name__ == "__main__":
    sys.exit(main())
