"""The command `payload`: up, demo, status. Exit status 0 = did it, 1 = it failed, 2 = wrong use."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from csp.errors import CspError
from dipp.errors import DippError
from sim.errors import SimError
from sim.payload.fleet import FleetError

_EPILOG = """\
examples:
  payload demo                       fly the demo mission, write out/demo/report.html
  payload up --shell                 the whole payload, with a shell on it
  payload up                         ... and talk to it from elsewhere: csp shell --hub HUB
  payload status --hub HUB           one page of what every node says

`payload COMMAND --help` lists the options of a command.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="payload",
        description="The whole emulated payload: camera, DIPP, DISH, A53, EPS, GNSS and radio.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    demo = commands.add_parser("demo", help="fly the scripted mission and write its report")
    _add_common(demo)
    demo.add_argument("--out", type=Path, default=Path("out/demo"), metavar="DIR",
                      help="where report, summary and pictures go (default out/demo)")  # fmt: skip
    demo.add_argument("--captures", type=int, default=4, metavar="N",
                      help="how often the plan takes pictures (default 4)")  # fmt: skip
    demo.add_argument("--auroras", type=int, default=3, metavar="N",
                      help="observations of Mars after them (default 3)")  # fmt: skip
    demo.add_argument("--json", action="store_true", help="print the summary as JSON")
    demo.set_defaults(run=_demo, rate=60.0)
    up = commands.add_parser("up", help="start everything and keep it running")
    _add_common(up)
    up.add_argument("--shell", action="store_true", help="give a shell behind the radio link")
    up.set_defaults(run=_up)
    status = commands.add_parser("status", help="one page of what every node says")
    status.add_argument("--hub", required=True, metavar="HOST[:SUB:PUB]", help="as `up` prints it")
    status.add_argument("--config", type=Path, metavar="FILE", help="payload configuration")
    status.add_argument("--watch", type=float, metavar="S", help="repeat every S seconds")
    status.add_argument("--json", action="store_true", help="print JSON")
    status.set_defaults(run=_status)
    return parser


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--config", type=Path, metavar="FILE",
                        help="payload configuration (default: the shipped one)")  # fmt: skip
    parser.add_argument("--state", type=Path, metavar="DIR",
                        help="state of the nodes (default: a new temporary folder)")  # fmt: skip
    parser.add_argument("--rate", type=float, metavar="X",
                        help="mission seconds per real second (demo: 60)")  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words == ["help"]:
        _parser().print_help()
        return 0 if words else 2
    options = _parser().parse_args(words)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (FleetError, CspError, SimError, DippError, OSError) as error:
        print(f"payload: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1


def _with_state(options: argparse.Namespace, body: Callable[[Path], int]) -> int:
    if options.state is not None:
        return body(options.state.absolute())
    with tempfile.TemporaryDirectory(prefix="payload-") as folder:
        return body(Path(folder))


def _demo(options: argparse.Namespace) -> int:
    from sim.payload.demo import fly

    return _with_state(options, lambda state: fly(options, state))


def _up(options: argparse.Namespace) -> int:
    return _with_state(options, lambda state: _run_up(options, state))


def _run_up(options: argparse.Namespace, state: Path) -> int:
    from sim.payload import up

    layout = up.make_layout(state, options.config, options.rate)
    with up.running(layout, say=print) as payload:
        print(f"ground hub {payload.ground_hub}, space hub {payload.space_hub}, state {state}")
        if not options.shell:
            print(f"csp shell --hub {payload.ground_hub}      Ctrl-C ends everything", flush=True)
            return up.wait_for_end(payload)
        from csp.shell.app import run_interactive

        with up.session_on(payload.ground_hub, layout.settings.nodes.ground) as session:
            return run_interactive(session)


def _status(options: argparse.Namespace) -> int:
    from sim.payload.status import show

    return show(options)


if __name__ == "__main__":
    sys.exit(main())
