"""Move a large piece of data with SFP: over an RDP connection, or plain where loss is acceptable.

Theory of operation: over RDP nothing is lost or reordered, so a fragment that does not follow is a
fault of the peer. Plain there are no repetitions: whatever is missing ends the transfer with a
named error, never with wrong data. Data packets of a connection carry the FRAGMENT flag from the
first fragment on and for good, as libcsp's do, which takes no fragment without it. Pure. Source:
csp.md 7.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from csp.errors import DecodeError, MisuseError, Refused
from csp.packet import SAFE_DATA_BYTES, Flag, Packet
from csp.sfp import DEFAULT_LIMIT_BYTES, TRAILER_BYTES, Assembler, encode_fragments

if TYPE_CHECKING:
    from csp.client import Client
    from csp.connection import Connection

# Fits every real node, with all trailers; csh's file service uses 200 too.
FRAGMENT_BYTES = 200
PLAIN_FLAGS = int(Flag.CRC32 | Flag.FRAGMENT)
# Told (bytes done, bytes in all).
Report = Callable[[int, int], None]
# Of transfers that began and never ended, the oldest go.
_MAX_SENDERS = 8


def _no_report(done: int, total: int) -> None:
    """Nobody wants to know."""


def _fragments(data: bytes, fragment_bytes: int) -> Iterator[bytes]:
    if fragment_bytes + TRAILER_BYTES > SAFE_DATA_BYTES:
        raise MisuseError(f"fragments of {fragment_bytes} bytes do not fit every node")
    return encode_fragments(data, fragment_bytes)


async def send_data(
    connection: Connection,
    data: bytes,
    fragment_bytes: int = FRAGMENT_BYTES,
    report: Report = _no_report,
) -> None:
    """Send data over a connection; it may be used further. Raises PeerError, MisuseError."""
    connection.sends_fragments = True
    done = 0
    for payload in _fragments(data, fragment_bytes):
        await connection.send(payload)
        done += len(payload) - TRAILER_BYTES
        report(done, len(data))


async def receive_data(
    connection: Connection,
    timeout_s: float,
    limit_bytes: int = DEFAULT_LIMIT_BYTES,
    report: Report = _no_report,
) -> bytes:
    """Return what the peer sends with `send_data`, or libcsp with `csp_sfp_send`.

    `timeout_s` is for each fragment. Raises DecodeError if one does not follow or the whole is
    longer than the limit, NoResponse, and Refused if the peer closes before the end.
    """
    assembler = Assembler(limit_bytes)
    while (payload := await connection.receive(timeout_s)) is not None:
        data = assembler.feed(payload)
        report(*assembler.progress)
        if data is not None:
            return data
    raise Refused(f"node {connection.peer} closed before the end of the data")


def send_plain(client: Client, data: bytes, fragment_bytes: int = FRAGMENT_BYTES) -> None:
    """Send data without a connection: all at once, nothing is repeated.

    The client must be opened with `PLAIN_FLAGS`. Raises MisuseError.
    """
    for payload in _fragments(data, fragment_bytes):
        client.send(payload)


async def receive_plain(
    client: Client, timeout_s: float, limit_bytes: int = DEFAULT_LIMIT_BYTES
) -> bytes:
    """Return what a node sends to this client without a connection.

    Raises DecodeError as soon as a fragment is missing, NoResponse if the last ones are.
    """
    assembler = Assembler(limit_bytes)
    while True:
        packet = await client.receive_packet(timeout_s)
        if not packet.flags & Flag.FRAGMENT:
            raise DecodeError(f"node {packet.src} sent a packet without the SFP flag")
        data = assembler.feed(packet.data)
        if data is not None:
            return data


class PlainReceiver:
    """Collects plain transfers to a port: give `handle` to `Stack.bind`.

    `on_data(source, data)` gets each whole one. What lacks a fragment is forgotten and counted.
    """

    def __init__(
        self, on_data: Callable[[int, bytes], None], limit_bytes: int = DEFAULT_LIMIT_BYTES
    ) -> None:
        self.broken = 0
        self._on_data = on_data
        self._limit = limit_bytes
        self._senders: dict[tuple[int, int], Assembler] = {}

    def handle(self, packet: Packet) -> None:
        """Take a packet; there is no answer."""
        key = packet.src, packet.sport
        assembler = self._senders.pop(key, None) or Assembler(self._limit)
        try:
            if not packet.flags & Flag.FRAGMENT:
                raise DecodeError("packet without the SFP flag")
            data = assembler.feed(packet.data)
        except DecodeError:
            self.broken += 1
            return
        if data is not None:
            self._on_data(packet.src, data)
            return
        if len(self._senders) >= _MAX_SENDERS:
            del self._senders[next(iter(self._senders))]
            self.broken += 1
        # Behind all others: who sent last is given up last.
        self._senders[key] = assembler
