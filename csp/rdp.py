"""Run one end of a reliable datagram (RDP) connection: windows, acknowledgements, timers. Pure.

Theory of operation: the owner feeds segments (`receive`), data (`send`), `close` and the passing
of time (`on_timer`, due at `deadline()`); it takes from `outgoing` the payloads to transmit and
from `received` the data in order. Nothing here reads a clock or draws a random number.

Recovery goes beyond the reference, within its wire format. The receiver acknowledges at once what
shows a gap or a repetition, and remembers an early reset until the gap before it is closed. The
sender repeats the oldest segment after two acknowledgements of the same number, repairs further
gaps one per acknowledgement, and otherwise by timer: at first what may be lost of a window, then
only the oldest, but more often. The timer follows the measured round trip
(RFC 6298) and never exceeds the packet timeout, because csh's 5 s leave one retry before its
connection timeout; it restarts with each progress, so a window that takes long on a slow link is
not sent twice. A reset is repeated while the peer is silent. Source: csp.md 6.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from csp.errors import MisuseError
from csp.rdp_state import End, State
from csp.rdp_window import Reassembly, RepeatTimer
from csp.rdp_wire import ACK, BULK, RST, SYN, TRAILER, RdpOptions, Segment, reset_for

__all__ = ["BULK", "End", "RdpConnection", "RdpOptions", "State"]

_DUPLICATE_ACKS = 2
# Segments repeated per timer: the whole window of a real node, a probe of a bigger one.
_TIMER_BURST = 4
# Acknowledgements may always come sooner than the client proposes. csh's 2 s would stretch the
# round trip so far that only a few repetitions fit into its 10 s: at 30 % loss too few.
_MAX_ACK_DELAY_S = 0.25
# Repetition of SYN, SYN/ACK and RST, if the packet timeout is longer.
_CONTROL_REPEAT_S = 1.0


@dataclass(slots=True)
class _InFlight:
    data: bytes
    sent_at: float
    repeated: bool = False


class RdpConnection:
    """One end of a connection. Made by `connect` or `accept`.

    `outgoing` holds (payload, is data); the owner sends and clears it after every call.
    """

    def __init__(
        self, options: RdpOptions, iss: int, rolling: Callable[[], int], state: State, now: float
    ) -> None:
        self.options = options
        self.state = state
        self.end: End | None = None
        self.outgoing: list[tuple[bytes, bool]] = []
        self.retransmissions = 0
        self.last_heard = now
        self._rolling = rolling
        self._window = options.window
        self._incoming = Reassembly(self._window)
        self.received = self._incoming.ready
        self._packet_timeout_s = options.packet_timeout_ms / 1000
        self._control_timeout_s = min(self._packet_timeout_s, _CONTROL_REPEAT_S)
        self._conn_timeout_s = options.conn_timeout_ms / 1000
        self._ack_timeout_s = min(options.ack_timeout_ms / 1000, _MAX_ACK_DELAY_S)
        # With a window smaller than the delay count the peer would stall until the ack timeout.
        self._ack_above = min(options.ack_delay_count, self._window - 1)
        self._iss = iss
        self._snd_nxt = (iss + 1) & 0xFFFF
        self._in_flight: deque[_InFlight] = deque()
        self._rcv_irs = 0
        self._rcv_acked = 0
        self._peer_reset_seq: int | None = None
        self._progress_at = now
        self._acked_at = now
        self._control_at = now
        self._same_acks = 0
        self._recover_until: int | None = None
        self._recover_at = now
        self._is_stalled = False
        self._repeat = RepeatTimer(self._packet_timeout_s, self._conn_timeout_s)
        self._started_at = now

    @classmethod
    def connect(
        cls, options: RdpOptions, iss: int, rolling: Callable[[], int], now: float
    ) -> RdpConnection:
        """Start as client: a SYN is outgoing."""
        self = cls(options.bounded(), iss, rolling, State.SYN_SENT, now)
        self._send_syn(now)
        return self

    @classmethod
    def accept(
        cls, syn: Segment, iss: int, rolling: Callable[[], int], now: float
    ) -> RdpConnection:
        """Start as server from a SYN: a SYN/ACK is outgoing. Raises DecodeError without options."""
        self = cls(RdpOptions.decode(syn.data).bounded(), iss, rolling, State.SYN_RCVD, now)
        self._rcv_irs = self._incoming.newest = self._rcv_acked = syn.seq
        self._send_control(SYN | ACK, iss, now)
        return self

    # -- what the owner asks

    @property
    def writable(self) -> bool:
        """Whether `send` would be accepted now."""
        return self.state is State.OPEN and len(self._in_flight) < self._window

    @property
    def unacknowledged(self) -> int:
        """How many data packets the peer has not acknowledged."""
        return len(self._in_flight)

    @property
    def half_open(self) -> bool:
        """Whether the handshake is still under way."""
        return self.state in (State.SYN_SENT, State.SYN_RCVD)

    def opened_by(self, syn: Segment) -> bool:
        """Tell whether a SYN is a repetition of the one that made this connection."""
        return self.state is not State.CLOSED and syn.seq == self._rcv_irs

    # -- sending

    def send(self, data: bytes, now: float) -> None:
        """Send one packet of data. Raises MisuseError unless `writable` and the data not empty."""
        if not self.writable:
            raise MisuseError(f"cannot send: {self.state.value}, {self.unacknowledged} in flight")
        if not data:
            raise MisuseError("RDP cannot carry an empty packet")
        if not self._in_flight:
            self._progress_at = now
        self._in_flight.append(_InFlight(data, now))
        self._send_data(data, self._snd_nxt, now)
        self._snd_nxt = (self._snd_nxt + 1) & 0xFFFF

    def read(self, now: float) -> bytes:
        """Take the oldest data received; room for more is made known. Raises IndexError if none."""
        crowded = self._incoming.crowded
        data = self.received.popleft()
        if crowded and self.state is State.OPEN:
            self._acknowledge(now, at_once=True)
        return data

    def close(self, now: float) -> None:
        """Say that no more data will come; unacknowledged data is still repeated."""
        if self.state is State.SYN_SENT:
            self.outgoing.append((Segment(RST, self._snd_nxt, 0).encode(self._rolling()), False))
            self._finish(End.LOCAL)
        elif self.state in (State.SYN_RCVD, State.OPEN):
            self.state = State.CLOSE_WAIT
            self._progress_at = self.last_heard = now
            self._send_reset(now)

    def abort(self, end: End, now: float) -> None:
        """Give the connection up at once, telling the peer if it listens.

        The reset is a bare one, as libcsp answers for a connection it does not know: one with an
        acknowledgement would say that all data was sent, and the peer would take a part for the
        whole.
        """
        if self.state is not State.CLOSED:
            self._send_control(RST, self._snd_nxt, now)
            self._finish(end)

    def _send_syn(self, now: float) -> None:
        syn = Segment(SYN, self._iss, 0, self.options.encode())
        self.outgoing.append((syn.encode(self._rolling()), False))
        self._control_at = now

    def _send_control(self, flags: int, seq: int, now: float) -> None:
        payload = TRAILER.pack(flags | self._rolling() << 4, seq, self._incoming.newest)
        self.outgoing.append((payload, False))
        self._control_at = now
        self._note_acknowledged(now)

    def _send_ack(self, now: float) -> None:
        self._send_control(ACK, self._snd_nxt, now)

    def _send_reset(self, now: float) -> None:
        self._send_control(RST | ACK, self._snd_nxt, now)

    def _send_data(self, data: bytes, seq: int, now: float) -> None:
        self.outgoing.append((data + TRAILER.pack(ACK, seq, self._incoming.newest), True))
        self._note_acknowledged(now)

    def _note_acknowledged(self, now: float) -> None:
        self._rcv_acked = self._incoming.newest
        self._acked_at = now

    def _repeat_oldest(self, count: int, now: float) -> None:
        """Send the oldest unacknowledged packets again."""
        first = self._snd_nxt - len(self._in_flight)
        for offset in range(min(count, len(self._in_flight))):
            packet = self._in_flight[offset]
            packet.sent_at = now
            packet.repeated = True
            self.retransmissions += 1
            self._send_data(packet.data, (first + offset) & 0xFFFF, now)
        self._same_acks = 0

    def _finish(self, end: End) -> None:
        self.state = State.CLOSED
        self.end = end
        self._incoming.drop_early()

    # -- receiving

    def receive(self, segment: Segment, now: float) -> None:
        """Take a segment of this connection. Invalid ones are ignored."""
        handler = _RECEIVE.get(self.state)
        if handler is not None:
            handler(self, segment, now)

    def _receive_syn_sent(self, segment: Segment, now: float) -> None:
        flags = segment.flags
        if flags & RST:
            if segment.ack == self._iss:
                self._finish(End.REFUSED)
        elif flags & SYN and flags & ACK and segment.ack == self._iss:
            self._rcv_irs = self._incoming.newest = self._rcv_acked = segment.seq
            self._open(now)
            self._send_ack(now)
        elif flags & ACK:
            # The peer still has a connection from before our reboot: csp.md 6.3, "not-SYN".
            reset = reset_for(segment)
            if reset is not None:
                self.outgoing.append((reset.encode(self._rolling()), False))

    def _receive_syn_rcvd(self, segment: Segment, now: float) -> None:
        flags = segment.flags
        if flags & SYN:
            return
        if flags & RST:
            if segment.seq == self._incoming.expected:
                self._finish(End.PEER)
        elif flags & ACK and segment.ack == self._iss and self._incoming.ahead(segment.seq):
            self._open(now)
            self._receive_open(segment, now)

    def _open(self, now: float) -> None:
        self.state = State.OPEN
        # From the first try on: at worst too long, and corrected by the first packets.
        self._repeat.measured(now - self._started_at)
        self.last_heard = self._progress_at = now

    def _receive_open(self, segment: Segment, now: float) -> None:
        flags = segment.flags
        if flags & SYN:
            if flags & ACK and segment.seq == self._rcv_irs:
                # Our acknowledgement of the SYN/ACK was lost.
                self._send_ack(now)
            return
        if flags & RST:
            self._take_reset(segment, now)
            return
        if not flags & ACK or not self._take_ack(segment, now):
            return
        self.last_heard = now
        if segment.data:
            self._take_data(segment, now)

    def _take_reset(self, segment: Segment, now: float) -> None:
        ahead = self._incoming.ahead(segment.seq)
        if not ahead:
            return
        if not segment.flags & ACK:
            # The peer has no such connection (any more): what is missing will never come.
            self._finish(End.ABORTED)
            return
        self._take_ack(segment, now)
        self._peer_reset_seq = segment.seq
        self._end_if_complete(now)

    def _end_if_complete(self, now: float) -> None:
        if self._peer_reset_seq == self._incoming.expected:
            self._send_reset(now)
            self._finish(End.PEER)

    def _take_ack(self, segment: Segment, now: float) -> bool:
        """Drop what the peer has; return False if its acknowledgement is out of range."""
        outstanding = len(self._in_flight)
        # Distance of the acknowledged number behind the newest one sent.
        behind = (self._snd_nxt - 1 - segment.ack) & 0xFFFF
        if behind > outstanding + 2 * self._window:
            return False
        if behind < outstanding:
            for _ in range(outstanding - behind):
                packet = self._in_flight.popleft()
            if not packet.repeated:
                self._repeat.measured(now - packet.sent_at)
            self._progress_at = now
            self._is_stalled = False
            self._same_acks = 0
            self._repair_next_gap(segment.ack, now)
        elif behind == outstanding and outstanding and not segment.data:
            self._same_acks += 1
            if self._same_acks == _DUPLICATE_ACKS and self._recover_until is None:
                self._recover(1, now)
        return True

    def _recover(self, count: int, now: float) -> None:
        """Repeat the oldest packets and watch for gaps among those sent until now."""
        self._recover_until, self._recover_at = self._snd_nxt, now
        self._repeat_oldest(count, now)

    def _repair_next_gap(self, ack: int, now: float) -> None:
        if self._recover_until is None:
            return
        if (ack + 1 - self._recover_until) & 0xFFFF < 0x8000:
            self._recover_until = None
        elif self._in_flight[0].sent_at < self._recover_at:
            self._repeat_oldest(1, now)

    def _take_data(self, segment: Segment, now: float) -> None:
        incoming = self._incoming
        ahead, had_gap = incoming.ahead(segment.seq), incoming.has_gap
        if incoming.add(segment.seq, segment.data):
            self._end_if_complete(now)
            if self.state is State.OPEN:
                self._acknowledge(now, at_once=had_gap)
        elif ahead != 1:
            # Early or repeated: tell the peer at once what is missing or had arrived.
            self._send_ack(now)

    def _acknowledge(self, now: float, *, at_once: bool) -> None:
        waiting = (self._incoming.newest - self._rcv_acked) & 0xFFFF
        # Acknowledging invites a window of packets: while the reader is behind they would be lost.
        if not waiting or self._incoming.crowded:
            return
        if (
            at_once
            or not self.options.delayed_acks
            or waiting > self._ack_above
            or now >= self._acked_at + self._ack_timeout_s
        ):
            self._send_ack(now)

    def _receive_close_wait(self, segment: Segment, now: float) -> None:
        if segment.flags & ACK:
            outstanding = len(self._in_flight)
            if not self._take_ack(segment, now):
                return
            if len(self._in_flight) < outstanding:
                self.last_heard = now
        if segment.flags & RST:
            self._finish(End.LOCAL)
        elif segment.flags & ACK:
            self._send_reset(now)

    # -- time

    def deadline(self) -> float | None:
        """Return when `on_timer` is due, in the caller's monotonic seconds; None when closed."""
        if self.state is State.CLOSED:
            return None
        when = self.last_heard + self._conn_timeout_s
        if self.state is not State.OPEN:
            when = min(when, self._control_at + self._control_timeout_s)
        elif self._rcv_acked != self._incoming.newest:
            when = min(when, self._acked_at + self._ack_timeout_s)
        if self._in_flight:
            when = min(when, self._repeat_at())
        return when

    def _repeat_at(self) -> float:
        if self._is_stalled:
            return self._in_flight[0].sent_at + self._repeat.again_s
        return max(self._in_flight[0].sent_at, self._progress_at) + self._repeat.after_s

    def on_timer(self, now: float) -> None:
        """Do what is due at `now`; harmless if nothing is."""
        if self.state is State.CLOSED:
            return
        if now >= self.last_heard + self._conn_timeout_s:
            self._time_out(now)
            return
        if self._in_flight and now >= self._repeat_at():
            self._recover(1 if self._is_stalled else _TIMER_BURST, now)
            self._is_stalled = True
        if self.state is State.OPEN:
            if (
                self._rcv_acked != self._incoming.newest
                and now >= self._acked_at + self._ack_timeout_s
            ):
                self._send_ack(now)
        elif now >= self._control_at + self._control_timeout_s:
            self._repeat_control(now)

    def _time_out(self, now: float) -> None:
        if self.state is State.OPEN:
            self.abort(End.TIMEOUT, now)
            return
        closing = self.state is State.CLOSE_WAIT and not self._in_flight
        self._finish(End.LOCAL if closing else End.TIMEOUT)

    def _repeat_control(self, now: float) -> None:
        if self.state is State.SYN_SENT:
            self._send_syn(now)
        elif self.state is State.SYN_RCVD:
            self._send_control(SYN | ACK, self._iss, now)
        else:
            self._send_reset(now)


_RECEIVE: dict[State, Callable[[RdpConnection, Segment, float], None]] = {
    State.SYN_SENT: RdpConnection._receive_syn_sent,
    State.SYN_RCVD: RdpConnection._receive_syn_rcvd,
    State.OPEN: RdpConnection._receive_open,
    State.CLOSE_WAIT: RdpConnection._receive_close_wait,
}
