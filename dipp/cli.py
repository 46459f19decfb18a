"""The command `dipp`: serve, run, faults, soak, check. Driver.

Exit status 0 = did it, 1 = the thing was bad (with a reason), 2 = wrong use.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from csp.errors import CspError
from dipp.errors import DippError

# Command, the module with its `add_parser` and `run`, what it does.
_COMMANDS = {
    "serve": ("dipp.serve", "the daemon: batches from the queue, results into the ring"),
    "run": ("dipp.runfiles", "run a pipeline over picture files, without a network"),
    "archive": ("dipp.archive.cli", "run a pipeline over thousands of files, here or on a cluster"),
    "faults": ("dipp.faults.cli", "inject the fault catalogue and see that nothing comes of it"),
    "soak": ("dipp.soak.cli", "load and random faults for as long as told"),
    "check": ("dipp.check", "qualify a module before it is uplinked"),
    "sign": ("dipp.sign", "a signed configuration as a line for a stock csh"),
    "bridge": ("dipp.bridge", "batches of the original camera (System V) to DIPP's queue"),
}


def _main_parser() -> argparse.ArgumentParser:
    width = max(map(len, _COMMANDS))
    commands = "\n".join(f"  {name:<{width}}  {text}" for name, (_, text) in _COMMANDS.items())
    return argparse.ArgumentParser(
        prog="dipp",
        usage="dipp COMMAND [options]",
        description=f"Image pipelines on a satellite.\n\ncommands:\n{commands}",
        epilog="`dipp COMMAND --help` lists the options of a command.",
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
            parser.error(f"unknown command {words[0]!r}; there are {', '.join(_COMMANDS)}")
        parser.print_help()
        return 0 if words else 2
    # Imported here, so that no command pays for the libraries of another one.
    command = importlib.import_module(_COMMANDS[words[0]][0])
    parser = argparse.ArgumentParser(prog=f"dipp {words[0]}")
    command.add_parser(parser)
    try:
        return int(command.run(parser.parse_args(words[1:])))
    except (DippError, CspError, OSError) as error:
        print(f"dipp {words[0]}: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
