"""Shell commands against a node, both in this process on one event loop."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from csp.cli import main
from csp.links.memory import MemoryBus
from csp.loop import Loop
from csp.node import CspNode
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType
from csp.services import Identity
from csp.shell.app import complete
from csp.shell.main import open_session
from csp.shell.session import Session
from csp.vmem.area import RamArea

SPECS = (
    ParamSpec(id=1, name="speed", type=ParamType.U16, unit="rpm", help="of the wheel"),
    ParamSpec(id=2, name="gains", type=ParamType.FLOAT, array_size=4, mask=Mask.CONF),
    ParamSpec(id=3, name="label", type=ParamType.STRING, array_size=20),
    ParamSpec(id=4, name="blob", type=ParamType.DATA, array_size=8),
    ParamSpec(id=5, name="sensor", type=ParamType.I32, mask=Mask.READONLY | Mask.TELEM, default=-3),
)


class Rig:
    """A shell session and a node 9 on one bus."""

    def __init__(self, session: Session, node: CspNode, lines: list[str]) -> None:
        self.session = session
        self.node = node
        self.lines = lines

    def run(self, line: str, ok: bool = True) -> str:
        del self.lines[:]
        assert self.session.run_line(line, 10.0) is ok, "\n".join(self.lines)
        return "\n".join(self.lines)


@pytest.fixture
def rig(monkeypatch: pytest.MonkeyPatch) -> Iterator[Rig]:
    lines: list[str] = []
    loop = Loop()
    bus = MemoryBus(loop.scheduler)
    # Session and node share the loop, so that one process can be both ends.
    monkeypatch.setattr("csp.shell.main.Loop", lambda: loop)
    node = CspNode(
        loop,
        address=9,
        identity=Identity(hostname="wheel", model="m", revision="r1"),
        table=ParamTable(SPECS),
        areas=(RamArea("ram", 64, address=0x1000),),
    )
    node.attach(bus.link("NODE"))
    with open_session(bus.link("SHELL"), address=20, out=lines.append) as session:
        session.node = 9
        yield Rig(session, node, lines)
    node.close()


def test_ping_ident_uptime_and_the_learned_name(rig: Rig) -> None:
    assert "Ping node 9 size 32: reply in" in rig.run("ping -s 32")
    assert "IDENT 9\n  wheel\n  m\n  r1" in rig.run("ident")
    assert "Uptime of node 9 is" in rig.run("uptime wheel")
    assert "Free buffers at node 9" in rig.run("buffree")
    assert "Remote time is" in rig.run("time")
    assert "NODE  tx" in rig.run("ifstat NODE")


def test_a_silent_node_is_an_error_that_names_it(rig: Rig) -> None:
    assert "error: ping node 33: no reply within 20 ms" in rig.run("ping -t 20 33", ok=False)
    assert "error: ident: no response from node 33" in rig.run("ident -t 20 33", ok=False)


def test_list_download_then_get_set_and_pull(rig: Rig) -> None:
    assert "5 parameters of node 9" in rig.run("list download")
    assert "of the wheel" in rig.lines[0]
    assert "speed" in rig.run("list spe*")
    assert "gains" not in "\n".join(rig.lines)
    assert "= 1200 rpm" in rig.run("set speed 1200")
    assert rig.node.table["speed"].get() == 1200
    assert "= 1200 rpm" in rig.run("get speed")
    assert "[1.500000 2.000000 3.000000 4.000000]" in rig.run("set gains [1.5 2 3 4]")
    assert "gains[1] = 9.000000" in rig.run("set gains[1] 9")
    assert "gains[1:3] = [9.000000 3.000000]" in rig.run("get gains[1:3]")
    assert "hello there" in rig.run('set label "hello there"')
    assert "0x0102FF0000000000" in rig.run("set blob 0102ff")
    # As on real nodes, what has no mask bit at all is in no pull.
    assert "2 values of node 9" in rig.run("pull")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("set speed 70000", "70000 is not 0..65535"),
        ("set speed fast", "no whole number"),
        ("set sensor 1", "read-only"),
        ("set nothing 1", "no parameter 'nothing'"),
        ("get gains[4]", "elements 0..3"),
        ("set blob 012", "pairs of hex digits"),
        ("set -f sensor 1", "also silent when it refuses"),
        ("frobnicate", "no command is named 'frobnicate'"),
        ("list download now", "too many words"),
        ("node nowhere", "no node is called 'nowhere'"),
    ],
)
def test_wrong_input_says_what_is_wrong(rig: Rig, line: str, message: str) -> None:
    rig.session.timeout_s = 0.05
    assert message in rig.run(line, ok=False)


def test_queued_requests(rig: Rig) -> None:
    rig.run("cmd new set")
    rig.run("cmd add speed 7")
    rig.run("cmd add gains[0] 2.5")
    assert "2 items" in rig.run("cmd")
    rig.run("cmd run")
    assert rig.node.table["speed"].get() == 7
    assert rig.node.table["gains"].get(0) == 2.5
    rig.run("cmd new get")
    rig.run("cmd add speed")
    assert "speed = 7" in rig.run("cmd run")
    rig.run("cmd done")
    assert "there is no request" in rig.run("cmd run", ok=False)


def test_memory_of_a_node(rig: Rig, tmp_path: Path) -> None:
    assert "0x000000001000 - 64 bytes, ram" in rig.run("vmem")
    source, copy = tmp_path / "source", tmp_path / "copy"
    source.write_bytes(bytes(range(64)))
    assert "checksum verified" in rig.run(f"vmem upload {source} 0x1000")
    rig.run(f"vmem download 0x1000 40 {copy}")
    rig.run(f"download --resume 0x1000 64 {copy}")
    assert copy.read_bytes() == source.read_bytes()
    first = rig.run("crc32 0x1000 64")
    assert first == rig.run("vmem crc32 0x1000 64")
    assert "error" in rig.run(f"vmem download 0x9000 4 {copy}", ok=False)


def test_list_add_makes_a_parameter_known_without_its_node(rig: Rig) -> None:
    assert "u16[4]" in rig.run("list add -n 9 -a 4 -m c -u V rails 77 u16")
    rig.run("list add -n 9 -a 20 label 3 str")
    assert "hello" in rig.run("set -n 9 label hello")
    assert rig.node.table["label"].get() == "hello"
    assert rig.session.remote.list_downloads == 0
    assert "none of u08" in rig.run("list add -n 9 rails 77 int", ok=False)
    rig.run("list download -n 9")
    assert "rails" not in rig.run("list -n 9")


def test_watch_repeats_and_variables_expand(rig: Rig) -> None:
    rig.run("var WHEEL 9")
    assert rig.run("watch -n 1 -c 3 ping $(WHEEL)").count("Ping node 9") == 3


def test_scripts_stop_at_the_first_failing_line(rig: Rig) -> None:
    text = "# comment\n\nping 9\nping -t 10 40\nset speed 1\n"
    assert not rig.session.run_script(text, "plan.csh")
    assert rig.lines[-1] == "error: plan.csh, line 4: stopped at 'ping -t 10 40'"
    assert rig.node.table["speed"].get() == 0


def test_every_command_explains_itself(rig: Rig) -> None:
    for command in rig.session.registry:
        assert rig.run(f"help {command.name}").startswith(f"usage: {command.name}")
    assert "ping" in rig.run("help")


def test_completion_offers_commands_parameters_nodes_and_options(rig: Rig) -> None:
    session = rig.session
    assert "ping" in complete(session, [], "pi")
    assert "download" in complete(session, ["list"], "d")
    rig.run("list download")
    assert complete(session, ["get"], "sp") == ["speed"]
    rig.run("ident")
    assert "wheel" in complete(session, ["ping"], "w")
    assert "--size" in complete(session, ["ping"], "--s")


def test_a_missing_hub_is_said_before_anything_fails(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("csp.links.zmq._READY_TIMEOUT_S", 0.05)
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port = unused.getsockname()[1]
        words = ["shell", "--hub", f"127.0.0.1:{port}:{port}", "-t", "20", "-c", "ping 9"]
        assert main(words) == 1
    said = capsys.readouterr().out
    assert f"warning: no hub answers at 127.0.0.1:{port}:{port}" in said
    assert "error: ping node 9: no reply within 20 ms" in said
