"""Parameter lists: as files, shipped, and from a live network for `dish verify`."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from csp.hub import Hub
from csp.links.zmq import ZmqLink
from csp.loop import Loop
from csp.param.spec import ParamSpec
from csp.param.types import Mask, ParamType
from csp.sched import Timeout
from csp.stack import Stack
from dish.asm import assemble_one
from dish.catalogue import decode_lists, encode_lists, load_catalogue, shipped_lists
from dish.cli import main
from dish.client import ProcClient
from dish.errors import ContentError
from dish.params import SPECS
from dish.testing import reach
from dish.verify_cli import nodes_of
from tests.dish.test_verify import LISTING, PLAN
from tools import make_lists


def test_the_shipped_lists_are_current():
    files = {path.name: path.read_text() for path in make_lists.FOLDER.glob("*.json")}
    assert files == make_lists.generate(), "run `python -m tools.make_lists`"


def test_lists_survive_a_file(tmp_path):
    odd = ParamSpec(id=7, name="odd", type=ParamType.X16, array_size=9, mask=Mask.CONF)
    path = tmp_path / "lists.json"
    path.write_text(encode_lists({4: SPECS, 5: [odd], 6: []}))
    lists = load_catalogue(path)
    assert list(lists) == [4, 5, 6]
    assert lists[5]["odd"] == odd
    for spec in SPECS:
        read = lists[4][spec.name]
        assert (read.id, read.type, read.array_size, read.mask) == (
            spec.id, spec.type, spec.array_size, spec.mask,
        )  # fmt: skip


@pytest.mark.parametrize(
    "text",
    ["", "[]", "{", '{"a": []}', '{"1": [{}]}', '{"1": [{"name": "x", "type": "u9"}]}',
     '{"1": [{"name": "", "type": "u08"}]}', '{"1": 5}', '{"1": [5]}',
     '{"1": [{"name": "x", "type": "u08", "array_size": 0}]}'],
)  # fmt: skip
def test_what_is_no_list_says_so(text):
    with pytest.raises(ContentError, match=r"x\.json is no parameter list"):
        decode_lists(text, "x.json")


def test_shipped_plans_are_clean_against_the_shipped_lists(capsys):
    assert {4, 8, 9, 10, 161, 162, 163} <= shipped_lists().keys()
    assert main(["verify", str(PLAN), "--shipped"]) == 0
    assert capsys.readouterr().out == "4 procedures, 0 problems\n"
    assert main(["verify", str(LISTING), "--shipped"]) == 1


def test_which_nodes_a_program_uses():
    text = "set a 1 9\nunop a idt b 8\nunop a rmt b 7\nblock a == b 0\ncall 3 6\nnoop"
    assert nodes_of({30: assemble_one(text)}, 4) == [4, 7, 8, 9]


async def fill(stack):
    """Fill slot 31 of node 4."""
    await reach(stack, 4)
    await ProcClient(stack, 5.0).push(4, 31, assemble_one("noop"))


@pytest.fixture
def live():
    hub = Hub(sub_port=0, pub_port=0)
    where = f"127.0.0.1:{hub.sub_port}:{hub.pub_port}"
    process = subprocess.Popen(
        [sys.executable, "-m", "dish.cli", "serve", "--hub", where],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    loop = Loop()
    stack = Stack(loop.scheduler)
    link = ZmqLink(address=20, sub_port=hub.sub_port, pub_port=hub.pub_port)
    try:
        assert process.stdout.readline() == "dish node 4, profile m7\n"
        interface = stack.add_interface(link.name, 20, link.send)
        link.open(loop, lambda frame: stack.receive(interface, frame))
        loop.run_until(link.ready, 5.0)
        loop.run_until(loop.scheduler.spawn(fill(stack)), 20.0)
        yield where
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        link.close()
        loop.close()
        hub.close()


def test_verify_against_a_live_network(live, tmp_path, capsys):
    script, kept = tmp_path / "plan.csh", tmp_path / "kept.json"
    # Slot 31 is on the node, `power_reserve` is in its list, node 99 is silent.
    script.write_text("node 4\nproc new\nproc set power_reserve 30\nproc set x 1 99\n"
                      "proc call 31\nproc push 30\n")  # fmt: skip
    words = ["verify", str(script), "--hub", live, "--timeout", "2"]
    assert main([*words, "--save", str(kept)]) == 0
    out, err = capsys.readouterr()
    assert "no parameter list of node 99" in out
    assert "1 procedures, 1 problems" in out
    assert "node 99: no response" in err
    assert set(load_catalogue(kept)[4]) == {spec.name for spec in SPECS}
    # Without the network the called slot is missing.
    assert main(["verify", str(script), "--params", str(kept)]) == 1
    assert "[missing-slot]" in capsys.readouterr().out
    script.write_text("node 4\nproc new\nproc set nothing 1\nproc push 30\n")
    assert main(words) == 1
    assert "no parameter 'nothing'" in capsys.readouterr().out


def test_a_network_where_nobody_answers(tmp_path, capsys):
    script = tmp_path / "plan.csh"
    script.write_text("proc new\nproc set x 1\nproc push 30\n")
    hub = Hub(sub_port=0, pub_port=0)
    try:
        where = f"127.0.0.1:{hub.sub_port}:{hub.pub_port}"
        try:
            assert main(["verify", str(script), "--hub", where, "--timeout", "0.1"]) == 1
        except Timeout:
            pytest.fail("a silent network is a reason, not a crash")
    finally:
        hub.close()
    assert "no node answered" in capsys.readouterr().err
