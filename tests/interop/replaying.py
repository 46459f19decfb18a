"""Feed recorded frames of a real client into a node of ours, in virtual time.

A recording is what a real shell sent and what it got back, in order and with the times. Replaying
gives the node the client's frames at those times, and the initial RDP sequence numbers that the
recorded server had drawn, so that the client's acknowledgements fit. What remains different by
nature is masked by `Frame.comparable`: the rolling nibble of RDP control packets.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from csp.crc import crc32c
from csp.packet import HEADER_BYTES, Flag, Packet, decode_frame
from csp.sched import Scheduler
from csp.stack import Stack

RECORDINGS = Path(__file__).with_name("recordings")
_SYN, _ACK = 8, 4
_RDP_BYTES = 5


@dataclass(frozen=True, slots=True)
class Frame:
    """One recorded frame; `index` counts all frames of the recording."""

    index: int
    time_s: float
    raw: bytes
    packet: Packet

    @property
    def is_rdp(self) -> bool:
        """Whether it belongs to a connection."""
        return bool(self.packet.flags & Flag.RDP)

    @property
    def is_rdp_data(self) -> bool:
        """Whether it carries data of a connection."""
        return self.is_rdp and len(self.packet.data) > _RDP_BYTES

    @property
    def rdp_flags(self) -> int:
        """SYN, ACK, EAK, RST."""
        return self.packet.data[-_RDP_BYTES] & 0x0F

    def comparable(self, version: int) -> bytes:
        """The frame with the rolling nibble cleared and the checksum of that."""
        if not self.is_rdp:
            return self.raw
        data = bytearray(self.packet.data)
        data[-_RDP_BYTES] &= 0x0F
        return self.raw[: HEADER_BYTES[version]] + bytes(data) + crc32c(data).to_bytes(4, "big")


@dataclass(frozen=True, slots=True)
class Recording:
    """A session of a real shell. `commands` maps the first frame index of each to its text."""

    name: str
    version: int
    node: int
    commands: dict[int, str]
    frames: tuple[Frame, ...]

    @classmethod
    def load(cls, path: Path) -> Recording:
        """Read a recording from its file."""
        content = json.loads(path.read_text("utf-8"))
        version = content["version"]
        frames, commands, clock_ms = [], {}, 0
        for entry in content["exchanges"]:
            commands[len(frames)] = entry["command"]
            for wait_ms, text in entry["frames"]:
                clock_ms += wait_ms
                raw = bytes.fromhex(text)
                packet = decode_frame(raw, version)
                frames.append(Frame(len(frames), clock_ms / 1000, raw, packet))
        return cls(path.stem, version, content["node"], commands, tuple(frames))

    @property
    def requests(self) -> list[Frame]:
        """What the client sent to the node."""
        return [frame for frame in self.frames if frame.packet.src != self.node]

    @property
    def answers(self) -> list[Frame]:
        """What the recorded node said."""
        return [frame for frame in self.frames if frame.packet.src == self.node]

    def command_of(self, frame: Frame) -> str:
        """The command during which a frame was on the wire."""
        return self.commands[max(first for first in self.commands if first <= frame.index)]


class RecordedChance(random.Random):
    """Draws the initial sequence numbers of a recording, in order."""

    def __init__(self, numbers: list[int]) -> None:
        super().__init__(0)
        self._numbers = numbers

    def getrandbits(self, count: int, /) -> int:
        """Return the next recorded number."""
        return self._numbers.pop(0)


def initial_numbers(recording: Recording) -> list[int]:
    """The sequence numbers of the recorded SYN|ACK packets, repetitions left out."""
    seen: dict[tuple[int, int, bytes], int] = {}
    for frame in recording.answers:
        if frame.is_rdp and frame.rdp_flags == _SYN | _ACK:
            packet = frame.packet
            key = (packet.dport, packet.sport, packet.data[-4:])
            seen.setdefault(key, int.from_bytes(packet.data[-4:-2], "big"))
    return list(seen.values())


class Player(Protocol):
    """A node under replay: its stack, and its time."""

    stack: Stack

    def advance(self, now: float) -> None:
        """Let time pass up to `now`; procedures and the like that were started come to an end."""

    def close(self) -> None:
        """Give everything back."""


class VirtualPlayer:
    """A node that lives on a bare scheduler."""

    def __init__(self, scheduler: Scheduler, stack: Stack) -> None:
        self.stack = stack
        self.advance = scheduler.advance

    def close(self) -> None:
        """Give everything back."""


def replay(recording: Recording, player: Player) -> list[Frame]:
    """Return what our node answers to the recorded client."""
    stack = player.stack
    stack.rng = RecordedChance(initial_numbers(recording))
    answers: list[Frame] = []
    current = recording.frames[0]

    def collect(raw: bytes) -> None:
        packet = decode_frame(raw, recording.version)
        if packet.dst == current.packet.src:
            answers.append(Frame(current.index, current.time_s, raw, packet))

    interface = stack.add_interface("ZMQ", recording.node, collect, default=True)
    try:
        for frame in recording.requests:
            player.advance(frame.time_s)
            current = frame
            stack.receive(interface, frame.raw)
        player.advance(recording.frames[-1].time_s + 1)
    finally:
        player.close()
    assert not stack.faults
    return answers


def plain(frames: list[Frame]) -> list[Frame]:
    """The frames outside connections."""
    return [frame for frame in frames if not frame.is_rdp]


def connections(frames: list[Frame]) -> list[list[Frame]]:
    """The frames of each connection, connections in the order of their SYN|ACK."""
    found: dict[tuple[int, int, int], list[Frame]] = {}
    generation: dict[tuple[int, int], int] = defaultdict(int)
    for frame in frames:
        if not frame.is_rdp:
            continue
        place = (frame.packet.dport, frame.packet.sport)
        if frame.rdp_flags == _SYN | _ACK:
            generation[place] += 1
        found.setdefault((*place, generation[place]), []).append(frame)
    return list(found.values())
