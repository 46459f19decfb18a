"""The DISH node over a network: wire answers, runs with outcomes, neighbours, memory."""

from __future__ import annotations

import os
import signal
import time

import pytest

from csp.errors import NoResponse, Refused
from csp.loop import Loop
from csp.node import CspNode
from csp.param.client import ParamClient
from csp.param.remote import RemoteTable
from csp.param.spec import ParamSpec
from csp.param.table import ParamTable
from csp.param.types import Mask, ParamType
from csp.services import Identity
from csp.testing import Network
from csp.vmem.client import VmemClient
from dish.asm import assemble_one
from dish.client import ProcClient
from dish.node import DishConfig, DishNode, prepare
from dish.params import NO_SLOT
from dish.profile import PROFILES
from dish.status import Verb

DISH, GROUND, GNSS, A53 = 4, 20, 9, 161
P = ParamType


class Site:
    """A DISH node, a ground stack, and perhaps neighbours, on one virtual medium in real time."""

    def __init__(self, **config):
        self.config = DishConfig(address=DISH, seed=1, **config)
        prepared = prepare(self.config)
        self.loop = Loop()
        self.network = Network(self.loop.scheduler)
        self.dish = DishNode(self.loop, self.config, prepared)
        self.dish.attach(self.network.link(DISH))
        self.ground = self.network.add(GROUND)
        self.proc = ProcClient(self.ground)
        self.params = RemoteTable(ParamClient(self.ground))
        self.neighbours = {}

    def neighbour(self, address, *specs):
        table = ParamTable(specs)
        identity = Identity(hostname="n", model="m", revision="r", date="", time="")
        node = CspNode(self.loop.scheduler, address=address, identity=identity, table=table, seed=2)
        node.attach(self.network.link(address))
        self.neighbours[address] = node
        return table

    def do(self, coro):
        return self.loop.run_until(self.loop.scheduler.spawn(coro), 10.0)

    def raw(self, data, flags=1):
        async def exchange():
            with self.ground.open(DISH, 14, flags=flags) as client:
                client.send(data)
                return await client.receive(0.1)

        return self.do(exchange())

    def silent(self, data, flags=1):
        with pytest.raises(NoResponse):
            self.raw(data, flags)
        return True

    def get(self, name, index=None):
        return self.do(self.params.get(DISH, name, index))

    def set(self, name, value, index=None):
        return self.do(self.params.set(DISH, name, value, index))

    def until(self, condition):
        end = time.monotonic() + 10
        while not condition():
            assert time.monotonic() < end, "not in time"
            self.loop.tick(0.05)

    def run(self, slot, text):
        """Push, run, and wait for the outcome."""
        self.do(self.proc.delete(DISH, slot))
        self.do(self.proc.push(DISH, slot, assemble_one(text)))
        before = len(self.dish.service.outcomes)
        self.do(self.proc.run(DISH, slot))
        self.until(lambda: len(self.dish.service.outcomes) > before)
        return self.dish.service.outcomes[-1]

    def close(self):
        self.dish.close()
        for node in self.neighbours.values():
            node.close()
        self.loop.close()


@pytest.fixture
def site():
    made = []

    def build(**config):
        made.append(Site(**config))
        return made[-1]

    yield build
    for each in made:
        each.close()
    with pytest.raises(ChildProcessError):
        os.waitpid(-1, os.WNOHANG)


DEFAULT = PROFILES["default"]


def test_every_answer_of_the_protocol_on_the_wire(site):
    here = site(profile=DEFAULT)
    rows = [
        ("80 07", "81"), ("80 ff", "81"), ("82 07", "c3"), ("88 07", "c9"), ("86", "87"),
        ("84 07 01 00 00 06", "85"), ("84 07 01 00 00 06", "c5"), ("82 07", "83 07 01 00 00 06"),
        ("86", "87 07"), ("88 07", "89"), ("b8 07", "89"), ("84 08 01 00 00 07", "c5"),
        ("84 08 02 00 00 06", "c5"), ("84 08", "c5"), ("84", "c5"), ("82", "c3"), ("88", "c9"),
        ("84 08 01 00 00 06 ff ff", "85"), ("82 08", "83 08 01 00 00 06"), ("80 07", "81"),
        ("84 09 00", "85"), ("82 09", "83 09 00"), ("88 09", "89"), ("86", "87 08 09"),
    ]  # fmt: skip
    for request, answer in rows:
        assert here.raw(bytes.fromhex(request)).hex() == answer.replace(" ", ""), request
    here.until(lambda: len(here.dish.runs) == 0)
    assert here.raw(bytes.fromhex("8a 01")).hex() == "8b00"
    for request in ("80", "8a", "8a ff", "8b", "8c", "8f", "81 07", "89"):
        assert here.silent(bytes.fromhex(request)), request


def test_the_m7_profile(site):
    here = site()
    assert here.raw(bytes.fromhex("8418010000 06")).hex() == "c5"
    assert here.raw(bytes.fromhex("8433010000 06")).hex() == "c5"
    assert here.raw(bytes.fromhex("8233")).hex() == "c3"
    assert here.raw(bytes.fromhex("8833")).hex() == "c9"
    assert here.raw(bytes.fromhex("8018")).hex() == "81"
    assert here.raw(bytes.fromhex("8219")).hex() == "831900"
    assert here.raw(bytes((0x84, 25, 51)) + bytes.fromhex("000006") * 51).hex() == "c5"
    assert here.raw(bytes((0x84, 25, 50)) + bytes.fromhex("000006") * 50).hex() == "85"
    assert here.raw(bytes.fromhex("841a00")).hex() == "85"
    assert here.raw(bytes.fromhex("881a")).hex() == "c9"
    assert here.raw(bytes.fromhex("86")).hex() == "8719"
    here.raw(bytes.fromhex("8432010000 06"))
    assert here.raw(bytes.fromhex("86")).hex() == "871932"


def test_a_procedure_too_large_for_a_packet_cannot_be_pulled(site):
    here = site(profile=DEFAULT)
    # Too long for the node's own buffers, as a procedure from a bigger network would be.
    text = "\n".join(f"set parameter{index} 1" for index in range(20))
    here.dish.store.push(9, assemble_one(text))
    with pytest.raises(Refused):
        here.do(here.proc.pull(DISH, 9))


def test_256_occupied_slots_are_listed_in_two_packets(site):
    here = site(profile=DEFAULT)
    for slot in range(256):
        here.dish.store.push(slot, assemble_one("noop"))
    assert here.do(here.proc.slots(DISH)) == list(range(256))


def test_outcomes_are_readable_as_parameters(site):
    here = site()
    assert here.get("proc_last_slot") == NO_SLOT
    assert here.run(30, "set p_uint32[3] 7\nbinop p_uint32[3] / p_uint32[4] p_uint32[5]").index == 1
    assert here.get("proc_last_slot") == 30
    assert here.get("proc_last_ret") == -1
    assert here.get("proc_last_index") == 1
    assert here.get("proc_last_count") == 2
    assert "division by zero" in here.get("proc_last_error")
    here.run(31, "noop")
    assert (here.get("proc_last_ret"), here.get("proc_last_error")) == (0, "completed")
    assert (here.get("proc_started"), here.get("proc_completed"), here.get("proc_failed")) == (
        2,
        1,
        1,
    )
    assert here.get("p_uint32", 3) == 7


def test_a_missing_callee_ends_the_run_before_anything_executes(site):
    here = site()
    outcome = here.run(30, "set p_uint8[0] 1\ncall 40")
    assert (outcome.ret, here.get("p_uint8", 0), here.get("proc_last_ret")) == (-1, 0, -1)
    assert "40" in here.get("proc_last_error")


def test_the_17th_run_is_refused_and_says_why(site):
    here = site(profile=DEFAULT)
    here.do(here.proc.push(DISH, 30, assemble_one("block p_uint8[0] == p_uint8[1]")))
    here.set("p_uint8", 1, 0)
    for _ in range(16):
        here.do(here.proc.run(DISH, 30))
    with pytest.raises(Refused):
        here.do(here.proc.run(DISH, 30))
    assert here.get("proc_running") == 16
    assert "16 are running" in here.get("proc_refusal")
    here.set("p_uint8", 0, 0)
    here.until(lambda: len(here.dish.runs) == 0)
    assert here.get("proc_completed") == 16


def test_the_heap_of_the_board_holds_fewer_than_16(site):
    here = site()
    full = here.get("proc_heap_free")
    here.do(here.proc.push(DISH, 30, assemble_one("block p_uint8[0] != p_uint8[0]")))
    for _ in range(14):
        here.do(here.proc.run(DISH, 30))
    with pytest.raises(Refused):
        here.do(here.proc.run(DISH, 30)) or here.do(here.proc.run(DISH, 30))
    assert "bytes of heap" in here.get("proc_refusal")
    here.do(here.proc.control(DISH, Verb.STOP))
    here.until(lambda: len(here.dish.runs) == 0)
    here.do(here.proc.delete(DISH, 30))
    assert here.get("proc_heap_free") == full == 61440


def test_deleting_and_replacing_a_running_procedure_does_not_touch_it(site):
    here = site()
    here.do(here.proc.push(DISH, 30, assemble_one("unop p_uint32[0] ++ p_uint32[0]\ncall 30")))
    here.do(here.proc.run(DISH, 30))
    here.do(here.proc.delete(DISH, 30))
    here.do(here.proc.push(DISH, 30, assemble_one("set p_uint32[1] 5")))
    before = here.get("p_uint32", 0)
    here.until(lambda: here.dish.table["p_uint32"].get(0) > before)
    assert here.get("p_uint32", 1) == 0
    assert here.do(here.proc.control(DISH, Verb.STOP, 30)) == 1
    here.until(lambda: len(here.dish.runs) == 0)
    assert here.get("proc_last_ret") == -10


def test_stop_pause_and_step_by_parameter(site):
    here = site()
    here.do(here.proc.push(DISH, 30, assemble_one("unop p_uint32[0] ++ p_uint32[0]\ncall 30")))
    here.do(here.proc.run(DISH, 30))
    here.until(lambda: here.dish.table["p_uint32"].get(0) > 100)
    here.set("proc_pause", 30)
    here.until(lambda: here.get("proc_run_state", 0) == 5)
    assert (here.get("proc_run_slot", 0), here.get("proc_run_slot", 1)) == (30, NO_SLOT)
    held = here.get("proc_run_count", 0)
    here.set("proc_step", 30)
    here.until(lambda: here.get("proc_run_count", 0) == held + 1)
    status = here.do(here.proc.status(DISH))
    assert [(run.root, run.state, run.executed) for run in status.runs] == [(30, 5, held + 1)]
    here.set("proc_stop", 0xFFFF)
    here.until(lambda: len(here.dish.runs) == 0)


def test_flight_mode_by_parameter(site):
    here = site()
    text = "set p_int8[0] -1\nunop p_int8[0] idt p_int32[0]"
    here.run(30, text)
    assert here.get("p_int32", 0) == -1
    here.set("proc_mode", 1)
    here.run(30, text)
    assert here.get("p_int32", 0) == 255


def test_budget_by_parameter(site):
    here = site()
    here.set("proc_budget", 1000)
    assert here.run(30, "call 30").ret == -11


def test_kill_of_a_procedure_process_is_reported_and_harmless(site):
    here = site()
    here.do(here.proc.push(DISH, 30, assemble_one("call 30")))
    here.do(here.proc.run(DISH, 30))
    here.until(lambda: here.dish.runs.views()[0].pid)
    os.kill(here.dish.runs.views()[0].pid, signal.SIGKILL)
    here.until(lambda: len(here.dish.runs) == 0)
    assert here.get("proc_last_ret") == -12
    assert here.run(31, "noop").ret == 0


def test_remote_operands_over_the_network(site):
    here = site()
    other = here.neighbour(
        33,
        ParamSpec(id=1, name="a", type=P.U16, default=20),
        ParamSpec(id=2, name="b", type=P.U16, default=22),
        ParamSpec(id=3, name="c", type=P.U32, array_size=3),
        ParamSpec(id=4, name="ro", type=P.U8, mask=Mask.READONLY),
        ParamSpec(id=5, name="text", type=P.STRING, array_size=12, default="hello"),
    )
    calls = []
    other.on_write("c", lambda param, index: calls.append((index, param.get(index))))
    outcome = here.run(30, "binop a + b c 33\nset c[1] 5 33\nifelse a < b 33\nset text bye 33")
    assert outcome.ret == 0, outcome
    assert other["c"].get_all() == [42, 5, 42]
    assert calls == [(0, 42), (1, 42), (2, 42), (1, 5)]
    assert other["text"].get() == "bye"
    client = here.dish.node.params.counters
    assert (client.list_downloads, client.pulls, client.pushes) == (1, 2, 3)
    for text, part in (
        ("set ro 1 33", "read-only"),
        ("set nope 1 33", "nope"),
        ("set c[3] 1 33", "3 elements"),
        ("unop text idt p_uint8[0] 33", "cannot store"),
    ):
        outcome = here.run(30, text)
        assert outcome.ret == -1
        assert part in outcome.reason


def test_gnss_is_mirrored_and_becomes_invalid_when_the_receiver_is_silent(site):
    here = site(gnss=GNSS)
    gnss = here.neighbour(
        GNSS,
        ParamSpec(id=24, name="gnss_lat", type=P.FLOAT, default=56.5),
        ParamSpec(id=28, name="gnss_time", type=P.U32, default=12345678),
        ParamSpec(id=32, name="gnss_unix", type=P.U32, default=1_700_000_000),
    )
    table = here.dish.table
    assert table["gnss_lat"].get() == 1000.0
    here.until(lambda: table["gnss_unix"].get() == 1_700_000_000)
    assert (table["gnss_lat"].get(), table["gnss_time"].get()) == (56.5, 12345678)
    gnss["gnss_unix"].set(1_700_000_001)
    here.until(lambda: table["gnss_unix"].get() == 1_700_000_001)


def test_waking_the_a53(site):
    here = site(a53=A53)
    power = here.neighbour(
        A53,
        ParamSpec(id=2, name="wake_a53", type=P.U8, mask=Mask.CONF),
        ParamSpec(id=3, name="a53_status", type=P.U8, mask=Mask.READONLY),
    )
    power.on_write("wake_a53", lambda param, _: power["a53_status"].set(1))
    text = "set wake_a53 1\nset p_uint8[0] 1\nblock a53_status == p_uint8[0]\nset p_uint8[1] 9"
    assert here.run(30, text).ret == 0
    assert here.get("p_uint8", 1) == 9


def test_memory_areas_share_the_port(site):
    here = site()
    vmem = VmemClient(here.ground)
    areas = {area.name: area.size for area in here.do(vmem.list(DISH))}
    assert list(areas.values()) == [2500, 1500, 1500]
    here.set("wake_a53", 3)
    assert here.do(vmem.download(DISH, 0, 1)) == b"\x03"


def test_pushed_procedures_survive_a_restart(site, tmp_path):
    here = site(state=tmp_path)
    here.do(here.proc.push(DISH, 30, assemble_one("set p_uint8[0] 1")))
    here.do(here.proc.push(DISH, 31, assemble_one("noop")))
    here.do(here.proc.delete(DISH, 31))
    here.dish.close()
    again = site(state=tmp_path)
    assert again.do(again.proc.slots(DISH)) == [30]
    assert again.do(again.proc.pull(DISH, 30)) == assemble_one("set p_uint8[0] 1")


def test_a_full_disk_refuses_the_push_and_keeps_the_store(site, tmp_path):
    here = site(state=tmp_path / "state")
    (tmp_path / "state" / "procedures.new").mkdir()
    with pytest.raises(Refused):
        here.do(here.proc.push(DISH, 30, assemble_one("noop")))
    assert here.do(here.proc.slots(DISH)) == []
    (tmp_path / "state" / "procedures.new").rmdir()
    here.do(here.proc.push(DISH, 30, assemble_one("noop")))
    assert here.do(here.proc.slots(DISH)) == [30]
