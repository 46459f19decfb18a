"""RDP between two stacks over bad links, in virtual time."""

from __future__ import annotations

import itertools
import random

import pytest

from csp.connection import MAX_CONNECTIONS, MAX_HALF_OPEN
from csp.errors import MisuseError, NoResponse, Refused
from csp.packet import Packet, encode_frame
from csp.rdp import BULK, RdpOptions
from csp.rdp_wire import ACK, RST, SYN, Segment
from csp.sched import Timeout
from csp.testing import Faults, Network, interface_of

CLIENT, SERVER = 20, 9
UPLOAD, DOWNLOAD, SLOW = 7, 12, 13
CHUNK = 192


def chunks(data):
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]


class Pair:
    """A client and a server that stores uploads and serves `content`."""

    def __init__(self, faults=None, seed=1, content=b""):
        self.network = Network(faults=faults, seed=seed)
        self.client = self.network.add(CLIENT)
        self.content = content
        self.uploads: list[bytes] = []
        self.start_server(self.network.add(SERVER))

    def start_server(self, stack):
        self.server = stack
        stack.listen(UPLOAD, self.store)
        stack.listen(DOWNLOAD, self.serve)

    async def store(self, connection):
        received = bytearray()
        while (data := await connection.receive()) is not None:
            received += data
        self.uploads.append(bytes(received))

    async def serve(self, connection):
        for chunk in chunks(self.content):
            await connection.send(chunk)

    async def upload(self, data, options=None):
        connection = await self.client.connect(SERVER, UPLOAD, options=options)
        for chunk in chunks(data):
            await connection.send(chunk)
        connection.close()
        await connection.wait_closed()

    async def download(self, options=None):
        connection = await self.client.connect(SERVER, DOWNLOAD, options=options)
        received = bytearray()
        while (data := await connection.receive()) is not None:
            received += data
        return bytes(received)

    def assert_nothing_left(self):
        self.network.wait(15)
        for stack in (self.client, self.server):
            assert len(stack.connections) == 0
            assert not stack.faults
        assert self.network.scheduler.orphan_error_count == 0


def random_bytes(size, seed=3):
    return random.Random(seed).randbytes(size)


LINKS = {
    "perfect": Faults(delay_s=0.001),
    "loss 1 %": Faults(delay_s=0.02, loss=0.01),
    "loss 10 %": Faults(delay_s=0.02, loss=0.1),
    "loss 30 %": Faults(delay_s=0.02, loss=0.3),
    "duplicates": Faults(delay_s=0.02, duplication=0.3, jitter_s=0.5),
    "reordered": Faults(delay_s=0.01, jitter_s=0.2),
    "corrupted": Faults(delay_s=0.02, corruption=0.1),
    "2 s delay": Faults(delay_s=2.0),
    "all at once": Faults(
        delay_s=0.05, jitter_s=0.2, loss=0.1, duplication=0.1, corruption=0.05, rate_bps=200_000
    ),
}
CSH = RdpOptions(window=3, packet_timeout_ms=5000, ack_timeout_ms=2000)


@pytest.mark.parametrize("options", [None, BULK, CSH], ids=["default", "bulk", "csh"])
@pytest.mark.parametrize("link", LINKS)
def test_data_arrives_complete_and_in_order(link, options):
    content = random_bytes(30_000)
    pair = Pair(LINKS[link], content=content)

    async def both():
        await pair.upload(content, options)
        return await pair.download(options)

    assert pair.network.run(both(), 36_000) == content
    assert pair.uploads == [content]
    pair.assert_nothing_left()


@pytest.mark.parametrize("loss", [0.01, 0.1, 0.3])
def test_a_megabyte_survives_loss_both_ways(loss):
    content = random_bytes(1_000_000)
    pair = Pair(Faults(delay_s=0.01, loss=loss), content=content)

    async def both():
        uploading = pair.network.scheduler.spawn(pair.upload(content, BULK))
        received = await pair.download(BULK)
        await uploading
        return received

    assert pair.network.run(both(), 36_000) == content
    assert pair.uploads == [content]
    pair.assert_nothing_left()


@pytest.mark.parametrize("seed", range(8))
def test_what_the_peer_gave_up_is_never_taken_for_the_whole(seed):
    """At 70 % loss connections die. Whoever reads then hears of it, or has everything."""
    content = random_bytes(6_000)
    pair = Pair(Faults(delay_s=0.02, loss=0.7), content=content, seed=seed)

    async def download():
        try:
            return await pair.download(CSH)
        except (NoResponse, Refused) as error:
            return str(error).encode()

    outcomes = [pair.network.run(download(), 36_000) for _ in range(4)]
    assert all(each == content or b"connection to node 9" in each for each in outcomes)


def test_sequence_numbers_wrap():
    pair = Pair(Faults(delay_s=0.001, loss=0.02), content=random_bytes(100 * CHUNK))
    for stack in (pair.client, pair.server):
        stack.rng.getrandbits = lambda bits: 65_500
    assert pair.network.run(pair.download(BULK)) == pair.content
    pair.network.run(pair.upload(pair.content))
    assert pair.uploads == [pair.content]


def test_many_connections_at_once_do_not_mix():
    contents = [random_bytes(5_000, seed) for seed in range(12)]
    pair = Pair(Faults(delay_s=0.01, jitter_s=0.02, loss=0.05))

    async def all_of_them():
        scheduler = pair.network.scheduler
        for task in [scheduler.spawn(pair.upload(content)) for content in contents]:
            await task

    pair.network.run(all_of_them())
    assert sorted(pair.uploads) == sorted(contents)


def test_throughput_survives_a_slow_link_with_a_big_window():
    """A window that needs longer than the packet timeout must not be sent over and over."""
    content = random_bytes(20_000)
    pair = Pair(Faults(rate_bps=9_600, delay_s=0.01), content=content)
    assert pair.network.run(pair.download(BULK)) == content
    sent = pair.server.interfaces[0].counters.txbytes
    assert sent < 1.3 * len(content)


def test_connect_to_a_silent_node_ends_after_the_connection_timeout():
    network = Network()
    client = network.add(CLIENT)
    with pytest.raises(NoResponse):
        network.run(client.connect(SERVER, 12, options=RdpOptions(conn_timeout_ms=3000)))
    assert 3 <= network.scheduler.now < 3.2
    assert len(client.connections) == 0


def test_silence_ends_a_connection_for_reader_and_writer():
    pair = Pair(Faults(delay_s=0.01), content=random_bytes(100_000))

    async def lose_the_link():
        connection = await pair.client.connect(SERVER, DOWNLOAD)
        await connection.receive()
        pair.network.channels[SERVER].loss = pair.network.channels[CLIENT].loss = 1.0
        while await connection.receive() is not None:
            pass

    with pytest.raises(NoResponse):
        pair.network.run(lose_the_link())
    pair.assert_nothing_left()


def test_receive_has_a_deadline():
    pair = Pair(Faults(delay_s=0.01))

    async def wait():
        connection = await pair.client.connect(SERVER, UPLOAD)
        with pytest.raises(NoResponse):
            await connection.receive(0.5)

    pair.network.run(wait())
    assert pair.network.scheduler.now < 1


def test_server_reboot_is_noticed_at_the_next_packet():
    pair = Pair(Faults(delay_s=0.01))

    async def reboot():
        connection = await pair.client.connect(SERVER, UPLOAD)
        await connection.send(b"before")
        await connection.drain()
        pair.start_server(pair.network.reboot(SERVER))
        await connection.send(b"after")
        with pytest.raises(Refused):
            await connection.drain()

    pair.network.run(reboot())
    assert pair.network.scheduler.now < 1
    pair.assert_nothing_left()


def test_client_reboot_with_the_same_port_gets_a_new_connection():
    pair = Pair(Faults(delay_s=0.01), content=b"hello")

    async def connect_twice():
        first = await pair.client.connect(SERVER, UPLOAD)
        port = first.key[2]
        pair.client = pair.network.reboot(CLIENT)
        pair.client.take_client_port = lambda: port
        return await pair.download() + await pair.download()

    # The port is the same, the service another: the second connection is to the same port.
    assert pair.network.run(connect_twice()) == b"hellohello"


def test_half_open_server_forgets_a_client_that_never_answers():
    pair = Pair()
    pair.network.channels[SERVER].loss = 1.0
    with pytest.raises(NoResponse):
        pair.network.run(pair.client.connect(SERVER, UPLOAD, options=RdpOptions()))
    pair.assert_nothing_left()


def test_closing_reset_is_repeated_until_the_peer_hears_it():
    pair = Pair(Faults(delay_s=0.01), content=b"x" * 10)

    async def lose_the_reset():
        connection = await pair.client.connect(SERVER, DOWNLOAD)
        assert await connection.receive() == b"x" * 10
        # The first reset is on its way or gone: forget it, and hear only the repetition.
        connection.machine._peer_reset_seq = None
        return await connection.receive()

    channel = pair.network.channels[SERVER]
    submit = channel.submit
    resets = itertools.count()

    def drop_first_reset(frame, now):
        is_reset = len(frame) == 6 + 5 + 4 and frame[6] & 0x0F == RST | ACK
        return () if is_reset and next(resets) == 0 else submit(frame, now)

    channel.submit = drop_first_reset
    assert pair.network.run(lose_the_reset()) is None
    assert next(resets) >= 2
    assert pair.network.scheduler.now < 2
    pair.assert_nothing_left()


def test_slow_reader_stops_the_sender_but_loses_nothing():
    content = random_bytes(60_000)
    pair = Pair(Faults(delay_s=0.01))

    async def store_slowly(connection):
        received = bytearray()
        while (data := await connection.receive()) is not None:
            received += data
            if len(received) % (CHUNK * 50) == 0:
                await pair.network.scheduler.sleep(2.0)
        pair.uploads.append(bytes(received))

    pair.server.listen(SLOW, store_slowly)

    async def upload():
        connection = await pair.client.connect(SERVER, SLOW, options=BULK)
        for chunk in chunks(content):
            await connection.send(chunk)
        await connection.drain()
        connection.close()

    pair.network.run(upload())
    pair.network.wait(30)
    assert pair.uploads == [content]


def test_crash_of_a_service_closes_the_connection_and_is_recorded():
    pair = Pair()

    async def crash(connection):
        raise ZeroDivisionError

    pair.server.listen(SLOW, crash)

    async def use():
        connection = await pair.client.connect(SERVER, SLOW)
        assert await connection.receive() is None

    pair.network.run(use())
    assert pair.server.counters.handler_faults == 1
    assert isinstance(pair.server.faults[0][1], ZeroDivisionError)
    assert pair.network.run(pair.client.connect(SERVER, UPLOAD)).peer == SERVER


def test_a_connection_to_oneself_works():
    pair = Pair(content=random_bytes(3000))

    async def own_download():
        for node in (0, SERVER):
            connection = await pair.server.connect(node, DOWNLOAD)
            received = bytearray()
            while (data := await connection.receive()) is not None:
                received += data
            assert received == pair.content

    pair.network.run(own_download())


def syn_frame(source, sport, seq, dport=UPLOAD, options=None):
    segment = Segment(SYN, seq, 0, (options or RdpOptions()).encode())
    packet = Packet(
        prio=1, dst=SERVER, src=source, dport=dport, sport=sport, flags=3, data=segment.encode()
    )
    return encode_frame(packet)


def test_syn_flood_locks_nobody_out():
    pair = Pair(Faults(delay_s=0.02), content=random_bytes(20_000))
    rng = random.Random(5)
    interface = interface_of(pair.server)
    flooding = True

    async def flood():
        while flooding:
            for _ in range(3):
                frame = syn_frame(
                    rng.randrange(100, 200), rng.randrange(17, 64), rng.randrange(9999)
                )
                pair.server.receive(interface, frame)
            assert len(pair.server.connections) <= MAX_CONNECTIONS
            await pair.network.scheduler.sleep(0.01)

    async def use():
        pair.network.scheduler.spawn_background(flood(), "flood")
        await pair.network.scheduler.sleep(1)
        first = await pair.download()
        await pair.upload(first)
        return first

    assert pair.network.run(use()) == pair.content
    assert pair.uploads == [pair.content]
    assert pair.server.connections.reclaimed > 100
    flooding = False
    pair.assert_nothing_left()


def test_half_open_connections_are_bounded():
    pair = Pair()
    for number in range(1000):
        pair.server.receive(interface_of(pair.server), syn_frame(100 + number, 17, number))
    assert len(pair.server.connections) <= MAX_HALF_OPEN
    pair.assert_nothing_left()


def test_a_full_table_of_idle_connections_gives_up_the_oldest():
    pair = Pair(content=b"content")
    others = [pair.network.add(node) for node in range(30, 34)]

    async def fill():
        for number in range(MAX_CONNECTIONS):
            await others[number % 4].connect(SERVER, UPLOAD, options=RdpOptions())
        assert len(pair.server.connections) == MAX_CONNECTIONS
        with pytest.raises(Refused):
            await pair.client.connect(SERVER, DOWNLOAD)
        await pair.network.scheduler.sleep(2.0)
        return await pair.download()

    assert pair.network.run(fill()) == b"content"


def test_client_ports_run_out_with_a_named_error():
    pair = Pair()

    async def fill():
        for _ in range(47):
            await pair.client.connect(SERVER, UPLOAD)
        with pytest.raises(MisuseError):
            await pair.client.connect(SERVER, UPLOAD)

    pair.network.run(fill())


@pytest.mark.parametrize("size", range(24))
def test_syn_without_full_options_is_rejected(size):
    pair = Pair()
    data = Segment(SYN, 7, 0, RdpOptions().encode()[:size]).encode()
    frame = encode_frame(Packet(dst=SERVER, src=CLIENT, dport=UPLOAD, sport=20, flags=3, data=data))
    pair.server.receive(interface_of(pair.server), frame)
    assert len(pair.server.connections) == 0
    assert pair.server.connections.malformed == 1
    assert pair.server.interfaces[0].counters.tx == 0


def test_hostile_options_are_forced_into_bounds():
    pair = Pair()
    options = RdpOptions(
        window=2**32 - 1, conn_timeout_ms=2**32 - 1, packet_timeout_ms=0, ack_timeout_ms=0
    )
    pair.server.receive(interface_of(pair.server), syn_frame(100, 20, 1, options=options))
    pair.network.wait(60)
    # One SYN/ACK per packet timeout, which cannot be pushed below the duplicate filter.
    assert pair.server.interfaces[0].counters.tx < 60 / 0.1
    pair.network.wait(600)
    assert len(pair.server.connections) == 0


def test_resets_of_unknown_connections_do_not_ping_pong():
    pair = Pair()
    reset = Segment(RST | ACK, 5, 6).encode()
    pair.client.send(SERVER, 40, reset, sport=41, flags=3)
    pair.network.wait(5)
    total = sum(stack.interfaces[0].counters.tx for stack in (pair.client, pair.server))
    assert total == 2


def test_waiting_tasks_time_out_in_virtual_time_only():
    pair = Pair()
    with pytest.raises(Timeout):
        pair.network.run(pair.client.connect(77, UPLOAD, options=RdpOptions()), 1.0)
