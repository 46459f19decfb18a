"""`csp monitor`: decoded traffic, live from a network or from a file it wrote. Driver."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from csp.errors import DecodeError, MisuseError
from csp.guard import Guard, VolatileStamps
from csp.links.auth import load_key
from csp.links.options import add_link_options, open_link
from csp.links.zmq import ZmqLink
from csp.loop import Loop
from csp.monitor import Decoder, service_port, without_authentication
from csp.names import ParamNames
from csp.packet import decode_frame
from csp.pcapng import LINK_TYPE, CaptureWriter, read_capture
from csp.sched import Promise


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
    if options.write is not None and options.read is not None and _is_same(options):
        raise MisuseError(f"--write would empty {options.read}, which --read is to show")
    try:
        return _run(options)
    except BrokenPipeError:
        # Whoever read our output has seen enough, as `head` does. Nothing may be flushed to it.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _is_same(options: argparse.Namespace) -> bool:
    write, read = Path(options.write), Path(options.read)
    return write.exists() and read.exists() and write.samefile(read)


def _run(options: argparse.Namespace) -> int:
    names = ParamNames()
    if options.lists is not None and options.lists.exists():
        names.load_json(options.lists.read_text("utf-8"))
    known = len(names)
    try:
        with ExitStack() as stack:
            monitor = Monitor(options, Decoder(names), _guards(options))
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
    # A monitor answers nobody and refuses nothing: the key is for looking only.
    plain = argparse.Namespace(**{**vars(options), "hmac_key": None, "replay_window": None})
    link = open_link(plain, promiscuous=True)
    if isinstance(link, ZmqLink):
        place = link.place
        link.ready.on_done(lambda: _warn(link.ready, place))
    try:
        link.open(loop, lambda frame: monitor.show(frame, time.time(), options.csp_version))
        loop.install_signals()
        if options.duration is not None:
            loop.scheduler.call_later(options.duration, loop.stop)
        loop.run()
    finally:
        link.close()
        loop.close()


def _warn(ready: Promise[bool], place: str) -> None:
    if not ready.result():
        print(
            f"csp monitor: no hub answers at {place}; `csp hub` or `payload up` starts one",
            file=sys.stderr,
        )


def _guards(options: argparse.Namespace) -> tuple[Guard, ...]:
    """Return what can tell whether a packet is authentic, in either form."""
    if options.hmac_key is None:
        return ()
    key = load_key(options.hmac_key)
    return tuple(
        Guard(key, version=options.csp_version, stamps=stamps)
        for stamps in (None, VolatileStamps())
    )


class Monitor:
    """Prints, and writes to `output` if that is set, the frames that the options select."""

    def __init__(
        self, options: argparse.Namespace, decoder: Decoder, guards: Sequence[Guard] = ()
    ) -> None:
        self._guards = guards
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
        packet, proof = without_authentication(packet, self._guards)
        # Decoded before it is chosen: lists and requests tell what later packets mean.
        if self._options.json:
            record, line = self._decoder.as_record(packet), ""
            if proof:
                record["authentication"] = proof
        else:
            record, line = {}, self._decoder.describe(packet) + (f"  [{proof}]" if proof else "")
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
