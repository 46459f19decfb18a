"""DTP: the wire, the pacing, loss, clients that vanish. In virtual time."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import DecodeError, MisuseError, NoResponse, PeerError
from csp.packet import Packet
from csp.testing import Faults, Network
from dipp.dtp import (
    DTP_DATA_PORT,
    DTP_PORT,
    TO_END,
    WIRE_BYTES,
    DtpClient,
    DtpRequest,
    DtpServer,
    decode_dtp_request,
    encode_dtp_request,
)
from dipp.ring import Ring
from dipp.ringindex import RingGeometry

NODE, GROUND = 162, 20
GEOMETRY = RingGeometry(entries=8, data_bytes=200_000)
ELEMENT = bytes(i * 7 % 251 for i in range(20_025))


class MemoryFile:
    """The bytes of a ring in memory."""

    def __init__(self) -> None:
        self.data = bytearray(GEOMETRY.file_bytes)

    def read(self, offset: int, size: int) -> bytes:
        return bytes(self.data[offset : offset + size])

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self.data[offset : offset + len(data)] = data

    def sync(self) -> None:
        pass

    def close(self) -> None:
        pass


class World:
    def __init__(self, faults: Faults | None = None) -> None:
        self.network = Network(faults=faults)
        self.ring = Ring(MemoryFile(), GEOMETRY)
        self.ring.append([b"old", ELEMENT])
        node = self.network.add(NODE)
        node.listen(DTP_PORT, DtpServer(node, self.ring).serve)
        self.ground = self.network.add(GROUND)

    def ask(self, request: bytes) -> tuple[bytes | None, list[tuple[float, Packet]]]:
        """Send a raw request; return the response and the data packets with their times."""
        packets: list[tuple[float, Packet]] = []
        scheduler = self.network.scheduler
        self.ground.bind(DTP_DATA_PORT, lambda p: packets.append((scheduler.now, p)))

        async def talk() -> bytes | None:
            connection = await self.ground.connect(NODE, DTP_PORT)
            await connection.send(request)
            reply = await connection.receive(10)
            connection.close()
            return reply

        reply = self.network.run(talk())
        self.network.wait(10)
        return reply, packets


def test_the_packets_of_the_specification() -> None:
    """20025 bytes, mtu 1024: packets of 1024 bytes at offsets 0, 1020 and so on."""
    world = World()
    request = struct.pack("<IBxHH2xII", 1000, 1, 1, 1024, 0, TO_END).ljust(WIRE_BYTES, b"\0")
    reply, packets = world.ask(request)
    assert reply is not None
    assert len(reply) == WIRE_BYTES
    assert struct.unpack_from("<II", reply) == (20025, 20025)
    assert len(packets[0][1].data) == 1024
    offsets = [int.from_bytes(p.data[:4], "little") for _, p in packets]
    assert offsets == list(range(0, 20025, 1020))
    assert b"".join(p.data[4:] for _, p in packets) == ELEMENT
    assert {(p.prio, p.sport, p.flags) for _, p in packets} == {(2, 0, 0)}


def test_pacing_in_rounds_of_100_ms() -> None:
    _, packets = World().ask(encode_dtp_request(DtpRequest(position=1, throughput=50, mtu=1024)))
    start = packets[0][0]
    rounds = [sum(1 for when, _ in packets if int((when - start + 0.05) * 10) == n) for n in (0, 1)]
    assert rounds == [5, 5]


@pytest.mark.parametrize("position", [2, 8, 65535])
def test_an_invalid_index_gets_no_response(position: int) -> None:
    request = encode_dtp_request(DtpRequest(position=position, throughput=50, mtu=200))
    assert World().ask(request) == (None, [])


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"",
        b"x" * 11,
        struct.pack("<IBxHH2x", 50, 0, 1, 200),
        struct.pack("<IBxHH2x", 50, 20, 1, 200).ljust(172, b"\0"),
        struct.pack("<IBxHH2xII", 50, 1, 1, 4, 0, 9),
        struct.pack("<IBxHH2xII", 0, 1, 1, 200, 0, 9),
        struct.pack("<IBxHH2xII", 50, 1, 1, 200, 9, 9),
        struct.pack("<IBxHH2xII", 50, 2, 1, 200, 0, 9),
    ],
)
def test_bad_requests_are_named_errors(request_bytes: bytes) -> None:
    with pytest.raises(DecodeError):
        decode_dtp_request(request_bytes)
    if request_bytes:
        assert World().ask(request_bytes) == (None, [])


_intervals = st.lists(
    st.tuples(st.integers(0, 60), st.integers(1, 60)).map(lambda t: (t[0], t[0] + t[1])),
    min_size=1,
    max_size=19,
).map(tuple)


@given(_intervals, st.integers(16, 2000), st.integers(1, 5000))
def test_wire_round_trip_and_totals(
    intervals: tuple[tuple[int, int], ...], mtu: int, size: int
) -> None:
    request = DtpRequest(position=3, throughput=9, mtu=mtu, intervals=intervals)
    assert decode_dtp_request(encode_dtp_request(request)) == request
    ranges = list(request.ranges(size))
    assert sum(length for _, length in ranges) == request.total(size)
    assert all(0 < length <= mtu - 4 and offset + length <= size for offset, length in ranges)


def test_the_client_asks_again_for_what_was_lost() -> None:
    world = World(Faults(loss=0.2, duplication=0.1, delay_s=0.02, jitter_s=0.03))
    client = DtpClient(world.ground)
    assert world.network.run(client.download(NODE, 1, rounds=40)) == ELEMENT
    assert world.network.run(client.download(NODE, 0)) == b"old"


def test_many_gaps_are_repaired_as_long_as_each_round_brings_something() -> None:
    """Over a thousand packets, more gaps than a request has intervals, at the default rounds."""
    world = World(Faults(loss=0.1, delay_s=0.02))
    told: list[tuple[int, int]] = []
    client = DtpClient(world.ground)
    download = client.download(
        NODE, 1, mtu=24, throughput=1000, progress=lambda *pair: told.append(pair)
    )
    assert world.network.run(download) == ELEMENT
    assert told[-1] == (len(ELEMENT), len(ELEMENT))
    assert told == sorted(told)


def test_a_dead_link_ends_a_download_after_the_rounds() -> None:
    world = World()
    client = DtpClient(world.ground, pause_s=0.5)

    def only_rdp(frame: bytes) -> None:
        if frame[5] & 2:
            link(frame)

    interface = world.network.stacks[NODE].interfaces[0]
    link, interface.send = interface.send, only_rdp
    with pytest.raises(NoResponse, match="incomplete"):
        world.network.run(client.download(NODE, 1, rounds=3))
    assert world.network.scheduler.now < 10
    interface.send = link
    assert world.network.run(client.download(NODE, 1, throughput=1000)) == ELEMENT


def test_an_element_that_changes_its_size_is_noticed() -> None:
    world = World(Faults(loss=0.3, delay_s=0.01))

    def overwrite(way: str, packet: Packet, frame: bytes) -> None:
        # As soon as the first piece is there, so that the repairs meet another element.
        if packet.dport == DTP_DATA_PORT:
            world.ground.taps.remove(overwrite)
            world.ring.append([bytes(90_000), bytes(90_000)])

    world.ground.taps.append(overwrite)
    with pytest.raises(PeerError):
        world.network.run(DtpClient(world.ground).download(NODE, 1, throughput=20))


def test_what_belongs_to_no_download_is_ignored() -> None:
    world = World()
    client = DtpClient(world.ground)
    node = world.network.stacks[NODE]
    for data in (b"", b"1234", b"\0\0\0\0x"):
        node.send(GROUND, DTP_DATA_PORT, data, flags=0)

    async def disturbed() -> bytes:
        # An offset inside a packet, and more bytes than a packet has.
        for offset, size in ((3, 5), (0, 400)):
            node.send(GROUND, DTP_DATA_PORT, offset.to_bytes(4, "little") + bytes(size), flags=0)
        return await client.download(NODE, 1, throughput=1000)

    assert world.network.run(disturbed()) == ELEMENT


def test_the_client_learns_that_there_is_no_such_element() -> None:
    world = World()
    with pytest.raises(PeerError):
        world.network.run(DtpClient(world.ground).download(NODE, 9))


def test_clients_that_vanish_do_not_block_the_port() -> None:
    world = World()

    async def vanish(address: int) -> None:
        stack = world.network.stacks[address]
        connection = await stack.connect(NODE, DTP_PORT)
        request = DtpRequest(position=1, throughput=50, mtu=200)
        await connection.send(encode_dtp_request(request))
        await connection.receive(5)

    for address in (21, 22, 23):
        world.network.add(address)
        world.network.run(vanish(address))
        world.network.remove(address)
    client = DtpClient(world.ground)
    assert world.network.run(client.download(NODE, 1, throughput=1000)) == ELEMENT


def test_a_new_request_replaces_the_transfer_of_the_same_client() -> None:
    world = World()
    client = DtpClient(world.ground)

    async def impatient() -> bytes:
        connection = await world.ground.connect(NODE, DTP_PORT)
        slow = DtpRequest(position=1, throughput=1, mtu=200)
        await connection.send(encode_dtp_request(slow))
        await connection.receive(5)
        connection.close()
        return await client.download(NODE, 0)

    assert world.network.run(impatient()) == b"old"


def test_a_download_that_stays_incomplete_says_so() -> None:
    world = World()
    client = DtpClient(world.ground)

    async def overwrite() -> None:
        await world.network.scheduler.sleep(0.2)
        world.ring.append([bytes(150_000), bytes(40_000)])

    world.network.scheduler.spawn_background(overwrite(), "overwrite")
    with pytest.raises((NoResponse, PeerError)):
        world.network.run(client.download(NODE, 1, throughput=20, rounds=2))


@pytest.mark.parametrize(
    "fields",
    [{"mtu": 15}, {"mtu": 2001}, {"position": -1}, {"throughput": 0}, {"intervals": ()}],
)
def test_requests_that_the_wire_cannot_carry(fields: dict[str, int]) -> None:
    values = {"position": 0, "throughput": 10, "mtu": 200} | fields
    with pytest.raises(MisuseError):
        DtpRequest(**values)  # type: ignore[arg-type]
