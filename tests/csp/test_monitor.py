"""The monitor: packets in words, names of parameters, files, filters."""

from __future__ import annotations

import argparse
import io
import json
import random
import struct
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from csp import cmp
from csp.cli import main
from csp.errors import MisuseError
from csp.guard import Guard, VolatileStamps
from csp.hmac import derive_key
from csp.monitor import _MAX_ASKED, Decoder
from csp.monitor_cli import Monitor
from csp.names import MAX_NAMES, ParamNames
from csp.node import CspNode
from csp.packet import Packet, decode_frame, encode_frame
from csp.param.client import PullItem, PushItem
from csp.param.entry import ListEntry, encode_entry
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from csp.pcapng import CaptureWriter, read_capture
from csp.rdp_wire import ACK, RST, SYN, RdpOptions, Segment
from csp.services import Identity
from csp.testing import Network
from csp.vmem.area import RamArea
from csp.vmem.client import VmemClient
from csp.vmem.wire import Request, RingRequest, encode_request, encode_ring_request

SPECS = (
    ParamSpec(id=31, name="serial0", type=ParamType.I32),
    ParamSpec(id=40, name="rates", type=ParamType.FLOAT, array_size=4),
    ParamSpec(id=1100, name="title", type=ParamType.STRING, array_size=16),
)


def packet(**fields):
    return Packet(**{"dst": 9, "src": 20, "dport": 1, "sport": 18, "data": b"hello", **fields})


def reply(port, data, **fields):
    return packet(dst=20, src=9, dport=18, sport=port, data=data, **fields)


def knowing():
    decoder = Decoder()
    for spec in SPECS:
        decoder.names.learn(9, encode_entry(ListEntry(spec=spec)))
    return decoder


CLOCK = cmp.Clock(unix_ns=1_500_000_000).encode()
IDENT = cmp.Ident(hostname="DIPP", model="A53").encode()


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (packet(), "request"),
        (reply(1, b"x"), "reply"),
        (packet(dport=0, data=b"\0\1"), "request ident"),
        (reply(0, b"\xff\1" + IDENT), "reply ident DIPP A53"),
        (reply(0, b"\xff\6" + CLOCK), "reply clock 1.500"),
        (reply(0, b"\xff\6"), "malformed"),
        (packet(dport=0, data=cmp.encode_if_stats_request("ZMQ")), "request if_stats ZMQ"),
        (packet(dport=0, data=b"\0\x63"), "request 99"),
        (packet(dport=0, data=b""), "request"),
        (packet(dport=4, data=bytes.fromhex("80078007")), "reboot"),
        (packet(dport=4, data=bytes.fromhex("d1e5529a")), "shutdown"),
        (packet(dport=4, data=b"12345"), "no valid command"),
        (reply(6, struct.pack(">I", 77)), "reply 77 s"),
        (reply(5, struct.pack(">I", 9)), "reply 9 buffers"),
        (packet(dport=6, data=b""), "request"),
        # Parameters; the bytes are those of csp.md 9.1.
        (packet(dport=10, data=bytes.fromhex("0500 cd1f400009")), "pull serial0"),
        (packet(dport=10, data=bytes.fromhex("0500 cd1f400000")), "pull serial0"),
        (packet(dport=10, data=bytes.fromhex("0500 cd1f400005")), "pull 5:#31"),
        (packet(dport=10, data=bytes.fromhex("0701 cd28c0020009 ca3f800000")),
         "push rates[2]=1.0"),
        (packet(dport=10, data=bytes.fromhex("0701 cd28c0ff0009 ca3f800000")),
         "push rates[-1]=1.0"),
        (reply(10, bytes.fromhex("0680 cd4c50000004 a2 6869")), "values title='hi'"),
        (reply(10, bytes.fromhex("0680 cd1f400000 05")), "values serial0=5"),
        (packet(dport=10, data=bytes.fromhex("2100 cd1f400009 05 d2040000")),
         "push with hardware id serial0=5"),
        (reply(10, b"\3\x80"), "push acknowledge"),
        (packet(dport=10, data=b"\x08\0\0\0" + bytes(8)), "pull all"),
        (packet(dport=10, data=b"\7\1\xff"), "push, malformed queue"),
        (packet(dport=10, data=b"\xee"), "type 238"),
        (packet(dport=10, data=b""), "request"),
        # Memory and procedures share port 14; the first byte tells.
        (packet(dport=14, data=encode_request(Request(version=2, kind=2))), "vmem list v2"),
        (packet(dport=14, data=encode_request(Request(version=1, kind=6, address=16, length=9))),
         "vmem crc32 v1 0x10+9"),
        (packet(dport=14, data=b"\1"), "malformed"),
        (packet(dport=14, data=b"\x88\x05"), "proc run slot 5"),
        (packet(dport=14, data=b"\x86"), "proc slots"),
        (reply(14, b"\xc3"), "proc pull refused"),
        (reply(14, b"\x89\0"), "proc run answer"),
        (packet(dport=14, data=b"\x8f"), "proc type 15 answer"),
        # RDP.
        (packet(dport=12, flags=3, data=b"12"), "rdp malformed"),
        (packet(dport=12, flags=3, data=Segment(RST | ACK, 5, 6).encode(3)),
         "rdp RST+ACK seq 5 ack 6, 0 B"),
        (packet(dport=12, flags=3, data=Segment(SYN, 5, 0, RdpOptions().encode()).encode()),
         "rdp SYN seq 5 ack 0, 24 B; window 4, timeouts 10000/1000/250 ms, acknowledge after 2"),
        (reply(12, Segment(ACK, 1, 2, encode_entry(ListEntry(spec=SPECS[0]))).encode(), flags=3),
         "rdp ACK seq 1 ack 2, 58 B; entry serial0"),
        (packet(dport=14, flags=3, data=Segment(
            ACK, 1, 2, encode_request(Request(version=2, kind=1, address=4096, length=500))
        ).encode()), "rdp ACK seq 1 ack 2, 18 B; vmem download v2 0x1000+500"),
        (packet(dport=14, flags=3, data=Segment(
            ACK, 1, 2, encode_ring_request(RingRequest(kind=8, name="images", value=-1))
        ).encode()), "rdp ACK seq 1 ack 2, 18 B; vmem ring download v1 image -1"),
        (packet(dport=14, flags=3, data=Segment(ACK, 1, 2, b"\x88" * 192).encode()),
         "rdp ACK seq 1 ack 2, 192 B"),
    ],
)  # fmt: skip
def test_packets_in_words(given, expected):
    decoder = knowing()
    assert decoder.summarize(given).startswith(expected)
    assert expected in decoder.describe(given)
    assert decoder.as_record(given)["summary"].startswith(expected)


def test_answers_of_memory_services_are_read_by_what_was_asked():
    decoder = Decoder()
    decoder.summarize(packet(dport=14, data=encode_request(Request(version=2, kind=2))))
    record = struct.pack(">QIBB5s", 0x1000, 64, 0, 1, b"ram")
    assert decoder.summarize(reply(14, record)) == "vmem list v2 ram 0x1000+64"
    assert decoder.summarize(reply(14, b"xx")) == "malformed"
    decoder.summarize(packet(dport=14, data=encode_request(Request(version=2, kind=6))))
    assert decoder.summarize(reply(14, bytes.fromhex("c3aabbcc"))) == "vmem crc32 is c3aabbcc"


def test_line_and_record_name_both_ends():
    line = Decoder().describe(packet(data=bytes(40)))
    assert "20:18 >     9:1" in line
    assert line.endswith("...")
    assert Decoder().as_record(packet())["service"] == "ping"
    assert Decoder().as_record(packet(dport=16))["service"] is None


def test_long_queues_are_cut_in_words():
    items = b"".join(bytes.fromhex("cd1f400009") for _ in range(20))
    text = Decoder().summarize(packet(dport=10, data=b"\5\0" + items))
    assert text.endswith("#31 and 12 more")


def test_nothing_from_the_wire_reaches_the_terminal_raw():
    evil = cmp.Ident(hostname="\x1b[2Jevil\n").encode()
    text = Decoder().describe(reply(0, b"\xff\1" + evil))
    assert "evil" in text
    assert text.isprintable()


@given(st.integers(0, 16), st.booleans(), st.sampled_from([1, 3]), st.binary(max_size=220))
def test_any_content_is_put_into_words(port, to_server, flags, data):
    ports = {"dport": port, "sport": 18} if to_server else {"dport": 18, "sport": port}
    decoder = knowing()
    text = decoder.describe(packet(flags=flags, data=data, **ports))
    assert text.isprintable()
    assert json.dumps(decoder.as_record(packet(flags=flags, data=data, **ports)))


def test_memory_is_bounded():
    decoder = Decoder()
    request = encode_request(Request(version=2, kind=2))
    for source in range(1000):
        decoder.summarize(packet(src=source, dport=14, data=request))
    assert len(decoder._asked) == _MAX_ASKED
    for node in range(40):
        for number in range(1024):
            decoder.names._add(node, number, "x")
    assert len(decoder.names) == MAX_NAMES


def test_names_survive_a_file():
    names = knowing().names
    again = ParamNames()
    again.load_json(names.to_json())
    assert (len(again), again.name(9, 1100), again.name(9, 5)) == (3, "title", "#5")
    assert names.learn(9, b"no entry") is None


@pytest.mark.parametrize("text", ["", "[]", "7", '{"a": {"1": "x"}}', '{"1": 5}', "[" * 100_000])
def test_a_file_that_holds_no_names_is_refused(text):
    with pytest.raises(MisuseError):
        ParamNames().load_json(text)


# -- traffic of real nodes, kept in a file and shown again


@pytest.fixture
def traffic():
    """Frames of a session: ident, list, pull, push, memory."""
    network = Network()
    node = CspNode(
        network.scheduler, address=9, identity=Identity(hostname="node-9", model="t"),
        table=ParamTable(SPECS), areas=[RamArea("ram", 400, 0x1000)], seed=1,
    )  # fmt: skip
    node.attach(network.link(9))
    ground = CspNode(
        network.scheduler, address=20, identity=Identity(hostname="ground", model="t"),
        table=ParamTable(()), seed=2,
    )  # fmt: skip
    ground.attach(network.link(20))
    seen = []
    ground.stack.taps.append(
        lambda direction, _, frame: seen.append((network.scheduler.now, frame))
    )

    async def session():
        await ground.stack.request(9, 0, b"\0\1")
        listed = await ground.params.download_list(9)
        await ground.params.push(9, [PushItem(param=listed[0], value=-3)])
        await ground.params.pull(9, [PullItem(param=each) for each in listed])
        vmem = VmemClient(ground.stack)
        await vmem.list(9)
        await vmem.upload(9, 0x1000, bytes(300))
        await vmem.crc32(9, 0x1000, 300)

    network.run(session())
    return seen


def capture(path, frames):
    with path.open("wb") as stream:
        writer = CaptureWriter(stream)
        for time_s, frame in frames:
            writer.write(1_795_000_000 + time_s, frame)


def test_a_file_shows_the_session_by_name(traffic, tmp_path, capsys):
    path = tmp_path / "pass.pcapng"
    capture(path, traffic)
    assert main(["monitor", "--read", str(path)]) == 0
    text = capsys.readouterr().out
    assert len(text.splitlines()) == len(traffic)
    for part in (
        "reply ident node-9 t", "entry rates", "push serial0=-3", "pull serial0, rates, title",
        "values serial0=-3, rates=[0.0, 0.0, 0.0, 0.0], title=''", "SYN", "vmem list v2 ram",
        "vmem upload v1 to 0x1000", "vmem crc32 v1 0x1000+300", "vmem crc32 is ",
    ):  # fmt: skip
        assert part in text, part


def test_filters_write_the_part_that_is_shown(traffic, tmp_path, capsys):
    whole, part, lists = (tmp_path / name for name in ("whole", "part", "names.json"))
    capture(whole, traffic)
    words = ["monitor", "--read", str(whole), "--port", "10", "--write", str(part), "--json"]
    assert main([*words, "--lists", str(lists)]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert {record["service"] for record in records} == {"param"}
    assert json.loads(lists.read_text())["9"]["1100"] == "title"
    # The part has no list any more; the names come from the file.
    assert main(["monitor", "--read", str(part), "--json", "--lists", str(lists)]) == 0
    again = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert again == records
    assert main(["monitor", "--read", str(part), "--count", "1"]) == 0
    assert "#31" in capsys.readouterr().out
    with part.open("rb") as stream:
        frames = [decode_frame(each.frame) for each in read_capture(stream)]
    assert len(frames) == len(records) == 4


def test_a_damaged_file_ends_with_a_reason_after_what_was_good(traffic, tmp_path, capsys):
    path = tmp_path / "x"
    capture(path, traffic)
    path.write_bytes(path.read_bytes()[:-5])
    assert main(["monitor", "--read", str(path)]) == 1
    captured = capsys.readouterr()
    assert len(captured.out.splitlines()) == len(traffic) - 1
    assert "cut off" in captured.err


@pytest.mark.parametrize("as_json", [False, True])
def test_monitor_filters_counts_and_survives_noise(capsys, as_json):
    stopped = []
    options = argparse.Namespace(count=3, node=9, port=1, json=as_json)
    monitor = Monitor(options, Decoder())
    monitor.stop = lambda: stopped.append(1)
    monitor.output = io.BytesIO()
    monitor.begin(2)
    for each in (packet(), packet(dst=10), packet(dport=5), packet(src=9, dst=20)):
        monitor.show(encode_frame(each), 1.0, 2)
    monitor.show(b"xyz", 2.0, 2)
    monitor.show(encode_frame(packet()), 3.0, 2)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert stopped == [1]
    if as_json:
        assert "error" in json.loads(lines[2])
    else:
        assert "bad frame" in lines[2]
    found = list(read_capture(io.BytesIO(monitor.output.getvalue())))
    assert [each.frame for each in found][2] == b"xyz"


def test_random_frames_are_shown_or_called_bad(capsys):
    options = argparse.Namespace(count=None, node=None, port=None, json=False)
    monitor, rng = Monitor(options, Decoder()), random.Random(3)
    for version in (1, 2):
        for _ in range(500):
            monitor.show(rng.randbytes(rng.randrange(60)), 1.0, version)
    assert len(capsys.readouterr().out.splitlines()) == 1000


def test_a_file_is_not_written_over_while_it_is_read(traffic, tmp_path, capsys):
    path = tmp_path / "pass.pcapng"
    capture(path, traffic)
    before = path.read_bytes()
    assert main(["monitor", "--read", str(path), "--write", str(path)]) == 1
    assert "would empty" in capsys.readouterr().err
    assert path.read_bytes() == before


def test_a_reader_that_has_seen_enough_ends_it_quietly(traffic, tmp_path):
    path = tmp_path / "pass.pcapng"
    capture(path, traffic * 100)
    monitor = subprocess.Popen(
        [sys.executable, "-m", "csp.cli", "monitor", "--read", str(path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert monitor.stdout is not None
    assert monitor.stdout.readline()
    monitor.stdout.close()
    assert monitor.wait(20) == 0
    assert monitor.stderr is not None
    assert monitor.stderr.read() == b""
    monitor.stderr.close()


KEY = "a passphrase of the operator"


@pytest.mark.parametrize("stamps", [None, VolatileStamps()], ids=["flown", "stamped"])
def test_authenticated_traffic_is_shown_with_what_the_key_says_of_it(tmp_path, capsys, stamps):
    guard = Guard(derive_key(KEY), stamps=stamps)
    key, path = tmp_path / "key", tmp_path / "pass.pcapng"
    key.write_text(KEY)
    key.chmod(0o600)
    sealed = guard.seal(packet(dport=1, data=b"1234"))
    forged = sealed._replace(data=b"x" + sealed.data[1:])
    capture(path, [(0.0, encode_frame(each)) for each in (sealed, forged, packet())])
    assert main(["monitor", "--read", str(path), "--hmac-key", str(key)]) == 0
    first, second, third = capsys.readouterr().out.splitlines()
    assert "31 32 33 34  [authentic]" in first
    assert second.endswith("[not authentic, or seen before]")
    assert "authentic" not in third
    assert main(["monitor", "--read", str(path), "--json"]) == 0
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each.get("authentication") for each in records] == [
        "authentication not checked", "authentication not checked", None,
    ]  # fmt: skip
