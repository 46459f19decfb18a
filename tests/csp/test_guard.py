"""Authentication of a link: the flown form, the form with stamps, and packets sent again."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp.errors import DecodeError, NoResponse
from csp.guard import STAMP_BYTES, WINDOW_BITS, Guard, VolatileStamps, Window
from csp.hmac import append_hmac, derive_key
from csp.packet import Flag, Packet
from csp.testing import FakeNode, Network

KEY = derive_key("a passphrase of the operator")
PACKET = Packet(dst=9, src=20, dport=10, sport=30, flags=Flag.CRC32, data=b"command")
PACKETS = st.builds(
    Packet,
    dst=st.integers(0, 31), src=st.integers(0, 31), dport=st.integers(0, 63),
    sport=st.integers(0, 63), prio=st.integers(0, 3),
    flags=st.sampled_from((0, 1, 2, 3, 0x11)), data=st.binary(max_size=300),
)  # fmt: skip


def flown() -> Guard:
    return Guard(KEY)


def stamped(first: int = 1, version: int = 2, key: bytes = KEY) -> Guard:
    return Guard(key, version=version, stamps=VolatileStamps(first))


@given(packet=PACKETS, version=st.sampled_from((1, 2)))
@pytest.mark.parametrize("make", [flown, stamped])
def test_what_is_sealed_opens_to_the_same(make, packet, version):
    sealed = make().seal(packet)
    assert sealed.flags == packet.flags | Flag.HMAC
    assert len(sealed.data) == len(packet.data) + make().overhead_bytes
    assert make().open(sealed) == packet


def test_without_stamps_the_form_is_the_flown_one():
    """libcsp appends the HMAC of the payload alone, key = SHA-1 of the passphrase (csp.md 7)."""
    sealed = flown().seal(PACKET)
    assert sealed == PACKET._replace(
        flags=Flag.CRC32 | Flag.HMAC, data=append_hmac(b"command", KEY)
    )


def test_with_stamps_the_form_is_payload_stamp_hmac():
    sealed = stamped(first=0x0102030405060708).seal(PACKET)
    assert sealed.data[:-4] == b"command" + bytes(range(1, 9))


@pytest.mark.parametrize("bit", range(8 * (7 + STAMP_BYTES + 4)))
def test_every_flipped_bit_of_a_stamped_packet_is_found(bit):
    sealed = stamped().seal(PACKET)
    data = bytearray(sealed.data)
    data[bit // 8] ^= 1 << bit % 8
    guard = stamped()
    with pytest.raises(DecodeError):
        guard.open(sealed._replace(data=bytes(data)))
    assert guard.counters.forged == 1
    assert guard.open(sealed) == PACKET


@pytest.mark.parametrize("change", [
    {"dst": 10}, {"src": 21}, {"dport": 14}, {"sport": 31}, {"prio": 1},
    {"flags": Flag.CRC32 | Flag.HMAC | Flag.RDP}, {"flags": Flag.HMAC},
])  # fmt: skip
def test_the_header_of_a_stamped_packet_cannot_be_changed(change):
    guard = stamped()
    with pytest.raises(DecodeError):
        guard.open(stamped().seal(PACKET)._replace(**change))
    assert guard.counters.forged == 1


@pytest.mark.parametrize("cut", range(1, STAMP_BYTES + 4))
@pytest.mark.parametrize("make", [flown, stamped])
def test_truncated_packets_are_refused(make, cut):
    with pytest.raises(DecodeError):
        make().open(PACKET._replace(flags=Flag.HMAC, data=make().seal(PACKET).data[:-cut]))


@pytest.mark.parametrize("make", [flown, stamped])
def test_packets_without_authentication_are_refused_and_counted(make):
    guard = make()
    with pytest.raises(DecodeError):
        guard.open(PACKET)
    assert (guard.counters.unsigned, guard.counters.refused) == (1, 1)


@pytest.mark.parametrize(("sender", "receiver"), [(flown, stamped), (stamped, flown)])
def test_one_form_does_not_pass_for_the_other(sender, receiver):
    guard = receiver()
    with pytest.raises(DecodeError):
        guard.open(sender().seal(PACKET._replace(data=bytes(40))))
    assert guard.counters.forged == 1


def test_the_flown_form_takes_a_replay():
    """Stated, not wished: without a window a recorded command works again."""
    guard, sealed = flown(), flown().seal(PACKET)
    assert guard.open(sealed) == guard.open(sealed)


def test_fault_78_a_recorded_packet_is_refused_however_late():
    sender, receiver = stamped(), stamped()
    recorded = [sender.seal(PACKET._replace(data=b"%d" % number)) for number in range(200)]
    for packet in recorded:
        receiver.open(packet)
    for packet in recorded:
        with pytest.raises(DecodeError, match="before"):
            receiver.open(packet)
    assert (receiver.counters.opened, receiver.counters.replayed) == (200, 200)


def test_reordering_within_the_window_loses_nothing():
    sender, receiver, rng = stamped(), stamped(), random.Random(5)
    packets = [sender.seal(PACKET._replace(data=b"%d" % n)) for n in range(WINDOW_BITS * 10)]
    blocks = [packets[at : at + WINDOW_BITS] for at in range(0, len(packets), WINDOW_BITS)]
    for block in blocks:
        rng.shuffle(block)
        for packet in block:
            receiver.open(packet)
            with pytest.raises(DecodeError):
                receiver.open(packet)
    assert receiver.counters.opened == len(packets)


@given(st.lists(st.integers(0, 200), max_size=80))
def test_the_window_takes_exactly_what_is_new_and_not_too_old(stamps):
    """Against a model that remembers every stamp it took."""
    window, taken, highest = Window(highest=100), set(range(101)), 100
    for stamp in stamps:
        is_new = stamp not in taken and stamp > highest - WINDOW_BITS
        assert window.take(stamp) is is_new
        if is_new:
            taken.add(stamp)
            highest = max(highest, stamp)


@pytest.mark.parametrize("stamp", [0, 2**64 - 1])
def test_stamps_at_the_ends_of_their_range(stamp):
    window = Window()
    assert window.take(stamp) is (stamp > 0)
    assert not window.take(stamp)


def test_after_a_restart_of_the_receiver_nothing_old_is_taken():
    sender, stamps = stamped(), VolatileStamps()
    packets = [sender.seal(PACKET) for _ in range(10)]
    receiver = Guard(KEY, stamps=stamps)
    # The ninth is under way while the tenth arrives and the receiver restarts: it is lost.
    for packet in (*packets[:8], packets[9]):
        receiver.open(packet)
    receiver = Guard(KEY, stamps=stamps)
    for packet in packets:
        with pytest.raises(DecodeError):
            receiver.open(packet)
    assert receiver.open(sender.seal(PACKET)) == PACKET


def test_sources_do_not_disturb_each_other():
    one, two, receiver = stamped(1_000), stamped(1), stamped()
    receiver.open(one.seal(PACKET))
    receiver.open(two.seal(PACKET._replace(src=21)))
    assert receiver.counters.refused == 0


class FullDisk(VolatileStamps):
    """A store that can keep nothing."""

    def take(self) -> int:
        raise OSError(28, "No space left on device")

    def note(self, source: int, stamp: int) -> None:
        raise OSError(28, "No space left on device")


def test_what_cannot_be_remembered_is_refused():
    receiver = Guard(KEY, stamps=FullDisk())
    with pytest.raises(DecodeError, match="No space"):
        receiver.open(stamped().seal(PACKET))
    assert (receiver.counters.unstored, receiver.counters.opened) == (1, 0)


class TestStacks:
    """Two nodes with guarded interfaces."""

    def test_requests_and_connections_cross(self):
        network = Network()
        asking = network.add(20, guard=stamped())
        server = network.add(9, guard=stamped())
        FakeNode(server, {5: b"answer"})
        assert network.run(asking.request(9, 5, b"question")) == b"answer"

        async def serve(connection):
            await connection.send(b"list")

        server.listen(12, serve)

        async def read():
            connection = await asking.connect(9, 12)
            return await connection.receive()

        assert network.run(read()) == b"list"

    def test_a_replayed_request_is_not_answered_and_counted(self):
        network = Network()
        asking = network.add(20, guard=stamped())
        fake = FakeNode(network.add(9, guard=stamped()), {5: b"answer"})
        recorded = []
        network.stacks[9].taps.append(lambda way, packet, frame: recorded.append(frame))
        network.run(asking.request(9, 5, b"question"))
        # Later than the duplicate filter remembers.
        network.scheduler.advance(network.scheduler.now + 60)
        [interface] = network.stacks[9].interfaces
        network.stacks[9].receive(interface, recorded[0])
        assert len(fake.seen) == 1
        assert interface.counters.autherr == 1

    def test_a_full_disk_costs_packets_and_not_the_node(self):
        network = Network()
        asking = network.add(20, guard=stamped())
        server = network.add(9, guard=Guard(KEY, stamps=FullDisk()))
        for _ in range(3):
            with pytest.raises(NoResponse):
                network.run(asking.request(9, 5, b"question"))
        server.send(20, 5, b"x")
        counters = server.interfaces[0].counters
        assert (counters.autherr, counters.tx_error) == (3, 1)

    def test_a_node_without_the_key_hears_nothing(self):
        network = Network()
        network.add(9, guard=stamped())
        stranger = network.add(20)
        with pytest.raises(NoResponse):
            network.run(stranger.request(9, 1, b"ping"))
        assert network.stacks[9].interfaces[0].counters.autherr == 1
