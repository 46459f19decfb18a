"""Procedures that must be signed: what a node with keys takes, over the shell and on the wire."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from csp.gate import Gate
from csp.keyfiles import KEY_VARIABLE, OperatorKey, generate, revoke_key, trust_key
from csp.ledger import LEDGER_BYTES, Ledger
from csp.loop import Loop
from csp.node import CspNode
from csp.param.table import ParamTable
from csp.services import Identity
from csp.shell.main import open_session
from csp.signing import SEAL_BYTES, Signer, Trust
from csp.testing import Network
from csp.vmem.area import RamArea
from csp.vmem.area import StoreError as AreaError
from dish import cli
from dish.asm import assemble_one
from dish.errors import StoreError
from dish.node import DishConfig, DishNode, prepare
from dish.program import encode
from dish.seals import SEALS_BYTES, ProcedureGate, Unsigned, seal_procedure

NODE, STOCK, GROUND = 4, 5, 20
ALICE, EVE = Signer(bytes([1]) * 32), Signer(bytes([2]) * 32)
ONE, TWO = assemble_one("set p_uint8[0] 1", 4), assemble_one("set p_uint8[0] 2", 4)


# -- the gate


class Rig:
    """A gate with its memory; `seal` is what the ground offered last."""

    def __init__(self) -> None:
        self.ledger, self.kept = RamArea("ledger", LEDGER_BYTES), RamArea("seals", SEALS_BYTES)
        self.seal = bytes(SEAL_BYTES)
        self.refused = 0
        self.restart()

    def restart(self) -> None:
        gate = Gate(Trust([ALICE.public_key]), Ledger(self.ledger))
        self.gate = ProcedureGate(
            NODE, gate, self.kept, offered=lambda: self.seal, refused=self._count
        )

    def _count(self) -> None:
        self.refused += 1


def seal(
    procedure=ONE, counter: int = 5, signer: Signer = ALICE, *, node: int = NODE, slot: int = 30
) -> bytes:
    return seal_procedure(procedure, signer, node=node, slot=slot, counter=counter)


REFUSED = [
    ("none", bytes(SEAL_BYTES)),
    ("short", seal()[:-1]),
    ("another key", seal(signer=EVE)),
    ("another slot", seal(slot=31)),
    ("another node", seal(node=5)),
    ("another procedure", seal(TWO)),
    ("another counter", b"\x06" + seal()[1:]),
]


@pytest.mark.parametrize("value", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_push_that_nobody_signed_does_not_pass(value: bytes) -> None:
    rig = Rig()
    rig.seal = value
    with pytest.raises(Unsigned, match="procedure for slot 30"):
        rig.gate.admit(30, ONE)
    assert rig.refused == 1
    with pytest.raises(Unsigned):
        rig.gate.recall(30, ONE)


def test_every_bit_of_a_seal_counts() -> None:
    rig = Rig()
    for bit in range(8 * SEAL_BYTES):
        value = bytearray(seal())
        value[bit // 8] ^= 1 << bit % 8
        rig.seal = bytes(value)
        with pytest.raises(Unsigned):
            rig.gate.admit(30, ONE)


def test_an_old_procedure_does_not_pass_again_also_after_a_restart() -> None:
    rig = Rig()
    for procedure, counter in ((ONE, 5), (ONE, 5), (TWO, 6)):
        rig.seal = seal(procedure, counter)
        rig.gate.admit(30, procedure)
    for _ in range(2):
        rig.seal = seal(ONE, 5)
        with pytest.raises(Unsigned, match="used before"):
            rig.gate.admit(30, ONE)
        rig.restart()
        rig.gate.recall(30, TWO)
    # Another slot counts for itself.
    rig.seal = seal(ONE, 1, slot=31)
    rig.gate.admit(31, ONE)


def test_a_seal_or_counter_that_cannot_be_stored_refuses_the_push() -> None:
    class Stuck(RamArea):
        def flush(self) -> None:
            raise AreaError("disk full")

    for ledger, kept in (
        (Stuck("l", LEDGER_BYTES), RamArea("s", SEALS_BYTES)),
        (RamArea("l", LEDGER_BYTES), Stuck("s", SEALS_BYTES)),
    ):
        gate = ProcedureGate(
            NODE, Gate(Trust([ALICE.public_key]), Ledger(ledger)), kept, offered=seal
        )
        with pytest.raises(StoreError, match="disk full"):
            gate.admit(30, ONE)


# -- a node


class Site:
    """A node with its state, a node without `proc_seal` beside it, and a shell on the ground."""

    def __init__(self, state: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        config = DishConfig(state=state)
        prepared = prepare(config)
        self.loop = Loop()
        monkeypatch.setattr("csp.shell.main.Loop", lambda: self.loop)
        network = Network(self.loop.scheduler)
        self.dish = DishNode(self.loop, config, prepared)
        self.dish.attach(network.link(NODE))
        self.stock = CspNode(
            self.loop, address=STOCK, table=ParamTable(()),
            identity=Identity(hostname="stock", model="", revision=""),
        )  # fmt: skip
        self.stock.attach(network.link(STOCK), default=True)
        self.pushed: list[bytes] = []
        self.stock.vmem.procedures = self._take
        self.lines: list[str] = []
        self._context = open_session(network.link(GROUND), address=GROUND, out=self.lines.append)
        self.session = self._context.__enter__()

    def _take(self, packet) -> list[bytes]:
        self.pushed.append(packet.data)
        return [b"\x85"]

    def run(self, line: str, ok: bool = True) -> str:
        del self.lines[:]
        assert self.session.run_line(line, 10.0) is ok, "\n".join(self.lines)
        return "\n".join(self.lines)

    def raw(self, data: bytes) -> bytes:
        async def exchange() -> bytes:
            with self.session.stack.open(NODE, 14, flags=1) as client:
                client.send(data)
                return await client.receive(5.0)

        return self.loop.run_until(self.loop.scheduler.spawn(exchange()), 10.0)

    def get(self, name: str) -> object:
        return self.dish.table[name].get()

    def stored(self) -> list[int]:
        return self.dish.store.occupied()

    def close(self) -> None:
        self._context.__exit__(None, None, None)
        self.dish.close()
        self.stock.close()
        self.loop.close()


@pytest.fixture
def start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Site]]:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    made: list[Site] = []

    def build(*, keys: bool = True) -> Site:
        for each in made:
            each.close()
        state = tmp_path / "state"
        if keys and not (tmp_path / "ops").exists():
            generate(tmp_path / "ops")
            trust_key(tmp_path / "ops.pub", state / "keys")
        made[:] = [Site(state, monkeypatch)]
        return made[0]

    yield build
    for each in made:
        each.close()


PUSH = b"\x84\x1e" + encode(ONE)


def test_without_keys_nothing_is_asked(start: Callable[..., Site]) -> None:
    here = start(keys=False)
    assert here.raw(PUSH) == b"\x85"
    assert (here.get("signing_required"), here.get("signature_rejects")) == (0, 0)
    assert (here.dish.config.state / "seals").exists() is False  # type: ignore[operator]


def test_a_node_with_keys_takes_only_signed_procedures(
    start: Callable[..., Site], tmp_path: Path
) -> None:
    here = start()
    key = tmp_path / "ops"
    # What a stock csh sends, byte for byte, and the error answer of csp_proc.
    assert here.raw(PUSH) == b"\xc5"
    assert (here.get("signing_required"), here.get("signature_rejects")) == (1, 1)
    assert "procedure for slot 30 is not signed" in str(here.get("proc_refusal"))
    here.run("node 4")
    here.run("proc new")
    here.run("proc set p_uint8[0] 1")
    assert "refused to take slot 30" in here.run("proc push 30", ok=False)
    assert here.stored() == []
    assert "signed with" in here.run(f"proc push --key {key} 30")
    assert here.stored() == [30]
    here.run("proc run 30")
    assert "completed" in here.run("proc wait 30 10")
    # The seal is for this slot only, and once it is used an older one is worth nothing.
    assert here.raw(b"\x84\x1f" + encode(ONE)) == b"\xc5"
    here.run("proc del 30")
    assert here.raw(b"\x84\x1e" + encode(TWO)) == b"\xc5"
    assert here.raw(PUSH + b"\xff trailing") == b"\x85"


def test_what_is_stored_is_checked_at_boot(start: Callable[..., Site], tmp_path: Path) -> None:
    here = start(keys=False)
    assert here.raw(PUSH) == b"\x85"
    # Switched on: what is on board has to be signed again.
    here = start()
    assert here.stored() == []
    assert "is not signed" in str(here.get("proc_refusal"))
    here.run("node 4")
    for line in ("proc new", "proc set p_uint8[0] 1", f"proc push -k {tmp_path / 'ops'} 30"):
        here.run(line)
    here = start()
    assert here.stored() == [30]
    # Another procedure in the file, as somebody with the disk would do.
    procedures = tmp_path / "state" / "procedures"
    here.dish._file.save({30: TWO})  # type: ignore[union-attr]
    changed = procedures.read_bytes()
    assert start().stored() == []
    procedures.write_bytes(changed)
    shutil.rmtree(tmp_path / "state" / "keys")
    assert start().stored() == [30]


def test_no_key_left_accepts_nothing(start: Callable[..., Site], tmp_path: Path) -> None:
    here = start()
    revoke_key("ops.pub", tmp_path / "state" / "keys")
    here = start()
    here.run("node 4")
    for line in ("proc new", "proc set p_uint8[0] 1"):
        here.run(line)
    here.run(f"proc push -k {tmp_path / 'ops'} 30", ok=False)
    assert here.stored() == []


def test_a_node_that_knows_no_seals_takes_the_push_as_flown(
    start: Callable[..., Site], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = start()
    monkeypatch.setenv(KEY_VARIABLE, str(tmp_path / "ops"))
    here.run(f"node {STOCK}")
    for line in ("proc new", "proc set -n 4 p_uint8[0] 1"):
        here.run(line)
    assert "did not take the signature" in here.run("proc push -t 100 30")
    assert here.pushed == [PUSH]


# -- a stock csh, and what stops a node


def test_dish_sign_prints_lines_for_any_csh(
    start: Callable[..., Site], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    here = start()
    script = tmp_path / "plan.csh"
    script.write_text(
        "node 4\nproc new\nproc set p_uint8[0] 1\nproc push 30\nproc new\nproc noop\nproc push 31\n"
    )
    key = str(tmp_path / "ops")
    assert cli.main(["sign", "-k", key, str(script)]) == 0
    printed = capsys.readouterr().out.splitlines()
    assert [line.split()[:4] for line in printed[1::2]] == [["set", "-n", "4", "proc_seal"]] * 2
    here.run("list download -n 4")
    for line, push in ((printed[1], PUSH), (printed[3], bytes.fromhex("841f01000006"))):
        here.run(line)
        assert here.raw(push) == b"\x85"
    assert cli.main(["sign", "-k", key, "--slot", "31", "--json", str(script)]) == 0
    [row] = json.loads(capsys.readouterr().out)["seals"]
    assert (row["slot"], len(row["value"])) == (31, 2 * SEAL_BYTES)
    OperatorKey(tmp_path / "ops")
    assert cli.main(["sign", "-k", key, "--slot", "9", str(script)]) == 1
    assert cli.main(["sign", "-k", str(tmp_path / "none"), str(script)]) == 1


def test_a_node_with_a_key_it_cannot_read_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "bad.pub").write_text("no key")
    assert cli.main(["serve", "--state", str(tmp_path), "--hub", "127.0.0.1"]) == 1
