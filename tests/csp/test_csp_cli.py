from __future__ import annotations

import argparse
import json

import pytest

from csp.cli import _Monitor, main
from csp.monitor import as_record, describe, summarize
from csp.packet import Packet, encode_frame
from csp.rdp_wire import ACK, RST, Segment


@pytest.mark.parametrize("arguments", [["--help"], ["help"], ["-h"]])
def test_help_lists_the_commands(capsys, arguments):
    assert main(arguments) == 0
    text = capsys.readouterr().out
    for command in ("shell", "hub", "monitor", "help"):
        assert f"  {command}" in text


@pytest.mark.parametrize("command", ["hub", "monitor"])
@pytest.mark.parametrize("how", [["help", "{}"], ["{}", "--help"]])
def test_every_command_has_help(capsys, command, how):
    with pytest.raises(SystemExit) as stop:
        main([word.format(command) for word in how])
    assert stop.value.code == 0
    assert f"csp {command}" in capsys.readouterr().out


def test_no_command_is_wrong_use(capsys):
    assert main([]) == 2
    assert "commands:" in capsys.readouterr().out


@pytest.mark.parametrize("arguments", [["nonsense"], ["monitor", "--count", "many"]])
def test_wrong_use_has_status_2(capsys, arguments):
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2


@pytest.mark.parametrize(
    "arguments",
    [
        ["hub", "-a", "/nonexistent"],
        ["monitor", "--hub", "x:y:z"],
        ["monitor", "--kiss", "/nonexistent"],
    ],
)
def test_failures_have_a_reason_and_status_1(capsys, arguments):
    assert main(arguments) == 1
    assert f"csp {arguments[0]}: " in capsys.readouterr().err


def packet(**fields):
    return Packet(**{"dst": 9, "src": 20, "dport": 1, "sport": 18, "data": b"hello", **fields})


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (packet(), "request"),
        (packet(dport=18, sport=1), "reply"),
        (packet(dport=0, data=b"\0\1"), "request ident"),
        (packet(dport=18, sport=0, data=b"\xff\6"), "reply clock"),
        (packet(dport=0, data=b"\0\x63"), "request 99"),
        (packet(dport=10, data=b"\7\1"), "push"),
        (packet(dport=10, data=b"\xee"), "type 238"),
        (packet(dport=12, flags=3, data=b"12"), "rdp malformed"),
        (
            packet(dport=12, flags=3, data=Segment(RST | ACK, 5, 6).encode(3)),
            "rdp RST+ACK seq 5 ack 6, 0 B",
        ),
    ],
)
def test_packets_in_words(given, expected):
    assert summarize(given) == expected
    assert expected in describe(given)
    assert as_record(given)["summary"] == expected


def test_line_and_record_name_both_ends():
    line = describe(packet(data=bytes(40)))
    assert "20:18 >     9:1" in line
    assert line.endswith("...")
    assert as_record(packet())["service"] == "ping"
    assert as_record(packet(dport=16))["service"] is None


@pytest.mark.parametrize("as_json", [False, True])
def test_monitor_filters_counts_and_survives_noise(capsys, as_json):
    stopped = []
    options = argparse.Namespace(count=3, csp_version=2, node=9, port=1, json=as_json)
    monitor = _Monitor(options, lambda: stopped.append(1))
    for each in (packet(), packet(dst=10), packet(dport=5), packet(src=9, dst=20)):
        monitor.show(encode_frame(each))
    monitor.show(b"xyz")
    monitor.show(encode_frame(packet()))
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3
    assert stopped == [1]
    if as_json:
        assert "error" in json.loads(lines[2])
    else:
        assert "bad frame" in lines[2]
