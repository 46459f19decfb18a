"""The CAN driver: nodes on a bus of sockets that carry `struct can_frame`, and SocketCAN if any."""

from __future__ import annotations

import errno
import os
import random
import socket

import pytest

from csp.cfp import CanFrame, Segmenter, receive_filters
from csp.errors import MisuseError
from csp.links.can import EXTENDED, WIRE, CanLink, encode_can_frame, open_can_socket
from csp.loop import Loop
from csp.node import CspNode
from csp.param.client import PullItem, PushItem
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from csp.sched import Scheduler
from csp.services import Identity
from csp.vmem.area import RamArea
from csp.vmem.client import VmemClient

CLIENT, SERVER, THIRD = 20, 9, 10
DEADLINE_S = 20.0
SPECS = tuple(
    ParamSpec(id=number, name=f"value_{number}", type=ParamType.U32, help="some help " * 5)
    for number in range(1, 41)
)


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


class VirtualBus:
    """Hands every frame to all other ends, through the receive filters a kernel would apply."""

    def __init__(self, loop, version):
        self.carried = 0
        self._loop = loop
        self._version = version
        self._ends = []

    def end(self, address):
        """Return a socket to give to a driver."""
        inner, outer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        inner.setblocking(False)
        self._ends.append((inner, receive_filters(address, 8, self._version)))
        self._loop.add_reader(inner.fileno(), lambda: self._carry(inner))
        return outer

    def _carry(self, sender):
        raw = sender.recv(WIRE.size)
        if not raw:
            self._loop.remove_reader(sender.fileno())
            return
        self.carried += 1
        can_id = WIRE.unpack(raw)[0] & ~EXTENDED
        for end, filters in self._ends:
            if end is not sender and any(can_id & f.mask == f.can_id for f in filters):
                end.send(raw)

    def close(self):
        for end, _ in self._ends:
            self._loop.remove_reader(end.fileno())
            end.close()


def make_node(loop, bus, address, version, areas=()):
    specs = SPECS if address == SERVER else ()
    node = CspNode(
        loop,
        address=address,
        identity=Identity(hostname=f"node-{address}", model="can"),
        table=ParamTable(specs),
        version=version,
        areas=areas,
        seed=address,
    )
    link = CanLink(bus.end(address), address=address, version=version)
    node.attach(link)
    return node, link


@pytest.mark.parametrize("version", [1, 2], ids=["cfp1", "cfp2"])
def test_nodes_ping_list_push_and_transfer_over_can(loop, version):
    bus = VirtualBus(loop, version)
    content = random.Random(version).randbytes(20_000)
    area = RamArea("ram", len(content), 0x1000)
    client, client_link = make_node(loop, bus, CLIENT, version)
    _, server_link = make_node(loop, bus, SERVER, version, [area])
    third, third_link = make_node(loop, bus, THIRD, version)

    async def use():
        assert await client.stack.request(SERVER, 1, b"ping" * 50, timeout_s=5.0) == b"ping" * 50
        assert await client.stack.request(SERVER, 1, b"", timeout_s=5.0) == b""
        listed = await client.params.download_list(SERVER)
        assert [each.spec.name for each in listed] == [spec.name for spec in SPECS]
        await client.params.push(SERVER, [PushItem(param=listed[3], value=7)])
        assert await client.params.pull(SERVER, [PullItem(param=listed[3])]) == [7]
        vmem = VmemClient(client.stack)
        await vmem.upload(SERVER, 0x1000, content)
        assert await vmem.download(SERVER, 0x1000, len(content)) == content

    loop.run_until(loop.scheduler.spawn(use()), DEADLINE_S)
    assert area.read(0, len(content)) == content
    assert bus.carried > 2 * len(content) / 8
    links = (client_link, server_link, third_link)
    assert [(link.errors, link.foreign) for link in links] == [(0, 0)] * 3
    # The filters keep what is not for it from the third node.
    assert client.stack.interfaces[0].counters.rx > 0
    assert third.stack.interfaces[0].counters.rx == 0
    for link in links:
        link.close()
        link.close()
    bus.close()


def test_broadcast_reaches_everybody_and_is_answered_from_the_own_address(loop):
    bus = VirtualBus(loop, 2)
    client, *_ = nodes = [make_node(loop, bus, each, 2)[0] for each in (CLIENT, SERVER, THIRD)]

    async def ask():
        seen = set()
        with client.stack.open(16383, 0) as socket_:
            socket_.send(b"\0\1")
            for _ in range(2):
                answer = await socket_.receive(5.0)
                seen.add(answer[2:22].rstrip(b"\0"))
        return seen

    found = loop.run_until(loop.scheduler.spawn(ask()), DEADLINE_S)
    assert found == {b"node-9", b"node-10"}
    for node in nodes:
        node.close()
    bus.close()


@pytest.fixture
def wire(loop):
    """A link on one end of a socket pair, the other end, what arrived."""
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    far.setblocking(False)
    link, received = CanLink(near, address=SERVER), []
    link.open(loop, received.append)
    yield far, link, received
    link.close()
    far.close()


PING = bytes.fromhex("80090050148100010203d9331aa3")


def test_the_structure_on_the_wire_is_that_of_linux(loop, wire):
    far, link, _ = wire
    link.send(PING)
    first = far.recv(64)
    assert first == (0x90012482).to_bytes(4, "little") + bytes.fromhex("080000000050148100010203")
    assert far.recv(64) == (0x90012485).to_bytes(4, "little") + bytes.fromhex(
        "04000000d9331aa300000000"
    )


def test_what_is_no_csp_is_ignored_and_counted(loop, wire):
    far, link, received = wire
    cut = Segmenter(2, 20).segment(PING)
    far.send(WIRE.pack(0x123, 2, b"standard"))
    far.send(WIRE.pack(EXTENDED | 0x40000000 | cut[0].can_id, 0, b""))
    far.send(WIRE.pack(EXTENDED | 0x20000000, 8, bytes(8)))
    far.send(WIRE.pack(EXTENDED | cut[0].can_id, 9, bytes(8)))
    far.send(b"short")
    for piece in cut:
        far.send(encode_can_frame(piece))
    loop.tick(1.0)
    assert received == [PING]
    assert link.foreign == 5


def test_random_frames_are_survived_and_the_next_packet_arrives(loop, wire):
    far, _, received = wire
    rng = random.Random(5)
    for _ in range(50):
        for _ in range(20):
            far.send(rng.randbytes(WIRE.size))
        for piece in Segmenter(2, 20).segment(PING):
            far.send(encode_can_frame(piece))
        loop.tick(1.0)
        assert received[-1] == PING
        received.clear()


class FullBus(socket.socket):
    """A bus whose queue is full after some frames, as `ENOBUFS` of a real one says."""

    room = 0
    error = errno.ENOBUFS

    def send(self, data, *flags):
        if self.room == 0:
            raise OSError(self.error, os.strerror(self.error))
        self.room -= 1
        return super().send(data, *flags)


@pytest.fixture
def full(loop):
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    bus = FullBus(fileno=near.detach())
    link = CanLink(bus, address=SERVER)
    link.open(loop, lambda frame: None)
    yield far, bus, link
    link.close()
    far.close()


def test_a_busy_bus_makes_frames_wait_in_order(loop, full):
    far, bus, link = full
    bus.room = 3
    frame = PING[:6] + bytes(range(60))
    link.send(frame)
    link.send(PING)
    got = [far.recv(64) for _ in range(3)]
    bus.room = 1000
    segmenter = Segmenter(2, SERVER)
    expected = [encode_can_frame(p) for f in (frame, PING) for p in segmenter.segment(f)]
    far.settimeout(5.0)
    while len(got) < len(expected):
        loop.tick(0.05)
        got.append(far.recv(64))
    assert got == expected


def test_a_bus_that_takes_nothing_does_not_pile_up(full):
    _, _, link = full

    def fill():
        for _ in range(20):
            link.send(PING[:6] + bytes(2000))

    with pytest.raises(OSError, match="too slow"):
        fill()


def test_an_interface_that_goes_down_is_told_to_the_sender(loop, full):
    _, bus, link = full
    bus.error = errno.ENETDOWN
    with pytest.raises(OSError, match="down"):
        link.send(PING)
    # Also while something waits: the next one tells.
    bus.error = errno.ENOBUFS
    link.send(PING)
    bus.error = errno.ENETDOWN
    for _ in range(3):
        loop.tick(0.01)
    with pytest.raises(OSError, match="down"):
        link.send(PING)


def test_a_packet_too_long_for_cfp_1_is_named(loop):
    far, near = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    link = CanLink(near, address=SERVER, version=1)
    link.send(bytes(3000))
    link.open(loop, lambda frame: None)
    with pytest.raises(MisuseError, match="CFP 1"):
        link.send(bytes(4 + 2043))
    link.close()
    far.close()


def test_a_can_link_needs_a_loop(wire):
    with pytest.raises(MisuseError):
        wire[1].open(Scheduler(), lambda frame: None)


# -- SocketCAN itself


def can_or_skip(device):
    try:
        open_can_socket(device).close()
    except MisuseError as error:
        pytest.skip(f"{error}")


def test_without_can_the_message_says_what_is_missing():
    with pytest.raises(MisuseError, match=r"no CAN|cannot use CAN interface|without CAN"):
        CanLink("no_such_can0", address=1)


@pytest.mark.parametrize("version", [1, 2])
def test_ping_over_a_real_interface(loop, version):
    device = os.environ.get("CSP_TEST_CAN", "vcan0")
    can_or_skip(device)
    links = [CanLink(device, address=each, version=version) for each in (CLIENT, SERVER)]
    nodes = []
    for address, link in zip((CLIENT, SERVER), links, strict=True):
        node = CspNode(
            loop,
            address=address,
            identity=Identity(hostname=f"node-{address}", model="can"),
            table=ParamTable(()),
            version=version,
        )
        node.attach(link)
        nodes.append(node)
    task = loop.scheduler.spawn(nodes[0].stack.request(SERVER, 1, bytes(100), timeout_s=5.0))
    assert loop.run_until(task, DEADLINE_S) == bytes(100)
    for node in nodes:
        node.close()


def test_a_frame_has_room_for_eight_bytes():
    assert WIRE.size == 16
    assert len(encode_can_frame(CanFrame(1, b"12345678"))) == 16
