"""Decide what a slow and unreliable channel does to each frame: when it arrives, if, and how. Pure.

Theory of operation: the channel sends one frame after the other at its rate; a frame that arrives
while another is being sent waits, as long as the queue has room. Outside the pass windows nothing
gets through. Chance comes from one seeded generator, so a run repeats exactly.
Source: style-anchors.md Annex A, faults 73 to 77 and 82.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from csp.errors import MisuseError

# What may wait for the channel by default. A radio's buffer is of this order; a bigger one only
# adds delay.
DEFAULT_QUEUE_BYTES = 65_536


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """A stretch of time in which the channel is open, in the caller's monotonic seconds."""

    start_s: float
    end_s: float

    def __post_init__(self) -> None:
        if self.end_s < self.start_s:
            raise MisuseError(f"window ends at {self.end_s:g} before it starts, {self.start_s:g}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A frame as it comes out of the channel, and when."""

    at_s: float
    frame: bytes


@dataclass(slots=True)
class ShaperCounters:
    """What became of the frames."""

    carried: int = 0
    no_window: int = 0
    queue_full: int = 0
    lost: int = 0
    corrupted: int = 0
    duplicated: int = 0


class Shaper:
    """One direction of a channel.

    `rate_bps` None means infinitely fast; `delay_s` is added to every frame, `jitter_s` a random
    part of it on top (more than the time between two frames reorders them). `loss`, `corruption`
    and `duplication` are probabilities per frame; corruption changes one byte. `windows` None means
    always open.
    """

    def __init__(
        self,
        rate_bps: float | None = None,
        delay_s: float = 0.0,
        loss: float = 0.0,
        corruption: float = 0.0,
        windows: Sequence[Window] | None = None,
        seed: int = 0,
        *,
        jitter_s: float = 0.0,
        duplication: float = 0.0,
        queue_bytes: int = DEFAULT_QUEUE_BYTES,
    ) -> None:
        for name, value in (("loss", loss), ("corruption", corruption), ("dup", duplication)):
            if not 0 <= value <= 1:
                raise MisuseError(f"{name} is a probability, not {value:g}")
        if rate_bps is not None and rate_bps <= 0:
            raise MisuseError(f"a rate of {rate_bps:g} bit/s carries nothing")
        self.rate_bps = rate_bps
        self.delay_s = delay_s
        self.jitter_s = jitter_s
        self.loss = loss
        self.corruption = corruption
        self.duplication = duplication
        self.windows = None if windows is None else tuple(windows)
        self.counters = ShaperCounters()
        self._queue_bytes = queue_bytes
        self._rng = random.Random(seed)
        self._busy_until = 0.0

    def is_open(self, now: float) -> bool:
        """Tell whether the channel is in a window."""
        if self.windows is None:
            return True
        return any(window.start_s <= now < window.end_s for window in self.windows)

    def backlog_s(self, now: float) -> float:
        """Return for how long the channel is busy with what it already has."""
        return max(0.0, self._busy_until - now)

    def submit(self, frame: bytes, now: float) -> tuple[Delivery, ...]:
        """Put a frame into the channel; return what comes out: nothing, one, or two deliveries."""
        counters, rng = self.counters, self._rng
        sent_at = self._transmit(len(frame), now)
        if sent_at is None:
            return ()
        if self.loss and rng.random() < self.loss:
            counters.lost += 1
            return ()
        copies = 1
        if self.duplication and rng.random() < self.duplication:
            counters.duplicated += 1
            copies = 2
        if self.corruption and rng.random() < self.corruption:
            counters.corrupted += 1
            frame = self._corrupt(frame)
        counters.carried += 1
        return tuple(
            Delivery(at_s=sent_at + self.delay_s + self._jitter(), frame=frame)
            for _ in range(copies)
        )

    def _transmit(self, size: int, now: float) -> float | None:
        """Return when the frame has left the sender, None if it cannot."""
        start = max(now, self._busy_until)
        if not self.is_open(now) or not self.is_open(start):
            self.counters.no_window += 1
            return None
        if self.rate_bps is None:
            return start
        if (start - now) * self.rate_bps / 8 + size > self._queue_bytes:
            self.counters.queue_full += 1
            return None
        self._busy_until = start + size * 8 / self.rate_bps
        if not self.is_open(self._busy_until):
            # The pass ended in the middle of the frame.
            self.counters.no_window += 1
            return None
        return self._busy_until

    def _jitter(self) -> float:
        return self._rng.uniform(0, self.jitter_s) if self.jitter_s else 0.0

    def _corrupt(self, frame: bytes) -> bytes:
        if not frame:
            return frame
        position = self._rng.randrange(len(frame))
        changed = bytearray(frame)
        changed[position] ^= self._rng.randrange(1, 256)
        return bytes(changed)
