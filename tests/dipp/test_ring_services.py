"""What ground gets of the ring: index, ring transfers, raw area. In virtual time."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any, TypeVar

import pytest

from csp.errors import PeerError
from csp.testing import Faults, Network
from csp.vmem.client import VmemClient
from csp.vmem.server import VmemServer
from csp.vmem.wire import VMEM_PORT, RequestKind, RingRequest, encode_ring_request
from dipp.batch import encode_batch
from dipp.index import INDEX_PORT, IndexService, answer, fetch_count, fetch_entry
from dipp.metadata import Metadata
from dipp.ring import Ring
from dipp.ringarea import RingArea, RingService
from dipp.ringindex import RingGeometry

NODE = 162
GEOMETRY = RingGeometry(entries=16, data_bytes=100_000)
T = TypeVar("T")


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


def block(obid: int, size: int = 500) -> bytes:
    return encode_batch([(Metadata(obid=obid, camera="rgb"), bytes([obid % 256]) * size)], 1)


class World:
    """A node with a ring, and ground stations."""

    def __init__(self, faults: Faults | None = None) -> None:
        self.network = Network(faults=faults)
        self.ring = Ring(MemoryFile(), GEOMETRY)
        self.appended: list[OSError | None] = []
        node = self.network.add(NODE)
        self.server = VmemServer([RingArea(self.ring)])
        service = RingService(self.ring, self.network.scheduler, self.appended.append)
        service.register(self.server)
        node.bind(VMEM_PORT, self.server.handle)
        node.listen(VMEM_PORT, self.server.serve)
        node.listen(INDEX_PORT, IndexService(self.ring).serve)
        self.ground = self.network.add(20)
        self.client = VmemClient(self.ground)

    def run(self, coro: Coroutine[Any, Any, T]) -> T:
        scheduler = self.network.scheduler
        return scheduler.run_virtual(scheduler.spawn(coro), limit_s=300)

    def upload(self, data: bytes, length: int | None = None, name: str = "images") -> None:
        async def talk() -> None:
            connection = await self.ground.connect(NODE, VMEM_PORT)
            request = RingRequest(
                kind=RequestKind.RING_UPLOAD,
                name=name,
                value=len(data) if length is None else length,
            )
            await connection.send(encode_ring_request(request))
            for start in range(0, len(data), 192):
                await connection.send(data[start : start + 192])
            connection.close()
            await connection.wait_closed()

        self.run(talk())
        self.run(self.settle())

    async def settle(self) -> None:
        await self.network.scheduler.sleep(1.0)


@pytest.fixture
def world() -> World:
    return World()


def test_the_index_example_of_the_specification(world: World) -> None:
    world.ring.append([block(0), block(0)])
    assert answer(world.ring, b"\0") == b"\2\0\0\0"
    reply = answer(world.ring, b"\1\0\0")
    assert reply == bytes.fromhex("0100000000") + (500).to_bytes(4, "little") + bytes(4)
    assert answer(world.ring, b"\1\2\0") == b"\0"


@pytest.mark.parametrize("request_bytes", [b"", b"\1", b"\1\0", b"\2", b"\xff\0\0"])
def test_what_is_not_an_index_request_gets_no_answer(world: World, request_bytes: bytes) -> None:
    assert answer(world.ring, request_bytes) is None


def test_the_index_over_the_network(world: World) -> None:
    world.ring.append([block(7), block(-5, 20), b"junk that is no image"])
    assert world.run(fetch_count(world.ground, NODE)) == 3
    first = world.run(fetch_entry(world.ground, NODE, 0))
    assert first is not None
    assert (first.position, first.size_bytes, first.obid) == (0, 500, 7)
    second = world.run(fetch_entry(world.ground, NODE, 1))
    assert second is not None
    assert second.obid == 2**32 - 5
    assert world.run(fetch_entry(world.ground, NODE, 2)) is None
    assert world.run(fetch_entry(world.ground, NODE, 3)) is None


def test_silent_clients_do_not_block_the_index(world: World) -> None:
    world.ring.append([block(1)])

    async def connect_and_say_nothing() -> None:
        for _ in range(5):
            await world.ground.connect(NODE, INDEX_PORT)

    world.run(connect_and_say_nothing())
    assert world.run(fetch_count(world.ground, NODE)) == 1


@pytest.mark.parametrize(("position", "obid"), [(0, 1), (2, 3), (-1, 3), (-3, 1)])
def test_ring_download(world: World, position: int, obid: int) -> None:
    world.ring.append([block(n, 3000) for n in (1, 2, 3)])
    data = world.run(world.client.ring_download(NODE, "images", position))
    assert data == block(obid, 3000)


@pytest.mark.parametrize("position", [3, -4, 2**31 - 1, -(2**31)])
def test_ring_download_out_of_range_sends_nothing(world: World, position: int) -> None:
    world.ring.append([block(n) for n in (1, 2, 3)])
    with pytest.raises(PeerError):
        world.run(world.client.ring_download(NODE, "images", position))


def test_ring_download_through_loss_duplicates_and_reordering() -> None:
    world = World(Faults(loss=0.05, duplication=0.05, delay_s=0.01, jitter_s=0.02))
    world.ring.append([block(9, 20_000)])
    assert world.run(world.client.ring_download(NODE, "images", -1)) == block(9, 20_000)


def test_an_element_that_wraps_around_the_end_of_the_file(world: World) -> None:
    for number in range(8):
        world.ring.append([block(number, 30_000)])
    assert world.ring.count == 3
    for position, obid in enumerate((5, 6, 7)):
        assert world.run(world.client.ring_download(NODE, "images", position)) == block(
            obid, 30_000
        )


def test_a_download_ends_early_if_its_image_is_overwritten(world: World) -> None:
    world.ring.append([block(1, 90_000)])

    async def overwrite() -> None:
        await world.network.scheduler.sleep(0.05)
        world.ring.append([block(2, 90_000)])

    world.network.channels[NODE].rate_bps = 1_000_000
    world.network.scheduler.spawn_background(overwrite(), "overwrite")
    with pytest.raises(PeerError):
        world.run(world.client.ring_download(NODE, "images", 0))
    assert world.run(world.client.ring_download(NODE, "images", 0)) == block(2, 90_000)


def test_two_stations_download_at_once(world: World) -> None:
    world.ring.append([block(1, 9000), block(2, 9000)])
    other = VmemClient(world.network.add(21))
    scheduler = world.network.scheduler
    tasks = [
        scheduler.spawn(world.client.ring_download(NODE, "images", 0)),
        scheduler.spawn(other.ring_download(NODE, "images", 1)),
    ]
    assert [scheduler.run_virtual(task) for task in tasks] == [block(1, 9000), block(2, 9000)]


def test_ring_upload_appends_one_element(world: World) -> None:
    world.upload(block(5, 2000))
    assert world.appended == [None]
    assert world.run(world.client.ring_download(NODE, "images", -1)) == block(5, 2000)


@pytest.mark.parametrize(
    ("length", "name"),
    [(99, "images"), (101, "images"), (0, "images"), (-1, "images"), (100, "other")],
)
def test_an_upload_that_is_not_as_announced_is_not_stored(
    world: World, length: int, name: str
) -> None:
    world.upload(bytes(100), length, name)
    assert world.ring.count == 0
    world.upload(block(1))
    assert world.ring.count == 1


def test_an_upload_waits_while_a_batch_is_being_delivered(world: World) -> None:
    plan = world.ring.plan([100])
    world.ring.begin(plan)
    world.upload(block(1))
    assert world.ring.count == 0
    world.ring.write(plan, 0, bytes(100))
    world.ring.commit(plan)
    world.run(world.settle())
    assert world.ring.count == 2


def test_the_file_can_be_read_but_not_written_through_the_area(world: World) -> None:
    world.ring.append([block(1)])
    data = world.run(world.client.download(NODE, 0, 80))
    assert data == world.ring.read_raw(0, 80)
    area = RingArea(world.ring)
    assert area.size == GEOMETRY.file_bytes

    async def overwrite() -> None:
        await world.client.upload(NODE, 0, b"\xff" * 8)

    with pytest.raises(PeerError):
        world.run(overwrite())
    assert world.ring.read_raw(0, 80) == data
