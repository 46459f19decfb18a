"""The command `dish`: assembling, disassembling, and a daemon that starts, answers and ends."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from csp.errors import NoResponse
from csp.hub import Hub
from csp.links.zmq import ZmqLink
from csp.loop import Loop
from csp.stack import Stack
from dish.asm import assemble_one
from dish.cli import main
from dish.client import ProcClient
from dish.program import decode
from dish.testing import reach

PLAN = Path(__file__).parents[2] / "configs" / "plans" / "listing1.csh"


def test_assembling_and_disassembling(tmp_path, capsys):
    out = tmp_path / "plan.bin"
    assert main(["asm", str(PLAN)]) == 0
    assert capsys.readouterr().out.startswith("slot 42: 11 instructions, 209 bytes: 0b0400")
    assert main(["asm", str(PLAN), "--slot", "43", "-o", str(out)]) == 0
    assert len(decode(out.read_bytes())) == 4
    assert main(["dis", str(out), "--slot", "43"]) == 0
    text = capsys.readouterr().out
    assert "proc ifelse p_uint8[2] == p_uint8[0] 4" in text
    (tmp_path / "again.csh").write_text(text)
    assert main(["asm", str(tmp_path / "again.csh")]) == 0
    assert out.read_bytes().hex() in capsys.readouterr().out
    (tmp_path / "hex").write_text(out.read_bytes().hex())
    assert main(["dis", "--hex", str(tmp_path / "hex")]) == 0


def test_bad_input_has_a_reason_and_status_1(tmp_path, capsys):
    bad = tmp_path / "bad"
    bad.write_text("proc new\nproc set a\n")
    for words, part in (
        (["asm", str(bad)], "line 2, column 10: set: value is missing"),
        (["dis", str(bad)], "at byte"),
        (["dis", "--hex", str(bad)], "not hexadecimal"),
        (["asm", str(tmp_path / "absent")], "No such file"),
        (["asm", str(PLAN), "--slot", "99"], "no such procedure"),
        (["asm", str(PLAN), "-o", str(tmp_path / "x")], "choose one with --slot"),
    ):
        assert main(words) == 1
        assert part in capsys.readouterr().err


@pytest.mark.parametrize("words", [[], ["jump"], ["serve", "--profile", "x"], ["asm"]])
def test_wrong_use_is_status_2(words, capsys):
    try:
        status = main(words)
    except SystemExit as end:
        status = end.code
    assert status == 2


def test_help(capsys):
    assert main(["help"]) == 0
    for words in (["--help"], ["serve", "--help"], ["help", "asm"]):
        with pytest.raises(SystemExit) as end:
            main(words)
        assert end.value.code == 0
    assert "--gnss NODE" in capsys.readouterr().out


def test_serve_runs_a_procedure_and_ends_on_sigterm(tmp_path):
    hub = Hub(sub_port=0, pub_port=0)
    process = subprocess.Popen(
        [sys.executable, "-c", "import sys; from dish.cli import main; sys.exit(main())", "serve",
         "--hub", f"127.0.0.1:{hub.sub_port}:{hub.pub_port}", "--state", str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": os.getcwd()},
    )  # fmt: skip
    loop = Loop()
    stack = Stack(loop.scheduler)
    link = ZmqLink(address=20, sub_port=hub.sub_port, pub_port=hub.pub_port)
    try:
        assert process.stdout.readline() == "dish node 4, profile m7\n"
        interface = stack.add_interface(link.name, 20, link.send)
        link.open(loop, lambda frame: stack.receive(interface, frame))
        client = ProcClient(stack, timeout_s=20.0)

        async def talk():
            await reach(stack, 4)
            answered = False
            while not answered:  # on a busy machine the node may still be subscribing
                with contextlib.suppress(NoResponse):
                    answered = await stack.request(4, 1, b"up", timeout_s=1.0) == b"up"
            await client.push(4, 30, assemble_one("call 30"))
            await client.run(4, 30)
            return await client.status(4)

        loop.run_until(link.ready, 20.0)
        status = loop.run_until(loop.scheduler.spawn(talk()), 20.0)
        assert [run.root for run in status.runs] == [30]
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
        link.close()
        loop.close()
        hub.close()
    assert (tmp_path / "procedures").exists()
