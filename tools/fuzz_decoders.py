"""Coverage-guided fuzzing of the pure decoders with atheris, which is optional.

    pip install atheris; python -m tools.fuzz_decoders [DECODER ...] [--runs N] [--seed S]

Each decoder may return or raise this project's named errors; anything else stops the run with the
input that did it. Exit status 0 also where atheris is missing: then it says so and does nothing.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress

Decoder = Callable[[bytes], object]


def _decoders() -> dict[str, Decoder]:
    from csp import cfp, cmp, framing, monitor, packet, pcapng, rdp_wire
    from csp.files import wire as files_wire
    from csp.param import codec, entry
    from csp.vmem import wire as vmem_wire
    from dipp import dtp, message, metadata
    from dish import program

    def can(data: bytes) -> None:
        for version in (1, 2):
            reassembler = cfp.Reassembler(version)
            for at in range(0, len(data), 12):
                can_id = int.from_bytes(data[at : at + 4], "big")
                reassembler.feed(can_id, data[at + 4 : at + 12], 0.0)

    def capture(data: bytes) -> None:
        from io import BytesIO

        list(pcapng.read_capture(BytesIO(data)))

    def shown(data: bytes) -> None:
        monitor.Decoder().describe(packet.decode_frame(data + bytes(6)))

    return {
        "frame1": lambda data: packet.decode_frame(data, 1),
        "frame2": lambda data: packet.decode_frame(data, 2),
        "kiss": lambda data: framing.KissDecoder().feed(data),
        "can": can,
        "rdp": rdp_wire.decode_segment,
        "syn": lambda data: rdp_wire.RdpOptions.decode(data).bounded(),
        "ident": cmp.Ident.decode,
        "queue1": lambda data: codec.decode_queue(data, 1, has_values=True),
        "queue2": lambda data: codec.decode_queue(data, 2, has_values=True),
        "entry": entry.decode_entry,
        "vmem": vmem_wire.decode_request,
        "files": files_wire.decode_request,
        "capture": capture,
        "monitor": shown,
        "dtp": dtp.decode_dtp_request,
        "message": message.decode_message,
        "metadata": metadata.Metadata.decode,
        "procedure": lambda data: program.decode(data, 255),
    }


NAMES = (
    "frame1", "frame2", "kiss", "can", "rdp", "syn", "ident", "queue1", "queue2", "entry", "vmem",
    "files", "capture", "monitor", "dtp", "message", "metadata", "procedure",
)  # fmt: skip


def check(name: str, data: bytes) -> None:
    """Decode once; only named errors are swallowed."""
    from csp.errors import CspError
    from dipp.errors import DippError
    from dish.errors import DishError

    with suppress(CspError, DippError, DishError):
        _decoders()[name](data)


def _fuzz(name: str, runs: int, seed: int) -> None:
    """Fuzz one decoder until atheris ends this process."""
    atheris = importlib.import_module("atheris")
    with atheris.instrument_imports(include=["csp", "dipp", "dish"]):
        decoder = _decoders()[name]
    from csp.errors import CspError
    from dipp.errors import DippError
    from dish.errors import DishError

    def once(data: bytes) -> None:
        with suppress(CspError, DippError, DishError):
            decoder(data)

    atheris.Setup([sys.argv[0], f"-runs={runs}", f"-seed={seed}", "-max_len=512"], once)
    atheris.Fuzz()


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz_decoders", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("decoders", nargs="*", metavar="DECODER", help=f"of {', '.join(NAMES)}")
    parser.add_argument("--runs", type=int, default=200_000, metavar="N", help="per decoder")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try:
        importlib.import_module("atheris")
    except ImportError as error:
        print(f"skipped: {error}; `pip install atheris` to have coverage-guided fuzzing")
        return 0
    if options.here:
        _fuzz(options.decoders[0], options.runs, options.seed)
        return 0
    for name in options.decoders or NAMES:
        # Atheris ends the process it runs in: one each.
        words = [name, "--here", "--runs", str(options.runs), "--seed", str(options.seed)]
        ended = subprocess.run(
            [sys.executable, "-m", "tools.fuzz_decoders", *words],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if ended.returncode:
            print(f"{name}: failed\n{ended.stderr[-3000:]}", file=sys.stderr)
            return 1
        print(f"{name}: {options.runs} inputs", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
