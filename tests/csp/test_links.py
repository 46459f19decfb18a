"""Links over real descriptors: ZMQ hub on free ports, pseudo-terminal, UDP loopback, signals."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import zmq

from csp.errors import MisuseError, NoResponse
from csp.hub import Hub
from csp.links.base import scheduler_of
from csp.links.kiss import KissLink
from csp.links.memory import pair
from csp.links.udp import UdpLink
from csp.links.zmq import ZmqLink, load_key, subscriptions
from csp.loop import Loop
from csp.rdp import BULK
from csp.sched import Cancelled, Promise, Scheduler
from csp.stack import Stack

CLIENT, SERVER = 20, 9
DEADLINE_S = 20.0


@pytest.fixture
def loop():
    loop = Loop()
    yield loop
    loop.close()


@pytest.fixture
def hub():
    with Hub() as hub:
        yield hub


def attach(loop, link, address, version=2):
    stack = Stack(loop.scheduler, version=version, rng=random.Random(address))
    interface = stack.add_interface(link.name, address, link.send)
    link.open(loop, lambda frame: stack.receive(interface, frame))
    return stack


def serve_ping_and_content(stack, content):
    stack.bind(1, lambda packet: packet.data, crc_required=True)

    async def serve(connection):
        for start in range(0, len(content), 192):
            await connection.send(content[start : start + 192])

    stack.listen(12, serve)


async def ping_and_download(stack, options=None):
    assert await stack.request(SERVER, 1, b"ping", timeout_s=5.0) == b"ping"
    connection = await stack.connect(SERVER, 12, options=options)
    received = bytearray()
    while (data := await connection.receive()) is not None:
        received += data
    return bytes(received)


def exercise(loop, client, server, options=None):
    content = random.Random(1).randbytes(50_000)
    serve_ping_and_content(server, content)
    task = loop.scheduler.spawn(ping_and_download(client, options))
    assert loop.run_until(task, DEADLINE_S) == content


def hub_link(hub, **options):
    return ZmqLink(sub_port=hub.sub_port, pub_port=hub.pub_port, **options)


# -- ZMQ


@pytest.mark.parametrize("version", [1, 2])
def test_two_nodes_on_a_hub(loop, hub, version):
    links = [hub_link(hub, address=address, version=version) for address in (CLIENT, SERVER)]
    client, server = (
        attach(loop, link, address, version)
        for link, address in zip(links, (CLIENT, SERVER), strict=True)
    )
    for link in links:
        assert loop.run_until(link.ready, DEADLINE_S) is True
    exercise(loop, client, server, BULK)
    for link in links:
        link.close()
        link.close()


def test_the_first_frame_after_opening_arrives(loop, hub):
    """Whatever is sent before the subscriptions have travelled is held back, not lost."""
    server_link = hub_link(hub, address=SERVER)
    server = attach(loop, server_link, SERVER)
    server.bind(1, lambda packet: packet.data)
    assert loop.run_until(server_link.ready, DEADLINE_S)
    for number in range(5):
        link = hub_link(hub, address=CLIENT + number)
        client = attach(loop, link, CLIENT + number)
        task = loop.scheduler.spawn(client.request(SERVER, 1, b"first", timeout_s=5.0))
        assert loop.run_until(task, DEADLINE_S) == b"first"
        link.close()
    server_link.close()


def test_broadcast_reaches_everybody_and_monitors_see_all(loop, hub):
    heard: list[int] = []
    links = []
    for address in (1, 2, 3):
        link = hub_link(hub, address=address)
        attach(loop, link, address).bind(9, lambda packet, own=address: heard.append(own))
        links.append(link)
    seen: list[bytes] = []
    spy = hub_link(hub, name="SPY")
    spy.open(loop, seen.append)
    sender_link = hub_link(hub, address=CLIENT)
    sender = attach(loop, sender_link, CLIENT)
    for link in (*links, spy, sender_link):
        assert loop.run_until(link.ready, DEADLINE_S)

    async def until_heard():
        sender.send(16383, 9, b"all")
        while len(heard) < 3 or not seen:
            await loop.scheduler.sleep(0.001)

    loop.run_until(loop.scheduler.spawn(until_heard()), DEADLINE_S)
    assert sorted(heard) == [1, 2, 3]
    for link in (*links, spy, sender_link):
        link.close()


def test_a_flood_is_drained_although_the_descriptor_is_edge_triggered(loop, hub):
    link = hub_link(hub, address=SERVER)
    count = 0

    def count_frames(frame):
        nonlocal count
        count += 1

    link.open(loop, count_frames)
    other = hub_link(hub, address=CLIENT)
    other.open(loop, lambda frame: None)
    for each in (link, other):
        assert loop.run_until(each.ready, DEADLINE_S)
    frame = bytes.fromhex("800900501401") + bytes(100)

    async def flood():
        for _ in range(8):
            for _ in range(100):
                other.send(frame)
            before = count
            while count < before + 100:
                await loop.scheduler.sleep(0.001)

    loop.run_until(loop.scheduler.spawn(flood()), DEADLINE_S)
    assert count == 800
    link.close()
    other.close()


def test_nodes_find_a_restarted_hub_again(loop):
    with Hub() as first:
        ports = first.sub_port, first.pub_port
        links = [hub_link(first, address=address) for address in (CLIENT, SERVER)]
        client, server = (
            attach(loop, link, address)
            for link, address in zip(links, (CLIENT, SERVER), strict=True)
        )
        server.bind(1, lambda packet: packet.data)
        for link in links:
            assert loop.run_until(link.ready, DEADLINE_S)
    with Hub(*ports):

        async def ping_until_answered():
            while True:
                try:
                    return await client.request(SERVER, 1, b"again", timeout_s=0.1)
                except NoResponse:
                    continue

        task = loop.scheduler.spawn(ping_until_answered())
        assert loop.run_until(task, DEADLINE_S) == b"again"
    for link in links:
        link.close()


def test_without_a_hub_the_link_gives_up_waiting_and_nothing_raises(loop):
    link = ZmqLink(address=SERVER, sub_port=1, pub_port=1)
    client = attach(loop, link, SERVER)
    with pytest.raises(NoResponse):
        loop.run_until(loop.scheduler.spawn(client.request(5, 1, b"", timeout_s=0.2)), DEADLINE_S)
    assert loop.run_until(link.ready, DEADLINE_S) is False
    link.send(b"lost")
    link.close()
    link.send(b"lost")


def test_encrypted_hub_serves_those_with_the_key_only(loop, tmp_path):
    if not zmq.has("curve"):
        pytest.skip("libzmq without CURVE")
    key_file, other_file = tmp_path / "key", tmp_path / "other"
    for path in (key_file, other_file):
        path.write_bytes(zmq.curve_keypair()[1] + b"\n")
    with Hub(key_file=key_file) as hub:
        links = [hub_link(hub, address=each, key_file=key_file) for each in (CLIENT, SERVER)]
        stacks = [
            attach(loop, link, address)
            for link, address in zip(links, (CLIENT, SERVER), strict=True)
        ]
        for link in links:
            assert loop.run_until(link.ready, DEADLINE_S)
        exercise(loop, *stacks)
        stranger_link = hub_link(hub, address=30, key_file=other_file)
        stranger = attach(loop, stranger_link, 30)
        task = loop.scheduler.spawn(stranger.request(SERVER, 1, b"x", timeout_s=0.3))
        with pytest.raises(NoResponse):
            loop.run_until(task, DEADLINE_S)
        for link in (*links, stranger_link):
            link.close()


@pytest.mark.parametrize("content", [b"", b"short\n", b"x" * 41, b"\xff" * 40])
def test_bad_key_files_are_named(tmp_path, content):
    path = tmp_path / "key"
    path.write_bytes(content)
    with pytest.raises(MisuseError):
        load_key(path)
    with pytest.raises(MisuseError):
        Hub(key_file=tmp_path / "absent")


def test_a_taken_port_is_named(hub):
    with pytest.raises(MisuseError):
        Hub(sub_port=hub.sub_port)


def test_subscriptions_of_the_specification():
    prefixes = subscriptions(9, 8)
    assert len(prefixes) == 12
    assert {prefix.hex() for prefix in prefixes} >= {"0009", "8009", "803f", "bfff", "ffff", "c03f"}
    assert subscriptions(9, 8, 1) == (b"",)


def test_an_oversized_message_does_not_reach_the_nodes(loop, hub):
    link = hub_link(hub, address=SERVER)
    seen: list[bytes] = []
    link.open(loop, seen.append)
    assert loop.run_until(link.ready, DEADLINE_S)
    rude_link, polite_link = hub_link(hub, address=1), hub_link(hub, address=CLIENT)
    for each in (rude_link, polite_link):
        each.open(loop, lambda frame: None)
        assert loop.run_until(each.ready, DEADLINE_S)
    rude_link.send(bytes.fromhex("800900501401") + bytes(100_000))
    frame = bytes.fromhex("800900501401") + b"polite"

    async def until_seen():
        polite_link.send(frame)
        while not seen:
            await loop.scheduler.sleep(0.001)

    loop.run_until(loop.scheduler.spawn(until_seen()), DEADLINE_S)
    assert seen == [frame]
    for each in (link, rude_link, polite_link):
        each.close()


async def persistent(client: Stack, node: int, port: int, data: bytes) -> bytes:
    """Ask until there is an answer: on a busy machine the other end may still be subscribing."""
    while True:
        try:
            return await client.request(node, port, data, timeout_s=1.0)
        except NoResponse:
            continue


def test_two_processes_on_a_hub_process(loop):
    """As in real life: `csp hub`, a node elsewhere, a client here; both leave on SIGTERM."""
    root = Path(__file__).parents[2]
    program = (
        "import sys\n"
        "from csp.links.zmq import ZmqLink\nfrom csp.loop import Loop\n"
        "from csp.node import CspNode\nfrom csp.param.table import ParamTable\n"
        "from csp.services import Identity\n"
        "loop = Loop()\nloop.install_signals()\n"
        "node = CspNode(loop, address=9, identity=Identity(hostname='n9'), table=ParamTable(()))\n"
        "link = ZmqLink(address=9, sub_port=int(sys.argv[1]), pub_port=int(sys.argv[2]))\n"
        "node.attach(link)\n"
        "loop.run_until(link.ready, 10)\n"
        "print('ready', flush=True)\n"
        "loop.run()\nnode.close()\nloop.close()\n"
    )
    hub_process = subprocess.Popen(
        [sys.executable, "-m", "csp.cli", "hub", "-S", "0", "-P", "0"],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    line = hub_process.stdout.readline()
    sub_port, pub_port = (int(word) for word in re.findall(r"\d{4,5}", line))
    node_process = subprocess.Popen(
        [sys.executable, "-c", program, str(sub_port), str(pub_port)],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert node_process.stdout.readline() == "ready\n"
        link = ZmqLink(address=CLIENT, sub_port=sub_port, pub_port=pub_port)
        client = attach(loop, link, CLIENT)
        task = loop.scheduler.spawn(persistent(client, 9, 0, b"\0\1"))
        assert b"n9" in loop.run_until(task, DEADLINE_S)
        link.close()
    finally:
        for process in (node_process, hub_process):
            process.send_signal(signal.SIGTERM)
            process.wait(10)
            process.stdout.close()
    assert (node_process.returncode, hub_process.returncode) == (0, 0)


def test_monitor_command_shows_traffic(loop, hub):
    root = Path(__file__).parents[2]
    address = f"127.0.0.1:{hub.sub_port}:{hub.pub_port}"
    monitor = subprocess.Popen(
        [sys.executable, "-m", "csp.cli", "monitor", "--json", "--count", "2", "--hub", address],
        cwd=root,
        stdout=subprocess.PIPE,
        text=True,
    )
    links = [hub_link(hub, address=each) for each in (CLIENT, SERVER)]
    client, server = (
        attach(loop, link, each) for link, each in zip(links, (CLIENT, SERVER), strict=True)
    )
    server.bind(1, lambda packet: packet.data)
    for link in links:
        assert loop.run_until(link.ready, DEADLINE_S)

    async def ping_until_seen():
        # The monitor takes a moment to start; it needs just one complete exchange.
        number = 0
        while monitor.poll() is None:
            number += 1
            await client.request(SERVER, 1, b"%d" % number, timeout_s=5.0)
            await loop.scheduler.sleep(0.02)

    try:
        loop.run_until(loop.scheduler.spawn(ping_until_seen()), DEADLINE_S)
    finally:
        monitor.kill()
        output = monitor.communicate()[0]
    records = [json.loads(line) for line in output.splitlines()]
    assert len(records) == 2
    assert {record["service"] for record in records} == {"ping"}
    for link in links:
        link.close()


# -- KISS, UDP, memory


@pytest.fixture
def terminal():
    """A pseudo-terminal as a serial line: the fd of one end, the device of the other."""
    master, slave = pty.openpty()
    yield master, os.ttyname(slave)
    os.close(slave)
    os.close(master)


class Cable:
    """Joins two pseudo-terminals as a null-modem cable does."""

    def __init__(self, loop, ends):
        self.noise = b""
        self._loop = loop
        self._fds = ends
        for here, there in (ends, ends[::-1]):
            os.set_blocking(here, False)
            loop.add_reader(here, lambda here=here, there=there: self._carry(here, there))

    def _carry(self, here, there):
        chunk = self.noise + os.read(here, 512)
        while chunk:
            chunk = chunk[os.write(there, chunk) :]

    def close(self):
        for fd in self._fds:
            self._loop.remove_reader(fd)


@pytest.mark.parametrize("noise", [b"", b"\xc0noise\xdb"], ids=["clean", "noisy"])
def test_two_nodes_on_a_serial_line(loop, noise):
    masters, slaves = zip(*(pty.openpty() for _ in range(2)), strict=True)
    links = [KissLink(os.ttyname(slave)) for slave in slaves]
    cable = Cable(loop, masters)
    cable.noise = noise
    client, server = (
        attach(loop, link, each) for link, each in zip(links, (CLIENT, SERVER), strict=True)
    )
    exercise(loop, client, server)
    assert bool(noise) == any(link.errors for link in links)
    cable.close()
    for link in links:
        link.close()
        link.close()
    for fd in (*masters, *slaves):
        os.close(fd)


def test_serial_bytes_are_those_of_the_specification(loop, terminal):
    master, device = terminal
    link = KissLink(device)
    link.open(loop, lambda frame: None)
    link.send(bytes.fromhex("80090050148100010203d9331aa3"))
    expected = bytes.fromhex("c00080090050148100010203d9331aa303b062a6c0")
    assert os.read(master, 100) == expected
    link.close()


def test_a_line_that_takes_nothing_does_not_pile_up(loop, terminal):
    link = KissLink(terminal[1])
    link.open(loop, lambda frame: None)

    def fill():
        for _ in range(1000):
            link.send(bytes(2000))

    with pytest.raises(OSError, match="too slow"):
        fill()
    link.close()


def test_a_serial_line_that_hangs_up_is_closed(loop):
    master, slave = pty.openpty()
    link = KissLink(os.ttyname(slave))
    link.open(loop, lambda frame: None)
    os.close(slave)
    os.close(master)
    loop.tick(1.0)
    link.send(b"nothing")
    link.close()


@pytest.mark.parametrize("device", ["/dev/null", "/nonexistent"])
def test_a_device_that_is_no_serial_line_is_named(device):
    with pytest.raises(MisuseError):
        KissLink(device)


def test_an_impossible_rate_is_named(terminal):
    with pytest.raises(MisuseError, match="12345 baud"):
        KissLink(terminal[1], baud=12345)


def test_two_nodes_over_udp(loop):
    one = UdpLink("127.0.0.1", 1)
    other = UdpLink("127.0.0.1", one.local_port)
    one.connect_to("127.0.0.1", other.local_port)
    client, server = attach(loop, one, CLIENT), attach(loop, other, SERVER)
    exercise(loop, client, server)
    one.close()
    one.close()
    other.close()


def test_udp_peer_that_is_not_there_yet_is_no_error(loop):
    link = UdpLink("127.0.0.1", 1)
    client = attach(loop, link, CLIENT)
    task = loop.scheduler.spawn(client.request(SERVER, 1, b"", timeout_s=0.1))
    with pytest.raises(NoResponse):
        loop.run_until(task, DEADLINE_S)
    link.close()


def test_udp_port_that_is_taken_is_named():
    link = UdpLink("127.0.0.1", 1)
    with pytest.raises(MisuseError):
        UdpLink("127.0.0.1", 1, link.local_port)
    link.close()


@pytest.mark.parametrize("make", [lambda: UdpLink("127.0.0.1", 1), lambda: ZmqLink(address=1)])
def test_links_with_descriptors_need_a_loop(make):
    link = make()
    with pytest.raises(MisuseError):
        link.open(Scheduler(), lambda frame: None)
    link.close()


def test_memory_links_work_in_the_loop_and_know_their_scheduler(loop):
    one, other = pair(loop.scheduler)
    client, server = attach(loop, one, CLIENT), attach(loop, other, SERVER)
    exercise(loop, client, server)
    with pytest.raises(MisuseError):
        one.open(Scheduler(), lambda frame: None)
    assert scheduler_of(loop) is loop.scheduler


# -- loop


def test_signals_stop_the_loop(loop):
    loop.install_signals()
    loop.scheduler.call_later(0.0, lambda: os.kill(os.getpid(), signal.SIGTERM))
    loop.run()
    loop.scheduler.call_later(0.0, lambda: os.kill(os.getpid(), signal.SIGINT))
    with pytest.raises(Cancelled):
        loop.run_until(Promise(), DEADLINE_S)
    with pytest.raises(MisuseError):
        loop.install_signals()


def test_run_until_has_a_deadline_and_passes_errors_on(loop):
    with pytest.raises(NoResponse):
        loop.run_until(Promise(), 0.01)

    async def fail():
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        loop.run_until(loop.scheduler.spawn(fail()), DEADLINE_S)


def test_hooks_run_after_each_round_and_removed_readers_do_not(loop):
    rounds = []
    loop.after_tick(lambda: rounds.append(1))
    read_fd, write_fd = os.pipe()
    loop.add_reader(read_fd, lambda: rounds.append(2))
    os.write(write_fd, b"x")
    loop.tick(0)
    loop.remove_reader(read_fd)
    loop.remove_reader(read_fd)
    loop.tick(0)
    assert rounds == [2, 1, 1]
    os.close(read_fd)
    os.close(write_fd)


def test_a_reader_removed_by_an_earlier_one_of_the_round_is_not_called(loop):
    pipes = [os.pipe() for _ in range(2)]
    called = []

    def read(own):
        called.append(own)
        for fd, _ in pipes:
            loop.remove_reader(fd)

    for read_fd, write_fd in pipes:
        os.write(write_fd, b"x")
        loop.add_reader(read_fd, lambda own=read_fd: read(own))
    loop.tick(0)
    assert len(called) == 1
    for read_fd, write_fd in pipes:
        os.close(read_fd)
        os.close(write_fd)
