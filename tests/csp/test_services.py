from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp import cmp
from csp.cmp import Clock, Code, Ident, InterfaceStats, MemoryAccess, RouteSet
from csp.errors import DecodeError, MisuseError, NoResponse
from csp.interface import InterfaceCounters
from csp.packet import Packet
from csp.services import Identity, Services
from csp.testing import Network

IDENTITY = Identity(
    hostname="refnode", model="C-reference", revision="r1", date="Nov 21 2026", time="03:48:41"
)
ME, OTHER = 9, 20
VECTORS = json.loads(Path(__file__).with_name("vectors.json").read_text())["vectors"]


class FakeWall:
    def __init__(self):
        self.time = 1_000_000_000.5

    def now(self):
        return self.time

    def set(self, unix_s):
        self.time = unix_s


class FakeArea:
    name = "fake"
    kind = 1
    fresh = True
    address = 0x1000
    size = 64

    def __init__(self):
        self.content = bytearray(range(64))
        self.flushed = 0

    def flush(self):
        self.flushed += 1

    def read(self, offset, length):
        return bytes(self.content[offset : offset + length])

    def write(self, offset, data):
        if offset >= 60:
            raise MisuseError("write-protected")
        self.content[offset : offset + len(data)] = data


class Bench:
    def __init__(self, areas=()):
        self.network = Network()
        self.client = self.network.add(OTHER)
        self.wall = FakeWall()
        self.reboots: list[bool] = []
        self.stack = self.network.add(ME)
        self.services = Services(
            self.stack,
            identity=IDENTITY,
            wall=self.wall,
            reboot=self.reboots.append,
            areas=areas,
            memory_free=lambda: 5_000_000_000,
            buffers_free=lambda: 42,
        )
        self.services.bind()

    def ask(self, port, data=b""):
        return self.network.run(self.client.request(ME, port, data))

    def assert_silent(self, port, data):
        with pytest.raises(NoResponse):
            self.ask(port, data)
        assert not self.stack.faults


def test_captured_ident_and_ping():
    bench = Bench()
    for name, port in (("ident", 0), ("ping_size32", 1)):
        vector = next(vector for vector in VECTORS if vector["name"] == name)
        request, reply = (
            bytes.fromhex(frame["decoded"]["payload_hex"]) for frame in vector["frames"]
        )
        assert bench.ask(port, request) == reply


def test_two_bytes_suffice_for_ident_and_clock():
    bench = Bench()
    assert cmp.decode_reply(bench.ask(0, b"\0\1"), Code.IDENT) == IDENTITY.encode()
    assert len(bench.ask(0, b"\0\6")) == 10


def test_uptime_buffers_memory_and_processes():
    bench = Bench()
    bench.network.wait(12.7)
    assert bench.ask(6) == (12).to_bytes(4, "big")
    assert bench.ask(5) == (42).to_bytes(4, "big")
    assert bench.ask(3) == (5_000_000_000 & 0xFFFFFFFF).to_bytes(4, "big")
    assert bench.ask(2, b"\x55") == b""
    bench.assert_silent(2, b"\x54")


@pytest.mark.parametrize(
    ("magic", "calls"),
    [("80078007", [True]), ("d1e5529a", [False]), ("00000000", []), ("8007", []), ("", [])],
)
def test_reboot_port_calls_the_hook_and_never_answers(magic, calls):
    bench = Bench()
    bench.assert_silent(4, bytes.fromhex(magic))
    assert bench.reboots == calls


def test_if_stats():
    bench = Bench()
    name = bench.stack.interfaces[0].name
    stats = InterfaceStats.decode(
        cmp.decode_reply(bench.ask(0, cmp.encode_if_stats_request(name)), Code.IF_STATS)
    )
    assert (stats.name, stats.counters.rx, stats.counters.tx) == (name, 1, 0)
    assert stats.counters.rxbytes == 53 + 4
    # Only the name has to be there.
    assert len(bench.ask(0, b"\0\3" + name.encode().ljust(11, b"\0"))) == 53
    bench.assert_silent(0, cmp.encode_if_stats_request("CAN"))


def test_clock_is_told_and_set():
    bench = Bench()

    def ask(unix_ns):
        request = cmp.encode_record(cmp.REQUEST, Code.CLOCK, Clock(unix_ns=unix_ns).encode())
        return Clock.decode(cmp.decode_reply(bench.ask(0, request), Code.CLOCK)).unix_ns

    assert ask(0) == 1_000_000_000_500_000_000
    # Wall time is a float inside: good for about 0.2 microseconds.
    assert ask(1_700_000_000_250_000_000) == pytest.approx(1_700_000_000_250_000_000, abs=1000)
    assert bench.wall.time == pytest.approx(1_700_000_000.25, abs=1e-6)


@pytest.mark.parametrize(
    "data",
    [
        "",
        "00",
        "ff01",
        "0000",
        "000a",
        "00ff",
        "0102",
        "0002",
        "0007",
        "0003",
        "0004",
        "0006" + "ff" * 8,
    ],
)
def test_no_request_unknown_or_broken_gets_no_reply(data):
    Bench().assert_silent(0, bytes.fromhex(data))


PEEKS = [(Code.PEEK, Code.POKE), (Code.PEEK_V2, Code.POKE_V2)]


@pytest.mark.parametrize(("peek", "poke"), PEEKS)
def test_peek_and_poke_reach_the_given_areas_only(peek, poke):
    area = FakeArea()
    bench = Bench([area])

    def ask(code, address, length, data=b""):
        access = MemoryAccess(address=address, length=length, data=data)
        body = cmp.decode_reply(
            bench.ask(0, cmp.encode_record(cmp.REQUEST, code, access.encode(code))), code
        )
        return MemoryAccess.decode(code, body).data

    assert ask(peek, 0x1002, 3) == b"\2\3\4"
    assert ask(peek, 0x1000 + 60, 4) == bytes(range(60, 64))
    assert ask(poke, 0x1004, 2, b"ab") == b"ab"
    assert area.content[4:6] == b"ab"
    assert area.flushed == 1
    for address, length in ((0x1000 + 61, 4), (0xFFF, 2), (0, 4), (0x2000, 1)):
        access = MemoryAccess(address=address, length=length)
        bench.assert_silent(0, cmp.encode_record(cmp.REQUEST, peek, access.encode(peek)))
    # An area that refuses is no fault of the node.
    access = MemoryAccess(address=0x1000 + 60, length=2, data=b"ab")
    bench.assert_silent(0, cmp.encode_record(cmp.REQUEST, poke, access.encode(poke)))


@pytest.mark.parametrize("poke", [Code.POKE, Code.POKE_V2])
def test_a_poke_that_the_area_does_not_keep_is_not_acknowledged(poke):
    class Stubborn(FakeArea):
        def flush(self):
            self.content[:] = range(64)

    area = Stubborn()
    access = MemoryAccess(address=0x1004, length=2, data=b"ab")
    Bench([area]).assert_silent(0, cmp.encode_record(cmp.REQUEST, poke, access.encode(poke)))
    assert area.content == bytes(range(64))


@pytest.mark.parametrize(("peek", "poke"), PEEKS)
def test_without_areas_peek_and_poke_are_refused(peek, poke):
    bench = Bench()
    for code in (peek, poke):
        access = MemoryAccess(address=0, length=4, data=b"abcd")
        bench.assert_silent(0, cmp.encode_record(cmp.REQUEST, code, access.encode(code)))


def test_record_sizes_are_those_of_the_reference():
    assert len(IDENTITY.encode()) == 91
    stats = InterfaceStats(name="ZMQ", counters=InterfaceCounters(tx=2**32 + 5))
    assert len(stats.encode()) == 51
    assert InterfaceStats.decode(stats.encode()).counters.tx == 5
    assert len(RouteSet(destination=1, via=2, netmask=None, interface="CAN").encode()) == 13
    assert len(RouteSet(destination=1, via=2, netmask=5, interface="CAN").encode()) == 18
    assert len(MemoryAccess(address=1, length=7).encode(Code.PEEK)) == 8 + 7


def test_long_identity_keeps_a_final_nul():
    body = Ident(hostname="h" * 50, time="12:34:56+02:00").encode()
    assert Ident.decode(body) == Ident(hostname="h" * 19, time="12:34:56")


@pytest.mark.parametrize(
    "route",
    [
        RouteSet(destination=5, via=7, netmask=None, interface="CAN"),
        RouteSet(destination=5000, via=7, netmask=8, interface="ZMQ"),
    ],
)
def test_route_records_round_trip(route):
    code = Code.ROUTE_SET_V1 if route.netmask is None else Code.ROUTE_SET_V2
    body = route.encode()
    assert RouteSet.decode(code, body) == route
    for size in range(len(body)):
        with pytest.raises(DecodeError):
            RouteSet.decode(code, body[:size])


@pytest.mark.parametrize("code", [Code.PEEK, Code.POKE, Code.PEEK_V2, Code.POKE_V2])
def test_memory_records_refuse_what_is_too_long_or_short(code):
    limit = 200 if code in (Code.PEEK, Code.POKE) else 196
    body = MemoryAccess(address=1, length=limit, data=bytes(limit)).encode(code)
    assert MemoryAccess.decode(code, body).length == limit
    with pytest.raises(DecodeError):
        MemoryAccess.decode(code, MemoryAccess(address=1, length=limit + 1).encode(code))
    if code in (Code.POKE, Code.POKE_V2):
        with pytest.raises(DecodeError):
            MemoryAccess.decode(code, body[: limit // 2])


@given(st.binary(max_size=120))
def test_any_bytes_on_port_0_are_answered_or_ignored(data):
    network = Network()
    stack = network.add(ME)
    services = Services(
        stack, identity=IDENTITY, wall=FakeWall(), reboot=lambda _: None, areas=[FakeArea()]
    )
    answer = services.handle_cmp(Packet(dst=ME, src=OTHER, dport=0, sport=20, data=data))
    assert answer is None or answer[:2] == b"\xff" + data[1:2]
    services.handle_cmp(Packet(dst=ME, src=OTHER, dport=0, sport=20, data=b"\0" + data))


@pytest.mark.parametrize("data", [b"", b"\xff", b"\0\1", b"\xff\2"])
def test_wrong_replies_are_named_errors(data):
    with pytest.raises(DecodeError):
        cmp.decode_reply(data, Code.IDENT)
