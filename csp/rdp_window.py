"""Put received packets in order, and time repetitions: two small parts of RDP. Pure."""

from __future__ import annotations

from collections import deque

# Data received but not read: at least this many packets, more for big windows.
_MIN_RECEIVE_QUEUE = 64
# Never repeat faster than this, whatever the round trip: the peer may delay acknowledgements, and
# the handshake says little about the time a full window spends on a slow link.
_MIN_REPEAT_S = 1.0
_MIN_TRIES = 5
# Once a repetition went unanswered too, one packet is sent this often: at 30 % loss each way half
# of all tries fail, and a connection of ten seconds needs more of them than ten.
_STALLED_REPEAT_S = 0.5


class Reassembly:
    """Puts data packets in order; sequence numbers are modulo 2**16.

    `newest` is the last number received in order, `ready` the data to read, oldest first.
    """

    def __init__(self, window: int) -> None:
        self.newest = 0
        self.ready: deque[bytes] = deque()
        self._window = window
        self._limit = max(_MIN_RECEIVE_QUEUE, 2 * window)
        self._stored: dict[int, bytes] = {}

    @property
    def has_gap(self) -> bool:
        """Whether later packets wait for a missing one."""
        return bool(self._stored)

    @property
    def crowded(self) -> bool:
        """Whether so much is unread that another window of packets might find no room."""
        return len(self.ready) > self._limit - self._window

    @property
    def expected(self) -> int:
        """The number of the next packet in order."""
        return (self.newest + 1) & 0xFFFF

    def ahead(self, seq: int) -> int:
        """Return how far a number is ahead of `newest`, 0 if not within two windows."""
        distance = (seq - self.newest) & 0xFFFF
        return distance if distance <= 2 * self._window else 0

    def add(self, seq: int, data: bytes) -> bool:
        """Take a packet that is ahead; return whether `newest` moved.

        Not if it is early, or if nobody reads: unacknowledged, it will be repeated later.
        """
        distance = self.ahead(seq)
        if distance > 1:
            if distance <= self._window:
                self._stored.setdefault(seq, data)
            return False
        if not distance or len(self.ready) >= self._limit:
            return False
        self.ready.append(data)
        self.newest = seq
        while self._stored:
            following = self._stored.pop(self.expected, None)
            if following is None:
                break
            self.ready.append(following)
            self.newest = self.expected
        return True

    def drop_early(self) -> None:
        """Forget packets behind a gap that will not be closed."""
        self._stored.clear()


class RepeatTimer:
    """Tells after which silence to repeat, from measured round trips (RFC 6298).

    Never later than the packet timeout. `after_s` is the answer; `again_s` that for a repetition
    which was not answered either.
    """

    def __init__(self, packet_timeout_s: float, conn_timeout_s: float) -> None:
        self.after_s = self.again_s = packet_timeout_s
        self._packet_timeout_s = packet_timeout_s
        self._try_time_s = conn_timeout_s / _MIN_TRIES
        self._mean_s: float | None = None
        self._least_s = conn_timeout_s
        self._deviation_s = 0.0

    def measured(self, round_trip_s: float) -> None:
        """Take a round trip of a packet that was sent once only."""
        if self._mean_s is None:
            mean = round_trip_s
            self._deviation_s = round_trip_s / 2
        else:
            error = round_trip_s - self._mean_s
            self._deviation_s += (abs(error) - self._deviation_s) / 4
            mean = self._mean_s + error / 8
        self._mean_s = mean
        wanted = max(mean + 4 * self._deviation_s, _MIN_REPEAT_S)
        # Acknowledgements that were delayed or lost stretch the measure; some tries must fit into
        # the connection timeout nevertheless. The least is what the way itself takes.
        self._least_s = min(self._least_s, round_trip_s)
        longest = max(self._try_time_s, 1.5 * self._least_s)
        self.after_s = min(wanted, longest, self._packet_timeout_s)
        self.again_s = min(self.after_s, max(self._least_s / 2, _STALLED_REPEAT_S))
