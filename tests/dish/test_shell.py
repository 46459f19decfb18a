"""The `proc` commands of the shell against a DISH node, both on one event loop."""

from __future__ import annotations

from pathlib import Path

import pytest

from csp.loop import Loop
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import ParamType
from csp.shell.main import open_session
from csp.testing import Network
from dish.asm import assemble
from dish.effects import Done, Pull, Settings
from dish.link import link
from dish.node import DishConfig, DishNode, prepare
from dish.params import SPECS
from dish.program import Procedure, encode
from dish.testing import World, interpreter

PLAN = Path(__file__).parents[2] / "configs" / "plans" / "listing1.csh"
P = ParamType


@pytest.fixture
def shell(monkeypatch):
    config = DishConfig()
    prepared = prepare(config)
    loop = Loop()
    monkeypatch.setattr("csp.shell.main.Loop", lambda: loop)
    network = Network(loop.scheduler)
    node = DishNode(loop, config, prepared)
    node.attach(network.link(4))
    lines = []
    with open_session(network.link(20), address=20, out=lines.append) as session:

        def run(line, ok=True):
            del lines[:]
            assert session.run_line(line, 10.0) is ok, "\n".join(lines)
            return "\n".join(lines)

        run.session, run.dish = session, node
        yield run
    node.close()


def current(shell):
    return shell.session.extra["dish.procedure"]


def test_writing_a_procedure_line_by_line(shell):
    for command in ("size", "list", "pop", "noop", "push 30", "set a 1"):
        assert "no current procedure" in shell(f"proc {command}", ok=False)
    shell("node 7")
    shell("proc new")
    shell("proc block a >= b")
    shell("proc ifelse a == b 0")
    shell("proc set -n 5 label 'hello world'")
    shell("proc set p -5")
    shell("proc unop y -- y")
    shell("proc unop y - y")
    shell("proc binop a << b c 65535")
    shell("proc call 3")
    shell("proc noop whatever")
    assert shell("proc list").splitlines() == [
        "0:\t[node 7]\tblock : a >= b",
        "1:\t[node 0]\tifelse: a == b",
        "2:\t[node 5]\tset   : label = hello world",
        "3:\t[node 7]\tset   : p = -5",
        "4:\t[node 7]\tunop  : y = --(y)",
        "5:\t[node 7]\tunop  : y = -(y)",
        "6:\t[node 65535]\tbinop : c = a << b",
        "7:\t[node 7]\tcall  : 3",
        "8:\t-\t\tnoop",
    ]
    assert shell("proc size") == f"{len(encode(current(shell)))} bytes"
    shell("proc pop")
    shell("proc pop 0")
    assert len(current(shell)) == 7
    assert "no instruction 7" in shell("proc pop 7", ok=False)
    shell("proc new")
    assert current(shell) == Procedure()


@pytest.mark.parametrize(
    "line",
    [
        "proc block a = b", "proc unop a + b", "proc binop a + b", "proc set a", "proc call 256",
        "proc call x", "proc set a 1 65536", "proc set a 1 M7", "proc set a 1 2 3",
        "proc push 256", "proc push -1", "proc run 0x1", "proc pop x", "proc jump", "proc",
    ],
)  # fmt: skip
def test_wrong_words_are_refused_at_entry(shell, line):
    shell("proc new")
    assert "error" in shell(line, ok=False)
    assert current(shell) == Procedure()


def test_the_256th_instruction_is_refused(shell):
    shell("proc new")
    shell("proc noop")
    shell.session.extra["dish.procedure"] = Procedure(
        instructions=current(shell).instructions * 255
    )
    assert "Maximum number of instructions reached" in shell("proc noop", ok=False)


def test_moving_running_and_watching(shell):
    shell("node 4")
    shell("proc new")
    shell("proc set p_uint8[0] 7")
    assert "pushed 17 bytes to slot 30 on node 4" in shell("proc push 30")
    assert "refused" in shell("proc push 30", ok=False)
    assert shell("proc slots").splitlines() == ["1 occupied procedure slots on node 4:", "30"]
    shell("proc run 30")
    assert "completed" in shell("proc wait 30 10")
    assert "7" in shell("get p_uint8[0]")
    shell("proc new")
    shell("proc pull 30")
    assert [str(entry) for entry in current(shell).instructions] == ["set   : p_uint8[0] = 7"]
    before = current(shell)
    assert "refused" in shell("proc pull 24", ok=False)
    assert current(shell) is before
    shell("proc del 30")
    assert "refused" in shell("proc run 30", ok=False)


def test_a_failed_run_fails_the_script(shell):
    shell("node 4")
    shell("proc new")
    shell("proc set nowhere 7")
    assert "pushed" in shell("proc push 30")
    shell("proc run 30")
    assert "ended with -1" in shell("proc wait 30 10", ok=False)
    assert "slot 30: instruction failed at 30:0 (-1)" in shell("proc status")


def test_what_cannot_work_is_not_pushed_unless_forced(shell):
    shell("node 4")
    shell("list download")
    shell("proc new")
    shell("proc set nowhere 7")
    shell("proc block p_uint8 == 1")
    text = shell("proc push 30", ok=False)
    assert "slot 30 instruction 0: error: node 4 has no parameter 'nowhere'" in text
    assert "1 is a literal" in text
    assert shell("proc slots").startswith("0 occupied")
    assert "pushed" in shell("proc push --force 30")


def test_stopping_what_runs(shell):
    shell("node 4")
    shell("proc new")
    shell("proc call 30")
    shell("proc push 30")
    shell("proc run 30")
    assert "slot 30" in shell("proc status")
    assert "still runs" in shell("proc wait 30 0", ok=False)
    assert "pause: 1 runs" in shell("proc pause 30")
    assert "step: 1 runs" in shell("proc step 30")
    assert "stop: 0 runs" in shell("proc stop 31")
    assert "stop: 1 runs" in shell("proc stop")
    assert "-10" in shell("proc wait 30 10", ok=False)


def test_a_long_procedure_is_warned_about(shell):
    shell("proc new")
    for _ in range(20):
        shell("proc set parameter_name 1")
    assert "warning" in shell("proc push -n 4 30")


def test_the_shipped_form_of_listing_one_assembles_and_pushes(shell):
    assert shell.session.run_script(PLAN.read_text(), PLAN.name)
    assert "42\n43\n44\n45" in shell("proc slots -n 4")


def test_the_shipped_form_of_listing_one_flies():
    listings = {entry.slot: entry.procedure for entry in assemble(PLAN.read_text())}
    local = ParamTable(SPECS)
    node = lambda *specs: ParamTable(  # noqa: E731
        ParamSpec(id=index, name=name, type=P.U8) for index, name in enumerate(specs)
    )
    nodes = {161: node("suspend_a53"), 162: node("pipeline_run"), 163: node("capture_image")}
    world = World(local, nodes=nodes)
    # Writing to the processor wakes it two seconds later; the pipeline takes four.
    local.on_write("wake_a53", lambda *_: world.at.append(
        (world.now + 2, lambda: local["a53_status"].set(1))))  # fmt: skip
    nodes[162].on_write("pipeline_run", lambda *_: world.at.append(
        (world.now + 4, lambda: nodes[162]["pipeline_run"].set(0))))  # fmt: skip
    for second in range(60):
        unix = 1744407760 + second
        world.at.append((float(second), lambda unix=unix: local["gnss_unix"].set(unix)))
    settings = Settings(own_nodes=frozenset({4}))
    outcome = world.fly(interpreter(link(42, listings.get), local, settings))
    assert isinstance(outcome, Done), outcome
    assert local["p_uint32"].get(1) == 1744407766
    assert nodes[163]["capture_image"].get() == 1
    assert nodes[161]["suspend_a53"].get() == 1
    assert 3 <= sum(isinstance(effect, Pull) for effect in world.effects) <= 8
