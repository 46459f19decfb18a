from __future__ import annotations

import pytest

from csp.errors import NoResponse
from csp.node import CspNode, SystemWall
from csp.param.client import PullItem, PushItem
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from csp.services import Identity
from csp.testing import Network
from csp.vmem.area import RamArea, StoreError
from csp.vmem.client import VmemClient

IDENTITY = Identity(hostname="node-9", model="test")
ME, OTHER = 9, 20
SPECS = (
    ParamSpec(id=1, name="counter", type=ParamType.U32, area="store", address=0),
    ParamSpec(id=2, name="rate", type=ParamType.FLOAT, default=1.5),
)


class CountingArea(RamArea):
    flushes = 0
    full = False

    def flush(self):
        self.flushes += 1
        if self.full:
            raise StoreError("disk full")


@pytest.fixture
def network():
    return Network()


@pytest.fixture
def area():
    return CountingArea("store", 64, 0x1000)


@pytest.fixture
def node(network, area):
    node = CspNode(
        network.scheduler,
        address=ME,
        identity=IDENTITY,
        table=ParamTable(SPECS),
        areas=[area],
        seed=1,
    )
    node.attach(network.link(ME))
    yield node
    node.close()


@pytest.fixture
def other(network):
    node = CspNode(
        network.scheduler, address=OTHER, identity=IDENTITY, table=ParamTable(()), seed=2
    )
    node.attach(network.link(OTHER))
    return node


def test_everything_a_shell_asks_of_a_node(network, node, other):
    async def use():
        assert await other.stack.request(ME, 1, b"ping") == b"ping"
        assert b"node-9" in await other.stack.request(ME, 0, b"\0\1")
        listed = await other.params.download_list(ME)
        assert [each.spec.name for each in listed] == ["counter", "rate"]
        await other.params.push(ME, [PushItem(param=listed[0], value=7)])
        values = await other.params.pull(ME, [PullItem(param=listed[0]), PullItem(param=listed[1])])
        assert values == [7, 1.5]
        vmem = VmemClient(other.stack)
        assert [each.name for each in await vmem.list(ME)] == ["store"]
        assert await vmem.download(ME, 0x1000, 4) == bytes((7, 0, 0, 0))

    network.run(use())
    assert not node.stack.faults


def test_a_push_is_stored_at_once_and_an_own_change_soon(network, node, other, area):
    async def push():
        listed = await other.params.download_list(ME)
        await other.params.push(ME, [PushItem(param=listed[0], value=7)])

    network.run(push())
    assert area.flushes == 1
    before = area.flushes
    node.table["counter"].set(8)
    node.table["counter"].set(9)
    node.table["rate"].set(2.5)
    assert area.flushes == before
    network.wait(1.1)
    assert area.flushes == before + 1


def test_a_full_disk_is_counted_and_tried_again(network, node, area):
    area.full = True
    node.table["counter"].set(8)
    network.wait(1.1)
    assert node.store_failures == 1
    area.full = False
    node.table["counter"].set(9)
    network.wait(1.1)
    assert node.store_failures == 1


def test_close_stores_and_leaves_the_network(network, node, other, area):
    node.table["counter"].set(8)
    node.close()
    assert area.flushes == 1
    with pytest.raises(NoResponse):
        network.run(other.stack.request(ME, 1, b"ping"))
    node.close()


def test_reboot_hook_and_its_default(network, other):
    calls = []
    node = CspNode(
        network.scheduler,
        address=30,
        identity=IDENTITY,
        table=ParamTable(()),
        reboot=calls.append,
    )
    node.attach(network.link(30))
    for magic in ("80078007", "d1e5529a"):
        other.stack.send(30, 4, bytes.fromhex(magic))
    other.stack.send(OTHER, 4, bytes.fromhex("80078007"))
    network.wait(0.1)
    assert calls == [True, False]


def test_system_wall_is_set_without_touching_the_system():
    wall = SystemWall()
    wall.set(1_000_000.0)
    assert wall.now() == pytest.approx(1_000_000.0, abs=1)
    assert SystemWall().now() > 1_600_000_000


def test_memory_and_buffers_are_positive(network, node, other):
    for port in (3, 5):
        assert int.from_bytes(network.run(other.stack.request(ME, port, b"")), "big") > 0
