"""Large transfers with SFP between two stacks: over RDP nothing is missing, plain it is noticed."""

from __future__ import annotations

import random

import pytest

from csp.errors import DecodeError, MisuseError, NoResponse, PeerError, Refused
from csp.packet import Flag
from csp.sfp import encode_fragments
from csp.testing import Faults, Network
from csp.transfer import (
    FRAGMENT_BYTES,
    PLAIN_FLAGS,
    PlainReceiver,
    receive_data,
    receive_plain,
    send_data,
    send_plain,
)

CLIENT, SERVER, PORT = 20, 9, 13
LINKS = {
    "perfect": Faults(delay_s=0.001),
    "loss 10 %": Faults(delay_s=0.02, loss=0.1),
    "loss 30 %": Faults(delay_s=0.02, loss=0.3),
    "duplicates": Faults(delay_s=0.02, duplication=0.3, jitter_s=0.5),
    "reordered": Faults(delay_s=0.01, jitter_s=0.2),
    "corrupted": Faults(delay_s=0.02, corruption=0.1),
    "2 s delay": Faults(delay_s=2.0),
}


def content(size: int, seed: int = 1) -> bytes:
    return random.Random(seed).randbytes(size)


class World:
    """A server that gives back, over the same connection, what it was sent."""

    def __init__(self, faults: Faults | None = None, seed: int = 1) -> None:
        self.network = Network(faults=faults, seed=seed)
        self.client = self.network.add(CLIENT)
        self.server = self.network.add(SERVER)

        async def give_back(connection):
            for _ in range(2):
                data = await receive_data(connection, 60.0)
                await connection.send(b"status")
                await send_data(connection, data[::-1])

        self.server.listen(PORT, give_back)


@pytest.mark.parametrize("link", LINKS)
def test_over_rdp_data_arrives_whole_whatever_the_link_does(link):
    world = World(LINKS[link])
    one, two = content(20_000), content(1, 2)

    async def both_ways():
        connection = await world.client.connect(SERVER, PORT)
        results = []
        for data in (one, two):
            await send_data(connection, data)
            assert await connection.receive() == b"status"
            results.append(await receive_data(connection, 60.0))
        return results

    assert world.network.run(both_ways(), 36_000) == [one[::-1], two[::-1]]
    assert not world.server.faults


def test_data_packets_carry_the_flag_that_libcsp_insists_on():
    world = World()
    flags = []
    world.server.taps.append(
        lambda way, packet, frame: flags.append((packet.flags, len(packet.data))) if way == "rx"
        else None
    )  # fmt: skip

    async def send():
        connection = await world.client.connect(SERVER, PORT)
        await send_data(connection, content(500))
        return await connection.receive()

    world.network.run(send())
    data = [flag for flag, size in flags if size > 100]
    assert data == [Flag.CRC32 | Flag.RDP | Flag.FRAGMENT] * 3
    assert {flag for flag, size in flags if size <= 24} == {Flag.CRC32 | Flag.RDP}


def test_a_peer_that_closes_early_is_an_error():
    world = World()

    async def half(connection):
        payload, *_ = encode_fragments(content(500), FRAGMENT_BYTES)
        await connection.send(payload)

    world.server.listen(PORT + 1, half)

    async def read():
        return await receive_data(await world.client.connect(SERVER, PORT + 1), 5.0)

    with pytest.raises(Refused, match="before the end"):
        world.network.run(read())


def test_a_peer_that_falls_silent_is_an_error_within_the_deadline():
    world = World()

    async def half(connection):
        payload, *_ = encode_fragments(content(500), FRAGMENT_BYTES)
        await connection.send(payload)
        await world.network.scheduler.sleep(100)

    world.server.listen(PORT + 1, half)

    async def read():
        return await receive_data(await world.client.connect(SERVER, PORT + 1), 3.0)

    with pytest.raises(NoResponse):
        world.network.run(read())
    assert world.network.scheduler.now < 5


@pytest.mark.parametrize("lost", range(3))
def test_a_fragment_left_out_by_the_peer_is_an_error(lost):
    world = World()

    async def with_gap(connection):
        for number, payload in enumerate(encode_fragments(content(500), FRAGMENT_BYTES)):
            if number != lost:
                await connection.send(payload)

    world.server.listen(PORT + 1, with_gap)

    async def read():
        return await receive_data(await world.client.connect(SERVER, PORT + 1), 5.0)

    with pytest.raises(PeerError):
        world.network.run(read())


def test_more_than_the_limit_is_refused_at_its_first_fragment():
    world = World()

    async def big(connection):
        await send_data(connection, content(5_000))

    world.server.listen(PORT + 1, big)

    async def read():
        connection = await world.client.connect(SERVER, PORT + 1)
        return await receive_data(connection, 5.0, limit_bytes=4_999)

    with pytest.raises(DecodeError, match="5000"):
        world.network.run(read())


@pytest.mark.parametrize("size", [0, 300])
def test_what_cannot_be_sent_is_misuse(size):
    world = World()

    async def send():
        connection = await world.client.connect(SERVER, PORT)
        await send_data(connection, content(10) if size else b"", size or FRAGMENT_BYTES)

    with pytest.raises(MisuseError):
        world.network.run(send())


class Plain:
    """A node that takes plain transfers, and sends one to whoever asks."""

    def __init__(self, faults: Faults | None = None, seed: int = 1) -> None:
        self.network = Network(faults=faults, seed=seed)
        self.client, server = self.network.add(CLIENT), self.network.add(SERVER)
        self.arrived: list[tuple[int, bytes]] = []
        self.receiver = PlainReceiver(lambda source, data: self.arrived.append((source, data)))
        server.bind(PORT, self.receiver.handle)

        def give(packet):
            for payload in encode_fragments(content(3_000), FRAGMENT_BYTES):
                server.send(
                    packet.src, packet.sport, payload, sport=packet.dport, flags=PLAIN_FLAGS
                )

        server.bind(PORT + 1, give)

    async def fetch(self) -> bytes:
        with self.client.open(SERVER, PORT + 1) as client:
            client.send(b"?")
            return await receive_plain(client, 2.0)


def test_plain_transfers_cross_a_good_link_both_ways():
    world = Plain(Faults(delay_s=0.05))
    with world.client.open(SERVER, PORT, flags=PLAIN_FLAGS) as client:
        send_plain(client, content(3_000))
        world.network.wait(1)
    assert world.arrived == [(CLIENT, content(3_000))]
    assert world.network.run(world.fetch()) == content(3_000)


@pytest.mark.parametrize("faults", [
    Faults(delay_s=0.02, loss=0.2), Faults(delay_s=0.02, jitter_s=0.5),
    Faults(delay_s=0.02, corruption=0.2),
], ids=["loss", "reordered", "corrupted"])  # fmt: skip
def test_plain_a_bad_link_costs_the_transfer_and_never_its_truth(faults):
    failed = 0
    for seed in range(10):
        world = Plain(faults, seed)
        with world.client.open(SERVER, PORT, flags=PLAIN_FLAGS) as client:
            send_plain(client, content(3_000))
            world.network.wait(5)
        assert world.arrived in ([], [(CLIENT, content(3_000))])
        try:
            assert world.network.run(world.fetch()) == content(3_000)
        except (DecodeError, NoResponse):
            failed += 1
        assert world.network.scheduler.now < 30
    assert failed > 5


def test_plain_senders_are_bounded_and_the_latest_survive():
    world = Plain()
    clients = [world.client.open(SERVER, PORT, flags=PLAIN_FLAGS) for _ in range(20)]
    pieces = list(encode_fragments(content(300), FRAGMENT_BYTES))
    for piece in pieces:
        for client in clients:
            client.send(piece)
            world.network.wait(0.2)
    assert len(world.receiver._senders) <= 8
    assert world.receiver.broken >= 12
    for piece in pieces:
        clients[0].send(piece)
        world.network.wait(0.2)
    assert world.arrived[-1] == (CLIENT, content(300))


def test_plain_packets_without_the_flag_are_counted():
    world = Plain()
    world.client.send(SERVER, PORT, b"no fragment")
    world.network.wait(1)
    assert (world.receiver.broken, world.arrived) == (1, [])
