"""Join the ground's network and the spacecraft's by a radio channel. Pure.

Theory of operation: the bridge hears everything on both networks. A frame crosses if its source
belongs to the side it was heard on and its destination does not; looking at the source too means
that what the bridge itself put on a network never comes back. Broadcasts cross both ways. Each
direction has its own shaper: rate, delay, loss, corruption, bounded queue, contact windows.

With a guard at the satellite's end only authentic frames come out there, without their
authentication, and what leaves is signed. A guard at the station does the same for the ground, so
that programs there need no key; without it they sign themselves and frames reach them signed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from csp.errors import CspError, DecodeError
from csp.guard import Guard
from csp.packet import HEADER_BYTES, broadcast_address, decode_frame, destination, encode_frame
from csp.sched import Scheduler
from csp.shaper import Shaper, Window
from sim.figures import DirectionFigures, LinkFigures

SendFrame = Callable[[bytes], None]


def source(frame: bytes, version: int) -> int:
    """Return the source address of a frame that has at least its header."""
    if version == 2:
        return frame[2] << 6 | frame[3] >> 2
    return frame[0] >> 1 & 0x1F


@dataclass(slots=True)
class DirectionCounters:
    """What one direction did. Bytes are those of CSP frames; airtime is the transmitter's.

    `unsealed` frames were too long to be signed; `damaged` ones arrived and were not even looked
    at, because their checksum was wrong.
    """

    frames: int = 0
    bytes: int = 0
    offered: int = 0
    airtime_s: float = 0.0
    unsealed: int = 0
    damaged: int = 0


class Direction:
    """One way across: a shaper and what goes through it. `enabled` False is a silent radio."""

    def __init__(
        self,
        scheduler: Scheduler,
        figures: DirectionFigures,
        windows: Sequence[Window] | None,
        seed: int,
    ) -> None:
        self.shaper = Shaper(
            figures.rate_bps,
            figures.delay_s,
            figures.loss,
            figures.corruption,
            windows,
            seed,
            queue_bytes=figures.queue_bytes,
        )
        self.counters = DirectionCounters()
        self.enabled = True
        self._scheduler = scheduler

    def submit(self, frame: bytes, onward: SendFrame) -> None:
        """Send a frame; `onward` gets it at the far end, if it arrives."""
        now, shaper, counters = self._scheduler.now, self.shaper, self.counters
        counters.offered += 1
        if not self.enabled:
            shaper.counters.no_window += 1
            return
        before_s = shaper.backlog_s(now)
        for delivery in shaper.submit(frame, now):
            self._schedule(delivery.at_s, delivery.frame, onward)
        counters.airtime_s += shaper.backlog_s(now) - before_s

    def _schedule(self, when: float, frame: bytes, onward: SendFrame) -> None:
        def arrive() -> None:
            self.counters.frames += 1
            self.counters.bytes += len(frame)
            onward(frame)

        self._scheduler.call_at(when, arrive)

    @property
    def dropped(self) -> int:
        """Frames that never went on the air: no contact, or the queue was full."""
        return self.shaper.counters.no_window + self.shaper.counters.queue_full


class Bridge:
    """The radio channel between two networks. Give it both ways out, then feed it frames."""

    def __init__(
        self,
        scheduler: Scheduler,
        figures: LinkFigures,
        *,
        to_ground: SendFrame,
        to_space: SendFrame,
        windows: Sequence[Window] | None = None,
        version: int = 2,
        space_guard: Guard | None = None,
        station_guard: Guard | None = None,
    ) -> None:
        self.space_guard = space_guard
        self.station_guard = station_guard
        self._figures = figures
        self._version = version
        self._broadcast = broadcast_address(version)
        self._to_ground = to_ground
        self._to_space = to_space
        self.up = Direction(scheduler, figures.uplink, windows, 2 * figures.seed)
        self.down = Direction(scheduler, figures.downlink, windows, 2 * figures.seed + 1)

    def set_windows(self, windows: Sequence[Window]) -> None:
        """Replace the contact windows of both directions (monotonic seconds)."""
        for direction in (self.up, self.down):
            direction.shaper.windows = tuple(windows)

    def from_ground(self, frame: bytes) -> None:
        """Take a frame heard on the ground network."""
        if self._crosses(frame, from_ground=True):
            self._send(self.up, self.station_guard, frame, self.arrive_in_space)

    def from_space(self, frame: bytes) -> None:
        """Take a frame heard on the spacecraft's network."""
        if self._crosses(frame, from_ground=False):
            self._send(self.down, self.space_guard, frame, self.arrive_on_ground)

    def arrive_in_space(self, frame: bytes) -> None:
        """Take a frame that the satellite's receiver heard, whoever sent it."""
        self._receive(self.up, self.space_guard, frame, self._to_space)

    def arrive_on_ground(self, frame: bytes) -> None:
        """Take a frame that the station's receiver heard, whoever sent it."""
        self._receive(self.down, self.station_guard, frame, self._to_ground)

    def _send(
        self, direction: Direction, guard: Guard | None, frame: bytes, onward: SendFrame
    ) -> None:
        if guard is not None:
            try:
                packet = decode_frame(frame, self._version)
                frame = encode_frame(guard.seal(packet), self._version)
            except (CspError, OSError):
                # Damaged before it came here, too long to be signed, or no stamp to be had.
                direction.counters.unsealed += 1
                return
        direction.submit(frame, onward)

    def _receive(
        self, direction: Direction, guard: Guard | None, frame: bytes, onward: SendFrame
    ) -> None:
        if guard is None:
            onward(frame)
            return
        try:
            packet = decode_frame(frame, self._version)
        except DecodeError:
            direction.counters.damaged += 1
            return
        try:
            packet = guard.open(packet)
        except DecodeError:
            # The guard has counted why.
            return
        onward(encode_frame(packet, self._version))

    def _crosses(self, frame: bytes, *, from_ground: bool) -> bool:
        if len(frame) < HEADER_BYTES[self._version]:
            return False
        if self._figures.is_ground(source(frame, self._version)) is not from_ground:
            return False
        target = destination(frame, self._version)
        return target == self._broadcast or self._figures.is_ground(target) is not from_ground
