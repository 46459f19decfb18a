"""`csp monitor`: decoded traffic, live from a network or from a file it wrote. Driver."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from csp.errors import DecodeError
from csp.links.options import add_link_options, open_link
from csp.loop import Loop
from csp.monitor import Decoder, service_port
from csp.names import ParamNames
from csp.packet import decode_frame
from csp.pcapng import LINK_TYPE, CaptureWriter, read_capture


def add_parser(parser: argparse.ArgumentParser) -> None:
    """Add the options of the monitor."""
    parser.description = "Show every frame on a network until interrupted, or those in a file."
    parser.add_argument("--node", type=int, metavar="NODE", help="only what it sends or receives")
    parser.add_argument("--port", type=int, metavar="PORT", help="only traffic of this service")
    parser.add_argument("--count", type=int, metavar="N", help="stop after N frames")
    parser.add_argument("--duration", type=float, metavar="S", help="stop after S seconds")
    parser.add_argument("--json", action="store_true", help="one JSON object per line")
    files = parser.add_argument_group("files")
    files.add_argument(
        "--write",
        type=Path,
        metavar="FILE",
        help=f"also write what is shown as pcapng (link type {LINK_TYPE}, USER0: CSP frames)",
    )
    files.add_argument("--read", type=Path, metavar="FILE", help="show a file instead of a network")
    files.add_argument(
        "--lists",
        type=Path,
        metavar="FILE",
        help="names of parameters; those learned from lists on the way are added to it",
    )
    add_link_options(parser, address=0)


def run(options: argparse.Namespace) -> int:
    """Monitor until told to stop. Raises CspError, OSError."""
    names = ParamNames()
    if options.lists is not None and options.lists.exists():
        names.load_json(options.lists.read_text("utf-8"))
    known = len(names)
    try:
        with ExitStack() as stack:
            monitor = Monitor(options, Decoder(names))
            if options.write is not None:
                monitor.output = stack.enter_context(options.write.open("wb", buffering=0))
            if options.read is not None:
                _read(options, monitor)
            else:
                monitor.begin(options.csp_version)
                _listen(options, monitor)
    finally:
        if options.lists is not None and len(names) > known:
            options.lists.write_text(names.to_json() + "\n", "utf-8")
    return 0


def _read(options: argparse.Namespace, monitor: Monitor) -> None:
    with options.read.open("rb") as stream:
        for captured in read_capture(stream):
            # A file says itself which version it holds.
            monitor.begin(captured.version)
            monitor.show(captured.frame, captured.time_s, captured.version)
            if monitor.done:
                return


def _listen(options: argparse.Namespace, monitor: Monitor) -> None:
    loop = Loop()
    monitor.stop = loop.stop
    link = open_link(options, promiscuous=True)
    try:
        link.open(loop, lambda frame: monitor.show(frame, time.time(), options.csp_version))
        loop.install_signals()
        if options.duration is not None:
            loop.scheduler.call_later(options.duration, loop.stop)
        loop.run()
    finally:
        link.close()
        loop.close()


class Monitor:
    """Prints, and writes to `output` if that is set, the frames that the options select."""

    def __init__(self, options: argparse.Namespace, decoder: Decoder) -> None:
        self.output: BinaryIO | None = None
        self._capture: CaptureWriter | None = None
        self.stop: Callable[[], None] = lambda: None
        self._options = options
        self._decoder = decoder
        self._shown = 0

    @property
    def done(self) -> bool:
        """Whether as many frames were shown as wanted."""
        return self._options.count is not None and self._shown >= self._options.count

    def begin(self, version: int) -> None:
        """Write the head of the output, once there is one and it has none."""
        if self.output is not None and self._capture is None:
            self._capture = CaptureWriter(self.output, version)

    def show(self, frame: bytes, time_s: float, version: int) -> None:
        """Take a frame seen at `time_s` (Unix seconds)."""
        if self.done:
            return
        try:
            packet = decode_frame(frame, version)
        except DecodeError as error:
            record: dict[str, object] = {"error": str(error), "data": frame.hex()}
            self._put(frame, time_s, record, f"bad frame: {error}")
            return
        # Decoded before it is chosen: lists and requests tell what later packets mean.
        if self._options.json:
            record, line = self._decoder.as_record(packet), ""
        else:
            record, line = {}, self._decoder.describe(packet)
        node, port = self._options.node, self._options.port
        if node is not None and node not in (packet.src, packet.dst):
            return
        if port is not None and port != service_port(packet):
            return
        self._put(frame, time_s, record, line)

    def _put(self, frame: bytes, time_s: float, record: dict[str, object], line: str) -> None:
        if self._capture is not None:
            self._capture.write(time_s, frame)
        if self._options.json:
            print(json.dumps({"time": round(time_s, 6), **record}), flush=True)
        else:
            clock = time.strftime("%H:%M:%S", time.localtime(time_s))
            print(f"{clock}.{int(time_s % 1 * 1000):03d} {line}", flush=True)
        self._shown += 1
        if self.done:
            self.stop()
