"""Feed random and mutated frames into a node and see that it stays as it was.

    python -m tools.fuzz_frames [NODE ...] [--count N] [--seed S] [--csp-version 1|2]

The same seed gives the same frames. Seeds of the mutations are the recorded sessions of real
shells in `tests/interop/recordings`. Handshakes that the node answers are completed, so that
mutated requests also reach what listens behind RDP. After each round the node must answer ping,
must have raised nothing and, left alone for a while, must be as small as after the first round:
connections, timers, Python objects, memory, descriptors, files. Exit status 1 says what was not so.
"""

from __future__ import annotations

import argparse
import gc
import json
import logging
import os
import random
import sys
import tempfile
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path

from csp.connection import MAX_CONNECTIONS
from csp.ftp import FTP_PORT, Action, FtpRequest
from csp.interface import Interface
from csp.packet import CRC_BYTES, HEADER_BYTES, Flag, Packet, decode_frame, encode_frame
from csp.rdp_wire import ACK, RST, SYN, RdpOptions, Segment, decode_segment
from csp.sched import Scheduler
from csp.sfp import encode_fragments
from csp.testing import random_frame
from tools.fuzz_nodes import MAKERS, Target

_LOG = logging.getLogger("fuzz")
_RECORDINGS = Path(__file__).parents[1] / "tests" / "interop" / "recordings"
# Rounds are this long at most, and there are four of them at least.
_ROUND_FRAMES = 20_000
_MIN_ROUNDS = 4
# What may differ between two moments of rest: caches that fill up to their own limits.
_MAX_OBJECT_GROWTH = 20_000
# In a process that has done much else before, the C library itself moves by more than 8 MB.
_MAX_MEMORY_GROWTH_KB = 16_384
_MAX_TIMERS = 4_096
# Longer than any timeout that a peer may ask for.
_REST_S = 1_300.0
_PING_SOURCE, _PING_PORT, _PING_BYTES = 21, 63, 8


class Broken(Exception):
    """The node is not as it was."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a campaign came to; growth is that between the first rest and the last."""

    node: str
    seed: int
    csp_version: int
    frames: int
    frames_per_s: int
    accepted: int
    opened: int
    sent: int
    duration_s: float
    memory_kb: int
    memory_growth_kb: int
    object_growth: int
    descriptors: int
    descriptor_growth: int


@dataclass(frozen=True, slots=True)
class _Size:
    objects: int
    memory_kb: int
    descriptors: int


def _measure() -> _Size:
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return _Size(
        len(gc.get_objects()),
        pages * os.sysconf("SC_PAGE_SIZE") // 1024,
        len(os.listdir("/proc/self/fd")),
    )


def load_seeds(name: str, version: int, address: int) -> list[bytes]:
    """Return the recorded frames to the kind of node, or some made by hand if there are none."""
    seeds = []
    for path in sorted(_RECORDINGS.glob(f"{name}_*_v{version}.json")):
        recording = json.loads(path.read_text())
        for exchange in recording["exchanges"]:
            frames = [bytes.fromhex(each[1]) for each in exchange["frames"]]
            seeds += [
                frame for frame in frames if decode_frame(frame, version).dst == recording["node"]
            ]
    requests = [
        (FTP_PORT, FtpRequest(action=action, path="a").encode(), Flag.CRC32) for action in Action
    ]
    fragments = encode_fragments(bytes(300), 200)
    requests += [(FTP_PORT, payload, Flag.CRC32 | Flag.FRAGMENT) for payload in fragments]
    for port, data in ((0, b"\0\1"), (1, b"x"), (10, bytes.fromhex("0500cd014000")), (14, b"\2\2")):
        requests.append((port, data + bytes(16), Flag.CRC32))
    for port, data, flags in requests:
        packet = Packet(dst=address, src=20, dport=port, sport=18, flags=flags, data=data)
        seeds.append(encode_frame(packet, version))
    return list(dict.fromkeys(seeds))


class Mutator:
    """Makes frames out of recorded ones and out of nothing; one generator, so it repeats."""

    def __init__(self, seeds: list[bytes], address: int, version: int, rng: random.Random) -> None:
        self.rng = rng
        self._seeds = seeds
        self._address = address
        self._version = version
        self._packets = [decode_frame(seed, version) for seed in seeds]

    def frame(self) -> bytes:
        """Return the next frame."""
        rng = self.rng
        kind = rng.random()
        if kind < 0.15:
            return random_frame(rng, self._address, self._version)
        if kind < 0.30:
            # Damage on the way: mostly caught by the checksum.
            return self.mutated(rng.choice(self._seeds))
        packet = rng.choice(self._packets)
        data = packet.data if kind < 0.4 else self.mutated(packet.data)
        limit = 32 if self._version == 1 else 16_384
        return encode_frame(
            packet._replace(
                data=data[:2000],
                src=rng.randrange(limit) if rng.random() < 0.3 else packet.src,
                sport=rng.randrange(64),
                dport=rng.randrange(17) if rng.random() < 0.1 else packet.dport,
                flags=rng.randrange(64) if rng.random() < 0.05 else packet.flags,
            ),
            self._version,
        )

    def content(self) -> bytes:
        """Return mutated data of some request, for inside a connection."""
        data = self.rng.choice(self._packets).data
        return (self.mutated(data) if self.rng.random() < 0.7 else data)[:300]

    def mutated(self, data: bytes) -> bytes:
        """Change a few things in a byte string."""
        rng, changed = self.rng, bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 4))):
            place = rng.randrange(len(changed) + 1)
            match rng.randrange(6):
                case 0 if changed:
                    changed[place % len(changed)] ^= 1 << rng.randrange(8)
                case 1:
                    changed[place : place + 1] = bytes((rng.choice((0, 1, 0x7F, 0x80, 0xFF)),))
                case 2:
                    del changed[place:]
                case 3:
                    changed[place:place] = rng.randbytes(rng.choice((1, 2, 4, 30)))
                case 4:
                    other = rng.choice(self._packets).data
                    changed[place:] = other[rng.randrange(len(other) + 1) :]
                case _:
                    del changed[place : place + rng.randrange(5)]
        return bytes(changed)


class Campaign:
    """One node, one generator of frames."""

    def __init__(self, name: str, folder: Path, *, seed: int, version: int, stack: ExitStack):
        self.name, self.seed = name, seed
        self._version = version
        self._scheduler = Scheduler()
        self._target: Target = MAKERS[name](self._scheduler, folder, version, stack)
        self._address = self._target.node.address
        stack.callback(self._target.node.close)
        rng = random.Random(seed)
        seeds = load_seeds(self._target.recordings, version, self._address)
        self._mutator = Mutator(seeds, self._address, version, rng)
        self._rng = rng
        self._queue: deque[bytes] = deque(maxlen=64)
        self._pong = False
        self._longest_looked_at = HEADER_BYTES[version] + _PING_BYTES + CRC_BYTES
        self._frames = self._opened = self._sent = self._accepted = 0
        self._interface: Interface = self._target.node.stack.add_interface(
            "FUZZ", self._address, self._on_sent
        )

    def _on_sent(self, frame: bytes) -> None:
        """Look at what the node sends: pongs, and handshakes to complete."""
        self._sent += 1
        # Most are data that nobody wants; handshakes and pongs are short.
        if len(frame) > self._longest_looked_at:
            return
        packet = decode_frame(frame, self._version)
        if (packet.dst, packet.dport) == (_PING_SOURCE, _PING_PORT):
            self._pong = True
        if not packet.flags & Flag.RDP or self._rng.random() < 0.3:
            return
        segment = decode_segment(packet.data)
        if segment.flags & (SYN | ACK | RST) == SYN | ACK:
            self._opened += 1
            self._say(packet, Segment(ACK, segment.ack + 1 & 0xFFFF, segment.seq))
            for number in range(1, self._rng.randrange(2, 5)):
                seq = segment.ack + number & 0xFFFF
                self._say(packet, Segment(ACK, seq, segment.seq, self._mutator.content()))

    def _say(self, answered: Packet, segment: Segment) -> None:
        packet = answered._replace(
            dst=answered.src, src=answered.dst, dport=answered.sport, sport=answered.dport,
            data=segment.encode(self._rng.randrange(16)),
        )  # fmt: skip
        self._queue.append(encode_frame(packet, self._version))

    def _next(self) -> bytes:
        if self._queue:
            return self._queue.popleft()
        if self._rng.random() < 0.02:
            options = RdpOptions(
                conn_timeout_ms=self._rng.choice((300, 300, 1_000, 10_000))
            ).encode()
            segment = Segment(SYN, self._rng.getrandbits(16), 0, options)
            packet = Packet(
                dst=self._address, src=self._rng.randrange(1, 30), dport=self._rng.randrange(17),
                sport=self._rng.randrange(17, 64), flags=Flag.RDP | Flag.CRC32,
                data=segment.encode(),
            )  # fmt: skip
            return encode_frame(packet, self._version)
        return self._mutator.frame()

    def run(self, count: int) -> Report:
        """Feed `count` frames. Raises Broken if the node is not as it was."""
        started = time.monotonic()
        first: _Size | None = None
        last = _Size(0, 0, 0)
        round_frames = max(1, min(_ROUND_FRAMES, count // _MIN_ROUNDS))
        while self._frames < count:
            for _ in range(min(round_frames, count - self._frames)):
                self._feed(self._next())
            self._check_alive()
            self._rest()
            last = _measure()
            first = first if first is not None else last
            self._check_size(first, last)
            _LOG.info(
                "%s: %d frames, %d kB, %d objects",
                self.name, self._frames, last.memory_kb, last.objects,
            )  # fmt: skip
        first = first if first is not None else last
        duration_s = time.monotonic() - started
        return Report(
            node=self.name, seed=self.seed, csp_version=self._version, frames=self._frames,
            frames_per_s=round(self._frames / duration_s), accepted=self._accepted,
            opened=self._opened, sent=self._sent, duration_s=round(duration_s, 1),
            memory_kb=last.memory_kb, memory_growth_kb=last.memory_kb - first.memory_kb,
            object_growth=last.objects - first.objects, descriptors=last.descriptors,
            descriptor_growth=last.descriptors - first.descriptors,
        )  # fmt: skip

    def _feed(self, frame: bytes) -> None:
        stack, scheduler = self._target.node.stack, self._scheduler
        before = stack.counters.not_for_us + self._interface.counters.rx_error
        try:
            stack.receive(self._interface, frame)
            scheduler.run_ready()
            if self._rng.random() < 0.2:
                scheduler.advance(scheduler.now + self._rng.random() * 0.3)
        except Exception as error:
            raise Broken(f"frame {self._frames} ({frame.hex()}) raised {error!r}") from error
        self._frames += 1
        self._accepted += before == stack.counters.not_for_us + self._interface.counters.rx_error
        if stack.faults:
            raise Broken(f"frame {self._frames} ({frame.hex()}): {stack.faults[-1]!r}")
        if scheduler.orphan_errors:
            raise Broken(f"frame {self._frames} ({frame.hex()}): {scheduler.orphan_errors[-1]!r}")

    def _check_alive(self) -> None:
        self._pong = False
        ping = Packet(
            dst=self._address, src=_PING_SOURCE, dport=1, sport=_PING_PORT,
            data=self._rng.randbytes(_PING_BYTES),
        )  # fmt: skip
        self._target.node.stack.receive(self._interface, encode_frame(ping, self._version))
        if not self._pong:
            raise Broken(f"no answer to ping after {self._frames} frames")
        self._target.beat()
        if len(self._target.node.stack.connections) > MAX_CONNECTIONS:
            raise Broken(f"{len(self._target.node.stack.connections)} connections")

    def _rest(self) -> None:
        """Let all that is under way time out."""
        self._queue.clear()
        end = self._scheduler.now + _REST_S
        while (deadline := self._scheduler.next_deadline()) is not None and deadline < end:
            self._scheduler.advance(deadline)
            self._queue.clear()
        self._scheduler.advance(end)

    def _check_size(self, first: _Size, now: _Size) -> None:
        connections = len(self._target.node.stack.connections)
        if connections:
            raise Broken(f"{connections} connections are left at rest")
        timers = len(self._scheduler._heap)
        if timers > _MAX_TIMERS:
            raise Broken(f"{timers} timers are left at rest")
        if now.descriptors != first.descriptors:
            raise Broken(f"{now.descriptors} descriptors, {first.descriptors} at first")
        if now.objects > first.objects + _MAX_OBJECT_GROWTH:
            raise Broken(f"{now.objects} objects, {first.objects} at first")
        if now.memory_kb > first.memory_kb + _MAX_MEMORY_GROWTH_KB:
            raise Broken(f"{now.memory_kb} kB, {first.memory_kb} kB at first")


def run_campaign(name: str, count: int, *, seed: int = 1, version: int = 2) -> Report:
    """Attack one kind of node with `count` frames. Raises Broken."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="fuzz_")))
        return Campaign(name, folder, seed=seed, version=version, stack=stack).run(count)


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m tools.fuzz_frames", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("nodes", nargs="*", metavar="NODE", help=f"of {', '.join(MAKERS)}; or all")
    parser.add_argument("--count", type=int, default=1_000_000, metavar="N", help="per node")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--csp-version", type=int, choices=(1, 2), default=2)
    parser.add_argument("--verbose", action="store_true", help="say how far it is")
    options = parser.parse_args()
    # The nodes warn of every bad request, as they should; here there are thousands of those.
    logging.basicConfig(level=logging.ERROR)
    _LOG.setLevel(logging.INFO if options.verbose else logging.WARNING)
    unknown = set(options.nodes) - set(MAKERS)
    if unknown:
        parser.error(f"no such node: {', '.join(sorted(unknown))}")
    for name in options.nodes or MAKERS:
        try:
            report = run_campaign(
                name, options.count, seed=options.seed, version=options.csp_version
            )
        except Broken as error:
            print(f"{name}: {error}", file=sys.stderr)
            return 1
        print(json.dumps(asdict(report)), flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
