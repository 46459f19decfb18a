"""Rows of group I: the link and RDP under faults, in virtual time. Driver.

Two stacks on a channel that loses, doubles, shuffles, delays or damages frames; every seed gives
another sequence of faults.
"""

from __future__ import annotations

from csp.connection import MAX_CONNECTIONS, MAX_HALF_OPEN, Connection
from csp.errors import DecodeError, NoResponse, Refused
from csp.faultrow import Case, FaultRow, fault_row, require
from csp.guard import Guard, VolatileStamps
from csp.packet import Flag, Packet, decode_frame, encode_frame
from csp.rdp import BULK
from csp.rdp_wire import SYN, RdpOptions, Segment
from csp.services import PORT_PING
from csp.stack import Stack
from csp.testing import Faults, Network, interface_of, random_frame

_CLIENT, _SERVER, _OTHER = 20, 9, 21
_UPLOAD, _DOWNLOAD, _SLOW = 7, 12, 13
_CHUNK = 192
_KEY = b"sixteen byte key"
_RATE_BPS = 9600.0
_UPLOAD_NAME = "cloud.py"


class _Pair:
    """A client and a server that stores uploads and serves `content`."""

    def __init__(self, case: Case, faults: Faults, content: bytes = b"") -> None:
        self.network = Network(faults=faults, seed=case.random.randrange(1 << 16))
        self.client = self.network.add(_CLIENT)
        self.content = content
        self.uploads: list[bytes] = []
        self.serve_on(self.network.add(_SERVER))

    def serve_on(self, stack: Stack) -> None:
        self.server = stack
        stack.listen(_UPLOAD, self._store)
        stack.listen(_DOWNLOAD, self._serve)

    async def _store(self, connection: Connection) -> None:
        received = bytearray()
        while (data := await connection.receive()) is not None:
            received += data
        self.uploads.append(bytes(received))

    async def _serve(self, connection: Connection) -> None:
        for start in range(0, len(self.content), _CHUNK):
            await connection.send(self.content[start : start + _CHUNK])

    async def upload(
        self, data: bytes, options: RdpOptions | None = None, port: int = _UPLOAD
    ) -> None:
        connection = await self.client.connect(_SERVER, port, options=options)
        for start in range(0, len(data), _CHUNK):
            await connection.send(data[start : start + _CHUNK])
        connection.close()
        await connection.wait_closed()

    async def download(self, options: RdpOptions | None = None) -> bytes:
        connection = await self.client.connect(_SERVER, _DOWNLOAD, options=options)
        received = bytearray()
        while (data := await connection.receive()) is not None:
            received += data
        return bytes(received)

    def nothing_left(self) -> None:
        self.network.wait(15)
        for stack in (self.client, self.server):
            require(len(stack.connections) == 0, f"{len(stack.connections)} connections left")
            require(not stack.faults, f"handler faults: {stack.faults}")
        require(self.network.scheduler.orphan_error_count == 0, "a task failed unseen")


def _both_ways(case: Case, faults: Faults, size: int = 60_000) -> str:
    """Move data both ways at once and compare every byte."""
    content = case.random.randbytes(size)
    pair = _Pair(case, faults, content)

    async def both() -> bytes:
        uploading = pair.network.scheduler.spawn(pair.upload(content, BULK))
        received = await pair.download(BULK)
        await uploading
        return received

    require(pair.network.run(both(), 36_000) == content, "the download is not byte-exact")
    require(pair.uploads == [content], f"{len(pair.uploads)} uploads, or not byte-exact")
    pair.nothing_left()
    return f"{size} bytes each way in {pair.network.scheduler.now:.0f} s of virtual time"


def _loss(case: Case) -> str:
    seen = []
    for loss in (0.01, 0.1, 0.3):
        seen.append(f"{loss:.0%}: " + _both_ways(case, Faults(delay_s=0.01, loss=loss), 100_000))
    return "; ".join(seen)


def _duplicates(case: Case) -> str:
    network = Network(faults=Faults(duplication=1.0), seed=case.random.randrange(99))
    client, server = network.add(_CLIENT), network.add(_SERVER)
    heard = []
    server.bind(_SLOW, lambda packet: heard.append(packet.data))
    datagrams = client.open(_SERVER, _SLOW)
    for number in range(50):
        datagrams.send(bytes([number]))
        network.wait(0.1)
    require(heard == [bytes([n]) for n in range(50)], f"{len(heard)} of 50 datagrams heard once")
    seen = _both_ways(case, Faults(delay_s=0.02, duplication=0.5, jitter_s=0.3))
    return f"50 doubled datagrams heard once; RDP {seen}"


def _reordering(case: Case) -> str:
    return _both_ways(case, Faults(delay_s=0.01, jitter_s=0.3))


def _delay(case: Case) -> str:
    seen = []
    for delay_s in (0.0, case.random.uniform(0.2, 1.0), 2.0):
        seen.append(f"{delay_s:.1f} s: " + _both_ways(case, Faults(delay_s=delay_s), 20_000))
    return "; ".join(seen)


def _corruption(case: Case) -> str:
    frame = encode_frame(
        Packet(src=1, dst=2, dport=10, sport=40, prio=2, flags=Flag.CRC32,
               data=case.random.randbytes(40))
    )  # fmt: skip
    found = 0
    for bit in range(8 * 6, 8 * len(frame)):
        flipped = bytearray(frame)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            decode_frame(bytes(flipped))
        except DecodeError:
            found += 1
    require(found == 8 * len(frame) - 48, f"{found} of {8 * len(frame) - 48} flipped bits found")
    plain = bytearray(encode_frame(Packet(src=1, dst=2, dport=10, sport=40, flags=0, data=b"data")))
    plain[-1] ^= 1
    require(
        decode_frame(bytes(plain)).data == b"dat`", "without a checksum the byte must come through"
    )
    return f"{found} flipped bits found by CRC32; " + _both_ways(
        case, Faults(delay_s=0.02, corruption=0.1)
    )


def _malformed(case: Case) -> str:
    network = Network(seed=1)
    node, friend = network.add(_SERVER), network.add(_CLIENT)
    node.bind(PORT_PING, lambda packet: packet.data)
    interface = interface_of(node)
    for _ in range(3000):
        node.receive(interface, random_frame(case.random, _SERVER))
    good = encode_frame(Packet(src=_CLIENT, dst=_SERVER, dport=1, sport=40, prio=2,
                               flags=Flag.CRC32, data=b"ping"))  # fmt: skip
    refused = 0
    for size in range(len(good)):
        try:
            decode_frame(good[:size])
        except DecodeError:
            refused += 1
        node.receive(interface, good[:size])
    require(refused == len(good), f"{refused} of {len(good)} truncations refused")
    unbound = node.counters.unbound
    node.receive(interface, encode_frame(Packet(src=_CLIENT, dst=_SERVER, dport=47, sport=40,
                                                prio=2, data=b"x")))  # fmt: skip
    require(node.counters.unbound == unbound + 1, "a packet to an unknown port was not counted")
    ask = friend.request(_SERVER, PORT_PING, b"still here", timeout_s=1)
    require(network.run(ask) == b"still here", "the node no longer answers")
    network.wait(60)
    require(len(node.connections) == 0, "noise left connections behind")
    _unauthenticated(case)
    return (
        f"3000 random frames, {refused} truncations, unknown ports,"
        " HMAC absent, wrong and replayed: dropped"
    )


def _unauthenticated(case: Case) -> None:
    def guard(key: bytes = _KEY) -> Guard:
        return Guard(key, stamps=VolatileStamps())

    network = Network(seed=case.random.randrange(99))
    network.add(_SERVER, guard=guard()).bind(PORT_PING, lambda packet: packet.data)
    friend = network.add(_CLIENT, guard=guard())
    strangers = (network.add(_OTHER), network.add(22, guard=guard(b"another key 1234")))
    ask = friend.request(_SERVER, PORT_PING, b"x", timeout_s=1)
    require(network.run(ask) == b"x", "the right key is refused")
    for stranger in strangers:
        try:
            network.run(stranger.request(_SERVER, PORT_PING, b"x", timeout_s=1))
        except (NoResponse, Refused):
            continue
        require(False, "a packet without the right key was answered")
    _replayed(guard(), guard())


def _replayed(sender: Guard, receiver: Guard) -> None:
    packet = Packet(src=_CLIENT, dst=_SERVER, dport=10, sport=30, data=b"command")
    sealed = sender.seal(packet)
    require(receiver.open(sealed).data == b"command", "an authentic command is refused")
    try:
        receiver.open(sealed)
    except DecodeError:
        require(receiver.counters.replayed == 1, "a replay was not counted")
        return
    require(False, "a recorded command was obeyed again")


def _peer_reboots(case: Case) -> str:
    pair = _Pair(case, Faults(delay_s=0.01), content=b"hello")

    async def server_reboots() -> float:
        connection = await pair.client.connect(_SERVER, _UPLOAD)
        await connection.send(b"before")
        await connection.drain()
        pair.serve_on(pair.network.reboot(_SERVER))
        started = pair.network.scheduler.now
        await connection.send(b"after")
        try:
            await connection.drain()
        except Refused:
            return pair.network.scheduler.now - started
        return -1.0

    took_s = pair.network.run(server_reboots())
    require(0 <= took_s < 1, f"the reboot was noticed after {took_s:.1f} s")

    async def client_reboots() -> bytes:
        await pair.client.connect(_SERVER, _UPLOAD)
        pair.client = pair.network.reboot(_CLIENT)
        return await pair.download()

    require(pair.network.run(client_reboots()) == b"hello", "a rebooted client is not served")
    pair.network.wait(60)
    pair.nothing_left()
    return f"a rebooted server noticed after {took_s:.2f} s, a rebooted client served"


def _syn(source: int, sport: int, sequence: int) -> bytes:
    """Return the first packet of a connection that will never go on."""
    segment = Segment(SYN, sequence & 0xFFFF, 0, RdpOptions().encode())
    return encode_frame(
        Packet(src=source, dst=_SERVER, dport=_UPLOAD, sport=sport, prio=2,
               flags=Flag.CRC32 | Flag.RDP, data=segment.encode())
    )  # fmt: skip


def _syn_flood(case: Case) -> str:
    pair = _Pair(case, Faults(delay_s=0.02), case.random.randbytes(20_000))
    interface, flooding, most = interface_of(pair.server), True, 0

    async def flood() -> None:
        nonlocal most
        while flooding:
            for _ in range(3):
                pair.server.receive(
                    interface,
                    _syn(case.random.randrange(100, 200), case.random.randrange(17, 64),
                         case.random.randrange(9999)),
                )  # fmt: skip
            most = max(most, len(pair.server.connections))
            await pair.network.scheduler.sleep(0.01)

    async def use() -> bytes:
        pair.network.scheduler.spawn_background(flood(), "flood")
        await pair.network.scheduler.sleep(1)
        first = await pair.download()
        await pair.upload(first)
        return first

    require(pair.network.run(use()) == pair.content, "the download is not byte-exact")
    flooding = False
    require(pair.uploads == [pair.content], "the upload is not byte-exact")
    require(most >= MAX_HALF_OPEN, f"only {most} connections at once: no flood")
    require(most <= MAX_CONNECTIONS, f"{most} connections at once, at most {MAX_CONNECTIONS}")
    require(pair.server.connections.reclaimed > 10, "none was reclaimed")
    pair.nothing_left()
    return f"at most {most} connections, {pair.server.connections.reclaimed} reclaimed, both served"


def _window_stall(case: Case) -> str:
    content = case.random.randbytes(40_000)
    pair = _Pair(case, Faults(delay_s=0.01))

    async def store_slowly(connection: Connection) -> None:
        received, packets = bytearray(), 0
        while (data := await connection.receive()) is not None:
            received += data
            packets += 1
            if packets % 50 == 0:
                await pair.network.scheduler.sleep(3.0)
        pair.uploads.append(bytes(received))

    pair.server.listen(_SLOW, store_slowly)
    pair.network.run(pair.upload(content, BULK, _SLOW))
    pair.network.wait(30)
    took_s = pair.network.scheduler.now
    require(pair.uploads == [content], "not byte-exact")
    require(took_s > 9, "the reader never stopped the sender")
    pair.nothing_left()
    return f"{len(content)} bytes to a reader that stops every 50 packets, in {took_s:.0f} s"


_EXACT = "byte-exact and once, both ways; no connection left"
ROWS: tuple[FaultRow, ...] = (
    fault_row(73, "loss", "loses 1, 10, 30 % of the frames", _EXACT, _loss),
    fault_row(
        74,
        "duplicates",
        "doubles every datagram, and half of the RDP packets",
        "heard once; " + _EXACT,
        _duplicates,
    ),
    fault_row(75, "reordering", "delays each frame by up to 0.3 s at random", _EXACT, _reordering),
    fault_row(76, "delay", "delays all frames by 0 to 2 s", _EXACT, _delay),
    fault_row(
        77,
        "corrupt-bytes",
        "flips every bit behind the header; damages 10 % of RDP frames",
        "found by CRC32, without it the byte comes through; " + _EXACT,
        _corruption,
    ),
    fault_row(
        78,
        "malformed-frames",
        "random and truncated frames, unknown ports, HMAC absent or wrong",
        "dropped and counted, the node answers",
        _malformed,
    ),
    fault_row(
        79,
        "peer-reboots",
        "the server, then the client forgets everything in mid-connection",
        "an error within a second; a new connection is served",
        _peer_reboots,
    ),
    fault_row(
        80,
        "syn-flood",
        "300 connection requests a second from made-up addresses",
        "table bounded, half-open ones reclaimed, others served byte-exact",
        _syn_flood,
    ),
    fault_row(
        81,
        "window-stall",
        "a reader that stops for 3 s every 50 packets",
        "the sender waits, nothing is lost",
        _window_stall,
    ),
)
