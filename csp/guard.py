"""Authenticate what crosses a link, and refuse what was sent before. Pure.

Theory of operation: a guard belongs to one end of a link. Without stamps it speaks the flown form
and nothing else: `payload | HMAC`, the HMAC over the payload only (csp.md 7); a recorded packet is
then as good as a new one, and its header can be changed. With stamps the form is
`payload | stamp (u64, big endian) | HMAC`, and the HMAC also covers header and stamp, under a key
derived for this form, so that neither form passes for the other. Both ends need the same choice.

Stamps grow with every packet a sender ever sent, also across restarts. The receiver keeps, for
each source address, a window of the last 64: each stamp in it is taken once, older ones never.
What must outlive a restart is behind `StampStore`.
"""

from __future__ import annotations

import hmac as _hmac
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from csp.errors import DecodeError
from csp.hmac import HMAC_BYTES, append_hmac, strip_hmac
from csp.packet import Flag, Packet, encode_header

STAMP_BYTES = 8
# As IPsec: reordering beyond this does not happen on a link that keeps packets in order.
WINDOW_BITS = 64
_WINDOW_MASK = (1 << WINDOW_BITS) - 1
_PURPOSE = b"csp stamped"
_KEY_BYTES = 16
_HMAC = int(Flag.HMAC)


class StampStore(Protocol):
    """What a guard with stamps must not forget."""

    def take(self) -> int:
        """Return a stamp greater than all returned before, also before a restart."""

    def highest(self) -> Mapping[int, int]:
        """Return the highest stamp accepted from each source so far."""

    def note(self, source: int, stamp: int) -> None:
        """Remember that this stamp is now the highest from a source."""

    def close(self) -> None:
        """Release everything. Harmless if done twice."""


class VolatileStamps:
    """Stamps that are forgotten at the end: for tests and virtual time."""

    def __init__(self, first: int = 1) -> None:
        self._next = first
        self._highest: dict[int, int] = {}

    def take(self) -> int:
        """Return the next stamp."""
        self._next += 1
        return self._next - 1

    def highest(self) -> Mapping[int, int]:
        """Return what was noted."""
        return dict(self._highest)

    def note(self, source: int, stamp: int) -> None:
        """Remember in memory."""
        self._highest[source] = stamp

    def close(self) -> None:
        """Nothing is held."""


@dataclass(slots=True)
class GuardCounters:
    """What was sealed, taken, and refused for which reason."""

    sealed: int = 0
    opened: int = 0
    unsigned: int = 0
    forged: int = 0
    replayed: int = 0
    unstored: int = 0

    @property
    def refused(self) -> int:
        """Everything that did not get through."""
        return self.unsigned + self.forged + self.replayed + self.unstored


class Window:
    """The last stamps of one source. `seen` has bit n set if `highest - n` was taken."""

    def __init__(self, highest: int = 0, seen: int = _WINDOW_MASK) -> None:
        # After a restart everything up to the highest counts as seen: it may have been.
        self.highest = highest
        self._seen = seen

    def take(self, stamp: int) -> bool:
        """Take a stamp once; False if it was taken before or is older than the window."""
        ahead = stamp - self.highest
        if ahead > 0:
            self._seen = (self._seen << ahead | 1) & _WINDOW_MASK if ahead < WINDOW_BITS else 1
            self.highest = stamp
            return True
        if -ahead >= WINDOW_BITS or self._seen >> -ahead & 1:
            return False
        self._seen |= 1 << -ahead
        return True


class Guard:
    """One end of an authenticated link. `stamps` None is the flown form without replay window.

    Memory is bounded by the number of addresses: only an authentic packet makes a window.
    """

    def __init__(self, key: bytes, *, version: int = 2, stamps: StampStore | None = None) -> None:
        self.counters = GuardCounters()
        self._version = version
        self._stamps = stamps
        if stamps is None:
            self._key = key
            self._windows: dict[int, Window] = {}
            return
        self._key = _hmac.digest(key, _PURPOSE, "sha1")[:_KEY_BYTES]
        self._windows = {source: Window(stamp) for source, stamp in stamps.highest().items()}

    @property
    def level(self) -> int:
        """1 for the flown form, 2 with stamps."""
        return 1 if self._stamps is None else 2

    @property
    def overhead_bytes(self) -> int:
        """How much longer a packet gets."""
        return HMAC_BYTES + (STAMP_BYTES if self._stamps is not None else 0)

    def seal(self, packet: Packet) -> Packet:
        """Return the packet as it goes over the link.

        Raises MisuseError if the header is bad, and OSError if there is no stamp to be had.
        """
        packet = packet._replace(flags=packet.flags | _HMAC)
        self.counters.sealed += 1
        if self._stamps is None:
            return packet._replace(data=append_hmac(packet.data, self._key))
        body = packet.data + self._stamps.take().to_bytes(STAMP_BYTES, "big")
        header = encode_header(packet, self._version)
        return packet._replace(data=body + append_hmac(header + body, self._key)[-HMAC_BYTES:])

    def open(self, packet: Packet) -> Packet:
        """Return the packet as it was before `seal`. Raises DecodeError, and counts why."""
        counters = self.counters
        if not packet.flags & _HMAC:
            counters.unsigned += 1
            raise DecodeError("packet without authentication")
        data = self._authentic(packet)
        if self._stamps is not None:
            data, stamp = data[:-STAMP_BYTES], int.from_bytes(data[-STAMP_BYTES:], "big")
            self._take(packet.src, stamp)
        counters.opened += 1
        return packet._replace(data=data, flags=packet.flags & ~_HMAC)

    def close(self) -> None:
        """Release what keeps the stamps. Harmless if done twice."""
        if self._stamps is not None:
            self._stamps.close()

    def _authentic(self, packet: Packet) -> bytes:
        """Return the payload without its HMAC, which is right."""
        try:
            if self._stamps is None:
                return strip_hmac(packet.data, self._key)
            if len(packet.data) < STAMP_BYTES + HMAC_BYTES:
                raise DecodeError(
                    "no room for stamp and HMAC", expected=self.overhead_bytes,
                    actual=len(packet.data),
                )  # fmt: skip
            header = encode_header(packet, self._version)
            return strip_hmac(header + packet.data, self._key)[len(header) :]
        except DecodeError:
            self.counters.forged += 1
            raise

    def _take(self, source: int, stamp: int) -> None:
        window = self._windows.setdefault(source, Window())
        before = window.highest
        if not window.take(stamp):
            self.counters.replayed += 1
            raise DecodeError("packet was received before", actual=stamp)
        if window.highest != before and self._stamps is not None:
            try:
                self._stamps.note(source, stamp)
            except OSError as error:
                # What cannot be remembered could be replayed after a restart.
                self.counters.unstored += 1
                raise DecodeError(f"the stamp cannot be stored: {error}") from error
