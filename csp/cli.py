"""The command `csp`: shell, hub, monitor, keys. Driver.

Exit status 0 = did it, 1 = it failed (with a reason), 2 = wrong use.
"""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

from csp.errors import CspError

_SUMMARY = {
    "shell": "talk to nodes: ping, list, get, set, download, proc, ippc ... like csh",
    "hub": "forward frames between nodes on this or other machines (the zmqproxy)",
    "monitor": "show the traffic on a network, decoded",
    "keys": "make, show, trust and revoke the keys that sign files and configurations",
    "help": "show this, or the options of a command",
}
_EPILOG = """\
examples:
  csp hub                            ports 6000 and 7000 on this machine
  csp shell                          a prompt on that hub
  csp shell -c "ping 162"            one command, then leave
  csp monitor --node 162             what node 162 says and hears
  csp monitor --write pass.pcapng    keep it; `csp monitor --read pass.pcapng` shows it again

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


def _monitor() -> Command:
    from csp.monitor_cli import add_parser, run

    return add_parser, run


def _keys() -> Command:
    from csp.keys_cli import add_parser, run

    return add_parser, run


_COMMANDS: dict[str, Callable[[], Command]] = {
    "shell": _shell,
    "hub": _hub,
    "monitor": _monitor,
    "keys": _keys,
}


if __name__ == "__main__":
    sys.exit(main())
