"""Cut CSP frames into CAN frames and put them together again: CFP 2 and CFP 1. Pure.

Theory of operation: a CAN frame has a 29-bit identifier and at most eight bytes. CFP 2 (CSP v2)
puts priority, destination and two counters into the identifier and the rest of the CSP header into
the first frame; CFP 1 (CSP v1) puts the whole header and the length there and counts the frames
that are still to come. Frames of one packet stay in order on a bus, so anything out of order means
loss and ends the packet. The reassembler holds few packets, each for a short time: a sender that
dies in the middle costs nothing. Source: csp.md 8.4.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from csp.errors import MisuseError
from csp.packet import HEADER_BYTES, MAX_PAYLOAD_BYTES, broadcast_address, check_version

CAN_DATA_BYTES = 8
ID_MASK = (1 << 29) - 1

# CFP 2: prio(2) dst(14) sender(6) packet counter(2) fragment counter(3) begin(1) end(1).
_DST2_SHIFT, _SENDER_SHIFT, _PACKET2_SHIFT, _FRAGMENT_SHIFT = 13, 7, 5, 2
_BEGIN2, _END2 = 2, 1
_FRAGMENT_MASK = 7
_SENDER_MASK = 0x3F
_PACKET2_MASK = 3
# What frames of one packet have in common: all but fragment counter, begin and end.
_KEY2 = ID_MASK & ~0x1F
# The low 32 bits of the header travel in the first frame.
_EXTENSION_BYTES = 4

# CFP 1: src(5) dst(5) type(1: 0 begin, 1 more) remaining frames(8) packet id(10).
_SRC1_SHIFT, _DST1_SHIFT, _REMAIN_SHIFT = 24, 19, 10
_MORE1 = 1 << 18
_REMAIN_MASK = 0xFF
_PACKET1_MASK = 0x3FF
_KEY1 = ID_MASK & ~(_MORE1 | _REMAIN_MASK << _REMAIN_SHIFT)
# CSP header and length travel in the first frame, which leaves two bytes.
_LEAD1_BYTES = 6
MAX_PAYLOAD1_BYTES = CAN_DATA_BYTES - _LEAD1_BYTES + _REMAIN_MASK * CAN_DATA_BYTES

# How long the next frame of a packet may take; libcsp gives one second too.
PACKET_TIMEOUT_S = 1.0
# Packets that may be under way at once: as many as csh has buffers for connections.
MAX_PARTIAL = 32


class CanFrame(NamedTuple):
    """One extended CAN frame: 29-bit identifier, up to eight bytes."""

    can_id: int
    data: bytes


class CanFilter(NamedTuple):
    """Accept frames whose identifier equals `can_id` in the bits of `mask`."""

    can_id: int
    mask: int


def receive_filters(address: int, netmask: int, version: int = 2) -> tuple[CanFilter, ...]:
    """Return what a node takes from the bus: its address, its network's and the broadcast."""
    everybody = broadcast_address(version)
    host_bits = max(everybody.bit_length() - netmask, 0)
    shift = _DST2_SHIFT if version == 2 else _DST1_SHIFT
    targets = dict.fromkeys((address, address | (1 << host_bits) - 1, everybody))
    return tuple(CanFilter(target << shift, everybody << shift) for target in targets)


class Segmenter:
    """Cuts frames; counts packets so that receivers can tell one from the next.

    `address` is that of the interface: its low six bits name the sender in CFP 2.
    """

    def __init__(self, version: int = 2, address: int = 0) -> None:
        self._version = check_version(version)
        self._sender = address & _SENDER_MASK
        self._counter = 0

    def segment(self, frame: bytes) -> list[CanFrame]:
        """Return the CAN frames of a CSP frame, in the order to send them.

        Raises MisuseError if it is no frame or too long (CFP 1: 2042 bytes of payload).
        """
        limit = MAX_PAYLOAD_BYTES if self._version == 2 else MAX_PAYLOAD1_BYTES
        if not 0 <= len(frame) - HEADER_BYTES[self._version] <= limit:
            raise MisuseError(f"a frame of {len(frame)} bytes does not fit CFP {self._version}")
        counter, self._counter = self._counter, self._counter + 1
        if self._version == 2:
            return _segment2(frame, self._sender, counter & _PACKET2_MASK)
        return _segment1(frame, counter & _PACKET1_MASK)


def _chunks(lead: bytes, payload: bytes) -> list[bytes]:
    """Split into the data of the CAN frames; the first one begins with `lead`."""
    room = CAN_DATA_BYTES - len(lead)
    rest = range(room, len(payload), CAN_DATA_BYTES)
    return [lead + payload[:room], *(payload[at : at + CAN_DATA_BYTES] for at in rest)]


def _segment2(frame: bytes, sender: int, counter: int) -> list[CanFrame]:
    # Priority and destination are the first 16 bits of the header and of the identifier alike.
    common = (
        int.from_bytes(frame[:2], "big") << _DST2_SHIFT
        | sender << _SENDER_SHIFT
        | counter << _PACKET2_SHIFT
    )
    header = HEADER_BYTES[2]
    chunks = _chunks(frame[2:header], frame[header:])
    last = len(chunks) - 1
    return [
        CanFrame(
            common
            | (number & _FRAGMENT_MASK) << _FRAGMENT_SHIFT
            | (_BEGIN2 if number == 0 else 0)
            | (_END2 if number == last else 0),
            data,
        )
        for number, data in enumerate(chunks)
    ]


def _segment1(frame: bytes, counter: int) -> list[CanFrame]:
    header = HEADER_BYTES[1]
    word = int.from_bytes(frame[:header], "big")
    common = (word >> 25 & 0x1F) << _SRC1_SHIFT | (word >> 20 & 0x1F) << _DST1_SHIFT | counter
    size = (len(frame) - header).to_bytes(2, "big")
    chunks = _chunks(frame[:header] + size, frame[header:])
    last = len(chunks) - 1
    return [
        CanFrame(common | (_MORE1 if number else 0) | (last - number) << _REMAIN_SHIFT, data)
        for number, data in enumerate(chunks)
    ]


@dataclass(slots=True)
class _Partial:
    """A packet that is coming in. `expected` is the next fragment counter or remaining count."""

    heard: float
    expected: int
    size: int = MAX_PAYLOAD_BYTES
    data: bytearray = field(default_factory=bytearray)
    header: bytes = b""


class Reassembler:
    """Collects CSP frames from CAN frames; `errors` counts packets and fragments thrown away.

    The destination stays as sent, also the broadcast one: the stack takes that for its own, and a
    checksum that covers the header stays right.
    """

    def __init__(
        self,
        version: int = 2,
        *,
        timeout_s: float = PACKET_TIMEOUT_S,
        capacity: int = MAX_PARTIAL,
    ) -> None:
        self.errors = 0
        self._take = self._take2 if check_version(version) == 2 else self._take1
        self._key = _KEY2 if version == 2 else _KEY1
        self._timeout_s = timeout_s
        self._capacity = capacity
        # In order of their last frames, so that the first is the one silent for longest.
        self._partial: dict[int, _Partial] = {}

    def __len__(self) -> int:
        return len(self._partial)

    def feed(self, can_id: int, data: bytes, now: float) -> bytes | None:
        """Take a CAN frame at `now` (monotonic seconds); return the CSP frame it completes."""
        self._expire(now)
        if len(data) > CAN_DATA_BYTES:
            self.errors += 1
            return None
        return self._take(can_id & ID_MASK, data, now)

    def _expire(self, now: float) -> None:
        while self._partial:
            key, oldest = next(iter(self._partial.items()))
            if now - oldest.heard <= self._timeout_s:
                return
            self._drop(key)

    def _drop(self, key: int) -> None:
        self.errors += 1
        self._partial.pop(key, None)

    def _begin(self, key: int, partial: _Partial) -> None:
        if key in self._partial:
            # The end of the one before was lost.
            self._drop(key)
        elif len(self._partial) >= self._capacity:
            self._drop(next(iter(self._partial)))
        self._partial[key] = partial

    def _heard(self, key: int, now: float) -> _Partial:
        partial = self._partial[key] = self._partial.pop(key)
        partial.heard = now
        return partial

    def _take2(self, can_id: int, data: bytes, now: float) -> bytes | None:
        key = can_id & self._key
        if can_id & _BEGIN2:
            if len(data) < _EXTENSION_BYTES:
                self._drop(key)
                return None
            header = (can_id >> _DST2_SHIFT).to_bytes(2, "big") + data[:_EXTENSION_BYTES]
            partial = _Partial(heard=now, expected=0, header=header)
            self._begin(key, partial)
            data = data[_EXTENSION_BYTES:]
        else:
            found = self._partial.get(key)
            if found is None or can_id >> _FRAGMENT_SHIFT & _FRAGMENT_MASK != found.expected:
                self._drop(key)
                return None
            partial = self._heard(key, now)
        if len(partial.data) + len(data) > partial.size:
            self._drop(key)
            return None
        partial.data += data
        partial.expected = (partial.expected + 1) & _FRAGMENT_MASK
        if not can_id & _END2:
            return None
        del self._partial[key]
        return partial.header + partial.data

    def _take1(self, can_id: int, data: bytes, now: float) -> bytes | None:
        key = can_id & self._key
        remain = can_id >> _REMAIN_SHIFT & _REMAIN_MASK
        if not can_id & _MORE1:
            size = int.from_bytes(data[4:_LEAD1_BYTES], "big")
            if len(data) < _LEAD1_BYTES or size > MAX_PAYLOAD1_BYTES:
                self._drop(key)
                return None
            partial = _Partial(heard=now, expected=remain, size=size, header=data[:4])
            self._begin(key, partial)
            data = data[_LEAD1_BYTES:]
        else:
            found = self._partial.get(key)
            if found is None or remain != found.expected:
                self._drop(key)
                return None
            partial = self._heard(key, now)
        partial.data += data
        # The length decides, as in libcsp; it must be reached with the last frame at the latest.
        missing = partial.size - len(partial.data)
        if missing < 0 or (missing > 0 and remain == 0):
            self._drop(key)
            return None
        partial.expected = remain - 1
        if missing:
            return None
        del self._partial[key]
        return partial.header + partial.data
