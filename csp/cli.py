"""The command `csp`: shell, hub, monitor. Driver.

Exit status 0 = did it, 1 = it failed (with a reason), 2 = wrong use.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from csp.errors import CspError, DecodeError

_SUMMARY = {
    "shell": "talk to nodes: ping, list, get, set, download, proc, ippc ... like csh",
    "hub": "forward frames between nodes on this or other machines (the zmqproxy)",
    "monitor": "show the traffic on a network, decoded",
    "help": "show this, or the options of a command",
}
_EPILOG = """\
examples:
  csp hub                            ports 6000 and 7000 on this machine
  csp shell                          a prompt on that hub
  csp shell -c "ping 162"            one command, then leave
  csp monitor --node 162             what node 162 says and hears

`csp COMMAND --help` lists the options of a command.
"""


def _main_parser() -> argparse.ArgumentParser:
    width = max(map(len, _SUMMARY))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, text in _SUMMARY.items())
    return argparse.ArgumentParser(
        prog="csp",
        usage="csp COMMAND [options]",
        description=f"CubeSat Space Protocol tools.\n\ncommands:\n{commands}",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]
    if not words or words[0] not in _COMMANDS:
        parser = _main_parser()
        if words and words[0] not in ("-h", "--help"):
            parser.error(f"unknown command {words[0]!r}; there are {', '.join(_SUMMARY)}")
        parser.print_help()
        return 0 if words else 2
    parser = argparse.ArgumentParser(
        prog=f"csp {words[0]}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    prepare, run = _COMMANDS[words[0]]()
    prepare(parser)
    try:
        return run(parser.parse_args(words[1:]))
    except (CspError, OSError) as error:
        print(f"csp {words[0]}: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 0


Command = tuple[Callable[[argparse.ArgumentParser], None], Callable[[argparse.Namespace], int]]


def _shell() -> Command:
    from csp.shell.main import add_parser, run

    return add_parser, run


# -- hub


def _prepare_hub(parser: argparse.ArgumentParser) -> None:
    parser.description = "Forward every frame a node publishes to all nodes that subscribed to it."
    parser.add_argument(
        "--host",
        default="127.0.0.1",
        metavar="ADDRESS",
        help="interface to listen on (default 127.0.0.1; '*' for all: everybody there may command)",
    )
    parser.add_argument(
        "-S", "--sub-port", type=int, metavar="PORT", help="nodes publish to it (default 6000)"
    )
    parser.add_argument(
        "-P", "--pub-port", type=int, metavar="PORT", help="nodes subscribe at it (default 7000)"
    )
    parser.add_argument(
        "-a",
        "--key-file",
        type=Path,
        metavar="FILE",
        help="encrypt with this CURVE key (40 Z85 characters) on ports 6001 and 7001",
    )


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run_hub(options: argparse.Namespace) -> int:
    from csp.hub import run_hub

    # The proxy is inside libzmq: a signal has to break it, there is no loop to tell.
    previous = signal.signal(signal.SIGTERM, _interrupt)
    try:
        run_hub(
            options.host,
            options.sub_port,
            options.pub_port,
            options.key_file,
            started=lambda publish, subscribe: print(
                f"hub on {options.host}: nodes publish to port {publish}, subscribe at {subscribe}",
                flush=True,
            ),
        )
    finally:
        signal.signal(signal.SIGTERM, previous)
    return 0


def _hub() -> Command:
    return _prepare_hub, _run_hub


# -- monitor


def _prepare_monitor(parser: argparse.ArgumentParser) -> None:
    from csp.links.options import add_link_options

    parser.description = "Show every frame on a network until interrupted."
    parser.add_argument("--node", type=int, metavar="NODE", help="only what it sends or receives")
    parser.add_argument("--port", type=int, metavar="PORT", help="only traffic of this service")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    add_link_options(parser, address=0)


def _run_monitor(options: argparse.Namespace) -> int:
    from csp.links.options import open_link
    from csp.loop import Loop

    loop = Loop()
    link = open_link(options, promiscuous=True)
    monitor = _Monitor(options, loop.stop)
    try:
        link.open(loop, monitor.show)
        loop.install_signals()
        if options.duration is not None:
            loop.scheduler.call_later(options.duration, loop.stop)
        loop.run()
    finally:
        link.close()
        loop.close()
    return 0


class _Monitor:
    """Prints the frames that the options select."""

    def __init__(self, options: argparse.Namespace, stop: Callable[[], None]) -> None:
        self._options = options
        self._stop = stop
        self._shown = 0

    def show(self, frame: bytes) -> None:
        from csp import monitor
        from csp.packet import decode_frame

        options = self._options
        if options.count is not None and self._shown >= options.count:
            return
        try:
            packet = decode_frame(frame, options.csp_version)
        except DecodeError as error:
            self._print({"error": str(error), "data": frame.hex()}, f"bad frame: {error}")
            return
        if options.node is not None and options.node not in (packet.src, packet.dst):
            return
        if options.port is not None and options.port != monitor.service_port(packet):
            return
        self._print(monitor.as_record(packet), monitor.describe(packet))

    def _print(self, record: dict[str, object], line: str) -> None:
        now = time.time()
        if self._options.json:
            print(json.dumps({"time": round(now, 6), **record}), flush=True)
        else:
            clock = time.strftime("%H:%M:%S", time.localtime(now))
            print(f"{clock}.{int(now % 1 * 1000):03d} {line}", flush=True)
        self._shown += 1
        if self._options.count is not None and self._shown >= self._options.count:
            self._stop()


def _monitor() -> Command:
    return _prepare_monitor, _run_monitor


_COMMANDS: dict[str, Callable[[], Command]] = {
    "shell": _shell,
    "hub": _hub,
    "monitor": _monitor,
}


if __name__ == "__main__":
    sys.exit(main())
