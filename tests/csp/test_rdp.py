"""The RDP machine alone: exact bytes, states, and nothing unnamed on any input."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.errors import DecodeError, MisuseError
from csp.rdp import End, RdpConnection, RdpOptions, State
from csp.rdp_window import Reassembly, RepeatTimer
from csp.rdp_wire import ACK, RST, SYN, RdpFlag, Segment, decode_segment, reset_for

VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text())["vectors"]
LIST = next(vector for vector in VECTORS if vector["name"] == "list_download_excerpt")
CSH = RdpOptions(
    window=3,
    conn_timeout_ms=10_000,
    packet_timeout_ms=5_000,
    delayed_acks=True,
    ack_timeout_ms=2_000,
    ack_delay_count=2,
)


def counter():
    rolling = itertools.count()
    return lambda: next(rolling) & 15


def payload_of(frame):
    return bytes.fromhex(frame["frame_hex"])[6:-4]


def sent(machine):
    """Take what a machine wants to send, decoded."""
    segments = [decode_segment(payload) for payload, _ in machine.outgoing]
    machine.outgoing.clear()
    return segments


def opened(options=None, server_iss=500, client_iss=100):
    """Return an open client and server, nothing in flight."""
    client = RdpConnection.connect(options or RdpOptions(), client_iss, counter(), 0.0)
    [syn] = sent(client)
    server = RdpConnection.accept(syn, server_iss, counter(), 0.0)
    exchange(client, server, 0.0)
    assert client.state is server.state is State.OPEN
    return client, server


def exchange(one, other, now):
    """Carry segments between two machines until both are silent."""
    while one.outgoing or other.outgoing:
        for sender, receiver in ((one, other), (other, one)):
            for segment in sent(sender):
                receiver.receive(segment, now)


@pytest.mark.parametrize("window", [1, 3, 40, 100])
def test_bursts_that_the_reader_does_not_keep_up_with_lose_nothing(window):
    """Seen with the C node and a window of 40: a burst without a read cost two seconds."""
    options = RdpOptions(window=window, delayed_acks=True, ack_delay_count=window // 2)
    client, server = opened(options)
    packets = [index.to_bytes(2, "big") for index in range(1000)]
    left, read = packets[:], []
    while len(read) < len(packets):
        # The peer says all it may say before the reader gets its turn.
        progress = True
        while progress:
            progress = False
            while left and server.writable:
                server.send(left.pop(0), 1.0)
            progress = bool(server.outgoing)
            exchange(client, server, 1.0)
        assert client.received
        assert not server.retransmissions
        for _ in range(len(client.received)):
            read.append(client.read(1.0))
        exchange(client, server, 1.0)
    assert read == packets


@pytest.mark.parametrize("frame", LIST["frames"])
def test_captured_trailers(frame):
    payload, rdp = payload_of(frame), frame["decoded"]["rdp"]
    segment = decode_segment(payload)
    flags = rdp["syn"] * SYN | rdp["ack"] * ACK | rdp["eak"] * RdpFlag.EAK | rdp["rst"] * RST
    assert segment == Segment(
        flags, rdp["seq"], rdp["ack_nr"], bytes.fromhex(frame["decoded"]["payload_hex"])
    )
    assert segment.encode(rdp["rolling"]) == payload


def test_captured_syn_options():
    syn = decode_segment(payload_of(LIST["frames"][0]))
    assert RdpOptions.decode(syn.data) == CSH
    assert CSH.encode() == syn.data


def test_server_answers_the_captured_client_as_the_reference_does():
    syn, syn_ack, ack, entry, *_ = [payload_of(frame) for frame in LIST["frames"]]
    server = RdpConnection.accept(decode_segment(syn), 24040, counter(), 0.0)
    assert server.outgoing == [(syn_ack, False)]
    server.outgoing.clear()
    server.receive(decode_segment(ack), 0.01)
    assert server.state is State.OPEN
    assert server.outgoing == []
    server.send(entry[:-5], 0.01)
    assert server.outgoing == [(entry, True)]


def test_server_closes_with_reset_and_finishes_on_the_clients_reset():
    client, server = opened(CSH)
    server.close(1.0)
    [reset] = sent(server)
    assert (reset.flags, reset.seq, reset.ack) == (RST | ACK, 501, 100)
    client.receive(reset, 1.0)
    assert (client.state, client.end) == (State.CLOSED, End.PEER)
    [answer] = sent(client)
    assert (answer.flags, answer.seq, answer.ack) == (RST | ACK, 101, 500)
    server.receive(answer, 1.0)
    assert (server.state, server.end) == (State.CLOSED, End.LOCAL)
    assert server.deadline() is None
    assert not server.outgoing


def test_client_acknowledges_after_every_third_packet_with_csh_options():
    client, server = opened(CSH)
    for number in range(3):
        server.send(b"x", 0.1)
        [segment] = sent(server)
        client.receive(segment, 0.1)
        answers = sent(client)
        assert [answer.ack for answer in answers] == ([503] if number == 2 else [])
    assert not server.writable
    server.receive(answers[0], 0.1)
    assert server.writable


def test_without_delayed_acks_every_packet_is_acknowledged():
    client, server = opened(RdpOptions(delayed_acks=False))
    server.send(b"x", 1.0)
    client.receive(sent(server)[0], 1.0)
    assert [answer.ack for answer in sent(client)] == [501]


def test_delayed_ack_comes_with_the_ack_timeout():
    client, server = opened()
    server.send(b"x", 0.1)
    client.receive(sent(server)[0], 0.1)
    assert sent(client) == []
    assert client.deadline() == pytest.approx(0.25)
    client.on_timer(0.25)
    assert [answer.ack for answer in sent(client)] == [501]


def test_acknowledgements_do_not_wait_as_long_as_csh_proposes():
    client, server = opened(CSH)
    server.send(b"x", 0.1)
    client.receive(sent(server)[0], 0.1)
    assert client.deadline() == pytest.approx(0.25)


def test_window_of_one_is_acknowledged_at_once():
    client, server = opened(RdpOptions(window=1))
    server.send(b"x", 0.1)
    client.receive(sent(server)[0], 0.1)
    assert len(sent(client)) == 1


def test_unacknowledged_data_is_repeated_after_the_packet_timeout():
    client, server = opened()
    server.send(b"lost", 1.0)
    sent(server)
    assert server.deadline() == pytest.approx(2.0)
    server.on_timer(1.9)
    assert sent(server) == []
    server.on_timer(2.0)
    [again] = sent(server)
    assert (again.seq, again.data) == (501, b"lost")
    client.receive(again, 2.0)
    assert list(client.received) == [b"lost"]


def test_gap_is_reported_at_once_and_repaired_without_timer():
    client, server = opened()
    for text in (b"1", b"2", b"3", b"4"):
        server.send(text, 1.0)
    lost, *arrived = sent(server)
    for segment in arrived:
        client.receive(segment, 1.0)
    assert list(client.received) == []
    for answer in sent(client):
        assert answer.ack == 500
        server.receive(answer, 1.1)
    [again] = sent(server)
    assert again.seq == lost.seq
    client.receive(again, 1.1)
    assert list(client.received) == [b"1", b"2", b"3", b"4"]


def test_early_reset_closes_once_the_gap_is_filled():
    client, server = opened()
    server.send(b"last", 1.0)
    server.close(1.0)
    data, reset = sent(server)
    client.receive(reset, 1.0)
    assert client.state is State.OPEN
    client.receive(data, 1.0)
    assert client.end is End.PEER
    assert list(client.received) == [b"last"]


@pytest.mark.parametrize("gap", [False, True])
def test_a_bare_reset_ends_the_connection_without_calling_it_complete(gap):
    client, server = opened()
    server.send(b"first", 1.0)
    first = sent(server)
    server.send(b"second", 1.0)
    second = sent(server)
    server.abort(End.RECLAIMED, 1.0)
    [reset] = sent(server)
    assert (reset.flags, reset.seq) == (RST, 503)
    for segment in (*first, *(() if gap else second), reset):
        client.receive(segment, 1.0)
    assert client.end is End.ABORTED
    assert list(client.received) == [b"first", b"second"][: 1 if gap else 2]


def test_a_repetition_that_was_not_answered_is_followed_by_more_of_one_packet():
    client, server = opened()
    for text in (b"1", b"2", b"3"):
        server.send(text, 1.0)
    sent(server)
    again = []
    for _ in range(6):
        now = server.deadline()
        server.on_timer(now)
        again.append((round(now, 1), len(sent(server))))
    assert again == [(2.0, 3), (2.5, 1), (3.0, 1), (3.5, 1), (4.0, 1), (4.5, 1)]
    assert client.state is State.OPEN


def test_reset_with_a_foreign_number_is_ignored():
    client, _ = opened()
    for seq in (0, 400, 500, 900, 65_535):
        client.receive(Segment(RST, seq, 100), 1.0)
    assert client.state is State.OPEN


def test_second_syn_is_ignored_and_the_answer_repeated_by_timer():
    client = RdpConnection.connect(RdpOptions(), 100, counter(), 0.0)
    [syn] = sent(client)
    server = RdpConnection.accept(syn, 500, counter(), 0.0)
    [first] = sent(server)
    assert server.opened_by(syn)
    server.receive(syn, 0.1)
    assert sent(server) == []
    server.on_timer(1.0)
    assert sent(server) == [first]


def test_control_packets_carry_a_rolling_nibble_and_data_none():
    _, server = opened()
    server.send(b"x", 0.0)
    [(data, _)] = server.outgoing
    assert data[-5] >> 4 == 0
    server.outgoing.clear()
    server.close(0.0)
    first = server.outgoing.pop()[0]
    server.on_timer(1.0)
    second = server.outgoing[-1][0]
    assert (second[-5] >> 4) - (first[-5] >> 4) & 15 == 1
    assert second[-5] & 15 == first[-5] & 15


def test_acknowledgement_out_of_range_is_ignored():
    _, server = opened()
    server.send(b"x", 0.0)
    server.receive(Segment(ACK, 101, 600, b"data"), 0.0)
    server.receive(Segment(ACK, 101, 480, b"data"), 0.0)
    assert server.unacknowledged == 1
    assert not server.received


def test_connection_ends_after_silence():
    client, server = opened()
    server.send(b"x", 0.0)
    now = 0.0
    while server.state is not State.CLOSED:
        now = server.deadline()
        server.on_timer(now)
    assert now == pytest.approx(10.0)
    assert server.end is End.TIMEOUT
    client.on_timer(10.0)
    assert client.end is End.TIMEOUT


def test_refused_connection():
    client = RdpConnection.connect(RdpOptions(), 100, counter(), 0.0)
    [syn] = sent(client)
    client.receive(Segment(RST, 0, 77), 0.0)
    assert client.state is State.SYN_SENT
    client.receive(reset_for(syn), 0.0)
    assert client.end is End.REFUSED


def test_acknowledgement_instead_of_a_syn_ack_is_reset():
    client = RdpConnection.connect(RdpOptions(), 100, counter(), 0.0)
    sent(client)
    client.receive(Segment(ACK, 7, 40, b"old"), 0.0)
    [reset] = sent(client)
    assert (reset.flags, reset.seq) == (RST, 41)
    assert client.state is State.SYN_SENT


def test_misuse_is_named():
    client, server = opened(RdpOptions(window=1))
    with pytest.raises(MisuseError):
        server.send(b"", 0.0)
    server.send(b"x", 0.0)
    with pytest.raises(MisuseError):
        server.send(b"y", 0.0)
    client.close(0.0)
    with pytest.raises(MisuseError):
        client.send(b"x", 0.0)


@pytest.mark.parametrize("size", range(5))
def test_segments_without_trailer_are_refused(size):
    with pytest.raises(DecodeError):
        decode_segment(bytes(size))


@given(st.integers(0, 15), st.integers(0, 65535), st.integers(0, 65535), st.binary(max_size=50))
def test_segment_round_trip(flags, seq, ack, data):
    segment = Segment(flags, seq, ack, data)
    for rolling in (0, 15):
        assert decode_segment(segment.encode(rolling)) == segment


@given(st.tuples(*[st.integers(0, 2**32 - 1)] * 6))
def test_any_options_become_bounded(values):
    window, conn, packet, delayed, ack, count = values
    options = RdpOptions(
        window=window,
        conn_timeout_ms=conn,
        packet_timeout_ms=packet,
        delayed_acks=bool(delayed),
        ack_timeout_ms=ack,
        ack_delay_count=count,
    )
    assert RdpOptions.decode(options.encode()) == options
    bounded = options.bounded()
    assert 1 <= bounded.window <= 64
    assert 110 <= bounded.packet_timeout_ms <= bounded.conn_timeout_ms <= 600_000
    assert bounded.bounded() == bounded


@settings(max_examples=50)
@given(st.randoms(use_true_random=False))
def test_random_segments_never_break_a_machine(rng):
    client, server = opened()
    machine = rng.choice((client, server))
    now = 0.0
    for _ in range(200):
        seq = rng.choice((100, 500)) + rng.randrange(-12, 12)
        ack = rng.choice((100, 500)) + rng.randrange(-12, 12)
        data = rng.choice((b"", b"", b"data"))
        machine.receive(Segment(rng.randrange(16), seq, ack, data), now)
        action = rng.randrange(10)
        if action == 0:
            now = machine.deadline() or now
            machine.on_timer(now)
        elif action == 1 and machine.writable:
            machine.send(b"x", now)
        elif action == 2 and rng.random() < 0.1:
            machine.close(now)
        machine.outgoing.clear()
        assert machine.unacknowledged <= 4
        assert len(machine.received) <= 64 + 4


@given(st.permutations(range(8)), st.integers(0, 65535))
def test_reassembly_orders_any_permutation(order, newest):
    incoming = Reassembly(8)
    incoming.newest = newest
    for number in order:
        incoming.add((newest + 1 + number) & 0xFFFF, bytes((number,)))
    assert b"".join(incoming.ready) == bytes(range(8))
    assert incoming.newest == (newest + 8) & 0xFFFF
    assert not incoming.has_gap


def test_reassembly_is_bounded_when_nobody_reads():
    incoming = Reassembly(4)
    for number in range(1, 1000):
        incoming.add(number, b"x")
        incoming.add(number + 2, b"early")
    assert len(incoming.ready) <= 64 + 4


def test_repeat_timer_follows_the_round_trip_within_its_bounds():
    timer = RepeatTimer(5.0, 10.0)
    assert timer.after_s == 5.0
    timer.measured(0.01)
    assert timer.after_s == 1.0
    for _ in range(50):
        timer.measured(1.2)
    assert 1.2 <= timer.after_s <= 2.0
    for _ in range(50):
        timer.measured(30.0)
    # Some tries fit into the connection timeout, although acknowledgements came that late.
    assert (timer.after_s, timer.again_s) == (2.0, 0.5)
    distant = RepeatTimer(5.0, 10.0)
    distant.measured(4.0)
    assert (distant.after_s, distant.again_s) == (5.0, 2.0)


def test_a_reset_answers_everything_but_a_reset():
    assert reset_for(Segment(RST, 1, 2)) is None
    assert reset_for(Segment(ACK, 7, 9)) == Segment(RST, 10, 7)
    assert reset_for(Segment(SYN, 7, 0)) == Segment(RST, 0, 7)


def test_open_pair_moves_data_both_ways_over_a_shuffling_channel():
    rng = random.Random(7)
    client, server = opened(RdpOptions(window=8))
    written, read, wires = ({client: [], server: []} for _ in range(3))
    now = 0.0
    while min(map(len, read.values())) < 300:
        now += 0.05
        for machine, peer in ((client, server), (server, client)):
            if machine.writable:
                data = rng.randbytes(3)
                written[machine].append(data)
                machine.send(data, now)
            wires[peer] += sent(machine)
            rng.shuffle(wires[peer])
            while wires[peer] and rng.random() < 0.8:
                segment = wires[peer].pop()
                if rng.random() > 0.1:
                    peer.receive(segment, now)
            if machine.deadline() <= now:
                machine.on_timer(now)
            while machine.received:
                read[machine].append(machine.received.popleft())
    for machine, peer in ((client, server), (server, client)):
        assert read[peer] == written[machine][: len(read[peer])]
