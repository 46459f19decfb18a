"""RDP at size and under attack: ten megabytes byte for byte, floods beside connections in use."""

from __future__ import annotations

import random

import pytest

from csp.connection import MAX_CONNECTIONS
from csp.packet import Flag, Packet, encode_frame
from csp.rdp import BULK
from csp.rdp_wire import SYN, RdpOptions, Segment
from csp.testing import Faults, Network, interface_of

CLIENT, SERVER = 20, 9
ECHO, UPLOAD = 7, 12
CHUNK = 240


def chunks(data):
    return [data[start : start + CHUNK] for start in range(0, len(data), CHUNK)]


@pytest.mark.timeout(180)
def test_ten_megabytes_arrive_byte_for_byte():
    """42 000 packets over a link that loses one in a hundred; about 7 s of processor time."""
    content = random.Random(8).randbytes(10_000_000)
    network = Network(faults=Faults(delay_s=0.005, loss=0.01))
    client, server = network.add(CLIENT), network.add(SERVER)
    received = bytearray()

    async def store(connection):
        while (data := await connection.receive()) is not None:
            received.extend(data)

    server.listen(UPLOAD, store)

    async def upload():
        connection = await client.connect(SERVER, UPLOAD, options=BULK)
        for chunk in chunks(content):
            await connection.send(chunk)
        connection.close()
        await connection.wait_closed()

    network.run(upload(), 36_000)
    assert bytes(received) == content
    assert not server.faults


def attack_frame(rng, source):
    """A SYN, or something that claims to belong to a connection."""
    flags = SYN if rng.random() < 0.7 else rng.randrange(16)
    data = RdpOptions().encode() if flags == SYN else rng.randbytes(rng.randrange(30))
    segment = Segment(flags, rng.getrandbits(16), rng.getrandbits(16), data)
    return encode_frame(
        Packet(
            dst=SERVER,
            src=source,
            dport=rng.choice((ECHO, UPLOAD, 14)),
            sport=rng.randrange(17, 64),
            flags=Flag.RDP | Flag.CRC32,
            data=segment.encode(),
        )
    )


@pytest.mark.timeout(180)
def test_connections_stay_alive_while_a_flood_fights_for_the_table():
    """Twenty conversations, open before and during 10 000 hostile frames, lose nothing."""
    network = Network(faults=Faults(delay_s=0.01))
    server = network.add(SERVER)
    rng = random.Random(4)
    sizes: list[int] = []
    done: list[int] = []

    async def echo(connection):
        while (data := await connection.receive()) is not None:
            await connection.send(data)

    async def swallow(connection):
        while await connection.receive() is not None:
            pass

    server.listen(ECHO, echo)
    server.listen(UPLOAD, swallow)

    async def converse(stack, number):
        connection = await stack.connect(SERVER, ECHO)
        # Long enough to be in the middle of it all; never silent for as long as a reclaim takes.
        for step in range(24):
            data = b"%d of %d" % (step, number)
            await connection.send(data)
            assert await connection.receive(5.0) == data
            await network.scheduler.sleep(0.2)
        connection.close()
        done.append(number)

    async def flood():
        interface = interface_of(server)
        for _ in range(500):
            for _ in range(20):
                server.receive(interface, attack_frame(rng, rng.randrange(100, 4000)))
            sizes.append(len(server.connections))
            await network.scheduler.sleep(0.01)

    async def everything():
        clients = [network.add(CLIENT + number) for number in range(20)]
        tasks = [
            network.scheduler.spawn(converse(stack, number)) for number, stack in enumerate(clients)
        ]
        await network.scheduler.sleep(0.1)
        await network.scheduler.spawn(flood())
        # A newcomer gets in, too.
        await converse(network.add(80), 20)
        for task in tasks:
            await task

    network.run(everything())
    assert sorted(done) == list(range(21))
    assert max(sizes) < MAX_CONNECTIONS
    assert not server.faults
    network.wait(30)
    assert len(server.connections) == 0
    assert network.scheduler.orphan_error_count == 0
