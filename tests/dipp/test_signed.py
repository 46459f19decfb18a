"""A node that trusts keys: what nobody signed is refused whole, what runs goes on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from csp.cmp import REQUEST, MemoryAccess, encode_record
from csp.cmp import Code as CmpCode
from csp.errors import MisuseError, NoResponse, PeerError
from csp.files.client import FilesClient
from csp.files.status import FilesError
from csp.keyfiles import OperatorKey, generate, trust_key
from csp.ledger import LEDGER_BYTES, Ledger
from csp.shell.session import load_registry
from csp.signing import Signer, Trust
from csp.vmem.area import RamArea
from dipp import cli
from dipp.config.codec import (
    EMPTY_SLOT,
    decode_pipeline,
    encode_module,
    encode_pipeline,
    encode_slot,
)
from dipp.config.definition import ModuleConfig, ModuleStep, PipelineDefinition
from dipp.errors import Code, ContentError
from dipp.errors import MisuseError as DippMisuseError
from dipp.modulefiles import ModuleLibrary, Uplinked
from dipp.params import make_table
from dipp.rig import unique
from dipp.signedslot import SIGNED_BYTES, SlotGate, sign_slot
from dipp.slots import ModuleMissingError, Slots
from dipp.testing import no_leaks
from tests.dipp.test_node import NODE, World

ALICE, EVE = Signer(bytes([1]) * 32), Signer(bytes([3]) * 32)
PIPELINE_1, PIPELINE_2 = 10, 11
NEGATE = "def run(batch, params):\n    for i in batch.images:\n        i.edit()[:] ^= 255\n"


def pipeline(*names: str, slot: int = 0) -> bytes:
    steps = tuple(ModuleStep(name=name, param_id=slot, order=i) for i, name in enumerate(names, 1))
    return encode_pipeline(PipelineDefinition(modules=steps))


def signed(
    value: bytes, counter: int, signer: Signer = ALICE, node: int = NODE, to: int = PIPELINE_1
) -> bytes:
    return sign_slot(value, signer, node=node, parameter_id=to, counter=counter)


# -- the format


def test_a_stock_dipp_reads_a_signed_slot() -> None:
    value = signed(pipeline("negate", "jxl"), 7)
    assert len(value) == 188
    definition = decode_pipeline(value)
    assert definition is not None
    assert [module.name for module in definition.modules] == ["negate", "jxl"]


def test_a_configuration_that_leaves_no_room_is_refused_with_the_limit() -> None:
    names = [f"{n}{hashlib.sha256(bytes([n])).hexdigest()[:22]}" for n in range(4)]
    value = pipeline(*names)
    assert value[0] + 1 <= SIGNED_BYTES
    signed(value, 1)
    longer = pipeline(*names, hashlib.sha256(b"x").hexdigest())
    assert longer[0] + 1 > SIGNED_BYTES
    with pytest.raises(DippMisuseError, match="no room for a signature: at most 120 of 188"):
        signed(longer, 1)


# -- the gate


class Gate:
    def __init__(self) -> None:
        self.area = RamArea("ledger", LEDGER_BYTES)
        self.refused = 0
        self.restart()

    def restart(self) -> None:
        trust, ledger = Trust([ALICE.public_key]), Ledger(self.area)
        self.gate = SlotGate(NODE, trust, ledger, self._count)

    def _count(self) -> None:
        self.refused += 1


ONE, TWO = pipeline("one"), pipeline("two")
REFUSED = [
    ("unsigned", ONE),
    ("zeros", EMPTY_SLOT),
    ("short", ONE[:150]),
    ("another key", signed(ONE, 5, EVE)),
    ("another slot", signed(ONE, 5, to=PIPELINE_2)),
    ("another node", signed(ONE, 5, node=NODE + 1)),
    ("another content", TWO[:SIGNED_BYTES] + signed(ONE, 5)[SIGNED_BYTES:]),
    ("another counter", signed(ONE, 5)[:SIGNED_BYTES] + b"\x06" + signed(ONE, 5)[121:]),
    ("the padding changed", signed(ONE, 5)[:119] + b"\x01" + signed(ONE, 5)[120:]),
]


@pytest.mark.parametrize("value", [row[1] for row in REFUSED], ids=[row[0] for row in REFUSED])
def test_a_slot_nobody_signed_does_not_pass(value: bytes) -> None:
    rig = Gate()
    with pytest.raises(ContentError) as caught:
        rig.gate.admit(PIPELINE_1, value)
    assert caught.value.code == Code.SIGNATURE == 519
    assert rig.refused == 1


def test_an_old_slot_does_not_pass_again_also_after_a_restart() -> None:
    rig = Gate()
    old, new = signed(ONE, 5), signed(TWO, 6)
    assert decode_pipeline(rig.gate.admit(PIPELINE_1, old)) == decode_pipeline(ONE)
    # A push is repeated when its acknowledgement was lost.
    rig.gate.admit(PIPELINE_1, old)
    rig.gate.admit(PIPELINE_1, new)
    for _ in range(2):
        with pytest.raises(ContentError, match="used before"):
            rig.gate.admit(PIPELINE_1, old)
        with pytest.raises(ContentError, match="used before"):
            rig.gate.admit(PIPELINE_1, signed(ONE, 6))
        rig.restart()
    # What is stored may be the version before: a power cut between ledger and storage.
    assert decode_pipeline(rig.gate.recall(PIPELINE_1, old)) == decode_pipeline(ONE)
    # Another slot counts for itself.
    rig.gate.admit(PIPELINE_2, signed(ONE, 1, to=PIPELINE_2))


def test_a_signed_empty_slot_means_not_configured() -> None:
    assert decode_pipeline(Gate().gate.admit(PIPELINE_1, signed(EMPTY_SLOT, 1))) is None


def test_a_stored_slot_is_checked_and_an_empty_one_is_none() -> None:
    rig = Gate()
    assert rig.gate.recall(PIPELINE_1, EMPTY_SLOT) == EMPTY_SLOT
    with pytest.raises(ContentError):
        rig.gate.recall(PIPELINE_1, ONE)
    value = bytearray(signed(ONE, 5))
    value[3] ^= 1
    with pytest.raises(ContentError):
        rig.gate.recall(PIPELINE_1, bytes(value))


def test_a_counter_that_cannot_be_stored_refuses() -> None:
    class Stuck(RamArea):
        def flush(self) -> None:
            raise MisuseError("disk full")

    ledger = Ledger(Stuck("ledger", LEDGER_BYTES))
    gate = SlotGate(NODE, Trust([ALICE.public_key]), ledger)
    with pytest.raises(ContentError) as caught:
        gate.admit(PIPELINE_1, signed(ONE, 1))
    assert caught.value.code == Code.STORE_FAILED


# -- uplinked files at load


def test_uplinked_files_are_checked_and_shipped_ones_are_not(tmp_path: Path) -> None:
    uplinked, shipped = tmp_path / "active", tmp_path / "shipped"
    for folder in (uplinked, shipped):
        folder.mkdir()
        (folder / "a.py").write_text(NEGATE)
    (shipped / "b.py").write_text(NEGATE)
    (uplinked / "model.bin").write_bytes(b"weights")
    good = {("a.py", hashlib.sha256(NEGATE.encode()).digest())}

    def check(name: str, sha256: bytes) -> None:
        if (name, sha256) not in good:
            raise ContentError(name, Code.SIGNATURE)

    library = ModuleLibrary([shipped], Uplinked(directory=uplinked, check=check))
    assert library.find("a").path == uplinked / "a.py"
    assert library.find("b").path == shipped / "b.py"
    slots = Slots(library, lambda: 0.0)
    slots.set_params(1, encode_module(ModuleConfig(parameters=(("model", "model.bin"),))))
    with pytest.raises(ModuleMissingError) as caught:
        slots.set_pipeline(1, pipeline("b", "a", slot=1))
    assert (caught.value.code, caught.value.module) == (Code.SIGNATURE, 2)
    # Read from beside a shipped module, the name means another file.
    slots.set_pipeline(2, pipeline("b", slot=1))
    good.add(("model.bin", hashlib.sha256(b"weights").digest()))
    slots.set_pipeline(1, pipeline("b", "a", slot=1))
    # One bit, and the same size and time.
    (uplinked / "a.py").write_text(NEGATE.replace("255", "254"))
    with pytest.raises(ModuleMissingError) as caught:
        slots.chain(1)
    assert caught.value.code == Code.SIGNATURE


# -- the whole node


class Site:
    """A ground station with a key, and a node that trusts it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.state = root / "node"
        public = generate(root / "ops")
        trust_key(public.path, self.state / "keys")
        self.key = OperatorKey(root / "ops")
        (root / "modules").mkdir()
        (root / "modules" / "local.py").write_text(NEGATE)
        self.queue = unique()
        self.start()

    def start(self) -> None:
        self.world = World(self.state, self.root / "modules", self.queue)
        self.files = FilesClient(self.world.ground, NODE)

    def restart(self) -> None:
        self.world.close()
        self.start()

    def configure(self, number: int, value: bytes) -> bytes:
        """Push a slot as our shell signs it."""
        full = signed(value, self.key.next_counter(), self.key.signer, to=9 + number)
        self.world.set(f"pipeline_config_{number}", full)
        return full

    def upload(self, name: str, text: str) -> None:
        content = text.encode()
        seal = self.key.signer.seal_file(name, content, self.key.next_counter())
        sha256 = hashlib.sha256(content).digest()
        assert self.world.run(self.files.sign(name, sha256, seal))
        plan = self.world.run(self.files.plan(name, content, {}))
        self.world.run(self.files.upload(plan))

    def process(self, pipeline_id: int, pixels: bytes) -> tuple[int, bytes]:
        """Return log_status and what is newest in the ring."""
        self.world.set("log_status", 0)
        self.world.camera.shoot(pixels, pipeline=pipeline_id)
        self.world.process()
        status = self.world.get("log_status")
        return status, b"" if status else self.world.newest()[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with no_leaks():
        site = Site(tmp_path_factory.mktemp("site"))
        yield site
        site.world.close()


def test_the_node_says_that_signing_is_required(site: Site) -> None:
    assert site.world.get("signing_required") == 1


def test_an_unsigned_push_is_refused_and_the_active_one_runs_on(site: Site) -> None:
    good = site.configure(1, pipeline("local"))
    before = site.world.get("config_rejects"), site.world.get("signature_rejects")
    for value in (pipeline("identity"), EMPTY_SLOT, encode_slot(b"\x0a\x00")):
        site.world.set("pipeline_config_1", value)
        assert site.world.get("log_status") == 519000
        assert site.world.get("pipeline_config_1") == good
    assert site.world.get("config_rejects") == before[0] + 3
    assert site.world.get("signature_rejects") == before[1] + 3
    assert site.process(1, b"\x01") == (0, b"\xfe")


def test_a_recorded_push_cannot_be_played_again(site: Site) -> None:
    old = site.configure(2, pipeline("identity"))
    new = site.configure(2, pipeline("local"))
    site.world.set("pipeline_config_2", old)
    assert site.world.get("log_status") == 519000
    assert site.world.get("pipeline_config_2") == new
    # Nor sent to another slot.
    site.world.set("pipeline_config_3", new)
    assert site.world.get("pipeline_config_3") == EMPTY_SLOT


def test_memory_uploads_take_the_same_check(site: Site) -> None:
    address = site.world.run(site.world.vmem.list(NODE))[0].address + 188 * 3
    with pytest.raises(PeerError):
        site.world.run(site.world.vmem.upload(NODE, address, pipeline("identity")))
    assert site.world.get("pipeline_config_4") == EMPTY_SLOT
    value = signed(pipeline("local"), site.key.next_counter(), site.key.signer, to=13)
    site.world.run(site.world.vmem.upload(NODE, address, value))
    assert site.process(4, b"\x03") == (0, b"\xfc")


def test_a_poke_into_a_slot_takes_the_same_check(site: Site) -> None:
    good = site.configure(1, pipeline("local"))
    address = site.world.run(site.world.vmem.list(NODE))[0].address
    access = MemoryAccess(address=address + 3, length=2, data=b"\xff\xff")
    body = encode_record(REQUEST, CmpCode.POKE, access.encode(CmpCode.POKE))
    before = site.world.get("signature_rejects")
    # What the area did not keep is not acknowledged.
    with pytest.raises(NoResponse):
        site.world.run(site.world.ground.request(NODE, 0, body, timeout_s=2.0))
    assert site.world.get("signature_rejects") == before + 1
    assert site.world.get("pipeline_config_1") == good
    assert site.process(1, b"\x01") == (0, b"\xfe")


def test_a_signed_module_runs_and_one_that_was_altered_on_disk_does_not(site: Site) -> None:
    content = b"def run(batch, params): pass\n"
    plan = site.world.run(site.files.plan("up.py", content, {}))
    with pytest.raises(FilesError, match="signed files only"):
        site.world.run(site.files.upload(plan))
    site.upload("up.py", NEGATE)
    site.configure(5, pipeline("up"))
    assert site.process(5, b"\x01") == (0, b"\xfe")
    site.upload("up.py", NEGATE.replace("255", "15"))
    assert site.process(5, b"\x01") == (0, b"\x0e")
    active = site.state / "modules" / "active" / "up.py"
    good = active.read_bytes()
    active.write_bytes(good.replace(b"15", b"14"))
    rejects = site.world.get("signature_rejects")
    assert site.process(5, b"\x01")[0] == 519501
    assert site.world.get("signature_rejects") > rejects
    active.write_bytes(good)
    assert site.process(5, b"\x01") == (0, b"\x0e")
    assert site.world.run(site.files.rollback("up.py"))
    assert site.process(5, b"\x01") == (0, b"\xfe")


def test_a_restart_loads_what_is_signed_and_nothing_else(site: Site) -> None:
    site.configure(1, pipeline("local"))
    site.configure(6, pipeline("local"))
    site.restart()
    assert site.process(1, b"\x01") == (0, b"\xfe")
    assert 6 in site.world.node.slots.configured
    storage = site.state / "storage.vmem"
    site.world.close()
    # Somebody writes a slot into the file, as the flown software would have written it.
    image = bytearray(storage.read_bytes()[:10_000])
    image[188 * 5 : 188 * 6] = pipeline("identity")
    storage.write_bytes(image)
    site.start()
    assert 6 not in site.world.node.slots.configured
    assert site.world.get("log_status") == 519000
    assert site.process(1, b"\x01") == (0, b"\xfe")


def test_a_node_with_a_key_it_cannot_read_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir(mode=0o700)
    (tmp_path / "keys" / "bad.pub").write_text("no key")
    assert cli.main(["serve", "--state", str(tmp_path), "--hub", "127.0.0.1"]) == 1


# -- what the ground uses


def test_dipp_sign_prints_a_line_for_any_csh(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    generate(tmp_path / "ops")
    (tmp_path / "p.yaml").write_text("- order: 1\n  param_id: 1\n  name: identity\n")
    key, file = str(tmp_path / "ops"), str(tmp_path / "p.yaml")
    assert cli.main(["sign", "-k", key, "pipeline", "2", file]) == 0
    words = capsys.readouterr().out.split()
    assert words[:4] == ["set", "-n", "162", "pipeline_config_2"]
    signer = OperatorKey(tmp_path / "ops").signer
    ledger = Ledger(RamArea("ledger", LEDGER_BYTES))
    gate = SlotGate(162, Trust([signer.public_key]), ledger)
    assert decode_pipeline(gate.admit(PIPELINE_2, bytes.fromhex(words[4]))) is not None
    assert cli.main(["sign", "-k", key, "--json", "--clear", "module", "20"]) == 0
    row = json.loads(capsys.readouterr().out)
    assert (row["id"], len(row["value"])) == (make_table()["module_param_20"].id, 2 * 188)
    for bad in (["pipeline", "7", file], ["pipeline", "1"], ["--clear", "module", "1", file]):
        assert cli.main(["sign", "-k", key, *bad]) == 1


def test_the_commands_that_sign_have_the_option() -> None:
    registry = load_registry()
    for name in ("upload", "ippc pipeline", "ippc module"):
        command = next(each for each in registry if each.name == name)
        assert "--key" in [option.long for option in command.options]
