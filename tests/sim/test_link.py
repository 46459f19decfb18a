"""The radio link in virtual time: who crosses, how fast, when, and what is counted."""

from __future__ import annotations

import dataclasses

import pytest

from csp.errors import MisuseError, NoResponse
from csp.guard import Guard, VolatileStamps
from csp.hmac import derive_key
from csp.links.memory import MemoryBus
from csp.packet import MAX_PAYLOAD_BYTES, Flag, Packet, decode_frame, encode_frame
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.sched import Scheduler
from csp.stack import Stack
from sim import config
from sim.bridge import Bridge, source
from sim.clock import MissionClock
from sim.figures import DirectionFigures, LinkFigures, PayloadConfig
from sim.link import LinkGuards, LinkNode

_CONFIG = config.load()
_EPOCH = _CONFIG.mission.epoch_unix
_PING = 1


def _frame(src: int, dst: int, size: int = 10) -> bytes:
    return encode_frame(Packet(src=src, dst=dst, dport=10, sport=30, flags=0, data=bytes(size)))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("address", [0, 1, 4, 21, 30])
def test_source_address_of_a_frame(version: int, address: int) -> None:
    frame = encode_frame(Packet(src=address, dst=9, dport=1, sport=2), version)
    assert source(frame, version) == address


@pytest.mark.parametrize("address", [161, 16382])
def test_source_address_of_a_big_node(address: int) -> None:
    assert source(encode_frame(Packet(src=address, dst=9, dport=1, sport=2)), 2) == address


_ROUTES = [
    # source, destination, crosses up, crosses down
    (20, 162, True, False),
    (45, 4, True, False),
    (20, 21, False, False),
    (162, 20, False, True),
    (4, 63, False, True),
    (162, 4, False, False),
    (20, 16383, True, False),
    (162, 16383, False, True),
]


@pytest.mark.parametrize(("src", "dst", "up", "down"), _ROUTES)
def test_who_crosses(src: int, dst: int, up: bool, down: bool) -> None:
    scheduler, ground, space = Scheduler(), [], []
    bridge = Bridge(scheduler, _CONFIG.link, to_ground=ground.append, to_space=space.append)
    frame = _frame(src, dst)
    bridge.from_ground(frame)
    bridge.from_space(frame)
    scheduler.advance(10.0)
    assert (space, ground) == ([frame] * up, [frame] * down)


@pytest.mark.parametrize("size", range(6))
def test_fragments_of_a_header_go_nowhere(size: int) -> None:
    bridge = Bridge(Scheduler(), _CONFIG.link, to_ground=_fail, to_space=_fail)
    bridge.from_ground(_frame(20, 162)[:size])
    assert bridge.up.counters.offered == 0


def _fail(frame: bytes) -> None:
    raise AssertionError(f"sent {frame!r}")


def _direction(**changes: float) -> DirectionFigures:
    return dataclasses.replace(DirectionFigures(rate_bps=9600.0), **changes)


def _bridge(scheduler: Scheduler, up: DirectionFigures) -> tuple[Bridge, list[bytes]]:
    figures = LinkFigures(uplink=up, downlink=_direction(), ground_addresses=((20, 31),))
    arrived: list[bytes] = []
    return Bridge(scheduler, figures, to_ground=_fail, to_space=arrived.append), arrived


def test_uplink_is_as_slow_as_its_rate_and_counts_airtime() -> None:
    scheduler = Scheduler()
    bridge, arrived = _bridge(scheduler, _direction(delay_s=0.25))
    frame = _frame(20, 162, size=114)
    assert len(frame) == 120
    for _ in range(10):
        bridge.from_ground(frame)
    scheduler.advance(0.34)
    assert arrived == []
    scheduler.advance(0.351)
    assert len(arrived) == 1
    scheduler.advance(1.251)
    assert len(arrived) == 10
    assert bridge.up.counters.bytes == 1200
    assert bridge.up.counters.airtime_s == pytest.approx(1.0)


def test_the_queue_is_bounded_and_its_drops_are_counted() -> None:
    scheduler = Scheduler()
    bridge, arrived = _bridge(scheduler, _direction(queue_bytes=1200))
    for _ in range(20):
        bridge.from_ground(_frame(20, 162, size=114))
    scheduler.advance(100.0)
    assert len(arrived) + bridge.up.dropped == 20
    assert len(arrived) == 10


def test_chance_repeats_with_the_seed() -> None:
    def run() -> list[bytes]:
        scheduler = Scheduler()
        bridge, arrived = _bridge(scheduler, _direction(loss=0.3, corruption=0.3))
        for _ in range(50):
            bridge.from_ground(_frame(20, 162))
        scheduler.advance(100.0)
        return arrived

    first = run()
    assert first == run()
    assert 20 < len(first) < 50


class _Rig:
    """A ground stack and a space stack with the link node between them."""

    def __init__(self, cfg: PayloadConfig, rate: float = 1.0) -> None:
        self.scheduler = Scheduler()
        self.ground_bus, self.space_bus = MemoryBus(self.scheduler), MemoryBus(self.scheduler)
        clock = MissionClock(epoch_unix=_EPOCH, rate=rate)
        self.node = LinkNode(
            self.scheduler,
            cfg,
            clock,
            ground=self.ground_bus.link("GND"),
            space=self.space_bus.link("SPC"),
            seed=1,
        )
        self.node.attach(self.space_bus.link("LINK"))
        self.ground = self._stack(self.ground_bus, 20)
        self.dipp = self._stack(self.space_bus, 162)
        self.dipp.bind(_PING, lambda packet: packet.data)

    def _stack(self, bus: MemoryBus, address: int) -> Stack:
        stack, link = Stack(self.scheduler), bus.link()
        interface = stack.add_interface("MEM", address, link.send)
        link.open(self.scheduler, lambda frame: stack.receive(interface, frame))
        return stack

    def ping(self, size: int = 100, timeout_s: float = 5.0) -> float:
        start = self.scheduler.now
        task = self.scheduler.spawn(
            self.ground.request(162, _PING, bytes(size), timeout_s=timeout_s), "ping"
        )
        self.scheduler.run_virtual(task)
        return self.scheduler.now - start

    def wait(self, duration_s: float) -> None:
        async def idle() -> None:
            await self.scheduler.sleep(duration_s)

        self.scheduler.run_virtual(self.scheduler.spawn(idle(), "idle"), duration_s + 1)


def test_ground_reaches_space_at_the_speed_of_the_radio() -> None:
    rig = _Rig(_CONFIG)
    frame_bits = 8 * (100 + 6 + 4)
    expected = frame_bits / 9600 + frame_bits / 1e6 + 0.01
    assert rig.ping() == pytest.approx(expected, rel=0.01)
    table = rig.node.model.stats()
    assert (table["up_bytes"], table["down_bytes"]) == (110, 110)
    assert table["link_open"] == 1


def test_the_ground_reads_the_counters_through_the_link() -> None:
    rig = _Rig(_CONFIG)
    rig.ping()
    remote = RemoteTable(ParamClient(rig.ground, timeout_s=5.0))
    rig.wait(1.0)
    task = rig.scheduler.spawn(remote.get(_CONFIG.nodes.link, "up_frames"), "get")
    assert rig.scheduler.run_virtual(task) == 1


def test_knobs_turn_and_nonsense_is_put_back() -> None:
    rig = _Rig(_CONFIG)
    table = rig.node.table
    table["up_rate"].write(960.0)
    assert rig.ping() > 0.9
    table["up_loss"].write(1.0)
    with pytest.raises(NoResponse):
        rig.ping()
    table["up_loss"].write(-0.5)
    assert table["up_loss"].get() == 1.0
    table["up_rate"].write(0.0)
    assert table["up_rate"].get() == 960.0
    table["up_loss"].write(0.0)
    table["link_enabled"].write(0)
    with pytest.raises(NoResponse):
        rig.ping()
    assert table["link_open"].get() == 0
    table["link_enabled"].write(1)
    rig.ping()


def test_with_passes_there_is_contact_only_while_the_station_sees_the_satellite() -> None:
    rig = _Rig(_CONFIG.with_windows("passes"), rate=60.0)
    rig.wait(1.5)
    table = rig.node.table
    rise, sets = table["pass_rise"].get(), table["pass_set"].get()
    assert rise - _EPOCH == pytest.approx(768, abs=3)
    assert table["pass_top"].get() == pytest.approx(49.7, abs=0.2)
    with pytest.raises(NoResponse):
        rig.ping(timeout_s=1.0)
    assert table["link_open"].get() == 0
    rig.wait((rise - _EPOCH) / 60 + 0.5 - rig.scheduler.now)
    rig.ping()
    rig.wait(1.0)
    assert table["link_open"].get() == 1
    assert table["elevation"].get() > 5.0
    rig.wait((sets - _EPOCH) / 60 + 0.1 - rig.scheduler.now)
    with pytest.raises(NoResponse):
        rig.ping(timeout_s=1.0)
    assert rig.node.model.bridge.up.dropped == 2


def test_passes_are_found_for_more_than_a_day() -> None:
    rig = _Rig(_CONFIG.with_windows("passes"), rate=3600.0)
    seen = set()
    for _ in range(72):
        rig.wait(1.0)
        seen.add(rig.node.table["pass_rise"].get())
    assert len([rise for rise in seen if rise]) >= 12
    assert 0 not in seen or min(r for r in seen if r) < _EPOCH + 7200


def test_an_address_on_the_wrong_side_is_refused() -> None:
    text = "nodes: {link: 45}"
    with pytest.raises(MisuseError, match="45 is a ground address"):
        _Rig(config.parse(text, config._shipped))


def test_closing_ends_the_link() -> None:
    rig = _Rig(_CONFIG)
    rig.node.close()
    rig.node.close()
    with pytest.raises(NoResponse):
        rig.ping(timeout_s=1.0)


# -- authentication

_KEY = derive_key("a passphrase of the operator")


def _guard(*, window: bool = True) -> Guard:
    return Guard(_KEY, stamps=VolatileStamps() if window else None)


class _Air:
    """An authenticated link with open ends."""

    def __init__(self, guards: LinkGuards) -> None:
        self.scheduler = Scheduler()
        self.space: list[bytes] = []
        self.ground: list[bytes] = []
        self.bridge = Bridge(
            self.scheduler, _CONFIG.link, to_ground=self.ground.append, to_space=self.space.append,
            space_guard=guards.space, station_guard=guards.station,
        )  # fmt: skip

    def settle(self) -> None:
        self.scheduler.advance(self.scheduler.now + 10.0)


_WITH_CRC = encode_frame(Packet(src=20, dst=162, dport=10, sport=30, data=b"command"))


@pytest.mark.parametrize("window", [False, True])
def test_a_station_that_signs_is_not_noticed_by_programs(window: bool) -> None:
    air = _Air(LinkGuards(space=_guard(window=window), station=_guard(window=window)))
    up = [_frame(20, 162), _WITH_CRC]
    down = [_frame(162, 20), encode_frame(Packet(src=4, dst=20, dport=30, sport=10, data=b"x"))]
    for frame in up:
        air.bridge.from_ground(frame)
    for frame in down:
        air.bridge.from_space(frame)
    air.settle()
    assert (air.space, air.ground) == (up, down)
    # On the air each frame is longer by its authentication.
    overhead = len(up) * (12 if window else 4)
    assert air.bridge.up.counters.bytes == sum(map(len, up)) + overhead


def test_commands_of_a_transmitter_without_the_key_are_refused_and_counted() -> None:
    space = _guard()
    air = _Air(LinkGuards(space=space, station=_guard()))
    stranger = Guard(derive_key("another passphrase"), stamps=VolatileStamps())
    packet = decode_frame(_WITH_CRC)
    for frame in (_WITH_CRC, encode_frame(stranger.seal(packet)), _WITH_CRC[:-1] + b"?", b"\0"):
        air.bridge.arrive_in_space(frame)
    assert air.space == []
    assert (space.counters.unsigned, space.counters.forged) == (1, 1)
    assert air.bridge.up.counters.damaged == 2


def test_fault_78_a_recorded_command_is_not_obeyed_again() -> None:
    space = _guard()
    air = _Air(LinkGuards(space=space))
    programs = _guard()
    recorded = [
        encode_frame(programs.seal(decode_frame(_WITH_CRC)._replace(data=b"%d" % number)))
        for number in range(100)
    ]
    for frame in recorded:
        air.bridge.from_ground(frame)
        air.settle()
    assert len(air.space) == 100
    for frame in recorded:
        air.bridge.arrive_in_space(frame)
    assert len(air.space) == 100
    assert space.counters.replayed == 100


def test_programs_that_sign_themselves_reach_the_satellite_and_hear_signed_answers() -> None:
    air = _Air(LinkGuards(space=_guard()))
    programs = _guard()
    command, answer = decode_frame(_WITH_CRC), Packet(src=162, dst=20, dport=30, sport=10)
    air.bridge.from_ground(encode_frame(programs.seal(command)))
    air.bridge.from_ground(_WITH_CRC)
    air.bridge.from_space(encode_frame(answer))
    air.settle()
    assert air.space == [_WITH_CRC]
    assert [programs.open(decode_frame(frame)) for frame in air.ground] == [answer]


def test_what_has_no_room_for_a_signature_is_dropped_and_counted() -> None:
    air = _Air(LinkGuards(space=_guard(), station=_guard()))
    air.bridge.from_ground(_frame(20, 162, MAX_PAYLOAD_BYTES))
    air.bridge.from_ground(_frame(20, 162, MAX_PAYLOAD_BYTES - 12))
    air.settle()
    assert len(air.space) == 1
    assert air.bridge.up.counters.unsealed == 1


@pytest.mark.parametrize("seed", range(3))
def test_damage_on_an_authenticated_link_loses_frames_and_lets_none_through_changed(
    seed: int,
) -> None:
    scheduler, space = Scheduler(), []
    figures = dataclasses.replace(_CONFIG.link, uplink=_direction(corruption=0.01), seed=seed)
    bridge = Bridge(
        scheduler, figures, to_ground=_fail, to_space=space.append,
        space_guard=_guard(), station_guard=_guard(),
    )  # fmt: skip
    sent = [
        encode_frame(Packet(src=20, dst=162, dport=10, sport=30, data=b"%d" % n, flags=flags))
        for n in range(200)
        for flags in (0, Flag.CRC32)
    ]
    for frame in sent:
        bridge.from_ground(frame)
        scheduler.advance(scheduler.now + 1.0)
    assert set(space) < set(sent)
    assert len(space) > 200


@pytest.mark.parametrize("by", ["station", "programs"])
def test_the_node_shows_how_the_link_is_guarded_and_what_it_refused(by: str) -> None:
    scheduler = Scheduler()
    ground, space = MemoryBus(scheduler), MemoryBus(scheduler)
    guards = LinkGuards(space=_guard(), station=_guard() if by == "station" else None)
    node = LinkNode(
        scheduler, _CONFIG, MissionClock(epoch_unix=_EPOCH),
        ground=ground.link("GROUND"), space=space.link("SPACE"), guards=guards,
    )  # fmt: skip
    node.model.bridge.arrive_in_space(_WITH_CRC)
    node.model.update(scheduler.now)
    table = node.model.table
    assert (table["authentication"].get(), table["up_unsigned"].get()) == (2, 1)
    node.close()
