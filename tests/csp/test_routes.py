"""Routes: which interface leads where, set by the operator through CMP."""

from __future__ import annotations

import pytest

from csp import cmp
from csp.cmp import Code, RouteSet
from csp.errors import MisuseError, NoResponse
from csp.packet import decode_frame
from csp.routes import MAX_ROUTES
from csp.sched import Scheduler
from csp.services import PORT_CMP, Identity, Services
from csp.stack import Stack
from csp.testing import Network
from tests.csp.test_services import FakeWall


class Fork:
    """A node with two ways out; what goes where is kept by interface name."""

    def __init__(self, version: int = 2) -> None:
        self.stack = Stack(Scheduler(), version=version)
        self.sent: dict[str, list[bytes]] = {"ONE": [], "TWO": []}
        bits = 11 if version == 2 else 4
        self.stack.add_interface("ONE", 8, self.sent["ONE"].append, bits)
        self.stack.add_interface("TWO", 16, self.sent["TWO"].append, bits)

    def way(self, node: int) -> str:
        self.stack.send(node, 10, b"x")
        [name] = [name for name, frames in self.sent.items() if frames]
        assert decode_frame(self.sent[name].pop(), self.stack.version).dst == node
        return name


def test_own_networks_then_routes_then_the_default():
    fork = Fork()
    assert [fork.way(node) for node in (9, 17, 100, 1000)] == ["ONE", "TWO", "ONE", "ONE"]
    fork.stack.routes.set(100, None, "two")
    fork.stack.routes.set(9, None, "TWO")
    assert [fork.way(node) for node in (9, 17, 100, 101)] == ["ONE", "TWO", "TWO", "ONE"]


def test_the_longest_prefix_counts_and_zero_bits_are_everything():
    fork = Fork()
    fork.stack.routes.set(0, 0, "TWO")
    assert fork.way(1000) == "TWO"
    fork.stack.routes.set(1000, 8, "ONE")
    fork.stack.routes.set(1001, 14, "TWO")
    assert [fork.way(node) for node in (1000, 1001, 2000)] == ["ONE", "TWO", "TWO"]
    fork.stack.routes.set(1001, 14, "ONE")
    assert fork.way(1001) == "ONE"


def test_the_table_is_bounded():
    fork = Fork()
    for node in range(100, 100 + MAX_ROUTES):
        fork.stack.routes.set(node, None, "TWO")
    with pytest.raises(MisuseError, match="already"):
        fork.stack.routes.set(99, None, "TWO")
    fork.stack.routes.set(100, None, "ONE")
    assert (fork.way(100), fork.way(101)) == ("ONE", "TWO")


@pytest.mark.parametrize(("name", "bits"), [("THREE", None), ("TWO", 15), ("TWO", -1)])
def test_what_cannot_be_is_refused(name, bits):
    with pytest.raises(MisuseError):
        Fork().stack.routes.set(100, bits, name)


class Bench:
    """A node with services and two interfaces, asked by another one."""

    def __init__(self) -> None:
        self.network = Network()
        self.client = self.network.add(20)
        self.stack = self.network.add(9)
        self.stack.add_interface("OTHER", 300, lambda frame: None)
        Services(
            self.stack, identity=Identity(hostname="x"), wall=FakeWall(), reboot=lambda _: None
        ).bind()

    def ask(self, code: Code, route: RouteSet) -> bytes:
        request = cmp.encode_record(cmp.REQUEST, code, route.encode())
        return self.network.run(self.client.request(9, PORT_CMP, request))


@pytest.mark.parametrize(("code", "netmask", "no_via"), [
    (Code.ROUTE_SET_V1, None, 0xFF), (Code.ROUTE_SET_V2, 14, 0xFFFF),
])  # fmt: skip
def test_a_route_set_by_the_operator_is_in_force_and_answered(code, netmask, no_via):
    bench = Bench()
    route = RouteSet(destination=100, via=no_via, netmask=netmask, interface="OTHER")
    reply = bench.ask(code, route)
    assert RouteSet.decode(code, cmp.decode_reply(reply, code)) == route
    assert len(reply) == (15 if code is Code.ROUTE_SET_V1 else 20)
    assert bench.stack.interface_to(100).name == "OTHER"
    assert bench.stack.interface_to(101).name != "OTHER"


@pytest.mark.parametrize("change", [
    {"interface": "NOWHERE"}, {"netmask": 15}, {"via": 7},
])  # fmt: skip
def test_a_route_that_cannot_be_is_refused_by_silence_as_the_original_does(change):
    """Unknown interface: as libcsp. A next hop: no interface of ours could address it."""
    bench = Bench()
    fields = {"destination": 100, "via": 0xFFFF, "netmask": 14, "interface": "OTHER"} | change
    with pytest.raises(NoResponse):
        bench.ask(Code.ROUTE_SET_V2, RouteSet(**fields))
    assert bench.stack.interface_to(100).name != "OTHER"
