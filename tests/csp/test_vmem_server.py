"""Memory server and client over two stacks in virtual time: every request, losses, refusals."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from csp.crc import crc32c
from csp.errors import DecodeError, MisuseError, NoResponse, Refused
from csp.packet import Packet
from csp.param.table import ParamSpec, ParamTable
from csp.param.types import ParamType
from csp.testing import Faults, Network
from csp.vmem.area import RamArea
from csp.vmem.binding import Binding
from csp.vmem.client import Incomplete, VmemClient
from csp.vmem.file import FileArea
from csp.vmem.server import PLAIN_LIMIT_BYTES, VmemServer
from csp.vmem.testing import FailingFileOps, SimulatedDisk
from csp.vmem.wire import (
    VMEM_PORT,
    Request,
    RequestKind,
    decode_ring_request,
    encode_request,
    encode_ring_length,
)

GROUND, NODE = 20, 9
BASE = 0x10000000


class Setup:
    """A node with a RAM area and a high area, and a client on the ground."""

    def __init__(self, areas=None, **faults):
        self.net = Network(faults=Faults(delay_s=0.01, **faults))
        self.ground, node = self.net.add(GROUND), self.net.add(NODE)
        self.ram = RamArea("ram", 5000, BASE)
        self.server = VmemServer(areas or [self.ram, RamArea("high", 100, 1 << 33)])
        self.server.late_reply = node.reply
        node.bind(VMEM_PORT, self.server.handle)
        node.listen(VMEM_PORT, self.server.serve)
        self.node = node
        self.client = VmemClient(self.ground)
        self.run = self.net.run


CONTENT = random.Random(3).randbytes(5000)


def test_a_checksum_waits_for_the_upload_it_is_to_check():
    setup = Setup()
    sleep = setup.net.scheduler.sleep

    async def session():
        request = Request(version=1, kind=RequestKind.UPLOAD, address=BASE, length=200)
        uploads = [await setup.ground.connect(NODE, VMEM_PORT) for _ in range(2)]
        for upload in uploads:
            await upload.send(encode_request(request))
            await upload.send(CONTENT[:100])
        await sleep(0.1)
        asked = setup.net.scheduler.spawn(setup.client.crc32(NODE, BASE, 200))
        elsewhere = await setup.client.crc32(NODE, 1 << 33, 100, version=2)
        assert elsewhere == crc32c(bytes(100))
        for upload in uploads:
            await sleep(0.1)
            assert not asked.done
            await upload.send(CONTENT[100:200])
            upload.close()
        return await asked

    assert setup.run(session()) == crc32c(CONTENT[:200])


def test_list_in_all_versions():
    setup = Setup()
    for version in (1, 2, 3):
        areas = setup.run(setup.client.list(NODE, version))
        assert [a.name for a in areas] == ["ram", "high"]
        assert areas[0].address == BASE
        assert areas[1].address == (1 << 33 if version > 1 else 0)
    assert setup.server.counters.lists == 3


@pytest.mark.parametrize("loss", [0.0, 0.2])
@pytest.mark.parametrize("length", [1, 192, 193, 5000])
def test_upload_download_and_checksum(loss, length):
    setup = Setup(loss=loss, jitter_s=0.05 * bool(loss))
    steps = []
    data = CONTENT[:length]
    # The checksum request is a single packet, so on the lossy link it is left out.
    setup.run(
        setup.client.upload(
            NODE, BASE, data, verify=not loss, progress=lambda n, of: steps.append((n, of))
        )
    )
    assert setup.ram.read(0, length) == data
    assert steps[-1] == (length, length)
    assert setup.run(setup.client.download(NODE, BASE, length)) == data
    assert setup.server.counters.uploads == setup.server.counters.downloads == 1


def test_high_addresses_need_no_thought():
    setup = Setup()
    setup.run(setup.client.upload(NODE, (1 << 33) + 90, b"0123456789"))
    assert setup.run(setup.client.download(NODE, (1 << 33) + 92, 8)) == b"23456789"
    assert setup.run(setup.client.download(NODE, (1 << 33) + 92, 8, version=3)) == b"23456789"
    assert setup.run(setup.client.crc32(NODE, (1 << 33) + 90, 10)) == crc32c(b"0123456789")


def test_plain_download():
    setup = Setup()
    setup.ram.write(0, CONTENT)
    got = setup.run(setup.client.download(NODE, BASE + 7, 1000, rdp=False))
    assert got == CONTENT[7:1007]


def test_plain_download_of_equal_chunks_is_incomplete_because_of_the_duplicate_filter():
    setup = Setup()
    with pytest.raises(Incomplete) as caught:
        setup.run(setup.client.download(NODE, BASE, 1000, rdp=False))
    assert 192 <= len(caught.value.data) < 1000


@pytest.mark.parametrize(
    ("address", "length"),
    [(BASE - 1, 4), (BASE + 5000, 1), (BASE + 4999, 2), (0, 4), (BASE, 5001), (BASE + 1, 1 << 31)],
)
def test_ranges_outside_every_area_are_refused(address, length):
    setup = Setup()
    with pytest.raises(Refused):
        setup.run(setup.client.download(NODE, address, length))
    with pytest.raises(NoResponse):
        setup.run(setup.client.download(NODE, address, length, rdp=False))
    with pytest.raises(NoResponse):
        setup.run(setup.client.crc32(NODE, address, length))
    assert setup.server.counters.refused == 3
    assert setup.node.counters.handler_faults == 0


def test_upload_that_runs_out_of_the_area_keeps_to_it():
    setup = Setup()
    data = b"x" * 400
    with pytest.raises((Refused, NoResponse, Incomplete)):
        setup.run(setup.client.upload(NODE, BASE + 4800, data))
    assert setup.ram.read(4800, 192) == b"x" * 192
    assert setup.ram.read(4992, 8) == bytes(8)
    with pytest.raises((Refused, NoResponse, Incomplete)):
        setup.run(setup.client.upload(NODE, 77, b"x"))
    assert setup.server.counters.refused >= 2


def test_upload_is_flushed_when_the_connection_ends_and_reaches_parameters():
    table = ParamTable([ParamSpec(id=1, name="p", type=ParamType.U32, area="store", address=2)])
    disk = SimulatedDisk()
    binding = Binding(table, [FileArea("store", "store", 64, BASE, disk)])
    seen = []
    table.on_write("p", lambda p, i: seen.append(p.get()))
    setup = Setup(areas=binding.areas)
    setup.run(setup.client.upload(NODE, BASE, b"\0\0\x78\x56\x34\x12"))
    assert seen == [0x12345678]
    assert disk.files["store"][:6] == b"\0\0\x78\x56\x34\x12"


def test_store_failure_is_counted_and_the_node_lives_on():
    ops = FailingFileOps(4, forever=True, base=SimulatedDisk())
    setup = Setup(areas=[FileArea("store", "store", 64, BASE, ops)])
    setup.run(setup.client.upload(NODE, BASE, b"abc"))
    assert setup.server.counters.store_failures == 1
    assert setup.run(setup.client.download(NODE, BASE, 3)) == b"abc"


def test_upload_cut_off_in_the_middle_keeps_what_came_and_can_go_on():
    setup = Setup()
    client = VmemClient(setup.ground)

    def cut(done, total):
        if done == 1920:
            setup.net.channels[GROUND].loss = 1.0
            setup.net.channels[NODE].loss = 1.0

    with pytest.raises(Incomplete):
        setup.run(client.upload(NODE, BASE, CONTENT, progress=cut))
    setup.net.wait(60)
    assert setup.server.counters.uploads_broken == 1
    for address in (GROUND, NODE):
        setup.net.channels[address].loss = 0.0
    kept = next(i for i in range(5000) if setup.ram.read(i, 1) != CONTENT[i : i + 1])
    assert kept >= 192
    setup.run(client.upload(NODE, BASE + kept, CONTENT[kept:]))
    assert setup.ram.read(0, 5000) == CONTENT


def test_download_cut_off_in_the_middle_gives_what_came():
    setup = Setup()
    setup.ram.write(0, CONTENT)

    def cut(done, total):
        if done == 1920:
            setup.net.channels[NODE].loss = 1.0

    with pytest.raises(Incomplete) as caught:
        setup.run(setup.client.download(NODE, BASE, 5000, progress=cut))
    got = caught.value.data
    assert 1920 <= len(got) < 5000
    setup.net.channels[NODE].loss = 0.0
    rest = setup.run(setup.client.download(NODE, BASE + len(got), 5000 - len(got)))
    assert got + rest == CONTENT


def test_ring_requests_go_to_the_registered_handlers():
    setup = Setup()
    elements = [b"oldest", CONTENT[:1000]]

    async def download(data, connection):
        request = decode_ring_request(data)
        if request.name == "image" and -len(elements) <= request.value < len(elements):
            element = elements[request.value]
            await connection.send(encode_ring_length(len(element)))
            for i in range(0, len(element), 192):
                await connection.send(element[i : i + 192])

    async def upload(data, connection):
        parts = []
        while (part := await connection.receive(30)) is not None:
            parts.append(part)
        assert decode_ring_request(data).value == sum(map(len, parts))
        elements.append(b"".join(parts))

    setup.server.register(RequestKind.RING_DOWNLOAD, download)
    setup.server.register(RequestKind.RING_UPLOAD, upload)
    client = setup.client
    assert setup.run(client.ring_download(NODE, "images", 0)) == b"oldest"
    assert setup.run(client.ring_download(NODE, "images", -1)) == CONTENT[:1000]
    setup.run(client.ring_upload(NODE, "images", b"newest" * 100))
    assert setup.run(client.ring_download(NODE, "images", -1)) == b"newest" * 100
    with pytest.raises(Refused):
        setup.run(client.ring_download(NODE, "images", 7))
    assert setup.node.counters.handler_faults == 0


def test_kinds_that_are_not_free_cannot_be_registered():
    server = VmemServer()

    async def handler(data, connection):
        pass

    server.register(7, handler)
    for kind in (0, 1, 2, 6, 7, 256, -1):
        with pytest.raises(MisuseError):
            server.register(kind, handler)


def test_areas_may_touch_but_not_share_addresses():
    VmemServer([RamArea("a", 10, 0), RamArea("b", 10, 10)])
    with pytest.raises(MisuseError):
        VmemServer([RamArea("b", 10, 9), RamArea("a", 10, 0)])


def packet(data, flags=1):
    return Packet(dst=NODE, src=GROUND, dport=14, sport=20, flags=flags, data=data)


def test_procedure_requests_are_told_apart_and_need_a_checksum():
    got = []

    def procedures(request):
        got.append(request.data)
        return b"\xc3"

    server = VmemServer([RamArea("a", 10)], procedures)
    assert server.handle(packet(b"\x82\x01")) == b"\xc3"
    assert server.handle(packet(b"\x82\x01", flags=0)) is None
    assert server.handle(packet(encode_request(Request(version=1, kind=2)))) != b"\xc3"
    assert got == [b"\x82\x01"]
    assert VmemServer().handle(packet(b"\x82\x01")) is None


@pytest.mark.parametrize("data", [b"", b"\x01", b"\x00\x02", b"\x01\x09", b"\x01\x00" + bytes(16)])
def test_what_cannot_be_answered_is_silence(data):
    server = VmemServer([RamArea("a", 10)])
    assert server.handle(packet(data)) is None
    assert server.counters.refused == 1


def test_too_much_at_once_is_refused():
    server = VmemServer([RamArea("a", 20 << 20)])
    for kind, length in ((1, PLAIN_LIMIT_BYTES + 1), (6, (16 << 20) + 1)):
        request = encode_request(Request(version=1, kind=kind, length=length))
        assert server.handle(packet(request)) is None


@settings(max_examples=200)
@given(st.binary(max_size=40))
def test_any_packet_is_survived(data):
    server = VmemServer([RamArea("a", 300)])
    answer = server.handle(packet(data))
    assert answer is None or all(len(part) <= 247 for part in answer)


@settings(max_examples=30)
@given(st.lists(st.binary(min_size=1, max_size=40), min_size=1, max_size=3))
def test_any_bytes_over_rdp_are_survived(parts):
    setup = Setup()

    async def talk():
        connection = await setup.ground.connect(NODE, VMEM_PORT)
        for part in parts:
            await connection.send(part)
        connection.close()
        await connection.wait_closed()

    setup.run(talk())
    assert setup.node.counters.handler_faults == 0


@pytest.mark.parametrize("answer", [b"", b"abc", b"12345"])
def test_garbage_answers_are_decode_errors(answer):
    setup = Setup()
    setup.server.handle = lambda request: [answer]
    setup.node._bindings.clear()
    setup.node.bind(VMEM_PORT, setup.server.handle)
    with pytest.raises(DecodeError):
        setup.run(setup.client.crc32(NODE, BASE, 4))


def test_nobody_there_is_no_response():
    setup = Setup()
    for coro in (
        setup.client.list(33),
        setup.client.download(33, 0, 4),
        setup.client.upload(33, 0, b"x"),
    ):
        with pytest.raises(NoResponse):
            setup.run(coro)
