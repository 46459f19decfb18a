"""The command `dish`: serve a node, assemble, disassemble, verify. Driver.

Exit status 0 = did it, 1 = it failed (with a reason), 2 = wrong use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from csp.errors import CspError
from dish.errors import DishError
from dish.plan.cli import add_compile, add_explain
from dish.plan.plugins import add_plugins
from dish.profile import PROFILES
from dish.request import ENGINES
from dish.sign import add_sign
from dish.values import Mode
from dish.verify_cli import add_verify

if TYPE_CHECKING:
    from dish.node import DishConfig

_EPILOG = """\
examples:
  dish serve                              node 4 on the hub of this machine
  dish serve --gnss 9 --a53 161           with a receiver and a processor to wake
  dish asm plan.csh -o plan.bin           the bytes of the procedure in a script of `proc` lines
  dish dis plan.bin --slot 42             and back
  dish sign -k ops.key plan.csh           lines for a csh, if the node takes only what is signed
  dish verify plan.csh                    everything that is wrong with it, before it flies

`dish COMMAND --help` lists the options of a command.
"""


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="dish",
        description="Flight plans: stored procedures and the node that runs them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _add_serve, add_compile, add_explain, _add_asm, _add_dis, add_sign, add_verify, add_plugins,
    ):  # fmt: skip
        add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words == ["help"] or not words:
        _parser().print_help()
        return 0 if words else 2
    options = _parser().parse_args([*words[1:], "--help"] if words[0] == "help" else words)
    run: Callable[[argparse.Namespace], int] = options.run
    try:
        return run(options)
    except (DishError, CspError) as error:
        _complain(str(error))
    except OSError as error:
        _complain(f"{error.filename or 'error'}: {error.strerror}")
    return 1


def _complain(text: str) -> None:
    print(f"dish: {text}", file=sys.stderr)


def _add_serve(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    from csp.links.options import add_link_options
    from dish.node import ADDRESS

    parser = commands.add_parser(
        "serve",
        help="run a DISH node",
        description="Store and run procedures, each in a process of its own, until SIGTERM.",
    )
    parser.set_defaults(run=_serve)
    parser.add_argument(
        "--profile", choices=sorted(PROFILES), default="m7", help="limits (default m7, the board's)"
    )
    parser.add_argument(
        "--mode",
        choices=[mode.value for mode in Mode],
        default=Mode.STRICT.value,
        help="semantics where flight deviates from good sense (default strict)",
    )
    parser.add_argument("--engine", choices=ENGINES, default=ENGINES[1], help="how to execute")
    parser.add_argument(
        "--budget", type=int, default=0, metavar="N", help="instructions per run (default no limit)"
    )
    parser.add_argument(
        "--state", type=Path, metavar="DIR", help="keep pushed procedures here (default: memory)"
    )
    parser.add_argument("--gnss", type=int, default=0, metavar="NODE", help="node of the GNSS")
    parser.add_argument("--a53", type=int, default=0, metavar="NODE", help="node of the A53 power")
    parser.add_argument("--eps", type=int, default=0, metavar="NODE", help="node of the EPS")
    parser.add_argument(
        "--power", metavar="MODULE:FACTORY",
        help="power model of the spacecraft, such as sim.forecast:model; see `power_reserve`",
    )  # fmt: skip
    parser.add_argument(
        "--power-option", action="append", default=[], metavar="KEY=VALUE",
        help="given to the power model; may be repeated",
    )  # fmt: skip
    parser.add_argument(
        "--no-heap",
        action="store_true",
        help="do not refuse what the board's heap would have no room for (profile m7)",
    )
    add_link_options(parser, address=ADDRESS)


def _serve(options: argparse.Namespace) -> int:
    from dish.node import DishConfig, DishNode, prepare

    profile = PROFILES[options.profile]
    config = DishConfig(
        address=options.address,
        profile=replace(profile, heap_bytes=0) if options.no_heap else profile,
        mode=Mode(options.mode),
        engine=options.engine,
        budget=options.budget,
        state=options.state,
        gnss=options.gnss,
        a53=options.a53,
        eps=options.eps,
        version=options.csp_version,
    )
    # The forge comes first: what is imported and opened below is nothing for its children.
    prepared = prepare(config)
    from csp.links.options import open_link
    from csp.links.zmq import ZmqLink
    from csp.loop import Loop

    if options.power is not None:
        from dish.power.plugin import load_model, options_of

        model = load_model(options.power, options_of(options.power_option))
        config = replace(config, power=model)
    loop = Loop()
    loop.install_signals()
    try:
        node = DishNode(loop, config, prepared, reboot=loop.reboot)
    except BaseException:
        prepared.forge.close()
        loop.close()
        raise
    try:
        link = open_link(options)
        node.attach(link)
        # Said when packets can arrive, so that whoever waits for the line may send the next moment.
        if isinstance(link, ZmqLink):
            link.ready.on_done(lambda: _announce(config))
        else:
            _announce(config)
        loop.run()
    finally:
        node.close()
        loop.close()
    return loop.exit_status


def _announce(config: DishConfig) -> None:
    print(f"dish node {config.address}, profile {config.profile.name}", flush=True)


def _add_asm(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "asm",
        help="turn a script of `proc` lines into bytes",
        description="Assemble the procedures of a script. Errors name line and column.",
    )
    parser.set_defaults(run=_asm)
    parser.add_argument("script", type=Path, help="file with proc lines, - for standard input")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="bytes of the procedure")
    parser.add_argument(
        "--slot", type=int, metavar="SLOT", help="which procedure, if the script pushes several"
    )
    parser.add_argument("--node", type=int, default=0, help="node of instructions without one")


def _asm(options: argparse.Namespace) -> int:
    from dish.asm import assemble
    from dish.program import encode

    listings = assemble(_read_text(options.script), options.node)
    if options.slot is not None:
        listings = tuple(listing for listing in listings if listing.slot == options.slot)
    if not listings:
        _complain("there is no such procedure in the script")
        return 1
    if options.output is not None:
        if len(listings) != 1:
            _complain(f"{len(listings)} procedures: choose one with --slot")
            return 1
        options.output.write_bytes(encode(listings[0].procedure))
        return 0
    for listing in listings:
        slot = "-" if listing.slot is None else str(listing.slot)
        raw = encode(listing.procedure)
        print(f"slot {slot}: {len(listing.procedure)} instructions, {len(raw)} bytes: {raw.hex()}")
    return 0


def _read_text(path: Path) -> str:
    if str(path) == "-":
        return sys.stdin.buffer.read().decode("utf-8", "surrogateescape")
    return path.read_bytes().decode("utf-8", "surrogateescape")


def _add_dis(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "dis",
        help="turn bytes into a script of `proc` lines",
        description="Disassemble a procedure. The script assembles to the same bytes.",
    )
    parser.set_defaults(run=_dis)
    parser.add_argument("file", type=Path, help="bytes of a procedure, - for standard input")
    parser.add_argument("--hex", action="store_true", help="the file holds hexadecimal text")
    parser.add_argument("--slot", type=int, metavar="SLOT", help="end with `proc push SLOT`")


def _dis(options: argparse.Namespace) -> int:
    from dish.asm import disassemble
    from dish.program import decode

    data = sys.stdin.buffer.read() if str(options.file) == "-" else options.file.read_bytes()
    if options.hex:
        try:
            data = bytes.fromhex(data.decode("ascii", "replace"))
        except ValueError:
            _complain(f"{options.file} is not hexadecimal")
            return 1
    text = disassemble(decode(data), options.slot)
    sys.stdout.buffer.write(text.encode("utf-8", "surrogateescape"))
    sys.stdout.flush()
    return 0


if __name__ == "__main__":
    sys.exit(main())
