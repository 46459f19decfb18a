"""Coverage-guided fuzzing of the pure decoders with atheris, which is optional.

    pip install atheris; python -m tools.fuzz_decoders [DECODER ...] [--runs N] [--seed S]

Each decoder may return or raise this project's named errors; anything else is reported with the
input that did it, and so is a single input that takes long. All decoders are run, also after one
that failed; exit status 1 then. Exit status 0 also where atheris is missing: then it says so and
does nothing.
"""

from __future__ import annotations

import argparse
import importlib
import re
import subprocess
import sys
import time
from contextlib import suppress

# Of one input; the slowest decoder takes a few milliseconds.
_INPUT_TIMEOUT_S = 5
# Of one decoder. On a loaded machine a decoder may end before its number of runs, and says so.
_DECODER_TIMEOUT_S = 600
_DONE = re.compile(r"Done (\d+) runs")
_COVERED = re.compile(r"cov: (\d+)")


def check(name: str, data: bytes) -> None:
    """Decode once; only named errors are swallowed."""
    table = importlib.import_module("tools.fuzz_table")
    with suppress(*table.NAMED):
        table.DECODERS[name](data)


def _fuzz(name: str, runs: int, seed: int, seconds: int) -> None:
    """Fuzz one decoder until atheris ends this process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["csp", "dipp", "dish", "sim.tle", "sim.camera"]):
        table = importlib.import_module("tools.fuzz_table")
    decoder, named = table.DECODERS[name], table.NAMED

    def once(data: bytes) -> None:
        with suppress(*named):
            decoder(data)

    words = [
        f"-runs={runs}", f"-seed={seed}", "-max_len=512", f"-timeout={_INPUT_TIMEOUT_S}",
        "-artifact_prefix=/dev/null", f"-max_total_time={seconds}",
    ]  # fmt: skip
    atheris.Setup([sys.argv[0], *words], once)
    atheris.Fuzz()


def _report(name: str, options: argparse.Namespace) -> bool:
    """Fuzz one decoder in a process of its own, because atheris ends the one it runs in."""
    words = [
        name, "--here", "--runs", str(options.runs), "--seed", str(options.seed),
        "--seconds", str(options.seconds),
    ]  # fmt: skip
    started = time.monotonic()
    ended = subprocess.run(
        [sys.executable, "-m", "tools.fuzz_decoders", *words],
        capture_output=True, text=True, check=False, errors="replace",
    )  # fmt: skip
    if ended.returncode:
        print(f"{name}: failed\n{ended.stdout[-1000:]}{ended.stderr[-3000:]}", file=sys.stderr)
        return False
    done, covered = _DONE.findall(ended.stderr), _COVERED.findall(ended.stderr)
    print(
        f"{name}: {done[-1] if done else '?'} inputs in {time.monotonic() - started:.0f} s,"
        f" {covered[-1] if covered else '?'} places of the code reached",
        flush=True,
    )
    return True


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz_decoders", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("decoders", nargs="*", metavar="DECODER", help="default: all")
    parser.add_argument("--runs", type=int, default=200_000, metavar="N", help="per decoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument(
        "--seconds", type=int, default=_DECODER_TIMEOUT_S, metavar="S",
        help="per decoder, at most (default %(default)s)",
    )  # fmt: skip
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        importlib.import_module("atheris")
    except ImportError as error:
        print(f"skipped: {error}; `pip install atheris` to have coverage-guided fuzzing")
        return 0
    if options.here:
        _fuzz(options.decoders[0], options.runs, options.seed, options.seconds)
        return 0
    names = importlib.import_module("tools.fuzz_table").DECODERS
    unknown = set(options.decoders) - set(names)
    if unknown:
        parser.error(f"no such decoder: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    failed = [name for name in options.decoders or names if not _report(name, options)]
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
