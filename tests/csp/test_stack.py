from __future__ import annotations

import random

import pytest

from csp.connection import MAX_CONNECTIONS
from csp.errors import MisuseError, NoResponse
from csp.guard import Guard
from csp.hmac import derive_key
from csp.packet import MAX_PAYLOAD_BYTES, Packet, broadcast_address, decode_frame, encode_frame
from csp.sched import Scheduler
from csp.stack import Stack
from csp.testing import FakeNode, Faults, Network, random_frame

ME, OTHER = 9, 20


class Bench:
    """One stack whose interface records what it sends."""

    def __init__(self, version=2, **options):
        self.scheduler = Scheduler()
        self.stack = Stack(self.scheduler, version=version, rng=random.Random(1), **options)
        self.sent: list[bytes] = []
        self.interface = self.stack.add_interface("IF", ME, self.sent.append)
        self.stack.bind(1, lambda packet: packet.data, crc_required=True)
        self.version = version

    def receive(self, **fields):
        values = {"dst": ME, "src": OTHER, "dport": 1, "sport": 18, "data": b"hello", **fields}
        self.stack.receive(self.interface, encode_frame(Packet(**values), self.version))
        self.scheduler.advance(self.scheduler.now)

    @property
    def answers(self):
        return [decode_frame(frame, self.version) for frame in self.sent]


@pytest.mark.parametrize("version", [1, 2])
def test_reply_goes_back_with_priority_and_flags(version):
    bench = Bench(version)
    bench.receive(prio=3, flags=1)
    assert bench.answers == [
        Packet(prio=3, dst=OTHER, src=ME, dport=18, sport=1, flags=1, data=b"hello")
    ]


@pytest.mark.parametrize("destination", [ME, 63, broadcast_address(2)])
def test_own_address_and_both_broadcasts_are_accepted_and_answered_from_the_own(destination):
    bench = Bench()
    bench.receive(dst=destination)
    assert [answer.src for answer in bench.answers] == [ME]


@pytest.mark.parametrize("destination", [8, 10, 62, 64, 127, 16382, 0])
def test_a_leaf_drops_what_is_not_for_it(destination):
    bench = Bench()
    bench.receive(dst=destination)
    assert bench.sent == []
    assert bench.stack.counters.not_for_us == 1


def test_unbound_ports_are_silent_and_counted():
    bench = Bench()
    bench.receive(dport=9)
    bench.receive(dport=40)
    assert bench.sent == []
    assert bench.stack.counters.unbound == 2


def test_missing_checksum_is_refused_where_required():
    bench = Bench()
    bench.stack.bind(2, lambda packet: b"fine")
    bench.receive(flags=0)
    assert bench.sent == []
    assert bench.stack.counters.crc_missing == 1
    bench.receive(flags=0, dport=2)
    assert [answer.flags for answer in bench.answers] == [0]


def test_wrong_checksum_is_counted_and_dropped():
    bench = Bench()
    frame = bytearray(encode_frame(Packet(dst=ME, src=OTHER, dport=1, sport=18, data=b"x")))
    frame[-1] ^= 1
    bench.stack.receive(bench.interface, bytes(frame))
    assert bench.sent == []
    assert bench.interface.counters.rx_error == 1


@pytest.mark.parametrize("size", range(6))
def test_frames_without_header_are_counted(size):
    bench = Bench()
    bench.stack.receive(bench.interface, bytes(size))
    assert bench.interface.counters.frame == 1


def test_oversized_frames_are_dropped():
    bench = Bench()
    frame = encode_frame(Packet(dst=ME, src=OTHER, dport=1, sport=18, flags=0))
    bench.stack.receive(bench.interface, frame + bytes(MAX_PAYLOAD_BYTES + 1))
    assert bench.interface.counters.rx_error == 1


def test_identical_frames_within_100_ms_count_once():
    bench = Bench()
    bench.receive()
    bench.receive()
    assert len(bench.sent) == 1
    bench.scheduler.advance(0.09)
    bench.receive()
    assert len(bench.sent) == 1
    bench.scheduler.advance(0.11)
    bench.receive()
    assert len(bench.sent) == 2
    assert bench.stack.counters.duplicate == 2


def test_duplicate_filter_remembers_sixteen_frames():
    bench = Bench()
    for number in range(17):
        bench.receive(data=bytes((number,)))
    bench.receive(data=bytes((1,)))
    assert len(bench.sent) == 17
    bench.receive(data=bytes((0,)))
    assert len(bench.sent) == 18


def test_handler_may_answer_with_many_packets_or_none():
    bench = Bench()
    bench.stack.bind(2, lambda packet: (bytes((number,)) for number in range(3)))
    bench.stack.bind(3, lambda packet: None)
    bench.receive(dport=2)
    bench.receive(dport=3)
    assert [answer.data for answer in bench.answers] == [b"\0", b"\1", b"\2"]


def test_fault_of_a_handler_is_recorded_and_stops_nothing():
    bench = Bench()
    bench.stack.bind(2, lambda packet: 1 // 0)
    bench.receive(dport=2)
    bench.receive()
    assert len(bench.sent) == 1
    assert bench.stack.counters.handler_faults == 1
    assert isinstance(bench.stack.faults[0][1], ZeroDivisionError)


def test_late_reply():
    bench = Bench()
    waiting = []
    bench.stack.bind(2, waiting.append)
    bench.receive(dport=2, prio=1)
    bench.stack.reply(waiting[0], b"late")
    assert bench.answers == [
        Packet(prio=1, dst=OTHER, src=ME, dport=18, sport=2, flags=1, data=b"late")
    ]


def test_counters_of_an_interface():
    bench = Bench()
    bench.receive()
    counters = bench.interface.counters
    assert (counters.rx, counters.rxbytes, counters.tx, counters.txbytes) == (1, 9, 1, 9)


def test_a_link_that_fails_is_counted():
    bench = Bench()

    def broken(frame):
        raise OSError("no carrier")

    bench.interface.send = broken
    bench.receive()
    assert bench.interface.counters.tx_error == 1


def test_taps_see_both_directions():
    bench = Bench()
    seen = []
    bench.stack.taps.append(lambda direction, packet, frame: seen.append((direction, packet.src)))
    bench.receive()
    assert seen == [("rx", OTHER), ("tx", ME)]


def test_routes_by_subnet_then_default():
    stack = Stack(Scheduler(), rng=random.Random(1))
    near, far = [], []
    stack.add_interface("NEAR", 9, near.append)
    stack.add_interface("FAR", 300, far.append, default=True)
    assert stack.address == 300
    for node in (10, 301, 1000):
        stack.send(node, 1, b"")
    assert [decode_frame(frame).src for frame in near] == [9]
    assert [decode_frame(frame).dst for frame in far] == [301, 1000]


def test_without_interface_packets_are_counted_as_lost():
    stack = Stack(Scheduler())
    stack.send(5, 1, b"")
    assert stack.counters.no_route == 1
    assert stack.address == 0


@pytest.mark.parametrize("node", [0, ME])
def test_requests_to_oneself_stay_here(node):
    bench = Bench()
    task = bench.scheduler.spawn(bench.stack.request(node, 1, b"me"))
    assert bench.scheduler.run_virtual(task) == b"me"
    assert bench.sent == []


def test_request_between_nodes_and_its_deadline():
    network = Network(faults=Faults(delay_s=0.1))
    asking = network.add(OTHER)
    fake = FakeNode(network.add(ME), {5: b"answer", 6: None, 7: lambda packet: packet.data * 2})
    assert network.run(asking.request(ME, 5, b"question")) == b"answer"
    assert network.run(asking.request(ME, 7, b"ab")) == b"abab"
    with pytest.raises(NoResponse):
        network.run(asking.request(ME, 6, b"", timeout_s=0.5))
    assert network.scheduler.now == pytest.approx(0.9)
    assert [packet.dport for packet in fake.seen] == [5, 7, 6]


def test_answers_of_all_nodes_to_a_broadcast_can_be_read():
    network = Network()
    asking = network.add(OTHER)
    for node in (1, 2, 3):
        FakeNode(network.add(node), {1: b"here"})

    async def everybody():
        with asking.open(broadcast_address(2), 1) as client:
            client.send(b"")
            return {(await client.receive_packet(1.0)).src for _ in range(3)}

    assert network.run(everybody()) == {1, 2, 3}


def test_answers_from_elsewhere_are_not_taken():
    bench = Bench()
    with bench.stack.open(OTHER, 5) as client:
        bench.receive(src=OTHER + 1, dport=client.local_port, sport=5, data=b"forged")
        bench.receive(src=OTHER, dport=client.local_port, sport=6, data=b"other port")
        bench.receive(src=OTHER, dport=client.local_port, sport=5, data=b"real")
        task = bench.scheduler.spawn(client.receive(1.0))
        assert bench.scheduler.run_virtual(task) == b"real"


def test_client_ports_rotate_come_back_and_are_bounded():
    bench = Bench()
    with bench.stack.open(OTHER, 5) as first, bench.stack.open(OTHER, 5) as second:
        assert first.local_port != second.local_port
    clients = [bench.stack.open(OTHER, 5) for _ in range(47)]
    assert {client.local_port for client in clients} == set(range(17, 64))
    with pytest.raises(MisuseError):
        bench.stack.open(OTHER, 5)
    clients[3].close()
    assert bench.stack.open(OTHER, 5).local_port == clients[3].local_port


@pytest.mark.parametrize("port", [-1, 17, 63])
def test_only_server_ports_can_be_bound(port):
    bench = Bench()
    with pytest.raises(MisuseError):
        bench.stack.bind(port, lambda packet: None)
    with pytest.raises(MisuseError):
        bench.stack.bind(1, lambda packet: None)


@pytest.mark.parametrize("address", [-1, 16383, 16384])
def test_addresses_are_checked(address):
    with pytest.raises(MisuseError):
        Stack(Scheduler()).add_interface("IF", address, lambda frame: None)


def test_interface_names_are_unique():
    with pytest.raises(MisuseError):
        Bench().stack.add_interface("IF", 10, lambda frame: None)


class TestHmac:
    KEY = Guard(derive_key("secret"))

    def test_two_nodes_with_the_key_understand_each_other(self):
        network = Network()
        asking = network.add(OTHER, guard=self.KEY)
        FakeNode(network.add(ME, guard=self.KEY), {5: b"answer"})
        assert network.run(asking.request(ME, 5, b"question")) == b"answer"

    @pytest.mark.parametrize(
        ("mine", "theirs"), [(KEY, None), (None, KEY), (KEY, Guard(derive_key("other")))]
    )
    def test_others_are_dropped_and_counted(self, mine, theirs):
        network = Network()
        asking = network.add(OTHER, guard=theirs)
        stack = network.add(ME, guard=mine)
        fake = FakeNode(stack, {5: b"answer"})
        with pytest.raises(NoResponse):
            network.run(asking.request(ME, 5, b"question"))
        assert fake.seen == []
        assert stack.interfaces[0].counters.autherr == 1

    def test_connections_are_authenticated_too(self):
        network = Network()
        client = network.add(OTHER, guard=self.KEY)
        server = network.add(ME, guard=self.KEY)

        async def serve(connection):
            await connection.send(b"list")

        server.listen(12, serve)

        async def read():
            connection = await client.connect(ME, 12)
            return await connection.receive()

        assert network.run(read()) == b"list"


@pytest.mark.parametrize("version", [1, 2])
def test_random_frames_neither_raise_nor_grow(version):
    bench = Bench(version)
    rng = random.Random(11)
    bench.stack.listen(12, _echo)
    bench.stack.listen(14, _echo)
    for number in range(10_000):
        bench.stack.receive(bench.interface, random_frame(rng, ME, version))
        bench.sent.clear()
        if number % 10 == 0:
            bench.scheduler.advance(bench.scheduler.now + rng.random() * 0.2)
    assert len(bench.stack.connections) <= MAX_CONNECTIONS
    assert not bench.stack.faults
    assert bench.scheduler.orphan_error_count == 0
    bench.scheduler.advance(bench.scheduler.now + 1000)
    bench.scheduler.advance(bench.scheduler.now + 1000)
    assert len(bench.stack.connections) == 0
    bench.receive()
    assert len(bench.sent) == 1


async def _echo(connection):
    while (data := await connection.receive()) is not None:
        await connection.send(data)


def test_valid_frames_with_random_content_neither_raise_nor_grow():
    """As above, but past the checksum: every flag, port and payload size reaches its code."""
    bench = Bench()
    rng = random.Random(12)
    bench.stack.listen(12, _echo)
    for number in range(10_000):
        bench.receive(
            prio=rng.randrange(4),
            src=rng.randrange(16_384),
            dport=rng.choice((0, 1, 12, 12, 12, 14, rng.randrange(64))),
            sport=rng.randrange(64),
            flags=rng.choice((1, 3, 3, 3, rng.randrange(64))),
            data=rng.randbytes(rng.choice((0, 4, 5, 6, 28, 29, 29, 29, 30, 100))),
        )
        bench.sent.clear()
        if number % 10 == 0:
            bench.scheduler.advance(bench.scheduler.now + rng.random() * 0.2)
    assert len(bench.stack.connections) <= MAX_CONNECTIONS
    assert not bench.stack.faults
    assert bench.scheduler.orphan_error_count == 0
